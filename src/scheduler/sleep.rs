//! How the loop waits for the next event: sleeping in the poller, or busy polling for a while
//! first.

use std::io;
use std::time::Duration;

use pyo3::prelude::*;

use super::Scheduler;
use crate::ffi::objects::cell::AttachedCell;
use crate::reactor::{AdaptiveSpin, PollThrottle, Poller, WaitStrategy, clock};

/// The state that decides how the loop waits.
#[derive(Default)]
pub struct Sleeping {
    /// How long to poll before each sleep; `None` to adapt.
    pub busy_poll: AttachedCell<Option<Duration>>,
    adaptive: AttachedCell<AdaptiveSpin>,
    /// How often the loop polls while callbacks are ready.
    pub throttle: AttachedCell<PollThrottle>,
    /// The last turn's busy polling found nothing; it ended so that the loop checks for signals
    /// before this sleep.
    last_spin_fruitless: AttachedCell<bool>,
}

/// Waits for events with the GIL released. `began` is the current time in nanoseconds. Also returns
/// the time when the wait ended, in nanoseconds.
pub fn sleep(
    py: Python<'_>,
    this: &Scheduler,
    poller: &mut Poller,
    timeout: Option<Duration>,
    began: u64,
) -> (io::Result<()>, u64) {
    let sleeping = &this.core.sleeping;
    let setting = sleeping.busy_poll.get(py);
    let plan = match setting {
        // Not measured: an event may arrive right after the spin, and this would not be a real
        // sleep.
        _ if sleeping.last_spin_fruitless.get(py) => WaitStrategy::Sleep,
        Some(Duration::ZERO) => WaitStrategy::Sleep,
        Some(spin) => WaitStrategy::Spin(spin),
        None => sleeping.adaptive.get(py).plan(),
    };
    let measured = plan == WaitStrategy::MeasuredSleep;
    let (polled, now, cost) = py.detach(|| {
        let before = if measured { clock::thread_nanoseconds() } else { None };
        let polled = this.shared.wake_signal.while_detached(|| match plan {
            WaitStrategy::Spin(spin) => {
                poller.poll_busily(timeout.map_or(spin, |most| most.min(spin)))
            }
            WaitStrategy::Sleep | WaitStrategy::MeasuredSleep => poller.poll(timeout),
        });
        let cost =
            before.and_then(|before| Some(clock::thread_nanoseconds()?.saturating_sub(before)));
        // Read before waiting for the GIL, which is not idle time.
        let now = clock::nanoseconds();
        this.shared.metrics.sleep_ends(now);
        (polled, now, cost)
    });
    let found = poller.event_count() != 0 || poller.was_woken();
    let spun = match plan {
        WaitStrategy::Spin(spin) => Some(spin),
        WaitStrategy::Sleep | WaitStrategy::MeasuredSleep => None,
    };
    sleeping.last_spin_fruitless.set(py, spun.is_some() && !found);
    if setting.is_none() {
        let mut adaptive = sleeping.adaptive.get(py);
        match spun {
            // A timer ended the spin early.
            Some(spin) if !found && timeout.is_some_and(|timeout| timeout < spin) => {}
            Some(_) => adaptive.note_spin(found),
            None => adaptive.note_sleep(now.saturating_sub(began), cost, found),
        }
        sleeping.adaptive.set(py, adaptive);
    }
    (polled, now)
}
