//! Interior mutability for objects shared with Python, without locks.
//!
//! Access rule: a cell is accessed only in the section of its object's loop, which is the GIL where
//! there is one (see [`section`]), and never in conflict with a borrow of its content. The
//! `Python<'py>` argument proves that the thread is attached; builds with debug assertions panic
//! outside of a section:
//! * [`AttachedCell`] moves or copies values in and out. Its content can be borrowed for reading,
//!   by closures that must not write to the cell; builds with debug assertions know these borrows
//!   and panic before such a write;
//! * [`AttachedRefCell`] lets a closure borrow its content mutably, and panics on a nested borrow;
//!   such closures must not run Python code (a call, a decref, a Python allocation).

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicPtr, Ordering};
#[cfg(debug_assertions)]
use std::sync::{Mutex, PoisonError};

use pyo3::Borrowed;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::ffi::section;

#[cfg(all(Py_GIL_DISABLED, not(Py_3_14)))]
compile_error!("free-threaded builds of CPython before 3.14 are not supported");

/// A cell whose value is moved or copied, or borrowed for reading.
#[derive(Default)]
#[repr(transparent)]
pub struct AttachedCell<T> {
    value: UnsafeCell<T>,
}

// SAFETY: every access is made in a section, which serialises accesses; values may be dropped on
// another thread, hence `T: Send`.
unsafe impl<T: Send> Sync for AttachedCell<T> {}

/// The addresses of the cells that closures borrow; known with debug assertions only, and outside of
/// the cells, which have the size of their value in all builds: tools read the memory of tasks.
#[cfg(debug_assertions)]
static BORROWED: Mutex<Vec<usize>> = Mutex::new(Vec::new());

#[cfg(debug_assertions)]
fn with_borrowed<R>(body: impl FnOnce(&mut Vec<usize>) -> R) -> R {
    body(&mut BORROWED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// One of these borrows.
struct InspectionGuard {
    #[cfg(debug_assertions)]
    cell: usize,
}

impl InspectionGuard {
    #[inline(always)]
    fn of<T>(cell: &UnsafeCell<T>) -> Self {
        #[cfg(debug_assertions)]
        {
            let cell = cell.get().addr();
            with_borrowed(|borrowed| borrowed.push(cell));
            Self { cell }
        }
        #[cfg(not(debug_assertions))]
        {
            let _ = cell;
            Self {}
        }
    }
}

#[cfg(debug_assertions)]
impl Drop for InspectionGuard {
    fn drop(&mut self) {
        with_borrowed(|borrowed| {
            if let Some(place) = borrowed.iter().rposition(|cell| *cell == self.cell) {
                borrowed.swap_remove(place);
            }
        });
    }
}

impl<T> AttachedCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value) }
    }

    /// With debug assertions, panics if a closure borrows the cell.
    #[inline(always)]
    fn assert_not_borrowed(&self) {
        #[cfg(debug_assertions)]
        {
            let cell = self.value.get().addr();
            let is_borrowed = size_of::<T>() > 0 && with_borrowed(|all| all.contains(&cell));
            assert!(!is_borrowed, "a cell is written while it is borrowed");
        }
    }

    /// Stores `value` and returns the old one; the caller drops it (which may run Python code).
    #[inline(always)]
    #[must_use = "dropping the old value may run Python: do it where that is safe"]
    pub fn replace(&self, _py: Python<'_>, value: T) -> T {
        section::assert_active();
        self.assert_not_borrowed();
        // SAFETY: the section is active and no reference into the cell exists (access rule above).
        unsafe { std::mem::replace(&mut *self.value.get(), value) }
    }

    /// Calls `inspect` with a shared borrow of the value. `inspect` must not run Python code or
    /// write to the cell: callers compare and clone pointers, no more.
    #[inline(always)]
    pub fn inspect<R>(&self, _py: Python<'_>, inspect: impl FnOnce(&T) -> R) -> R {
        section::assert_active();
        let _borrow = InspectionGuard::of(&self.value);
        // SAFETY: the section is active; the contract above excludes a nested write, on which
        // builds with debug assertions panic.
        unsafe { inspect(&*self.value.get()) }
    }

    /// Takes the value, leaving the default.
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
        section::assert_active();
        // SAFETY: as in `replace`.
        unsafe { *self.value.get() }
    }

    /// Overwrites the value.
    #[inline(always)]
    pub fn set(&self, _py: Python<'_>, value: T) {
        section::assert_active();
        self.assert_not_borrowed();
        // SAFETY: as in `replace`; `Copy` types have no drop glue.
        unsafe { *self.value.get() = value }
    }
}

impl<T> AttachedCell<Option<Py<T>>> {
    /// A new reference to the object, if there is one.
    #[inline(always)]
    pub fn get_bound<'py>(&self, py: Python<'py>) -> Option<Bound<'py, T>> {
        section::assert_active();
        // SAFETY: as in `replace`; an incref runs no Python code.
        unsafe { (*self.value.get()).as_ref().map(|object| object.bind(py).clone()) }
    }

    /// Whether an object is held.
    #[inline(always)]
    pub fn is_some(&self, _py: Python<'_>) -> bool {
        section::assert_active();
        // SAFETY: as in `replace`.
        unsafe { (*self.value.get()).is_some() }
    }

    /// Whether the cell holds `other`.
    #[inline(always)]
    pub fn holds<U>(&self, _py: Python<'_>, other: &Bound<'_, U>) -> bool {
        section::assert_active();
        // SAFETY: as in `replace`.
        unsafe {
            (*self.value.get()).as_ref().is_some_and(|object| object.as_ptr() == other.as_ptr())
        }
    }

    /// Stores `value`, and drops the old one after the new one is in place.
    #[inline(always)]
    pub fn store(&self, py: Python<'_>, value: Option<Bound<'_, T>>) {
        let before = self.replace(py, value.map(Bound::unbind));
        // Dropped as a `Bound`: for a `Py`, PyO3 would check whether this thread is attached.
        drop(before.map(|before| before.into_bound(py)));
    }

    /// The loop of an object, for [`Owned::owner`](section::Owned::owner): the object is set before
    /// other threads can use it, by [`AttachedCell::store_owner`], and stays.
    #[inline(always)]
    pub fn owner<'a, 'py>(&'a self, py: Python<'py>) -> Option<Borrowed<'a, 'py, PyAny>> {
        // SAFETY: a cell of an optional reference has the layout of a pointer. The reference is
        // released only when the object is cleared or deallocated, which no other thread can use
        // then.
        unsafe {
            let pointer = AtomicPtr::from_ptr(self.value.get().cast()).load(Ordering::Acquire);
            Borrowed::from_ptr_or_opt(py, pointer)
        }
    }

    /// Stores what [`AttachedCell::owner`] reads. The old value must be `None` unless only this
    /// thread can use the object.
    #[inline(always)]
    pub fn store_owner(&self, py: Python<'_>, owner: Bound<'_, T>) {
        section::assert_active();
        // SAFETY: as in `owner`; the section is active.
        let before = unsafe {
            AtomicPtr::from_ptr(self.value.get().cast::<*mut pyo3::ffi::PyObject>())
                .swap(owner.into_ptr(), Ordering::AcqRel)
        };
        // SAFETY: the reference that the cell owned.
        drop(unsafe { Bound::from_owned_ptr_or_opt(py, before) });
    }

    /// Reports the object to the garbage collector; for `__traverse__` only.
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the garbage collector runs `tp_traverse` with the GIL held, and no access to a
        // cell starts a collection.
        unsafe { visit.call((*self.value.get()).as_ref()) }
    }
}

impl<T: Traverse> AttachedCell<T> {
    /// Reports the contained objects to the garbage collector; for `__traverse__` only.
    pub fn visit_with(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: as in `visit`.
        unsafe { (*self.value.get()).traverse(visit) }
    }
}

/// Plain Rust values that own Python objects and can report them to the garbage collector.
pub trait Traverse {
    /// Calls `visit` for each owned object.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;
}

/// A value that closures borrow which run no Python code.
pub struct AttachedRefCell<T> {
    borrowed: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: `borrowed` and `value` are only accessed in a section; `borrowed` excludes aliasing.
unsafe impl<T: Send> Sync for AttachedRefCell<T> {}

impl<T: Default> Default for AttachedRefCell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> AttachedRefCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> Self {
        Self { borrowed: Cell::new(false), value: UnsafeCell::new(value) }
    }

    /// Calls `body`, which must not run Python code, with a mutable borrow of the content.
    ///
    /// # Panics
    /// If the content is already borrowed.
    #[inline(always)]
    pub fn with<R>(&self, _py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
        struct Borrow<'a>(&'a Cell<bool>);
        impl Drop for Borrow<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        section::assert_active();
        assert!(!self.borrowed.replace(true), "cell borrowed twice: a closure ran Python code");
        let _borrow = Borrow(&self.borrowed);
        // SAFETY: `borrowed` was false, so no other reference exists; the section
        // is active.
        body(unsafe { &mut *self.value.get() })
    }

    /// The content, which has no other user.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Calls `body` with the content during a garbage collection; does nothing while it is
    /// borrowed.
    ///
    /// An object that is not reported counts as referenced from outside, which is safe.
    pub fn traverse(
        &self,
        body: impl FnOnce(&T) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        if self.borrowed.get() {
            return Ok(());
        }
        // SAFETY: not borrowed; collections run with the GIL held.
        body(unsafe { &*self.value.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::section::attach_unshared;

    fn attached(test: impl FnOnce(Python<'_>)) {
        Python::initialize();
        attach_unshared(test);
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
    fn two_closures_may_borrow_at_the_same_time() {
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
    #[should_panic(expected = "a cell is written while it is borrowed")]
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
    fn a_panic_under_a_closure_ends_its_borrow() {
        attached(|py| {
            let cell = AttachedCell::new(1);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                cell.inspect(py, |_| panic!("in the closure"));
            }));
            assert!(result.is_err());
            cell.set(py, 2);
        });
    }

    #[test]
    #[should_panic(expected = "cell borrowed twice")]
    fn a_nested_borrow_is_refused() {
        attached(|py| {
            let cell = AttachedRefCell::new(1);
            cell.with(py, |outer| cell.with(py, |inner| *outer += *inner));
        });
    }
}
