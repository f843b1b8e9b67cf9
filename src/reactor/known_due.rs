//! Tells without reading the clock whether all timers are due: a program that calls `call_later(0)`
//! has read it a moment ago.

/// What is known about the deadlines of some timers, in seconds.
#[derive(Debug)]
pub struct KnownDue {
    /// None of the timers has a later deadline.
    latest_deadline: f64,
    /// Deadlines before this have passed.
    passed: f64,
}

impl KnownDue {
    /// Nothing is known to have passed.
    pub const fn new() -> Self {
        Self { latest_deadline: f64::NEG_INFINITY, passed: f64::NEG_INFINITY }
    }

    /// Notes the deadline of one more timer, which `is_only_one` if the others have gone.
    #[inline]
    pub fn note_deadline(&mut self, deadline: f64, is_only_one: bool) {
        if is_only_one || deadline > self.latest_deadline {
            self.latest_deadline = deadline;
        }
    }

    /// Notes that deadlines before `end_time` have passed.
    #[inline]
    pub fn note_passed(&mut self, end_time: f64) {
        self.passed = end_time;
    }

    /// Whether all timers are due. `false` if that is not known.
    #[inline]
    pub fn are_all_due(&self) -> bool {
        self.latest_deadline < self.passed
    }
}

#[cfg(test)]
mod tests {
    use super::super::Timers;

    fn pop_all<T>(timers: &mut Timers<T>) -> Vec<T> {
        std::iter::from_fn(|| timers.pop_due(f64::INFINITY, |_| false)).collect()
    }

    #[test]
    fn all_are_known_due_only_while_none_is_later() {
        let mut timers = Timers::new();
        timers.note_passed(5.0);
        assert!(!timers.are_known_due(), "there are none");
        timers.push(4.0, "first");
        timers.push(3.0, "second");
        assert!(timers.are_known_due());
        timers.push(5.0, "not yet");
        assert!(!timers.are_known_due());
        timers.note_passed(5.1);
        assert!(timers.are_known_due());
        assert_eq!(pop_all(&mut timers), ["second", "first", "not yet"]);
        assert!(!timers.are_known_due());
        timers.push(6.0, "later");
        assert!(!timers.are_known_due());
        assert_eq!(pop_all(&mut timers), ["later"]);
        timers.push(1.0, "an early one, when the late one has gone");
        assert!(timers.are_known_due());
        timers.push(f64::INFINITY, "never");
        assert!(!timers.are_known_due());
        timers.note_passed(f64::MAX);
        assert!(!timers.are_known_due());
    }
}
