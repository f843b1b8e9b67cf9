//! Deallocators that call themselves to a bounded depth only.
//!
//! An object that dies lets go of others, which may die with it: freeing a chain of handles, each
//! the argument of the next, would take a few stack frames per handle. As CPython's own containers
//! do, a deallocator that finds itself deep inside of others puts its object aside, and the
//! outermost one of the thread finishes it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::thread_pointer::thread_pointer;

/// Deallocators inside of each other on one stack. A level takes a few hundred bytes of ours, and
/// what CPython needs for the objects between two of ours.
const MAX_DEPTH: u32 = 50;

/// An object with a reference count of zero, hidden from the collector, and its deallocator.
struct PendingDealloc(*mut ffi::PyObject, ffi::destructor);

// SAFETY: only the holder of the GIL uses it.
unsafe impl Send for PendingDealloc {}

/// What waits for the outermost deallocator of any thread.
static PENDING: AttachedCell<Vec<PendingDealloc>> = AttachedCell::new(Vec::new());

/// Whether there is something in [`PENDING`].
static IS_DUE: AttachedCell<bool> = AttachedCell::new(false);

/// The thread whose deallocators [`DEPTH`] counts: another one only takes it over while it is 0. As
/// deallocators hold the GIL, this is nearly always the thread that runs, which saves a look-up of
/// something thread-local.
static OWNER: AttachedCell<usize> = AttachedCell::new(0);
static DEPTH: AttachedCell<u32> = AttachedCell::new(0);

thread_local! {
    /// The same while another thread is inside of a deallocator, which has let go of the GIL, or was
    /// when this process was forked.
    static OWN_DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// A deallocator that runs.
enum Level {
    /// Counted by [`DEPTH`].
    Owner,
    /// Counted by [`OWN_DEPTH`].
    Other,
}

impl Level {
    /// None if the stack is too deep for another one.
    #[inline(always)]
    fn enter(py: Python<'_>) -> Option<Self> {
        let depth = DEPTH.get(py);
        if OWNER.get(py) == thread_pointer() && depth < MAX_DEPTH {
            DEPTH.set(py, depth + 1);
            return Some(Self::Owner);
        }
        Self::enter_slowly(py)
    }

    #[cold]
    fn enter_slowly(py: Python<'_>) -> Option<Self> {
        let this_thread = thread_pointer();
        if DEPTH.get(py) == 0 {
            OWNER.set(py, this_thread);
            DEPTH.set(py, 1);
            return Some(Self::Owner);
        }
        if OWNER.get(py) == this_thread || OWN_DEPTH.get() >= MAX_DEPTH {
            return None;
        }
        OWN_DEPTH.set(OWN_DEPTH.get() + 1);
        Some(Self::Other)
    }

    #[inline(always)]
    fn leave(self, py: Python<'_>) {
        let depth = match self {
            Self::Owner => {
                let depth = DEPTH.get(py) - 1;
                DEPTH.set(py, depth);
                depth
            }
            Self::Other => Self::leave_other(),
        };
        if depth == 0 && IS_DUE.get(py) {
            finish(py);
        }
    }

    #[cold]
    fn leave_other() -> u32 {
        OWN_DEPTH.set(OWN_DEPTH.get() - 1);
        OWN_DEPTH.get()
    }
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
    // SAFETY: CPython calls `tp_dealloc` attached.
    let py = unsafe { Python::assume_attached() };
    let Some(level) = Level::enter(py) else {
        // SAFETY: by the contract of this function.
        unsafe { defer(py, object, dealloc) };
        return;
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(free)) {
        // What a panic carries may panic when it is dropped.
        std::mem::forget(panic);
    }
    level.leave(py);
}

/// # Safety
/// As [`bounded`].
#[cold]
unsafe fn defer(py: Python<'_>, object: *mut ffi::PyObject, dealloc: ffi::destructor) {
    // SAFETY: a dying object with a collector header; untracking twice is allowed.
    unsafe { ffi::PyObject_GC_UnTrack(object.cast()) };
    let mut list = PENDING.take(py);
    list.push(PendingDealloc(object, dealloc));
    drop(PENDING.replace(py, list));
    IS_DUE.set(py, true);
}

/// Frees what was put aside, and what is put aside meanwhile.
#[cold]
fn finish(py: Python<'_>) {
    // What is freed here must not finish anything itself, one inside of the other.
    let Some(level) = Level::enter(py) else { return };
    loop {
        let mut list = PENDING.take(py);
        let next = list.pop();
        IS_DUE.set(py, !list.is_empty());
        // The memory goes back with the last of them.
        drop(if list.is_empty() { list } else { PENDING.replace(py, list) });
        let Some(PendingDealloc(object, dealloc)) = next else { break };
        // SAFETY: attached, as the deallocator that calls this is; `dealloc` put the object aside,
        // to which nothing refers.
        unsafe { dealloc(object) };
    }
    level.leave(py);
}
