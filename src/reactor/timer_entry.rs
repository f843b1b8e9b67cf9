//! The order of timers: by deadline, then as they were scheduled.

use std::cmp::Ordering;

/// An item with its deadline.
#[derive(Debug)]
pub struct Entry<T> {
    /// Seconds on the loop's clock.
    pub deadline: f64,
    /// Greater for what was scheduled later.
    pub sequence: u64,
    pub item: T,
}

impl<T> Entry<T> {
    /// By deadline, then in the order of scheduling.
    #[inline]
    pub fn order(&self, other: &Entry<T>) -> Ordering {
        self.deadline.total_cmp(&other.deadline).then(self.sequence.cmp(&other.sequence))
    }

    /// Whether this entry comes out before `other`.
    #[inline]
    pub fn precedes(&self, other: &Entry<T>) -> bool {
        self.order(other) == Ordering::Less
    }
}
