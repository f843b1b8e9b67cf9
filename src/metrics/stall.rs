//! Distinguishes a loop that does not turn from one that sleeps, from periodic readings of its
//! metrics.

use super::Progress;

/// The result of a check. Times are nanoseconds on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing has changed.
    Nothing,
    /// A turn has lasted longer than the threshold; reported once per turn.
    Stalled {
        /// When its callbacks began, as far as known.
        since: u64,
    },
    /// A turn that was reported has ended.
    Ended {
        /// As reported.
        since: u64,
        /// When it ended, or a little later.
        until: u64,
    },
}

/// Observes one loop.
#[derive(Debug)]
pub struct StallDetector {
    threshold: u64,
    /// The turn whose callbacks are running, if any, and when they began.
    busy: Option<(u64, u64)>,
    reported: bool,
}

impl StallDetector {
    /// Creates a detector of turns that last at least `threshold` nanoseconds.
    pub fn new(threshold: u64) -> Self {
        Self { threshold, busy: None, reported: false }
    }

    /// Checks the loop at time `now`, in nanoseconds. Must be called several times within the
    /// threshold.
    pub fn check(&mut self, progress: Progress, now: u64) -> Finding {
        let same_turn = self.busy.filter(|(turn, _)| progress.busy && *turn == progress.turn);
        if let Some((_, since)) = same_turn {
            if !self.reported && now.saturating_sub(since) >= self.threshold {
                self.reported = true;
                return Finding::Stalled { since };
            }
            return Finding::Nothing;
        }
        let before = self.busy.take();
        let reported = std::mem::take(&mut self.reported);
        if progress.busy {
            // The reading is from this turn if it polled or has timers; otherwise the turn began
            // after the last check.
            let read_now = progress.read_turn == progress.turn;
            self.busy = Some((progress.turn, if read_now { progress.read_at } else { now }));
        }
        match before {
            Some((turn, since)) if reported => {
                let until =
                    if !progress.busy && progress.idle_since != 0 && progress.turn == turn + 1 {
                        progress.idle_since
                    } else if progress.read_turn == turn + 1 {
                        progress.read_at
                    } else {
                        now
                    };
                Finding::Ended { since, until: until.clamp(since, now.max(since)) }
            }
            _ => Finding::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    const MS: u64 = 1_000_000;
    const THRESHOLD: u64 = 100 * MS;

    /// A loop that began to run and fell asleep at 1 ms.
    fn sleeping() -> Metrics {
        let metrics = Metrics::default();
        metrics.run_begins(MS);
        metrics.turns.add(1);
        metrics.sleep_begins(MS);
        metrics
    }

    #[test]
    fn sleep_is_no_stall() {
        let metrics = sleeping();
        let mut detector = StallDetector::new(THRESHOLD);
        for now in (0..1000).map(|n| n * 25 * MS) {
            assert_eq!(detector.check(metrics.progress(), now), Finding::Nothing);
        }
    }

    #[test]
    fn a_long_turn_is_told_once_and_so_is_its_end() {
        let metrics = sleeping();
        let mut detector = StallDetector::new(THRESHOLD);
        assert_eq!(detector.check(metrics.progress(), 25 * MS), Finding::Nothing);
        metrics.sleep_ends(40 * MS);
        for now in [50, 75, 100, 125] {
            assert_eq!(detector.check(metrics.progress(), now * MS), Finding::Nothing);
        }
        let since = 40 * MS;
        assert_eq!(detector.check(metrics.progress(), 150 * MS), Finding::Stalled { since });
        assert_eq!(detector.check(metrics.progress(), 175 * MS), Finding::Nothing);
        metrics.turns.add(1);
        metrics.sleep_begins(180 * MS);
        let until = 180 * MS;
        assert_eq!(detector.check(metrics.progress(), 200 * MS), Finding::Ended { since, until });
        assert_eq!(detector.check(metrics.progress(), 225 * MS), Finding::Nothing);
    }

    #[test]
    fn a_stall_after_another_is_told_too() {
        let metrics = sleeping();
        let mut detector = StallDetector::new(THRESHOLD);
        metrics.sleep_ends(2 * MS);
        assert_eq!(detector.check(metrics.progress(), 10 * MS), Finding::Nothing);
        let first = detector.check(metrics.progress(), 110 * MS);
        assert_eq!(first, Finding::Stalled { since: 2 * MS });
        metrics.turns.add(1);
        metrics.note_turn(115 * MS);
        let over = Finding::Ended { since: 2 * MS, until: 115 * MS };
        assert_eq!(detector.check(metrics.progress(), 120 * MS), over);
        let second = detector.check(metrics.progress(), 220 * MS);
        assert_eq!(second, Finding::Stalled { since: 115 * MS });
    }

    #[test]
    fn many_short_turns_are_no_stall() {
        let metrics = sleeping();
        metrics.sleep_ends(2 * MS);
        let mut detector = StallDetector::new(THRESHOLD);
        for now in (1..400).map(|n| n * 25 * MS) {
            metrics.turns.add(1000);
            assert_eq!(detector.check(metrics.progress(), now), Finding::Nothing);
        }
    }

    #[test]
    fn a_run_that_ends_ends_the_stall() {
        let metrics = sleeping();
        metrics.sleep_ends(2 * MS);
        let mut detector = StallDetector::new(THRESHOLD);
        assert_eq!(detector.check(metrics.progress(), 3 * MS), Finding::Nothing);
        let stalled = detector.check(metrics.progress(), 200 * MS);
        assert_eq!(stalled, Finding::Stalled { since: 2 * MS });
        metrics.run_ends(210 * MS);
        let over = detector.check(metrics.progress(), 225 * MS);
        assert_eq!(over, Finding::Ended { since: 2 * MS, until: 225 * MS });
    }
}
