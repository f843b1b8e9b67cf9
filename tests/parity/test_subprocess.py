"""Child processes: standard streams, Popen's keywords, exit statuses, transports."""

import asyncio
import contextlib
import contextvars
import fcntl
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import warnings

import pytest

PIPE = asyncio.subprocess.PIPE
DEVNULL = asyncio.subprocess.DEVNULL
STDOUT = asyncio.subprocess.STDOUT

root = pytest.mark.skipif(os.geteuid() != 0, reason="changes identities: root only")
before_3_14 = pytest.mark.skipif(sys.version_info >= (3, 14), reason="child watchers are gone")


@pytest.fixture(autouse=True)
def waiters_ended():
    """Up to 3.11 the threads in which asyncio waits for children briefly outlive the wait."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("asyncio-waitpid"):
            thread.join(10)


def shell(script, **options):
    return asyncio.create_subprocess_exec("/bin/sh", "-c", script, **options)


async def output(script, **options):
    """The output of a shell script."""
    process = await shell(script, stdout=PIPE, **options)
    out, errors = await process.communicate()
    assert (process.returncode, errors) == (0, None)
    return out


def python(source, *arguments, **options):
    return asyncio.create_subprocess_exec(sys.executable, "-c", source, *arguments, **options)


class Recorder(asyncio.SubprocessProtocol):
    """Records a protocol's callbacks."""

    def __init__(self):
        self.events = []
        self.data = {1: b"", 2: b""}
        self.exited = asyncio.get_running_loop().create_future()
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def pipe_data_received(self, fd, data):
        assert type(data) is bytes
        assert data
        self.data[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.events.append(("pipe lost", fd, exc))

    def process_exited(self):
        self.events.append("exited")
        self.exited.set_result(self.transport.get_returncode())

    def connection_lost(self, exc):
        self.events.append(("lost", exc))
        self.over.set_result(None)


# --- exit statuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 255", 255),
        ("kill -TERM $$", -signal.SIGTERM),
        ("kill -KILL $$", -signal.SIGKILL),
        ("kill -USR1 $$", -signal.SIGUSR1),
    ],
)
def test_exit_status(run, script, expected):
    async def main():
        process = await shell(script)
        assert await process.wait() == expected
        assert process.returncode == expected
        assert await process.wait() == expected

    run(main())


def test_many_waiters(run):
    async def main():
        process = await shell("read line; exit 5", stdin=PIPE)
        waiters = [asyncio.create_task(process.wait()) for _ in range(10)]
        await asyncio.sleep(0.01)
        waiters[0].cancel()
        process.stdin.close()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [5] * 9

    run(main())


def test_wait_can_be_cancelled(run):
    async def main():
        process = await shell("read line", stdin=PIPE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.02)
        process.stdin.close()
        assert await process.wait() == 1

    run(main())


@pytest.mark.parametrize("method", ["terminate", "kill", "send_signal"])
def test_signals(run, method):
    async def main():
        process = await shell("echo ready; read line", stdin=PIPE, stdout=PIPE)
        assert await process.stdout.readline() == b"ready\n"
        if method == "send_signal":
            process.send_signal(signal.SIGHUP)
            expected = -signal.SIGHUP
        else:
            getattr(process, method)()
            expected = -(signal.SIGTERM if method == "terminate" else signal.SIGKILL)
        assert await process.wait() == expected
        process.stdin.close()
        with pytest.raises(ProcessLookupError):
            while True:  # From 3.14 on the transport keeps the process until its pipes are closed.
                process.send_signal(signal.SIGHUP)
                await asyncio.sleep(0.001)

    run(main())


@pytest.mark.only("ferroloop")
def test_signal_to_a_child_that_has_just_ended(run):
    """Up to 3.12 asyncio reaps the child when it sends a signal: the status must not be lost."""

    async def main():
        reader, writer = os.pipe()
        process = await shell("read line; exit 3", stdin=reader)
        os.close(reader)
        os.close(writer)
        # Blocking, not awaiting: the loop must not notice.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        process.kill()
        assert await process.wait() == 3

    run(main())


def test_reaped_elsewhere(flavour, run, log):
    if flavour.is_asyncio and sys.version_info < (3, 12):
        pytest.skip("a thread of asyncio's reaps the child first")

    async def main():
        reader, writer = os.pipe()
        process = await shell("read line; exit 4", stdin=reader)
        os.close(reader)
        os.close(writer)
        # Blocking, not awaiting: the loop must not notice.
        assert os.waitpid(process.pid, 0)[1] == 4 << 8
        return process.pid, await process.wait()

    pid, status = run(main())
    assert status == 255
    (message,) = log.messages()
    assert f"pid {pid}" in message
    assert message.endswith("will report returncode 255")


def test_no_sigchld_handler_is_installed(run):
    received = []
    before = signal.signal(signal.SIGCHLD, lambda *_: received.append(1))
    try:

        async def main():
            handler = signal.getsignal(signal.SIGCHLD)
            for _ in range(3):
                assert await (await shell("exit 6")).wait() == 6
            assert signal.getsignal(signal.SIGCHLD) is handler

        run(main())
        assert received
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_sigchld_handler_of_the_loop(run):
    async def main():
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()
        loop.add_signal_handler(signal.SIGCHLD, seen.set)
        process = await shell("exit 6")
        assert await process.wait() == 6
        await asyncio.wait_for(seen.wait(), 10)
        loop.remove_signal_handler(signal.SIGCHLD)

    run(main())


@pytest.mark.only("ferroloop")
def test_no_thread_per_child(run):
    async def main():
        process = await shell("read line", stdin=PIPE)
        names = [thread.name for thread in threading.enumerate()]
        assert not [name for name in names if name.startswith("asyncio-waitpid")]
        process.stdin.close()
        assert await process.wait() == 1

    run(main())


def test_loop_of_another_thread(flavour):
    results = []

    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        results.append(await process.communicate(b"from a thread"))
        results.append(process.returncode)

    thread = threading.Thread(target=lambda: flavour.run(main()))
    thread.start()
    thread.join()
    assert results == [(b"from a thread", None), 0]


def test_context_of_the_protocols_calls(flavour, run):
    if flavour.is_asyncio and sys.version_info < (3, 12):
        pytest.skip("the call comes from a thread of asyncio's")
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Protocol(Recorder):
        def process_exited(self):
            seen.append(variable.get())
            super().process_exited()

    async def main():
        loop = asyncio.get_running_loop()

        async def spawn():
            variable.set("inside")
            return await loop.subprocess_exec(Protocol, "/bin/sh", "-c", "exit 0")

        transport, protocol = await asyncio.create_task(spawn())
        await protocol.over
        transport.close()

    run(main())
    assert seen == ["inside"]


# --- standard streams --------------------------------------------------------------------------


def test_communicate(run):
    async def main():
        process = await shell("cat; echo problem >&2; exit 2", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert await process.communicate(b"data") == (b"data", b"problem\n")
        assert process.returncode == 2

    run(main())


def test_communicate_huge(run):
    """More data than pipes can buffer, in both directions at once and on both outputs."""
    data = os.urandom(1024) * 4096

    async def main():
        process = await shell("tee /dev/stderr", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        out, errors = await process.communicate(data)
        assert out == data
        assert errors == data

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11, 7), reason="left a future behind, early in 3.11")
def test_communicate_with_a_child_that_does_not_read(run):
    async def main():
        process = await shell("exit 0", stdin=PIPE, stdout=PIPE)
        assert await process.communicate(bytes(4 << 20)) == (b"", None)
        assert process.returncode == 0

    run(main())


def test_communicate_can_be_cancelled(run):
    async def main():
        process = await shell("read line; echo over", stdin=PIPE, stdout=PIPE)
        task = asyncio.create_task(process.communicate())
        process.stdin.write(b"")
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        process.kill()
        await process.wait()

    run(main())


def test_shell(run):
    async def main():
        process = await asyncio.create_subprocess_shell("echo $((6 * 7)) | cat", stdout=PIPE)
        assert await process.communicate() == (b"42\n", None)

    run(main())


def test_streams_line_by_line(run):
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        for number in range(100):
            line = b"line %d\n" % number
            process.stdin.write(line)
            await process.stdin.drain()
            assert await process.stdout.readline() == line
        process.stdin.write_eof()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0

    run(main())


def test_stderr_to_stdout(run):
    async def main():
        assert await output("echo out; echo problem >&2; echo end", stderr=STDOUT) == (
            b"out\nproblem\nend\n"
        )

    run(main())


def test_pipes_are_pipes(run):
    """Not sockets: a child may open /dev/stdin."""

    async def main():
        script = "cat /dev/stdin; echo -n ' and ' > /dev/stdout; ls -l /proc/self/fd/0"
        process = await shell(script, stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(b"read")
        assert out.startswith(b"read and ")
        assert b"pipe:" in out

        source = "import os,stat; print([stat.S_ISFIFO(os.fstat(i).st_mode) for i in (0, 1, 2)])"
        process = await python(source, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert await process.communicate() == (b"[True, True, True]\n", b"")

    run(main())


def test_devnull(run):
    async def main():
        assert await output("cat; echo end", stdin=DEVNULL) == b"end\n"
        process = await shell("echo lost; echo lost >&2", stdout=DEVNULL, stderr=DEVNULL)
        assert process.stdout is None
        assert process.stderr is None
        assert await process.wait() == 0

    run(main())


def test_files_and_descriptors(run, tmp_path):
    async def main():
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(b"content")
        with open(source, "rb") as stdin, open(target, "wb") as stdout:
            process = await asyncio.create_subprocess_exec(
                "cat", stdin=stdin, stdout=stdout.fileno()
            )
            assert await process.wait() == 0
        assert target.read_bytes() == b"content"

    run(main())


def test_piping_one_child_into_another(run):
    async def main():
        reader, writer = os.pipe()
        first = await shell("echo from the first", stdout=writer)
        os.close(writer)
        second = await asyncio.create_subprocess_exec("tr", "a-z", "A-Z", stdin=reader, stdout=PIPE)
        os.close(reader)
        assert await second.communicate() == (b"FROM THE FIRST\n", None)
        assert await first.wait() == 0

    run(main())


def test_streams_closed_early(run):
    """A child that closes its streams and keeps running, and one that closes only some."""

    async def main():
        process = await shell(
            "exec 0<&- 1>&- 2>&-; sleep 0.2; exit 9", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        assert await process.stdout.read() == b""
        assert await process.stderr.read() == b""
        assert process.returncode is None
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                process.stdin.write(b"x" * 4096)
                await process.stdin.drain()
                await asyncio.sleep(0)
        assert await process.wait() == 9

        process = await shell("exec 1>&-; read line; exit 8", stdin=PIPE, stdout=PIPE)
        assert await process.stdout.read() == b""
        process.stdin.write(b"line\n")
        assert await process.wait() == 8

    run(main())


def test_grandchild_holds_the_pipe(run):
    """The child's exit is reported immediately, the end of output when the last writer closes."""

    async def main():
        loop = asyncio.get_running_loop()
        script = "(read line; echo grandchild) & echo child; exit 1"
        reader, writer = os.pipe()
        transport, protocol = await loop.subprocess_exec(
            Recorder,
            "/bin/bash",
            "-c",
            script.replace("read line", f"read line <&{reader}"),
            stdin=None,
            pass_fds=[reader],
            stderr=None,
        )
        os.close(reader)
        assert await protocol.exited == 1
        assert transport.get_returncode() == 1
        assert not protocol.over.done()
        os.write(writer, b"go\n")
        os.close(writer)
        await protocol.over
        assert protocol.data[1] == b"child\ngrandchild\n"
        assert protocol.events == ["made", "exited", ("pipe lost", 1, None), ("lost", None)]
        transport.close()

    run(main())


# --- Popen's keywords --------------------------------------------------------------------------


def test_cwd_and_env(run, tmp_path):
    async def main():
        assert await output("pwd", cwd=tmp_path) == os.fsencode(tmp_path) + b"\n"
        environment = {"NAME": "value", "PATH": os.environ["PATH"]}
        assert await output("echo $NAME$HOME", env=environment) == b"value\n"

    run(main())


def test_pass_fds_and_close_fds(run):
    async def main():
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        try:
            source = f"import os; os.write({writer}, b'passed ')"
            process = await python(source, stderr=DEVNULL)
            assert await process.wait() != 0
            process = await python(source, pass_fds=[writer])
            assert await process.wait() == 0
            process = await python(source, close_fds=False)
            assert await process.wait() == 0
            assert os.read(reader, 100) == b"passed passed "
        finally:
            os.close(reader)
            os.close(writer)

    run(main())


def test_umask(run, tmp_path):
    async def main():
        process = await shell("> made", cwd=tmp_path, umask=0o077)
        assert await process.wait() == 0
        assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600

    run(main())


def test_sessions_and_groups(run):
    async def main():
        source = "import os; print(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())"
        for options, expected in [
            ({}, b"False False\n"),
            ({"start_new_session": True}, b"True True\n"),
            ({"process_group": 0}, b"False True\n"),
        ]:
            process = await python(source, stdout=PIPE, **options)
            assert (await process.communicate())[0] == expected

    run(main())


@root
def test_identities(run):
    async def main():
        options = {"user": 65534, "group": 65534, "extra_groups": [1, 2]}
        assert await output("id -u; id -g; id -G", **options) == b"65534\n65534\n65534 1 2\n"

    run(main())


def test_executable_and_arguments(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            "name", "-c", 'echo "$0 $1"', "zero", b"one", executable="/bin/sh", stdout=PIPE
        )
        assert await process.communicate() == (b"zero one\n", None)

    run(main())


def test_preexec_fn_and_restore_signals(run):
    async def main():
        assert await output("echo $NEW", preexec_fn=lambda: os.environ.update(NEW="x")) == b"x\n"
        process = await shell("exit 0", preexec_fn=lambda: os._exit(12))
        assert await process.wait() == 12
        process = await asyncio.create_subprocess_exec(
            "/bin/grep", "SigIgn", "/proc/self/status", stdout=PIPE, restore_signals=False
        )
        kept = int((await process.communicate())[0].split()[1], 16)
        process = await asyncio.create_subprocess_exec(
            "/bin/grep", "SigIgn", "/proc/self/status", stdout=PIPE
        )
        restored = int((await process.communicate())[0].split()[1], 16)
        bit = 1 << (signal.SIGPIPE - 1)
        assert kept & bit
        assert not restored & bit

    run(main())


def test_pipesize(run):
    async def main():
        process = await shell("read line", stdin=PIPE, stdout=PIPE, pipesize=16384)
        pipe = process._transport.get_pipe_transport(1).get_extra_info("pipe")
        assert fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ) == 16384
        await process.communicate(b"")

    run(main())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"universal_newlines": True}, "universal_newlines must be False"),
        ({"text": True}, "text must be False"),
        ({"encoding": "utf-8"}, "encoding must be None"),
        ({"errors": "strict"}, "errors must be None"),
        ({"bufsize": 1}, "bufsize must be 0"),
        ({"shell": True}, "shell must be False"),
    ],
)
def test_refused_keywords(run, options, text):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError) as caught:
            await loop.subprocess_exec(asyncio.SubprocessProtocol, "true", **options)
        assert str(caught.value) == text

    run(main())


@pytest.mark.parametrize("options", [{}, {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}])
@pytest.mark.parametrize(
    ("program", "error"),
    [("/nonexistent/program", FileNotFoundError), ("/etc/passwd", PermissionError)],
)
def test_program_that_cannot_be_run(run, program, error, options):
    async def main():
        with pytest.raises(error) as caught:
            await asyncio.create_subprocess_exec(program, **options)
        assert caught.value.filename == program

    run(main())


def test_missing_directory(run):
    async def main():
        with pytest.raises(FileNotFoundError) as caught:
            await asyncio.create_subprocess_exec("/bin/true", cwd="/nonexistent")
        assert caught.value.filename == "/nonexistent"

    run(main())


# --- transports --------------------------------------------------------------------------------


def test_transport(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Recorder, "/bin/sh", "-c", "cat >&2")
        assert protocol.events == ["made"]
        assert isinstance(transport, asyncio.SubprocessTransport)
        assert type(transport.get_pid()) is int
        assert transport.get_returncode() is None
        assert transport.is_closing() is False
        assert transport.get_protocol() is protocol
        popen = transport.get_extra_info("subprocess")
        assert isinstance(popen, subprocess.Popen)
        assert popen.pid == transport.get_pid()
        stdin, stdout, stderr = map(transport.get_pipe_transport, range(3))
        assert isinstance(stdin, asyncio.WriteTransport)
        assert isinstance(stdout, asyncio.ReadTransport)
        assert isinstance(stderr, asyncio.ReadTransport)
        assert transport.get_pipe_transport(3) is None
        assert f"pid={transport.get_pid()} running stdin=" in repr(transport)
        stdin.write(b"text")
        stdin.close()
        await protocol.over
        assert protocol.data == {1: b"", 2: b"text"}
        assert transport.get_returncode() == 0
        assert popen.returncode == 0
        assert protocol.events[-1] == ("lost", None)
        assert {event[1] for event in protocol.events if event[0] == "pipe lost"} == {0, 1, 2}
        assert "returncode=0" in repr(transport)
        transport.close()
        assert transport.is_closing() is True

    run(main())


def test_shell_protocol(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_shell(Recorder, "echo a; echo b >&2; exit 7")
        await protocol.over
        assert protocol.data == {1: b"a\n", 2: b"b\n"}
        assert transport.get_returncode() == 7
        transport.close()

    run(main())


def test_close_kills(run, log):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Recorder, "/bin/sh", "-c", "read line")
        pid = transport.get_pid()
        transport.close()
        transport.close()
        await protocol.over
        assert transport.get_returncode() == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(main())
    for message in log.messages():
        assert message.startswith("Close running child process: kill ")


def test_pause_and_resume_reading(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            Recorder, "/bin/sh", "-c", "echo first; read line; echo second", stderr=None
        )
        stdout = transport.get_pipe_transport(1)
        while protocol.data[1] != b"first\n":
            await asyncio.sleep(0.001)
        stdout.pause_reading()
        transport.get_pipe_transport(0).write(b"\n")
        await protocol.exited
        await asyncio.sleep(0.02)
        assert protocol.data[1] == b"first\n"
        assert not protocol.over.done()
        stdout.resume_reading()
        await protocol.over
        assert protocol.data[1] == b"first\nsecond\n"
        transport.close()

    run(main())


def test_writing_is_paused(run):
    """A child that does not read: the writer is paused at the high-water mark."""

    async def main():
        reader, writer = os.pipe()
        script = f"read line <&{reader}; cat >/dev/null"
        process = await asyncio.create_subprocess_exec(
            "/bin/bash", "-c", script, stdin=PIPE, pass_fds=[reader]
        )
        os.close(reader)
        process.stdin.write(bytes(1 << 20))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.stdin.drain(), 0.05)
        os.close(writer)
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()
        assert await process.wait() == 0

    run(main())


def test_cancelled_during_creation(run, log):
    """A task cancelled in create_subprocess_exec() leaves no child behind."""

    async def main():
        task = asyncio.create_task(shell("read line", stdin=PIPE, stdout=PIPE))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # asyncio's thread may be about to reap it; this check must not reap it instead.
        for _ in range(1000):
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("a child was left behind")

    run(main())
    for message in log.messages():
        assert message.startswith("Close running child process: kill ")


@pytest.mark.only("ferroloop")
def test_child_outlives_the_loop(flavour, log):
    """Closing the transport afterwards still kills; asyncio leaves the descriptor open."""

    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, "/bin/sleep", "60", stdin=None, stdout=None, stderr=None
        )
        return transport

    transport = flavour.run(main())
    pid = transport.get_pid()
    popen = transport.get_extra_info("subprocess")
    os.kill(pid, 0)
    transport.close()
    assert popen.wait(10) == -signal.SIGKILL
    log.take()


@pytest.mark.mode("plain")
def test_child_outlives_the_loop_and_the_transport_is_dropped(flavour):
    if flavour.is_asyncio and sys.version_info < (3, 12):
        pytest.skip("a thread of asyncio's keeps the transport")

    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, "/bin/sleep", "60", stdin=None, stdout=None, stderr=None
        )
        return transport.get_extra_info("subprocess")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        popen = flavour.run(main())
        gc.collect()
    assert popen.wait(10) == -signal.SIGKILL
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith("unclosed transport <_UnixSubprocessTransport pid=")
    # asyncio leaves the descriptor of the process open.
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[pidfd]":
                assert flavour.is_asyncio
                os.close(int(fd))


# --- child watchers, up to 3.13 ----------------------------------------------------------------


@before_3_14
@pytest.mark.parametrize("name", ["ThreadedChildWatcher", "SafeChildWatcher"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_chosen_watcher_is_used(flavour, name):
    asked = []

    class Watcher(getattr(asyncio, name)):
        def add_child_handler(self, pid, *arguments):
            asked.append(pid)
            super().add_child_handler(pid, *arguments)

    async def main():
        watcher.attach_loop(asyncio.get_running_loop())
        process = await shell("exit 11")
        assert await process.wait() == 11
        assert asked == [process.pid]

    watcher = Watcher()
    policy = asyncio.get_event_loop_policy()
    asyncio.set_child_watcher(watcher)
    try:
        flavour.run(main())
    finally:
        watcher.attach_loop(None)
        watcher.close()
        policy._watcher = None


@before_3_14
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_inactive_watcher_is_refused(flavour):
    async def main():
        with pytest.raises(RuntimeError) as caught:
            await shell("exit 0")
        assert str(caught.value) == (
            "asyncio.get_child_watcher() is not activated, subprocess support is not installed."
        )

    policy = asyncio.get_event_loop_policy()
    asyncio.set_child_watcher(asyncio.SafeChildWatcher())
    try:
        flavour.run(main())
    finally:
        policy._watcher = None


@before_3_14
@pytest.mark.only("ferroloop")
def test_the_stock_watcher_is_bypassed(flavour):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        watcher = asyncio.get_child_watcher()

    async def main():
        process = await shell("exit 11")
        assert await process.wait() == 11

    def refuse(*arguments):
        raise AssertionError("asked")

    watcher.add_child_handler = refuse
    try:
        flavour.run(main())
    finally:
        asyncio.get_event_loop_policy()._watcher = None


@pytest.mark.only("ferroloop")
def test_without_process_descriptors(flavour):
    """A thread waits instead, as on asyncio."""
    loop = flavour.new_loop()
    loop._watch_child = lambda *arguments: False
    with asyncio.Runner(loop_factory=lambda: loop) as runner:

        async def main():
            statuses = [await (await shell(f"exit {i}")).wait() for i in range(3)]
            assert statuses == [0, 1, 2]

        runner.run(main())


# --- load --------------------------------------------------------------------------------------


def children():
    """This process's children, zombies included."""
    with open(f"/proc/self/task/{os.getpid()}/children") as listing:
        return listing.read().split()


@pytest.mark.mode("plain")
@pytest.mark.timeout(180)
def test_two_thousand_children(run):
    """50 at a time; the leak check looks for their descriptors."""
    before = children()

    async def spawn(numbers):
        wrong = []
        for number in numbers:
            process = await shell(f"exit {number % 256}", stdout=PIPE if number % 5 == 0 else None)
            status = await process.wait()
            if status != number % 256:
                wrong.append((number, status))
        return wrong

    async def main():
        numbers = iter(range(2000))
        assert await asyncio.gather(*[spawn(numbers) for _ in range(50)]) == [[]] * 50
        assert children() == before

    run(main())


@pytest.mark.mode("plain")
@pytest.mark.timeout(180)
def test_256_mebibytes_through_cat(run):
    chunk = os.urandom(1 << 20)

    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)

        async def feed():
            for _ in range(256):
                process.stdin.write(chunk)
                await process.stdin.drain()
            process.stdin.close()

        async def check():
            for _ in range(256):
                if await process.stdout.readexactly(len(chunk)) != chunk:
                    return False
            return await process.stdout.read() == b""

        _, same = await asyncio.gather(feed(), check())
        assert same
        assert await process.wait() == 0

    run(main())
