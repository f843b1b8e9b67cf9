"""Debian roots: what a command sees in one, and packages that are only unpacked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# The tests are run as programs too: these modules find each other beside themselves.
sys.path.append(str(Path(__file__).parent))

import debian_root
from debian_root import CHECKOUT, DebianRoot, UnpackedRoot


def can_mount():
    """Whether this process may have mounts of its own."""
    if sys.platform != "linux" or os.geteuid() or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@pytest.fixture
def programs():
    """The machine's directories of programs and libraries, which make any directory a root."""
    names = ("bin", "lib", "lib64", "usr")
    return [Path("/", name) for name in names if Path("/", name).is_dir()]


@pytest.mark.skipif(not can_mount(), reason="only root may mount")
def test_a_command_sees_the_checkout_the_kernel_and_shared_directories(tmp_path, programs):
    root, shared = tmp_path / "root", tmp_path / "has space"
    for name in ("dev", "proc", "sys"):
        (root / name).mkdir(parents=True)
    shared.mkdir()
    (shared / "file").write_text("shared\n")
    script = 'pwd; cat "$0"; test -c /dev/null && test -e /proc/self && test -d /sys/kernel && ls /'
    command = DebianRoot(root, "sid", []).command(
        "sh", "-c", script, shared / "file", shared=[*programs, shared]
    )
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)
    directory, text, *names = done.stdout.splitlines()
    assert (directory, text) == (str(CHECKOUT), "shared")
    first = {path.parts[1] for path in (*programs, shared, CHECKOUT)}
    assert set(names) == {"dev", "proc", "sys"} | first
    # The mounts have ended with the command.
    assert not any((root / "proc").iterdir())
    assert not any((root / shared.relative_to("/")).iterdir())


@pytest.mark.skipif(not can_mount(), reason="only root may mount")
def test_a_root_inside_a_shared_directory_is_not_seen_twice(tmp_path, programs):
    root = tmp_path / "root"
    for name in ("dev", "proc", "sys"):
        (root / name).mkdir(parents=True)
    command = DebianRoot(root, "sid", []).command(
        "sh", "-c", 'ls "$0/dev" "$0/proc" "$0/sys"', root, shared=[*programs, tmp_path]
    )
    done = subprocess.run(command, capture_output=True, text=True)
    listed = [line for line in done.stdout.splitlines() if line]
    assert (done.stderr, listed) == ("", [f"{root}/{name}:" for name in ("dev", "proc", "sys")])


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg")
def test_archives_are_unpacked_and_removed(tmp_path, monkeypatch):
    def archive(name, directory):
        """A package with a file of its name."""
        content = tmp_path / "contents" / name
        (content / "DEBIAN").mkdir(parents=True)
        (content / "usr/bin").mkdir(parents=True)
        (content / "usr/bin" / name).touch()
        fields = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b>\n"
        (content / "DEBIAN/control").write_text(f"{fields}Description: a test\n")
        target = directory / f"{name}_1_all.deb"
        subprocess.run(["dpkg-deb", "--build", content, target], check=True, capture_output=True)
        return target

    def download(self, mirror):
        for directory in ("var/cache/apt", "var/lib/apt"):
            (self.directory / directory).mkdir(parents=True)
        return [archive(name, self.directory / "var/cache/apt") for name in ("a", "b", "c")]

    monkeypatch.setattr(UnpackedRoot, "_download", download)
    root = UnpackedRoot(tmp_path / "root", "sid", ["a", "b", "c"])
    root._install("a mirror")
    assert sorted(os.listdir(root.directory / "usr/bin")) == ["a", "b", "c"]
    assert not any(root.directory.rglob("*.deb"))


def test_packages_of_other_architectures(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(debian_root, "_run_apt", lambda *command: commands.append(command))
    root = UnpackedRoot(tmp_path / "root", "sid", ["a", "b:arm64"], ["amd64", "arm64"])
    assert root._download("a mirror") == []
    for command in commands:
        settings = [word for word in command if word.startswith("APT::Architecture")]
        assert settings == [
            "APT::Architecture=amd64",
            "APT::Architectures::=amd64",
            "APT::Architectures::=arm64",
        ]
    assert commands[1][-5:] == ("base-files", "coreutils", "dash", "a", "b:arm64")
