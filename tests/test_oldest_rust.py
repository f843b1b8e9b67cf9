"""`make msrv` finds the oldest Rust that is supported; documents and manifests name the same."""

import re
import sys
from pathlib import Path

import pytest

# The checker is a program that finds its parts beside itself.
sys.path.append(str(Path(__file__).parent))

import oldest_rust
from debian_root import CHECKOUT, UnavailableError

TOOLCHAINS = "stable-x86_64-unknown-linux-gnu (active, default)\n{}-x86_64-unknown-linux-gnu\n"


@pytest.fixture
def machine(monkeypatch):
    """A function that sets what rustc and rustup report."""

    def set_up(rustc, toolchain):
        answers = {
            ("rustc", "--version"): f"rustc {rustc} (59807616e 2026-04-14)\n" if rustc else "",
            ("rustup", "toolchain", "list"): TOOLCHAINS.format(toolchain) if toolchain else "",
        }
        monkeypatch.setattr(oldest_rust, "output", lambda *command: answers[command])

    return set_up


@pytest.mark.parametrize(
    ("rustc", "toolchain", "prefix"),
    [
        ("1.85.0", "1.90.0", []),
        ("1.95.0", "1.85", ["rustup", "run", "1.85-x86_64-unknown-linux-gnu"]),
        ("1.95.0", "1.85.1", ["rustup", "run", "1.85.1-x86_64-unknown-linux-gnu"]),
        ("1.95.0", "1.850.0", None),
        ("1.850.0", "", None),
        ("", "", None),
    ],
)
def test_a_toolchain_of_the_version(machine, rustc, toolchain, prefix):
    machine(rustc, toolchain)
    assert oldest_rust.local("1.85") == prefix


def test_a_machine_without_the_version_is_reported(machine, monkeypatch, capsys):
    def refuse(version):
        raise UnavailableError("not a Debian system")

    machine("", "")
    monkeypatch.setattr(oldest_rust, "in_root", refuse)
    assert oldest_rust.main() == 0
    version = oldest_rust.supported()
    text = (
        f"SKIPPED: Rust {version}: NOT CHECKED, no such toolchain, and no Debian root: not a Debian"
    )
    assert text in capsys.readouterr().out


def test_everything_names_the_same_version():
    version = oldest_rust.supported()
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (CHECKOUT / document).read_text()
        assert set(re.findall(r"Rust \(?(1\.\d+) or later", text)) == {version}
    for folder in ("benches", "examples", "fuzz", "tests"):
        for manifest in (CHECKOUT / folder).glob("*/Cargo.toml"):
            assert f'\nrust-version = "{version}"\n' in manifest.read_text()
    workflow = (CHECKOUT / ".github/workflows/test.yml").read_text()
    assert f"rustup toolchain install {version} " in workflow
