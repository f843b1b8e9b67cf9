//! The entries of properties.

use std::ffi::{c_int, c_void};

use pyo3::ffi;

use super::enter;
use crate::ffi::section::Owned;

/// A property of PyO3.
struct Attribute {
    get: Option<ffi::getter>,
    set: Option<ffi::setter>,
    closure: *mut c_void,
}

/// Replaces the functions of the properties of the class.
///
/// # Safety
/// As for [`replace`](super::methods::replace).
pub(super) unsafe fn replace<T: Owned>(class: *mut ffi::PyTypeObject) {
    // SAFETY: guaranteed by the caller; a null name ends the table.
    unsafe {
        let mut attribute = (*class).tp_getset;
        while !attribute.is_null() && !(*attribute).name.is_null() {
            replace_attribute::<T>(attribute);
            attribute = attribute.add(1);
        }
    }
}

/// # Safety
/// `attribute` is a definition that PyO3 has made for the class.
unsafe fn replace_attribute<T: Owned>(attribute: *mut ffi::PyGetSetDef) {
    // SAFETY: guaranteed by the caller. The closure is for our functions alone, and leaked.
    unsafe {
        let original = Box::new(Attribute {
            get: (*attribute).get,
            set: (*attribute).set,
            closure: (*attribute).closure,
        });
        if original.get.is_some() {
            (*attribute).get = Some(get::<T>);
        }
        if original.set.is_some() {
            (*attribute).set = Some(set::<T>);
        }
        (*attribute).closure = Box::into_raw(original).cast();
    }
}

unsafe extern "C" fn get<T: Owned>(
    slf: *mut ffi::PyObject,
    closure: *mut c_void,
) -> *mut ffi::PyObject {
    let mut result = std::ptr::null_mut();
    // SAFETY: CPython calls getters attached, with an instance of the class and their closure.
    unsafe {
        let original = &*closure.cast::<Attribute>();
        let get = original.get.unwrap_unchecked();
        enter::<T>(slf, &mut || result = get(slf, original.closure));
    }
    result
}

unsafe extern "C" fn set<T: Owned>(
    slf: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    closure: *mut c_void,
) -> c_int {
    let mut result = -1;
    // SAFETY: as for `get`.
    unsafe {
        let original = &*closure.cast::<Attribute>();
        let set = original.set.unwrap_unchecked();
        enter::<T>(slf, &mut || result = set(slf, value, original.closure));
    }
    result
}
