//! Pools of deallocated instances, for classes whose instances are created and dropped by the
//! million.
//!
//! When the reference count of an instance reaches zero, it is emptied and kept with its Rust value
//! in place; the next new instance is that object, initialised again. This costs no allocator,
//! constructor and destructor calls and, more importantly, does not count towards the thresholds of
//! the garbage collector: a burst of handles starts no collection.
//!
//! [`freelist`](crate::ffi::objects::freelist) is for classes with finalizers or an instance
//! `__dict__`.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::{Borrowed, PyClass};

use crate::ffi::objects::kept_memory::KeptMemory;
use crate::ffi::objects::process_state::PerThread;
use crate::ffi::objects::trashcan::with_bounded_depth;
use crate::ffi::section::unshared;

/// Pooled instances of exactly one class: untracked, with a valid, empty value and a reference count
/// of zero.
pub type InstancePool = PerThread<KeptMemory>;

/// A class whose exact instances are pooled. It must have weak references, no `__del__` and no
/// `__dict__`.
pub trait Pooled: PyClass {
    /// The pool of its instances, made by [`kept_memory!`](super::kept_memory::kept_memory).
    fn pool() -> &'static InstancePool;

    /// Where the deallocator made by PyO3 is stored.
    fn original_dealloc() -> &'static AtomicPtr<()>;

    /// A new object in the state in which [`Pooled::empty`] leaves one.
    fn new_empty(py: Python<'_>) -> PyResult<Bound<'_, Self>>;

    /// Drops all objects that the value holds, as `Bound`s: PyO3 does not know that this thread is
    /// attached, and would only queue the drop of a `Py`. Runs Python code.
    ///
    /// Called with a reference count of zero: must not change the count.
    fn empty(slf: &Bound<'_, Self>);
}

/// Installs the deallocator of the class. A second call does nothing.
pub fn install<T: Pooled>(py: Python<'_>) {
    let class = py.get_type::<T>();
    if !T::original_dealloc().load(Ordering::Relaxed).is_null() {
        return;
    }
    // SAFETY: a live heap type that was neither subclassed nor instantiated yet.
    unsafe {
        let class = class.as_type_ptr();
        let original = (*class).tp_dealloc.map_or(std::ptr::null_mut(), |f| f as *mut ());
        T::original_dealloc().store(original, Ordering::Relaxed);
        (*class).tp_dealloc = Some(dealloc::<T>);
        ffi::PyType_Modified(class);
    }
}

/// An empty instance of exactly `T`, not tracked by the garbage collector.
#[inline(always)]
pub fn empty_object<T: Pooled>(py: Python<'_>) -> PyResult<Bound<'_, T>> {
    if let Some(instance) = T::pool().with(py, KeptMemory::take) {
        // SAFETY: the memory of an instance of exactly `T`, untracked and with a valid value: it
        // lacks only its reference count and that to its type, which `PyObject_Init` sets.
        return unsafe {
            let object = ffi::PyObject_Init(instance.as_ptr(), T::type_object_raw(py));
            Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked())
        };
    }
    let object = T::new_empty(py)?;
    crate::ffi::objects::object::untrack(&object);
    Ok(object)
}

unsafe extern "C" fn dealloc<T: Pooled>(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls `tp_dealloc` attached, with an object whose reference count reached
    // zero. From here on the garbage collector does not track it.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        with_bounded_depth(object, dealloc::<T>, || pool_or_free::<T>(object));
    }
}

/// # Safety
/// `object` has not been freed, and `class` is its class, which has weak references.
#[inline(always)]
unsafe fn has_weak_references(object: *mut ffi::PyObject, class: *mut ffi::PyTypeObject) -> bool {
    // SAFETY: guaranteed by the caller. Without a GIL, another thread may be dropping a weak reference.
    unsafe {
        let place = object.byte_offset((*class).tp_weaklistoffset).cast::<*mut ffi::PyObject>();
        #[cfg(not(Py_GIL_DISABLED))]
        return !place.read().is_null();
        #[cfg(Py_GIL_DISABLED)]
        return !AtomicPtr::from_ptr(place).load(Ordering::Acquire).is_null();
    }
}

/// # Safety
/// The thread must be attached; `object` has a reference count of zero and is not tracked.
#[inline(always)]
unsafe fn pool_or_free<T: Pooled>(object: *mut ffi::PyObject) {
    // SAFETY: `empty` does not change the count; the original deallocator is a `destructor` stored
    // by `install`. An untracked object without weak references cannot be reached by the Python
    // code that `empty` runs. Afterwards only the pool refers to the object, and the reference to
    // its type that each instance of a heap type owns is dropped.
    unsafe {
        let py = Python::assume_attached();
        let class = ffi::Py_TYPE(object);
        if class == T::type_object_raw(py) {
            if has_weak_references(object, class) {
                ffi::PyObject_ClearWeakRefs(object);
            }
            unshared(|| T::empty(&Borrowed::from_ptr(py, object).cast_unchecked::<T>()));
            let instance = NonNull::new_unchecked(object);
            if T::pool().with(py, |instances| instances.keep(instance)) {
                ffi::Py_DECREF(class.cast());
                return;
            }
        }
        let original = T::original_dealloc().load(Ordering::Relaxed);
        let original: ffi::destructor = std::mem::transmute(original);
        original(object);
    }
}
