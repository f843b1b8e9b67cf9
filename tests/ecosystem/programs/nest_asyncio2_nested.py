"""nest_asyncio2, which ipykernel relies on: the same program as with nest_asyncio."""

from ..loops import Loop
from . import nest_asyncio_nested


def main(loop: Loop) -> None:
    nest_asyncio_nested.main(loop, "nest_asyncio2")
