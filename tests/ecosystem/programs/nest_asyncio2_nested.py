"""nest_asyncio2, on which ipykernel relies: the same as with nest_asyncio."""

from ..loops import Loop
from . import nest_asyncio_nested


def main(loop: Loop) -> None:
    nest_asyncio_nested.main(loop, "nest_asyncio2")
