//! The loop's clock.

use crate::sys::time;

/// The resolution of [`monotonic`], in seconds.
pub const RESOLUTION: f64 = 1e-9;

/// Seconds on the monotonic clock, exactly the values of Python's `time.monotonic()`.
#[inline]
pub fn monotonic() -> f64 {
    // One rounding to f64 and one division, as Python does it.
    seconds(nanoseconds())
}

/// Nanoseconds on the clock of [`monotonic`].
#[inline]
pub fn nanoseconds() -> u64 {
    time::monotonic_nanoseconds()
}

/// Converts a time in nanoseconds to what [`monotonic`] returns at that time.
#[inline]
pub fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Nanoseconds on a monotonic clock that is cheaper to read than [`monotonic`] and advances only
/// every few milliseconds: for detecting that time has passed, not for measuring it.
#[inline]
pub fn coarse_tick() -> u64 {
    time::coarse_nanoseconds()
}

/// The CPU time of the calling thread in nanoseconds; `None` if the platform does not report it. A
/// system call.
pub fn thread_nanoseconds() -> Option<u64> {
    time::thread_nanoseconds()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn advances_with_real_time() {
        let (start, coarse_start) = (monotonic(), coarse_tick());
        std::thread::sleep(Duration::from_millis(30));
        let (elapsed, coarse_elapsed) = (monotonic() - start, coarse_tick() - coarse_start);
        assert!(elapsed >= 0.03, "{elapsed}");
        assert!(coarse_elapsed >= 10_000_000, "{coarse_elapsed}");
    }

    #[test]
    fn never_goes_back() {
        let mut previous = monotonic();
        for _ in 0..10_000 {
            let now = monotonic();
            assert!(now >= previous);
            previous = now;
        }
    }

    #[test]
    fn a_thread_that_sleeps_uses_no_processor_time() {
        let Some(before) = thread_nanoseconds() else { return };
        std::thread::sleep(Duration::from_millis(30));
        let slept = thread_nanoseconds().unwrap() - before;
        assert!(slept < 20_000_000, "{slept}");
        let started = nanoseconds();
        while nanoseconds() - started < 30_000_000 {}
        assert!(thread_nanoseconds().unwrap() - before > slept + 1_000_000);
    }

    #[test]
    fn both_clocks_have_one_origin() {
        let before = coarse_tick() as f64 / 1e9;
        assert!((monotonic() - before).abs() < 5.0);
    }
}
