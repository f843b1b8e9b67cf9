//! Distributions of durations in log-linear buckets, a few words each.
//!
//! Each power of two of nanoseconds is divided into [`STEPS`] equal buckets, so the relative error
//! of a value is at most an eighth, from a microsecond to more than a minute.

use super::Counter;

/// Buckets per power of two.
const STEPS: u64 = 8;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Values below `2 ** FIRST` nanoseconds share the first bucket.
const FIRST: u32 = 10;
/// Values of `2 ** LAST` nanoseconds and more share the last one.
const LAST: u32 = 37;
const BUCKETS: usize = ((LAST - FIRST) as usize) * STEPS as usize + 2;

/// Counts of durations in nanoseconds.
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
    max: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            sum: Counter::default(),
            max: Counter::default(),
        }
    }
}

/// The bucket of a value.
#[inline(always)]
fn bucket(value: u64) -> usize {
    let power = 63 - (value | 1).leading_zeros();
    if power < FIRST {
        return 0;
    }
    if power >= LAST {
        return BUCKETS - 1;
    }
    let step = (value >> (power - STEP_BITS)) & (STEPS - 1);
    1 + (power - FIRST) as usize * STEPS as usize + step as usize
}

/// The smallest value above those of a bucket; `u64::MAX` for the last one.
fn upper_bound(bucket: usize) -> u64 {
    if bucket == BUCKETS - 1 {
        return u64::MAX;
    }
    let step = bucket as u64 % STEPS;
    let power = FIRST + (bucket as u64 / STEPS) as u32;
    (1 << power) + step * (1 << (power - STEP_BITS))
}

impl Histogram {
    /// Records `value`, in nanoseconds, `count` times.
    #[inline(always)]
    pub fn record(&self, value: u64, count: u64) {
        self.buckets[bucket(value)].add(count);
        self.sum.add(value.wrapping_mul(count));
        self.max.raise_to(value);
    }

    /// The number of recorded values.
    #[cfg(test)]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// The sum of the recorded values, in nanoseconds.
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// The greatest recorded value, in nanoseconds.
    pub fn max(&self) -> u64 {
        self.max.get()
    }

    /// `(upper bound in nanoseconds, count)` of each bucket in use, in ascending order. The bound
    /// of the last one is `u64::MAX`, for no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets
            .iter()
            .enumerate()
            .map(|(index, count)| (upper_bound(index), count.get()))
            .filter(|(_, count)| *count != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_below_its_bound_and_not_below_the_one_before() {
        let mut values: Vec<u64> = (0..64).map(|power| 1 << power).collect();
        values.extend((0..64).map(|power| (1u64 << power) - 1));
        values.extend((1..5000).map(|n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        values.extend((0..5000).map(|n: u64| n * n * 17));
        values.push(u64::MAX);
        for value in values {
            let index = bucket(value);
            assert!(value < upper_bound(index) || index == BUCKETS - 1, "{value} in {index}");
            if index > 0 {
                assert!(value >= upper_bound(index - 1), "{value} in {index}");
            }
        }
    }

    #[test]
    fn bounds_ascend_and_are_close() {
        let bounds: Vec<u64> = (0..BUCKETS).map(upper_bound).collect();
        assert_eq!(bounds[0], 1024);
        assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
        let finite = &bounds[..BUCKETS - 1];
        assert!(finite.windows(2).all(|pair| (pair[1] - pair[0]) * STEPS <= pair[0]));
        assert!(*finite.last().expect("not empty") > 60_000_000_000);
    }

    #[test]
    fn counts_sums_and_keeps_the_greatest() {
        let histogram = Histogram::default();
        histogram.record(500, 3);
        histogram.record(2_000_000, 1);
        histogram.record(1_999_999, 1);
        assert_eq!(histogram.count(), 5);
        assert_eq!(histogram.sum(), 1500 + 3_999_999);
        assert_eq!(histogram.max(), 2_000_000);
        let used: Vec<_> = histogram.buckets().collect();
        assert_eq!(used[0], (1024, 3));
        assert_eq!(used.iter().map(|(_, count)| count).sum::<u64>(), 5);
    }
}
