#!/usr/bin/env python3
"""Checks that the modules of the crate use only lower layers, and where unsafe code may be.

    python3 tests/check_layers.py

The layers are those of docs/ARCHITECTURE.md. Unit tests inside the files are not looked at.
"""

import re
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"

LAYERS = {
    "ffi": 0,
    "sys": 0,
    "interop": 1,
    "logging": 1,
    "metrics": 1,
    "pool": 1,
    "reactor": 1,
    "write_side": 1,
    "scheduler": 2,
    "future": 3,
    "handle": 3,
    "task": 3,
    "executor": 4,
    "local": 4,
    "signals": 4,
    "subprocess": 4,
    "tls": 4,
    "transport": 4,
    "watchdog": 4,
    "event_loop": 5,
    "net": 5,
    "capsule": 6,
    "embed": 6,
    "lib": 7,
}

# Modules of one layer that may use each other, and in which direction.
SIBLINGS = {("future", "handle"), ("task", "future"), ("task", "handle"), ("tls", "transport")}

# No Python in these: they are tested without an interpreter.
PURE = {"metrics", "pool", "reactor", "sys", "write_side"}

UNSAFE = {"ffi", "sys"}


def complaints(path: Path) -> list[str]:
    """What is wrong with one file."""
    module = path.relative_to(SOURCE).parts[0].removesuffix(".rs")
    text = path.read_text().split("#[cfg(test)]")[0]
    found = []
    for used in sorted(set(re.findall(r"\bcrate::(\w+)", text))):
        if used == module or used not in LAYERS:
            continue
        lower = LAYERS[used] < LAYERS[module]
        if not lower and (module, used) not in SIBLINGS:
            found.append(f"{module} (layer {LAYERS[module]}) uses {used} (layer {LAYERS[used]})")
    if module in PURE and re.search(r"\bpyo3\b", text):
        found.append(f"{module} must not know Python")
    if module not in UNSAFE and re.search(r"\bunsafe\b *(\{|fn|impl|extern)", text):
        found.append("unsafe code outside ffi/ and sys/")
    return [f"src/{path.relative_to(SOURCE)}: {text}" for text in found]


def main() -> int:
    """Print all complaints; 1 if there are any."""
    found = [text for path in sorted(SOURCE.rglob("*.rs")) for text in complaints(path)]
    unknown = {path.name.removesuffix(".rs") for path in SOURCE.iterdir()} - LAYERS.keys()
    found += [f"src/{name}: not in the table of layers" for name in sorted(unknown)]
    print("\n".join(found) or "layers: fine")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
