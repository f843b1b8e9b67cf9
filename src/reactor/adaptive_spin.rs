//! When to poll for a moment instead of going to sleep at once.
//!
//! To fall asleep and to be woken takes processor time, and what arrives meanwhile waits for the
//! wake-up. Who polls instead for at most twice the processor time of a sleep is never far behind
//! the better choice, whatever happens (the ski rental problem). Here it must be better in fact: a
//! loop spins only while that mostly finds something. Peers that answer at once (on the same
//! machine, in another thread) are found so; an idle loop, and one whose peers are far, sleeps.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Nanoseconds of a spin, at most.
const LONGEST: u64 = 50_000;

/// A sleep was short if it took at most so many times its own processor time: an event that a
/// spin would have found is seen only after two wake-ups, the peer's and the loop's.
const SHORT: u64 = 8;

/// Short sleeps in a row after which spinning is tried. Their processor time is measured but for
/// the first.
const TRIES_AFTER: u8 = 4;

/// Spinning goes on while there is credit: a find earns one, a spin in vain costs so much.
/// One spin of six may be in vain.
const IN_VAIN: u8 = 5;
const MOST_CREDIT: u8 = 4 * IN_VAIN;

/// Sleeps that are not looked at after the credit is used up: at first, and after several times.
const FIRST_REST: u32 = 32;
const LONGEST_REST: u32 = 8192;

/// What to do until the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Sleep.
    Sleep,
    /// Sleep, and measure the processor time that it takes.
    MeasuredSleep,
    /// Poll for so long.
    Spin(Duration),
}

/// What a loop has learned of its sleeps. See the module's description.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveSpin {
    /// Processor time of one sleep in nanoseconds: up at once, down by and by. 0 if not known.
    cost: u64,
    /// Short sleeps in a row.
    short: u8,
    credit: u8,
    rest: u32,
    next_rest: u32,
}

impl Default for AdaptiveSpin {
    fn default() -> Self {
        Self { cost: 0, short: 0, credit: 0, rest: 0, next_rest: FIRST_REST }
    }
}

impl AdaptiveSpin {
    /// How to wait now.
    pub fn plan(&self) -> Wait {
        if self.credit != 0 {
            Wait::Spin(Duration::from_nanos((2 * self.cost).min(LONGEST)))
        } else if self.short != 0 {
            Wait::MeasuredSleep
        } else {
            Wait::Sleep
        }
    }

    /// Notes a sleep of `time` nanoseconds that took `cost` of processor time, if that was
    /// measured, and whether an `event` ended it.
    pub fn slept(&mut self, time: u64, cost: Option<u64>, event: bool) {
        if let Some(cost) = cost {
            // Few are measured: the larger ones are those that found the processor asleep.
            self.cost = cost.max((3 * self.cost + cost) / 4);
        }
        if self.credit != 0 {
            // After a spin in vain.
        } else if self.rest != 0 {
            self.rest -= 1;
        } else if !event || time > self.longest_short() {
            self.short = 0;
        } else {
            self.short += 1;
            if self.short >= TRIES_AFTER && self.cost != 0 {
                self.short = 0;
                self.credit = IN_VAIN;
            } else {
                self.short = self.short.min(TRIES_AFTER);
            }
        }
    }

    /// Notes a spin, and whether it has `found` something.
    pub fn spun(&mut self, found: bool) {
        if found {
            self.credit = (self.credit + 1).min(MOST_CREDIT);
            if self.credit == MOST_CREDIT {
                self.next_rest = FIRST_REST;
            }
            return;
        }
        self.credit = self.credit.saturating_sub(IN_VAIN);
        if self.credit == 0 {
            self.rest = self.next_rest;
            self.next_rest = (2 * self.next_rest).min(LONGEST_REST);
        }
    }

    fn longest_short(&self) -> u64 {
        // Before a cost is known.
        if self.cost == 0 { SHORT * LONGEST / 2 } else { SHORT * self.cost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: u64 = 10_000;

    /// Sleeps of `time` until the plan is to spin; answers how many.
    fn sleeps_until_spin(spin: &mut AdaptiveSpin, time: u64, at_most: u32) -> Option<u32> {
        for count in 0..at_most {
            let cost = match spin.plan() {
                Wait::Spin(_) => return Some(count),
                Wait::MeasuredSleep => Some(COST),
                Wait::Sleep => None,
            };
            spin.slept(time, cost, true);
        }
        None
    }

    #[test]
    fn spins_after_short_sleeps_for_twice_their_cost() {
        let mut spin = AdaptiveSpin::default();
        assert_eq!(spin.plan(), Wait::Sleep);
        assert_eq!(sleeps_until_spin(&mut spin, 5 * COST, 100), Some(u32::from(TRIES_AFTER)));
        assert_eq!(spin.plan(), Wait::Spin(Duration::from_nanos(2 * COST)));
        for _ in 0..100 {
            spin.spun(true);
        }
        assert_eq!(spin.plan(), Wait::Spin(Duration::from_nanos(2 * COST)));
    }

    #[test]
    fn never_after_long_sleeps_or_such_as_no_event_ended() {
        let mut spin = AdaptiveSpin::default();
        assert_eq!(sleeps_until_spin(&mut spin, 1_000_000, 10_000), None);
        for _ in 0..10_000 {
            spin.slept(COST, Some(COST), false);
            assert!(!matches!(spin.plan(), Wait::Spin(_)));
        }
    }

    #[test]
    fn a_long_sleep_in_between_begins_the_count_anew() {
        let mut spin = AdaptiveSpin::default();
        for _ in 0..100 {
            assert_eq!(sleeps_until_spin(&mut spin, 2 * COST, u32::from(TRIES_AFTER) - 1), None);
            spin.slept(1_000_000, None, true);
        }
    }

    #[test]
    fn a_platform_that_does_not_tell_the_cost_never_spins() {
        let mut spin = AdaptiveSpin::default();
        for _ in 0..1_000 {
            spin.slept(1_000, None, true);
            assert!(!matches!(spin.plan(), Wait::Spin(_)));
        }
    }

    #[test]
    fn spins_in_vain_become_rare() {
        let mut spin = AdaptiveSpin::default();
        let mut spins = 0;
        for _ in 0..100_000 {
            if matches!(spin.plan(), Wait::Spin(_)) {
                spin.spun(false);
                spins += 1;
            }
            spin.slept(5 * COST, Some(COST), true);
        }
        assert!((10..30).contains(&spins), "{spins}");
    }

    #[test]
    fn one_of_seven_in_vain_is_borne_and_one_of_three_is_not() {
        for (period, borne) in [(7, true), (3, false)] {
            let mut spin = AdaptiveSpin::default();
            sleeps_until_spin(&mut spin, 5 * COST, 100).unwrap();
            for _ in 0..50 {
                spin.spun(true);
            }
            for number in 1..=300 {
                if matches!(spin.plan(), Wait::Spin(_)) {
                    spin.spun(number % period != 0);
                }
            }
            assert_eq!(matches!(spin.plan(), Wait::Spin(_)), borne, "one of {period} in vain");
        }
    }

    #[test]
    fn a_peer_that_comes_near_is_found_again() {
        let mut spin = AdaptiveSpin::default();
        sleeps_until_spin(&mut spin, 5 * COST, 100).unwrap();
        while matches!(spin.plan(), Wait::Spin(_)) {
            spin.spun(false);
        }
        let sleeps = sleeps_until_spin(&mut spin, 5 * COST, 1_000).unwrap();
        assert_eq!(sleeps, FIRST_REST + u32::from(TRIES_AFTER));
        for _ in 0..50 {
            spin.spun(true);
        }
        assert_eq!(spin.next_rest, FIRST_REST);
    }
}
