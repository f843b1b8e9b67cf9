//! The body of a pool thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::executor::job::QueuedJob;
use crate::executor::queue::{DetachedRunner, IdleWait, JobRunner, work};
use crate::executor::worker_threads::WorkerThreads;
use crate::ffi::entries::without_section;
use crate::ffi::thread_exit;
use crate::reactor::WakeSignal;

/// Target of a `threading.Thread`.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_Worker")]
pub struct Worker {
    workers: Arc<WorkerThreads>,
    state: AtomicU8,
}

const NEW: u8 = 0;
const RUNNING: u8 = 1;
const ABANDONED: u8 = 2;

impl Worker {
    /// Creates a worker, which the queue of `workers` counts already.
    pub fn of(workers: Arc<WorkerThreads>) -> Self {
        Self { workers, state: AtomicU8::new(NEW) }
    }

    /// Called when starting the thread has failed. Returns true if the worker was abandoned before
    /// it began; false if it is already running (Ctrl-C can interrupt `Thread.start()` after the
    /// thread has begun).
    pub fn abandon(&self) -> bool {
        self.leave_new_state(ABANDONED)
    }

    fn leave_new_state(&self, state: u8) -> bool {
        self.state.compare_exchange(NEW, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

without_section!(Worker);

#[pymethods]
impl Worker {
    /// Work until the workers are told to stop.
    fn __call__(&self, py: Python<'_>) {
        if !self.leave_new_state(RUNNING) {
            return;
        }
        thread_exit::protect();
        let mut attached =
            Attached { py, workers: &self.workers, wake_signal: PendingWake::default() };
        work(self.workers.queue(), &mut attached);
        attached.wake_signal.notify();
    }
}

/// How long a worker that has spun for a job spins for the GIL.
const RELEASE_SPIN: Duration = Duration::from_micros(20);

/// A worker that holds the GIL.
struct Attached<'a, 'py> {
    py: Python<'py>,
    workers: &'a WorkerThreads,
    /// The wake signal of the loop that received the last outcome. Notified after the GIL is
    /// released: until then a woken loop could only wait for the GIL.
    wake_signal: PendingWake,
}

impl JobRunner<QueuedJob> for Attached<'_, '_> {
    fn suits(&self, job: &QueuedJob) -> bool {
        matches!(job, QueuedJob::Call(_))
    }

    fn run(&mut self, job: QueuedJob) -> bool {
        // The next job may take long: wake the loop first.
        self.wake_signal.notify();
        if let QueuedJob::Call(job) = job {
            self.wake_signal = PendingWake(job.bind(self.py).get().run(self.py, self.workers));
        }
        self.workers.is_ours()
    }

    fn pause(&mut self, wait: IdleWait<'_, QueuedJob>) {
        let wake_signal = std::mem::take(&mut self.wake_signal);
        let mut detached = Detached { workers: self.workers, wake_signal };
        self.py.detach(|| {
            wait.run_detached(&mut detached);
            detached.wake_signal.notify();
        });
    }
}

/// A worker without the GIL.
struct Detached<'a> {
    workers: &'a WorkerThreads,
    /// The wake signal of the loop that received the last reply. Notified when this worker counts
    /// as idle, so that it is available for the loop's next job.
    wake_signal: PendingWake,
}

impl DetachedRunner<QueuedJob> for Detached<'_> {
    fn suits(&self, job: &QueuedJob) -> bool {
        matches!(job, QueuedJob::DetachedJob(_))
    }

    fn run(&mut self, job: QueuedJob) {
        // The next job may take long: wake the loop first.
        self.wake_signal.notify();
        if let QueuedJob::DetachedJob(detached_job) = job {
            self.wake_signal = PendingWake(detached_job.run());
        }
    }

    fn idle(&mut self) {
        self.wake_signal.notify();
    }

    /// The loop that has queued the job holds the GIL, mostly until it waits for the outcome. A
    /// thread that asks for the GIL before that falls asleep, which costs more than the spin has
    /// saved.
    fn spin_for_release(&mut self) -> bool {
        if cfg!(Py_GIL_DISABLED) {
            return true;
        }
        let Some(submitter) = self.workers.submitter() else { return true };
        let started = Instant::now();
        while !submitter.is_detached() {
            if started.elapsed() >= RELEASE_SPIN {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }
}

/// The wake signal of a loop that received something and was not woken yet.
#[derive(Default)]
struct PendingWake(Option<Arc<WakeSignal>>);

impl PendingWake {
    fn notify(&mut self) {
        if let Some(wake_signal) = self.0.take() {
            wake_signal.notify();
        }
    }
}
