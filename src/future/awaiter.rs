//! `await future`.
//!
//! The interpreter's `await` uses the future itself as the awaiter, without an allocation: awaiting
//! has no state but the future's. An iterator is created only for futures of subclasses, and for
//! those with attributes that the interpreter would take for the awaiter's. An explicit
//! `future.__await__()` or `iter(future)` returns a [`FutureIterator`] with `send`, `throw` and
//! `close`, like asyncio's.

use std::ffi::CStr;

use pyo3::PyTypeInfo;
use pyo3::exceptions::{
    PyAttributeError, PyBaseException, PyDeprecationWarning, PyRuntimeError, PyTypeError,
};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTraceback, PyTuple};

use super::Future;
use crate::ffi::entries::{entered, without_section};
use crate::ffi::layout::instruction;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::object;
use crate::ffi::objects::slots::{Resumed, SelfAwaiting, add_hidden_base};
use crate::ffi::section::{Home, Owned, attach_unshared};

impl SelfAwaiting for Future {
    const COUNTED: bool = false;

    #[inline(always)]
    fn resume<'py>(slf: &Bound<'py, Self>) -> Resumed<'py> {
        let py = slf.py();
        let this = slf.get();
        if !this.is_done(py) {
            if this.is_blocking(py) {
                return raise(py, PyRuntimeError::new_err("await wasn't used with future"));
            }
            this.set_blocking(py, true);
            return Resumed::Yield(slf.clone().into_any());
        }
        match this.retrieve_result(py) {
            Ok(Ok(value)) => Resumed::Return(value),
            Ok(Err(exception)) => Resumed::Raise(exception),
            Err(error) => raise(py, error),
        }
    }

    #[inline(always)]
    fn is_its_own_awaiter(slf: &Bound<'_, Self>) -> bool {
        is_its_own_awaiter::<Self>(slf)
    }

    fn separate_awaiter<'py>(slf: &Bound<'py, Self>) -> Option<PyResult<Bound<'py, PyAny>>> {
        separate_awaiter::<Self>(slf, slf)
    }
}

/// Whether the class of `object` is exactly `T` (a subclass may have a method `close`), and it has
/// no attributes of its own, which the interpreter might call.
#[inline(always)]
pub fn is_its_own_awaiter<T: PyTypeInfo>(object: &Bound<'_, T>) -> bool {
    object::is_exactly::<T>(object.as_any()) && object::instance_dict(object).is_none()
}

/// The iterator for an object that is not its own awaiter; `None` if it can be its own, after all.
#[cold]
pub fn separate_awaiter<'py, T: PyTypeInfo>(
    object: &Bound<'py, T>,
    future: &Bound<'py, Future>,
) -> Option<PyResult<Bound<'py, PyAny>>> {
    let has_awaiter_attribute = |dict: Bound<'_, PyDict>| {
        ["send", "throw", "close"].iter().any(|name| dict.contains(name).unwrap_or(true))
    };
    if object::is_exactly::<T>(object.as_any())
        && object::instance_dict(object).is_some_and(|dict| !has_awaiter_attribute(dict))
    {
        return None;
    }
    Some(Bound::new(future.py(), FutureIterator::new(future)).map(Bound::into_any))
}

/// An attribute that the interpreter looks up by name, to send a value other than None into an
/// awaiter, or to throw into one (3.11). asyncio's futures do not have it, since their awaiters are
/// separate objects, so it is hidden from the program.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "AwaiterAttribute")]
pub struct AwaiterAttribute {
    name: &'static str,
    is_for_the_interpreter: fn(Python<'_>) -> PyResult<bool>,
}

/// The class that has these attributes.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "AwaiterAttributes")]
pub struct AwaiterAttributes;

impl AwaiterAttributes {
    /// Makes instances of `T` inherit the attributes.
    pub fn install<T: PyTypeInfo>(py: Python<'_>) -> PyResult<()> {
        instruction::probe(py)?;
        let class = py.get_type::<Self>();
        let send = AwaiterAttribute {
            name: "send",
            is_for_the_interpreter: |py| instruction::SEND.is_executed(py),
        };
        class.setattr(send.name, Bound::new(py, send)?)?;
        #[cfg(not(Py_3_12))]
        {
            // 3.11 leaves the `await` before it raises, but only if the awaiter has this attribute.
            let throw = AwaiterAttribute {
                name: "throw",
                is_for_the_interpreter: |py| Ok(crate::ffi::coroutine::is_throwing(py)),
            };
            class.setattr(throw.name, Bound::new(py, throw)?)?;
        }
        add_hidden_base(&py.get_type::<T>(), &class)
    }
}

without_section!(AwaiterAttribute);

#[pymethods]
impl AwaiterAttribute {
    fn __get__<'py>(
        &self,
        instance: &Bound<'py, PyAny>,
        owner: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = instance.py();
        if let Ok(future) = instance.cast::<Future>() {
            if (self.is_for_the_interpreter)(py)? {
                return Bound::new(py, FutureIterator::new(future))?.getattr(self.name);
            }
            let class = instance.get_type().fully_qualified_name()?;
            let text = format!("'{class}' object has no attribute '{}'", self.name);
            return Err(PyAttributeError::new_err(text));
        }
        let class = match owner {
            Some(owner) => owner.getattr("__name__")?,
            None => py.None().into_bound(py),
        };
        let text = format!("type object '{class}' has no attribute '{}'", self.name);
        Err(PyAttributeError::new_err(text))
    }
}

fn raise(py: Python<'_>, error: PyErr) -> Resumed<'_> {
    Resumed::Raise(error.into_value(py).into_bound(py))
}

const THROW_SIGNATURE: &CStr = c"the (type, exc, tb) signature of throw() is deprecated, \
    use the single-arg signature instead.";

/// The iterator that an explicit `future.__await__()` returns.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "FutureIter")]
pub struct FutureIterator {
    home: Home,
    future: AttachedCell<Option<Py<Future>>>,
}

impl FutureIterator {
    /// An iterator that has not started.
    pub fn new(future: &Bound<'_, Future>) -> Self {
        Self {
            home: Home::same_as(Future::owner(future)),
            future: AttachedCell::new(Some(future.clone().unbind())),
        }
    }

    /// Raises as `throw(*arguments)` of an iterator does, which checks the arguments: the end of
    /// the same method of a coroutine.
    ///
    /// # Errors
    /// The exception that the arguments tell, or TypeError for wrong arguments.
    pub fn raise<'py>(arguments: Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let py = arguments.py();
        let iterator =
            Bound::new(py, Self { home: Home::default(), future: AttachedCell::new(None) })?;
        iterator.call_method1(intern!(py, "throw"), arguments)
    }

    fn finish(&self, py: Python<'_>) {
        drop(self.future.take(py));
    }
}

impl Owned for FutureIterator {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().home.get(slf.py())
    }
}

entered!(FutureIterator);

#[pymethods]
impl FutureIterator {
    fn __iter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Some(future) = self.future.get_bound(py) else {
            return Err(pyo3::exceptions::PyStopIteration::new_err(()));
        };
        match Future::resume(&future) {
            Resumed::Yield(value) => Ok(value),
            Resumed::Return(value) => {
                self.finish(py);
                Err(pyo3::exceptions::PyStopIteration::new_err((value.unbind(),)))
            }
            Resumed::Raise(exception) => {
                self.finish(py);
                Err(PyErr::from_value(exception.into_any()))
            }
        }
    }

    /// Resume the iterator; the value sent is ignored.
    fn send<'py>(&self, py: Python<'py>, _value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.__next__(py)
    }

    /// Raise an exception, given as an instance or as a class with arguments.
    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw<'py>(
        &self,
        py: Python<'py>,
        kind: Bound<'py, PyAny>,
        value: Option<Bound<'py, PyAny>>,
        traceback: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if cfg!(Py_3_12) && (value.is_some() || traceback.is_some()) {
            let category = py.get_type::<PyDeprecationWarning>();
            PyErr::warn(py, &category, THROW_SIGNATURE, 1)?;
        }
        let traceback = traceback.filter(|traceback| !traceback.is_none());
        if traceback.as_ref().is_some_and(|traceback| !traceback.is_instance_of::<PyTraceback>()) {
            return Err(PyTypeError::new_err("throw() third argument must be a traceback"));
        }
        let value = value.filter(|value| !value.is_none());
        let exception = if kind.is_instance_of::<PyBaseException>() {
            if value.is_some() {
                return Err(PyTypeError::new_err(
                    "instance exception may not have a separate value",
                ));
            }
            kind
        } else {
            let is_class = kind
                .cast::<pyo3::types::PyType>()
                .is_ok_and(|class| class.is_subclass_of::<PyBaseException>().unwrap_or(false));
            if !is_class {
                return Err(PyTypeError::new_err(
                    "exceptions must be classes deriving BaseException or instances of such a class",
                ));
            }
            match value {
                Some(value) if value.is_instance(&kind)? => value,
                Some(value) => match value.cast::<pyo3::types::PyTuple>() {
                    Ok(arguments) => kind.call1(arguments)?,
                    Err(_) => kind.call1((value,))?,
                },
                None => kind.call0()?,
            }
        };
        if let Some(traceback) = traceback {
            exception.setattr("__traceback__", traceback)?;
        }
        self.finish(py);
        Err(PyErr::from_value(exception))
    }

    /// Release the future.
    fn close(&self, py: Python<'_>) {
        self.finish(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.visit(&visit)?;
        self.future.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| self.finish(py));
    }
}
