//! Where an event was scheduled: the stack that debug mode keeps with it.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::ffi::call;
use crate::ffi::entries::entered;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::section::{Home, Owned, attach_unshared};
use crate::interop::imports;
use crate::scheduler::Scheduler;
use crate::transport::Transport;

/// The argument of a runnable that was scheduled in debug mode: the actual argument, and the stack.
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
        attach_unshared(|py| drop((self.argument.take(py), self.stack.take(py))));
    }
}

/// The argument for a runnable: in debug mode with the caller's stack, which runs Python code,
/// otherwise unchanged.
#[inline(always)]
pub fn with_stack<'py>(
    scheduler: &Scheduler,
    py: Python<'py>,
    argument: Option<Bound<'py, PyAny>>,
) -> PyResult<Option<Py<PyAny>>> {
    if scheduler.is_debug(py) {
        return capture_stack(py, argument).map(Some);
    }
    Ok(argument.map(Bound::unbind))
}

#[cold]
fn capture_stack<'py>(py: Python<'py>, argument: Option<Bound<'py, PyAny>>) -> PyResult<Py<PyAny>> {
    let stack = call::call0(imports::extract_stack(py)?)?;
    let origin = Origin {
        argument: AttachedCell::new(argument.map(Bound::unbind)),
        stack: AttachedCell::new(Some(stack.unbind())),
    };
    Ok(Bound::new(py, origin)?.into_any().unbind())
}

/// The actual argument of a runnable, and its stack.
pub fn split<'py>(
    argument: Option<&Bound<'py, PyAny>>,
) -> (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>) {
    let Some(argument) = argument else { return (None, None) };
    match argument.cast::<Origin>() {
        Ok(origin) => {
            let (py, origin) = (argument.py(), origin.get());
            (origin.argument.get_bound(py), origin.stack.get_bound(py))
        }
        Err(_) => (Some(argument.clone()), None),
    }
}

/// A method of a transport that is displayed as the method of asyncio's class.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_ShownMethod")]
pub struct DisplayedMethod {
    home: Home,
    method: AttachedCell<Option<Py<PyAny>>>,
    displayed: AttachedCell<Option<Py<PyAny>>>,
}

impl Owned for DisplayedMethod {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().home.get(slf.py())
    }
}

entered!(DisplayedMethod);

#[pymethods]
impl DisplayedMethod {
    #[pyo3(signature = (*arguments))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        arguments: Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let none = py.None().into_bound(py);
        self.method.get_bound(py).map_or(Ok(none), |method| method.call1(arguments))
    }

    /// `__self__`, `__func__`, `__name__`, `__qualname__` and so on are those of asyncio's method.
    fn __getattr__<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.displayed.get_bound(py).unwrap_or_else(|| py.None().into_bound(py)).getattr(name)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.visit(&visit)?;
        self.method.visit(&visit)?;
        self.displayed.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop((self.method.take(py), self.displayed.take(py))));
    }
}

/// The method of this name, displayed as that of asyncio's class, which depends on the version of
/// Python.
pub fn displayed_method<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    let method = object.getattr(name)?;
    let Ok(transport) = object.cast::<Transport>() else { return Ok(method) };
    let class = (transport.get().kind.class)(py)?;
    // From 3.12 on a stream's `_write_ready` is an attribute of the instance: another method.
    let function = match class.getattr_opt(name)? {
        None => class.getattr_opt(intern!(py, "_write_sendmsg"))?,
        found => found,
    };
    let Some(function) = function else { return Ok(method) };
    // The bound method of a transport of asyncio's class.
    let displayed = function.call_method1(intern!(py, "__get__"), (object, class))?;
    let displayed = DisplayedMethod {
        home: Home::same_as(Transport::owner(transport)),
        method: AttachedCell::new(Some(method.unbind())),
        displayed: AttachedCell::new(Some(displayed.unbind())),
    };
    Ok(Bound::new(py, displayed)?.into_any())
}
