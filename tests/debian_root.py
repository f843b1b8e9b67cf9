#!/usr/bin/env python3
"""A Debian root directory with versions of CPython that this machine has no package of.

    python3 tests/debian_root.py DIRECTORY [--python 3.15]... [--suite sid] [-- COMMAND...]

Makes DIRECTORY by debootstrap from the mirror that apt uses here, unless a finished one is
there, and runs COMMAND in it. The command sees this checkout under its usual path, and /dev,
/proc and /sys; the mounts are its own and end with it. It uses the machine's name servers,
certificates and pip configuration. Needs root; debootstrap is installed by apt if need be.
"""

import argparse
import contextlib
import itertools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LOG = "debootstrap/debootstrap.log"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"

# What a program in the root must find as it is on the machine.
MACHINE_FILES = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/pip.conf",
    "/etc/ssl/certs/ca-certificates.crt",
)
MACHINE_FILE_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "PIP_CONFIG_FILE")


class UnavailableError(Exception):
    """This machine cannot have such a root; the text says why."""


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def debian_mirror() -> str:
    """The Debian mirror among apt's sources."""
    form = "$(REPO_URI)|$(ORIGIN)|$(LABEL)|$(COMPONENT)"
    for line in _output("apt-get", "indextargets", "--format", form).splitlines():
        address, *what = line.split("|")
        if what == ["Debian", "Debian", "main"]:
            return address
    raise UnavailableError("apt's sources have no Debian mirror")


def _run_apt(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"{command[0]} failed: {done.stderr.strip()}")


def _debootstrap() -> str:
    """The path of debootstrap, installed if it is not there."""
    found = shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        print("installing debootstrap", flush=True)
        _run_apt("apt-get", "install", "--yes", "--no-install-recommends", "debootstrap")
        found = "/usr/sbin/debootstrap"
    return found


class DebianRoot:
    """A root directory of a Debian suite.

    Args:
        directory: where it is, or will be made.
        suite: Debian's name of the release.
        pythons: the versions of CPython in it, as in ``3.15``.
    """

    def __init__(self, directory: Path, suite: str, pythons: Sequence[str]) -> None:
        self.directory = directory.resolve()
        self.suite = suite
        self.packages = ["ca-certificates"]
        for python in pythons:
            self.packages += [f"python{python}", f"python{python}-venv", f"python{python}-dev"]
            self.packages.append(f"libpython{python}-testsuite")

    def prepare(self) -> None:
        """Make the root unless it is there.

        Raises:
            UnavailableError: the machine cannot.
        """
        description = f"{self.suite} {' '.join(self.packages)}\n"
        ready = self.directory / ".ready"
        if not (ready.is_file() and ready.read_text() == description):
            self._make()
            ready.write_text(description)
        for file in self._machine_files():
            copy = self.directory / file.relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)

    def _make(self) -> None:
        if sys.platform != "linux" or not shutil.which("apt-get"):
            raise UnavailableError("not a Debian system")
        if os.geteuid():
            raise UnavailableError("only root can make and enter a root directory")
        if not shutil.which("unshare") or subprocess.run(["unshare", "--mount", "true"]).returncode:
            raise UnavailableError("no mount namespace to be had here")
        mirror = debian_mirror()
        if self.directory.exists():
            # What is mounted there by hand is not ours.
            subprocess.run(["rm", "-rf", "--one-file-system", self.directory], check=True)
        print(f"making {self.directory}", flush=True)
        self._install(mirror)

    def _install(self, mirror: str) -> None:
        tool = _debootstrap()
        include = f"--include={','.join(self.packages)}"
        # The suites differ by nothing that their script would have to know.
        command = [tool, "--variant=minbase", include, self.suite, self.directory, mirror, "sid"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            log = self.directory / LOG
            details = log.read_text(errors="replace")[-2000:] if log.is_file() else ""
            raise UnavailableError(
                f"debootstrap failed: {done.stdout[-500:]}{done.stderr}{details}"
            )
        # The machine's is mounted there. Links in it would lead whoever walks the checkout astray.
        shutil.rmtree(self.directory / "dev")
        (self.directory / "dev").mkdir()

    def _machine_files(self) -> Iterator[Path]:
        names = list(MACHINE_FILES)
        names += filter(None, map(os.environ.get, MACHINE_FILE_VARIABLES))
        # Where pip looks for the configuration of the user, who is the same one inside.
        names += [str(Path.home() / name) for name in (".config/pip/pip.conf", ".pip/pip.conf")]
        for name in dict.fromkeys(names):
            with contextlib.suppress(OSError):
                path = Path(name)
                if path.is_absolute() and path.is_file() and path.stat().st_size:
                    yield path

    def command(self, *command: str | Path, shared: Iterable[Path] = ()) -> list[str]:
        """The command that runs `command` in the root, in the checkout's directory.

        Args:
            command: the program and its arguments.
            shared: directories of the machine that the command sees under their usual paths.
        """
        root, inside = shlex.quote(str(self.directory)), shlex.quote(str(CHECKOUT))
        mounts = "\n".join(
            f"mkdir -p {root}{path}\nmount --rbind {path} {root}{path}"
            for path in (shlex.quote(str(path)) for path in (CHECKOUT, *shared))
        )
        # The kernel's come last: the checkout may contain the root, and would show them again.
        script = f"""
            set -e
            {mounts}
            mount --rbind /dev {root}/dev
            mount --rbind /sys {root}/sys
            mount -t proc proc {root}/proc
            exec chroot {root} /bin/sh -c 'cd "$0" && exec "$@"' {inside} "$@"
        """
        environment = ("env", "-u", "TMPDIR", f"HOME={Path.home()}", "LANG=C.UTF-8")
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        words = [*environment, path, *map(str, command)]
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *words]


class UnpackedRoot(DebianRoot):
    """A root whose packages are unpacked but not configured: seconds instead of minutes.

    It has what compilers need. It lacks what the packages' scripts create, such as the link `cc`.

    Args:
        directory: where it is, or will be made.
        suite: Debian's name of the release.
        packages: what it contains, besides what those depend on.
        architectures: Debian's names of them: that of its programs, then those whose packages it
            may have too, as in ``libc6-dev:arm64``. By default that of the machine.
    """

    def __init__(
        self,
        directory: Path,
        suite: str,
        packages: Sequence[str],
        architectures: Sequence[str] = (),
    ) -> None:
        super().__init__(directory, suite, [])
        self.packages = ["base-files", "coreutils", "dash", *packages]
        self.architectures = architectures

    def _install(self, mirror: str) -> None:
        archives = self._download(mirror)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self._unpack, archives))
        shutil.rmtree(self.directory / "var/cache/apt")
        shutil.rmtree(self.directory / "var/lib/apt")

    def _download(self, mirror: str) -> list[Path]:
        """The archives of the packages and of those that they depend on."""
        state, cache = self.directory / "var/lib/apt", self.directory / "var/cache/apt"
        status, sources = self.directory / "var/lib/dpkg/status", state / "sources.list"
        for directory in (state / "lists/partial", cache / "archives/partial", status.parent):
            directory.mkdir(parents=True)
        status.touch()
        sources.write_text(f"deb [signed-by={KEYS}] {mirror} {self.suite} main\n")
        options = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": state,
            "Dir::State::Status": status,
            "Dir::Cache": cache,
            "Acquire::Languages": "none",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
        }
        settings = [f"{name}={value}" for name, value in options.items()]
        if self.architectures:
            settings.append(f"APT::Architecture={self.architectures[0]}")
            settings += [f"APT::Architectures::={name}" for name in self.architectures]
        words = itertools.chain(*(("-o", setting) for setting in settings))
        apt = ["apt-get", "--quiet", "--yes", *words]
        _run_apt(*apt, "update")
        _run_apt(*apt, "--download-only", "install", *self.packages)
        return list((cache / "archives").glob("*.deb"))

    def _unpack(self, archive: Path) -> None:
        subprocess.run(["dpkg-deb", "--extract", archive, self.directory], check=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Make a Debian root, and run a command in it.",
        usage="%(prog)s DIRECTORY [--python VERSION]... [--suite SUITE] [-- COMMAND...]",
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--python", action="append", metavar="VERSION")
    parser.add_argument("--suite", default="sid")
    # Split here: with argparse no option may stand between the directory and the command.
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    args, command = parser.parse_args(words[:end]), words[end + 1 :]
    root = DebianRoot(args.directory, args.suite, args.python or ["3.15"])
    try:
        root.prepare()
    except UnavailableError as error:
        raise SystemExit(f"no Debian root: {error}") from None
    return subprocess.run(root.command(*command)).returncode if command else 0


if __name__ == "__main__":
    sys.exit(main())
