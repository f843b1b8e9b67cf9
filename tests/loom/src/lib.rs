//! Models of the protocols between threads: loom runs each in every interleaving of its threads, some
//! of them up to a number of preemptions, and with every value that an atomic load may return.
//!
//! The protocols are the files in `src/` of the repository, in modules of the same names. Replaced is
//! what they are built on: `sys::sync` re-exports loom's types, the poller's notifier is a flag, and
//! no clock ends a worker's spinning.
//!
//! Loom treats sequentially consistent operations as acquire and release, so a protocol that is
//! correct here does not depend on their total order.
#![deny(unsafe_code)]
#![allow(
    dead_code,
    unused_imports,
    reason = "what only the rest of the crate calls is unused here"
)]

mod api;
mod executor;
mod ffi;
mod reactor;
mod scheduler;
#[allow(unsafe_code)]
mod sys;

/// How often loom may interrupt a thread that could go on. Two suffice for each of the mutations; one
/// more makes a model several times as long.
#[cfg(test)]
#[derive(Clone, Copy)]
enum Preemptions {
    Any,
    AtMost(usize),
}

/// Runs `model` in every interleaving with these preemptions, or with `LOOM_MAX_PREEMPTIONS`.
#[cfg(test)]
fn explore(preemptions: Preemptions, model: impl Fn() + Send + Sync + 'static) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    let interleavings = Arc::new(AtomicU64::new(0));
    let counter = interleavings.clone();
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    if let Preemptions::AtMost(preemptions) = preemptions {
        builder.preemption_bound.get_or_insert(preemptions);
    }
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{} interleavings", interleavings.load(Ordering::Relaxed));
}
