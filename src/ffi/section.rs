//! The section of a loop: what stands for the GIL on free-threaded builds.
//!
//! A cell of an object may be used only while the section of the object's loop is active: see
//! docs/FREE-THREADING.md. With a GIL, entering a section does nothing, except that builds with
//! debug assertions count entries, so that [`assert_active`] finds an entry that was forgotten.

#[cfg(debug_assertions)]
use std::cell::Cell;
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

#[cfg(Py_GIL_DISABLED)]
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
#[cfg(Py_GIL_DISABLED)]
use pyo3::sync::critical_section::with_critical_section;
use pyo3::{Borrowed, PyClass};

#[cfg(Py_GIL_DISABLED)]
use crate::ffi::layout::critical_section::{self, Place};
#[cfg(Py_GIL_DISABLED)]
use crate::ffi::section_waiters::Waiting;

#[cfg(debug_assertions)]
thread_local! {
    /// The number of sections that this thread has entered.
    static ENTERED: Cell<u32> = const { Cell::new(0) };
    /// The object of the last of them; null for one of [`unshared`].
    static LAST: Cell<*mut pyo3::ffi::PyObject> = const { Cell::new(std::ptr::null_mut()) };
}

/// A class whose objects belong to a loop, in whose section their cells are used.
pub trait Owned: PyClass {
    /// The loop; `None` for an object that has none yet, whose own section is used instead.
    ///
    /// Called before the section is entered: reads only what never changes while other threads can
    /// have the object.
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>>;
}

/// The loop of an object whose fields do not tell it for as long as the object lives. Takes no space
/// while there is a GIL.
#[derive(Default)]
pub struct Home(#[cfg(Py_GIL_DISABLED)] AtomicPtr<ffi::PyObject>);

impl Home {
    /// The section of `event_loop`.
    #[inline(always)]
    pub fn of<T>(event_loop: &Bound<'_, T>) -> Self {
        let home = Self::default();
        home.set(event_loop);
        home
    }

    /// The section of `owner`, which [`Owned::owner`] of another object has returned.
    #[inline(always)]
    pub fn same_as(owner: Option<Borrowed<'_, '_, PyAny>>) -> Self {
        owner.map_or_else(Self::default, |owner| Self::of(&owner))
    }

    /// The section is from now on that of `event_loop`, unless it is that of a loop already. Called
    /// in the section that the object has until then.
    #[inline(always)]
    pub fn set<T>(&self, event_loop: &Bound<'_, T>) {
        #[cfg(Py_GIL_DISABLED)]
        {
            let (own, null) = (event_loop.clone().into_ptr(), std::ptr::null_mut());
            if self.0.compare_exchange(null, own, Ordering::AcqRel, Ordering::Acquire).is_err() {
                // SAFETY: the reference that was made above.
                drop(unsafe { Bound::from_owned_ptr(event_loop.py(), own) });
            }
        }
        #[cfg(not(Py_GIL_DISABLED))]
        let _ = event_loop;
    }

    /// For [`Owned::owner`].
    #[inline(always)]
    pub fn get<'a, 'py>(&'a self, py: Python<'py>) -> Option<Borrowed<'a, 'py, PyAny>> {
        #[cfg(Py_GIL_DISABLED)]
        // SAFETY: it owns a reference until it is dropped.
        return unsafe { Borrowed::from_ptr_or_opt(py, self.0.load(Ordering::Acquire)) };
        #[cfg(not(Py_GIL_DISABLED))]
        {
            let _ = py;
            None
        }
    }

    /// For `__traverse__`.
    #[inline(always)]
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        #[cfg(Py_GIL_DISABLED)]
        {
            // SAFETY: the garbage collector calls it, in an attached thread.
            let owner = self.get(unsafe { Python::assume_attached() });
            visit.call(owner.as_deref().map(Bound::as_unbound))
        }
        #[cfg(not(Py_GIL_DISABLED))]
        {
            let _ = visit;
            Ok(())
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
impl Drop for Home {
    fn drop(&mut self) {
        let pointer = std::mem::replace(self.0.get_mut(), std::ptr::null_mut());
        // SAFETY: it owns the reference.
        Python::attach(|py| drop(unsafe { Bound::from_owned_ptr_or_opt(py, pointer) }));
    }
}

/// Calls `body` in the section of `event_loop`.
#[inline(always)]
pub fn enter<T, R>(event_loop: &Bound<'_, T>, body: impl FnOnce() -> R) -> R {
    let _counted = Counted::new(event_loop.as_ptr());
    #[cfg(Py_GIL_DISABLED)]
    return enter_object(event_loop.as_any(), body);
    #[cfg(not(Py_GIL_DISABLED))]
    {
        let _ = event_loop;
        body()
    }
}

/// Calls `body` in the critical section of `object`, which may be the thread's innermost one already.
#[cfg(Py_GIL_DISABLED)]
#[inline(always)]
fn enter_object<R>(object: &Bound<'_, PyAny>, body: impl FnOnce() -> R) -> R {
    let place = critical_section::place(object);
    if place == Place::InIt {
        return body();
    }
    let _waiting = if is_locked(object) { begin_waiting(object, place) } else { None };
    with_critical_section(object, body)
}

/// Prepares for entering a section that a thread has: this one or another one.
#[cfg(Py_GIL_DISABLED)]
#[cold]
fn begin_waiting(object: &Bound<'_, PyAny>, place: Place) -> Option<Waiting> {
    match place {
        // If it is this thread, in an outer section, it would wait for itself until CPython suspends
        // all its sections: this suspends them at once.
        Place::InAnother => object.py().detach(|| {}),
        // It may be this thread.
        Place::Unknown => return None,
        Place::InIt | Place::Outside => {}
    }
    is_locked(object).then(|| Waiting::begin(object))
}

/// Set in a mutex of CPython while threads wait for it.
#[cfg(Py_GIL_DISABLED)]
pub const HAS_WAITERS: u8 = 2;

/// Whether a thread is in the critical section of `object`.
#[cfg(Py_GIL_DISABLED)]
#[inline(always)]
fn is_locked(object: &Bound<'_, PyAny>) -> bool {
    const LOCKED: u8 = 1;
    // SAFETY: a live object.
    unsafe { mutex_bits(object.as_ptr()) & LOCKED != 0 }
}

/// The state of the mutex of an object.
///
/// # Safety
/// `object` is live.
#[cfg(Py_GIL_DISABLED)]
#[inline(always)]
pub unsafe fn mutex_bits(object: *mut ffi::PyObject) -> u8 {
    // SAFETY: guaranteed by the caller; the mutex is read as an atomic.
    unsafe {
        let mutex = &raw const (*object).ob_mutex;
        (*mutex.cast::<AtomicU8>()).load(Ordering::Relaxed)
    }
}

/// Calls `body` in the section of the loop of `slf`; in its own while it has none.
#[inline(always)]
pub fn enter_of<T: Owned, R>(slf: &Bound<'_, T>, body: impl FnOnce() -> R) -> R {
    #[cfg(Py_GIL_DISABLED)]
    {
        if let Some(owner) = T::owner(slf) {
            return enter(&owner, body);
        }
        enter(slf, || match T::owner(slf) {
            // It got its loop while this thread waited.
            Some(owner) => enter(&owner, body),
            None => body(),
        })
    }
    #[cfg(not(Py_GIL_DISABLED))]
    {
        let _ = T::owner;
        enter(slf, body)
    }
}

/// Calls `body`, which uses cells of objects that no other thread can use: they are not shared yet,
/// or the last reference to them is gone, or the interpreter has paused all other threads.
#[inline(always)]
pub fn unshared<R>(body: impl FnOnce() -> R) -> R {
    let _counted = Counted::new(std::ptr::null_mut());
    body()
}

/// Calls `body`, which accesses the memory of `object`, a container of CPython, so that no other thread
/// accesses it meanwhile: with a GIL nothing is needed. `body` uses no cell. Other threads may be let
/// into the section of the loop before `body` is called.
#[inline(always)]
pub fn with_locked<T, R>(object: &Bound<'_, T>, body: impl FnOnce() -> R) -> R {
    #[cfg(Py_GIL_DISABLED)]
    return with_critical_section(object.as_any(), body);
    #[cfg(not(Py_GIL_DISABLED))]
    {
        let _ = object;
        body()
    }
}

/// As [`unshared`], attached: for `__clear__`, which the garbage collector calls for an object that no
/// thread can reach any more.
pub fn attach_unshared<R>(body: impl FnOnce(Python<'_>) -> R) -> R {
    unshared(|| Python::attach(body))
}

/// Lets the threads that wait for the section of `event_loop` enter it, if there are any. The caller
/// is in the section and borrows no cell.
#[inline(always)]
pub fn let_others_in<T>(event_loop: &Bound<'_, T>) {
    #[cfg(Py_GIL_DISABLED)]
    {
        // SAFETY: a live object.
        if unsafe { mutex_bits(event_loop.as_ptr()) } & HAS_WAITERS != 0 {
            event_loop.py().detach(|| {});
        }
    }
    #[cfg(not(Py_GIL_DISABLED))]
    let _ = event_loop;
}

/// With debug assertions, panics outside of a section.
#[inline(always)]
pub fn assert_active() {
    #[cfg(debug_assertions)]
    assert_ne!(ENTERED.get(), 0, "a cell is used outside of the section of its loop");
    #[cfg(all(debug_assertions, Py_GIL_DISABLED))]
    {
        let last = LAST.get();
        // SAFETY: attached, since cells are used; what was entered is alive until it is left.
        let is_another =
            !last.is_null() && unsafe { critical_section::place_of(last) } == Place::InAnother;
        assert!(!is_another, "a cell is used in a section that is not the innermost one");
    }
}

/// An entered section.
struct Counted {
    #[cfg(debug_assertions)]
    outer: *mut pyo3::ffi::PyObject,
}

impl Counted {
    #[inline(always)]
    fn new(object: *mut pyo3::ffi::PyObject) -> Self {
        #[cfg(debug_assertions)]
        {
            ENTERED.set(ENTERED.get() + 1);
            Self { outer: LAST.replace(object) }
        }
        #[cfg(not(debug_assertions))]
        {
            let _ = object;
            Self {}
        }
    }
}

#[cfg(debug_assertions)]
impl Drop for Counted {
    fn drop(&mut self) {
        ENTERED.set(ENTERED.get() - 1);
        LAST.set(self.outer);
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use crate::ffi::objects::cell::AttachedCell;

    #[test]
    #[should_panic(expected = "outside of the section")]
    fn a_cell_is_refused_outside_of_a_section() {
        Python::initialize();
        Python::attach(|py| AttachedCell::new(1).get(py));
    }

    #[test]
    fn sections_nest() {
        Python::initialize();
        Python::attach(|py| {
            let (cell, event_loop) = (AttachedCell::new(1), py.None().into_bound(py));
            let nested = || enter(&event_loop, || cell.get(py)) + cell.get(py);
            assert_eq!(enter(&event_loop, nested), 2);
        });
    }

    #[test]
    fn a_panic_leaves_the_section() {
        Python::initialize();
        let entered = || unshared(|| panic!("inside"));
        assert!(std::panic::catch_unwind(entered).is_err());
        assert_eq!(ENTERED.get(), 0);
    }
}
