//! The entries of methods. C functions of methods do not learn which method was called, so each
//! method that is replaced gets a function of its own, made for its number.

use std::ffi::{CStr, c_int};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;

use super::{Entered, enter};
use crate::ffi::section::Owned;

/// Maximum number of methods.
const METHODS: usize = 512;

type Enter = unsafe fn(*mut ffi::PyObject, &mut dyn FnMut());

/// A method of PyO3 and how the section of its object is entered.
struct Method {
    function: AtomicPtr<()>,
    enter: AtomicPtr<()>,
}

static TABLE: [Method; METHODS] = [const {
    Method {
        function: AtomicPtr::new(std::ptr::null_mut()),
        enter: AtomicPtr::new(std::ptr::null_mut()),
    }
}; METHODS];

static USED: AtomicUsize = AtomicUsize::new(0);

/// Replaces the functions of the methods of the class.
///
/// # Safety
/// A live heap type that PyO3 has made, which was neither subclassed nor instantiated yet.
pub(super) unsafe fn replace<T: Entered>(class: *mut ffi::PyTypeObject) {
    // SAFETY: guaranteed by the caller; a null name ends the table.
    unsafe {
        let mut method = (*class).tp_methods;
        while !method.is_null() && !(*method).ml_name.is_null() {
            if !T::WITHOUT_SECTION.contains(&CStr::from_ptr((*method).ml_name)) {
                replace_method::<T>(method);
            }
            method = method.add(1);
        }
    }
}

/// # Safety
/// `method` is a definition that PyO3 has made for the class.
unsafe fn replace_method<T: Owned>(method: *mut ffi::PyMethodDef) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let flags = (*method).ml_flags;
        if flags & (ffi::METH_STATIC | ffi::METH_CLASS) != 0 {
            return;
        }
        let index = USED.fetch_add(1, Ordering::Relaxed);
        assert!(index < METHODS, "more methods than entries");
        TABLE[index].function.store((*method).ml_meth.as_ptr().cast(), Ordering::Relaxed);
        TABLE[index].enter.store(enter::<T> as Enter as *mut (), Ordering::Relaxed);
        (*method).ml_meth = entry(index, flags);
    }
}

macro_rules! conventions {
    ($($name:ident: $type:ty, ($($argument:ident: $argument_type:ty),*);)*) => {$(
        unsafe extern "C" fn $name<const N: usize>(
            slf: *mut ffi::PyObject,
            $($argument: $argument_type),*
        ) -> *mut ffi::PyObject {
            let mut result = std::ptr::null_mut();
            // SAFETY: CPython calls methods attached, with an instance of the class of the method
            // and with arguments for its flags, which are those of this function.
            unsafe {
                let method = &TABLE[N];
                let function: $type = std::mem::transmute(method.function.load(Ordering::Relaxed));
                let enter: Enter = std::mem::transmute(method.enter.load(Ordering::Relaxed));
                enter(slf, &mut || result = function(slf, $($argument),*));
            }
            result
        }
    )*};
}

conventions! {
    bare: ffi::PyCFunction, (argument: *mut ffi::PyObject);
    fast: ffi::PyCFunctionFastWithKeywords,
        (values: *const *mut ffi::PyObject, positional: ffi::Py_ssize_t, names: *mut ffi::PyObject);
    packed: ffi::PyCFunctionWithKeywords,
        (values: *mut ffi::PyObject, keywords: *mut ffi::PyObject);
}

/// The function with the number of a method.
fn entry(index: usize, flags: c_int) -> ffi::PyMethodDefPointer {
    const FAST: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    const PACKED: c_int = ffi::METH_VARARGS | ffi::METH_KEYWORDS;
    macro_rules! of {
        ($function:ident, $($high:literal)*) => {
            [$(
                $function::<{ $high * 8 }>,
                $function::<{ $high * 8 + 1 }>,
                $function::<{ $high * 8 + 2 }>,
                $function::<{ $high * 8 + 3 }>,
                $function::<{ $high * 8 + 4 }>,
                $function::<{ $high * 8 + 5 }>,
                $function::<{ $high * 8 + 6 }>,
                $function::<{ $high * 8 + 7 }>,
            )*]
        };
    }
    macro_rules! all {
        ($function:ident) => {
            of!($function, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27
                28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55
                56 57 58 59 60 61 62 63)
        };
    }
    static BARE: [ffi::PyCFunction; METHODS] = all!(bare);
    static FASTS: [ffi::PyCFunctionFastWithKeywords; METHODS] = all!(fast);
    static PACKS: [ffi::PyCFunctionWithKeywords; METHODS] = all!(packed);
    match flags {
        ffi::METH_NOARGS | ffi::METH_O => ffi::PyMethodDefPointer { PyCFunction: BARE[index] },
        FAST => ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: FASTS[index] },
        PACKED => ffi::PyMethodDefPointer { PyCFunctionWithKeywords: PACKS[index] },
        _ => panic!("no entry for flags {flags}"),
    }
}
