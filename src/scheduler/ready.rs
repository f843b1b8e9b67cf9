//! The FIFO queue of what runs next.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::Runnable;
use crate::ffi::objects::cell::AttachedRefCell;
use crate::ffi::objects::object;

/// How many entries ahead an object is prefetched into the cache.
const AHEAD: usize = 4;

/// Runnables in the order in which they were scheduled, whatever their kind and origin.
///
/// `ManuallyDrop` removes the unwind path of `push_back`. With that path, the entry would be
/// spilled in 8-byte stores and reloaded in 16-byte loads, which defeats store-to-load forwarding.
#[derive(Default)]
pub struct ReadyQueue(AttachedRefCell<VecDeque<ManuallyDrop<Runnable>>>);

impl ReadyQueue {
    /// Appends an entry.
    #[inline(always)]
    pub fn push(&self, py: Python<'_>, runnable: Runnable) {
        let runnable = ManuallyDrop::new(runnable);
        self.0.with(py, |queue| queue.push_back(runnable));
    }

    /// Removes and returns the oldest entry.
    #[inline(always)]
    pub fn pop(&self, py: Python<'_>) -> Option<Runnable> {
        self.0.with(py, VecDeque::pop_front).map(ManuallyDrop::into_inner)
    }

    /// Prefetches the object that runs a few entries later: in a long queue, objects are not in the
    /// cache.
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

    /// Calls `body` with each entry. It must not run Python code.
    pub fn for_each(&self, py: Python<'_>, body: impl FnMut(&Runnable)) {
        self.0.with(py, |queue| {
            queue.iter().map(|entry| &**entry).for_each(body);
        });
    }

    /// Reports the entries to the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(|queue| queue.iter().try_for_each(|runnable| runnable.traverse(visit)))
    }
}

impl Drop for ReadyQueue {
    fn drop(&mut self) {
        self.0.get_mut().drain(..).map(ManuallyDrop::into_inner).for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use pyo3::types::PyInt;

    use super::*;
    use crate::ffi::exception::PyOutcome;
    use crate::ffi::section::attach_unshared;
    use crate::scheduler::runnable::{QueueEntry, Queued};
    use crate::scheduler::{RunnableKind, Scheduler};

    struct Number;

    impl Queued for Number {
        type Object = PyInt;

        fn run<'py>(
            _scheduler: &Bound<'py, Scheduler>,
            _entry: QueueEntry<'py, PyInt>,
        ) -> PyOutcome<'py, ()> {
            unreachable!("only queued here")
        }
    }

    static NUMBER: RunnableKind = RunnableKind::of::<Number>();

    fn entry(py: Python<'_>, number: usize) -> Runnable {
        Runnable::new(&NUMBER, number.into_pyobject(py).expect("memory for an int"))
    }

    fn number(py: Python<'_>, entry: &Runnable) -> usize {
        entry.object.extract(py).expect("an int")
    }

    #[test]
    fn entries_leave_in_the_order_in_which_they_came() {
        Python::initialize();
        attach_unshared(|py| {
            let queue = ReadyQueue::default();
            let (mut pushed, mut popped) = (0, 0);
            // More come than go, so that the ring wraps and grows at different places.
            for round in 0..200 {
                for _ in 0..round % 7 + 2 {
                    queue.push(py, entry(py, pushed));
                    pushed += 1;
                }
                for _ in 0..round % 5 {
                    queue.prefetch(py);
                    let first = queue.pop(py).expect("more were pushed than popped");
                    assert_eq!(number(py, &first), popped);
                    popped += 1;
                }
                assert_eq!(queue.len(py), pushed - popped);
            }
            let mut seen = vec![];
            queue.for_each(py, |entry| seen.push(number(py, entry)));
            let left: Vec<_> = queue.take(py).iter().map(|entry| number(py, entry)).collect();
            assert_eq!(seen, left);
            assert_eq!(left, (popped..pushed).collect::<Vec<_>>());
            assert!(queue.pop(py).is_none());
        });
    }

    #[test]
    fn a_queue_that_is_dropped_drops_its_entries() {
        Python::initialize();
        attach_unshared(|py| {
            let object = 1_000_000_007_usize.into_pyobject(py).expect("memory for an int");
            let count = || -> PyResult<usize> {
                py.import("sys")?.getattr("getrefcount")?.call1((&object,))?.extract()
            };
            let before = count().expect("a count");
            let queue = ReadyQueue::default();
            for _ in 0..10 {
                queue.push(py, Runnable::new(&NUMBER, object.clone()));
            }
            drop(queue.pop(py));
            drop(queue);
            assert_eq!(count().expect("a count"), before);
        });
    }
}
