//! Decides whether an idle worker spins for a moment before it sleeps.
//!
//! A wake-up costs two system calls and tens of microseconds. A program that sends small jobs one
//! after the other pays that for each; a worker that spins a little longer saves it. The policy is
//! the loop's ([`AdaptiveSpin`]), and must be: the two wait for each other, so a worker that slept
//! whenever the loop had to be woken would keep both of them asleep between all jobs. Never spins
//! on a machine with one processor.

use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

use crate::reactor::{AdaptiveSpin, WaitStrategy};

/// What a sleep and its wake-up cost, for both sides. A spin lasts at most twice as long.
const COST_OF_SLEEP: Duration = Duration::from_micros(25);

/// Rounds between two readings of the clock.
const ROUNDS_PER_CLOCK_READ: u32 = 32;

static SEVERAL_PROCESSORS: Lazy<bool> =
    Lazy::new(|| std::thread::available_parallelism().is_ok_and(|count| count.get() > 1));

/// What one worker has learned from its waits.
pub struct Spin {
    policy: AdaptiveSpin,
}

impl Default for Spin {
    fn default() -> Self {
        Self { policy: AdaptiveSpin::with_cost(COST_OF_SLEEP) }
    }
}

impl Spin {
    /// Whether to spin at the beginning of the next wait.
    pub fn pays(&self) -> bool {
        *SEVERAL_PROCESSORS && matches!(self.policy.plan(), WaitStrategy::Spin(_))
    }

    /// Spins until `ready` returns true, for at most twice the cost of a sleep since `started`.
    pub fn until(started: Instant, ready: impl Fn() -> bool) {
        loop {
            for _ in 0..ROUNDS_PER_CLOCK_READ {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
            if started.elapsed() >= 2 * COST_OF_SLEEP {
                return;
            }
        }
    }

    /// Notes whether a job was there at the end of a spin.
    pub fn note_spin(&mut self, found: bool) {
        self.policy.note_spin(found);
    }

    /// Notes how long the worker slept.
    pub fn note_sleep(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.policy.note_sleep(nanoseconds, None, true);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_policy_tries_after_short_sleeps_and_gives_up_after_fruitless_spins() {
        let spins = |spin: &Spin| matches!(spin.policy.plan(), WaitStrategy::Spin(_));
        let mut spin = Spin::default();
        for _ in 0..1_000 {
            spin.note_sleep(Duration::from_millis(1));
            assert!(!spins(&spin));
        }
        // Both sides were woken, each in a few times the cost of a sleep.
        for _ in 0..4 {
            assert!(!spins(&spin));
            spin.note_sleep(4 * COST_OF_SLEEP);
        }
        assert!(spins(&spin));
        spin.note_spin(true);
        assert!(spins(&spin));
        for _ in 0..4 {
            spin.note_spin(false);
        }
        assert!(!spins(&spin));
    }

    #[test]
    fn a_spin_ends_when_ready_or_after_twice_the_cost_of_a_sleep() {
        let started = Instant::now();
        Spin::until(started, || false);
        assert!(started.elapsed() >= 2 * COST_OF_SLEEP);
        let calls = Cell::new(0);
        Spin::until(Instant::now(), || calls.replace(calls.get() + 1) == 2);
        assert_eq!(calls.get(), 3);
    }
}
