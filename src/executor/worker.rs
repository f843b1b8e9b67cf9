//! The body of a pool thread.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::prelude::*;

use crate::executor::job::QueuedJob;
use crate::executor::queue::{DetachedRunner, JobRunner, Wait, work};
use crate::executor::worker_threads::WorkerThreads;
use crate::reactor::WakeSignal;

/// Target of a `threading.Thread`.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_Worker")]
pub struct Worker {
    workers: Arc<WorkerThreads>,
    state: AtomicU8,
}

const NEW: u8 = 0;
const RUNNING: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Worker {
    /// One more worker of the workers, which counts it already.
    pub fn of(workers: Arc<WorkerThreads>) -> Self {
        Self { workers, state: AtomicU8::new(NEW) }
    }

    /// The call that was to start the thread failed: true if the thread will do nothing, even
    /// should it start later; false if it runs all the same (Ctrl-C can interrupt the call after
    /// the thread has begun).
    pub fn give_up(&self) -> bool {
        self.leave_new(GIVEN_UP)
    }

    fn leave_new(&self, state: u8) -> bool {
        self.state.compare_exchange(NEW, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[pymethods]
impl Worker {
    /// Work until the workers are told to stop.
    fn __call__(&self, py: Python<'_>) {
        if !self.leave_new(RUNNING) {
            return;
        }
        let mut attached =
            Attached { py, workers: &self.workers, wake_signal: PendingWake::default() };
        work(self.workers.queue(), &mut attached);
        attached.wake_signal.notify();
    }
}

/// A worker that holds the GIL.
struct Attached<'a, 'py> {
    py: Python<'py>,
    workers: &'a WorkerThreads,
    /// Of the loop that has got an outcome: while this thread holds the GIL a woken loop could do
    /// nothing but wait for it.
    wake_signal: PendingWake,
}

impl JobRunner<QueuedJob> for Attached<'_, '_> {
    fn suits(&self, job: &QueuedJob) -> bool {
        matches!(job, QueuedJob::Call(_))
    }

    fn run(&mut self, job: QueuedJob) -> bool {
        // The next job may take long.
        self.wake_signal.notify();
        if let QueuedJob::Call(job) = job {
            self.wake_signal = PendingWake(job.bind(self.py).get().run(self.py, self.workers));
        }
        self.workers.is_ours()
    }

    fn pause(&mut self, wait: Wait<'_, QueuedJob>) {
        let mut detached = Detached(std::mem::take(&mut self.wake_signal));
        self.py.detach(|| {
            wait.serve(&mut detached);
            detached.0.notify();
        });
    }
}

/// A worker without the GIL.
struct Detached(
    /// Of the loop that has got an answer: it is woken when this worker counts as idle, so that
    /// it finds it for the next job.
    PendingWake,
);

impl DetachedRunner<QueuedJob> for Detached {
    fn suits(&self, job: &QueuedJob) -> bool {
        matches!(job, QueuedJob::DetachedJob(_))
    }

    fn run(&mut self, job: QueuedJob) {
        // The next job may take long.
        self.0.notify();
        if let QueuedJob::DetachedJob(detached_job) = job {
            self.0 = PendingWake(detached_job.run());
        }
    }

    fn idle(&mut self) {
        self.0.notify();
    }
}

/// A loop that has got something and has not been woken yet.
#[derive(Default)]
struct PendingWake(Option<Arc<WakeSignal>>);

impl PendingWake {
    fn notify(&mut self) {
        if let Some(wake_signal) = self.0.take() {
            wake_signal.notify();
        }
    }
}
