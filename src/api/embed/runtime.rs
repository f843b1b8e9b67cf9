//! `Runtime`: a loop that a Rust program owns.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::rc::Rc;

use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;
use tracing::Dispatch;

use crate::api::embed::package;
use crate::api::futures::{Handle, coroutine};

/// How a [`Runtime`] is made.
#[derive(Default)]
pub struct Builder {
    threads: Option<NonZeroUsize>,
    debug: Option<bool>,
    tracing: Option<Dispatch>,
}

impl Builder {
    /// asyncio's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The most threads of the loop's pool, for [`spawn_blocking`](crate::spawn_blocking) and
    /// `run_in_executor(None, ...)`; by default as many as asyncio's has.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// asyncio's debug mode; by default what `PYTHONASYNCIODEBUG` says.
    #[must_use]
    pub fn debug(mut self, debug: bool) -> Self {
        self.debug = Some(debug);
        self
    }

    /// Who gets the `tracing` events of this loop; by default the thread's subscriber.
    #[must_use]
    pub fn tracing(mut self, dispatch: Dispatch) -> Self {
        self.tracing = Some(dispatch);
        self
    }

    /// Starts Python, unless it runs already, and makes the loop.
    ///
    /// The thread that starts Python is Python's main thread. Python is started without signal
    /// handlers: Ctrl-C is the program's business.
    ///
    /// # Errors
    /// ImportError if another copy of ferroloop was imported before; OSError if the loop cannot be
    /// made (out of descriptors).
    pub fn build(self) -> PyResult<Runtime> {
        Python::initialize();
        Python::attach(|py| {
            package::register(py)?;
            let package = py.import("ferroloop")?;
            let options = [
                ("debug", self.debug.into_pyobject(py)?.into_any()),
                ("loop_factory", package.getattr("new_event_loop")?),
            ];
            let runner = py
                .import("asyncio")?
                .getattr("Runner")?
                .call((), Some(&options.into_py_dict(py)?))?;
            let event_loop = runner.call_method0("get_loop")?;
            let runtime = Runtime {
                runner: runner.unbind(),
                handle: Handle::of(&event_loop)?,
                event_loop: event_loop.clone().unbind(),
                tracing: self.tracing,
                closed: false,
                _local: PhantomData,
            };
            if let Some(threads) = self.threads {
                let pool = py
                    .import("ferroloop.thread_pool")?
                    .getattr("ThreadPool")?
                    .call1((threads.get(),))?;
                event_loop.call_method1("set_default_executor", (pool,))?;
            }
            Ok(runtime)
        })
    }
}

/// An event loop that a Rust program owns, in the thread that made it.
///
/// Several threads can have one each. Dropping it closes it.
pub struct Runtime {
    /// An `asyncio.Runner`: what it does at the end is what asyncio programs expect.
    runner: Py<PyAny>,
    event_loop: Py<PyAny>,
    handle: Handle,
    tracing: Option<Dispatch>,
    closed: bool,
    /// A loop belongs to one thread.
    _local: PhantomData<*const ()>,
}

impl Runtime {
    /// A runtime with asyncio's defaults.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new() -> PyResult<Self> {
        Builder::new().build()
    }

    /// The loop for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The loop for Python code.
    pub fn event_loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.event_loop.bind(py).clone()
    }

    /// Runs the loop until `future` is done, which runs as a task of it.
    ///
    /// # Errors
    /// RuntimeError if the future panics or the loop is stopped before it is done; CancelledError
    /// if its task is cancelled; KeyboardInterrupt and SystemExit raised by any callback.
    pub fn block_on<F: Future + 'static>(&self, future: F) -> PyResult<F::Output> {
        let output = Rc::new(RefCell::new(None));
        let slot = output.clone();
        let kept = async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
            Ok(())
        };
        self.attached(|py| self.run(&coroutine(py, "block_on", kept)?).map(drop))?;
        let output = output.borrow_mut().take();
        output.ok_or_else(|| PyRuntimeError::new_err("the future ended without an output"))
    }

    /// Runs the loop until a Python coroutine is done; returns its result.
    ///
    /// # Errors
    /// What the coroutine raises; RuntimeError if the loop is stopped before it is done.
    pub fn run<'py>(&self, coroutine: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = coroutine.py();
        self.traced(|| self.runner.bind(py).call_method1("run", (coroutine,)))
    }

    /// Imports a module and calls a function of it; runs the loop until it is done if it is a
    /// coroutine function. Returns the result.
    ///
    /// ```
    /// # use pyo3::prelude::*;
    /// # fn main() -> PyResult<()> {
    /// let runtime = ferroloop::Runtime::new()?;
    /// Python::attach(|py| {
    ///     let result = runtime.run_module(py, "asyncio", "sleep", (0.01, "rested"))?;
    ///     assert_eq!(result.extract::<String>()?, "rested");
    ///     runtime.close()
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// What the import or the function raises.
    pub fn run_module<'py>(
        &self,
        py: Python<'py>,
        module: &str,
        function: &str,
        arguments: impl PyCallArgs<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let result = py.import(module)?.getattr(function)?.call1(arguments)?;
        let is_coroutine = py.import("asyncio")?.call_method1("iscoroutine", (&result,))?;
        if is_coroutine.is_truthy()? { self.run(&result) } else { Ok(result) }
    }

    /// Runs the loop until it is stopped, by [`Handle::stop`] or `loop.stop()`.
    ///
    /// # Errors
    /// KeyboardInterrupt and SystemExit raised by any callback.
    pub fn run_forever(&self) -> PyResult<()> {
        self.attached(|py| self.event_loop.bind(py).call_method0("run_forever").map(drop))
    }

    /// Ends what runs on the loop and closes it, as `asyncio.run()` does: cancels all tasks and
    /// waits for them, closes asynchronous generators, joins the pool's threads.
    ///
    /// # Errors
    /// What an ending task raises beyond itself (KeyboardInterrupt, SystemExit).
    pub fn close(mut self) -> PyResult<()> {
        self.end()
    }

    fn end(&mut self) -> PyResult<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        self.attached(|py| self.runner.bind(py).call_method0("close").map(drop))
    }

    fn attached<R>(&self, body: impl for<'py> FnOnce(Python<'py>) -> R) -> R {
        Python::attach(|py| self.traced(|| body(py)))
    }

    fn traced<R>(&self, body: impl FnOnce() -> R) -> R {
        match &self.tracing {
            Some(dispatch) => tracing::dispatcher::with_default(dispatch, body),
            None => body(),
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            Python::attach(|py| error.write_unraisable(py, Some(self.event_loop.bind(py))));
        }
    }
}
