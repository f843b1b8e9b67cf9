//! The thread pool behind `run_in_executor()`: blocking calls on Python threads.
//!
//! * `thread_pool.rs`: `ThreadPool`, the native half of the default executor;
//! * `worker_threads.rs`: a queue and its threads: start, exit, forks;
//! * `worker.rs`: the body of a thread;
//! * `job.rs`: one job and the receiver of its outcome;
//! * `detached_job.rs`: a job that runs without the GIL;
//! * `completion.rs`: delivers the outcome to a future of a loop;
//! * `queue/`: the job queue and the worker loop, without Python.
//!
//! Threads are `threading.Thread` objects with a native target, so names, tracing hooks,
//! thread-locals, `threading.enumerate()` and the interpreter's exit treat them correctly. A thread
//! takes calls only while it holds the GIL, and detached jobs only while it does not; it releases
//! the GIL while it waits.

#![forbid(unsafe_code)]

mod completion;
mod detached_job;
mod job;
pub mod queue;
mod thread_pool;
mod worker;
mod worker_threads;

use pyo3::prelude::*;

pub use detached_job::DetachedWork;
pub use job::{Call, Job};
pub use thread_pool::ThreadPool;

/// Registers the function that joins the threads when the interpreter exits. Called once, when the
/// module is initialised.
pub fn install(py: Python<'_>) -> PyResult<()> {
    worker_threads::register_exit(py)
}
