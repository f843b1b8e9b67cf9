//! A mutex whose holder may not exist in a forked child.

use std::time::Duration;

use crate::sys::fork::Generation;
use crate::sys::sync::{Mutex, MutexGuard, PoisonError, TryLockError, sleep};

/// How often a forked child tries to take the lock, and how long it sleeps between two attempts.
/// Together they are much longer than a thread that exists holds the lock.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// A mutex that threads hold only briefly. It ignores poisoning: a panic while the lock is held must
/// leave no update incomplete.
pub(crate) struct ForkSafeMutex<T> {
    mutex: Mutex<T>,
    generation: Generation,
}

impl<T> ForkSafeMutex<T> {
    /// A mutex of this process.
    pub(crate) fn new(value: T) -> Self {
        Self { mutex: Mutex::new(value), generation: Generation::current() }
    }

    /// Whether this process created the mutex.
    #[inline]
    pub(crate) fn is_own(&self) -> bool {
        self.generation.is_current()
    }

    /// Locks the mutex. `None` in a forked child if a thread of the parent held the lock at the fork.
    #[inline]
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, T>> {
        if self.is_own() {
            Some(self.mutex.lock().unwrap_or_else(PoisonError::into_inner))
        } else {
            self.lock_in_child()
        }
    }

    #[cold]
    fn lock_in_child(&self) -> Option<MutexGuard<'_, T>> {
        for _ in 0..ATTEMPTS {
            match self.mutex.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => sleep(PAUSE),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sys::fork::tests::{holds_in_child, while_other_thread};

    #[test]
    fn a_child_takes_a_free_lock() {
        let mutex = ForkSafeMutex::new(1);
        assert!(mutex.is_own());
        assert!(holds_in_child(|| !mutex.is_own() && *mutex.lock().unwrap() == 1));
        *mutex.lock().unwrap() = 2;
        assert!(holds_in_child(|| *mutex.lock().unwrap() == 2));
    }

    #[test]
    fn a_child_gives_up_a_lock_that_another_thread_held_at_the_fork() {
        let mutex = ForkSafeMutex::new(1);
        let hold = |inside: &dyn Fn()| {
            let _guard = mutex.lock();
            inside();
        };
        while_other_thread(hold, || {
            let started = Instant::now();
            assert!(holds_in_child(|| mutex.lock().is_none()));
            assert!(started.elapsed() >= ATTEMPTS * PAUSE);
        });
        assert!(mutex.lock().is_some());
    }

    #[test]
    fn a_panic_does_not_lock_it_forever() {
        let mutex = ForkSafeMutex::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = mutex.lock();
            panic!("with the lock held");
        }));
        assert!(panicked.is_err());
        assert_eq!(mutex.lock().as_deref(), Some(&1));
        assert!(holds_in_child(|| mutex.lock().as_deref() == Some(&1)));
    }
}
