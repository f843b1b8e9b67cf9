//! An extension module that is written for pyo3-async-runtimes: the same source is built with that
//! crate (feature `original`) and with ferroloop's, and must behave the same.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program")]

use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(not(feature = "original"))]
use ferroloop_async_runtimes as pyo3_async_runtimes;
use futures_util::{Stream, StreamExt};
use pyo3::exceptions::{PyLookupError, PyStopAsyncIteration};
use pyo3::prelude::*;
use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::tokio::{
    future_into_py, future_into_py_with_locals, get_current_locals, get_current_loop, get_runtime,
    into_future, into_stream_v1, into_stream_v2, into_stream_with_locals_v1, run,
    run_until_complete, scope,
};
use tokio::sync::mpsc;

static DROPPED: AtomicUsize = AtomicUsize::new(0);

struct CountDrop;

impl Drop for CountDrop {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

async fn sum(mut numbers: impl Stream<Item = PyResult<Py<PyAny>>> + Unpin) -> PyResult<i64> {
    let mut sum = 0;
    while let Some(number) = numbers.next().await {
        let number = number?;
        sum += Python::attach(|py| number.extract::<i64>(py))?;
    }
    Ok(sum)
}

/// A Rust program, which starts Python.
mod program {
    use super::*;

    /// Names the loop that runs.
    #[pyo3_async_runtimes::tokio::main(flavor = "multi_thread", worker_threads = 2)]
    pub async fn main() -> PyResult<()> {
        let slept = Python::attach(|py| {
            into_future(py.import("asyncio")?.call_method1("sleep", (0.001, "slept"))?)
        })?;
        let slept = slept.await?;
        Python::attach(|py| {
            let event_loop = get_current_loop(py)?;
            let module = event_loop.get_type().getattr("__module__")?;
            println!("{slept} on {module}");
            Ok(())
        })
    }
}

/// Functions for the tests.
#[pymodule(gil_used = true)]
mod ferroloop_ported {
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // A fixed number of threads, for the tests' check of threads.
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).max_blocking_threads(1).enable_all();
        builder.thread_keep_alive(Duration::from_secs(3600));
        pyo3_async_runtimes::tokio::init(builder);
        let py = module.py();
        py.detach(|| {
            let runtime = get_runtime();
            runtime.block_on(async { runtime.spawn_blocking(|| {}).await.unwrap() });
        });
        module.add("RustPanic", py.get_type::<pyo3_async_runtimes::err::RustPanic>())
    }

    /// Sleep on Tokio's timers; return the seconds.
    #[pyfunction]
    fn rust_sleep(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async move {
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            Ok(seconds)
        })
    }

    /// Await `function(n)` for each n below `count`; return the results.
    #[pyfunction]
    fn collect(py: Python<'_>, count: u32, function: Py<PyAny>) -> PyResult<Bound<'_, PyAny>> {
        future_into_py(py, async move {
            let mut results = Vec::new();
            for number in 0..count {
                let awaited =
                    Python::attach(|py| into_future(function.bind(py).call1((number,))?))?;
                results.push(awaited.await?);
            }
            Ok(results)
        })
    }

    /// Await `function()` in the caller's context, from a task that knows the locals by a scope.
    #[pyfunction]
    fn in_scope(py: Python<'_>, function: Py<PyAny>) -> PyResult<Bound<'_, PyAny>> {
        let locals = TaskLocals::with_running_loop(py)?.copy_context(py)?;
        assert!(locals.event_loop(py).is(&get_current_loop(py)?));
        assert!(!locals.context(py).is_none());
        let inner = locals.clone();
        future_into_py_with_locals(py, locals, async move {
            Python::attach(|py| {
                let current = get_current_locals(py)?;
                assert!(current.context(py).is(inner.context(py)));
                PyResult::Ok(())
            })?;
            let spawned = get_runtime().spawn(scope(inner, async move {
                Python::attach(|py| into_future(function.bind(py).call0()?))?.await
            }));
            spawned.await.unwrap()
        })
    }

    /// Return the sum of what the asynchronous generator yields.
    #[pyfunction]
    fn sum_v1<'py>(generator: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = generator.py();
        let numbers = into_stream_v1(generator)?;
        future_into_py(py, sum(Box::pin(numbers)))
    }

    /// The same, with locals that are passed.
    #[pyfunction]
    fn sum_with_locals<'py>(generator: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = generator.py();
        let numbers = into_stream_with_locals_v1(get_current_locals(py)?, generator)?;
        future_into_py(py, sum(Box::pin(numbers)))
    }

    /// The same, by the other implementation.
    #[pyfunction]
    fn sum_v2<'py>(generator: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = generator.py();
        let numbers = into_stream_v2(generator)?;
        future_into_py(py, sum(Box::pin(numbers.map(Ok))))
    }

    /// Panic once awaited.
    #[pyfunction]
    fn panics(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        future_into_py::<_, ()>(py, async { panic!("as it should") })
    }

    /// Raise LookupError.
    #[pyfunction]
    fn fails(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        future_into_py::<_, ()>(py, async { Err(PyLookupError::new_err("lost")) })
    }

    /// Never return.
    #[pyfunction]
    fn endless(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let counted = CountDrop;
        future_into_py::<_, ()>(py, async {
            let _counted = counted;
            std::future::pending().await
        })
    }

    /// Return how many futures of `endless()` were dropped. Like every call, it also releases the
    /// objects that Tokio's threads have dropped without the GIL.
    #[pyfunction]
    fn dropped() -> usize {
        DROPPED.load(Ordering::SeqCst)
    }

    /// Sleep with a future that is not `Send`.
    #[pyfunction]
    #[allow(deprecated)]
    fn local_sleep(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
        let seconds = Rc::new(seconds);
        pyo3_async_runtimes::tokio::local_future_into_py(py, async move {
            tokio::time::sleep(Duration::from_secs_f64(*seconds)).await;
            Ok(*seconds)
        })
    }

    /// A queue of numbers, which is an asynchronous iterator: a class as many extensions have.
    #[pyclass(frozen)]
    struct Queue {
        sender: Mutex<Option<mpsc::UnboundedSender<u64>>>,
        receiver: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<u64>>>,
    }

    #[pymethods]
    impl Queue {
        #[new]
        fn new() -> Self {
            let (sender, receiver) = mpsc::unbounded_channel();
            let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
            Self { sender: Mutex::new(Some(sender)), receiver }
        }

        fn put(&self, number: u64) -> PyResult<()> {
            let sender = self.sender.lock().unwrap();
            let closed = || PyLookupError::new_err("closed");
            sender.as_ref().ok_or_else(closed)?.send(number).map_err(|_| closed())
        }

        fn close(&self) {
            drop(self.sender.lock().unwrap().take());
        }

        fn __aiter__(slf: Py<Self>) -> Py<Self> {
            slf
        }

        fn __anext__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
            let receiver = self.receiver.clone();
            future_into_py(py, async move {
                let number = receiver.lock().await.recv().await;
                number.ok_or_else(|| PyStopAsyncIteration::new_err(()))
            })
        }
    }

    /// Run the program in a thread that does not hold the GIL, as any program begins.
    #[pyfunction]
    fn run_program(py: Python<'_>) {
        py.detach(program::main);
    }

    /// Run a new loop; return the sum of what `function(n)` returns for each n below `count`.
    #[pyfunction]
    fn run_loop(py: Python<'_>, count: u32, function: Py<PyAny>) -> PyResult<i64> {
        run(py, add(count, function))
    }

    /// The same on a loop that is passed.
    #[pyfunction]
    fn run_on(event_loop: Bound<'_, PyAny>, count: u32, function: Py<PyAny>) -> PyResult<i64> {
        run_until_complete(event_loop, add(count, function))
    }
}

async fn add(count: u32, function: Py<PyAny>) -> PyResult<i64> {
    let mut sum = 0;
    for number in 0..count {
        let awaited = Python::attach(|py| into_future(function.bind(py).call1((number,))?))?;
        let result = awaited.await?;
        sum += Python::attach(|py| result.extract::<i64>(py))?;
    }
    Ok(sum)
}
