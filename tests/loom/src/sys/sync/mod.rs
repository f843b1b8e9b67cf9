//! Loom's types under the names of `src/sys/sync/`.

#[path = "../../../../../src/sys/sync/fork_safe_mutex.rs"]
mod fork_safe_mutex;
pub mod parking_lot;

pub(crate) use fork_safe_mutex::ForkSafeMutex;
pub use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
pub use loom::thread_local;
pub use std::sync::{PoisonError, TryLockError};

/// Lets other threads run.
pub fn sleep(_duration: std::time::Duration) {
    loom::thread::yield_now();
}
