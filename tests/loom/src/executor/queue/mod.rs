//! The job queue and the worker loop.

#[path = "../../../../../src/executor/queue/jobs.rs"]
mod jobs;
#[cfg(test)]
mod models;
mod spin;
#[path = "../../../../../src/executor/queue/worker_loop.rs"]
mod worker_loop;

use jobs::{NewWorker, Queue};
use worker_loop::{DetachedRunner, IdleWait, JobRunner, work};
