"""Code and frame objects that stand for a Rust future in a coroutine's `cr_code` and `cr_frame`.

`inspect.getcoroutinestate()` asks for them, and so do asyncio's and other tools that print stacks.
"""

# Before 3.13 the type of a coroutine cannot be subscripted at run time.
from __future__ import annotations

from types import CodeType, CoroutineType, FrameType, FunctionType
from typing import Any


async def _template() -> None:
    """Lend its code object."""


def make_code(name: str) -> CodeType:
    """Return a code object of an `async def` function of this name."""
    return _template.__code__.replace(
        co_name=name.rpartition(".")[2],
        co_qualname=name,
        co_filename="<rust>",
        co_firstlineno=1,
    )


def make_coroutine(name: str) -> CoroutineType[None, None, None]:
    """Return a coroutine of that code, which must never be deallocated: it never runs, of which the
    interpreter would warn. Tools read its frame from another process.
    """
    coroutine: CoroutineType[None, None, None] = FunctionType(make_code(name), {})()
    return coroutine


def make_frame(name: str) -> FrameType:
    """Return a frame of that code, which does not run."""
    coroutine: Any = make_coroutine(name)
    frame: FrameType = coroutine.cr_frame
    coroutine.close()
    return frame
