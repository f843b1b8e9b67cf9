//! Worker threads behind `run_in_executor`: the job queue and the life of a worker. No Python
//! here, and no thread is started here either: the owner of a [`Queue`] starts one whenever
//! [`Queue::push`] asks for it, and lets it run [`work`].
//!
//! * `jobs.rs`: who does what: jobs in order, workers on demand, wake-ups kept few;
//! * `worker_loop.rs`: what a worker thread does from its start to its end, with jobs of two kinds that
//!   it does in different states;
//! * `spin.rs`: whether waiting a moment before going to sleep is worth it.
//!
//! After a fork the child has the queue but no workers, and its lock may be held by one of them
//! for ever: the owner keeps a `Generation` of `sys::fork` beside the queue and abandons both in
//! the child.

#![forbid(unsafe_code)]

mod jobs;
mod spin;
#[cfg(test)]
mod tests;
mod worker_loop;

#[cfg(test)]
use jobs::Refused;
pub use jobs::{NewWorker, Queue, Ticket};
pub use worker_loop::{DetachedRunner, JobRunner, Wait, work};
