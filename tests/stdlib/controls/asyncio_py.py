"""Control for run_cpython.py --task-future: the stdlib's pure-Python Task and
Future."""

import asyncio
from asyncio.futures import _PyFuture as Future  # noqa: F401
from asyncio.tasks import _PyTask as Task  # noqa: F401

new_event_loop = asyncio.SelectorEventLoop
