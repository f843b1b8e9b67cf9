//! What the thread of a loop does during a turn, from periodic observations by another thread.

use std::ops::Range;

use super::Progress;
use crate::sys::thread_usage::{self, Activity, Usage};

/// How a thread has spent a part of a turn. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// CPU time.
    pub cpu: u64,
    /// Time that it was ready to run while other threads had the processors, if known.
    pub run_delay: Option<u64>,
    /// How often it was found waiting for the GIL.
    pub seen_at_gil: u32,
    /// How often it was found waiting for anything else.
    pub seen_waiting: u32,
    /// The last system call in which it was found waiting for anything but the GIL.
    pub call: Option<i64>,
}

impl Spent {
    /// The time since an earlier reading of the same thread.
    pub fn between(before: Usage, after: Usage) -> Self {
        let run_delay = match (before.run_delay, after.run_delay) {
            (Some(before), Some(after)) => Some(after.saturating_sub(before)),
            _ => None,
        };
        Self { cpu: after.cpu.saturating_sub(before.cpu), run_delay, ..Self::default() }
    }
}

/// Observes the thread of one loop.
#[derive(Debug)]
pub struct Sampler {
    /// Where the interpreter has its locks, of which the GIL is the one that threads wait for.
    interpreter: Range<usize>,
    /// The kernel's number of the thread that runs the loop; 0 if unknown.
    thread: i32,
    /// The turn that is observed, and the thread's usage when that began.
    turn: Option<(u64, Usage)>,
    seen: Spent,
}

impl Sampler {
    /// Creates a sampler that takes a lock in `interpreter` for the GIL.
    pub fn new(interpreter: Range<usize>) -> Self {
        Self { interpreter, thread: 0, turn: None, seen: Spent::default() }
    }

    /// Sets the thread that runs the loop from now on.
    pub fn set_thread(&mut self, thread: i32) {
        self.thread = thread;
        self.turn = None;
    }

    /// Takes a sample.
    pub fn observe(&mut self, progress: Progress) {
        if !progress.busy || self.thread == 0 {
            self.turn = None;
            return;
        }
        if self.turn.is_some_and(|(turn, _)| turn == progress.turn) {
            self.count(thread_usage::activity(self.thread));
        } else {
            let usage = thread_usage::usage(self.thread);
            self.turn = usage.map(|usage| (progress.turn, usage));
            self.seen = Spent::default();
        }
    }

    fn count(&mut self, activity: Option<Activity>) {
        let Some(Activity::Calls(call, argument)) = activity else { return };
        if thread_usage::is_lock(call) && self.interpreter.contains(&argument) {
            self.seen.seen_at_gil += 1;
        } else {
            self.seen.seen_waiting += 1;
            self.seen.call = Some(call);
        }
    }

    /// How the thread has spent the turn that was observed last, up to now; `None` if unknown.
    pub fn spent(&self) -> Option<Spent> {
        let (_, began) = self.turn?;
        let spent = Spent::between(began, thread_usage::usage(self.thread)?);
        Some(Spent { cpu: spent.cpu, run_delay: spent.run_delay, ..self.seen })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn only_the_observed_turn_counts() {
        let metrics = Metrics::default();
        let mut sampler = Sampler::new(0x1000..0x2000);
        sampler.observe(metrics.progress());
        assert_eq!(sampler.spent(), None, "the loop does not run");
        metrics.run_begins(1);
        sampler.observe(metrics.progress());
        assert_eq!(sampler.spent(), None, "the thread is unknown");
        sampler.set_thread(thread_usage::current());
        sampler.observe(metrics.progress());
        assert!(sampler.spent().is_some());
        sampler.count(Some(Activity::Calls(libc::SYS_futex, 0x1800)));
        sampler.count(Some(Activity::Calls(libc::SYS_futex, 0x2800)));
        sampler.count(Some(Activity::Calls(libc::SYS_read, 0x1800)));
        sampler.count(Some(Activity::Runs));
        sampler.count(None);
        let spent = sampler.spent().expect("a turn");
        assert_eq!((spent.seen_at_gil, spent.seen_waiting), (1, 2));
        assert_eq!(spent.call, Some(libc::SYS_read));
        metrics.turns.add(1);
        sampler.observe(metrics.progress());
        assert_eq!(sampler.spent().expect("another turn").seen_waiting, 0);
        metrics.sleep_begins(5);
        sampler.observe(metrics.progress());
        assert_eq!(sampler.spent(), None);
    }
}
