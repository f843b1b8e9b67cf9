//! Interior mutability for objects shared with Python, without locks.
//!
//! Access rule: a cell is touched only by the thread that holds the GIL, which the
//! `Python<'py>` argument proves, and never while its content is lent out:
//! * [`AttachedCell`] moves or copies values in and out. It lends its content for a glance only, to
//!   closures that must not write to the cell; builds with debug assertions count these loans and
//!   panic before such a write;
//! * [`AttachedRefCell`] lends its content to a closure and panics on a nested loan; such
//!   closures must not run Python code (a call, a decref, a Python allocation).
//!
//! Both rely on the GIL, so the crate refuses to build for free-threaded interpreters.

use std::cell::{Cell, UnsafeCell};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

#[cfg(Py_GIL_DISABLED)]
compile_error!("ferroloop's cells rely on the GIL: free-threaded builds are not supported yet");

/// A slot whose value is moved or copied, and lent for a glance.
#[derive(Default)]
pub struct AttachedCell<T> {
    value: UnsafeCell<T>,
    loans: BorrowCount,
}

// SAFETY: every access needs `Python<'py>`, that is the GIL, so accesses are serialised; values may
// be dropped on another thread, hence `T: Send`.
unsafe impl<T: Send> Sync for AttachedCell<T> {}

/// The closures that look at a cell now; counted with debug assertions only.
#[derive(Default)]
struct BorrowCount {
    #[cfg(debug_assertions)]
    count: Cell<u32>,
}

/// One of them.
struct InspectionGuard<'a> {
    #[cfg(debug_assertions)]
    count: &'a Cell<u32>,
    #[cfg(not(debug_assertions))]
    _loans: std::marker::PhantomData<&'a BorrowCount>,
}

impl BorrowCount {
    const fn none() -> Self {
        Self {
            #[cfg(debug_assertions)]
            count: Cell::new(0),
        }
    }

    #[inline(always)]
    fn begin(&self) -> InspectionGuard<'_> {
        #[cfg(debug_assertions)]
        self.count.set(self.count.get() + 1);
        InspectionGuard {
            #[cfg(debug_assertions)]
            count: &self.count,
            #[cfg(not(debug_assertions))]
            _loans: std::marker::PhantomData,
        }
    }

    /// Panics with debug assertions if a closure looks at the cell.
    #[inline(always)]
    fn assert_none(&self) {
        #[cfg(debug_assertions)]
        assert_eq!(self.count.get(), 0, "a cell is written while a closure looks at it");
    }
}

#[cfg(debug_assertions)]
impl Drop for InspectionGuard<'_> {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}

impl<T> AttachedCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), loans: BorrowCount::none() }
    }

    /// Puts `value` in and hands the old one out; the caller drops it (which may run Python).
    #[inline(always)]
    #[must_use = "dropping the old value may run Python: do it where that is safe"]
    pub fn replace(&self, _py: Python<'_>, value: T) -> T {
        self.loans.assert_none();
        // SAFETY: the GIL is held and no reference into the cell exists (access rule above).
        unsafe { std::mem::replace(&mut *self.value.get(), value) }
    }

    /// Lends the value to `inspect` for reading. It must not run Python code, and write to no cell:
    /// callers compare and clone pointers, no more.
    #[inline(always)]
    pub fn inspect<R>(&self, _py: Python<'_>, inspect: impl FnOnce(&T) -> R) -> R {
        let _glance = self.loans.begin();
        // SAFETY: the GIL is held; the contract above excludes a nested write, and builds with debug
        // assertions refuse it.
        unsafe { inspect(&*self.value.get()) }
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
        unsafe { *self.value.get() }
    }

    /// Overwrites the value.
    #[inline(always)]
    pub fn set(&self, _py: Python<'_>, value: T) {
        self.loans.assert_none();
        // SAFETY: as in `replace`; `Copy` types have no drop glue.
        unsafe { *self.value.get() = value }
    }
}

impl<T> AttachedCell<Option<Py<T>>> {
    /// A new reference to the object, if there is one.
    #[inline(always)]
    pub fn get_bound<'py>(&self, py: Python<'py>) -> Option<Bound<'py, T>> {
        // SAFETY: as in `replace`; an incref runs no Python code.
        unsafe { (*self.value.get()).as_ref().map(|object| object.bind(py).clone()) }
    }

    /// Whether an object is held.
    #[inline(always)]
    pub fn is_some(&self, _py: Python<'_>) -> bool {
        // SAFETY: as in `replace`.
        unsafe { (*self.value.get()).is_some() }
    }

    /// Whether the object held is `other`.
    #[inline(always)]
    pub fn holds<U>(&self, _py: Python<'_>, other: &Bound<'_, U>) -> bool {
        // SAFETY: as in `replace`.
        unsafe {
            (*self.value.get()).as_ref().is_some_and(|object| object.as_ptr() == other.as_ptr())
        }
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
        unsafe { visit.call((*self.value.get()).as_ref()) }
    }
}

impl<T: Traverse> AttachedCell<T> {
    /// Reports the objects inside to the cyclic collector; for `__traverse__` only.
    pub fn visit_with(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: as in `visit`.
        unsafe { (*self.value.get()).traverse(visit) }
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
        struct Borrow<'a>(&'a Cell<bool>);
        impl Drop for Borrow<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        assert!(!self.lent.replace(true), "cell lent twice: a closure ran Python code");
        let _loan = Borrow(&self.lent);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(test: impl FnOnce(Python<'_>)) {
        Python::initialize();
        Python::attach(test);
    }

    #[test]
    fn values_move_in_and_out() {
        attached(|py| {
            let cell = AttachedCell::new(vec![1]);
            assert_eq!(cell.replace(py, vec![2]), [1]);
            assert_eq!(cell.inspect(py, |value| value.len()), 1);
            assert_eq!(cell.take(py), [2]);
            assert!(cell.inspect(py, Vec::is_empty));
        });
    }

    #[test]
    fn two_closures_may_look_at_the_same_time() {
        attached(|py| {
            let cell = AttachedCell::new(1);
            let sum = cell.inspect(py, |outer| cell.inspect(py, |inner| outer + inner));
            assert_eq!(sum, 2);
            cell.set(py, 3);
            assert_eq!(cell.get(py), 3);
        });
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a cell is written while a closure looks at it")]
    fn a_write_under_a_closure_is_refused() {
        attached(|py| {
            let cell = AttachedCell::new(Some(vec![7_u8; 64]));
            cell.inspect(py, |value| {
                drop(cell.replace(py, None));
                value.as_ref().map(Vec::len)
            });
        });
    }

    #[test]
    fn a_panic_under_a_closure_ends_its_loan() {
        attached(|py| {
            let cell = AttachedCell::new(1);
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                cell.inspect(py, |_| panic!("in the closure"));
            }));
            assert!(looked.is_err());
            cell.set(py, 2);
        });
    }

    #[test]
    #[should_panic(expected = "cell lent twice")]
    fn a_nested_loan_is_refused() {
        attached(|py| {
            let cell = AttachedRefCell::new(1);
            cell.with(py, |outer| cell.with(py, |inner| *outer += *inner));
        });
    }
}
