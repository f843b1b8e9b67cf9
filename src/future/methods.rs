//! The Python methods of `Future`.

use std::ffi::CStr;

use pyo3::PyTypeInfo;
use pyo3::call::PyCallArgs;
use pyo3::exceptions::{
    PyAttributeError, PyBaseException, PyRuntimeError, PyStopIteration, PyTypeError, PyValueError,
};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
#[cfg(Py_3_14)]
use pyo3::types::PyFrozenSet;
use pyo3::types::{IntoPyDict, PyDict, PyList, PyString, PyTuple, PyType};

use super::{Callback, Callbacks, Future, FutureIterator, Outcome, fast_paths, invalid_state};
use crate::ffi::call;
use crate::ffi::entries;
use crate::ffi::layout::{context, instruction};
use crate::ffi::method::{OneArgument, Predicate, install_predicate, install_with_one_argument};
use crate::ffi::objects::freelist;
use crate::ffi::objects::object;
use crate::ffi::objects::slots::{self, Finalize};
use crate::ffi::section::{self, attach_unshared};
use crate::future::AwaiterAttributes;
use crate::interop::imports;

/// Completes the class, with the hand-written methods.
pub fn install(py: Python<'_>) -> PyResult<()> {
    freelist::install::<Future>(py);
    slots::install_self_awaiting::<Future>(py);
    slots::install_finalizer::<Future>(py);
    AwaiterAttributes::install::<Future>(py)?;
    install_predicate::<Done>(py)?;
    install_predicate::<Cancelled>(py)?;
    install_with_one_argument::<SetResult>(py)?;
    fast_paths::install(py)?;
    entries::install::<Future>(py);
    entries::install::<FutureIterator>(py);
    Ok(())
}

/// `done()`.
struct Done;

impl Predicate for Done {
    type Class = Future;
    const NAME: &'static CStr = c"done";
    const DOC: &'static CStr = c"done($self, /)\n--\n\n\
        Return True if the future has a result or an exception, or was cancelled.\n";

    const IN_SECTION: bool = cfg!(not(Py_GIL_DISABLED));

    #[inline(always)]
    fn holds(slf: &Bound<'_, Future>) -> bool {
        slf.get().is_done_for_any_thread(slf.py())
    }
}

/// `cancelled()`.
struct Cancelled;

impl Predicate for Cancelled {
    type Class = Future;
    const NAME: &'static CStr = c"cancelled";
    const DOC: &'static CStr =
        c"cancelled($self, /)\n--\n\nReturn True if the future was cancelled.\n";

    const IN_SECTION: bool = cfg!(not(Py_GIL_DISABLED));

    #[inline(always)]
    fn holds(slf: &Bound<'_, Future>) -> bool {
        slf.get().is_cancelled_for_any_thread(slf.py())
    }
}

/// `set_result(result)`.
struct SetResult;

impl OneArgument for SetResult {
    type Class = Future;
    const NAME: &'static CStr = c"set_result";
    const DOC: &'static CStr = c"set_result($self, result, /)\n--\n\n\
        Mark the future done and set its result.\n\n\
        Raises:\n    InvalidStateError: the future is done already.\n";

    #[inline(always)]
    fn call<'py>(slf: &Bound<'py, Future>, result: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if !this.event_loop.is_some(py) {
            return this.event_loop(py).map(drop);
        }
        if this.is_done(py) {
            return Err(invalid_state(py, "invalid state"));
        }
        Future::finish_with_result(slf, result.clone())
    }
}

#[pymethods]
impl Future {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(*, loop=None)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::uninitialised()
    }

    #[pyo3(signature = (*, r#loop=None, **others))]
    fn __init__<'py>(
        slf: &Bound<'py, Self>,
        r#loop: Option<Bound<'py, PyAny>>,
        others: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<()> {
        if let Some(others) = others {
            others.set_item(intern!(slf.py(), "loop"), r#loop)?;
            return raise_for_keywords(imports::asyncio_future(slf.py())?, (), Some(others));
        }
        Self::initialise(slf, r#loop)
    }

    /// Return the result, or raise the exception, of a done future.
    ///
    /// Raises:
    ///     CancelledError: the future was cancelled.
    ///     InvalidStateError: the future is not done.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.event_loop(py).map_err(|_| uninitialised_state(py))?;
        self.retrieve_result(py)?.map_err(|exception| PyErr::from_value(exception.into_any()))
    }

    /// Return the exception of a done future, None if it has a result.
    ///
    /// Raises:
    ///     CancelledError: the future was cancelled.
    ///     InvalidStateError: the future is not done.
    fn exception<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBaseException>>> {
        self.event_loop(py).map_err(|_| uninitialised_state(py))?;
        if self.is_cancelled(py) {
            return Err(PyErr::from_value(self.make_cancelled_error(py)?.into_any()));
        }
        if !self.is_done(py) {
            return Err(invalid_state(py, "Exception is not set."));
        }
        self.log_traceback.set(py, false);
        Ok(self.stored_exception(py))
    }

    /// Mark the future done and set an exception, an instance or a class.
    ///
    /// Raises:
    ///     InvalidStateError: the future is done already.
    ///     TypeError: not an exception.
    #[pyo3(signature = (exception, /))]
    fn set_exception(slf: &Bound<'_, Self>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        this.event_loop(py)?;
        if this.is_done(py) {
            return Err(invalid_state(py, "invalid state"));
        }
        let exception = if exception.is_instance_of::<PyType>() {
            let made = exception.call0()?;
            // The constructor has run Python code.
            if this.is_done(py) {
                return Err(invalid_state(py, "invalid state"));
            }
            made
        } else {
            exception
        };
        let exception = exception
            .cast_into::<PyBaseException>()
            .map_err(|_| PyTypeError::new_err("invalid exception object"))?;
        let exception = if exception.is_instance_of::<PyStopIteration>() {
            let wrapped = wrap_stop_iteration(this, exception)?;
            if this.is_done(py) {
                return Err(invalid_state(py, "invalid state"));
            }
            wrapped
        } else {
            exception
        };
        Self::finish_with_exception(slf, exception)
    }

    /// Call `fn(future)` when the future is done, through the loop's `call_soon()`.
    #[pyo3(signature = (r#fn, /, *, context=None))]
    fn add_done_callback<'py>(
        slf: &Bound<'py, Self>,
        r#fn: Bound<'py, PyAny>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        if !slf.get().event_loop.is_some(py) {
            return Err(PyRuntimeError::new_err("uninitialized Future object"));
        }
        let context = match context {
            Some(context) => context,
            None => context::copy_current(py)?,
        };
        Self::add_callback(slf, Callback::Python(r#fn.unbind(), context.unbind()))
    }

    /// Remove all callbacks equal to `fn`; return their number.
    #[pyo3(signature = (r#fn, /))]
    fn remove_done_callback(&self, py: Python<'_>, r#fn: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.event_loop(py)?;
        self.remove_callbacks(py, r#fn)
    }

    /// Cancel the future and schedule its callbacks; return False if it is done already.
    #[pyo3(name = "cancel", signature = (msg=None))]
    fn cancel_py(slf: &Bound<'_, Self>, msg: Option<Bound<'_, PyAny>>) -> PyResult<bool> {
        slf.get().event_loop(slf.py())?;
        Self::cancel(slf, msg)
    }

    /// Return the event loop of the future.
    fn get_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.event_loop_for_any_thread(py)
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, FutureIterator>> {
        // The descriptor of the class is not that of the slot, which has its own entry.
        section::enter_of(slf, || slf.get().event_loop(slf.py()))?;
        Bound::new(slf.py(), FutureIterator::new(slf))
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, FutureIterator>> {
        Self::__await__(slf)
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyString>> {
        slf.get().event_loop(slf.py())?;
        repr_with(slf.as_any(), imports::future_repr(slf.py())?, "Future")
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Self::needs_finalizing(slf) {
            Self::finalize(slf);
        }
    }

    /// Support for `Future[int]` in annotations.
    #[classmethod]
    #[pyo3(signature = (object, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        object: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        imports::generic_alias(cls.py())?.call1((cls, object))
    }

    /// `asyncio.Future`, so that `isinstance(future, asyncio.Future)` holds.
    #[getter(__class__)]
    fn asyncio_class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        reported_class(slf, imports::names_in_futures(py)?, intern!(py, "Future"), || {
            imports::asyncio_future(py)
        })
    }

    #[setter(__class__)]
    fn set_asyncio_class(slf: &Bound<'_, Self>, class: &Bound<'_, PyAny>) -> PyResult<()> {
        set_class(slf.as_any(), class)
    }

    fn _make_cancelled_error<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBaseException>> {
        self.make_cancelled_error(py)
    }

    #[getter(_asyncio_future_blocking)]
    fn get_blocking(&self, py: Python<'_>) -> bool {
        self.is_blocking(py)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking_py(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set_blocking(py, value.is_truthy()?);
        Ok(())
    }

    #[deleter(_asyncio_future_blocking)]
    fn delete_blocking(&self) -> PyResult<()> {
        Err(cannot_delete("ferroloop.Future", "_asyncio_future_blocking"))
    }

    #[getter(_state)]
    fn state(&self, py: Python<'_>) -> &'static str {
        self.outcome.inspect(py, |outcome| match outcome {
            Outcome::Pending => "PENDING",
            Outcome::Cancelled => "CANCELLED",
            Outcome::Result(_) | Outcome::Exception(_) => "FINISHED",
        })
    }

    #[getter(_result)]
    fn stored_result<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.outcome.inspect(py, |outcome| match outcome {
            Outcome::Result(value) => Some(value.bind(py).clone()),
            _ => None,
        })
    }

    #[getter(_exception)]
    fn stored_exception<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBaseException>> {
        self.outcome.inspect(py, |outcome| match outcome {
            Outcome::Exception(exception) => Some(exception.bind(py).clone()),
            _ => None,
        })
    }

    #[getter(_callbacks)]
    fn callbacks_py<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        self.event_loop(py)?;
        self.callbacks_list(py)
    }

    /// The tasks that await this future, for call graphs; None if there are none.
    ///
    /// asyncio's C code records the tasks that wait by `gather()`, `wait()` or a task group, but
    /// only for its own types; for ours they are determined on demand.
    #[cfg(Py_3_14)]
    #[getter(_asyncio_awaited_by)]
    fn awaited_by<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyFrozenSet>>> {
        let py = slf.py();
        let find = py.import("ferroloop.call_graph")?.getattr("awaiting_tasks")?;
        let waiters: Vec<Bound<'py, PyAny>> = find.call1((slf,))?.extract()?;
        if waiters.is_empty() { Ok(None) } else { PyFrozenSet::new(py, waiters).map(Some) }
    }

    #[getter(_loop)]
    fn loop_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.event_loop.get_bound(py)
    }

    #[getter(_source_traceback)]
    fn source_traceback_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.source_traceback(py)
    }

    #[getter(_cancel_message)]
    fn cancel_message_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.cancel_message(py)
    }

    #[setter(_cancel_message)]
    fn set_cancel_message_py(&self, py: Python<'_>, value: Option<Bound<'_, PyAny>>) {
        self.set_cancel_message(py, value);
    }

    #[deleter(_cancel_message)]
    fn delete_cancel_message(&self) -> PyResult<()> {
        Err(cannot_delete("ferroloop.Future", "_cancel_message"))
    }

    #[getter(_cancelled_exc)]
    fn cancelled_exception<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBaseException>> {
        self.rare_fields.inspect(py, |rare_fields| {
            rare_fields.as_ref()?.cancelled_exception.as_ref().map(|e| e.bind(py).clone())
        })
    }

    #[getter(_log_traceback)]
    fn get_log_traceback(&self, py: Python<'_>) -> PyResult<bool> {
        self.event_loop(py)?;
        Ok(self.log_traceback.get(py))
    }

    #[setter(_log_traceback)]
    fn set_log_traceback(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if value.is_truthy()? {
            return Err(PyValueError::new_err("_log_traceback can only be set to False"));
        }
        self.log_traceback.set(py, false);
        Ok(())
    }

    #[deleter(_log_traceback)]
    fn delete_log_traceback(&self) -> PyResult<()> {
        Err(cannot_delete("ferroloop.Future", "_log_traceback"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.event_loop.visit(&visit)?;
        self.outcome.visit_with(&visit)?;
        self.callbacks.visit_with(&visit)?;
        self.rare_fields.visit_with(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            let event_loop = self.event_loop.take(py);
            // A cleared future must not look pending if it was done.
            let done = self.is_done(py);
            let outcome =
                self.outcome.replace(py, if done { Outcome::Cancelled } else { Outcome::Pending });
            let callbacks = self.callbacks.replace(py, Callbacks::None);
            let rare_fields = self.rare_fields.take(py);
            self.log_traceback.set(py, false);
            drop((event_loop, outcome, callbacks, rare_fields));
        });
    }
}

/// The value of `__class__`: asyncio's class, so that `isinstance()` holds. For instances of a
/// Python subclass, Python code that reads the attribute gets the subclass, since it may use the
/// class attributes or the constructor; `isinstance()`, which reads it natively, gets asyncio's
/// class.
pub fn reported_class<'py, T: PyTypeInfo>(
    object: &Bound<'py, T>,
    names: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    own: impl FnOnce() -> PyResult<&'py Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    if !object::is_exactly::<T>(object.as_any())
        && (instruction::LOAD_ATTR.is_executed(py)? || instruction::LOAD_METHOD.is_executed(py)?)
    {
        return Ok(object.as_any().get_type().into_any());
    }
    // Programs such as nest_asyncio replace the name, and then test for their own class.
    match names.cast::<PyDict>()?.get_item(name)? {
        Some(class) if class.is_instance_of::<PyType>() => Ok(class),
        _ => own().cloned(),
    }
}

/// Does `object.__class__ = class`.
pub fn set_class(object: &Bound<'_, PyAny>, class: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = object.py();
    let attributes = imports::object_class(py)?.getattr(intern!(py, "__dict__"))?;
    let attribute = attributes.get_item(intern!(py, "__class__"))?;
    attribute.call_method1(intern!(py, "__set__"), (object, class)).map(drop)
}

/// Raises for unknown keywords by calling asyncio's class: the message depends on the version.
#[cold]
pub fn raise_for_keywords<'py>(
    class: &Bound<'py, PyAny>,
    arguments: impl PyCallArgs<'py>,
    keywords: Option<&Bound<'py, PyDict>>,
) -> PyResult<()> {
    class.call(arguments, keywords)?;
    Err(PyTypeError::new_err("unexpected keyword arguments"))
}

/// asyncio's error for `del` of an attribute that can be set.
pub fn cannot_delete(class: &str, attribute: &str) -> PyErr {
    if cfg!(Py_3_14) {
        let text = format!("attribute '{attribute}' of '{class}' objects cannot be deleted");
        return PyAttributeError::new_err(text);
    }
    PyAttributeError::new_err("cannot delete attribute")
}

/// asyncio's error for a future whose `__init__` has not run.
fn uninitialised_state(py: Python<'_>) -> PyErr {
    invalid_state(py, "Future object is not initialized.")
}

/// The exception that asyncio stores for StopIteration: some releases wrap it in RuntimeError,
/// others raise.
fn wrap_stop_iteration<'py>(
    future: &Future,
    exception: Bound<'py, PyBaseException>,
) -> PyResult<Bound<'py, PyBaseException>> {
    let py = exception.py();
    let keywords = [("loop", future.event_loop(py)?)].into_py_dict(py)?;
    let asyncio_future = imports::asyncio_future(py)?.call((), Some(&keywords))?;
    asyncio_future.call_method1(intern!(py, "set_exception"), (exception,))?;
    Ok(asyncio_future.call_method0(intern!(py, "exception"))?.cast_into()?)
}

/// The repr of asyncio's own function, with the name of a subclass.
pub fn repr_with<'py>(
    object: &Bound<'py, PyAny>,
    function: &Bound<'py, PyAny>,
    name: &str,
) -> PyResult<Bound<'py, PyString>> {
    let py = object.py();
    let shown = call::call1(function, object.as_any())?.cast_into::<PyString>()?;
    let own_name = object.get_type().name()?;
    if own_name == name {
        return Ok(shown);
    }
    let shown = shown.to_str()?;
    let rest = shown.strip_prefix('<').and_then(|rest| rest.strip_prefix(name));
    Ok(match rest {
        Some(rest) => PyString::new(py, &format!("<{own_name}{rest}")),
        None => PyString::new(py, shown),
    })
}
