"""Asynchronous generators: hooks, finalization, shutdown_asyncgens."""

import asyncio
import gc
import sys
import threading

import pytest


async def numbers(log, count=10):
    try:
        for i in range(count):
            await asyncio.sleep(0)
            yield i
    finally:
        await asyncio.sleep(0)
        log.append("closed")


async def first(generator):
    """The first value, requested while the loop runs, which registers the generator."""
    return await anext(generator)


def test_hooks_are_set_while_running(loop):
    before = sys.get_asyncgen_hooks()
    seen = []
    loop.call_soon(lambda: seen.append(sys.get_asyncgen_hooks()))
    loop.call_soon(loop.stop)
    loop.run_forever()
    (hooks,) = seen
    assert hooks.firstiter == loop._asyncgen_firstiter_hook
    assert hooks.finalizer == loop._asyncgen_finalizer_hook
    assert sys.get_asyncgen_hooks() == before


def test_previous_hooks_are_restored(loop):
    def hook(generator):
        pass

    sys.set_asyncgen_hooks(firstiter=hook)
    try:
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert sys.get_asyncgen_hooks().firstiter is hook
    finally:
        sys.set_asyncgen_hooks(None, None)


def test_exhausted(run):
    async def main():
        log = []
        found = [i async for i in numbers(log, 4)]
        return found, log

    assert run(main()) == ([0, 1, 2, 3], ["closed"])


def test_a_dropped_generator_is_closed_by_the_loop(run):
    async def main():
        log = []
        async for _ in numbers(log):
            break
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
        return log

    assert run(main()) == ["closed"]


def test_shutdown_closes_open_generators(loop):
    log = []
    generators = [numbers(log) for _ in range(3)]

    async def start():
        for generator in generators:
            await anext(generator)

    loop.run_until_complete(start())
    assert log == []
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert log == ["closed"] * 3


def test_shutdown_without_generators(loop):
    assert loop.run_until_complete(loop.shutdown_asyncgens()) is None


def test_shutdown_reports_errors(loop):
    reported = []

    async def bad():
        try:
            yield 1
        finally:
            raise ZeroDivisionError("while closing")

    generator = bad()
    loop.run_until_complete(first(generator))
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.set_exception_handler(None)
    (context,) = reported
    assert context["message"] == (
        f"an error occurred during closing of asynchronous generator {generator!r}"
    )
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["asyncgen"] is generator
    reported.clear()


def test_new_generator_after_shutdown(loop):
    loop.run_until_complete(loop.shutdown_asyncgens())
    generator = numbers([])
    with pytest.warns(ResourceWarning) as caught:
        loop.run_until_complete(first(generator))
    (warning,) = caught
    assert str(warning.message) == (
        f"asynchronous generator {generator!r} was scheduled after loop.shutdown_asyncgens() call"
    )
    loop.run_until_complete(generator.aclose())


def test_asyncio_run_closes_generators(flavour):
    log = []

    async def main():
        generator = numbers(log)
        await anext(generator)
        main.keep = generator

    flavour.run(main())
    del main.keep
    assert log == ["closed"]


def test_generator_dropped_in_another_thread(run):
    async def main():
        log = []
        holder = [numbers(log)]
        await anext(holder[0])
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
        for _ in range(200):
            if log:
                break
            await asyncio.sleep(0.001)
        return log

    assert run(main()) == ["closed"]


def test_exception_inside(run):
    async def main():
        log = []
        with pytest.raises(LookupError):
            async for _ in numbers(log):
                raise LookupError
        gc.collect()
        await asyncio.sleep(0.001)
        return log

    assert run(main()) == ["closed"]


def test_cancelled_while_iterating(run):
    async def main():
        log = []

        async def consume():
            generator = numbers(log, 10**6)
            async for _ in generator:
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return log

    assert run(main()) == ["closed"]
