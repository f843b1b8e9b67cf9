//! Bounds the nesting of deallocators.
//!
//! A deallocated object drops its references, which may deallocate other objects: freeing a chain
//! of handles, each the argument of the next, would take a few stack frames per handle. As
//! CPython's own containers do, a deallocator that is nested too deeply defers its object, and the
//! outermost deallocator of the thread frees it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::objects::process_state::per_thread;

/// Maximum number of nested deallocators on one stack. A level takes a few hundred bytes of ours,
/// and what CPython needs for the objects between two of ours.
const MAX_DEPTH: u32 = 50;

/// An object with a reference count of zero, not tracked by the garbage collector, and its
/// deallocator.
struct PendingDealloc(*mut ffi::PyObject, ffi::destructor);

// SAFETY: only used by attached threads, of which one takes it.
unsafe impl Send for PendingDealloc {}

per_thread!(
    /// Deferred objects, for the outermost deallocator of any thread; on free-threaded builds, of
    /// the same thread.
    static PENDING: Vec<PendingDealloc> = Vec::new()
);

thread_local! {
    /// The number of nested deallocators of this thread; with a GIL, only while `DEPTH` belongs to
    /// another one, which is inside a deallocator that has released the GIL, or was when this
    /// process was forked.
    static OWN_DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Leaves a level that [`OWN_DEPTH`] counts. Returns the number of levels left.
#[cfg_attr(not(Py_GIL_DISABLED), cold)]
fn leave_local() -> u32 {
    OWN_DEPTH.set(OWN_DEPTH.get() - 1);
    OWN_DEPTH.get()
}

#[cfg(not(Py_GIL_DISABLED))]
mod level {
    use pyo3::prelude::*;

    use super::{MAX_DEPTH, OWN_DEPTH, dealloc_pending, leave_local};
    use crate::ffi::objects::process_state::Published;
    use crate::ffi::thread_pointer::thread_pointer;

    /// Whether there are deferred objects.
    pub static HAS_PENDING: Published<bool> = Published::new(false);

    /// The thread whose deallocators [`DEPTH`] counts. Another thread takes it over only while it
    /// is 0. As deallocators hold the GIL, this is nearly always the running thread, which saves a
    /// thread-local lookup.
    static COUNTED_THREAD: Published<usize> = Published::new(0);
    static DEPTH: Published<u32> = Published::new(0);

    /// A running deallocator.
    pub enum Level {
        /// Counted by [`DEPTH`].
        Counted,
        /// Counted by [`OWN_DEPTH`].
        Local,
    }

    impl Level {
        /// `None` if the maximum depth is reached.
        #[inline(always)]
        pub fn enter(py: Python<'_>) -> Option<Self> {
            let depth = DEPTH.get(py);
            if COUNTED_THREAD.get(py) == thread_pointer() && depth < MAX_DEPTH {
                DEPTH.set(py, depth + 1);
                return Some(Self::Counted);
            }
            Self::enter_slowly(py)
        }

        #[cold]
        fn enter_slowly(py: Python<'_>) -> Option<Self> {
            let this_thread = thread_pointer();
            if DEPTH.get(py) == 0 {
                COUNTED_THREAD.set(py, this_thread);
                DEPTH.set(py, 1);
                return Some(Self::Counted);
            }
            if COUNTED_THREAD.get(py) == this_thread || OWN_DEPTH.get() >= MAX_DEPTH {
                return None;
            }
            OWN_DEPTH.set(OWN_DEPTH.get() + 1);
            Some(Self::Local)
        }

        #[inline(always)]
        pub fn leave(self, py: Python<'_>) {
            let depth = match self {
                Self::Counted => {
                    let depth = DEPTH.get(py) - 1;
                    DEPTH.set(py, depth);
                    depth
                }
                Self::Local => leave_local(),
            };
            if depth == 0 && HAS_PENDING.get(py) {
                dealloc_pending(py);
            }
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod level {
    use pyo3::prelude::*;

    use super::{MAX_DEPTH, OWN_DEPTH, PENDING, dealloc_pending, leave_local};

    /// A running deallocator, counted by [`OWN_DEPTH`].
    pub struct Level(());

    impl Level {
        /// `None` if the maximum depth is reached.
        #[inline(always)]
        pub fn enter(_py: Python<'_>) -> Option<Self> {
            let depth = OWN_DEPTH.get();
            if depth >= MAX_DEPTH {
                return None;
            }
            OWN_DEPTH.set(depth + 1);
            Some(Self(()))
        }

        #[inline(always)]
        pub fn leave(self, py: Python<'_>) {
            if leave_local() == 0 && PENDING.with(py, |list| !list.is_empty()) {
                dealloc_pending(py);
            }
        }
    }
}

use level::Level;

/// Runs `free`, the body of `dealloc`, at once; or, if nested too deeply, defers `object`, for
/// which `dealloc` is called again later. The garbage collector does not track it meanwhile.
///
/// A panic in `free` is caught; the object's memory is leaked then.
///
/// # Safety
/// Must be called by `dealloc`, a `tp_dealloc`, for `object`, of a class with a collector header.
#[inline(always)]
pub unsafe fn with_bounded_depth(
    object: *mut ffi::PyObject,
    dealloc: ffi::destructor,
    free: impl FnOnce(),
) {
    // SAFETY: CPython calls `tp_dealloc` attached.
    let py = unsafe { Python::assume_attached() };
    let Some(level) = Level::enter(py) else {
        // SAFETY: guaranteed by the caller.
        unsafe { defer(py, object, dealloc) };
        return;
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(free)) {
        // Dropping the payload of a panic may panic.
        std::mem::forget(panic);
    }
    level.leave(py);
}

/// # Safety
/// As [`with_bounded_depth`].
#[cold]
unsafe fn defer(py: Python<'_>, object: *mut ffi::PyObject, dealloc: ffi::destructor) {
    // SAFETY: an object with a collector header that is being deallocated; untracking twice is
    // allowed.
    unsafe { ffi::PyObject_GC_UnTrack(object.cast()) };
    PENDING.with(py, |list| list.push(PendingDealloc(object, dealloc)));
    #[cfg(not(Py_GIL_DISABLED))]
    level::HAS_PENDING.set(py, true);
}

/// Frees the deferred objects, including those deferred meanwhile.
#[cold]
fn dealloc_pending(py: Python<'_>) {
    // Enter a level, so that deallocators called here do not call this function.
    let Some(level) = Level::enter(py) else { return };
    loop {
        let next = PENDING.with(py, |list| {
            let next = list.pop();
            if list.is_empty() {
                *list = Vec::new(); // frees its memory
            }
            #[cfg(not(Py_GIL_DISABLED))]
            level::HAS_PENDING.set(py, !list.is_empty());
            next
        });
        let Some(PendingDealloc(object, dealloc)) = next else { break };
        // SAFETY: attached, as the calling deallocator is; `dealloc` has deferred the object, to
        // which nothing refers.
        unsafe { dealloc(object) };
    }
    level.leave(py);
}
