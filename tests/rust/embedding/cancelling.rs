//! Cancelling drops: exactly once, in the loop's thread, at every await point.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ferroloop::{
    UnixStream, coroutine, into_future, sleep, spawn_blocking, spawn_local, yield_now,
};
use futures_util::AsyncReadExt;
use pyo3::prelude::*;

use crate::support::{
    Case, Factory, counted_drop, forever, fresh_counter, module, run, runtime, with_counted_drop,
};

pub const CASES: &[Case] = &[
    ("cancelling at each await point drops once", every_point),
    ("cancelling before the first poll drops once", before_the_first),
    ("closing the loop drops live futures", close),
    ("closing the loop drops what Python still references", close_with_references),
    ("a coroutine released in another thread is dropped in the loop's thread", other_thread),
    ("a panicking destructor does no harm", panicking_drop),
    ("dropping an awaited coroutine cancels it", inner_task),
    ("closing the loop is as silent as for Python's coroutines", silent_close),
    ("a long chain of futures is dropped on a small stack", deep_chain),
];

/// Awaits every kind of future in turn.
fn await_everything() -> Pin<Box<dyn Future<Output = PyResult<()>>>> {
    Box::pin(async {
        let _outer = counted_drop();
        with_counted_drop(yield_now()).await;
        with_counted_drop(sleep(Duration::from_millis(1))).await;
        let python = Python::attach(|py| {
            into_future(py.import("asyncio")?.call_method1("sleep", (0.001,))?)
        })?;
        with_counted_drop(python).await?;
        let blocking = Python::attach(|py| {
            spawn_blocking(py, || std::thread::sleep(Duration::from_millis(1)))
        })?;
        with_counted_drop(blocking).await?;
        let (mut reader, writer) = UnixStream::pair()?;
        let write = spawn_blocking_write(writer)?;
        with_counted_drop(reader.read_exact(&mut [0])).await?;
        with_counted_drop(write).await??;
        with_counted_drop(yield_now()).await;
        Ok(())
    })
}

fn spawn_blocking_write(
    writer: UnixStream,
) -> PyResult<impl Future<Output = PyResult<std::io::Result<()>>>> {
    let mut writer = writer.into_std();
    Python::attach(|py| {
        spawn_blocking(py, move || {
            std::thread::sleep(Duration::from_millis(1));
            std::io::Write::write_all(&mut writer, b"x")
        })
    })
}

fn every_point() {
    let start: Factory = |py| spawn_local(py, await_everything());
    let source = "
async def cancelled_after(turns):
    task = start()
    for _ in range(turns):
        await asyncio.sleep(0)
    cancelled = task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        assert cancelled and task.cancelled()
        return True
    assert not cancelled
    return False

async def main():
    for turns in range(40):
        await cancelled_after(turns)
    # Also while each wait is a long one.
    for delay in [step * 0.0002 for step in range(1, 40)]:
        task = start()
        await asyncio.wait([task], timeout=delay)
        task.cancel()
        await asyncio.wait([task])
";
    let drops = fresh_counter();
    run(source, &[("start", start)]).unwrap();
    assert!(drops.count() > 10);
    drops.assert_here();
    assert_eq!(drops.count(), drops.made(), "each dropped once");
}

fn before_the_first() {
    let drops = fresh_counter();
    let start: Factory = |py| {
        let counted_drop = counted_drop();
        spawn_local(py, async move {
            let _counted = counted_drop;
            forever().await
        })
    };
    let source = "
async def main():
    task = start()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return
    raise AssertionError('not cancelled')
";
    run(source, &[("start", start)]).unwrap();
    assert_eq!(drops.count(), 1);
    drops.assert_here();
}

const FOREVER: Factory = |py| spawn_local(py, with_counted_drop(forever()));

fn close() {
    let drops = fresh_counter();
    let source = "
async def main():
    globals()['tasks'] = [start() for _ in range(5)]
    await asyncio.sleep(0.001)
";
    run(source, &[("start", FOREVER)]).unwrap();
    assert_eq!(drops.count(), 5);
    drops.assert_here();
}

fn close_with_references() {
    // Not with a Runner, which cancels everything first.
    let drops = fresh_counter();
    runtime().close().unwrap();
    Python::attach(|py| {
        let source = "
import ferroloop, gc
loop = ferroloop.new_event_loop()
errors = []
loop.set_exception_handler(lambda loop, context: errors.append(context['message']))
async def main():
    tasks = [start() for _ in range(3)]
    await asyncio.sleep(0.001)
    return tasks + [start()]
tasks = loop.run_until_complete(main())
loop.close()
";
        let globals = module(py, source, &[("start", FOREVER)])?;
        assert_eq!(drops.count(), 4);
        drops.assert_here();
        py.run(
            c"
try:
    tasks[0].get_coro().send(None)
except RuntimeError as error:
    assert str(error) == 'Event loop is closed', error
else:
    raise AssertionError('resumed')
del tasks
gc.collect()
assert set(errors) == {'Task was destroyed but it is pending!'}, errors
",
            Some(&globals),
            None,
        )
    })
    .unwrap();
    assert_eq!(drops.count(), 4);
}

fn other_thread() {
    let drops = fresh_counter();
    let make: Factory = |py| {
        let counted_drop = counted_drop();
        coroutine(py, "held", async move {
            let _counted = counted_drop;
            forever().await
        })
    };
    let count: Factory = |py| {
        let count = crate::support::DROPS.with(|drops| drops.borrow().count());
        Ok(count.into_pyobject(py)?.into_any())
    };
    let source = "
import threading
async def main():
    held = [make(), make(), make()]
    held[0].send(None)
    held[2].close()
    thread = threading.Thread(target=held.clear)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.001)
    globals()['before'] = count()
    make().close()
    assert count() == 4, count()
    assert before >= 2, before
import warnings
warnings.simplefilter('ignore')
";
    run(source, &[("make", make), ("count", count)]).unwrap();
    assert_eq!(drops.count(), 4);
    drops.assert_here();
}

fn panicking_drop() {
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let start: Factory = |py| {
        spawn_local(py, async {
            let _panics = PanicsOnDrop;
            forever().await
        })
    };
    let source = "
async def main():
    task = start()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    left = start()
    await asyncio.sleep(0)
";
    run(source, &[("start", start)]).unwrap();
}

fn inner_task() {
    let start: Factory = |py| {
        spawn_local(py, async {
            let inner = Python::attach(|py| {
                into_future(py.import("__main__")?.getattr("inner")?.call0()?)
            })?;
            inner.await
        })
    };
    let source = "
import __main__
log = []
async def inner():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        log.append('cancelled')
        raise
async def main():
    __main__.inner = inner
    task = start()
    await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert log == ['cancelled'], log
    del __main__.inner
";
    run(source, &[("start", start)]).unwrap();
}

fn silent_close() {
    let start: Factory = |py| {
        spawn_local(py, async {
            let awaited = Python::attach(|py| {
                let make = py.import("__main__")?.getattr("make")?;
                PyResult::Ok((into_future(make.call0()?)?, into_future(make.call0()?)?))
            })?;
            awaited.0.await?;
            awaited.1.await
        })
    };
    runtime().close().unwrap();
    let source = "
import _asyncio, ferroloop, gc, sys, __main__
log, reports = [], []
async def inner():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        log.append('cancelled')
        raise
makers = (
    lambda: loop.create_task(inner()),
    lambda: _asyncio.Task(inner()),
    lambda: loop.create_future(),
    lambda: asyncio.gather(inner(), inner()),
)
async def main():
    tasks = [start()]
    await asyncio.sleep(0.001)
    return tasks
sys.unraisablehook = lambda unraisable: reports.append(repr(unraisable.exc_value))
for __main__.make in makers:
    loop = ferroloop.new_event_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(context['message']))
    tasks = loop.run_until_complete(main())
    loop.close()
    gc.collect()
    assert (log, reports) == ([], []), (log, reports)
    # This task was not dropped by a Rust future.
    del tasks
    gc.collect()
    assert reports == ['Task was destroyed but it is pending!'], reports
    reports.clear()
sys.unraisablehook = sys.__unraisablehook__
del __main__.make
";
    Python::attach(|py| module(py, source, &[("start", start)]).map(drop)).unwrap();
}

/// Each future of the chain awaits a task that runs the next one.
fn chain(length: usize) -> Pin<Box<dyn Future<Output = PyResult<()>>>> {
    Box::pin(with_counted_drop(async move {
        if length == 0 {
            return forever().await;
        }
        let next = Python::attach(|py| into_future(spawn_local(py, chain(length - 1))?))?;
        next.await.map(drop)
    }))
}

fn deep_chain() {
    const LENGTH: usize = 20_000;
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(|| {
        let drops = fresh_counter();
        let grow = || async {
            let task = Python::attach(|py| spawn_local(py, chain(LENGTH)).map(Bound::unbind));
            for _ in 0..LENGTH + 10 {
                yield_now().await;
            }
            task.unwrap()
        };
        let runtime = runtime();
        runtime
            .block_on(async move {
                let task = grow().await;
                Python::attach(|py| task.bind(py).call_method0("cancel").map(drop)).unwrap();
                for _ in 0..3 * LENGTH {
                    yield_now().await;
                }
            })
            .unwrap();
        assert_eq!(drops.count(), LENGTH + 1, "cancelled");
        runtime.block_on(async move { drop(grow().await) }).unwrap();
        // Without cancelling first, as `Runtime::close` would.
        Python::attach(|py| {
            let event_loop = runtime.event_loop(py);
            event_loop.setattr("call_exception_handler", py.get_type::<pyo3::types::PyDict>())?;
            event_loop.call_method0("close").map(drop)
        })
        .unwrap();
        assert_eq!(drops.count(), 2 * (LENGTH + 1), "dropped by close()");
        drops.assert_here();
    });
    thread.unwrap().join().unwrap();
}
