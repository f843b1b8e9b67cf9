"""The library that makes system calls fail: building it, and arming it in a program."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
PRELOAD = "LD_PRELOAD"

# Used instead of an errno. SHORT: fewer bytes are transferred than requested. MIXED: at random a
# short transfer, EINTR or EAGAIN, with `step` as the probability in parts per thousand.
SHORT, MIXED = -1, -2


@functools.cache
def build() -> str | None:
    """The path of the library, built once per process; None without a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="refused-")
    build.folder = folder  # type: ignore[attr-defined] # removed with the process
    library = f"{folder.name}/shim.so"
    options = ("-std=gnu11", "-O1", "-shared", "-fPIC")
    subprocess.run([compiler, *options, "-o", library, str(SOURCE), "-ldl"], check=True)
    return library


def preload(library: str) -> str:
    """The variable's value that loads `library` too, after what is preloaded already: a sanitizer's
    runtime must come first."""
    return ":".join(filter(None, (os.environ.get(PRELOAD), library)))


class Faults:
    """Controls the injected faults in a program that the library is loaded into."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(os.environ[PRELOAD].rpartition(":")[2])
        self.library.shim_arm.argtypes = [
            ctypes.c_char_p,
            ctypes.c_int,
            *[ctypes.c_long] * 3,
            ctypes.c_char_p,
        ]
        self.library.shim_disarm.restype = ctypes.c_long
        self.library.shim_seen.restype = ctypes.c_long
        self.library.shim_name.restype = ctypes.c_char_p

    def arm(
        self,
        call: str,
        error: int,
        first: int = 1,
        step: int = 1,
        limit: int = 1 << 40,
        caller: str = "",
    ) -> None:
        """Make the `first`-th call from now on fail, and each `step`-th after it, at most `limit`.

        If `caller` is given, only calls from libraries whose path contains it count.
        """
        if self.library.shim_arm(call.encode(), error, first, step, limit, caller.encode()):
            raise ValueError(f"there is no {call} or no {caller}")

    def disarm(self) -> int:
        """Stop injecting faults; return how many calls have failed."""
        return self.library.shim_disarm()

    def spare(self, fd: int) -> None:
        """Exempt a descriptor from faults."""
        self.library.shim_spare(fd)

    def seen(self) -> dict[str, int]:
        """The number of calls of each kind since the library was armed."""
        found = {}
        number = 0
        while name := self.library.shim_name(number):
            if count := self.library.shim_seen(number):
                found[name.decode()] = count
            number += 1
        return found
