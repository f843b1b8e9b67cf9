//! The first-in, first-out queue of what runs next.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::mem::ManuallyDrop;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::Runnable;
use crate::ffi::objects::cell::AttachedRefCell;
use crate::ffi::objects::object;

/// How many callbacks before its turn an object is fetched into the cache.
const AHEAD: usize = 4;

/// Runnables in the order in which they were scheduled, whatever their kind and origin.
///
/// Dropped by hand: what would have to be dropped if the queue failed to grow would be put together
/// in memory, word by word, and read back from there in pairs of words. Processors stall at that.
#[derive(Default)]
pub struct ReadyQueue(AttachedRefCell<VecDeque<ManuallyDrop<Runnable>>>);

impl ReadyQueue {
    /// Appends.
    #[inline(always)]
    pub fn push(&self, py: Python<'_>, runnable: Runnable) {
        let runnable = ManuallyDrop::new(runnable);
        self.0.with(py, |queue| queue.push_back(runnable));
    }

    /// Takes the oldest.
    #[inline(always)]
    pub fn pop(&self, py: Python<'_>) -> Option<Runnable> {
        self.0.with(py, VecDeque::pop_front).map(ManuallyDrop::into_inner)
    }

    /// Lets the processor fetch the object that is run a few entries later, unless it is at hand:
    /// a long queue's objects are not.
    #[inline(always)]
    pub fn prefetch(&self, py: Python<'_>) {
        self.0.with(py, |queue| {
            if let Some(runnable) = queue.get(AHEAD) {
                object::prefetch(&runnable.object);
            }
        });
    }

    /// Number of entries.
    #[inline(always)]
    pub fn len(&self, py: Python<'_>) -> usize {
        self.0.with(py, |queue| queue.len())
    }

    /// Empties the queue; the caller drops the entries.
    pub fn take(&self, py: Python<'_>) -> Vec<Runnable> {
        let queue = self.0.with(py, std::mem::take);
        queue.into_iter().map(ManuallyDrop::into_inner).collect()
    }

    /// Calls `body`, which must not run Python code, with each entry.
    pub fn for_each(&self, py: Python<'_>, body: impl FnMut(&Runnable)) {
        self.0.with(py, |queue| {
            queue.iter().map(|entry| &**entry).for_each(body);
        });
    }

    /// Shows the entries to the cyclic collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(|queue| queue.iter().try_for_each(|runnable| runnable.traverse(visit)))
    }
}

impl Drop for ReadyQueue {
    fn drop(&mut self) {
        self.0.get_mut().drain(..).map(ManuallyDrop::into_inner).for_each(drop);
    }
}
