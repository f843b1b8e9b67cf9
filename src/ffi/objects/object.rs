//! Functions on objects that need raw pointers.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::{PyClass, PyTypeCheck, PyTypeInfo};

/// Access to the Rust value of the base class.
pub trait HasBase {
    /// The base class.
    type Base;

    /// What [`Bound::get`] is to the class of the object.
    fn base(&self) -> &Self::Base;
}

impl<T> HasBase for Bound<'_, T>
where
    T: PyClass,
    T::BaseType: PyClass<Frozen = True> + Sync,
{
    type Base = T::BaseType;

    #[inline]
    fn base(&self) -> &T::BaseType {
        self.as_super().get()
    }
}

/// Whether `object` is exactly a `T` (no subclass): one pointer comparison.
#[inline(always)]
pub fn is_exactly<T: PyTypeInfo>(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object; only its type pointer is read.
    unsafe { ffi::Py_TYPE(object.as_ptr()) == T::type_object_raw(object.py()) }
}

/// `object` as a `T`, by one pointer comparison if it is exactly one.
#[inline(always)]
pub fn cast_into<'py, T: PyTypeCheck + PyTypeInfo>(
    object: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, T>> {
    if is_exactly::<T>(&object) {
        // SAFETY: checked right above.
        return Ok(unsafe { object.cast_into_unchecked() });
    }
    Ok(object.cast_into()?)
}

/// The subclass of `T` that most instances belong to: the first one seen, kept alive forever.
pub struct CommonSubclass<T> {
    class: AtomicPtr<ffi::PyTypeObject>,
    base: PhantomData<fn() -> T>,
}

impl<T: PyTypeInfo + PyTypeCheck> CommonSubclass<T> {
    /// No subclass was seen yet.
    pub const fn unknown() -> Self {
        Self { class: AtomicPtr::new(std::ptr::null_mut()), base: PhantomData }
    }

    /// `object` as a `T`, if it is one: by one pointer comparison if it is of the common subclass.
    #[inline(always)]
    pub fn cast<'a, 'py>(&self, object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, T>> {
        // SAFETY: a live object; only its type pointer is read.
        let class = unsafe { ffi::Py_TYPE(object.as_ptr()) };
        if class == self.class.load(Ordering::Relaxed) {
            // SAFETY: `cast_slowly` has checked that it is a subclass of `T`, and it is kept alive,
            // so the address is still its own; CPython does not let a class change to bases of
            // another layout.
            return Some(unsafe { object.cast_unchecked() });
        }
        self.cast_slowly(object)
    }

    #[cold]
    fn cast_slowly<'a, 'py>(&self, object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, T>> {
        let cast = object.cast::<T>().ok()?;
        if self.class.load(Ordering::Relaxed).is_null() {
            let class = object.get_type().into_ptr();
            self.class.store(class.cast(), Ordering::Relaxed);
        }
        Some(cast)
    }
}

/// Whether `object` is a native coroutine, by exact type.
#[inline(always)]
pub fn is_native_coroutine(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object; only its type pointer is read.
    unsafe { ffi::PyCoro_CheckExact(object.as_ptr()) != 0 }
}

/// Sets `dict[key] = value`. Runs Python code only if `key` has a Python `__hash__` or `__eq__`, or
/// by dropping the replaced value.
#[cfg(not(Py_3_14))]
#[inline(always)]
pub fn dict_set(
    dict: &Bound<'_, pyo3::types::PyDict>,
    key: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    // SAFETY: live objects, attached.
    if unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) } == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(dict.py()))
    }
}

/// Drops the empty `__dict__` that 3.11 and 3.12 create for every new object of a class with one;
/// it is created again on demand. Runs no Python code.
#[inline(always)]
pub fn discard_eager_dict<T>(object: &Bound<'_, T>) {
    #[cfg(not(Py_3_13))]
    // SAFETY: a live object of ours; its dict slot holds an owned, empty, unshared dict or null.
    unsafe {
        let offset = (*ffi::Py_TYPE(object.as_ptr())).tp_dictoffset;
        if offset > 0 {
            let slot = object.as_ptr().byte_offset(offset).cast::<*mut ffi::PyObject>();
            ffi::Py_XDECREF(slot.replace(std::ptr::null_mut()));
        }
    }
    #[cfg(Py_3_13)]
    let _ = object;
}

/// The `__dict__` of an instance, if it has been created.
#[inline(always)]
pub fn instance_dict<'py, T>(object: &Bound<'py, T>) -> Option<Bound<'py, pyo3::types::PyDict>> {
    // SAFETY: a live object of ours; at the offset that the class states, it holds a dict or null.
    unsafe {
        let offset = (*ffi::Py_TYPE(object.as_ptr())).tp_dictoffset;
        if offset <= 0 {
            return None;
        }
        let place = object.as_ptr().byte_offset(offset).cast::<*mut ffi::PyObject>();
        #[cfg(not(Py_GIL_DISABLED))]
        let dict = place.read();
        #[cfg(Py_GIL_DISABLED)]
        let dict = std::sync::atomic::AtomicPtr::from_ptr(place)
            .load(std::sync::atomic::Ordering::Acquire);
        #[cfg(Py_GIL_DISABLED)]
        let dict = {
            if dict.is_null() {
                return None;
            }
            // Another thread may replace it: the call returns an owned reference, under a lock.
            let owned = ffi::PyObject_GenericGetDict(object.as_ptr(), std::ptr::null_mut());
            let Some(dict) = Bound::from_owned_ptr_or_opt(object.py(), owned) else {
                drop(PyErr::take(object.py()));
                return None;
            };
            dict
        };
        #[cfg(not(Py_GIL_DISABLED))]
        let dict = Bound::from_borrowed_ptr_or_opt(object.py(), dict)?;
        Some(dict.cast_into_unchecked())
    }
}

/// `object.__setattr__(name, value)` or, without a value, `object.__delattr__(name)`.
///
/// Runs Python code if the attribute is a data descriptor.
pub fn generic_setattr(
    object: &Bound<'_, PyAny>,
    name: &Bound<'_, pyo3::types::PyString>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let value = value.map_or(std::ptr::null_mut(), |value| value.as_ptr());
    // SAFETY: live objects, attached; a null value deletes.
    if unsafe { ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value) } == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(object.py()))
    }
}

/// `dict.setdefault(key, value)` with one lookup; returns the value in the dict. May run Python
/// code as [`dict_set`].
#[cfg(not(Py_3_14))]
#[inline(always)]
pub fn dict_set_default<'py>(
    dict: &Bound<'py, pyo3::types::PyDict>,
    key: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = dict.py();
    // SAFETY: live objects, attached; the result is borrowed from the dict, so a new reference is
    // taken at once.
    unsafe {
        let held = ffi::PyDict_SetDefault(dict.as_ptr(), key.as_ptr(), value.as_ptr());
        if held.is_null() {
            return Err(PyErr::fetch(py));
        }
        Ok(Bound::from_borrowed_ptr(py, held))
    }
}

/// `dict.pop(key, None)` with one lookup. May run Python code as [`dict_set`].
#[cfg(not(Py_3_14))]
#[inline(always)]
pub fn dict_discard(dict: &Bound<'_, pyo3::types::PyDict>, key: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = dict.py();
    // SAFETY: live objects, attached.
    if unsafe { ffi::PyDict_DelItem(dict.as_ptr(), key.as_ptr()) } == 0 {
        return Ok(());
    }
    let error = PyErr::fetch(py);
    if error.is_instance_of::<pyo3::exceptions::PyKeyError>(py) { Ok(()) } else { Err(error) }
}

/// Prefetches an object of at most two cache lines, including its header.
#[inline(always)]
pub fn prefetch<T>(object: &Py<T>) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that reads nothing; both addresses are inside or right behind a live object.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = object.as_ptr().cast::<i8>();
        _mm_prefetch::<_MM_HINT_T0>(start);
        _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(64));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = object;
}

/// Makes the garbage collector stop tracking an object: for objects that are known not to be
/// garbage.
#[inline(always)]
pub fn untrack<T>(object: &Bound<'_, T>) {
    if is_collected(object) {
        // SAFETY: a live object with a collector header.
        unsafe { ffi::PyObject_GC_UnTrack(object.as_ptr().cast()) }
    }
}

/// Makes the garbage collector track an object again. Starts no collection.
#[inline(always)]
pub fn track<T>(object: &Bound<'_, T>) {
    // SAFETY: as above; tracking twice is an error, hence the check.
    unsafe {
        if is_collected(object) && ffi::PyObject_GC_IsTracked(object.as_ptr()) == 0 {
            ffi::PyObject_GC_Track(object.as_ptr().cast());
        }
    }
}

/// Whether objects of its class have a collector header.
#[inline(always)]
fn is_collected<T>(object: &Bound<'_, T>) -> bool {
    // SAFETY: a live object, of whose type only the flags are read.
    unsafe { ffi::PyType_HasFeature(ffi::Py_TYPE(object.as_ptr()), ffi::Py_TPFLAGS_HAVE_GC) != 0 }
}

/// Whether there are references to the object besides the caller's.
///
/// On free-threaded builds also if another thread has created the object.
#[inline(always)]
pub fn is_shared<T>(object: &Bound<'_, T>) -> bool {
    #[cfg(not(Py_GIL_DISABLED))]
    // SAFETY: a live object; only its reference count is read.
    unsafe {
        ffi::Py_REFCNT(object.as_ptr()) > 1
    }
    #[cfg(Py_GIL_DISABLED)]
    // SAFETY: a live object; the call only reads its reference counts.
    unsafe {
        ffi::PyUnstable_Object_IsUniquelyReferenced(object.as_ptr()) == 0
    }
}

/// Prepares an object for [`try_incref`] by other threads.
#[inline(always)]
pub fn enable_try_incref<T>(object: &Bound<'_, T>) {
    #[cfg(Py_GIL_DISABLED)]
    // SAFETY: a live object, attached.
    unsafe {
        ffi::PyUnstable_EnableTryIncRef(object.as_ptr());
    }
    #[cfg(not(Py_GIL_DISABLED))]
    let _ = object;
}

/// A new reference to an object, unless it is being deallocated. Runs no Python code.
///
/// # Safety
/// The memory must be that of an object on which [`enable_try_incref`] was called, and must not be
/// freed during the call.
#[inline(always)]
pub unsafe fn try_incref(
    py: Python<'_>,
    object: NonNull<ffi::PyObject>,
) -> Option<Bound<'_, PyAny>> {
    let object = object.as_ptr();
    #[cfg(not(Py_GIL_DISABLED))]
    // SAFETY: the caller guarantees a valid object; one whose reference count is zero is being
    // deallocated and must not be resurrected.
    unsafe {
        (ffi::Py_REFCNT(object) > 0).then(|| Bound::from_borrowed_ptr(py, object))
    }
    #[cfg(Py_GIL_DISABLED)]
    // SAFETY: guaranteed by the caller; if it succeeds, the call makes a new reference.
    unsafe {
        (ffi::PyUnstable_TryIncRef(object) != 0).then(|| Bound::from_owned_ptr(py, object))
    }
}
