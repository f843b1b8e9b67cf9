//! The loop and the context of a Python task.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::at_exit;
use crate::ferroloop::{Closed, Handle};

/// Returns the loop that runs in this thread.
///
/// # Errors
/// RuntimeError if there is none.
pub fn get_running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("asyncio.events")?.call_method0("get_running_loop")
}

/// An event loop, and the context in which Python code is to run on it.
#[derive(Clone, Debug)]
pub struct TaskLocals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    event_loop: Arc<EventLoop>,
    /// None for a copy of the context in which a call is made.
    context: Py<PyAny>,
}

struct EventLoop {
    object: Py<PyAny>,
    /// None if the loop is not one of ferroloop.
    handle: Option<Handle>,
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.object.fmt(formatter)
    }
}

impl TaskLocals {
    /// The loop, without a context.
    pub fn new(event_loop: Bound<'_, PyAny>) -> Self {
        let context = event_loop.py().None();
        let handle = handle(&event_loop);
        if handle.is_none() {
            // Fails only while the interpreter exits, when it is too late.
            let _ = at_exit::prepare(event_loop.py());
        }
        let event_loop = Arc::new(EventLoop { object: event_loop.unbind(), handle });
        Self(Arc::new(Inner { event_loop, context }))
    }

    /// The loop that runs in this thread, without a context.
    ///
    /// # Errors
    /// RuntimeError if no loop runs in this thread.
    pub fn with_running_loop(py: Python<'_>) -> PyResult<Self> {
        Ok(Self::new(get_running_loop(py)?))
    }

    /// The same loop with this context.
    pub fn with_context(self, context: Bound<'_, PyAny>) -> Self {
        let event_loop = self.0.event_loop.clone();
        Self(Arc::new(Inner { event_loop, context: context.unbind() }))
    }

    /// The same loop with a copy of the current context.
    ///
    /// # Errors
    /// If the context cannot be copied.
    pub fn copy_context(self, py: Python<'_>) -> PyResult<Self> {
        Ok(self.with_context(py.import("contextvars")?.call_method0("copy_context")?))
    }

    /// The loop.
    pub fn event_loop<'p>(&self, py: Python<'p>) -> Bound<'p, PyAny> {
        self.0.event_loop.object.bind(py).clone()
    }

    /// The context, or None.
    pub fn context<'p>(&self, py: Python<'p>) -> Bound<'p, PyAny> {
        self.0.context.bind(py).clone()
    }

    /// The same locals.
    #[deprecated(note = "please use `clone` instead")]
    pub fn clone_ref(&self, _py: Python<'_>) -> Self {
        self.clone()
    }

    /// Whether the loop is one of ferroloop that runs in this thread.
    pub(crate) fn are_of_this_thread(&self, py: Python<'_>) -> bool {
        self.0.event_loop.handle.is_some()
            && get_running_loop(py).is_ok_and(|running| running.is(&self.0.event_loop.object))
    }

    /// Calls `function` in the loop's thread, from a thread that does not hold the GIL. A closed
    /// loop makes no call.
    pub(crate) fn post<F>(&self, function: F)
    where
        F: for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<()> + Send + 'static,
    {
        match &self.0.event_loop.handle {
            Some(handle) => match handle.call(function) {
                Ok(()) | Err(Closed) => {}
            },
            None => {
                let locals = self.clone();
                // This thread must not wait for the GIL: it runs other futures.
                crate::tokio::get_runtime()
                    .spawn_blocking(move || at_exit::attach(|py| locals.call_soon(py, function)));
            }
        }
    }

    /// [`TaskLocals::post`] with the GIL held.
    ///
    /// # Errors
    /// RuntimeError if the loop is closed.
    pub(crate) fn post_attached<F>(&self, py: Python<'_>, function: F) -> PyResult<()>
    where
        F: for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<()> + Send + 'static,
    {
        match &self.0.event_loop.handle {
            Some(handle) => Ok(handle.call(function)?),
            None => self.schedule(py, function),
        }
    }

    fn call_soon<F>(&self, py: Python<'_>, function: F)
    where
        F: for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<()> + Send + 'static,
    {
        let Err(error) = self.schedule(py, function) else { return };
        let event_loop = self.event_loop(py);
        let is_closed = event_loop.call_method0("is_closed").and_then(|closed| closed.is_truthy());
        if !is_closed.unwrap_or(false) {
            error.write_unraisable(py, Some(&event_loop));
        }
    }

    fn schedule<F>(&self, py: Python<'_>, function: F) -> PyResult<()>
    where
        F: for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<()> + Send + 'static,
    {
        let event_loop = self.event_loop(py);
        let call = Call(Mutex::new(Some(Box::new(function))));
        event_loop.call_method1("call_soon_threadsafe", (call, &event_loop)).map(drop)
    }

    /// Calls a Python function in the context, if there is one.
    pub(crate) fn run_in_context<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        argument: &Bound<'py, PyAny>,
        keywords: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let context = self.0.context.bind(function.py());
        if context.is_none() {
            return function.call((argument,), Some(keywords));
        }
        context.call_method("run", (function, argument), Some(keywords))
    }
}

/// A handle of the loop if it is one of ferroloop.
fn handle(event_loop: &Bound<'_, PyAny>) -> Option<Handle> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = event_loop.py();
    if CLASS.get(py).is_none() {
        // Without an import: a loop of ferroloop has been imported.
        let modules = py.import(intern!(py, "sys")).ok()?.getattr(intern!(py, "modules")).ok()?;
        let native = modules.get_item(intern!(py, "ferroloop._ferroloop")).ok()?;
        let class = native.getattr("EventLoop").ok()?;
        // Another thread may have been faster.
        let _ = CLASS.set(py, class.unbind());
    }
    let is_ours = event_loop.is_instance(CLASS.get(py)?.bind(py)).unwrap_or(false);
    is_ours.then(|| Handle::of(event_loop).ok())?
}

type Function = Box<dyn for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<()> + Send>;

/// A callback that calls a Rust function once.
#[pyclass(frozen)]
struct Call(Mutex<Option<Function>>);

#[pymethods]
impl Call {
    fn __call__(&self, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let function = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        function.map_or(Ok(()), |function| function(event_loop))
    }
}
