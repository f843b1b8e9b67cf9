"""docs/EMBEDDING.md, followed literally: what it describes is made in empty directories from its
text, and runs."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from .support.cargo import (
    BUILDING,
    ENVIRONMENT,
    PYTHON,
    ROOT,
    TARGET,
    skip_but_on_one_version,
    skip_without_cargo,
)

# A block, and the paragraph before it if there is one.
BLOCK = re.compile(r"(?:((?:^(?!```)[^\n]+\n)+)\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)
FILE = re.compile(r"`(Cargo\.toml|build\.rs|src/\w+\.rs)`")


def section(title):
    """The files, commands and output that a section of the page shows."""
    page = (ROOT / "docs" / "EMBEDDING.md").read_text()
    text = re.search(rf"^## {title}$(.*?)^## ", page, re.M | re.S)[1]
    files, commands, output = {}, [], ""
    for paragraph, language, content in BLOCK.findall(text):
        name = FILE.search(paragraph)
        if language == "sh":
            commands.append(content)
        elif language == "text":
            output += content
        else:
            assert name, content
            files[name[1]] = content
    return files, "".join(commands), output


def follow(directory, title):
    """Do what the section says; return what the commands print."""
    skip_without_cargo()
    skip_but_on_one_version()
    files, commands, output = section(title)
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    # The crate is not published, and the versions of the others are those that are built already.
    (directory / ".cargo").mkdir()
    (directory / ".cargo" / "config.toml").write_text(
        f'[patch.crates-io]\nferroloop = {{ path = "{ROOT}" }}\n'
    )
    shutil.copy(ROOT / "Cargo.lock", directory)
    (directory / "target").symlink_to(TARGET)
    # The same path as everywhere, or all is built again; ferroloop is not installed for that one.
    commands = re.sub(
        r"(PYO3_PYTHON=)?python3\.13",
        lambda found: f"{found[1]}{PYTHON}" if found[1] else sys.executable,
        commands,
    )
    # As in this repository, so that what the crates depend on is built already.
    profile = {"CARGO_PROFILE_DEV_DEBUG": "line-tables-only"}
    paths = [str(directory), *filter(None, sys.path)]
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=directory,
        env=ENVIRONMENT | profile | {"FERROLOOP": str(ROOT), "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout, output


@pytest.mark.timeout(BUILDING)
def test_a_rust_program(tmp_path):
    printed, output = follow(tmp_path, "A Rust program")
    assert printed == output == ""


@pytest.mark.timeout(BUILDING)
def test_an_extension_module(tmp_path):
    printed, output = follow(tmp_path, "An extension module")
    assert printed == output == "hello, you\n"
