//! How often a busy loop polls.

/// How many polls in a row must find nothing before turns leave them out. A program that yields a
/// few times to let the data arrive that it has just sent gets a poll for each.
const PATIENCE: u32 = 64;

/// The longest time between two polls, in nanoseconds: a hundred or more of the shortest turns, and
/// little compared to what a busy loop makes an event wait anyway.
const INTERVAL: u64 = 20_000;

/// Decides whether a turn with callbacks ready polls.
///
/// asyncio polls in each turn. A poll that finds nothing costs more than a short callback, and a
/// server with idle connections makes one per turn. After many of them in a row, polls are made once
/// in a while instead, until one finds an event or the program sends or watches something.
#[derive(Clone, Copy, Debug, Default)]
pub struct PollThrottle {
    fruitless: u32,
    polled_at: u64,
    activity: u64,
}

impl PollThrottle {
    /// Whether to poll now. `activity` is a number that changes whenever the program sends or watches
    /// something; `now` returns the time in nanoseconds.
    #[inline]
    pub fn is_due(&self, activity: u64, now: impl FnOnce() -> u64) -> bool {
        self.fruitless < PATIENCE
            || activity != self.activity
            || now().wrapping_sub(self.polled_at) >= INTERVAL
    }

    /// Notes a poll that ended at `now`.
    #[inline]
    pub fn note_poll(&mut self, found: bool, activity: u64, now: u64) {
        let unchanged = !found && activity == self.activity;
        self.fruitless = if unchanged { self.fruitless.saturating_add(1) } else { 0 };
        self.polled_at = now;
        self.activity = activity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patient() -> PollThrottle {
        let mut throttle = PollThrottle::default();
        for now in 0..PATIENCE {
            assert!(throttle.is_due(0, || unreachable!("the clock is not needed")));
            throttle.note_poll(false, 0, u64::from(now));
        }
        throttle
    }

    #[test]
    fn polls_in_each_turn_until_many_found_nothing() {
        let throttle = patient();
        assert!(!throttle.is_due(0, || u64::from(PATIENCE)));
    }

    #[test]
    fn polls_once_in_an_interval_then() {
        let mut throttle = patient();
        let last = u64::from(PATIENCE) - 1;
        assert!(!throttle.is_due(0, || last + INTERVAL - 1));
        assert!(throttle.is_due(0, || last + INTERVAL));
        throttle.note_poll(false, 0, last + INTERVAL);
        assert!(!throttle.is_due(0, || last + INTERVAL + 1));
    }

    #[test]
    fn polls_in_each_turn_again_after_an_event() {
        let mut throttle = patient();
        throttle.note_poll(true, 0, 100_000);
        assert!(throttle.is_due(0, || 100_001));
    }

    #[test]
    fn polls_at_once_after_the_program_has_sent_something() {
        let mut throttle = patient();
        assert!(throttle.is_due(1, || 64));
        throttle.note_poll(false, 1, 64);
        assert!(throttle.is_due(1, || 65));
    }
}
