//! The pool's Python side: blocking calls on threads of Python's own.
//!
//! * `thread_pool.rs`: `ThreadPool`, the default executor as Python sees it;
//! * `worker_threads.rs`: a queue and its threads, their start, their end, and forks;
//! * `worker.rs`: the body of a thread;
//! * `job.rs`: one job and who waits for it;
//! * `detached_job.rs`: a job that needs no interpreter;
//! * `completion.rs`: how the outcome gets into a Future of a loop.
//!
//! Threads are `threading.Thread` objects whose target is native code, so that names, tracing
//! hooks, thread-locals, `threading.enumerate()` and the interpreter's exit treat them as what
//! they are. A thread takes calls only while it holds the GIL, and detached jobs only while it does not;
//! it lets go of the GIL while it waits.

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

/// Has the threads joined when the interpreter exits. Called once, when the module is made.
pub fn install(py: Python<'_>) -> PyResult<()> {
    worker_threads::register_exit(py)
}
