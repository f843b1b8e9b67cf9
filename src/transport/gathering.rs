//! Holding writes back, to send those of one callback together.

#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;

use super::event::{EVENT, run_event};
use super::lifecycle::describe_event;
use super::stream::StreamTransport;
use crate::ffi::context;
use crate::ffi::exception::PyOutcome;
use crate::reactor::clock;
use crate::scheduler::report::outcome;
use crate::scheduler::{Runnable, RunnableKind};

static FLUSH: RunnableKind = RunnableKind {
    run: |scheduler, runnable| {
        run_event(scheduler, runnable, "_write_ready", StreamTransport::flush_afterwards)
    },
    sets_current_task: true,
    describe: |py, runnable| describe_event(py, runnable, intern!(py, "_write_ready")),
    ..EVENT
};

/// What a transport knows of its writes, to gather those of one callback.
///
/// Many programs write a head and a body: one system call is enough for both. A transport that
/// has seen two writes in one callback holds further ones back until the callback returns, and
/// stops doing so when there was only one. In a crowded turn every transport holds its writes
/// back until the turn ends (see `Scheduler::put_off`). Whoever looks (at the buffer's size, the
/// socket ...) makes it send first, so nobody sees a difference; `is_closing()` does so for little
/// only, as `StreamWriter.drain()` asks it after each write.
#[derive(Clone, Copy, Default)]
pub struct Gathering {
    /// The callback that wrote last.
    callback: u32,
    /// Writes in that callback.
    writes: u32,
    /// Whether to hold writes back.
    enabled: bool,
    /// Something is held back.
    held: bool,
    /// When more than [`LITTLE`] was held back; 0 if it is less.
    bulk_since: u64,
}

/// From here on it matters how long bytes are held back, and copying them costs more than a system
/// call. What is more is sent at once where many transports hold back, or if it is a copy.
pub const LITTLE: usize = 16 * 1024;

/// More than this is sent at once. The kernel takes 200 KiB in one call with a sixth less work than
/// in calls of 64 KiB.
const HELD_AT_MOST: usize = 192 * 1024;

/// Nanoseconds for which more than [`LITTLE`] may be held back, when the next write comes.
const LONGEST: u64 = 500_000;

impl StreamTransport {
    /// Notes a write; answers whether it shall wait for the end of the callback: up to how many
    /// bytes in the queue.
    #[inline(always)]
    pub(super) fn shall_hold(slf: &Bound<'_, Self>, idle: bool) -> Option<usize> {
        let py = slf.py();
        let base = slf.as_super().get();
        let callback = base.scheduler.inspect(py, |scheduler| {
            let scheduler = scheduler.as_ref()?.get();
            Some((scheduler.callback(py)?, scheduler.is_crowded(py)))
        });
        let (callback, crowded) = callback?;
        let cell = &slf.get().gathering;
        let mut gathering = cell.get(py);
        if gathering.callback == callback {
            gathering.writes = gathering.writes.saturating_add(1);
            gathering.enabled |= gathering.writes > 1;
        } else {
            gathering.callback = callback;
            gathering.writes = 1;
        }
        let hold = gathering.held || ((gathering.enabled || crowded) && idle);
        cell.set(py, gathering);
        hold.then_some(if crowded { LITTLE } else { HELD_AT_MOST })
    }

    /// Has what is queued sent when the callback returns or the turn ends, or at once if it is
    /// more than `limit`, or than [`LITTLE`] if what was just written is not `shared` but a copy.
    pub(super) fn hold<'py>(
        slf: &Bound<'py, Self>,
        limit: usize,
        shared: bool,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let limit = if shared { limit } else { LITTLE };
        let cell = &slf.get().gathering;
        let mut gathering = cell.get(py);
        let queued = slf.get().queued(py);
        if queued > limit {
            return Self::flush_held(slf, gathering);
        }
        if queued > LITTLE {
            let now = clock::nanoseconds();
            if gathering.bulk_since == 0 {
                gathering.bulk_since = now;
                cell.set(py, gathering);
            } else if now - gathering.bulk_since > LONGEST {
                // A long callback that writes now and then: its next write goes out at once.
                return Self::flush_held(slf, Gathering { enabled: false, writes: 0, ..gathering });
            }
        }
        if gathering.held {
            return Ok(());
        }
        let Some(scheduler) = slf.as_super().get().scheduler(py) else { return Ok(()) };
        cell.set(py, Gathering { held: true, ..gathering });
        let mut runnable = Runnable::new(&FLUSH, slf.clone());
        runnable.context = Some(outcome(py, context::copy_current(py))?.unbind());
        scheduler.get().put_off(py, runnable);
        Ok(())
    }

    fn flush_afterwards<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let cell = &slf.get().gathering;
        let gathering = cell.get(py);
        // A single write in a callback: holding back was of no use.
        cell.set(py, Gathering { enabled: gathering.writes > 1, ..gathering });
        Self::flush(slf)
    }

    /// Sends what was held back.
    pub(super) fn flush<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let cell = &slf.get().gathering;
        let gathering = cell.get(py);
        if !gathering.held {
            return Ok(());
        }
        Self::flush_held(slf, gathering)
    }

    fn flush_held<'py>(slf: &Bound<'py, Self>, gathering: Gathering) -> PyOutcome<'py, ()> {
        let gathering = Gathering { held: false, bulk_since: 0, ..gathering };
        slf.get().gathering.set(slf.py(), gathering);
        Self::send_first(slf)
    }
}
