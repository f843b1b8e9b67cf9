//! Interior mutability for objects shared with Python, without locks.
//!
//! Access rule: a cell is touched only by the thread that holds the GIL, which the
//! `Python<'py>` argument proves, and never while its content is lent out:
//! * [`AttachedCell`] moves or copies values in and out and lends nothing;
//! * [`AttachedRefCell`] lends its content to a closure and panics on a nested loan; such
//!   closures must not run Python code (a call, a decref, a Python allocation).
//!
//! Both rely on the GIL, so the crate refuses to build for free-threaded interpreters.

use std::cell::{Cell, UnsafeCell};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

#[cfg(Py_GIL_DISABLED)]
compile_error!("ferroloop's cells rely on the GIL: free-threaded builds are not supported yet");

/// A slot whose value is moved or copied, never borrowed.
#[derive(Default)]
pub struct AttachedCell<T>(UnsafeCell<T>);

// SAFETY: every access needs `Python<'py>`, that is the GIL, and lends no reference, so accesses
// are serialised; values may be dropped on another thread, hence `T: Send`.
unsafe impl<T: Send> Sync for AttachedCell<T> {}

impl<T> AttachedCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Puts `value` in and hands the old one out; the caller drops it (which may run Python).
    #[inline(always)]
    #[must_use = "dropping the old value may run Python: do it where that is safe"]
    pub fn replace(&self, _py: Python<'_>, value: T) -> T {
        // SAFETY: the GIL is held and no reference into the cell exists (access rule above).
        unsafe { std::mem::replace(&mut *self.0.get(), value) }
    }

    /// Lends the value to `inspect` for reading. It must not run Python code: callers compare and
    /// clone pointers, no more.
    #[inline(always)]
    pub fn inspect<R>(&self, _py: Python<'_>, inspect: impl FnOnce(&T) -> R) -> R {
        // SAFETY: the GIL is held; a nested `replace` from inside `inspect` would need Python
        // code to run, which the contract above excludes.
        unsafe { inspect(&*self.0.get()) }
    }

    /// Takes the value out, leaving the default.
    #[inline(always)]
    pub fn take(&self, py: Python<'_>) -> T
    where
        T: Default,
    {
        self.replace(py, T::default())
    }
}

impl<T: Copy> AttachedCell<T> {
    /// A copy of the value.
    #[inline(always)]
    pub fn get(&self, _py: Python<'_>) -> T {
        // SAFETY: as in `replace`.
        unsafe { *self.0.get() }
    }

    /// Overwrites the value.
    #[inline(always)]
    pub fn set(&self, _py: Python<'_>, value: T) {
        // SAFETY: as in `replace`; `Copy` types have no drop glue.
        unsafe { *self.0.get() = value }
    }
}

impl<T> AttachedCell<Option<Py<T>>> {
    /// A new reference to the object, if there is one.
    #[inline(always)]
    pub fn get_bound<'py>(&self, py: Python<'py>) -> Option<Bound<'py, T>> {
        // SAFETY: as in `replace`; an incref runs no Python code.
        unsafe { (*self.0.get()).as_ref().map(|object| object.bind(py).clone()) }
    }

    /// Whether an object is held.
    #[inline(always)]
    pub fn is_some(&self, _py: Python<'_>) -> bool {
        // SAFETY: as in `replace`.
        unsafe { (*self.0.get()).is_some() }
    }

    /// Whether the object held is `other`.
    #[inline(always)]
    pub fn holds<U>(&self, _py: Python<'_>, other: &Bound<'_, U>) -> bool {
        // SAFETY: as in `replace`.
        unsafe { (*self.0.get()).as_ref().is_some_and(|object| object.as_ptr() == other.as_ptr()) }
    }

    /// Stores `value`, dropping what was there after the new value is in place.
    #[inline(always)]
    pub fn store(&self, py: Python<'_>, value: Option<Bound<'_, T>>) {
        let before = self.replace(py, value.map(Bound::unbind));
        // PyO3 would ask whether this thread is attached.
        drop(before.map(|before| before.into_bound(py)));
    }

    /// Reports the object to the cyclic collector; for `__traverse__` only.
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs `tp_traverse` with the GIL held, and no access to a cell
        // starts a collection.
        unsafe { visit.call((*self.0.get()).as_ref()) }
    }
}

impl<T: Traverse> AttachedCell<T> {
    /// Reports the objects inside to the cyclic collector; for `__traverse__` only.
    pub fn visit_with(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: as in `visit`.
        unsafe { (*self.0.get()).traverse(visit) }
    }
}

/// Plain Rust values that own Python objects and can show them to the collector.
pub trait Traverse {
    /// Calls `visit` for each object owned.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;
}

/// A value that is lent to closures which run no Python code.
pub struct AttachedRefCell<T> {
    lent: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: `lent` and `value` are only touched with the GIL held; `lent` excludes aliasing.
unsafe impl<T: Send> Sync for AttachedRefCell<T> {}

impl<T: Default> Default for AttachedRefCell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> AttachedRefCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self { lent: Cell::new(false), value: UnsafeCell::new(value) }
    }

    /// Lends the content to `body`, which must not run Python code.
    #[inline(always)]
    pub fn with<R>(&self, _py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
        struct Loan<'a>(&'a Cell<bool>);
        impl Drop for Loan<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        assert!(!self.lent.replace(true), "cell lent twice: a closure ran Python code");
        let _loan = Loan(&self.lent);
        // SAFETY: `lent` was false, so no other reference exists; the GIL is held.
        body(unsafe { &mut *self.value.get() })
    }

    /// The content, of which there is no other user.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Shows the content to `body` during a collection; skipped while it is lent.
    ///
    /// An object not reported counts as referenced from outside, which is safe.
    pub fn traverse(
        &self,
        body: impl FnOnce(&T) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        if self.lent.get() {
            return Ok(());
        }
        // SAFETY: not lent; collections run with the GIL held.
        body(unsafe { &*self.value.get() })
    }
}
