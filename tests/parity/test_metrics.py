"""`loop.metrics()` and its exporters. asyncio has no metrics, so there is nothing to compare."""

import asyncio
import dataclasses
import re
import socket
import threading
import time

import pytest

from ..support.certificates import client_context, server_context
from ..support.protocols import Recorder

pytestmark = pytest.mark.only("ferroloop")


def test_a_fresh_loop_has_counted_nothing(loop):
    metrics = loop.metrics()
    assert metrics.number == loop.metrics().number >= 0
    assert (metrics.turns, metrics.callbacks, metrics.polls, metrics.lag.count) == (0, 0, 0, 0)
    assert metrics.time_running == metrics.time_idle == metrics.utilization == 0.0
    assert metrics.lag.p99 == metrics.lag.max == 0.0
    assert metrics.pool is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.turns = 1
    with pytest.raises(TypeError):
        metrics.transports["stream"] = 1


def test_turns_callbacks_and_task_steps(loop):
    left = 10

    def again():
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(again)
            loop.call_soon(int)
        else:
            loop.stop()

    loop.call_soon(again)
    loop.run_forever()
    metrics = loop.metrics()
    assert metrics.turns == 10
    assert metrics.callbacks == 10 + 9
    assert metrics.task_steps == 0
    assert metrics.ready_max == 2

    async def steps():
        for _ in range(5):
            await asyncio.sleep(0)

    loop.run_until_complete(steps())
    assert loop.metrics().task_steps == 6


def test_callbacks_are_counted_when_one_ends_the_run(loop):
    def interrupt():
        raise KeyboardInterrupt

    loop.call_soon(int)
    loop.call_soon(interrupt)
    loop.call_soon(int)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    metrics = loop.metrics()
    assert (metrics.callbacks, metrics.ready) == (2, 1)


def test_time_asleep_and_at_work(loop):
    async def main():
        await asyncio.sleep(0.1)
        time.sleep(0.05)
        # The time is known even in the middle of a turn.
        return loop.metrics()

    metrics = loop.run_until_complete(main())
    assert 0.09 < metrics.time_idle < 5
    assert 0.05 <= metrics.time_busy < 5
    assert metrics.time_running == pytest.approx(metrics.time_idle + metrics.time_busy)
    assert 0 < metrics.utilization < 1
    before = loop.metrics()
    time.sleep(0.02)
    assert loop.metrics().time_running == before.time_running  # not running


def test_a_long_turn_is_in_the_lag(loop):
    async def main():
        await asyncio.sleep(0.001)
        time.sleep(0.05)
        await asyncio.sleep(0.02)  # no lag: the loop sleeps
        for _ in range(100):
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    lag = loop.metrics().lag
    assert 0.05 <= lag.max < 5
    assert lag.p50 <= lag.p90 <= lag.p99 <= lag.max
    assert lag.p50 < 0.02
    assert lag.quantile(1) == lag.max
    assert lag.sum >= 0.05
    bounds = [bound for bound, _ in lag.buckets]
    assert bounds == sorted(bounds)
    assert sum(count for _, count in lag.buckets) == lag.count
    with pytest.raises(ValueError, match="between 0 and 1"):
        lag.quantile(1.5)


@pytest.mark.parametrize("pause", [0, 0.01])
@pytest.mark.parametrize("quick_turns", [0, 1, 500])
def test_each_of_several_stalls_is_in_the_lag(loop, quick_turns, pause):
    """Even when the loop has no other reason to read the clock: between sleeps of zero."""

    async def main():
        for _ in range(quick_turns):
            await asyncio.sleep(0)
        for _ in range(6):
            await asyncio.sleep(pause)
            time.sleep(0.05)
            # Turns of less than half a microsecond in between.
            await asyncio.sleep(0)
        await asyncio.sleep(pause)

    loop.run_until_complete(main())
    lag = loop.metrics().lag
    stalls = sum(count for bound, count in lag.buckets if bound > 0.05)
    # The machine may cause additional stalls.
    assert stalls >= 6, lag


def test_stalls_in_a_row_after_quick_turns(loop):
    left = 2000

    def again():
        nonlocal left
        left -= 1
        if left < 16:
            time.sleep(0.02)
        if left:
            loop.call_soon(again)
        else:
            loop.stop()

    loop.call_soon(again)
    loop.run_forever()
    lag = loop.metrics().lag
    stalls = sum(count for bound, count in lag.buckets if bound > 0.02)
    # With turns as quick as these, up to eight of the first ones may be counted as one.
    assert stalls >= 9, lag
    assert lag.sum >= 16 * 0.02


def test_timers_pending_and_cancelled(loop):
    handles = [loop.call_later(60 + i, int) for i in range(4)]
    handles[0].cancel()
    metrics = loop.metrics()
    assert (metrics.timers, metrics.timers_cancelled) == (3, 1)
    for handle in handles:
        handle.cancel()


def test_streams_accepts_and_bytes(loop):
    async def main():
        server = await loop.create_server(lambda: Recorder(), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, protocol = await loop.create_connection(Recorder, *address)
        transport.write(b"x" * 1000)
        transport.writelines([b"y" * 10, bytearray(20)])
        while loop.metrics().bytes_received < 1030:
            await asyncio.sleep(0.001)
        metrics = loop.metrics()
        assert metrics.accepts == 1
        assert metrics.bytes_sent == metrics.bytes_received == 1030
        assert metrics.transports == {"stream": 2, "datagram": 0, "pipe": 0, "tls": 0}
        transport.close()
        server.close()
        await server.wait_closed()
        while loop.metrics().transports["stream"]:
            await asyncio.sleep(0.001)

    loop.run_until_complete(main())


def test_pipes(loop):
    async def main():
        write, read = socket.socketpair()
        reader, received = await loop.connect_read_pipe(Recorder, read)
        writer, written = await loop.connect_write_pipe(Recorder, write)
        before = loop.metrics()
        writer.write(bytes(300_000))
        await received.until(lambda: len(received.received) == 300_000)
        metrics = loop.metrics()
        assert metrics.bytes_sent - before.bytes_sent == 300_000
        assert metrics.bytes_received - before.bytes_received == 300_000
        assert metrics.transports["pipe"] == 2
        writer.close()
        await received.done
        await asyncio.sleep(0)
        assert loop.metrics().transports["pipe"] == 0

    loop.run_until_complete(main())


def test_tls(loop):
    async def main():
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_context())
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(
            Recorder, *address, ssl=client_context(), server_hostname="localhost"
        )
        while loop.metrics().transports["tls"] < 2:
            await asyncio.sleep(0.001)
        metrics = loop.metrics()
        assert metrics.transports == {"stream": 2, "datagram": 0, "pipe": 0, "tls": 2}
        # Bytes on the wire, not application bytes.
        assert metrics.bytes_received > 500
        transport.abort()
        server.close()
        await server.wait_closed()
        while any(loop.metrics().transports.values()):
            await asyncio.sleep(0.001)

    loop.run_until_complete(main())


def test_datagrams_and_socket_calls(loop):
    async def main():
        class Receiver(asyncio.DatagramProtocol):
            def datagram_received(self, data, address):
                received.set_result(data)

        received = loop.create_future()
        one, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
        one.sendto(b"12345", one.get_extra_info("sockname"))
        assert await received == b"12345"
        metrics = loop.metrics()
        assert (metrics.bytes_sent, metrics.bytes_received) == (5, 5)
        assert metrics.transports["datagram"] == 1
        one.close()
        await asyncio.sleep(0)
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            await loop.sock_sendall(left, b"123")
            await loop.sock_recv(right, 10)
            await loop.sock_sendall(left, b"12")
            await loop.sock_recv_into(right, bytearray(10))
        metrics = loop.metrics()
        assert (metrics.bytes_sent, metrics.bytes_received) == (10, 10)
        assert metrics.transports["datagram"] == 0

    loop.run_until_complete(main())


def test_the_pool(loop):
    release = threading.Event()

    async def main():
        waiting = [loop.run_in_executor(None, release.wait) for _ in range(50)]
        await asyncio.sleep(0.01)
        pool = loop.metrics().pool
        assert pool.threads == pool.limit < 50
        assert pool.queued == 50 - pool.limit
        assert pool.jobs == 50
        release.set()
        await asyncio.gather(*waiting)
        assert loop.metrics().pool.queued == 0

    loop.run_until_complete(main())


def test_other_threads_read_while_the_loop_runs(loop):
    seen = []

    def look():
        seen.append(loop.metrics())
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=look)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert seen[0].turns >= 1
    assert loop.metrics().threadsafe_calls == 1


def test_metrics_remain_after_close(flavour):
    loop = flavour.new_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert loop.metrics().turns > 0


def test_live_loops_are_those_that_ran(flavour):
    from ferroloop.metrics import live_loops

    before = live_loops()
    first, second = flavour.new_loop(), flavour.new_loop()
    first.run_until_complete(asyncio.sleep(0))
    assert [loop for loop in live_loops() if loop not in before] == [first]
    first.close()
    second.close()
    assert live_loops() == before
    del before


@pytest.mark.mode("debug")
def test_slow_callbacks_of_debug_mode(loop, log):
    loop.slow_callback_duration = 0.005
    loop.call_soon(time.sleep, 0.01)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert loop.metrics().slow_callbacks == 1
    assert "took 0.0" in log.messages()[0]


def test_prometheus_text(loop):
    from ferroloop.metrics import render_prometheus

    loop.run_until_complete(asyncio.sleep(0.01))
    loop.run_until_complete(loop.run_in_executor(None, int))
    text = render_prometheus([loop])
    number = loop.metrics().number
    sample = re.compile(rf'ferroloop_\w+\{{loop="{number}"(,\w+="[^"]+")*\}} [0-9.e+-]+')
    described = re.compile(r"# (HELP|TYPE) ferroloop_\w+ .+")
    lines = text.splitlines()
    assert text.endswith("\n")
    assert not [line for line in lines if not (sample.fullmatch(line) or described.fullmatch(line))]
    assert f'ferroloop_turns_total{{loop="{number}"}} {loop.metrics().turns}' in lines
    buckets = [line for line in lines if line.startswith("ferroloop_lag_seconds_bucket")]
    counts = [int(line.rsplit(" ", 1)[1]) for line in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == loop.metrics().lag.count
    assert render_prometheus([], prefix="x_").count("loop=") == 0


def test_opentelemetry_instruments(loop):
    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    from ferroloop.opentelemetry import instrument
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = metrics.MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    instrument(provider)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.run_until_complete(loop.run_in_executor(None, int))
    (resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "ferroloop"
    found = {metric.name: metric for metric in scope.metrics}
    numbers = loop.metrics()

    def value(name, **attributes):
        wanted = {"ferroloop.loop": numbers.number, **attributes}
        return next(p.value for p in found[name].data.data_points if p.attributes == wanted)

    assert value("ferroloop.turns") == numbers.turns
    assert value("ferroloop.idle") == numbers.time_idle
    assert found["ferroloop.idle"].unit == "s"
    assert value("ferroloop.pool.threads") == 1
    assert value("ferroloop.transports", **{"ferroloop.transport": "stream"}) == 0
    assert value("ferroloop.lag", quantile=0.99) == numbers.lag.p99
    provider.shutdown()


def test_a_label_stays_with_its_loop(flavour):
    from ferroloop.metrics import render_prometheus

    async def steps(count):
        for _ in range(count):
            await asyncio.sleep(0)

    def labels():
        """The label of each loop, identified by its number of steps."""
        line = re.compile(r'ferroloop_task_steps_total\{loop="(\d+)"\} (\d+)')
        found = (line.fullmatch(each) for each in render_prometheus().splitlines())
        return {int(each[2]): each[1] for each in found if each and int(each[2]) >= 10_001}

    loops = [flavour.new_loop() for _ in range(3)]
    for index, loop in enumerate(loops):
        loop.run_until_complete(steps(10_000 * (index + 1)))
    before = labels()
    assert list(before) == [10_001, 20_001, 30_001]
    assert [int(label) for label in before.values()] == [loop.metrics().number for loop in loops]
    loops.pop(0).close()
    assert labels() == {steps: before[steps] for steps in (20_001, 30_001)}
    # A later loop does not reuse the label of a closed one either.
    loops.append(flavour.new_loop())
    loops[-1].run_until_complete(steps(40_000))
    after = labels()
    assert after.pop(40_001) not in before.values()
    assert after == {steps: before[steps] for steps in (20_001, 30_001)}
    for loop in loops:
        loop.close()


def test_every_number_of_a_snapshot_is_exported_once():
    from ferroloop.metrics import METRICS, LoopMetrics, PoolMetrics

    read = set()

    class Pool:
        def __getattr__(self, name):
            read.add(f"pool.{name}")

    class Snapshot:
        pool = Pool()

        def __getattr__(self, name):
            read.add(name)

    for metric in METRICS:
        metric.value(Snapshot())
    loop = {field.name for field in dataclasses.fields(LoopMetrics)}
    pool = {f"pool.{field.name}" for field in dataclasses.fields(PoolMetrics)}
    # A label, and what has a form of its own in each exporter; the limit is a setting.
    own = {"number", "transports", "lag", "pool", "pool.limit"}
    assert read - {"time_busy"} == (loop | pool) - own
    for names in ([m.name for m in METRICS], [m.prometheus_name for m in METRICS]):
        assert len(set(names)) == len(METRICS)
