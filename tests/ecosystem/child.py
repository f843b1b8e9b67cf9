"""Runs one program: `python -m tests.ecosystem.child PROGRAM LOOP`."""

import importlib
import sys

from .loops import Loop


def main(program: str, loop: str) -> None:
    importlib.import_module(f"{__package__}.programs.{program}").main(Loop(loop))


if __name__ == "__main__":
    main(*sys.argv[1:])
