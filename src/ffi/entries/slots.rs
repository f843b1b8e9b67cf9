//! The entries of type slots.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{Entered, enter};
use crate::ffi::section::unshared;

/// The address of a slot of a class; null if the class has no table for it.
macro_rules! slot {
    ($class:expr, am_await) => {{
        let table = (*$class).tp_as_async;
        if table.is_null() { std::ptr::null_mut() } else { &raw mut (*table).am_await }
    }};
    ($class:expr, $field:ident) => {
        &raw mut (*$class).$field
    };
}

/// Calls the function of a slot in the section of the object, or without one for an object that no
/// other thread has yet.
macro_rules! around {
    (in_section, $class:ty, $slf:ident, $body:expr) => {
        enter::<$class>($slf, &mut $body)
    };
    (unshared, $class:ty, $slf:ident, $body:expr) => {
        unshared($body)
    };
}

/// Declares [`Entries`], the functions that stand for those of PyO3, and how they are installed.
macro_rules! slots {
    ($($name:ident, $field:ident: $type:ty, $around:ident,
        ($slf:ident: $slf_type:ty $(, $argument:ident: $argument_type:ty)*) -> $result:ty
        = $failure:expr;)*) => {
        /// What was installed for a class: the functions of PyO3 in its slots.
        pub struct Entries {
            installed: AtomicBool,
            $($name: AtomicPtr<()>,)*
        }

        impl Entries {
            /// Nothing yet.
            pub const fn new() -> Self {
                Self {
                    installed: AtomicBool::new(false),
                    $($name: AtomicPtr::new(std::ptr::null_mut()),)*
                }
            }
        }

        $(unsafe extern "C" fn $name<T: Entered>(
            $slf: $slf_type,
            $($argument: $argument_type),*
        ) -> $result {
            let mut result = $failure;
            // SAFETY: CPython calls slots attached, with an instance of the class, or with the class
            // to create one.
            unsafe {
                let function: $type =
                    std::mem::transmute(T::entries().$name.load(Ordering::Relaxed));
                around!($around, T, $slf, || result = function($slf, $($argument),*));
            }
            result
        })*

        /// Replaces the functions in the slots that the class does not inherit. Returns the pairs of
        /// original and replacement.
        ///
        /// # Safety
        /// As for [`replace`]; `base` is the class's base.
        unsafe fn replace_all<T: Entered>(
            class: *mut ffi::PyTypeObject,
            base: *mut ffi::PyTypeObject,
        ) -> Vec<(*mut c_void, *mut c_void)> {
            let mut replaced = Vec::new();
            // SAFETY: guaranteed by the caller; tables of slots live as long as their class.
            unsafe {
                $(
                    let slot: *mut Option<$type> = slot!(class, $field);
                    let inherited: *mut Option<$type> = slot!(base, $field);
                    let function = slot.as_ref().copied().flatten();
                    let inherited = inherited.as_ref().copied().flatten();
                    let inherited = inherited.map(|function| function as *mut c_void);
                    let function = function.map(|function| function as *mut c_void);
                    if let Some(function) = function.filter(|&it| inherited != Some(it)) {
                        T::entries().$name.store(function.cast(), Ordering::Relaxed);
                        let replacement: $type = $name::<T>;
                        *slot = Some(replacement);
                        replaced.push((function, replacement as *mut c_void));
                    }
                )*
            }
            replaced
        }
    };
}

slots! {
    repr, tp_repr: ffi::reprfunc, in_section,
        (slf: *mut ffi::PyObject) -> *mut ffi::PyObject = std::ptr::null_mut();
    string, tp_str: ffi::reprfunc, in_section,
        (slf: *mut ffi::PyObject) -> *mut ffi::PyObject = std::ptr::null_mut();
    hash, tp_hash: ffi::hashfunc, in_section, (slf: *mut ffi::PyObject) -> ffi::Py_hash_t = -1;
    iterate, tp_iter: ffi::getiterfunc, in_section,
        (slf: *mut ffi::PyObject) -> *mut ffi::PyObject = std::ptr::null_mut();
    next, tp_iternext: ffi::iternextfunc, in_section,
        (slf: *mut ffi::PyObject) -> *mut ffi::PyObject = std::ptr::null_mut();
    await_object, am_await: ffi::unaryfunc, in_section,
        (slf: *mut ffi::PyObject) -> *mut ffi::PyObject = std::ptr::null_mut();
    call, tp_call: ffi::ternaryfunc, in_section,
        (slf: *mut ffi::PyObject, arguments: *mut ffi::PyObject, keywords: *mut ffi::PyObject)
        -> *mut ffi::PyObject = std::ptr::null_mut();
    compare, tp_richcompare: ffi::richcmpfunc, in_section,
        (slf: *mut ffi::PyObject, other: *mut ffi::PyObject, operator: c_int)
        -> *mut ffi::PyObject = std::ptr::null_mut();
    initialise, tp_init: ffi::initproc, in_section,
        (slf: *mut ffi::PyObject, arguments: *mut ffi::PyObject, keywords: *mut ffi::PyObject)
        -> c_int = -1;
    get_attribute, tp_getattro: ffi::getattrofunc, in_section,
        (slf: *mut ffi::PyObject, name: *mut ffi::PyObject)
        -> *mut ffi::PyObject = std::ptr::null_mut();
    set_attribute, tp_setattro: ffi::setattrofunc, in_section,
        (slf: *mut ffi::PyObject, name: *mut ffi::PyObject, value: *mut ffi::PyObject)
        -> c_int = -1;
    create, tp_new: ffi::newfunc, unshared,
        (class: *mut ffi::PyTypeObject, arguments: *mut ffi::PyObject, keywords: *mut ffi::PyObject)
        -> *mut ffi::PyObject = std::ptr::null_mut();
}

impl Entries {
    /// Whether this is the first call.
    pub(super) fn claim(&self) -> bool {
        !self.installed.swap(true, Ordering::Relaxed)
    }
}

/// Replaces the functions in the slots that the class does not inherit.
///
/// # Safety
/// As for [`replace`](super::methods::replace).
pub(super) unsafe fn replace<T: Entered>(class: &Bound<'_, PyType>) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let pointer = class.as_type_ptr();
        let replaced = replace_all::<T>(pointer, (*pointer).tp_base);
        replace_wrappers(class, &replaced);
    }
}

/// Points the descriptors that CPython has made for slots (`Class.__repr__`) at the replacements.
///
/// # Safety
/// As for [`replace`].
unsafe fn replace_wrappers(class: &Bound<'_, PyType>, replaced: &[(*mut c_void, *mut c_void)]) {
    let Ok(attributes) = class.getattr("__dict__").and_then(|dict| dict.call_method0("values"))
    else {
        return;
    };
    let Ok(values) = attributes.try_iter() else { return };
    for value in values.flatten() {
        // SAFETY: the type is checked; the class owns its descriptors.
        unsafe {
            if ffi::Py_TYPE(value.as_ptr()) != &raw mut ffi::PyWrapperDescr_Type {
                continue;
            }
            let descriptor = value.as_ptr().cast::<ffi::PyWrapperDescrObject>();
            for (original, replacement) in replaced {
                if (*descriptor).d_wrapped == *original {
                    (*descriptor).d_wrapped = *replacement;
                }
            }
        }
    }
}
