//! Deallocators that call themselves to a bounded depth only.
//!
//! An object that dies lets go of others, which may die with it: freeing a chain of handles, each
//! the argument of the next, would take a few stack frames per handle. As CPython's own containers
//! do, a deallocator that finds itself deep inside of others puts its object aside, and the
//! outermost one of the thread finishes it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use pyo3::ffi;

/// Deallocators inside of each other on one stack. A level takes a few hundred bytes of ours, and
/// what CPython needs for the objects between two of ours.
const DEEPEST: u32 = 50;

/// An object with a reference count of zero, hidden from the collector, and its deallocator.
type PutAside = (*mut ffi::PyObject, ffi::destructor);

/// Without a destructor of its own, a thread-local costs one look-up.
struct Nesting {
    depth: Cell<u32>,
    /// Null, or a leaked box, which the outermost deallocator takes back.
    put_aside: Cell<*mut Vec<PutAside>>,
}

thread_local! {
    static NESTING: Nesting =
        const { Nesting { depth: Cell::new(0), put_aside: Cell::new(null_mut()) } };
}

/// Runs `free`, the body of `dealloc`, now or, deep inside of other deallocators, has `dealloc`
/// called again when those are done. Then the collector does not see the object meanwhile.
///
/// A panic in `free` ends here: the object's memory is lost.
///
/// # Safety
/// Called by `dealloc`, a `tp_dealloc`, for `object`, of a class with a collector header.
#[inline(always)]
pub unsafe fn bounded(object: *mut ffi::PyObject, dealloc: ffi::destructor, free: impl FnOnce()) {
    NESTING.with(|nesting| {
        let depth = nesting.depth.get();
        if depth >= DEEPEST {
            // SAFETY: by the contract of this function.
            unsafe { nesting.put_aside(object, dealloc) };
            return;
        }
        nesting.depth.set(depth + 1);
        let freed = catch_unwind(AssertUnwindSafe(free));
        nesting.depth.set(depth);
        if let Err(panic) = freed {
            // What a panic carries may panic when it is dropped.
            std::mem::forget(panic);
        }
        if depth == 0 && !nesting.put_aside.get().is_null() {
            nesting.finish();
        }
    });
}

impl Nesting {
    /// # Safety
    /// As [`bounded`].
    #[cold]
    unsafe fn put_aside(&self, object: *mut ffi::PyObject, dealloc: ffi::destructor) {
        // SAFETY: a dying object with a collector header; untracking twice is allowed.
        unsafe { ffi::PyObject_GC_UnTrack(object.cast()) };
        let mut list = self.put_aside.get();
        if list.is_null() {
            list = Box::into_raw(Box::default());
            self.put_aside.set(list);
        }
        // SAFETY: a leaked box, which only this thread knows; pushing runs no Python code.
        unsafe { (*list).push((object, dealloc)) };
    }

    /// Frees what was put aside, and what is put aside meanwhile.
    #[cold]
    fn finish(&self) {
        self.depth.set(1);
        // SAFETY: a leaked box, which only this thread knows; popping runs no Python code.
        let next = || unsafe { (*self.put_aside.get()).pop() };
        while let Some((object, dealloc)) = next() {
            // SAFETY: attached, as the deallocator that calls this is; `dealloc` put the object
            // aside, to which nobody has a reference.
            unsafe { dealloc(object) };
        }
        // SAFETY: made by `Box::into_raw`, and known to nobody else.
        drop(unsafe { Box::from_raw(self.put_aside.replace(null_mut())) });
        self.depth.set(0);
    }
}
