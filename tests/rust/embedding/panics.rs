//! Panics in wakers and destructors: what the program's code cannot handle is reported, and
//! everything else goes on.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use ferroloop::{
    AsyncFd, Builder, Direction, JoinError, UnixStream, into_future, sleep, spawn_blocking,
    spawn_local, yield_now,
};
use futures_util::AsyncWriteExt;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::support::{Case, counted_drop, forever, fresh_counter, runtime};

pub const CASES: &[Case] = &[
    ("a panicking destructor of a blocking call does no harm", blocking),
    ("a panicking waker is reported and the loop goes on", wakers),
    ("a panicking waker of a joined future does no harm", joined),
    ("closing the loop drops all queued futures if one panics", queued),
    ("a panic whose payload panics is an error", payload),
];

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("in a destructor");
    }
}

fn blocking() {
    let runtime = Builder::new().threads(NonZeroUsize::MIN).build().unwrap();
    runtime
        .block_on(async {
            let start = |py: Python<'_>| -> PyResult<_> {
                let busy = spawn_blocking(py, || std::thread::sleep(Duration::from_millis(20)))?;
                let captured = PanicsOnDrop;
                // Cancelled before a thread makes the call.
                drop(spawn_blocking(py, move || {
                    let _captured = &captured;
                })?);
                Ok(busy)
            };
            let busy = Python::attach(start).unwrap();
            busy.await.unwrap();
            // Dropped while a thread makes the call, whose value no future receives.
            let (started, has_started) = mpsc::channel();
            let (end, may_end) = mpsc::channel::<()>();
            let returned = Python::attach(|py| {
                spawn_blocking(py, move || {
                    started.send(()).unwrap();
                    may_end.recv().unwrap_err();
                    PanicsOnDrop
                })
            });
            while has_started.try_recv().is_err() {
                sleep(Duration::from_millis(1)).await;
            }
            drop(returned);
            drop(end);
            let again = Python::attach(|py| spawn_blocking(py, || 7)).unwrap();
            assert_eq!(again.await.unwrap(), 7);
        })
        .unwrap();
    runtime.close().unwrap();
}

/// A waker of another executor.
fn panicking_waker() -> Waker {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("in a waker");
        }
    }
    Waker::from(Arc::new(Panics))
}

fn poll_with_panicking_waker<F: Future>(future: Pin<&mut F>) {
    let waker = panicking_waker();
    assert!(future.poll(&mut Context::from_waker(&waker)).is_pending());
}

fn wakers() {
    let runtime = runtime();
    let reports = Python::attach(|py| {
        let reports = PyList::empty(py);
        let handler = pyo3::types::PyCFunction::new_closure(py, None, None, {
            let reports = reports.clone().unbind();
            move |arguments, _| {
                let context = arguments.get_item(1)?;
                let exception = context.get_item("exception")?.str()?;
                reports.bind(arguments.py()).append((context.get_item("message")?, exception))
            }
        })?;
        runtime.event_loop(py).call_method1("set_exception_handler", (handler,))?;
        PyResult::Ok(reports.unbind())
    })
    .unwrap();
    let value = runtime
        .block_on(async {
            let mut timer = pin!(sleep(Duration::from_millis(1)));
            poll_with_panicking_waker(timer.as_mut());
            let (mut awaited, mut foreign) = Python::attach(|py| {
                let asyncio = py.import("asyncio")?;
                let slept = asyncio.call_method1("sleep", (0.001,))?;
                // Of another class than ours.
                let task = py.import("_asyncio")?.getattr("Task")?;
                let task = task.call1((asyncio.call_method1("sleep", (0.001,))?,))?;
                PyResult::Ok((into_future(slept)?, into_future(task)?))
            })
            .unwrap();
            poll_with_panicking_waker(Pin::new(&mut awaited));
            poll_with_panicking_waker(Pin::new(&mut foreign));
            let (reader, mut writer) = UnixStream::pair().unwrap();
            let descriptor = AsyncFd::new(reader.into_std()).unwrap();
            let mut readable = pin!(descriptor.ready(Direction::Read));
            poll_with_panicking_waker(readable.as_mut());
            writer.write_all(b"x").await.unwrap();
            for _ in 0..20 {
                sleep(Duration::from_millis(1)).await;
            }
            timer.await;
            awaited.await.unwrap();
            foreign.await.unwrap();
            readable.await.unwrap();
            9
        })
        .unwrap();
    assert_eq!(value, 9);
    assert_eq!(runtime.block_on(async { 1 }).unwrap(), 1);
    runtime.close().unwrap();
    let reports: Vec<(String, String)> = Python::attach(|py| reports.bind(py).extract()).unwrap();
    assert_eq!(reports.len(), 4, "{reports:?}");
    for (_, exception) in &reports {
        assert_eq!(exception, "Rust waker panicked: in a waker");
    }
    let ours = reports.iter().filter(|(message, _)| message.contains("waker of a Rust future"));
    assert!(ours.count() >= 3, "{reports:?}");
}

fn joined() {
    let runtime = runtime();
    let handle = runtime.handle();
    let mut joined = handle.spawn_with(|| async { 3 }).unwrap();
    poll_with_panicking_waker(Pin::new(&mut joined));
    // The sender is dropped while the future's panic unwinds.
    let mut panicked = handle
        .spawn_with(|| async {
            if true {
                panic!("as it should");
            }
        })
        .unwrap();
    poll_with_panicking_waker(Pin::new(&mut panicked));
    runtime
        .block_on(async {
            yield_now().await;
            yield_now().await;
            yield_now().await;
        })
        .unwrap();
    assert_eq!(joined.join(), Ok(3));
    assert_eq!(panicked.join(), Err(JoinError::Dropped));
    runtime.close().unwrap();
}

fn queued() {
    let drops = fresh_counter();
    let runtime = runtime();
    runtime
        .block_on(async {
            let start = |py: Python<'_>| {
                let counted = counted_drop();
                spawn_local(py, async move {
                    let _counted = counted;
                    forever().await
                })
                .map(drop)
            };
            Python::attach(start).unwrap();
            yield_now().await;
        })
        .unwrap();
    let handle = runtime.handle();
    let spawned = |value| {
        handle
            .spawn(async move {
                let _value = value;
                std::future::pending::<()>().await;
            })
            .unwrap()
    };
    let queued = [spawned(Some(PanicsOnDrop)), spawned(None), spawned(Some(PanicsOnDrop))];
    // Without a turn, in which they would start.
    Python::attach(|py| runtime.event_loop(py).call_method0("close").map(drop)).unwrap();
    for joined in queued {
        assert_eq!(joined.join(), Err(JoinError::Dropped));
    }
    assert_eq!(drops.count(), 1);
    assert!(handle.stop().is_err());
}

fn payload() {
    struct PanicsToo;
    impl Drop for PanicsToo {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                std::panic::panic_any(PanicsToo);
            }
        }
    }
    let runtime = runtime();
    let error = runtime.block_on(async {
        if true {
            std::panic::panic_any(PanicsToo);
        }
    });
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "RuntimeError: Rust future panicked: unknown reason");
    let error = runtime.block_on(async {
        let call = Python::attach(|py| spawn_blocking(py, || std::panic::panic_any(PanicsToo)));
        call.unwrap().await.unwrap_err().to_string()
    });
    assert_eq!(error.unwrap(), "RuntimeError: Rust future panicked: unknown reason");
    runtime.handle().call(|_| std::panic::panic_any(PanicsToo)).unwrap();
    assert_eq!(runtime.block_on(async { 1 }).unwrap(), 1);
    runtime.close().unwrap();
}
