//! Pooled instances kept whole, for the classes whose instances come and go by the million.
//!
//! An instance that nobody refers to any more is emptied and put aside with its Rust value in
//! place; the next one is that object, filled again. It costs neither allocator nor constructor
//! nor destructor and, which matters more, does not count towards the thresholds of the cyclic
//! collector: a burst of handles starts no collection.
//!
//! [`freelist`](crate::ffi::objects::freelist) is for classes with finalizers or an instance `__dict__`.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::{Borrowed, PyClass};

use crate::ffi::objects::cell::AttachedRefCell;
use crate::ffi::objects::trashcan::bounded;

/// Pooled instances of exactly one class.
pub struct InstancePool {
    instances: AttachedRefCell<Vec<PooledInstance>>,
    capacity: usize,
    /// The deallocator that PyO3 made.
    original_dealloc: AtomicPtr<()>,
}

/// An untracked instance with a valid, empty value and a reference count of zero.
struct PooledInstance(NonNull<ffi::PyObject>);

// SAFETY: touched only with the GIL held.
unsafe impl Send for PooledInstance {}

impl InstancePool {
    /// One that keeps at most `capacity` instances.
    pub const fn new(capacity: usize) -> Self {
        Self {
            instances: AttachedRefCell::new(Vec::new()),
            capacity,
            original_dealloc: AtomicPtr::new(std::ptr::null_mut()),
        }
    }
}

/// A class whose exact instances are used again. It must have weak references, no `__del__` and no
/// `__dict__`.
pub trait Pooled: PyClass {
    /// Where its instances are.
    fn pool() -> &'static InstancePool;

    /// A new object in the state in which [`Pooled::empty`] leaves one.
    fn new_empty(py: Python<'_>) -> PyResult<Bound<'_, Self>>;

    /// Lets go of all objects held, as `Bound`s: PyO3 does not know that this thread is attached,
    /// and would only note that it is to drop a `Py`. Runs Python code.
    ///
    /// Called with a reference count of zero: must not touch the count.
    fn empty(slf: &Bound<'_, Self>);
}

/// Puts the deallocator of the class in place. A second call does nothing.
pub fn install<T: Pooled>(py: Python<'_>) {
    let class = py.get_type::<T>();
    if !T::pool().original_dealloc.load(Ordering::Relaxed).is_null() {
        return;
    }
    // SAFETY: a live heap type that nobody has subclassed or instantiated yet.
    unsafe {
        let class = class.as_type_ptr();
        let original = (*class).tp_dealloc.map_or(std::ptr::null_mut(), |f| f as *mut ());
        T::pool().original_dealloc.store(original, Ordering::Relaxed);
        (*class).tp_dealloc = Some(dealloc::<T>);
        ffi::PyType_Modified(class);
    }
}

/// An empty instance of exactly `T`, hidden from the collector.
#[inline(always)]
pub fn empty_object<T: Pooled>(py: Python<'_>) -> PyResult<Bound<'_, T>> {
    if let Some(instances) = T::pool().instances.with(py, Vec::pop) {
        // SAFETY: the memory of an instance of exactly `T`, untracked and with a valid value:
        // it lacks only its count and its type's, which `PyObject_Init` sets.
        return unsafe {
            let object = ffi::PyObject_Init(instances.0.as_ptr(), T::type_object_raw(py));
            Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked())
        };
    }
    let object = T::new_empty(py)?;
    crate::ffi::objects::object::untrack(&object);
    Ok(object)
}

unsafe extern "C" fn dealloc<T: Pooled>(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls `tp_dealloc` attached, with an object whose count reached zero. From
    // here on the collector does not see it.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        bounded(object, dealloc::<T>, || pool_or_free::<T>(object));
    }
}

/// # Safety
/// Attached; `object` has a count of zero and is not tracked.
#[inline(always)]
unsafe fn pool_or_free<T: Pooled>(object: *mut ffi::PyObject) {
    // SAFETY: `empty` does not touch the count; the original deallocator is a `destructor` stored
    // by `install`. An untracked object without weak references cannot be reached by the Python
    // code that `empty` runs. Afterwards only the pool knows the object, and the reference to
    // its type that each instance of a heap type owns is given back.
    unsafe {
        let py = Python::assume_attached();
        let class = ffi::Py_TYPE(object);
        if class == T::type_object_raw(py) {
            let weak_references = object.byte_offset((*class).tp_weaklistoffset);
            if !weak_references.cast::<*mut ffi::PyObject>().read().is_null() {
                ffi::PyObject_ClearWeakRefs(object);
            }
            T::empty(&Borrowed::from_ptr(py, object).cast_unchecked::<T>());
            let pool = T::pool();
            let kept = pool.instances.with(py, |instances| {
                let room = instances.len() < pool.capacity;
                if room {
                    instances.push(PooledInstance(NonNull::new_unchecked(object)));
                }
                room
            });
            if kept {
                ffi::Py_DECREF(class.cast());
                return;
            }
        }
        let original = T::pool().original_dealloc.load(Ordering::Relaxed);
        let original: ffi::destructor = std::mem::transmute(original);
        original(object);
    }
}
