//! The job queue and the worker loop of the thread pool. Contains no Python and starts no threads:
//! the owner of a [`Queue`] starts one whenever [`Queue::push`] asks for it, and lets it run
//! [`work`].
//!
//! * `jobs.rs`: the queue: jobs in order, workers on demand, few wake-ups;
//! * `worker_loop.rs`: what a worker thread does from start to end, with two kinds of jobs;
//! * `spin.rs`: whether spinning before a sleep pays;
//! * `tests.rs`: tests on plain threads.
//!
//! After a fork the child has the queue but no workers, and a worker of the parent may hold its
//! lock forever. So the owner keeps a `Generation` of `sys::fork` with the queue and abandons both
//! in the child.

mod jobs;
mod spin;
#[cfg(test)]
mod tests;
mod worker_loop;

#[cfg(test)]
use jobs::PushError;
pub use jobs::{NewWorker, Queue, Ticket};
pub use worker_loop::{DetachedRunner, IdleWait, JobRunner, work};
