//! Calls that wait for a socket (`sock_recv()` and the like), which the program may close
//! during the wait.
//!
//! The kernel drops a closed descriptor without an event, so the call would wait forever. The
//! loop therefore checks the sockets before it sleeps: a limited number each time, and while some
//! are unchecked it sleeps only briefly.

use std::time::Duration;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::Scheduler;
use crate::ffi::exception::PyOutcome;
use crate::reactor::{Slab, SlotKey};

/// How many sockets are checked before each sleep.
const CHECKS_PER_SLEEP: usize = 64;

/// Longest sleep while some sockets are unchecked.
const MAXIMUM_SLEEP: Duration = Duration::from_millis(20);

/// The behaviour of calls of one kind.
pub struct SocketWaiterKind {
    /// Whether its socket was closed. Runs no Python code.
    pub is_closed: for<'py> fn(&Bound<'py, PyAny>) -> bool,
    /// Ends the call, which was removed before.
    pub end: for<'py> fn(&Bound<'py, PyAny>) -> PyOutcome<'py, ()>,
}

/// A call that waits for a socket.
pub struct SocketWaiter {
    object: Py<PyAny>,
    kind: &'static SocketWaiterKind,
}

impl Scheduler {
    /// Adds a call that waits for a socket.
    #[inline]
    pub fn add_socket_waiter(
        &self,
        object: &Bound<'_, PyAny>,
        kind: &'static SocketWaiterKind,
    ) -> SlotKey {
        self.core.socket_waiters.with(object.py(), |waiters| waiters.add(object, kind))
    }

    /// Removes a call, unless it was found closed before; the caller drops it.
    #[inline]
    #[must_use = "drop it where no cell is borrowed"]
    pub fn remove_socket_waiter(&self, py: Python<'_>, key: SlotKey) -> Option<SocketWaiter> {
        self.core.socket_waiters.with(py, |waiters| waiters.remove(key))
    }
}

/// All calls of a loop that wait for a socket.
#[derive(Default)]
pub(super) struct SocketWaiters {
    slots: Slab<SocketWaiter>,
    /// The slot to check next.
    next: usize,
    /// Number of slots not checked since the last callback ran.
    unchecked: usize,
}

impl SocketWaiters {
    fn add(&mut self, object: &Bound<'_, PyAny>, kind: &'static SocketWaiterKind) -> SlotKey {
        self.slots.insert(SocketWaiter { object: object.clone().unbind(), kind })
    }

    fn remove(&mut self, key: SlotKey) -> Option<SocketWaiter> {
        self.slots.remove(key)
    }

    /// Notes that callbacks have run, any of which may have closed any socket.
    #[inline(always)]
    pub(super) fn note_callbacks(&mut self) {
        self.unchecked = self.slots.slot_count();
    }

    /// Checks the next few; removes and returns those whose socket is closed.
    fn check_next(&mut self, py: Python<'_>) -> Vec<SocketWaiter> {
        let mut closed = Vec::new();
        for _ in 0..self.unchecked.min(CHECKS_PER_SLEEP) {
            self.unchecked -= 1;
            self.next = if self.next < self.slots.slot_count() { self.next } else { 0 };
            let slot = self.next;
            self.next += 1;
            let Some((key, waiter)) = self.slots.at(slot) else { continue };
            if (waiter.kind.is_closed)(waiter.object.bind(py)) {
                closed.extend(self.slots.remove(key));
            }
        }
        closed
    }

    /// Removes and returns all calls; the caller drops them.
    #[must_use = "drop them where no cell is borrowed"]
    pub(super) fn take_all(&mut self) -> Vec<SocketWaiter> {
        self.slots.take_all()
    }

    /// Reports the calls to the garbage collector.
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.slots.iter().try_for_each(|waiter| visit.call(&waiter.object))
    }
}

/// Ends the calls whose sockets are closed. Returns how long the loop may sleep then.
pub(super) fn end_closed<'py>(
    scheduler: &Bound<'py, Scheduler>,
    timeout: Option<Duration>,
) -> PyOutcome<'py, Option<Duration>> {
    let py = scheduler.py();
    let waiters = &scheduler.get().core.socket_waiters;
    let (closed, all_checked) =
        waiters.with(py, |waiters| (waiters.check_next(py), waiters.unchecked == 0));
    let mut result = Ok(());
    for waiter in closed {
        // End all of them even if one raises.
        result = result.and((waiter.kind.end)(waiter.object.bind(py)));
    }
    result?;
    if all_checked {
        return Ok(timeout);
    }
    Ok(Some(timeout.map_or(MAXIMUM_SLEEP, |timeout| timeout.min(MAXIMUM_SLEEP))))
}

#[cfg(test)]
mod tests {
    use pyo3::types::{PyList, PyListMethods};

    use super::*;

    /// A list stands for a call, and is not empty once its socket is closed.
    static LISTS: SocketWaiterKind = SocketWaiterKind {
        is_closed: |object| object.cast::<PyList>().is_ok_and(|list| !list.is_empty()),
        end: |_| Ok(()),
    };

    fn close(call: &Bound<'_, PyAny>) {
        call.call_method1("append", (1,)).expect("a list");
    }

    #[test]
    fn every_closed_socket_is_found_in_a_full_round_of_checks() {
        Python::initialize();
        Python::attach(|py| {
            for count in [1, CHECKS_PER_SLEEP, CHECKS_PER_SLEEP + 1, 300] {
                for closed in [0, count / 2, count - 1] {
                    let mut waiters = SocketWaiters::default();
                    let calls: Vec<_> = (0..count).map(|_| PyList::empty(py).into_any()).collect();
                    let slots: Vec<_> = calls.iter().map(|one| waiters.add(one, &LISTS)).collect();
                    close(&calls[closed]);
                    assert!(waiters.check_next(py).is_empty(), "no callback has run");
                    waiters.note_callbacks();
                    let mut found = vec![];
                    for _ in 0..count.div_ceil(CHECKS_PER_SLEEP) {
                        found.extend(waiters.check_next(py));
                    }
                    assert_eq!(waiters.unchecked, 0);
                    assert!(matches!(&found[..], [one] if one.object.is(&calls[closed])));
                    // It was removed, and its slot may have another user.
                    assert!(waiters.remove(slots[closed]).is_none());
                    let next = PyList::empty(py).into_any();
                    waiters.add(&next, &LISTS);
                    assert!(waiters.remove(slots[closed]).is_none());
                }
            }
        });
    }

    #[test]
    fn slots_are_used_again() {
        Python::initialize();
        Python::attach(|py| {
            let mut waiters = SocketWaiters::default();
            let calls = [(); 3].map(|()| PyList::empty(py).into_any());
            for _ in 0..100 {
                let slots = calls.each_ref().map(|one| waiters.add(one, &LISTS));
                for (slot, call) in slots.into_iter().zip(&calls) {
                    assert!(waiters.remove(slot).is_some_and(|w| w.object.is(call)));
                }
            }
            assert!(waiters.slots.slot_count() <= calls.len());
            waiters.add(&calls[0], &LISTS);
            assert_eq!(waiters.take_all().len(), 1);
            assert!(waiters.take_all().is_empty());
        });
    }
}
