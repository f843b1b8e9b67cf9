//! The memory of deallocated objects of one class that a pool or free list keeps.

use std::ptr::NonNull;
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(Py_GIL_DISABLED)]
use std::sync::{Mutex, PoisonError};

use pyo3::ffi;

/// How many instances a pool or free list keeps that was made for `capacity` of them. None under a
/// memory checker, to which the use of a kept instance would look valid.
const fn kept_instances(capacity: usize) -> usize {
    if cfg!(keep_no_instances) { 0 } else { capacity }
}

/// An untracked object with a reference count of zero.
struct Block(NonNull<ffi::PyObject>);

// SAFETY: no other code refers to the object.
unsafe impl Send for Block {}

/// Objects of one class: those that a thread has deallocated, or all threads while there is a GIL.
pub struct KeptMemory {
    blocks: Vec<Block>,
    capacity: usize,
    /// Those of the class.
    #[cfg(Py_GIL_DISABLED)]
    orphans: fn() -> &'static Orphans,
}

impl KeptMemory {
    /// Keeps at most `capacity` objects.
    #[cfg(not(Py_GIL_DISABLED))]
    pub const fn new(capacity: usize) -> Self {
        Self { blocks: Vec::new(), capacity: kept_instances(capacity) }
    }

    /// Keeps at most `capacity` objects, and leaves them to other threads when this one ends.
    #[cfg(Py_GIL_DISABLED)]
    pub const fn new(capacity: usize, orphans: fn() -> &'static Orphans) -> Self {
        Self { blocks: Vec::new(), capacity: kept_instances(capacity), orphans }
    }

    /// Takes an object, the last one that was kept.
    #[inline(always)]
    pub fn take(&mut self) -> Option<NonNull<ffi::PyObject>> {
        #[cfg(Py_GIL_DISABLED)]
        if self.blocks.is_empty() {
            (self.orphans)().move_to(&mut self.blocks, self.capacity);
        }
        self.blocks.pop().map(|block| block.0)
    }

    /// Keeps `object`. Returns false if there is no room: then the caller frees it.
    ///
    /// # Safety
    /// An untracked object of the class with a reference count of zero, to which nothing refers.
    #[inline(always)]
    pub unsafe fn keep(&mut self, object: NonNull<ffi::PyObject>) -> bool {
        let has_room = self.blocks.len() < self.capacity;
        if has_room {
            self.blocks.push(Block(object));
        }
        has_room
    }
}

/// The thread ends. It is no longer attached, so it cannot free the objects.
#[cfg(Py_GIL_DISABLED)]
impl Drop for KeptMemory {
    fn drop(&mut self) {
        (self.orphans)().add(&mut self.blocks);
    }
}

/// The objects of threads that have ended.
#[cfg(Py_GIL_DISABLED)]
pub struct Orphans {
    blocks: Mutex<Vec<Block>>,
    has_any: AtomicBool,
}

#[cfg(Py_GIL_DISABLED)]
impl Orphans {
    /// No thread has ended.
    pub const fn new() -> Self {
        Self { blocks: Mutex::new(Vec::new()), has_any: AtomicBool::new(false) }
    }

    fn add(&self, blocks: &mut Vec<Block>) {
        if !blocks.is_empty() {
            self.blocks.lock().unwrap_or_else(PoisonError::into_inner).append(blocks);
            self.has_any.store(true, Ordering::Relaxed);
        }
    }

    /// Moves at most `count` objects to a thread that has none.
    #[inline(always)]
    fn move_to(&self, blocks: &mut Vec<Block>, count: usize) {
        if self.has_any.load(Ordering::Relaxed) {
            self.move_some(blocks, count);
        }
    }

    #[cold]
    fn move_some(&self, blocks: &mut Vec<Block>, count: usize) {
        let mut orphans = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let left = orphans.len().saturating_sub(count);
        blocks.extend(orphans.drain(left..));
        self.has_any.store(left != 0, Ordering::Relaxed);
    }
}

/// A reference to a static of type `PerThread<KeptMemory>`, which keeps `$capacity` objects of one
/// class.
macro_rules! kept_memory {
    ($capacity:expr) => {{
        $crate::ffi::objects::process_state::per_thread!(
            static KEPT: $crate::ffi::objects::kept_memory::KeptMemory = {
                #[cfg(not(Py_GIL_DISABLED))]
                {
                    $crate::ffi::objects::kept_memory::KeptMemory::new($capacity)
                }
                #[cfg(Py_GIL_DISABLED)]
                {
                    $crate::ffi::objects::kept_memory::KeptMemory::new($capacity, || {
                        static ORPHANS: $crate::ffi::objects::kept_memory::Orphans =
                            $crate::ffi::objects::kept_memory::Orphans::new();
                        &ORPHANS
                    })
                }
            }
        );
        &KEPT
    }};
}
pub(crate) use kept_memory;
