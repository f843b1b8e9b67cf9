//! `Runtime`: a loop that a Rust program owns.

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

/// Configures and builds a [`Runtime`].
///
/// ```
/// # use std::num::NonZeroUsize;
/// # fn main() -> pyo3::PyResult<()> {
/// let threads = NonZeroUsize::new(4).unwrap();
/// let runtime = ferroloop::Builder::new().threads(threads).debug(true).build()?;
/// runtime.close()
/// # }
/// ```
#[derive(Default)]
pub struct Builder {
    threads: Option<NonZeroUsize>,
    debug: Option<bool>,
    tracing: Option<Dispatch>,
}

impl Builder {
    /// A builder with asyncio's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the maximum number of threads of the loop's default executor, which runs
    /// [`spawn_blocking`](crate::spawn_blocking) and `run_in_executor(None, ...)`. The default is
    /// that of `concurrent.futures.ThreadPoolExecutor`.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets asyncio's debug mode, which `PYTHONASYNCIODEBUG` determines by default.
    #[must_use]
    pub fn debug(mut self, debug: bool) -> Self {
        self.debug = Some(debug);
        self
    }

    /// Sets the receiver of this loop's `tracing` events, by default the thread's subscriber.
    #[must_use]
    pub fn tracing(mut self, dispatch: Dispatch) -> Self {
        self.tracing = Some(dispatch);
        self
    }

    /// Starts Python, unless it runs already, and creates the loop.
    ///
    /// The thread that starts Python becomes Python's main thread. Python is started without signal
    /// handlers: the program must handle Ctrl-C itself.
    ///
    /// # Errors
    /// ImportError if another copy of ferroloop was imported before; OSError if the loop cannot be
    /// created, for example because the process has no descriptors left.
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

/// An event loop owned by a Rust program, in the thread that created it.
///
/// Several threads can have one each. Dropping it closes it and reports errors of that as
/// unraisable exceptions.
pub struct Runtime {
    /// An `asyncio.Runner`, so that the loop is shut down as asyncio programs expect.
    runner: Py<PyAny>,
    event_loop: Py<PyAny>,
    handle: Handle,
    tracing: Option<Dispatch>,
    closed: bool,
    /// A loop belongs to one thread.
    _local: PhantomData<*const ()>,
}

impl Runtime {
    /// Creates a runtime with asyncio's defaults.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new() -> PyResult<Self> {
        Builder::new().build()
    }

    /// A handle by which other threads use the loop.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The loop as a Python object.
    pub fn event_loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.event_loop.bind(py).clone()
    }

    /// Runs `future` as a task of the loop until it is done; returns its output.
    ///
    /// # Errors
    /// RuntimeError if the future panics or the loop is stopped before it is done; CancelledError
    /// if its task is cancelled; KeyboardInterrupt and SystemExit raised by any callback.
    pub fn block_on<F: Future + 'static>(&self, future: F) -> PyResult<F::Output> {
        let output = Rc::new(RefCell::new(None));
        let slot = output.clone();
        let task_body = async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
            Ok(())
        };
        self.attached(|py| self.run(&coroutine(py, "block_on", task_body)?).map(drop))?;
        let output = output.borrow_mut().take();
        output.ok_or_else(|| PyRuntimeError::new_err("the future ended without an output"))
    }

    /// Runs the loop until a Python coroutine is done; returns its result.
    ///
    /// # Errors
    /// Exceptions of the coroutine; RuntimeError if the loop is stopped before it is done.
    pub fn run<'py>(&self, coroutine: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = coroutine.py();
        self.traced(|| self.runner.bind(py).call_method1("run", (coroutine,)))
    }

    /// Imports a module and calls one of its functions. If that returns a coroutine, runs the loop
    /// until the coroutine is done. Returns the result.
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
    /// Exceptions of the import, the function or the coroutine.
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

    /// Runs the loop until [`Handle::stop`] or `loop.stop()` stops it.
    ///
    /// # Errors
    /// KeyboardInterrupt and SystemExit raised by any callback.
    pub fn run_forever(&self) -> PyResult<()> {
        self.attached(|py| self.event_loop.bind(py).call_method0("run_forever").map(drop))
    }

    /// Shuts the loop down as `asyncio.run()` does: cancels all tasks and waits for them, shuts
    /// down asynchronous generators, joins the default executor's threads and closes the loop.
    ///
    /// # Errors
    /// KeyboardInterrupt and SystemExit raised by a task meanwhile.
    pub fn close(mut self) -> PyResult<()> {
        self.end()
    }

    fn end(&mut self) -> PyResult<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        self.attached(|py| {
            // The program may have closed the loop itself, with tasks that cannot be cancelled now.
            if self.event_loop.bind(py).call_method0("is_closed")?.is_truthy()? {
                return Ok(());
            }
            self.runner.bind(py).call_method0("close").map(drop)
        })
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
