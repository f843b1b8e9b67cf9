//! The Python methods of `Task`.

use std::ffi::CStr;

use pyo3::PyClassInitializer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::{Task, TaskOptions};
use crate::ffi::fast_path::{self, FastResult, GetterFastPath, Original};
use crate::ffi::objects::object::HasBase;
use crate::ffi::objects::slots::Finalize;
use crate::ffi::section::attach_unshared;
use crate::future::{
    Future, ModuleName, cannot_delete, class_of_exact, raise_for_keywords, reported_class,
    repr_with, set_class,
};
use crate::interop::imports;

/// Installs the fast paths.
pub(super) fn install_fast_paths(py: Python<'_>) -> PyResult<()> {
    fast_path::install_getter::<AsyncioClass>(py)
}

/// `__class__`.
struct AsyncioClass;

impl GetterFastPath for AsyncioClass {
    type Class = Task;
    const NAME: &'static CStr = c"__class__";

    fn original() -> &'static Original {
        static ORIGINAL: Original = Original::new();
        &ORIGINAL
    }

    #[inline(always)]
    fn get<'py>(slf: &Bound<'py, Task>) -> FastResult<'py> {
        static NAME: ModuleName = ModuleName::new("Task", imports::names_in_tasks);
        class_of_exact(slf, &NAME)
    }
}

impl Task {
    pub(super) fn new_object() -> PyClassInitializer<Self> {
        PyClassInitializer::from(Future::uninitialised()).add_subclass(Self::uninitialised())
    }
}

#[pymethods]
impl Task {
    #[cfg(Py_3_12)]
    #[new]
    #[pyo3(
        signature = (*_args, **_kwargs),
        text_signature = "(coro, *, loop=None, name=None, context=None, eager_start=False)"
    )]
    fn new(
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        Self::new_object()
    }

    #[cfg(not(Py_3_12))]
    #[new]
    #[pyo3(
        signature = (*_args, **_kwargs),
        text_signature = "(coro, *, loop=None, name=None, context=None)"
    )]
    fn new(
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        Self::new_object()
    }

    #[cfg(Py_3_12)]
    #[pyo3(
        signature = (coro, *, r#loop=None, name=None, context=None, eager_start=None, **others)
    )]
    fn __init__<'py>(
        slf: &Bound<'py, Self>,
        coro: Bound<'py, PyAny>,
        r#loop: Option<Bound<'py, PyAny>>,
        name: Option<Bound<'py, PyAny>>,
        context: Option<Bound<'py, PyAny>>,
        eager_start: Option<Bound<'py, PyAny>>,
        others: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<()> {
        if others.is_some() {
            return raise_for_keywords(imports::asyncio_task(slf.py())?, (coro,), others);
        }
        Future::initialise(slf.as_super(), r#loop)?;
        #[cfg(Py_3_14)]
        drop(slf.get().awaited_by.clear(slf.py()));
        let eager_start = eager_start.map_or(Ok(false), |eager| eager.is_truthy())?;
        Self::begin(slf, coro, TaskOptions { name, context, eager_start, is_coroutine: false })
    }

    #[cfg(not(Py_3_12))]
    #[pyo3(signature = (coro, *, r#loop=None, name=None, context=None, **others))]
    fn __init__<'py>(
        slf: &Bound<'py, Self>,
        coro: Bound<'py, PyAny>,
        r#loop: Option<Bound<'py, PyAny>>,
        name: Option<Bound<'py, PyAny>>,
        context: Option<Bound<'py, PyAny>>,
        others: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<()> {
        if others.is_some() {
            return raise_for_keywords(imports::asyncio_task(slf.py())?, (coro,), others);
        }
        Future::initialise(slf.as_super(), r#loop)?;
        #[cfg(Py_3_14)]
        drop(slf.get().awaited_by.clear(slf.py()));
        Self::begin(slf, coro, TaskOptions { name, context, ..TaskOptions::default() })
    }

    /// Request that the task is cancelled: CancelledError is thrown into its coroutine at the
    /// next cycle of the event loop. Return False if it is done already.
    ///
    /// The coroutine may clean up, or refuse by catching the exception.
    #[pyo3(signature = (msg=None))]
    fn cancel<'py>(slf: &Bound<'py, Self>, msg: Option<Bound<'py, PyAny>>) -> PyResult<bool> {
        slf.base().event_loop(slf.py())?;
        Self::request_cancel(slf, msg.filter(|msg| !msg.is_none()))
    }

    /// Return the number of cancellation requests that `uncancel()` has not undone.
    fn cancelling(&self, py: Python<'_>) -> u32 {
        self.cancel_requests.get(py)
    }

    /// Undo one cancellation request; return the number of remaining ones.
    fn uncancel(&self, py: Python<'_>) -> u32 {
        let requests = self.cancel_requests.get(py);
        if requests > 0 {
            self.cancel_requests.set(py, requests - 1);
            if cfg!(Py_3_13) && requests == 1 {
                self.must_cancel.set(py, false);
            }
        }
        self.cancel_requests.get(py)
    }

    /// Return the coroutine.
    fn get_coro<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.coroutine(py)
    }

    /// Return the context that the coroutine runs in.
    fn get_context<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.context_slot().expose(py)
    }

    /// Return the name.
    fn get_name<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.name.text(py)
    }

    /// Set the name to `str(value)`.
    #[pyo3(signature = (value, /))]
    fn set_name(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set_name_text(value)
    }

    /// Not supported: a task gets its result from its coroutine.
    #[pyo3(signature = (result, /))]
    fn set_result(&self, result: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = result;
        Err(PyRuntimeError::new_err("Task does not support set_result operation"))
    }

    /// Not supported: a task gets its exception from its coroutine.
    #[pyo3(signature = (exception, /))]
    fn set_exception(&self, exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = exception;
        Err(PyRuntimeError::new_err("Task does not support set_exception operation"))
    }

    /// Return the stack of the coroutine: one frame while suspended, the frames of the
    /// traceback after an exception.
    #[pyo3(signature = (*, limit=None))]
    fn get_stack<'py>(
        slf: &Bound<'py, Self>,
        limit: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        imports::task_get_stack(slf.py())?.call1((slf, limit))
    }

    /// Print the stack or traceback to `file`, by default stderr.
    #[pyo3(signature = (*, limit=None, file=None))]
    fn print_stack<'py>(
        slf: &Bound<'py, Self>,
        limit: Option<Bound<'py, PyAny>>,
        file: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        imports::task_print_stack(slf.py())?.call1((slf, limit, file))
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyString>> {
        slf.base().event_loop(slf.py())?;
        repr_with(slf.as_any(), imports::task_repr(slf.py())?, "Task")
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Self::needs_finalizing(slf) {
            Self::finalize(slf);
        }
    }

    /// Support for `Task[int]` in annotations.
    #[classmethod]
    #[pyo3(signature = (object, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        object: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        imports::generic_alias(cls.py())?.call1((cls, object))
    }

    /// `asyncio.Task`, so that `isinstance(task, asyncio.Task)` holds.
    #[getter(__class__)]
    fn asyncio_class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        reported_class(slf, imports::names_in_tasks(py)?, intern!(py, "Task"), || {
            imports::asyncio_task(py)
        })
    }

    #[setter(__class__)]
    fn set_asyncio_class(slf: &Bound<'_, Self>, class: &Bound<'_, PyAny>) -> PyResult<()> {
        set_class(slf.as_any(), class)
    }

    #[getter(_coro)]
    fn coroutine_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.coroutine(py)
    }

    /// greenback replaces the coroutine of the running task.
    #[setter(_coro)]
    fn set_coroutine_py(&self, py: Python<'_>, value: Bound<'_, PyAny>) {
        self.set_coroutine(py, Some(value));
    }

    #[getter(_context)]
    fn context_py<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.context_slot().expose(py)
    }

    #[getter(_fut_waiter)]
    fn fut_waiter_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.fut_waiter.get_bound(py)
    }

    #[getter(_must_cancel)]
    fn get_must_cancel(&self, py: Python<'_>) -> bool {
        self.must_cancel.get(py)
    }

    #[getter(_num_cancels_requested)]
    fn get_cancel_requests(&self, py: Python<'_>) -> u32 {
        self.cancel_requests.get(py)
    }

    #[getter(_log_destroy_pending)]
    fn get_log_destroy_pending(&self, py: Python<'_>) -> bool {
        self.log_destroy_pending.get(py)
    }

    #[setter(_log_destroy_pending)]
    fn set_log_destroy_pending(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.log_destroy_pending.set(py, value.is_truthy()?);
        Ok(())
    }

    #[deleter(_log_destroy_pending)]
    fn delete_log_destroy_pending(&self) -> PyResult<()> {
        Err(cannot_delete("ferroloop.Task", "_log_destroy_pending"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.coroutine.visit(&visit)?;
        #[cfg(published_tasks)]
        self.other_coroutine.visit(&visit)?;
        #[cfg(Py_3_14)]
        self.awaited_by.visit(&visit)?;
        self.context.visit(&visit)?;
        self.fut_waiter.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            let coroutine = self.coroutine.take(py);
            #[cfg(published_tasks)]
            let coroutine = (coroutine, self.other_coroutine.take(py));
            #[cfg(Py_3_14)]
            let coroutine = (coroutine, self.awaited_by.clear(py));
            let context = self.context.take(py);
            let fut_waiter = self.fut_waiter.take(py);
            self.log_destroy_pending.set(py, false);
            drop((coroutine, context, fut_waiter));
        });
    }
}
