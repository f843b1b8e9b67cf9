//! How the loop waits for the next event: asleep in the poller, or polling for a while first.

#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use pyo3::prelude::*;

use super::Scheduler;
use crate::ffi::objects::cell::AttachedCell;
use crate::reactor::{AdaptiveSpin, Poller, WaitStrategy, clock};

/// What decides how the loop waits.
#[derive(Default)]
pub struct Sleeping {
    /// How long to poll before each sleep; None to decide by what was learned.
    pub busy_poll: AttachedCell<Option<Duration>>,
    learned: AttachedCell<AdaptiveSpin>,
    /// The last turn polled in vain: time to look for signals, then to sleep.
    in_vain: AttachedCell<bool>,
}

/// Waits for events, with the GIL released; the wait `began` just now. Also answers when it ended.
pub fn sleep(
    py: Python<'_>,
    this: &Scheduler,
    poller: &mut Poller,
    timeout: Option<Duration>,
    began: u64,
) -> (io::Result<()>, u64) {
    let sleeping = &this.sleeping;
    let setting = sleeping.busy_poll.get(py);
    let plan = match setting {
        // Not measured: the event may be all but there, and this be no sleep.
        _ if sleeping.in_vain.get(py) => WaitStrategy::Sleep,
        Some(Duration::ZERO) => WaitStrategy::Sleep,
        Some(spin) => WaitStrategy::Spin(spin),
        None => sleeping.learned.get(py).plan(),
    };
    let measured = plan == WaitStrategy::MeasuredSleep;
    let (polled, now, cost) = py.detach(|| {
        let before = if measured { clock::thread_nanoseconds() } else { None };
        let polled = match plan {
            WaitStrategy::Spin(spin) => {
                poller.poll_busily(timeout.map_or(spin, |most| most.min(spin)))
            }
            WaitStrategy::Sleep | WaitStrategy::MeasuredSleep => poller.poll(timeout),
        };
        let cost =
            before.and_then(|before| Some(clock::thread_nanoseconds()?.saturating_sub(before)));
        // Waiting for the GIL is not idleness.
        let now = clock::nanoseconds();
        this.metrics.sleep_ends(now);
        (polled, now, cost)
    });
    let found = poller.event_count() != 0 || poller.was_woken();
    let spun = match plan {
        WaitStrategy::Spin(spin) => Some(spin),
        WaitStrategy::Sleep | WaitStrategy::MeasuredSleep => None,
    };
    sleeping.in_vain.set(py, spun.is_some() && !found);
    if setting.is_none() {
        let mut learned = sleeping.learned.get(py);
        match spun {
            // A timer was due sooner than that.
            Some(spin) if !found && timeout.is_some_and(|timeout| timeout < spin) => {}
            Some(_) => learned.note_spin(found),
            None => learned.note_sleep(now.saturating_sub(began), cost, found),
        }
        sleeping.learned.set(py, learned);
    }
    (polled, now)
}
