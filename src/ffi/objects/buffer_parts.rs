//! Parts of a shared buffer: its memory, and the number of its views.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The memory of a buffer.
pub enum Memory {
    /// A block of its own.
    Own(Box<[u8]>),
    /// A bytes object to which no other code refers yet, and which may be uninitialised.
    Bytes(Py<PyBytes>),
}

impl Memory {
    /// Its size in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Own(block) => block.len(),
            // SAFETY: a live bytes object.
            Self::Bytes(bytes) => unsafe { ffi::PyBytes_Size(bytes.as_ptr()) }.unsigned_abs(),
        }
    }

    /// The address of the first byte.
    pub fn start(&mut self) -> *mut u8 {
        match self {
            Self::Own(block) => block.as_mut_ptr(),
            // SAFETY: a live bytes object; nothing is read or written.
            Self::Bytes(bytes) => unsafe { ffi::PyBytes_AsString(bytes.as_ptr()).cast() },
        }
    }
}

/// A number that one thread increases and any thread decreases.
#[derive(Default)]
pub struct ViewCount(AtomicUsize);

impl ViewCount {
    /// Whether there is no view: what was done with the last one happened before.
    pub fn is_zero(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// Adds a view.
    pub fn add(&self) {
        self.change(|count| count.wrapping_add(1));
    }

    /// Removes a view.
    pub fn remove(&self) {
        self.change(|count| count.wrapping_sub(1));
    }

    fn change(&self, change: impl Fn(usize) -> usize) {
        if cfg!(Py_GIL_DISABLED) {
            let changed = |count| Some(change(count));
            let _never_refused = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, changed);
        } else {
            self.0.store(change(self.0.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }
}
