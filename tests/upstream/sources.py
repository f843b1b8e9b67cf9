"""Fetches the tests of a suite, with the client of the registry that has them."""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from ..debian_root import UnavailableError, debian_mirror
from .suites import Suite

DEBIAN_SUITE = "trixie"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def fetch(suite: Suite, tree: Path) -> None:
    """Put the part of the suite's sources that its tests need into `tree`.

    Raises:
        UnavailableError: they cannot be fetched on this machine.
    """
    if suite.sources == "package":
        tree.mkdir(parents=True)
        return
    with tempfile.TemporaryDirectory() as directory:
        if suite.sources == "sdist":
            _sdist(suite, directory)
        else:
            _debian_source(suite, directory)
        (archive,) = Path(directory).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            # Without the package itself: its sources would shadow the installed one.
            wanted = [
                member
                for member in tar.getmembers()
                if member.name.partition("/")[2].split("/")[0] in suite.parts
            ]
            tar.extractall(directory, wanted, filter="data")
        (top,) = {member.name.split("/")[0] for member in wanted}
        tree.parent.mkdir(parents=True, exist_ok=True)
        _run("cp", "--archive", f"{directory}/{top}", str(tree))


def _sdist(suite: Suite, directory: str) -> None:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
    what = ("--no-deps", "--no-binary", suite.name, f"{suite.name}=={suite.version}")
    _run(*pip, "--dest", directory, *what)


def _debian_source(suite: Suite, directory: str) -> None:
    """Fetch with apt, with separate sources and lists, from the machine's mirror."""
    lists = Path(directory) / "lists"
    (lists / "partial").mkdir(parents=True)
    sources = Path(directory) / "sources.list"
    sources.write_text(f"deb-src [signed-by={KEYRING}] {debian_mirror()} {DEBIAN_SUITE} main\n")
    settings = {"Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": "-"}
    settings |= {"Dir::State::Lists": lists, "APT::Sandbox::User": "root"}
    apt = ["apt-get", "--quiet", *(f"--option={name}={value}" for name, value in settings.items())]
    _run(*apt, "update")
    source = (*apt, "source", "--download-only", "--tar-only", suite.sources)
    _run(*source, directory=directory)
    # Debian's archive name contains the version.
    name = f"{suite.sources}_{suite.version}.orig.tar.gz"
    if not (Path(directory) / name).is_file():
        raise UnavailableError(f"Debian {DEBIAN_SUITE} has another version than {suite}")


def _run(*command: str, directory: str | None = None) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"{' '.join(command[:3])}: {done.stdout[-500:]}{done.stderr[-500:]}")
