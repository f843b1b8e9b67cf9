//! Makes the methods, attributes and type slots that PyO3 generates enter the section of the loop of
//! their object, see [`section`](crate::ffi::section).
//!
//! The functions in the tables of a class are replaced when the class is completed: `methods.rs`,
//! `attributes.rs` and `slots.rs`. Builds with a GIL and without debug assertions need no entries and
//! have none.

#[cfg(any(Py_GIL_DISABLED, debug_assertions))]
mod attributes;
#[cfg(any(Py_GIL_DISABLED, debug_assertions))]
mod methods;
#[cfg(any(Py_GIL_DISABLED, debug_assertions))]
mod slots;

use std::ffi::CStr;

use pyo3::prelude::*;

use crate::ffi::section::Owned;

#[cfg(any(Py_GIL_DISABLED, debug_assertions))]
pub use slots::Entries;

/// What was installed for a class: nothing.
#[cfg(not(any(Py_GIL_DISABLED, debug_assertions)))]
pub struct Entries;

#[cfg(not(any(Py_GIL_DISABLED, debug_assertions)))]
impl Entries {
    /// Nothing.
    pub const fn new() -> Self {
        Self
    }
}

/// A class whose functions are replaced.
pub trait Entered: Owned {
    /// The methods that use no cell, so that other threads need not wait for the loop.
    const WITHOUT_SECTION: &'static [&'static CStr] = &[];

    /// Where the functions of PyO3 are stored.
    fn entries() -> &'static Entries;
}

/// Implements [`Entered`] for classes.
macro_rules! entered {
    ($($class:ty),* $(,)?) => {$(
        impl $crate::ffi::entries::Entered for $class {
            $crate::ffi::entries::own_entries!();
        }
    )*};
}
pub(crate) use entered;

/// Implements [`Entered::entries`].
macro_rules! own_entries {
    () => {
        fn entries() -> &'static $crate::ffi::entries::Entries {
            static ENTRIES: $crate::ffi::entries::Entries = $crate::ffi::entries::Entries::new();
            &ENTRIES
        }
    };
}
pub(crate) use own_entries;

/// Replaces the functions of the class, and makes it immortal where threads would share its count of
/// references. Called when all its functions are installed, and before it is subclassed; a second
/// call does nothing.
pub fn install<T: Entered>(py: Python<'_>) {
    #[cfg(not(any(Py_GIL_DISABLED, debug_assertions)))]
    let _ = (py, T::WITHOUT_SECTION, T::entries());
    #[cfg(any(Py_GIL_DISABLED, debug_assertions))]
    {
        if !T::entries().claim() {
            return;
        }
        let class = py.get_type::<T>();
        // SAFETY: a live heap type that was neither subclassed nor instantiated yet. PyO3 has
        // allocated the tables, never frees them and does not read them again.
        unsafe {
            methods::replace::<T>(class.as_type_ptr());
            attributes::replace::<T>(class.as_type_ptr());
            slots::replace::<T>(&class);
            pyo3::ffi::PyType_Modified(class.as_type_ptr());
        }
        crate::ffi::objects::immortal::make_immortal(class.as_any());
    }
}

/// Calls `body` in the section of an object.
///
/// # Safety
/// The thread must be attached, and `slf` a live instance of `T`.
#[cfg(any(Py_GIL_DISABLED, debug_assertions))]
unsafe fn enter<T: Owned>(slf: *mut pyo3::ffi::PyObject, body: &mut dyn FnMut()) {
    use crate::ffi::section::enter_of;
    // SAFETY: guaranteed by the caller.
    unsafe {
        let py = Python::assume_attached();
        enter_of(&pyo3::Borrowed::from_ptr(py, slf).cast_unchecked::<T>(), body);
    }
}

/// Declares that a class with methods has no cells: its fields are immutable, locked or atomic, or
/// belong to one thread. `tests/check_entries.py` looks for it.
macro_rules! without_section {
    ($($class:ty),* $(,)?) => {$(
        const _: () = {
            const fn is_class<T: pyo3::PyClass>() {}
            is_class::<$class>();
        };
    )*};
}
pub(crate) use without_section;
