//! Type slots that PyO3 does not fill: finalizers and the awaiting protocol.
//!
//! Slots are patched once, right after a class is created and before it can be subclassed, so that
//! Python subclasses inherit them.

use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyStopIteration};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};
use pyo3::{Borrowed, PyClass};

use crate::ffi::attach::with_attached;
use crate::ffi::exception::{restore_raised, take_raised};
use crate::ffi::objects::trashcan::with_bounded_depth;
use crate::ffi::panic;
use crate::ffi::section::{self, Owned, unshared};

/// A class with a `__del__` that the interpreter calls for exact instances too (PEP 442).
///
/// The class must also have a `__del__` method that calls [`Finalize::finalize`], for subclasses,
/// in which CPython finds the finalizer by name.
pub trait Finalize: PyClass {
    /// Where the deallocator made by PyO3 is stored.
    fn original_dealloc() -> &'static AtomicPtr<()>;

    /// Whether there is anything to report. If not, the temporary resurrection is skipped.
    ///
    /// Called with a reference count of zero: must not change the count.
    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool;

    /// Reports what must not be lost silently with the object. May resurrect it.
    fn finalize(slf: &Bound<'_, Self>);

    /// Drops objects that the value holds, as `Bound`s, before the deallocator drops the value: for
    /// each `Py`, PyO3 would check whether this thread is attached. Runs Python code.
    ///
    /// Called with a reference count of zero, untracked: must not change the count.
    #[inline(always)]
    fn release(_slf: &Bound<'_, Self>) {}
}

/// Implements [`Finalize::original_dealloc`].
macro_rules! original_dealloc {
    () => {
        fn original_dealloc() -> &'static std::sync::atomic::AtomicPtr<()> {
            static DEALLOC: std::sync::atomic::AtomicPtr<()> =
                std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());
            &DEALLOC
        }
    };
}
pub(crate) use original_dealloc;

/// Installs `tp_finalize` and the deallocator that calls it. A second call does nothing.
pub fn install_finalizer<T: Finalize>(py: Python<'_>) {
    let class = py.get_type::<T>();
    if !T::original_dealloc().load(Ordering::Relaxed).is_null() {
        return;
    }
    finalizer_name(py);
    // SAFETY: a live heap type that was neither subclassed nor instantiated yet.
    unsafe {
        let class = class.as_type_ptr();
        let original = (*class).tp_dealloc.map_or(std::ptr::null_mut(), |f| f as *mut ());
        T::original_dealloc().store(original, Ordering::Relaxed);
        (*class).tp_dealloc = Some(dealloc::<T>);
        (*class).tp_finalize = Some(finalize::<T>);
        ffi::PyType_Modified(class);
    }
}

/// Created when a class gets its finalizer, since creating it panics if there is no memory.
fn finalizer_name(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "__del__")
}

/// Calls `__del__`, a method made by PyO3, which works while the interpreter finalizes.
unsafe extern "C" fn finalize<T: Finalize>(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls `tp_finalize` attached, with an instance of the class that carries the
    // slot. Under this token only objects that CPython has returned are dropped.
    unsafe {
        let py = Python::assume_attached();
        if !needs_finalizing::<T>(py, object) {
            return;
        }
        let raised = take_raised(py);
        let name = finalizer_name(py);
        let result = ffi::PyObject_CallMethodNoArgs(object, name.as_ptr());
        if result.is_null() {
            ffi::PyErr_WriteUnraisable(object);
        } else {
            ffi::Py_DECREF(result);
        }
        restore_raised(raised);
    }
}

/// # Safety
/// The thread must be attached; no other code uses the live instance of `T`.
#[inline(always)]
unsafe fn needs_finalizing<T: Finalize>(py: Python<'_>, object: *mut ffi::PyObject) -> bool {
    // SAFETY: guaranteed by the caller.
    unshared(|| unsafe {
        T::needs_finalizing(&Borrowed::from_ptr(py, object).cast_unchecked::<T>())
    })
}

unsafe extern "C" fn dealloc<T: Finalize>(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls `tp_dealloc` attached, with an object whose reference count reached
    // zero.
    unsafe { with_bounded_depth(object, dealloc::<T>, || finalize_and_free::<T>(object)) };
}

/// # Safety
/// The thread must be attached; `object` has a reference count of zero.
#[inline(always)]
unsafe fn finalize_and_free<T: Finalize>(object: *mut ffi::PyObject) {
    // SAFETY: `needs_finalizing` and `release` do not change the count; the original deallocator,
    // which untracks the object once more, is a `destructor` stored by `install_finalizer`.
    unsafe {
        let py = Python::assume_attached();
        if needs_finalizing::<T>(py, object) && ffi::PyObject_GC_IsFinalized(object) == 0 {
            if ffi::PyObject_GC_IsTracked(object) == 0 {
                // The trashcan has untracked it, and it may be resurrected now.
                ffi::PyObject_GC_Track(object.cast());
            }
            if ffi::PyObject_CallFinalizerFromDealloc(object) < 0 {
                return; // resurrected
            }
        }
        ffi::PyObject_GC_UnTrack(object.cast());
        unshared(|| T::release(&Borrowed::from_ptr(py, object).cast_unchecked::<T>()));
        let original = T::original_dealloc().load(Ordering::Relaxed);
        let original: ffi::destructor = std::mem::transmute(original);
        original(object);
    }
}

/// The result of resuming an awaitable.
pub enum Resumed<'py> {
    /// Suspend; the task receives this object.
    Yield(Bound<'py, PyAny>),
    /// The await expression has this value.
    Return(Bound<'py, PyAny>),
    /// The await expression raises.
    Raise(Bound<'py, PyBaseException>),
}

impl<'py> Resumed<'py> {
    /// What `send()` returns or raises.
    pub fn into_sent(self) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Yield(awaited) => Ok(awaited),
            Self::Return(value) => Err(PyStopIteration::new_err((value.unbind(),))),
            Self::Raise(exception) => Err(PyErr::from_value(exception.into_any())),
        }
    }
}

/// A class whose instances are their own awaiter: `await` allocates nothing.
pub trait SelfAwaiting: Owned {
    /// Whether PyO3 counts a resumption: see
    /// [`FastMethod::COUNTED`](crate::ffi::method::FastMethod).
    const COUNTED: bool = true;

    /// One resumption with the value None.
    fn resume<'py>(slf: &Bound<'py, Self>) -> Resumed<'py>;

    /// Whether the instance is certainly its own awaiter, by a quick check.
    #[inline(always)]
    fn is_its_own_awaiter(_slf: &Bound<'_, Self>) -> bool {
        true
    }

    /// The awaiter of an instance that cannot be its own: the interpreter looks up `send`, `throw`
    /// and `close` of an awaiter by name, and methods of these names in a subclass may have another
    /// purpose. `None` if the instance is its own.
    fn separate_awaiter<'py>(_slf: &Bound<'py, Self>) -> Option<PyResult<Bound<'py, PyAny>>> {
        None
    }
}

/// Points `am_await`, `am_send` and `tp_iternext` of the class at [`SelfAwaiting::resume`].
///
/// The class dict is not changed: an explicit `__await__()` still returns a separate iterator, and
/// there is no `__next__` that would make instances look like iterators.
pub fn install_self_awaiting<T: SelfAwaiting>(py: Python<'_>) {
    let class = py.get_type::<T>();
    // SAFETY: a live heap type that was neither subclassed nor instantiated yet; heap types have
    // their own `tp_as_async` table.
    unsafe {
        let class = class.as_type_ptr();
        let table = (*class).tp_as_async;
        (*table).am_await = Some(await_self::<T>);
        (*table).am_send = Some(send::<T>);
        (*class).tp_iternext = Some(next::<T>);
        ffi::PyType_Modified(class);
    }
}

/// Adds `hidden` to the method resolution order of `class`, right before `object`, so that
/// instances find its attributes, without a change that programs can see in `dir()` or `__bases__`.
pub fn add_hidden_base(class: &Bound<'_, PyType>, hidden: &Bound<'_, PyType>) -> PyResult<()> {
    let py = class.py();
    let order = class.mro();
    let last = order.len().saturating_sub(1);
    let mut classes: Vec<Bound<'_, PyAny>> = order.iter().collect();
    classes.insert(last, hidden.clone().into_any());
    let order = PyTuple::new(py, classes)?;
    // SAFETY: a live heap type that no Python code has seen yet; it owns its `tp_mro`, a tuple of
    // types, in which every type but the new one was before. The new one does not change the layout
    // of instances.
    unsafe {
        let class = class.as_type_ptr();
        let before = std::mem::replace(&mut (*class).tp_mro, order.into_ptr());
        ffi::Py_XDECREF(before);
        ffi::PyType_Modified(class);
    }
    Ok(())
}

unsafe extern "C" fn await_self<T: SelfAwaiting>(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: CPython calls slots attached, with a live instance of the class that has them, and
    // gets a new reference, or null with an exception set.
    unsafe {
        let py = Python::assume_attached();
        let slf = Borrowed::from_ptr(py, object).cast_unchecked::<T>();
        if T::is_its_own_awaiter(&slf) { ffi::Py_NewRef(object) } else { await_separate(&slf) }
    }
}

/// The separate awaiter of an instance: a new reference, or null with an exception set.
#[cold]
#[inline(never)]
fn await_separate<T: SelfAwaiting>(slf: &Bound<'_, T>) -> *mut ffi::PyObject {
    let awaiter = panic::catch(|| T::separate_awaiter(slf));
    match awaiter.unwrap_or_else(|_message| Some(Err(internal_error()))) {
        None => slf.clone().into_ptr().cast(),
        Some(Ok(awaiter)) => awaiter.into_ptr(),
        Some(Err(error)) => {
            error.restore(slf.py());
            std::ptr::null_mut()
        }
    }
}

#[cold]
fn internal_error() -> PyErr {
    PyRuntimeError::new_err("ferroloop: internal error (panic)")
}

#[inline(always)]
fn resume<'py, T: SelfAwaiting>(py: Python<'py>, object: *mut ffi::PyObject) -> Resumed<'py> {
    // SAFETY: CPython calls the slots with an instance of the class that has them.
    let slf = unsafe { Borrowed::from_ptr(py, object).cast_unchecked::<T>() };
    panic::catch(|| section::enter_of(&slf, || T::resume(&slf)))
        .unwrap_or_else(|_message| Resumed::Raise(internal_error().into_value(py).into_bound(py)))
}

unsafe extern "C" fn send<T: SelfAwaiting>(
    object: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    let enter = |py: Python<'_>| {
        let (value, outcome) = match resume::<T>(py, object) {
            Resumed::Yield(value) => (value.into_ptr(), ffi::PySendResult::PYGEN_NEXT),
            Resumed::Return(value) => (value.into_ptr(), ffi::PySendResult::PYGEN_RETURN),
            Resumed::Raise(exception) => {
                restore_raised(Some(exception));
                (std::ptr::null_mut(), ffi::PySendResult::PYGEN_ERROR)
            }
        };
        // SAFETY: CPython passes a valid pointer for the result.
        unsafe { *result = value };
        outcome
    };
    // SAFETY: CPython calls slots attached.
    unsafe { if T::COUNTED { with_attached(enter) } else { enter(Python::assume_attached()) } }
}

unsafe extern "C" fn next<T: SelfAwaiting>(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let enter = |py: Python<'_>| match resume::<T>(py, object) {
        Resumed::Yield(value) => value.into_ptr(),
        Resumed::Return(value) => {
            signal_return(&value);
            std::ptr::null_mut()
        }
        Resumed::Raise(exception) => {
            restore_raised(Some(exception));
            std::ptr::null_mut()
        }
    };
    // SAFETY: CPython calls slots attached.
    unsafe { if T::COUNTED { with_attached(enter) } else { enter(Python::assume_attached()) } }
}

/// Raises StopIteration(value) without calling the class, which is half of its cost. Returns false,
/// and raises nothing, while an exception is being handled, which would become its context.
#[cfg(Py_3_12)]
#[inline(always)]
fn signal_return_outside_of_handlers(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: attached; a live class, whose `tp_new` takes a tuple and keeps its own reference to
    // it. It returns a zeroed `PyStopIterationObject`, to which no other code refers until it is
    // raised, or null with MemoryError set.
    unsafe {
        let handled = ffi::PyErr_GetHandledException();
        if !handled.is_null() {
            ffi::Py_DECREF(handled);
            return false;
        }
        let class = ffi::PyExc_StopIteration.cast::<ffi::PyTypeObject>();
        let Some(new) = (*class).tp_new else { return false };
        let arguments = ffi::PyTuple_New(1);
        if arguments.is_null() {
            return true;
        }
        ffi::PyTuple_SET_ITEM(arguments, 0, ffi::Py_NewRef(value.as_ptr()));
        let stop = new(class, arguments, std::ptr::null_mut());
        ffi::Py_DECREF(arguments);
        if !stop.is_null() {
            (*stop.cast::<ffi::PyStopIterationObject>()).value = ffi::Py_NewRef(value.as_ptr());
            ffi::PyErr_SetRaisedException(stop);
        }
        true
    }
}

/// Raises StopIteration(value), or nothing for None, which the protocol allows.
#[inline(always)]
fn signal_return(value: &Bound<'_, PyAny>) {
    if value.is_none() {
        return;
    }
    #[cfg(Py_3_12)]
    if signal_return_outside_of_handlers(value) {
        return;
    }
    if value.is_instance_of::<PyTuple>() || value.is_instance_of::<PyBaseException>() {
        // `PyErr_SetObject` would unpack a tuple and raise an exception as itself.
        match value.py().get_type::<PyStopIteration>().call1((value,)) {
            Ok(stop) => PyErr::from_value(stop),
            Err(error) => error,
        }
        .restore(value.py());
        return;
    }
    // SAFETY: attached; both objects are live.
    unsafe { ffi::PyErr_SetObject(ffi::PyExc_StopIteration, value.as_ptr()) }
}
