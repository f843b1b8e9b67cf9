//! A queue of jobs and the threads that work on it: how they start, how they are joined when the
//! interpreter exits, and what remains of them after a fork.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PySet};

use crate::executor::job::{Job, QueuedJob};
use crate::executor::queue::{NewWorker, Queue};
use crate::executor::worker::Worker;
use crate::ffi::objects::process_state::Locked;
use crate::reactor::WakeSignal;
use crate::sys::fork::Generation;
use crate::sys::sync::parking_lot::Mutex;

/// A queue of jobs and its workers in one process. A forked child must create a new one.
pub struct WorkerThreads {
    queue: Queue<QueuedJob>,
    /// The wake signal of the loop that has queued the last call, to which a worker looks for the
    /// release of the GIL.
    submitter: Mutex<Option<Arc<WakeSignal>>>,
    generation: Generation,
}

/// Whether the interpreter has begun to exit; no job is accepted then.
static EXITING: AtomicBool = AtomicBool::new(false);

/// Threads to join when the interpreter exits.
static THREADS: Locked<Vec<(Weak<WorkerThreads>, Py<PyAny>)>> = Locked::new(Vec::new());

impl WorkerThreads {
    /// No threads yet; at most `limit` threads later.
    pub fn new(limit: usize) -> Self {
        Self {
            queue: Queue::new(limit),
            submitter: Mutex::new(None),
            generation: Generation::current(),
        }
    }

    /// Whether this process created it. If not, the queue must not be touched.
    pub fn is_ours(&self) -> bool {
        self.generation.is_current()
    }

    /// The queue of jobs.
    pub fn queue(&self) -> &Queue<QueuedJob> {
        &self.queue
    }

    /// Notes which loop queues the next call. A hint, for which no thread waits. Does nothing where no
    /// worker waits for a GIL.
    pub fn set_submitter(&self, signal: &Arc<WakeSignal>) {
        if cfg!(Py_GIL_DISABLED) {
            return;
        }
        let Some(mut submitter) = self.submitter.try_lock() else { return };
        if submitter.as_ref().is_none_or(|last| !Arc::ptr_eq(last, signal)) {
            let replaced = submitter.replace(signal.clone());
            drop(submitter);
            drop(replaced);
        }
    }

    /// The wake signal of the loop that has queued the last call.
    pub fn submitter(&self) -> Option<Arc<WakeSignal>> {
        self.submitter.try_lock()?.clone()
    }

    /// Queues `entry`, the queued form of `job`. Starts a thread if the queue asks for one, and
    /// adds its object to `threads`.
    ///
    /// # Errors
    /// RuntimeError after a shutdown, or if a thread cannot be started; the job is withdrawn then.
    pub fn submit(
        self: &Arc<Self>,
        entry: QueuedJob,
        job: &Bound<'_, Job>,
        prefix: &str,
        threads: &Bound<'_, PySet>,
    ) -> PyResult<()> {
        let py = job.py();
        let pushed = check_exit().and_then(|()| {
            self.queue.push(entry).map_err(|_refused| {
                PyRuntimeError::new_err("cannot schedule new futures after shutdown")
            })
        });
        let pushed = pushed.inspect_err(|_| job.get().withdraw(py))?;
        job.get().set_queue_entry(py, self, pushed.ticket);
        let Some(worker) = pushed.new_worker else { return Ok(()) };
        let name = format!("{prefix}_{}", worker.index);
        self.start_thread(py, worker, &name, threads).inspect_err(|_| job.get().withdraw(py))
    }

    /// Starts a thread for the worker and records it, unless that fails.
    fn start_thread(
        self: &Arc<Self>,
        py: Python<'_>,
        new_worker: NewWorker,
        name: &str,
        threads: &Bound<'_, PySet>,
    ) -> PyResult<()> {
        tracing::debug!(target: "ferroloop::pool", thread = name, "a thread starts");
        let worker = Bound::new(py, Worker::of(self.clone()))?;
        let thread = match make_thread(&worker, name) {
            Ok(thread) => thread,
            Err(error) => {
                self.queue.abandon_worker(new_worker);
                return Err(error);
            }
        };
        let started = thread.call_method0(intern!(py, "start"));
        if started.is_err() && worker.get().abandon() {
            self.queue.abandon_worker(new_worker);
        } else {
            join_at_exit(self, &thread);
            threads.add(thread)?;
        }
        started.map(drop)
    }

    /// Refuses new jobs; threads end when the accepted jobs are done.
    pub fn stop(&self) {
        // Returns no jobs, as none is cancelled.
        drop(self.queue.stop(false));
    }
}

/// # Errors
/// RuntimeError once the interpreter has begun to exit.
pub fn check_exit() -> PyResult<()> {
    if EXITING.load(Ordering::Relaxed) {
        return Err(PyRuntimeError::new_err(
            "cannot schedule new futures after interpreter shutdown",
        ));
    }
    Ok(())
}

fn make_thread<'py>(worker: &Bound<'py, Worker>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let py = worker.py();
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "name"), name)?;
    keywords.set_item(intern!(py, "target"), worker)?;
    // Looked up each time, as concurrent.futures does: programs replace it.
    py.import("threading")?.getattr(intern!(py, "Thread"))?.call((), Some(&keywords))
}

/// Records a thread, to be joined at exit.
fn join_at_exit(workers: &Arc<WorkerThreads>, thread: &Bound<'_, PyAny>) {
    let entry = (Arc::downgrade(workers), thread.clone().unbind());
    let ended: Vec<_> = THREADS.with(thread.py(), |threads| {
        let (alive, ended) = std::mem::take(threads)
            .into_iter()
            .partition(|(workers, _): &(Weak<WorkerThreads>, _)| workers.strong_count() > 0);
        *threads = alive;
        threads.push(entry);
        ended
    });
    drop(ended);
}

/// Ends and joins all threads, before the interpreter joins the other threads.
fn exit(py: Python<'_>) -> PyResult<()> {
    EXITING.store(true, Ordering::Relaxed);
    let threads = THREADS.with(py, std::mem::take);
    let ours: Vec<_> = threads
        .iter()
        .filter(|(workers, _)| workers.upgrade().is_some_and(|workers| workers.is_ours()))
        .collect();
    for (workers, _) in &ours {
        if let Some(workers) = workers.upgrade() {
            workers.stop();
        }
    }
    for (_, thread) in &ours {
        thread.bind(py).call_method0(intern!(py, "join"))?;
    }
    Ok(())
}

/// Registers [`exit`] where concurrent.futures registers its own: early enough for threads to run
/// Python code.
pub fn register_exit(py: Python<'_>) -> PyResult<()> {
    let join =
        PyCFunction::new_closure(py, None, None, |arguments, _keywords| exit(arguments.py()))?;
    py.import("threading")?.getattr("_register_atexit")?.call1((join,))?;
    Ok(())
}
