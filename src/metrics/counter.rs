//! A counter that one thread at a time writes and any thread reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number. Only a thread that holds the GIL writes it, or the loop's thread just before and after
/// a sleep: so no addition is lost although none is a locked instruction.
///
/// On free-threaded builds only the loop's thread writes it, except by the methods whose names say
/// that any thread may call them.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The current value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Overwrites it.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `amount`.
    #[inline(always)]
    pub fn add(&self, amount: u64) {
        self.set(self.get().wrapping_add(amount));
    }

    /// Subtracts `amount`.
    #[inline(always)]
    pub fn subtract(&self, amount: u64) {
        self.set(self.get().wrapping_sub(amount));
    }

    /// As [`Counter::add`], for a counter that other threads than the loop's change as well.
    #[inline(always)]
    pub fn add_by_any_thread(&self, amount: u64) {
        if cfg!(Py_GIL_DISABLED) {
            self.0.fetch_add(amount, Ordering::Relaxed);
        } else {
            self.add(amount);
        }
    }

    /// As [`Counter::subtract`], for a counter that other threads than the loop's change as well.
    #[inline(always)]
    pub fn subtract_by_any_thread(&self, amount: u64) {
        if cfg!(Py_GIL_DISABLED) {
            self.0.fetch_sub(amount, Ordering::Relaxed);
        } else {
            self.subtract(amount);
        }
    }

    /// Raises it to `value` if it is lower.
    #[inline(always)]
    pub fn raise_to(&self, value: u64) {
        if value > self.get() {
            self.set(value);
        }
    }
}
