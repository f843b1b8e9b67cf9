//! What debug mode keeps of something that is queued: the stack that scheduled it.

#![forbid(unsafe_code)]

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::ffi::objects::cell::AttachedCell;
use crate::interop::imports;
use crate::scheduler::Scheduler;
use crate::transport::Transport;

/// The argument of a runnable that was scheduled in debug mode: the argument proper, and the stack.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_Origin")]
pub struct Origin {
    argument: AttachedCell<Option<Py<PyAny>>>,
    stack: AttachedCell<Option<Py<PyAny>>>,
}

#[pymethods]
impl Origin {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.argument.visit(&visit)?;
        self.stack.visit(&visit)
    }

    fn __clear__(&self) {
        Python::attach(|py| drop((self.argument.take(py), self.stack.take(py))));
    }
}

/// `argument` for a runnable: as it is, or with the stack of the caller in debug mode, which runs
/// Python code.
#[inline(always)]
pub fn note<'py>(
    scheduler: &Scheduler,
    py: Python<'py>,
    argument: Option<Bound<'py, PyAny>>,
) -> PyResult<Option<Py<PyAny>>> {
    if scheduler.debug.get(py) {
        return note_stack(py, argument).map(Some);
    }
    Ok(argument.map(Bound::unbind))
}

#[cold]
fn note_stack<'py>(py: Python<'py>, argument: Option<Bound<'py, PyAny>>) -> PyResult<Py<PyAny>> {
    let stack = imports::extract_stack(py)?.call0()?;
    let origin = Origin {
        argument: AttachedCell::new(argument.map(Bound::unbind)),
        stack: AttachedCell::new(Some(stack.unbind())),
    };
    Ok(Bound::new(py, origin)?.into_any().unbind())
}

/// The argument proper of a runnable, and its stack.
pub fn parts<'py>(
    py: Python<'py>,
    argument: Option<&Py<PyAny>>,
) -> (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>) {
    let Some(argument) = argument else { return (None, None) };
    match argument.bind(py).cast::<Origin>() {
        Ok(origin) => (origin.get().argument.get_bound(py), origin.get().stack.get_bound(py)),
        Err(_) => (Some(argument.bind(py).clone()), None),
    }
}

/// A method of a transport, shown as the method of asyncio's class.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_ShownMethod")]
struct ShownMethod {
    method: AttachedCell<Option<Py<PyAny>>>,
    shown: AttachedCell<Option<Py<PyAny>>>,
}

#[pymethods]
impl ShownMethod {
    #[pyo3(signature = (*arguments))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        arguments: Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let none = py.None().into_bound(py);
        self.method.get_bound(py).map_or(Ok(none), |method| method.call1(arguments))
    }

    /// `__self__`, `__func__`, `__name__`, `__qualname__` and so on.
    fn __getattr__<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.shown.get_bound(py).unwrap_or_else(|| py.None().into_bound(py)).getattr(name)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.method.visit(&visit)?;
        self.shown.visit(&visit)
    }

    fn __clear__(&self) {
        Python::attach(|py| drop((self.method.take(py), self.shown.take(py))));
    }
}

/// The method of that name, for a handle: what asyncio's class calls it depends on the version of
/// Python.
pub fn shown_method<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    let method = object.getattr(name)?;
    let Ok(transport) = object.cast::<Transport>() else { return Ok(method) };
    let class = (transport.get().kind.class)(py)?;
    // From 3.12 on a stream's `_write_ready` is an attribute of the instance that means another one.
    let function = match class.getattr_opt(name)? {
        None => class.getattr_opt(intern!(py, "_write_sendmsg"))?,
        found => found,
    };
    let Some(function) = function else { return Ok(method) };
    // What `transport.method` is for a transport of that class.
    let shown = function.call_method1(intern!(py, "__get__"), (object, class))?;
    let shown = ShownMethod {
        method: AttachedCell::new(Some(method.unbind())),
        shown: AttachedCell::new(Some(shown.unbind())),
    };
    Ok(Bound::new(py, shown)?.into_any())
}
