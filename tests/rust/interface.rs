//! What Rust code can do with the loop. Compiled twice: for ferroloop's crate, as a part of
//! `tests/rust/embedding`, and for `include/ferroloop.rs`, as a part of `tests/rust/extension`. So
//! the same names have the same meaning in both.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::ferroloop::{
    AsyncFd, Blocking, Closed, Direction, Elapsed, ExecutorFuture, Handle, JoinError, JoinHandle,
    PythonFuture, PythonStream, Sleep, SpawnOptions, coroutine, into_future, into_stream,
    run_on_executor, sleep, spawn_blocking, spawn_local, spawn_local_with, timeout, yield_now,
};

/// Makes the coroutine of a case, which fails by an exception or a panic.
pub type Case = for<'py> fn(Python<'py>) -> PyResult<Bound<'py, PyAny>>;

/// Names and coroutines.
pub const CASES: &[(&str, Case)] = &[
    ("a sleep begins with its call", |py| coroutine(py, "sleeping", sleeping())),
    ("a timeout drops its future", |py| coroutine(py, "timing", timing())),
    ("a task has a name and a context", |py| coroutine(py, "naming", naming())),
    ("an awaited coroutine starts at once", |py| coroutine(py, "awaiting", awaiting())),
    ("a blocking call runs in a thread", |py| coroutine(py, "blocking", blocking())),
    ("a generator is a stream", |py| coroutine(py, "iterating", iterating())),
    ("a dropped stream cancels its step", |py| coroutine(py, "leaving", leaving())),
    ("another executor runs a future", |py| coroutine(py, "elsewhere", elsewhere())),
    ("dropping a future on another executor", |py| coroutine(py, "dropping", dropping())),
    ("another thread uses the loop", |py| coroutine(py, "handling", handling())),
    ("a handle outlives its loop", |py| coroutine(py, "outliving", outliving())),
    ("a descriptor is awaited", |py| coroutine(py, "descriptors", descriptors())),
    ("every error becomes an exception", |py| coroutine(py, "converting", converting())),
];

/// A module of Python code with the functions of the cases.
fn helpers(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let globals = PyDict::new(py);
    let source = c"
import asyncio, contextvars

variable = contextvars.ContextVar('variable', default='default')
log = []

def context():
    made = contextvars.copy_context()
    made.run(variable.set, 'set')
    return made

async def double(number):
    log.append(number)
    await asyncio.sleep(0)
    return 2 * number

async def wait():
    try:
        await asyncio.sleep(3600)
    finally:
        log.append('waited')

async def count(stop):
    for number in range(stop):
        await asyncio.sleep(0)
        yield number

async def fail():
    yield 1
    raise ValueError('no more')

async def stuck():
    yield 1
    await wait()
";
    py.run(source, Some(&globals), None)?;
    Ok(globals)
}

/// Calls one of the helpers.
fn call(helpers: &Py<PyDict>, name: &str, argument: Option<i64>) -> PyResult<Py<PyAny>> {
    Python::attach(|py| {
        let function = helpers.bind(py).as_any().get_item(name)?;
        Ok(match argument {
            Some(argument) => function.call1((argument,))?.unbind(),
            None => function.call0()?.unbind(),
        })
    })
}

/// The number of entries in the helpers' log.
fn logged(helpers: &Py<PyDict>) -> PyResult<usize> {
    Python::attach(|py| helpers.bind(py).as_any().get_item("log")?.len())
}

fn made() -> PyResult<Py<PyDict>> {
    Python::attach(|py| Ok(helpers(py)?.unbind()))
}

async fn sleeping() -> PyResult<()> {
    let duration = Duration::from_millis(60);
    let started = Instant::now();
    let slept: Sleep = sleep(duration);
    thread::sleep(duration);
    // Less than a millisecond is left, so this sleep ends before one that begins now.
    let (mut slept, mut other) = (pin!(slept), pin!(sleep(duration)));
    let first = poll_fn(|context| {
        if slept.as_mut().poll(context).is_ready() {
            return Poll::Ready(1);
        }
        other.as_mut().poll(context).map(|()| 2)
    })
    .await;
    assert_eq!(first, 1);
    assert!(started.elapsed() >= duration);
    yield_now().await;
    Ok(())
}

/// Sets a flag when it is dropped.
struct DropFlag(Rc<Cell<bool>>);

impl Drop for DropFlag {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

async fn timing() -> PyResult<()> {
    let dropped = Rc::new(Cell::new(false));
    let flag = DropFlag(dropped.clone());
    let endless = async move {
        let _flag = flag;
        pending::<()>().await;
    };
    assert_eq!(timeout(Duration::from_millis(1), endless).await, Err(Elapsed));
    assert!(dropped.get());
    assert_eq!(timeout(Duration::from_secs(3600), async { 7 }).await?, 7);
    assert_eq!(timeout(Duration::MAX, async { 7 }).await?, 7);
    Ok(())
}

async fn naming() -> PyResult<()> {
    let helpers = made()?;
    let task = |context| {
        let helpers = &helpers;
        Python::attach(|py| {
            let variable = helpers.bind(py).as_any().get_item("variable")?.unbind();
            let context = match context {
                true => Some(helpers.bind(py).as_any().get_item("context")?.call0()?),
                false => None,
            };
            let options = SpawnOptions { name: Some("named".into()), context };
            let task = spawn_local_with(py, options, async move {
                yield_now().await;
                Python::attach(|py| variable.call_method0(py, "get"))
            })?;
            assert_eq!(task.call_method0("get_name")?.extract::<String>()?, "named");
            into_future(task)
        })
    };
    let (set, default) = (task(true)?, task(false)?);
    Python::attach(|py| -> PyResult<()> {
        let refused = SpawnOptions { name: None, context: Some(py.None().into_bound(py)) };
        // None as a context means a copy of the current one, as in asyncio.
        into_future(spawn_local_with(py, refused, async { Ok(()) })?).map(drop)
    })?;
    let (set, default) = (set.await?, default.await?);
    Python::attach(|py| {
        assert_eq!(set.extract::<String>(py)?, "set");
        assert_eq!(default.extract::<String>(py)?, "default");
        Ok(())
    })
}

async fn awaiting() -> PyResult<()> {
    let helpers = made()?;
    let awaited = call(&helpers, "double", Some(4))?;
    let doubled: PythonFuture = Python::attach(|py| into_future(awaited.into_bound(py)))?;
    // The task of the coroutine runs although the future is not polled.
    while logged(&helpers)? == 0 {
        yield_now().await;
    }
    assert_eq!(Python::attach(|py| doubled_value(py, &helpers))?, 4);
    let doubled = doubled.await?;
    Python::attach(|py| {
        assert_eq!(doubled.extract::<i64>(py)?, 8);
        let Err(error) = into_future(py.None().into_bound(py)) else { panic!("None is awaited") };
        assert!(error.is_instance_of::<PyTypeError>(py));
        Ok(())
    })
}

fn doubled_value(py: Python<'_>, helpers: &Py<PyDict>) -> PyResult<i64> {
    helpers.bind(py).as_any().get_item("log")?.get_item(0)?.extract()
}

async fn blocking() -> PyResult<()> {
    let here = thread::current().id();
    let there: Blocking<_> = Python::attach(|py| spawn_blocking(py, || thread::current().id()))?;
    assert_ne!(there.await?, here);
    let panicking = Python::attach(|py| spawn_blocking(py, || panic!("as it should")))?;
    let error: PyErr = panicking.await.unwrap_err();
    assert_eq!(error.to_string(), "RuntimeError: Rust future panicked: as it should");
    Ok(())
}

async fn iterating() -> PyResult<()> {
    let helpers = made()?;
    let numbers = call(&helpers, "count", Some(3))?;
    let mut numbers: PythonStream = Python::attach(|py| into_stream(numbers.bind(py)))?;
    let mut found = Vec::new();
    while let Some(number) = numbers.next().await {
        let number = number?;
        found.push(Python::attach(|py| number.extract::<i64>(py))?);
    }
    assert_eq!(found, [0, 1, 2]);
    assert!(numbers.next().await.is_none());

    let failing = call(&helpers, "fail", None)?;
    let mut failing = Python::attach(|py| into_stream(failing.bind(py)))?;
    assert!(failing.next().await.is_some_and(|item| item.is_ok()));
    let Some(Err(error)) = poll_fn(|context| failing.poll_next(context)).await else {
        panic!("an exception is expected")
    };
    Python::attach(|py| assert!(error.is_instance_of::<PyValueError>(py)));
    assert!(failing.next().await.is_none());
    Python::attach(|py| assert!(into_stream(py.None().bind(py)).is_err()));
    Ok(())
}

async fn leaving() -> PyResult<()> {
    let helpers = made()?;
    let stuck = call(&helpers, "stuck", None)?;
    let mut stuck = Python::attach(|py| into_stream(stuck.bind(py)))?;
    assert!(stuck.next().await.is_some_and(|item| item.is_ok()));
    assert!(timeout(Duration::from_millis(1), stuck.next()).await.is_err());
    assert_eq!(logged(&helpers)?, 0);
    drop(stuck);
    while logged(&helpers)? == 0 {
        yield_now().await;
    }
    Ok(())
}

/// Runs one future in a thread of its own.
pub fn spawn_in_thread<F: Future<Output = ()> + Send + 'static>(future: F) {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    thread::spawn(move || {
        let mut future = pin!(future);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            thread::park();
        }
    });
}

async fn elsewhere() -> PyResult<()> {
    let here = thread::current().id();
    let there: ExecutorFuture<_> =
        run_on_executor(spawn_in_thread, async { thread::current().id() });
    assert_ne!(there.await?, here);
    let panicking = run_on_executor(spawn_in_thread, async {
        if true {
            panic!("as it should");
        }
    });
    let error = panicking.await.unwrap_err();
    assert_eq!(error.to_string(), "RuntimeError: Rust future panicked: as it should");
    let error = run_on_executor(drop, async {}).await.unwrap_err();
    assert!(error.to_string().ends_with("the executor dropped the future before it was done"));
    Ok(())
}

async fn dropping() -> PyResult<()> {
    struct SendOnDrop(mpsc::Sender<thread::ThreadId>);

    impl Drop for SendOnDrop {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).expect("a receiver");
        }
    }

    let (started_sender, started) = mpsc::channel();
    let (sender, dropped) = mpsc::channel();
    let sender = SendOnDrop(sender);
    let endless = async move {
        let _sender = sender;
        started_sender.send(()).expect("a receiver");
        pending::<()>().await;
    };
    // As the cancellation of a task that awaits the future.
    let running = run_on_executor(spawn_in_thread, endless);
    assert!(timeout(Duration::from_millis(1), running).await.is_err());
    let wait = move || {
        let ended = dropped.recv().expect("the future is dropped");
        let has_started = started.try_recv().is_ok();
        (ended, has_started)
    };
    let (thread, _has_started) = Python::attach(|py| spawn_blocking(py, wait))?.await?;
    assert_ne!(thread, thread::current().id());
    Ok(())
}

async fn handling() -> PyResult<()> {
    let helpers = made()?;
    let handle: Handle = Python::attach(Handle::current)?;
    let calls = Arc::new(AtomicUsize::new(0));
    let (counter, here) = (calls.clone(), thread::current().id());
    let other = move || -> PyResult<i64> {
        let handle = handle.clone();
        let number: JoinHandle<i32> = handle.spawn(async { 20 })?;
        assert_eq!(number.join()?, 20);
        // Calls a coroutine function, in the loop's thread.
        let doubled = handle.spawn_with(move || async move {
            assert_eq!(thread::current().id(), here);
            let awaited = call(&helpers, "double", Some(21))?;
            let doubled = Python::attach(|py| into_future(awaited.into_bound(py)))?.await?;
            Python::attach(|py| doubled.extract::<i64>(py))
        })?;
        handle.call(move |event_loop| {
            assert!(event_loop.call_method0("is_running")?.extract::<bool>()?);
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })?;
        doubled.join()?
    };
    let answer = Python::attach(|py| spawn_blocking(py, other))?.await??;
    assert_eq!((answer, calls.load(Ordering::SeqCst)), (42, 1));
    Python::attach(|py| {
        let Err(error) = Handle::of(py.None().bind(py)) else { panic!("None is a loop") };
        assert!(error.is_instance_of::<PyTypeError>(py));
        Ok(())
    })
}

async fn outliving() -> PyResult<()> {
    let handle = Python::attach(|py| -> PyResult<_> {
        let event_loop = py.import("ferroloop")?.call_method0("new_event_loop")?;
        let handle = Handle::of(&event_loop)?;
        // Never made, but released.
        handle.spawn(async {})?;
        event_loop.call_method0("close")?;
        Ok(handle)
    })?;
    assert_eq!(handle.spawn(async {}).map(drop), Err(Closed));
    assert_eq!(handle.call(|_| Ok(())), Err(Closed));
    assert_eq!(handle.stop(), Err(Closed));
    Ok(())
}

async fn descriptors() -> PyResult<()> {
    let (ours, mut theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let ours = AsyncFd::new(ours)?;
    ours.ready(Direction::Write).await?;
    let waiting = ours.ready(Direction::Read);
    assert_eq!(timeout(Duration::from_millis(1), waiting).await.map(drop), Err(Elapsed));
    theirs.write_all(b"abc")?;
    ours.ready(Direction::Read).await?;
    let mut buffer = [0; 3];
    let blocked = ours.get_ref().set_nonblocking(true);
    assert!(blocked.is_ok());
    ours.io(Direction::Read, |mut stream| stream.read_exact(&mut buffer)).await?;
    assert_eq!(&buffer, b"abc");
    let late = async {
        let mut byte = [0];
        let count = ours.io(Direction::Read, |mut stream| stream.read(&mut byte)).await?;
        PyResult::Ok((count, byte))
    };
    let task = Python::attach(|py| {
        spawn_local(py, async move {
            theirs.write_all(b"d")?;
            Ok(())
        })
        .map(drop)
    });
    task?;
    assert_eq!(late.await?, (1, *b"d"));
    let error = ours.io(Direction::Read, |mut stream| stream.read(&mut [0])).await;
    assert!(
        matches!(error, Ok(0)) || matches!(error, Err(ref e) if e.kind() != ErrorKind::WouldBlock)
    );
    drop(ours.into_inner());
    Ok(())
}

async fn converting() -> PyResult<()> {
    fn closed() -> PyResult<()> {
        Err(Closed)?
    }
    fn joined() -> PyResult<()> {
        Err(JoinError::Dropped)?
    }
    fn elapsed() -> PyResult<()> {
        Err(Elapsed)?
    }
    Python::attach(|py| {
        let closed = closed().unwrap_err();
        assert!(closed.is_instance_of::<PyRuntimeError>(py));
        assert_eq!(closed.to_string(), "RuntimeError: Event loop is closed");
        assert!(joined().unwrap_err().is_instance_of::<PyRuntimeError>(py));
        assert!(elapsed().unwrap_err().is_instance_of::<PyTimeoutError>(py));
    });
    Ok(())
}
