"""The interpreter's internal offsets are found: if one is not, everything works but takes a slower
path, which no other test would notice."""

import os
import subprocess
import sys
import sysconfig

from ferroloop import _ferroloop

EXPECTED = ["the current context", "the counter of tasks", "the SSL of a connection"]
if sys.version_info >= (3, 14):
    EXPECTED += ["the running task"]
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        EXPECTED += ["the innermost critical section"]
    else:
        EXPECTED += ["the lists of tasks"]


def test_all_is_found():
    assert _ferroloop.probed_offsets() == [(name, True) for name in EXPECTED]


def test_all_is_found_in_a_thread_and_in_a_task():
    """A program may import the module anywhere; the offsets are searched for on each import."""
    source = """
import asyncio, threading

async def look():
    from ferroloop import _ferroloop
    print(all(found for _, found in _ferroloop.probed_offsets()))

thread = threading.Thread(target=lambda: asyncio.run(look()))
thread.start()
thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=os.environ, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
