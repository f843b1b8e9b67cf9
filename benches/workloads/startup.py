"""The time to import a loop, and to run an empty coroutine."""

import asyncio
import statistics
import subprocess
import sys
import time

from benches.workload import measured

GROUP = "startup"

IMPORT = """
import time
begin = time.perf_counter_ns()
import asyncio
import {module}
print(time.perf_counter_ns() - begin)
"""


@measured("import", GROUP, "import asyncio and the loop's module", 15)
def import_time(new_event_loop, n):
    module = new_event_loop.__module__.partition(".")[0]
    command = [sys.executable, "-c", IMPORT.format(module=module)]
    samples = [
        int(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(n + 1)
    ]
    # The first one may read files that aren't in the page cache yet.
    return statistics.median(samples[1:])


@measured("run-nothing", GROUP, "asyncio.run of nothing", 300)
def run_nothing(new_event_loop, n):
    async def nothing():
        return 1

    def run():
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(nothing())

    run()
    samples = []
    for _ in range(n):
        begin = time.perf_counter_ns()
        done = run()
        samples.append(time.perf_counter_ns() - begin)
        assert done == 1
    return statistics.median(samples)
