"""Child processes: asyncio's transports, while the native poller watches for the exit of the child.

asyncio's own child watchers are used only if the program has set one: before Python 3.14 on the
policy, from then on by an assignment to `loop._watcher`.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from asyncio import unix_events
from asyncio.log import logger
from typing import Any

if sys.version_info >= (3, 14):
    _ThreadedWatcher = vars(unix_events)["_ThreadedChildWatcher"]

    def has_chosen_watcher(loop: Any) -> bool:
        """Whether the program has chosen how asyncio waits for children."""
        return loop._chosen_watcher is not None

    def stock_watcher() -> Any:
        """Return the child watcher that asyncio's loop would make."""
        names = vars(unix_events)
        if names["can_use_pidfd"]():
            return names["_PidfdChildWatcher"]()
        return names["_ThreadedChildWatcher"]()

else:
    _ThreadedWatcher = unix_events.ThreadedChildWatcher
    _StockPolicy = unix_events.DefaultEventLoopPolicy

    def _is_stock(watcher: asyncio.AbstractChildWatcher | None) -> bool:
        """Whether the watcher is one that a policy makes by default."""
        if watcher is None:
            return True
        if sys.version_info >= (3, 12) and vars(unix_events)["can_use_pidfd"]():
            return type(watcher) is unix_events.PidfdChildWatcher
        return type(watcher) is _ThreadedWatcher

    def has_chosen_watcher(loop: Any) -> bool:
        """Whether the program has chosen how asyncio waits for children."""
        policy = asyncio.get_event_loop_policy()
        getter = getattr(policy.get_child_watcher, "__func__", None)
        if getter is _StockPolicy.get_child_watcher:
            watcher = policy._watcher  # type: ignore[attr-defined]
            return watcher is not None and not _is_stock(watcher)
        # With a policy without watchers the native poller is used.
        return getter is not asyncio.AbstractEventLoopPolicy.get_child_watcher


_fallback = _ThreadedWatcher()

# If a program or a test replaces subprocess.Popen, the replacement is used.
_StockPopen = subprocess.Popen
_Popen: type[subprocess.Popen[bytes]] = subprocess.Popen

if sys.version_info[:2] == (3, 13):
    from subprocess import _fork_exec  # type: ignore[attr-defined]

    class Popen(subprocess.Popen[bytes]):
        """Starts simple children with CPython's own vfork, as releases before 3.13 do.

        3.13 uses posix_spawn() for them, which maps and unmaps a stack in the parent and reads the
        action of every signal in the child. That takes a tenth of the time of running /bin/true.
        """

        def _posix_spawn(
            self,
            args: Any,
            executable: Any,
            env: Any,
            restore_signals: bool,
            close_fds: bool,
            p2cread: int,
            p2cwrite: int,
            c2pread: int,
            c2pwrite: int,
            errread: int,
            errwrite: int,
        ) -> None:
            streams = p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite
            failure_read, failure_write = os.pipe()
            if failure_write < 3:
                # A standard stream is closed: the child must not report errors on its number.
                os.close(failure_read)
                os.close(failure_write)
                super()._posix_spawn(  # type: ignore[misc]
                    args, executable, env, restore_signals, close_fds, *streams
                )
                return
            try:
                try:
                    self.pid = _fork_exec(
                        args,
                        (os.fsencode(executable),),
                        close_fds,
                        (failure_write,),
                        None,
                        None if env is None else _environment(env),
                        *streams,
                        failure_read,
                        failure_write,
                        restore_signals,
                        False,
                        -1,
                        None,
                        None,
                        None,
                        -1,
                        None,
                        subprocess._USE_VFORK,  # type: ignore[attr-defined,unused-ignore]
                    )
                    self._child_created = True
                finally:
                    os.close(failure_write)
                failure = _read_all(failure_read)
            finally:
                os.close(failure_read)
            if failure:
                self._child_created = False
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self.pid, 0)
                raise _reported(failure, executable)
            self._close_pipe_fds(*streams)  # type: ignore[attr-defined]

    def _read_all(fd: int) -> bytes:
        """Read until the last writer has closed the pipe. A child reports an error in several
        writes; the parent may see them one by one unless vfork() made it wait for the child's
        exec."""
        received = b""
        while part := os.read(fd, 1024):
            received += part
        return received

    def _reported(failure: bytes, executable: Any) -> Exception:
        """Parse a child's report of a failed exec: "OSError:", errno in hexadecimal, ":"."""
        try:
            number = int(failure.split(b":", 2)[1], 16)
        except (IndexError, ValueError):
            # The child was killed while it wrote.
            return subprocess.SubprocessError(f"Bad exception data from child: {failure!r}")
        return OSError(number, os.strerror(number), executable)

    def _environment(env: Any) -> list[bytes]:
        pairs = [(os.fsencode(name), os.fsencode(value)) for name, value in env.items()]
        if any(b"=" in name for name, _ in pairs):
            raise ValueError("illegal environment variable name")
        return [name + b"=" + value for name, value in pairs]

    _Popen = Popen


class _UnixSubprocessTransport(unix_events._UnixSubprocessTransport):  # type: ignore[name-defined,misc]
    """asyncio's subprocess transport, with our way to start the child."""

    _exited: Any = None

    async def _connect_pipes(self, waiter: Any) -> None:
        try:
            await super()._connect_pipes(waiter)
        finally:
            self._tried_pipes.set()

    async def _give_up(self) -> None:
        """Kill a child that is not wanted or whose pipes failed to connect, and wait for its exit.

        asyncio also waits for the pipes, forever if one of them was refused.
        """
        self.close()
        await self._tried_pipes.wait()
        if self._pending_calls is None:
            await self._wait()
            return
        for stream in (self._proc.stdin, self._proc.stdout, self._proc.stderr):
            if stream is not None:
                stream.close()
        if self._returncode is None:
            self._exited = self._loop.create_future()
            await self._exited

    def _process_exited(self, returncode: int) -> None:
        super()._process_exited(returncode)
        if self._exited is not None and not self._exited.done():
            self._exited.set_result(None)

    def _start(
        self,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        **kwargs: Any,
    ) -> None:
        self._tried_pipes = asyncio.Event()
        if subprocess.Popen is not _StockPopen or sys.platform != "linux":
            super()._start(args, shell, stdin, stdout, stderr, bufsize, **kwargs)
            return
        self._proc = _Popen(
            args,
            shell=shell,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=False,
            bufsize=bufsize,
            **kwargs,
        )


def watch_exit(loop: Any, transport: Any) -> None:
    """Notify the transport when its process has exited. This needs no SIGCHLD handler, and a thread
    only if the system provides no process descriptor."""
    pid = transport.get_pid()
    try:
        if not loop._watch_child(pid, _process_exited, transport):
            _fallback.add_child_handler(pid, loop._child_watcher_callback, transport)
    except BaseException:
        # The system provides neither a descriptor nor a thread: a child that the loop cannot wait
        # for must not be left running.
        transport.close()
        raise


def _process_exited(transport: Any, returncode: int | None) -> None:
    if returncode is None:
        # Popen reaps in poll(), which asyncio itself calls in close() and, up to 3.12,
        # in send_signal().
        returncode = transport._proc.returncode
    if returncode is None:
        returncode = 255
        logger.warning(
            "child process pid %d exit status already read:  will report returncode 255",
            transport.get_pid(),
        )
    transport._process_exited(returncode)
