//! Whether an idle worker spins for a moment before it goes to sleep.
//!
//! Being woken costs two system calls and tens of microseconds. A program that sends one small
//! job after the other pays that for each; a worker that looks for the next job a little longer
//! saves it. Spinning is only tried while it pays: after a wait that was shorter than the time
//! it may take, and never on a machine with one processor.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

/// Longest time to spin, and longest wait after which spinning is tried again.
const LIMIT: Duration = Duration::from_micros(50);

/// Between two readings of the clock.
const ROUNDS: u32 = 32;

static SEVERAL_PROCESSORS: Lazy<bool> =
    Lazy::new(|| std::thread::available_parallelism().is_ok_and(|count| count.get() > 1));

/// What one worker learned from its last wait.
#[derive(Default)]
pub struct Spin {
    pays: bool,
}

impl Spin {
    /// Whether the wait that begins now should begin with spinning.
    pub fn pays(&self) -> bool {
        self.pays && *SEVERAL_PROCESSORS
    }

    /// Looks at `ready` for at most [`LIMIT`].
    pub fn until(started: Instant, ready: impl Fn() -> bool) {
        loop {
            for _ in 0..ROUNDS {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
            if started.elapsed() >= LIMIT {
                return;
            }
        }
    }

    /// Notes how long the wait was.
    pub fn learn(&mut self, waited: Duration) {
        self.pays = waited < LIMIT;
    }
}
