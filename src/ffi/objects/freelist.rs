//! Free lists for classes whose instances are created and dropped by the million.
//!
//! A recycled object skips the allocator and, more importantly, does not count towards the
//! thresholds of the garbage collector: bursts of handles and futures start fewer collections.

use std::ptr::NonNull;

use pyo3::PyClass;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::objects::kept_memory::KeptMemory;
use crate::ffi::objects::process_state::PerThread;

/// Memory of deallocated instances of exactly one class: those of a burst, which would otherwise
/// start collections. It is not returned to the allocator.
pub type FreeList = PerThread<KeptMemory>;

/// A class with a free list.
///
/// The collector tracks an instance before its value is moved in. `__traverse__` must therefore visit
/// nothing if all fields are zeroed: what it visits is an `Option`, or in one. With debug assertions
/// [`install`] checks that.
pub trait Recycled: PyClass {
    /// The free list of the class, made by [`kept_memory!`](super::kept_memory::kept_memory).
    fn free_list() -> &'static FreeList;
}

/// Points `tp_alloc` and `tp_free` of the class at its free list.
pub fn install<T: Recycled>(py: Python<'_>) {
    let class = py.get_type::<T>();
    // SAFETY: a live heap type that was neither subclassed nor instantiated yet.
    unsafe {
        let class = class.as_type_ptr();
        #[cfg(debug_assertions)]
        assert_empty_when_zeroed(class);
        (*class).tp_alloc = Some(alloc::<T>);
        (*class).tp_free = Some(free::<T>);
        ffi::PyType_Modified(class);
    }
}

/// Panics if the collector would visit objects of an instance whose value is not there yet.
///
/// # Safety
/// The thread must be attached; `class` is a live heap type with a collector header.
#[cfg(debug_assertions)]
unsafe fn assert_empty_when_zeroed(class: *mut ffi::PyTypeObject) {
    use std::ffi::{c_int, c_void};

    unsafe extern "C" fn is_class(object: *mut ffi::PyObject, class: *mut c_void) -> c_int {
        c_int::from(object.cast() != class)
    }
    // SAFETY: the memory of an instance, zeroed, which only this function knows. It owns a reference
    // to its class, as each instance of a heap type does.
    unsafe {
        let object = ffi::PyType_GenericAlloc(class, 0);
        if object.is_null() {
            return ffi::PyErr_Clear();
        }
        let visited_other = (*class)
            .tp_traverse
            .is_some_and(|traverse| traverse(object, is_class, class.cast()) != 0);
        ffi::PyObject_GC_UnTrack(object.cast());
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(class.cast());
        assert!(!visited_other, "__traverse__ must visit nothing if all fields are zeroed");
    }
}

unsafe extern "C" fn alloc<T: Recycled>(
    class: *mut ffi::PyTypeObject,
    items: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls `tp_alloc` attached. A block in the list was an instance of exactly
    // `T`, has its size and an unlinked collector header in front; its body is zeroed and its head
    // initialised before the collector tracks it.
    unsafe {
        let py = Python::assume_attached();
        if class == T::type_object_raw(py) {
            if let Some(block) = T::free_list().with(py, KeptMemory::take) {
                let object = block.as_ptr();
                let size = (*class).tp_basicsize.unsigned_abs();
                object.cast::<u8>().write_bytes(0, size);
                ffi::PyObject_Init(object, class);
                ffi::PyObject_GC_Track(object.cast());
                return object;
            }
        }
        ffi::PyType_GenericAlloc(class, items)
    }
}

unsafe extern "C" fn free<T: Recycled>(memory: *mut std::ffi::c_void) {
    // SAFETY: CPython calls `tp_free` attached, with an untracked deallocated object whose type
    // pointer is still valid.
    unsafe {
        let py = Python::assume_attached();
        let object = memory.cast::<ffi::PyObject>();
        // The header records that a finalizer ran: such memory cannot be reused.
        if ffi::Py_TYPE(object) == T::type_object_raw(py)
            && ffi::PyObject_GC_IsFinalized(object) == 0
            && NonNull::new(object)
                .is_some_and(|block| T::free_list().with(py, |list| list.keep(block)))
        {
            return;
        }
        ffi::PyObject_GC_Del(memory);
    }
}
