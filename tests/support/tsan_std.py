"""Tells ThreadSanitizer what std's locks synchronise: see `make test-tsan`. std is not
instrumented, and where its functions are not inlined the sanitizer would report what they protect.

`python tests/support/tsan_std.py DIRECTORY` compiles functions around them, which the linker calls
instead, and prints the flags for rustc.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

# The end of the mangled name of each function, and what is done before and after the call. The
# first argument is the lock, or the condition variable, whose lock is the second one.
WRAPPED = {
    r"5mutex5futex\w+5Mutex14lock_contended": ("", "__tsan_acquire(a);"),
    r"7condvar5futex\w+7Condvar4wait": ("__tsan_release(b);", "__tsan_acquire(b);"),
    r"7condvar5futex\w+7Condvar12wait_timeout": ("__tsan_release(b);", "__tsan_acquire(b);"),
    r"4once5futex\w+4Once4call": ("__tsan_acquire(a);", "__tsan_release(a); __tsan_acquire(a);"),
}

FUNCTION = """
long __real_{name}(void *a, void *b, long c, long d);
long __wrap_{name}(void *a, void *b, long c, long d) {{
    {before}
    long result = __real_{name}(a, b, c, d);
    {after}
    return result;
}}
"""


def main() -> None:
    directory = Path(sys.argv[1])
    libraries = subprocess.check_output(["rustc", "--print", "target-libdir"], text=True).strip()
    (std,) = Path(libraries).glob("libstd-*.rlib")
    symbols = subprocess.check_output(["readelf", "-sW", std], text=True, stderr=subprocess.DEVNULL)
    source, flags = "void __tsan_acquire(void *); void __tsan_release(void *);\n", []
    for end, (before, after) in WRAPPED.items():
        (name,) = set(re.findall(rf" (_R\w+3std3sys4sync{end})$", symbols, re.MULTILINE))
        source += FUNCTION.format(name=name, before=before, after=after)
        flags.append(f"-Clink-arg=-Wl,--wrap={name}")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "std.c").write_text(source)
    compiler = os.environ.get("CC", "cc")
    output = directory.resolve() / "std.o"
    subprocess.check_call([compiler, "-O1", "-fPIC", "-c", directory / "std.c", "-o", output])
    print(f"-Clink-arg={output}", *flags)


if __name__ == "__main__":
    main()
