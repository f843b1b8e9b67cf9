//! Decides when to poll for a moment instead of going to sleep at once.
//!
//! Falling asleep and being woken costs CPU time, and an event that arrives meanwhile waits
//! for the wake-up. Spinning for at most twice the CPU time of a sleep is never much worse
//! than the better choice (the ski rental problem). Here it should actually be better, so a loop
//! spins only while that mostly finds an event. Peers that answer at once (on the same machine, in
//! another thread) are found this way; an idle loop, or one whose peers are distant, sleeps.

use std::time::Duration;

/// Maximum duration of a spin, in nanoseconds.
const MAXIMUM_SPIN: u64 = 50_000;

/// A sleep counts as short if it took at most this many times its own CPU time: an event that
/// a spin would have found is seen only after two wake-ups, the peer's and the loop's.
const SHORT_SLEEP_FACTOR: u64 = 8;

/// Consecutive short sleeps after which spinning is tried. The CPU time of all but the first
/// is measured.
const SHORT_SLEEPS_BEFORE_SPIN: u8 = 4;

/// A successful spin earns one credit; a fruitless one costs this many. Spinning stops at zero, so
/// one spin in six may be fruitless.
const FRUITLESS_SPIN_COST: u8 = 5;
/// Limit of the credit.
const MAXIMUM_CREDIT: u8 = 4 * FRUITLESS_SPIN_COST;

/// Sleeps that are ignored after the credit is used up. Doubled each time, up to
/// [`MAXIMUM_BACKOFF`].
const INITIAL_BACKOFF: u32 = 32;
/// Limit of the sleeps that are ignored after the credit is used up.
const MAXIMUM_BACKOFF: u32 = 8192;

/// How to wait for the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitStrategy {
    /// Sleep.
    Sleep,
    /// Sleep, and measure the CPU time of the sleep.
    MeasuredSleep,
    /// Poll for this long.
    Spin(Duration),
}

/// What a loop has learned about its sleeps; see the head of this module.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveSpin {
    /// Decaying maximum of the CPU time of one sleep, in nanoseconds; 0 if unknown.
    cost: u64,
    /// Consecutive short sleeps.
    short_sleeps: u8,
    credit: u8,
    /// Sleeps still to be ignored.
    backoff: u32,
    /// How many to ignore when the credit is used up again.
    next_backoff: u32,
}

impl Default for AdaptiveSpin {
    fn default() -> Self {
        Self { cost: 0, short_sleeps: 0, credit: 0, backoff: 0, next_backoff: INITIAL_BACKOFF }
    }
}

impl AdaptiveSpin {
    /// For sleeps whose CPU time is known and not measured.
    pub fn with_cost(cost: Duration) -> Self {
        Self { cost: u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX), ..Self::default() }
    }

    /// How to wait now.
    pub fn plan(&self) -> WaitStrategy {
        if self.credit != 0 {
            WaitStrategy::Spin(Duration::from_nanos((2 * self.cost).min(MAXIMUM_SPIN)))
        } else if self.short_sleeps != 0 {
            WaitStrategy::MeasuredSleep
        } else {
            WaitStrategy::Sleep
        }
    }

    /// Notes a sleep of `time` nanoseconds, its CPU time `cost` in nanoseconds if that was
    /// measured, and whether an `event` ended it.
    pub fn note_sleep(&mut self, time: u64, cost: Option<u64>, event: bool) {
        if let Some(cost) = cost {
            // Few sleeps are measured, and the larger values are those that found the processor
            // idle.
            self.cost = cost.max((3 * self.cost + cost) / 4);
        }
        if self.credit != 0 {
            // A sleep right after a fruitless spin says nothing.
        } else if self.backoff != 0 {
            self.backoff -= 1;
        } else if !event || time > self.short_sleep_limit() {
            self.short_sleeps = 0;
        } else {
            self.short_sleeps += 1;
            if self.short_sleeps >= SHORT_SLEEPS_BEFORE_SPIN && self.cost != 0 {
                self.short_sleeps = 0;
                self.credit = FRUITLESS_SPIN_COST;
            } else {
                self.short_sleeps = self.short_sleeps.min(SHORT_SLEEPS_BEFORE_SPIN);
            }
        }
    }

    /// Notes a spin, and whether it `found` an event.
    pub fn note_spin(&mut self, found: bool) {
        if found {
            self.credit = (self.credit + 1).min(MAXIMUM_CREDIT);
            if self.credit == MAXIMUM_CREDIT {
                self.next_backoff = INITIAL_BACKOFF;
            }
            return;
        }
        self.credit = self.credit.saturating_sub(FRUITLESS_SPIN_COST);
        if self.credit == 0 {
            self.backoff = self.next_backoff;
            self.next_backoff = (2 * self.next_backoff).min(MAXIMUM_BACKOFF);
        }
    }

    fn short_sleep_limit(&self) -> u64 {
        // The cost is still unknown.
        if self.cost == 0 {
            SHORT_SLEEP_FACTOR * MAXIMUM_SPIN / 2
        } else {
            SHORT_SLEEP_FACTOR * self.cost
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: u64 = 10_000;

    /// Sleeps for `time` until the plan is to spin; returns the number of sleeps.
    fn sleeps_until_spin(spin: &mut AdaptiveSpin, time: u64, at_most: u32) -> Option<u32> {
        for count in 0..at_most {
            let cost = match spin.plan() {
                WaitStrategy::Spin(_) => return Some(count),
                WaitStrategy::MeasuredSleep => Some(COST),
                WaitStrategy::Sleep => None,
            };
            spin.note_sleep(time, cost, true);
        }
        None
    }

    #[test]
    fn spins_after_short_sleeps_for_twice_their_cost() {
        let mut spin = AdaptiveSpin::default();
        assert_eq!(spin.plan(), WaitStrategy::Sleep);
        assert_eq!(
            sleeps_until_spin(&mut spin, 5 * COST, 100),
            Some(u32::from(SHORT_SLEEPS_BEFORE_SPIN))
        );
        assert_eq!(spin.plan(), WaitStrategy::Spin(Duration::from_nanos(2 * COST)));
        for _ in 0..100 {
            spin.note_spin(true);
        }
        assert_eq!(spin.plan(), WaitStrategy::Spin(Duration::from_nanos(2 * COST)));
    }

    #[test]
    fn never_after_long_sleeps_or_those_that_no_event_ended() {
        let mut spin = AdaptiveSpin::default();
        assert_eq!(sleeps_until_spin(&mut spin, 1_000_000, 10_000), None);
        for _ in 0..10_000 {
            spin.note_sleep(COST, Some(COST), false);
            assert!(!matches!(spin.plan(), WaitStrategy::Spin(_)));
        }
    }

    #[test]
    fn a_long_sleep_in_between_restarts_the_count() {
        let mut spin = AdaptiveSpin::default();
        for _ in 0..100 {
            assert_eq!(
                sleeps_until_spin(&mut spin, 2 * COST, u32::from(SHORT_SLEEPS_BEFORE_SPIN) - 1),
                None
            );
            spin.note_sleep(1_000_000, None, true);
        }
    }

    #[test]
    fn a_platform_that_does_not_report_the_cost_never_spins() {
        let mut spin = AdaptiveSpin::default();
        for _ in 0..1_000 {
            spin.note_sleep(1_000, None, true);
            assert!(!matches!(spin.plan(), WaitStrategy::Spin(_)));
        }
    }

    #[test]
    fn fruitless_spins_become_rare() {
        let mut spin = AdaptiveSpin::default();
        let mut spins = 0;
        for _ in 0..100_000 {
            if matches!(spin.plan(), WaitStrategy::Spin(_)) {
                spin.note_spin(false);
                spins += 1;
            }
            spin.note_sleep(5 * COST, Some(COST), true);
        }
        assert!((10..30).contains(&spins), "{spins}");
    }

    #[test]
    fn one_fruitless_spin_in_seven_is_tolerated_and_one_in_three_is_not() {
        for (period, tolerated) in [(7, true), (3, false)] {
            let mut spin = AdaptiveSpin::default();
            sleeps_until_spin(&mut spin, 5 * COST, 100).unwrap();
            for _ in 0..50 {
                spin.note_spin(true);
            }
            for number in 1..=300 {
                if matches!(spin.plan(), WaitStrategy::Spin(_)) {
                    spin.note_spin(number % period != 0);
                }
            }
            assert_eq!(
                matches!(spin.plan(), WaitStrategy::Spin(_)),
                tolerated,
                "one fruitless spin in {period}"
            );
        }
    }

    #[test]
    fn a_peer_that_becomes_fast_is_found_again() {
        let mut spin = AdaptiveSpin::default();
        sleeps_until_spin(&mut spin, 5 * COST, 100).unwrap();
        while matches!(spin.plan(), WaitStrategy::Spin(_)) {
            spin.note_spin(false);
        }
        let sleeps = sleeps_until_spin(&mut spin, 5 * COST, 1_000).unwrap();
        assert_eq!(sleeps, INITIAL_BACKOFF + u32::from(SHORT_SLEEPS_BEFORE_SPIN));
        for _ in 0..50 {
            spin.note_spin(true);
        }
        assert_eq!(spin.next_backoff, INITIAL_BACKOFF);
    }
}
