//! Rust code awaits Python code, threads and other executors.

use ferroloop::{into_future, spawn_blocking, spawn_local};
use futures_util::future::join;
use pyo3::prelude::*;

use crate::support::{Case, Factory, run, runtime};

pub const CASES: &[Case] = &[
    ("any Python awaitable is awaited", awaitables),
    ("Python's exceptions are errors", exceptions),
    ("objects that are not awaitable are refused", refused),
    ("a future of another loop is refused", other_loop),
    ("a task that awaits itself gets an error", own_task),
    ("a blocking call runs in a thread of the pool", blocking),
    ("a panicking blocking call is an error", blocking_panic),
    ("a channel of another thread is awaited", channel),
];

fn expression(py: Python<'_>, code: &std::ffi::CStr) -> PyResult<ferroloop::PythonFuture> {
    into_future(py.eval(code, None, None)?)
}

fn awaitables() {
    runtime()
        .block_on(async {
            let sleep = Python::attach(|py| {
                expression(py, c"__import__('asyncio').sleep(0.001, 'slept')")
            })?;
            let future = Python::attach(|py| {
                py.run(
                    c"
import asyncio
loop = asyncio.get_running_loop()
ours = loop.create_future()
loop.call_soon(ours.set_result, 'ours')
theirs = asyncio.Future(loop=loop)
loop.call_soon(theirs.set_result, 'theirs')
class Awaitable:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return 'awaitable'
",
                    None,
                    None,
                )
            });
            future?;
            let main = |code: &'static std::ffi::CStr| Python::attach(|py| expression(py, code));
            let (slept, ours) = join(sleep, main(c"__import__('__main__').ours")?).await;
            let (theirs, awaitable) = join(
                main(c"__import__('__main__').theirs")?,
                main(c"__import__('__main__').Awaitable()")?,
            )
            .await;
            Python::attach(|py| {
                let texts: PyResult<Vec<String>> = [slept, ours, theirs, awaitable]
                    .into_iter()
                    .map(|result| result.and_then(|value| value.extract(py)))
                    .collect();
                assert_eq!(texts?, ["slept", "ours", "theirs", "awaitable"]);
                Ok(())
            })
        })
        .unwrap()
        .unwrap_or_else(|error: PyErr| panic!("{error}"));
}

fn exceptions() {
    let start: Factory = |py| {
        spawn_local(py, async {
            let failing = Python::attach(|py| {
                into_future(py.import("__main__")?.getattr("failing")?.call0()?)
            })?;
            failing.await
        })
    };
    let source = "
import __main__
error = LookupError('lost')
async def failing():
    await asyncio.sleep(0)
    raise error
async def main():
    __main__.failing = failing
    try:
        await start()
    except LookupError as raised:
        assert raised is error
    else:
        raise AssertionError('nothing raised')
    del __main__.failing
";
    run(source, &[("start", start)]).unwrap();
}

fn refused() {
    let error = runtime()
        .block_on(async { Python::attach(|py| expression(py, c"1")).map(drop).unwrap_err() })
        .unwrap();
    let expected = "TypeError: An asyncio.Future, a coroutine or an awaitable is required";
    assert_eq!(error.to_string(), expected);
}

fn blocking() {
    let here = std::thread::current().id();
    let there = runtime()
        .block_on(async {
            let call = Python::attach(|py| spawn_blocking(py, || std::thread::current().id()))?;
            call.await
        })
        .unwrap()
        .unwrap();
    assert_ne!(here, there);
}

fn blocking_panic() {
    let error = runtime()
        .block_on(async {
            let call = Python::attach(|py| spawn_blocking(py, || panic!("stuck")))?;
            call.await
        })
        .unwrap()
        .map(|_: ()| ())
        .unwrap_err();
    assert_eq!(error.to_string(), "RuntimeError: Rust future panicked: stuck");
}

fn channel() {
    // Senders without the GIL, in a thread that Python does not know.
    let (mut send, mut receive) = futures_channel::mpsc::channel::<u32>(4);
    let thread = std::thread::spawn(move || {
        for number in 0..2000 {
            while let Err(full) = send.try_send(number) {
                assert!(full.is_full());
                std::thread::yield_now();
            }
            if number % 100 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    });
    let sum = runtime()
        .block_on(async move {
            let mut sum = 0;
            while let Some(number) = futures_util::StreamExt::next(&mut receive).await {
                sum += number;
            }
            sum
        })
        .unwrap();
    thread.join().unwrap();
    assert_eq!(sum, 1999 * 1000);
}

fn other_loop() {
    let start: Factory = |py| {
        spawn_local(py, async {
            let other = Python::attach(|py| into_future(py.import("__main__")?.getattr("other")?))?;
            other.await
        })
    };
    let source = "
import ferroloop, __main__
async def main():
    loop = ferroloop.new_event_loop()
    async def sleep():
        await asyncio.sleep(60)
    for other in (
        loop.create_future(),
        loop.create_task(sleep()),
        asyncio.Future(loop=loop),
        asyncio.new_event_loop().create_future(),
    ):
        __main__.other = other
        texts = []
        for refused in start(), start2(other):
            try:
                await refused
            except ValueError as error:
                texts.append(str(error))
            else:
                raise AssertionError('awaited')
        assert texts[0] == texts[1], texts
        assert not other.cancelled(), other
    loop.close()
    del __main__.other

async def start2(other):
    asyncio.ensure_future(other, loop=asyncio.get_running_loop())
";
    run(source, &[("start", start)]).unwrap();
}

fn own_task() {
    let start: Factory = |py| {
        spawn_local(py, async {
            ferroloop::yield_now().await;
            let own = Python::attach(|py| {
                into_future(py.import("asyncio")?.call_method0("current_task")?)
            })?;
            let error = own.await.unwrap_err();
            ferroloop::yield_now().await;
            Python::attach(|py| error.value(py).str().map(|text| text.to_string()))
        })
    };
    let make: Factory = |py| {
        ferroloop::coroutine(py, "make", async {
            let own = Python::attach(|py| {
                into_future(py.import("asyncio")?.call_method0("current_task")?)
            })?;
            own.await
        })
    };
    let source = "
import _asyncio
async def python():
    await asyncio.current_task()
async def awaiting():
    await make()
async def main():
    text = await start()
    assert text.startswith('Task cannot await on itself: <Task pending '), text
    for awaited in (
        asyncio.create_task(python()),
        asyncio.create_task(make()),
        asyncio.create_task(awaiting()),
        _asyncio.Task(make()),
    ):
        try:
            await awaited
        except RuntimeError as error:
            assert str(error).startswith('Task cannot await on itself: <Task pending '), error
        else:
            raise AssertionError('awaited itself')
";
    run(source, &[("start", start), ("make", make)]).unwrap();
}
