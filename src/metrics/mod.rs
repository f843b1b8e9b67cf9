//! The counters that each loop always maintains. Contains no Python.
//!
//! Every number is a plain word, written with the GIL held and readable by any thread at any time:
//! a load, an add and a store, without a locked instruction. The numbers of one reading need not be
//! of the same instant.
//!
//! * `counter.rs`: the words;
//! * `histogram.rs`: the distribution of durations;
//! * `open.rs`: open transports, counted by guards;
//! * `stall.rs`: detects a loop that does not turn;
//! * `sampler.rs`: what its thread does meanwhile.

#![forbid(unsafe_code)]

mod counter;
mod histogram;
mod open;
mod sampler;
mod stall;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use counter::Counter;
pub use histogram::Histogram;
pub use open::{OpenGuard, TransportClass};
pub use sampler::{Sampler, Spent};
pub use stall::{Finding, StallDetector};

/// A busy loop that neither polls nor has timers reads the clock once in this many turns, if none
/// of them takes long.
const TURNS_BETWEEN_READINGS: u64 = 64;

/// After a turn that took longer, in nanoseconds, the next turn is measured individually: reading
/// the clock costs little compared to such turns.
const QUICK_TURN: u64 = 10_000;

/// A turn that took at least this many nanoseconds is reported to `tracing`.
const SLOW_TURN: u64 = 100_000_000;

/// Identifies a loop within the process: numbered from 0 in the order of creation, and never
/// reused.
pub struct LoopNumber(u64);

impl Default for LoopNumber {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl LoopNumber {
    /// The number.
    pub fn get(&self) -> u64 {
        self.0
    }
}

/// The metrics of one loop. Times are nanoseconds on the monotonic clock.
#[derive(Default)]
pub struct Metrics {
    /// Identifies the loop.
    pub number: LoopNumber,
    /// Number of turns begun.
    pub turns: Counter,
    /// Number of callbacks of any kind that were run, up to the end of the last turn.
    pub callbacks: Counter,
    /// How many of these were task steps.
    pub task_steps: Counter,
    /// Number of polls.
    pub polls: Counter,
    /// Maximum number of callbacks that were ready at the beginning of a turn.
    pub ready_max: Counter,
    /// Number of callbacks that debug mode, or a threshold that the program set, found slow.
    pub slow_callbacks: Counter,
    /// Number of calls of `call_soon_threadsafe()`.
    pub threadsafe_calls: Counter,
    /// Number of connections that servers accepted.
    pub accepts: Counter,
    /// Bytes that transports and `sock_*()` calls received.
    pub bytes_received: Counter,
    /// Bytes that they sent.
    pub bytes_sent: Counter,
    /// Number of open transports, by class.
    transports: [Counter; TransportClass::ALL.len()],
    /// Durations of the turns, excluding sleep.
    pub lag: Histogram,
    /// Time asleep, excluding the current sleep.
    idle: Counter,
    /// When the current sleep began; 0 while awake.
    idle_since: Counter,
    /// Time spent in completed runs.
    ran: Counter,
    /// When the current run began; 0 while not running.
    running_since: Counter,
    /// The last reading of the clock between two callbacks, and its turn.
    read_at: Counter,
    read_turn: Counter,
    /// Recent duration of a quick turn.
    usual_turn: Counter,
    /// Whether the turn measured last was quick. If not, the next one is measured individually.
    quick: Counter,
    /// The coarse clock is read in turns whose number has none of these bits set.
    sample_mask: Counter,
    /// The last reading of the coarse clock.
    coarse_at: Counter,
}

/// How a loop has spent its time, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Between the beginning and the end of its runs.
    pub running: u64,
    /// Asleep in the poller.
    pub idle: u64,
}

/// The progress of a loop, for a watchdog; read with relaxed loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Number of the current turn.
    pub turn: u64,
    /// Whether it runs callbacks or is about to: the loop runs and is not asleep.
    pub busy: bool,
    /// The last reading of the clock.
    pub read_at: u64,
    /// The turn of that reading.
    pub read_turn: u64,
    /// When the current sleep began; 0 while awake.
    pub idle_since: u64,
}

impl Metrics {
    /// The loop begins to run.
    pub fn run_begins(&self, now: u64) {
        self.running_since.set(now);
        self.set_reading(now);
    }

    /// The loop has stopped.
    pub fn run_ends(&self, now: u64) {
        self.note_turn(now);
        self.ran.add(now.saturating_sub(self.running_since.get()));
        self.running_since.set(0);
    }

    /// The loop is about to sleep.
    #[inline]
    pub fn sleep_begins(&self, now: u64) {
        self.note_turn(now);
        self.idle_since.set(now);
    }

    /// The loop is awake, though it may still wait for the GIL.
    #[inline]
    pub fn sleep_ends(&self, now: u64) {
        self.idle.add(now.saturating_sub(self.idle_since.get()));
        self.idle_since.set(0);
        self.set_reading(now);
    }

    /// Whether the loop should call [`Metrics::sample`], between two turns that neither polled nor
    /// had timers.
    #[inline(always)]
    pub fn wants_sample(&self) -> bool {
        self.turns.get() & self.sample_mask.get() == 0
    }

    /// Checks whether the last turns have taken long. `coarse` reads a clock that is much cheaper
    /// than `exact` and advances in steps of some milliseconds: while it has not advanced, none
    /// has.
    pub fn sample(&self, coarse: impl FnOnce() -> u64, exact: impl FnOnce() -> u64) {
        if self.quick.get() != 0 && self.turns.get() % TURNS_BETWEEN_READINGS != 0 {
            let coarse = coarse();
            if coarse == self.coarse_at.get() {
                return;
            }
            self.coarse_at.set(coarse);
        }
        self.note_turn(exact());
    }

    /// Attributes the time since the last reading of the clock to the turns since then; `now` was
    /// read between two callbacks.
    ///
    /// If the clock was not read for several turns, each gets an equal share, provided that this is
    /// the usual duration of a quick turn. Otherwise one of them gets the excess: had an earlier
    /// one taken long, the clock would have been read after it.
    #[inline]
    pub fn note_turn(&self, now: u64) {
        let elapsed = now.saturating_sub(self.read_at.get());
        let turns = self.turns.get().saturating_sub(self.read_turn.get());
        self.set_reading(now);
        let longest = if turns > 1 { self.note_quick_turns(elapsed, turns) } else { elapsed };
        self.lag.record(longest, 1);
        self.quick.set(u64::from(longest < QUICK_TURN));
        if longest >= QUICK_TURN {
            self.sample_mask.set(0);
            if longest >= SLOW_TURN {
                slow_turn(longest);
            }
            return;
        }
        self.usual_turn.set(longest.max(1));
        // Reading the clock must cost little compared to a turn. The first quick turns after slow
        // ones are treated as slow: the cause may recur.
        let mask = match longest {
            _ if turns < TURNS_BETWEEN_READINGS / 2 => 0,
            600.. => 0,
            300.. => 1,
            _ => 7,
        };
        self.sample_mask.set(mask);
    }

    /// Records all of several turns but the last. Returns the rest, which is that one's.
    #[inline]
    fn note_quick_turns(&self, elapsed: u64, turns: u64) -> u64 {
        let (share, usual_turn) = (elapsed / turns, self.usual_turn.get());
        let each = if share <= 4 * usual_turn { share } else { usual_turn };
        self.lag.record(each, turns - 1);
        elapsed - each * (turns - 1)
    }

    #[inline(always)]
    fn set_reading(&self, now: u64) {
        self.read_at.set(now);
        self.read_turn.set(self.turns.get());
    }

    /// How the time until `now` was spent.
    pub fn time(&self, now: u64) -> Time {
        let since = |began: &Counter| match began.get() {
            0 => 0,
            began => now.saturating_sub(began),
        };
        let idle = self.idle.get() + since(&self.idle_since);
        Time { running: (self.ran.get() + since(&self.running_since)).max(idle), idle }
    }

    /// The loop's progress.
    pub fn progress(&self) -> Progress {
        let idle_since = self.idle_since.get();
        Progress {
            turn: self.turns.get(),
            busy: self.running_since.get() != 0 && idle_since == 0,
            idle_since,
            read_at: self.read_at.get(),
            read_turn: self.read_turn.get(),
        }
    }

    /// Number of open transports of a class.
    pub fn open_transports(&self, class: TransportClass) -> u64 {
        self.transports[class as usize].get()
    }

    /// Counts a transport as open, until the guard is dropped.
    pub fn opened(self: &Arc<Self>, class: TransportClass) -> OpenGuard {
        OpenGuard::new(self.clone(), class)
    }
}

#[cold]
fn slow_turn(nanoseconds: u64) {
    let seconds = nanoseconds as f64 / 1e9;
    tracing::info!(target: "ferroloop::loop", seconds, "a turn of the loop took long");
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    #[test]
    fn idle_and_running_time_add_up() {
        let metrics = Metrics::default();
        metrics.run_begins(10 * SECOND);
        metrics.turns.add(1);
        metrics.sleep_begins(11 * SECOND);
        assert_eq!(metrics.time(14 * SECOND), Time { running: 4 * SECOND, idle: 3 * SECOND });
        assert!(!metrics.progress().busy);
        metrics.sleep_ends(15 * SECOND);
        assert!(metrics.progress().busy);
        assert_eq!(metrics.time(16 * SECOND), Time { running: 6 * SECOND, idle: 4 * SECOND });
        metrics.run_ends(17 * SECOND);
        assert!(!metrics.progress().busy);
        assert_eq!(metrics.time(99 * SECOND), Time { running: 7 * SECOND, idle: 4 * SECOND });
    }

    #[test]
    fn sleep_is_not_lag() {
        let metrics = Metrics::default();
        metrics.run_begins(SECOND);
        metrics.turns.add(1);
        metrics.sleep_begins(SECOND + 1000);
        metrics.sleep_ends(60 * SECOND);
        metrics.turns.add(1);
        metrics.sleep_begins(60 * SECOND + 3000);
        assert_eq!(metrics.lag.count(), 2);
        assert_eq!(metrics.lag.max(), 3000);
    }

    /// A loop whose last turn took a microsecond, at one second.
    fn quick() -> Metrics {
        let metrics = Metrics::default();
        metrics.run_begins(SECOND - 1000);
        metrics.turns.add(1);
        metrics.note_turn(SECOND);
        metrics
    }

    /// A turn at `now` that neither polls nor has timers. Both clocks are the same here.
    fn turn(metrics: &Metrics, now: u64) {
        metrics.turns.add(1);
        if metrics.wants_sample() {
            metrics.sample(|| now / (4 * MS), || now);
        }
    }

    #[test]
    fn quick_turns_without_a_reading_share_the_time() {
        let metrics = quick();
        metrics.turns.add(10);
        metrics.note_turn(SECOND + 20_000);
        assert_eq!(metrics.lag.count(), 11);
        assert_eq!(metrics.lag.max(), 2000);
        assert_eq!(metrics.lag.sum(), 21_000);
    }

    #[test]
    fn one_of_several_turns_gets_what_is_unusual() {
        let metrics = quick();
        metrics.turns.add(10);
        metrics.note_turn(2 * SECOND);
        assert_eq!(metrics.lag.count(), 11);
        assert_eq!(metrics.lag.max(), SECOND - 9000);
        assert_eq!(metrics.lag.sum(), SECOND + 1000);
    }

    #[test]
    fn stalls_in_a_row_are_told_apart() {
        // The last ones are so quick that the coarse clock is not read after each.
        for (quick_turns, nanoseconds) in [(0, 0), (1, 1000), (5, 1000), (200, 1000), (50, 100)] {
            let metrics = quick();
            let mut now = SECOND;
            for _ in 0..quick_turns {
                now += nanoseconds;
                turn(&metrics, now);
            }
            for _ in 0..6 {
                now += 150 * MS;
                turn(&metrics, now);
            }
            metrics.run_ends(now);
            let stalls = metrics.lag.buckets().filter(|(bound, _)| *bound > 140 * MS);
            assert_eq!(stalls.map(|(_, count)| count).sum::<u64>(), 6, "{quick_turns}");
        }
    }

    #[test]
    fn the_quicker_the_turns_the_fewer_the_looks_at_a_clock() {
        for (nanoseconds, looks) in [(100, 8), (400, 32), (1000, 64), (20_000, 64)] {
            let metrics = quick();
            let mut now = SECOND;
            for _ in 0..640 {
                now += nanoseconds;
                turn(&metrics, now);
            }
            let (readings, coarse) = (Counter::default(), Counter::default());
            for _ in 0..64 {
                metrics.turns.add(1);
                now += nanoseconds;
                if metrics.wants_sample() {
                    let standing_still = || {
                        coarse.add(1);
                        metrics.coarse_at.get()
                    };
                    metrics.sample(standing_still, || {
                        readings.add(1);
                        now
                    });
                }
            }
            assert_eq!(readings.get() + coarse.get(), looks, "{nanoseconds}");
            assert_eq!(readings.get() == 64, nanoseconds == 20_000, "{nanoseconds}");
        }
    }

    #[test]
    fn guards_count_what_is_open() {
        let metrics = Arc::new(Metrics::default());
        let first = metrics.opened(TransportClass::Stream);
        let second = metrics.opened(TransportClass::Stream);
        assert_eq!(metrics.open_transports(TransportClass::Stream), 2);
        assert_eq!(metrics.open_transports(TransportClass::Datagram), 0);
        drop(first);
        assert_eq!(metrics.open_transports(TransportClass::Stream), 1);
        drop(second);
        assert_eq!(metrics.open_transports(TransportClass::Stream), 0);
    }
}
