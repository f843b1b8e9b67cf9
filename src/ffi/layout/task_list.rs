//! The interpreter's lists of tasks, which `asyncio.all_tasks()` walks from Python 3.14 on, and tools
//! that read the memory of another process.
//!
//! Each thread state has the head of a circular doubly linked list, whose nodes are in the tasks. A
//! list owns no reference: a task leaves it when it is done or deallocated. When CPython deletes a
//! thread state it moves the nodes to a list of the interpreter, which needs no head to leave.
//! `task_object.rs` finds the heads; as long as they are unknown, tasks are in a list of this crate. So
//! are tasks that finalizers make while a thread state is cleared: it has left its list already.

use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::PyClass;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::layout::task_object::TaskOffsets;
use crate::ffi::objects::object;

/// Byte offset of the node in a task.
const NODE: usize = TaskOffsets::EXPECTED.node;

/// Byte offset of the head in a thread state; 0 if unknown.
static HEAD: AtomicUsize = AtomicUsize::new(0);

/// The head of the list of this crate, whose links are null until it is used.
static OWN_HEAD: TaskNode = TaskNode::new();

/// Part of a task: its place in a list. Both links are null while it is in none.
#[repr(C)]
pub struct TaskNode {
    next: Cell<*const Self>,
    previous: Cell<*const Self>,
}

// SAFETY: the links are read and written with the GIL held, by this file and by CPython.
unsafe impl Send for TaskNode {}
// SAFETY: as above.
unsafe impl Sync for TaskNode {}

impl TaskNode {
    /// A node in no list.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { next: Cell::new(ptr::null()), previous: Cell::new(ptr::null()) }
    }

    /// Adds `owner`, which must contain this node, to the list of this thread.
    ///
    /// # Panics
    /// If this node is not in `owner`, where asyncio's tasks have theirs.
    #[inline(always)]
    pub fn register<T: PyClass>(&self, owner: &Bound<'_, T>) {
        let py = owner.py();
        let place = ptr::from_ref(self).addr().wrapping_sub(owner.as_ptr().addr());
        assert_eq!(place, NODE, "a node registers the object it is in");
        if self.is_registered(py) {
            return;
        }
        // SAFETY: the head is in the state of this thread, where CPython initialises it, or is the
        // one of this crate; the nodes of its list are in live tasks, since dropping one removes it.
        unsafe {
            let head = &*head(py);
            let last = &*head.previous.replace(self);
            last.next.set(self);
            self.previous.set(last);
            self.next.set(head);
        }
    }

    /// Whether the object is in a list.
    #[inline(always)]
    pub fn is_registered(&self, _py: Python<'_>) -> bool {
        !self.next.get().is_null()
    }

    /// Removes the object from its list, if it is in one.
    #[inline(always)]
    pub fn unregister(&self, _py: Python<'_>) {
        let next = self.next.replace(ptr::null());
        if next.is_null() {
            return;
        }
        let previous = self.previous.replace(ptr::null());
        // SAFETY: the neighbours are live, as in `register`, or heads; CPython relinks the nodes of a
        // head before it frees that.
        unsafe {
            (*next).previous.set(previous);
            (*previous).next.set(next);
        }
    }
}

impl Drop for TaskNode {
    fn drop(&mut self) {
        // SAFETY: part of a Python object, which is dropped attached.
        self.unregister(unsafe { Python::assume_attached() });
    }
}

/// The head of the list for the tasks of this thread.
#[inline(always)]
fn head(_py: Python<'_>) -> *const TaskNode {
    let offset = HEAD.load(Ordering::Relaxed);
    if offset == 0 {
        return own_head();
    }
    // SAFETY: attached, so there is a thread state, in which the head is at this offset.
    unsafe {
        let thread = ffi::PyThreadState_Get();
        if status(thread) & FINALIZING != 0 { own_head() } else { thread.byte_add(offset).cast() }
    }
}

/// Bit of [`status`]: the thread state is being cleared.
pub(super) const FINALIZING: u32 = 1 << 5;

/// The bits that tell what a thread state is used for.
///
/// # Safety
/// A live thread state, in an attached thread.
#[inline(always)]
pub(super) unsafe fn status(thread: *mut ffi::PyThreadState) -> u32 {
    // SAFETY: `cpython/pystate.h` has four pointers before it, from 3.13 on.
    unsafe { thread.byte_add(4 * size_of::<usize>()).cast::<u32>().read() }
}

#[cold]
fn own_head() -> &'static TaskNode {
    if OWN_HEAD.next.get().is_null() {
        OWN_HEAD.next.set(&raw const OWN_HEAD);
        OWN_HEAD.previous.set(&raw const OWN_HEAD);
    }
    &OWN_HEAD
}

/// Whether tasks are in the interpreter's lists.
pub fn is_known() -> bool {
    HEAD.load(Ordering::Relaxed) != 0
}

/// Sets where a thread state has its head.
///
/// # Safety
/// All thread states must have the head of a list of tasks at this offset and their [`status`] where it
/// is expected, and CPython must expect the node of a task where [`NODE`] is.
pub(super) unsafe fn set_head(offset: usize) {
    HEAD.store(offset, Ordering::Relaxed);
}

/// New references to the objects in the list of this crate.
pub fn snapshot(py: Python<'_>) -> Vec<Bound<'_, PyAny>> {
    let head = own_head();
    let mut found = Vec::new();
    let mut node = head.next.get();
    while !ptr::eq(node, head) {
        // SAFETY: `register` has checked where the node is in the object, which is live, since
        // dropping it removes it.
        unsafe {
            let object = NonNull::new_unchecked(node.byte_sub(NODE).cast_mut().cast());
            found.extend(object::try_incref(py, object));
            node = (*node).next.get();
        }
    }
    found
}

/// Removes all objects from the list of this crate.
pub fn clear(py: Python<'_>) {
    let head = own_head();
    while !ptr::eq(head.next.get(), head) {
        // SAFETY: as in `snapshot`.
        unsafe { (*head.next.get()).unregister(py) }
    }
}
