#!/usr/bin/env python3
"""Checks that no class is forgotten by `src/ffi/entries/`.

    python3 tests/check_entries.py

A class with methods must either have entries that enter the section of its loop
(`entered!(Class)`, `impl Entered for Class`) and be installed, or declare that it has no cells
(`without_section!(Class)`). See docs/FREE-THREADING.md. Standard library only.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

# What the garbage collector calls while no other thread can use the object.
COLLECTED = {"__traverse__", "__clear__"}


def classes(text: str) -> Iterator[str]:
    """The native classes that a file defines."""
    for attributes in re.finditer(r"#\[(?:pyo3::)?pyclass\b[^\]]*\]", text):
        if found := re.compile(r"(?:\s|#\[[^\]]*\]|pub(?:\([^)]*\))?)*struct (\w+)").match(
            text, attributes.end()
        ):
            yield found[1]


def methods(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of a class and a method that Python can call."""
    for block in re.finditer(r"#\[pymethods\]\nimpl (\w+) \{\n(.*?)\n\}", text, re.DOTALL):
        for name in re.findall(r"^    (?:unsafe )?fn (\w+)", block[2], re.MULTILINE):
            yield block[1], name


def listed(text: str, macro: str) -> Iterator[str]:
    """The classes that a macro is called with."""
    for arguments in re.findall(rf"\b{macro}!\(([^)]*)\)", text):
        yield from (name.strip() for name in arguments.split(",") if name.strip())


def problems(source: Path) -> Iterator[str]:
    """What is wrong with the classes of the crate."""
    texts = []
    for file in sorted(source.rglob("*.rs")):
        # Classes of unit tests are used in one thread.
        texts.append(file.read_text().partition("\n#[cfg(test)]\nmod tests")[0])
    defined = {name for text in texts for name in classes(text)}
    with_methods = {
        owner for text in texts for owner, name in methods(text) if name not in COLLECTED
    }
    entered = {name for text in texts for name in listed(text, "entered")}
    entered |= {name for text in texts for name in re.findall(r"Entered for (\w+) \{", text)}
    installed = {
        name for text in texts for name in re.findall(r"entries::install::<(?:\w+::)?(\w+)>", text)
    }
    exempt = {name for text in texts for name in listed(text, "without_section")}
    for name in sorted(with_methods - defined):
        yield f"{name} has methods, but its definition was not found"
    for name in sorted(with_methods - entered - exempt):
        yield f"{name} has methods, and neither entries nor `without_section!`"
    for name in sorted((entered & defined) ^ (installed & defined)):
        yield f"the entries of {name} are not both declared and installed"
    for name in sorted((entered & exempt) | (exempt - defined)):
        yield f"`without_section!({name})` contradicts what the class is"


def main() -> int:
    """Print all problems; 1 if there are any."""
    found = list(problems(Path(__file__).resolve().parent.parent / "src"))
    print("\n".join(found) or "entries: fine")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
