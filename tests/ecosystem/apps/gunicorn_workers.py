"""Worker classes for gunicorn: uvicorn's, on a loop of our choice."""

from typing import ClassVar

from uvicorn_worker import UvicornWorker

from ..loops import Loop


class AsyncioWorker(UvicornWorker):
    CONFIG_KWARGS: ClassVar = {"loop": Loop("asyncio").path, "http": "httptools"}


class FerroloopWorker(UvicornWorker):
    CONFIG_KWARGS: ClassVar = {"loop": Loop("ferroloop").path, "http": "httptools"}
