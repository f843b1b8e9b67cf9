"""Facts about a run: machine, kernel, versions, date, load."""

import datetime
import os
import platform
import sys
from pathlib import Path

from benches.loops import version_of


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def describe(loops: list[str]) -> dict[str, str]:
    """Facts to print beside the table, in order."""
    facts = {
        "Date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Machine": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "System": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        "Python": f"{platform.python_version()} ({sys.implementation.name})",
    }
    facts |= {name: version_of(name) for name in loops if name != "asyncio"}
    facts["Load before the run"] = f"{os.getloadavg()[0]:.1f}"
    return facts
