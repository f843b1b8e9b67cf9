"""``python -m ferroloop top | ps | stack``: the client of `ferroloop.introspection`."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import select
import socket
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ._screen import by_number, cut, labelled, lag_histogram, printable, table, terminal_width
from .introspection import peer_of, runtime_directories, socket_name

TIMEOUT = 10.0


class UnreachableError(Exception):
    """The process cannot be inspected; the text says why."""


def find_socket(target: str) -> tuple[str, int | None]:
    """Return the path of the socket, and the id of the process that must serve it, if known.

    Args:
        target: the id of a process, or the path of its socket.

    Raises:
        UnreachableError: the process or its socket does not exist.
    """
    if not target.isdecimal():
        return target, None
    pid = int(target)
    try:
        owner = os.stat(f"/proc/{pid}").st_uid if os.path.isdir("/proc/self") else os.getuid()
    except FileNotFoundError:
        raise UnreachableError(f"there is no process {pid}") from None
    for directory in runtime_directories(owner):
        path = directory / socket_name(pid)
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISSOCK(found.st_mode) and found.st_uid == owner:
                return str(path), pid
    raise UnreachableError(
        f"process {pid} does not serve introspection: it must call "
        "ferroloop.serve_introspection(), or be started with FERROLOOP_INTROSPECT=1"
    )


def ask(target: str, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to a process and return its answer.

    Raises:
        UnreachableError: the process cannot be reached, does not answer, or refuses the request.
    """
    path, pid = find_socket(target)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(path)
            peer = peer_of(connection)
            if pid is not None and peer is not None and peer[0] != pid:
                raise UnreachableError(f"{path} is served by process {peer[0]}, not {pid}")
            connection.sendall(json.dumps(request).encode() + b"\n")
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except TimeoutError:
            text = f"no answer within {TIMEOUT:.0f} seconds: code in the process holds the GIL"
            raise UnreachableError(text) from None
        except OSError as error:
            raise UnreachableError(f"{path}: {error.strerror}") from None
    if not received:
        raise UnreachableError(f"{path}: no answer: only the process's user and root get one")
    answer: dict[str, Any] = json.loads(received)
    if not answer["ok"]:
        raise UnreachableError(answer["error"])
    return answer


def _place(task: dict[str, Any]) -> str:
    """The location in the program's own code, and the function of asyncio, if it is in one."""
    where, caller = task["where"], task["caller"]
    location = caller or where
    if location is None:
        return "-"
    place = f"{location['function']} ({Path(location['file']).name}:{location['line']})"
    return place if where == location else f"{place} > {where['function']}"


def render_ps(answer: dict[str, Any], width: int | None = None) -> Iterator[str]:
    """The tasks as a table."""
    rows = [("NAME", "ID", "STATE", "COROUTINE", "AWAITS", "AT")]
    for task in sorted(answer["tasks"], key=lambda task: by_number(task["name"])):
        rows.append(
            (
                task["name"],
                task["id"],
                task["state"],
                task["coroutine"],
                task["awaits"] or "-",
                _place(task),
            )
        )
    yield from table(rows, width, expendable=["ID"])


def render_stack(answer: dict[str, Any]) -> Iterator[str]:
    """Whole stacks, innermost last, as in tracebacks."""
    for number, task in enumerate(answer["tasks"]):
        if number:
            yield ""
        name, coroutine = printable(task["name"]), printable(task["coroutine"])
        yield f"task {name} ({coroutine}), {task['state']}, {task['id']}"
        for location in task["stack"]:
            yield f'  File "{location["file"]}", line {location["line"]}, in {location["function"]}'
        if task["awaits"]:
            yield f"  waits for {printable(task['awaits'])}"
        if task["await_chain"]:
            yield "  awaited by " + printable(", awaited by ".join(task["await_chain"]))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _quantile(buckets: Counter[float], share: float) -> float:
    wanted, seen = share * sum(buckets.values()), 0
    for bound, count in sorted(buckets.items()):
        seen += count
        if seen >= wanted:
            return bound
    return 0.0


def _lag_buckets(metrics: dict[str, Any]) -> Counter[float]:
    lag = metrics["lag"]
    return Counter({lag["max"] if bound is None else bound: n for bound, n in lag["buckets"]})


def render_loop(
    before: dict[str, Any], now: dict[str, Any], seconds: float, width: int | None = None
) -> Iterator[str]:
    """One loop: what it did between two samples of its metrics."""

    def rate(name: str) -> float:
        return max(0.0, float(now[name] - before[name]) / seconds)

    ran = now["time_running"] - before["time_running"]
    busy = (now["time_busy"] - before["time_busy"]) / ran if ran > 0 else 0.0
    rates = [
        f"{name.replace('_', ' ')} {rate(name):.0f}/s"
        for name in ("turns", "callbacks", "task_steps", "polls")
    ]
    yield from labelled("utilization", [f"{min(busy, 1.0):6.1%}", *rates], width)
    lag = _lag_buckets(now) - _lag_buckets(before)
    shares = [f"p{n} {_milliseconds(_quantile(lag, n / 100))}" for n in (50, 90, 99)]
    yield from labelled("lag", [*shares, f"max ever {_milliseconds(now['lag']['max'])}"], width)
    yield from lag_histogram(lag)
    queue = (
        f"ready {now['ready']} (max {now['ready_max']})",
        f"timers {now['timers']} (+{now['timers_cancelled']} cancelled)",
        f"slow callbacks {now['slow_callbacks']}",
    )
    yield from labelled("queue", queue, width)
    kinds = [f"{kind} {count}" for kind, count in now["transports"].items()]
    traffic = (f"in {_size(rate('bytes_received'))}/s", f"out {_size(rate('bytes_sent'))}/s")
    accepts = f"accepts {rate('accepts'):.0f}/s"
    yield from labelled("transports", [*kinds, accepts, *traffic], width)
    pool = now["pool"]
    if pool is not None:
        jobs = pool["jobs"] - (before["pool"]["jobs"] if before["pool"] else 0)
        threads = f"threads {pool['threads']} of {pool['limit']} ({pool['idle']} idle)"
        items = (threads, f"queued {pool['queued']}", f"jobs {jobs / seconds:.0f}/s")
        yield from labelled("pool", items, width)


def _kind(awaits: str | None) -> str:
    """What is awaited, without the automatic names of tasks: their waiters form one group."""
    if awaits is None:
        return "-"
    return "a task" if awaits.startswith("Task-") else awaits


def render_top(
    before: dict[str, Any],
    now: dict[str, Any],
    tasks: dict[str, Any],
    seconds: float,
    width: int | None = None,
) -> Iterator[str]:
    """The whole screen of `top`."""
    program = printable(now["program"])
    versions = f"ferroloop {now['ferroloop']}   Python {now['python']}"
    if width is not None:
        others = f"process {now['pid']}      {versions}   q quits"
        program = cut(program, max(width - len(others), 12))
    yield f"process {now['pid']}   {program}   {versions}"
    earlier = {loop["id"]: loop["metrics"] for loop in before["loops"]}
    for loop in now["loops"]:
        yield ""
        metrics = loop["metrics"]
        state = "running" if loop["running"] else "stopped"
        debug = ", debug mode" if loop["debug"] else ""
        yield f"loop {metrics['number']}   {state}{debug}   {loop['id']}"
        yield from render_loop(earlier.get(loop["id"], metrics), metrics, seconds, width)
    groups = Counter(
        (task["coroutine"], task["state"], _kind(task["awaits"]), _place(task))
        for task in tasks["tasks"]
    )
    yield ""
    yield f"{len(tasks['tasks'])} tasks"
    rows = [("COUNT", "COROUTINE", "STATE", "AWAITS", "AT")]
    rows += [(str(count), *group) for group, count in groups.most_common()]
    yield from table(rows, width)


class _Terminal:
    """The terminal while `top` runs: full screen, keys without Enter; restored at the end."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self._saved: Any = None

    def __enter__(self) -> _Terminal:
        if self.live:
            sys.stdout.write("\x1b[?1049h\x1b[?25l")
        if sys.stdin.isatty():
            import termios
            import tty

            self._saved = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *error: object) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)
        if self.live:
            sys.stdout.write("\x1b[?25h\x1b[?1049l")
            sys.stdout.flush()

    def show(self, lines: list[str]) -> None:
        if self.live:
            size = os.get_terminal_size(sys.stdout.fileno())
            # A terminal may not know its size.
            width, height = size.columns or None, max(1, size.lines - 1) if size.lines else None
            if height is not None and len(lines) > height:
                hidden = len(lines) - height + 1
                lines = [*lines[: height - 1], f"... {hidden} more lines"]
            lines = [line[:width] for line in lines]
            # Clear the rest of each line, then the lines below: this avoids flicker.
            sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
        else:
            sys.stdout.write("\n".join(lines) + "\n\n")
        sys.stdout.flush()

    def wait(self, seconds: float) -> bool:
        """Wait; return whether `q` was pressed."""
        if self._saved is None:
            time.sleep(seconds)
            return False
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return bool(ready) and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b"")


def top(target: str, interval: float, once: bool, as_json: bool) -> None:
    """Show the process until `q` or Ctrl-C, or until it ends."""
    before, sampled = ask(target, {"command": "metrics"}), time.monotonic()
    if as_json:
        tasks = ask(target, {"command": "tasks"})
        print(json.dumps({**before, "tasks": tasks["tasks"]}, indent=2))
        return
    if once:
        time.sleep(interval)
        now = ask(target, {"command": "metrics"})
        tasks = ask(target, {"command": "tasks"})
        seconds, width = time.monotonic() - sampled, terminal_width(sys.stdout)
        print("\n".join(render_top(before, now, tasks, seconds, width)))
        return
    pause = min(interval, 0.25)  # show the first screen soon
    with _Terminal() as terminal, contextlib.suppress(KeyboardInterrupt):
        while not terminal.wait(pause):
            now, time_now = ask(target, {"command": "metrics"}), time.monotonic()
            tasks = ask(target, {"command": "tasks"})
            width = terminal_width(sys.stdout)
            lines = list(render_top(before, now, tasks, time_now - sampled, width))
            terminal.show([f"{lines[0]}   q quits", *lines[1:]])
            before, sampled, pause = now, time_now, interval


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("from 0.05 to 3600 seconds")
    return seconds


def main(arguments: Sequence[str]) -> NoReturn:
    """Run `top`, `ps` or `stack`, and exit.

    Args:
        arguments: the command and what follows it on the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ferroloop",
        description="Inspect a running program that serves its introspection "
        "(ferroloop.serve_introspection(), or FERROLOOP_INTROSPECT=1).",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("top", "a live view: load, lag, transports, pool, and tasks grouped by where they wait"),
        ("ps", "all tasks, and where each waits; cut to the width of a terminal"),
        ("stack", "the whole stack of a task, and the tasks that await it"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "target", metavar="PID|SOCKET", help="process id, or path of its socket"
        )
        if name == "stack":
            command.add_argument("task", metavar="TASK", help="name or id of the task")
        if name == "top":
            command.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS")
            command.add_argument("--once", action="store_true", help="print once and exit")
        command.add_argument("--json", action="store_true", help="print one snapshot as JSON")
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal's character set may lack the bars, or characters in the names of tasks.
        sys.stdout.reconfigure(errors="replace")
    try:
        if options.command == "top":
            top(options.target, options.interval, options.once, options.json)
        else:
            request = {"command": "tasks"}
            if options.command == "stack":
                request = {"command": "stack", "task": options.task}
            answer = ask(options.target, request)
            if options.json:
                print(json.dumps(answer, indent=2))
            else:
                width = terminal_width(sys.stdout)
                stack = options.command == "stack"
                print("\n".join(render_stack(answer) if stack else render_ps(answer, width)))
    except UnreachableError as error:
        sys.exit(f"ferroloop: {error}")
    except BrokenPipeError:
        # The reader of the pipe, such as `head`, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)
