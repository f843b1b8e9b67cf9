"""``python -m ferroloop``: run any asyncio program, or the asyncio REPL, on ferroloop."""

import io
import os
import runpy
import sys
import types
from collections.abc import Sequence
from typing import NoReturn

from . import __version__, install

_USAGE = """\
usage: python -m ferroloop [-h | -V]
       python -m ferroloop SCRIPT [ARGUMENT ...]
       python -m ferroloop -m MODULE [ARGUMENT ...]
       python -m ferroloop -c CODE [ARGUMENT ...]
       python -m ferroloop top|ps PID|SOCKET [-h]
       python -m ferroloop stack PID|SOCKET TASK [-h]

Run an asyncio program with ferroloop as its event loop. Without arguments,
open the asyncio REPL on it. top, ps and stack inspect a running program
(to run a script called top, write ./top).
"""


def _run_code(source: str | bytes, filename: str, path_entry: str) -> None:
    """Execute source as ``__main__``, as the interpreter itself does."""
    module = types.ModuleType("__main__")
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    if os.path.exists(filename):
        module.__file__ = filename
    sys.modules["__main__"] = module
    sys.path[0] = path_entry
    try:
        exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        # The program's traceback starts at the program, not here.
        traceback = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
        _exit(1)


def _exit(status: int | str) -> NoReturn:
    # Without `from None`, a failure at exit would show the frames of this module as its context.
    raise SystemExit(status) from None


def _missing(option: str) -> NoReturn:
    sys.stderr.write(f"Argument expected for the {option} option\n{_USAGE}")
    _exit(2)


def main(arguments: Sequence[str]) -> None:
    """Run the program or the command that the command line names.

    Args:
        arguments: the command line without the program's name.
    """
    if not arguments:
        install()
        sys.argv = ["asyncio"]
        runpy.run_module("asyncio", run_name="__main__", alter_sys=True)
        return
    first, rest = arguments[0], list(arguments[1:])
    if first in {"-h", "--help"}:
        sys.stdout.write(_USAGE)
    elif first in {"-V", "--version"}:
        sys.stdout.write(f"ferroloop {__version__}\n")
    elif first == "-m":
        if not rest:
            _missing("-m")
        install()
        sys.argv = rest
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        if not rest:
            _missing("-c")
        install()
        sys.argv = ["-c", *rest[1:]]
        _run_code(rest[0], "<string>", "")
    elif first in {"top", "ps", "stack"}:
        from ._inspector import main as inspect_process

        inspect_process(arguments)
    elif first.startswith("-") and first != "-":
        sys.stderr.write(f"Unknown option: {first}\n{_USAGE}")
        _exit(2)
    else:
        install()
        sys.argv = [first, *rest]
        if first == "-":
            _run_code(sys.stdin.read(), "<stdin>", "")
            return
        try:
            with io.open_code(os.path.abspath(first)) as file:
                source = file.read()
        except OSError as error:
            sys.stderr.write(
                f"{sys.executable}: can't open file {os.path.abspath(first)!r}: "
                f"[Errno {error.errno}] {error.strerror}\n"
            )
            _exit(2)
        _run_code(source, first, os.path.dirname(os.path.abspath(first)))


if __name__ == "__main__":
    main(sys.argv[1:])
