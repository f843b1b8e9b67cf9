//! Telling a loop that does not turn from one that sleeps, from looks at its counters.

#![forbid(unsafe_code)]

use super::Pulse;

/// What a look found. Times are nanoseconds on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing new.
    Nothing,
    /// A turn has lasted for longer than the threshold; told once a turn.
    Stalled {
        /// When its callbacks began, as far as is known.
        since: u64,
    },
    /// A turn that was told of is over.
    Over {
        /// As told.
        since: u64,
        /// When it ended, or a little later.
        until: u64,
    },
}

/// Follows one loop.
#[derive(Debug)]
pub struct StallDetector {
    threshold: u64,
    /// The turn whose callbacks run, if any do, and when they began.
    busy: Option<(u64, u64)>,
    told: bool,
}

impl StallDetector {
    /// For turns that last longer than so many nanoseconds.
    pub fn new(threshold: u64) -> Self {
        Self { threshold, busy: None, told: false }
    }

    /// Looks at the loop. Call it several times within the threshold.
    pub fn look(&mut self, pulse: Pulse, now: u64) -> Finding {
        if let Some((turn, since)) = self.busy
            && pulse.busy
            && turn == pulse.turn
        {
            if !self.told && now.saturating_sub(since) >= self.threshold {
                self.told = true;
                return Finding::Stalled { since };
            }
            return Finding::Nothing;
        }
        let before = self.busy.take();
        let told = std::mem::take(&mut self.told);
        if pulse.busy {
            // The reading is of this turn if it polled or has timers; else it began since the
            // last look.
            let read_now = pulse.read_turn == pulse.turn;
            self.busy = Some((pulse.turn, if read_now { pulse.read_at } else { now }));
        }
        match before {
            Some((turn, since)) if told => {
                let until = if !pulse.busy && pulse.idle_since != 0 && pulse.turn == turn + 1 {
                    pulse.idle_since
                } else if pulse.read_turn == turn + 1 {
                    pulse.read_at
                } else {
                    now
                };
                Finding::Over { since, until: until.clamp(since, now.max(since)) }
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

    /// A loop that began to run and to sleep at 1 ms.
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
            assert_eq!(detector.look(metrics.pulse(), now), Finding::Nothing);
        }
    }

    #[test]
    fn a_long_turn_is_told_once_and_so_is_its_end() {
        let metrics = sleeping();
        let mut detector = StallDetector::new(THRESHOLD);
        assert_eq!(detector.look(metrics.pulse(), 25 * MS), Finding::Nothing);
        metrics.sleep_ends(40 * MS);
        for now in [50, 75, 100, 125] {
            assert_eq!(detector.look(metrics.pulse(), now * MS), Finding::Nothing);
        }
        let since = 40 * MS;
        assert_eq!(detector.look(metrics.pulse(), 150 * MS), Finding::Stalled { since });
        assert_eq!(detector.look(metrics.pulse(), 175 * MS), Finding::Nothing);
        metrics.turns.add(1);
        metrics.sleep_begins(180 * MS);
        let until = 180 * MS;
        assert_eq!(detector.look(metrics.pulse(), 200 * MS), Finding::Over { since, until });
        assert_eq!(detector.look(metrics.pulse(), 225 * MS), Finding::Nothing);
    }

    #[test]
    fn a_stall_after_another_is_told_too() {
        let metrics = sleeping();
        let mut detector = StallDetector::new(THRESHOLD);
        metrics.sleep_ends(2 * MS);
        assert_eq!(detector.look(metrics.pulse(), 10 * MS), Finding::Nothing);
        let first = detector.look(metrics.pulse(), 110 * MS);
        assert_eq!(first, Finding::Stalled { since: 2 * MS });
        metrics.turns.add(1);
        metrics.note_turn(115 * MS);
        let over = Finding::Over { since: 2 * MS, until: 115 * MS };
        assert_eq!(detector.look(metrics.pulse(), 120 * MS), over);
        let second = detector.look(metrics.pulse(), 220 * MS);
        assert_eq!(second, Finding::Stalled { since: 115 * MS });
    }

    #[test]
    fn many_short_turns_are_no_stall() {
        let metrics = sleeping();
        metrics.sleep_ends(2 * MS);
        let mut detector = StallDetector::new(THRESHOLD);
        for now in (1..400).map(|n| n * 25 * MS) {
            metrics.turns.add(1000);
            assert_eq!(detector.look(metrics.pulse(), now), Finding::Nothing);
        }
    }

    #[test]
    fn a_run_that_ends_ends_the_stall() {
        let metrics = sleeping();
        metrics.sleep_ends(2 * MS);
        let mut detector = StallDetector::new(THRESHOLD);
        assert_eq!(detector.look(metrics.pulse(), 3 * MS), Finding::Nothing);
        let stalled = detector.look(metrics.pulse(), 200 * MS);
        assert_eq!(stalled, Finding::Stalled { since: 2 * MS });
        metrics.run_ends(210 * MS);
        let over = detector.look(metrics.pulse(), 225 * MS);
        assert_eq!(over, Finding::Over { since: 2 * MS, until: 225 * MS });
    }
}
