"""Expected exceptions."""

from types import TracebackType
from typing import Generic, TypeVar

E = TypeVar("E", bound=BaseException)


class expected(Generic[E]):
    """`with expected(KeyError) as caught:` fails unless the block raises one: `caught.error`."""

    def __init__(self, kind: type[E]) -> None:
        self.kind = kind
        self.error: E

    def __enter__(self) -> "expected[E]":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            raise AssertionError(f"no {self.kind.__name__} was raised")
        if not isinstance(error, self.kind):
            return False
        self.error = error
        return True
