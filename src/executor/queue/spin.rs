//! Decides whether an idle worker spins for a moment before it sleeps.
//!
//! A wake-up costs two system calls and tens of microseconds. A program that sends small jobs one
//! after the other pays that for each; a worker that spins a little longer saves it. Spinning is
//! tried only while it pays: after a wait that was shorter than the limit, and never on a machine
//! with one processor.

use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

/// Longest time to spin, and longest wait after which spinning is tried again.
const MAXIMUM_SPIN: Duration = Duration::from_micros(50);

/// Rounds between two readings of the clock.
const ROUNDS_PER_CLOCK_READ: u32 = 32;

static SEVERAL_PROCESSORS: Lazy<bool> =
    Lazy::new(|| std::thread::available_parallelism().is_ok_and(|count| count.get() > 1));

/// What one worker has learned from its last wait.
#[derive(Default)]
pub struct Spin {
    pays: bool,
}

impl Spin {
    /// Whether to spin at the beginning of the next wait.
    pub fn pays(&self) -> bool {
        self.pays && *SEVERAL_PROCESSORS
    }

    /// Spins until `ready` returns true, for at most [`MAXIMUM_SPIN`] since `started`.
    pub fn until(started: Instant, ready: impl Fn() -> bool) {
        loop {
            for _ in 0..ROUNDS_PER_CLOCK_READ {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
            if started.elapsed() >= MAXIMUM_SPIN {
                return;
            }
        }
    }

    /// Notes the duration of a wait.
    pub fn learn(&mut self, waited: Duration) {
        self.pays = waited < MAXIMUM_SPIN;
    }
}
