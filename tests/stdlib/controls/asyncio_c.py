"""Control for run_cpython.py --task-future: the stdlib's C Task and Future."""

import asyncio
from asyncio.futures import _CFuture as Future  # noqa: F401
from asyncio.tasks import _CTask as Task  # noqa: F401

new_event_loop = asyncio.SelectorEventLoop
