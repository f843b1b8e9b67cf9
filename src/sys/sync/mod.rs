//! Locks, condition variables and atomics, and the rule which lock to use.
//!
//! # Locks and forks
//!
//! A fork copies each lock in its present state and only the forking thread: a lock that another
//! thread holds at that moment stays locked in the child forever. `parking_lot` adds a second danger:
//! its table of waiting threads is global to the process and has locks of its own, so a child can
//! block forever on any contended lock, even if no thread holds it. Hence one rule:
//!
//! * A lock that a forked child may take is a [`ForkSafeMutex`] (`fork_safe_mutex.rs`). In the child,
//!   `lock()` returns `None` after a timeout if a thread of the parent held the lock.
//! * A lock with a condition variable is std's, and its owner keeps a `Generation` of `sys::fork` with
//!   it. A child must not touch either; it creates its own (the job queue, the watchdog).
//! * The locks of [`parking_lot`](::parking_lot) are for objects that one process uses: the arena of
//!   Rust futures, the handles of tasks that a Rust thread joins.
//!
//! # Models
//!
//! `tests/loom` compiles some files of this crate against loom's versions of the types below, and
//! runs them in every interleaving of their threads. Those files import the types from here.

#![forbid(unsafe_code)]

mod fork_safe_mutex;

/// The locks of the crate of that name.
pub(crate) mod parking_lot {
    pub(crate) use ::parking_lot::Mutex;
}

pub(crate) use fork_safe_mutex::ForkSafeMutex;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError, atomic};
pub(crate) use std::thread::sleep;
pub(crate) use std::thread_local;
