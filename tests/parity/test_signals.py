"""Signal handlers, Ctrl-C and SystemExit, with real child processes."""

import asyncio
import os
import signal
import threading

import pytest

from ..support.programs import Program, run_program


@pytest.fixture(autouse=True)
def handlers_restored():
    """Checks that every handler is restored after the loop is closed."""
    # A shell starts background jobs with SIGINT ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    kept = {n: signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)}
    yield
    assert {n: signal.getsignal(n) for n in kept} == kept
    assert signal.set_wakeup_fd(-1) == -1
    signal.signal(signal.SIGINT, inherited)


def deliver(loop, number, until):
    """Send a signal to this process and run the loop until `until` is not empty."""

    async def wait():
        os.kill(os.getpid(), number)
        for _ in range(1000):
            if until:
                return
            await asyncio.sleep(0.001)

    loop.run_until_complete(wait())


def test_handler_is_called_with_its_arguments(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda *args: seen.append(args), 1, "two")
    deliver(loop, signal.SIGUSR1, seen)
    assert seen == [(1, "two")]
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


def test_handler_runs_in_the_loop(loop):
    seen = []

    def handler():
        seen.append(asyncio.get_running_loop())

    loop.add_signal_handler(signal.SIGUSR1, handler)
    deliver(loop, signal.SIGUSR1, seen)
    assert seen == [loop]
    loop.remove_signal_handler(signal.SIGUSR1)


def test_adding_again_replaces(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "first")
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "second")
    deliver(loop, signal.SIGUSR1, seen)
    assert seen == ["second"]
    loop.remove_signal_handler(signal.SIGUSR1)


def test_several_signals(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, seen.append, 2)
    deliver(loop, signal.SIGUSR2, seen)
    assert seen == [2]
    loop.remove_signal_handler(signal.SIGUSR2)
    seen.clear()
    deliver(loop, signal.SIGUSR1, seen)
    assert seen == [1]
    loop.remove_signal_handler(signal.SIGUSR1)


def test_close_removes_the_handlers(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    loop.close()


def test_sigint_default_is_restored(loop):
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        loop.add_signal_handler(signal.SIGINT, print)
        loop.remove_signal_handler(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("bad", ["text", None, 1.5])
def test_a_signal_is_an_int(loop, bad):
    for call in (
        lambda: loop.add_signal_handler(bad, print),
        lambda: loop.remove_signal_handler(bad),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == f"sig must be an int, not {bad!r}"


@pytest.mark.parametrize("bad", [-1, 0, 1000])
def test_a_signal_is_a_valid_number(loop, bad):
    for call in (
        lambda: loop.add_signal_handler(bad, print),
        lambda: loop.remove_signal_handler(bad),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == f"invalid signal number {bad}"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_signals_that_cannot_be_caught(loop, number):
    with pytest.raises(RuntimeError) as caught:
        loop.add_signal_handler(number, print)
    assert str(caught.value) == f"sig {number} cannot be caught"


def test_coroutines_are_refused_as_handlers(loop):
    async def handler():
        pass

    coroutine = handler()
    for thing in (handler, coroutine):
        with pytest.raises(TypeError) as caught:
            loop.add_signal_handler(signal.SIGUSR1, thing)
        assert str(caught.value) == "coroutines cannot be used with add_signal_handler()"
    coroutine.close()


def test_closed_loop(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_signal_handler(signal.SIGUSR1, print)


def test_only_the_main_thread_may_add(flavour):
    found = []

    def work():
        loop = flavour.new_loop()
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except (RuntimeError, ValueError) as error:
            found.append((type(error), str(error)))
        finally:
            loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    ((kind, text),) = found
    assert kind is RuntimeError
    assert text == "set_wakeup_fd only works in main thread of the main interpreter"


def test_exception_in_a_handler(loop):
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(context["message"]))

    def fail():
        raise ZeroDivisionError

    loop.add_signal_handler(signal.SIGUSR1, fail)
    deliver(loop, signal.SIGUSR1, reported)
    loop.remove_signal_handler(signal.SIGUSR1)
    loop.set_exception_handler(None)
    assert len(reported) == 1
    assert reported[0].startswith("Exception in callback test_exception_in_a_handler.<locals>.fail")


def test_python_handlers_run_while_the_loop_waits(loop):
    """Handlers of signal.signal(), unknown to the loop, run when the signal arrives, not later."""

    def handler(*args):
        seen.append(loop.time())
        loop.call_later(0.05, loop.stop)

    seen = []
    before = signal.signal(signal.SIGUSR1, handler)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        start = loop.time()
        timer.start()
        loop.call_later(1.0, loop.stop)
        loop.run_forever()
        assert len(seen) == 1
        assert seen[0] - start < 0.8
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_python_handler_that_raises(loop):
    def handler(*args):
        raise LookupError("from the handler")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        loop.call_later(0.02, os.kill, os.getpid(), signal.SIGUSR1)
        loop.call_later(5, loop.stop)
        reported = []

        def report(loop, context):
            reported.append(context["exception"])
            loop.call_later(0.05, loop.stop)

        loop.set_exception_handler(report)
        try:
            loop.run_forever()
        except LookupError as error:
            reported.append(error)
        assert [str(error) for error in reported] == ["from the handler"]
        reported.clear()
    finally:
        loop.set_exception_handler(None)
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_interrupts_an_idle_loop(flavour):
    source = """
    loop = new_event_loop()
    loop.call_soon(print, "ready")
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        print("interrupted", loop.is_running(), loop.is_closed())
    loop.close()
    """
    with Program(flavour, source) as program:
        program.wait_for_line("ready")
        program.send_signal(signal.SIGINT)
        assert program.finish(10) == (0, "interrupted False False\n", "")


def test_ctrl_c_interrupts_a_busy_loop(flavour):
    source = """
    loop = new_event_loop()
    def again():
        loop.call_soon(again)
    loop.call_soon(print, "ready")
    loop.call_soon(again)
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        print("interrupted")
    loop.close()
    """
    with Program(flavour, source) as program:
        program.wait_for_line("ready")
        program.send_signal(signal.SIGINT)
        assert program.finish(10) == (0, "interrupted\n", "")


def test_ctrl_c_cancels_the_main_task(flavour):
    source = """
    async def main():
        try:
            print("ready")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled")
            await asyncio.sleep(0.01)
            print("cleaned up")
            raise
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    except KeyboardInterrupt:
        print("interrupted")
    """
    with Program(flavour, source) as program:
        program.wait_for_line("ready")
        program.send_signal(signal.SIGINT)
        assert program.finish(10) == (0, "cancelled\ncleaned up\ninterrupted\n", "")


def test_ctrl_c_twice(flavour):
    source = """
    async def main():
        print("ready")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled")
            while True:
                time.sleep(0.01)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    except KeyboardInterrupt:
        print("interrupted")
    """
    with Program(flavour, source) as program:
        program.wait_for_line("ready")
        program.send_signal(signal.SIGINT)
        program.wait_for_line("cancelled")
        program.send_signal(signal.SIGINT)
        status, out, _errors = program.finish(10)
        assert (status, out) == (0, "interrupted\n")


def test_uncaught_ctrl_c_kills_the_process_with_sigint(flavour):
    source = """
    async def main():
        print("ready")
        await asyncio.sleep(60)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """
    with Program(flavour, source) as program:
        program.wait_for_line("ready")
        program.send_signal(signal.SIGINT)
        status, out, errors = program.finish(10)
        assert (status, out) == (-signal.SIGINT, "")
        assert errors.rstrip().endswith("KeyboardInterrupt")


def test_exit_status(flavour):
    source = """
    async def main():
        await asyncio.sleep(0.01)
        sys.exit(7)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """
    assert run_program(flavour, source) == (7, "", "")


def test_exit_from_a_background_task(flavour):
    source = """
    async def background():
        await asyncio.sleep(0.01)
        sys.exit(8)
    async def main():
        task = asyncio.create_task(background())
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("main cancelled")
            raise
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """
    status, out, _errors = run_program(flavour, source)
    assert (status, out) == (8, "main cancelled\n")


def test_sigterm_handler_stops_a_server(flavour):
    source = """
    async def main():
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        print("ready")
        await stop.wait()
        server.close()
        await server.wait_closed()
        print("stopped")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """
    with Program(flavour, source) as program:
        program.wait_for_line("ready")
        program.send_signal(signal.SIGTERM)
        assert program.finish(10) == (0, "stopped\n", "")


@pytest.mark.only("ferroloop")
def test_a_signal_just_before_the_sleep(flavour):
    """The loop reads its clock last before it sleeps; this clock is C code that raises a signal."""
    source = """
    import ctypes, functools
    seen = []

    def handler(*_):
        seen.append(1)
        loop.call_soon_threadsafe(loop.stop if len(seen) == 20 else int)

    signal.signal(signal.SIGUSR1, handler)
    loop = new_event_loop()
    loop.call_later(1000, print, "late")
    loop.time = functools.partial(ctypes.CDLL(None)["raise"], signal.SIGUSR1)
    loop.run_forever()
    loop.close()
    print(len(seen) >= 20)
    """
    with Program(flavour, source) as program:
        assert program.finish(10) == (0, "True\n", "")


def test_wakeup_descriptor_of_the_program_is_kept(flavour):
    source = """
    import socket
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
    signal.set_wakeup_fd(left.fileno())

    async def main():
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.01)
        print(list(right.recv(100)) == [signal.SIGUSR1])

    loop = new_event_loop()
    loop.run_until_complete(main())
    print(signal.set_wakeup_fd(-1) == left.fileno())
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    print(signal.set_wakeup_fd(-1))
    """
    assert run_program(flavour, source) == (0, "handled\nTrue\nTrue\n-1\n", "")


def test_wakeup_descriptor_set_while_the_loop_runs(flavour):
    source = """
    import socket
    left, right = socket.socketpair()
    left.setblocking(False)

    async def main():
        await asyncio.sleep(0.01)
        signal.set_wakeup_fd(left.fileno())
        await asyncio.sleep(0.01)

    loop = new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    print(signal.set_wakeup_fd(-1) == left.fileno())
    """
    assert run_program(flavour, source) == (0, "True\n", "")


def test_signal_storm_loses_no_handler_call(flavour):
    source = """
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
        def send():
            for _ in range(100):
                os.kill(os.getpid(), signal.SIGUSR1)
        await loop.run_in_executor(None, send)
        for _ in range(100):
            await asyncio.sleep(0.001)
        print(0 < len(seen) <= 100)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """
    assert run_program(flavour, source) == (0, "True\n", "")
