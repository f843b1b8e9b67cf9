//! `ThreadPool`: the native half of the default executor.

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PySet, PyTuple};

use crate::executor::detached_job::DetachedWork;
use crate::executor::job::{Call, Job, QueuedJob};
use crate::executor::worker_threads::{self, WorkerThreads};
use crate::ffi::entries::without_section;
use crate::ffi::objects::process_state::{Locked, Published};
use crate::ffi::section::attach_unshared;
use crate::ffi::thread_exit;
use crate::future::Future;
use crate::handle::CallbackArguments;
use crate::interop::imports;
use crate::scheduler::Scheduler;

/// Native half of `ferroloop.thread_pool.ThreadPool`.
#[pyclass(frozen, subclass, weakref, module = "ferroloop._ferroloop", name = "ThreadPool")]
pub struct ThreadPool {
    workers: Locked<Arc<WorkerThreads>>,
    /// `threading.Thread` objects, as `ThreadPoolExecutor._threads`.
    threads: Locked<Option<Py<PySet>>>,
    prefix: String,
    limit: usize,
    stopped: Published<bool>,
}

impl ThreadPool {
    /// The class `ferroloop.thread_pool.ThreadPool`. Imported at first use: it needs all of
    /// concurrent.futures, and many programs make no blocking calls.
    ///
    /// # Errors
    /// RuntimeError while the interpreter exits.
    pub fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        worker_threads::check_exit()?;
        CLASS.import(py, "ferroloop.thread_pool", "ThreadPool")
    }

    /// The worker threads; in a forked child new ones, since those of the parent do not exist
    /// there.
    fn workers(&self, py: Python<'_>) -> PyResult<Arc<WorkerThreads>> {
        let workers = self.workers.with(py, |workers| workers.clone());
        if workers.is_ours() {
            return Ok(workers);
        }
        let fresh = Arc::new(WorkerThreads::new(self.limit));
        if self.stopped.get(py) {
            fresh.stop();
        }
        let orphaned = self.workers.with(py, |workers| std::mem::replace(workers, fresh.clone()));
        // Leaked: the lock may be held forever, and the jobs belong to the parent.
        std::mem::forget((workers, orphaned));
        drop(self.threads.replace(py, Some(PySet::empty(py)?.unbind())));
        Ok(fresh)
    }

    fn threads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PySet>> {
        match self.threads.with(py, |threads| Some(threads.as_ref()?.clone_ref(py))) {
            Some(threads) => Ok(threads.into_bound(py)),
            None => PySet::empty(py), // cleared by the collector
        }
    }

    fn queue(
        &self,
        workers: &Arc<WorkerThreads>,
        entry: QueuedJob,
        job: &Bound<'_, Job>,
    ) -> PyResult<()> {
        workers.submit(entry, job, &self.prefix, &self.threads(job.py())?)
    }

    /// The values of `ferroloop.metrics.PoolMetrics`, keyed by its field names.
    pub fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = self.workers(py)?.queue().counts();
        let found = PyDict::new(py);
        found.set_item(intern!(py, "threads"), counts.workers)?;
        found.set_item(intern!(py, "idle"), counts.idle)?;
        found.set_item(intern!(py, "limit"), self.limit)?;
        found.set_item(intern!(py, "queued"), counts.waiting)?;
        found.set_item(intern!(py, "jobs"), counts.accepted)?;
        Ok(found)
    }

    /// Makes a worker run the call; returns the loop's future for its outcome.
    pub fn run<'py>(
        &self,
        scheduler: &Bound<'py, Scheduler>,
        call: Call,
    ) -> PyResult<Bound<'py, Future>> {
        let (job, future) = Job::for_loop(scheduler, call)?;
        let workers = self.workers(scheduler.py())?;
        workers.set_submitter(scheduler.get().wake_signal());
        self.queue(&workers, QueuedJob::Call(job.clone().unbind()), &job)?;
        Ok(future)
    }

    /// Makes a worker run `work` without the GIL; returns the loop's future for its reply. The
    /// loop must be open.
    pub fn run_detached<'py>(
        &self,
        scheduler: &Bound<'py, Scheduler>,
        work: DetachedWork,
    ) -> PyResult<Bound<'py, Future>> {
        let (job, detached_job, future) = Job::for_detached(scheduler, work)?;
        let entry = QueuedJob::DetachedJob(detached_job);
        self.queue(&self.workers(scheduler.py())?, entry, &job)?;
        Ok(future)
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // The threads end, as those of a ThreadPoolExecutor that is garbage-collected.
        Python::attach(|py| {
            let workers = self.workers.with(py, |workers| workers.clone());
            if workers.is_ours() {
                workers.stop();
            } else {
                std::mem::forget(workers);
            }
        });
    }
}

without_section!(ThreadPool);

#[pymethods]
impl ThreadPool {
    #[new]
    fn new(py: Python<'_>, max_workers: usize, thread_name_prefix: String) -> PyResult<Self> {
        Ok(Self {
            workers: Locked::new(Arc::new(WorkerThreads::new(max_workers))),
            threads: Locked::new(Some(PySet::empty(py)?.unbind())),
            prefix: thread_name_prefix,
            limit: max_workers,
            stopped: Published::new(false),
        })
    }

    /// Have a thread call fn(*args, **kwargs); return a concurrent.futures.Future.
    ///
    /// Raises:
    ///     RuntimeError: the pool was shut down.
    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn submit<'py>(
        &self,
        py: Python<'py>,
        r#fn: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        thread_exit::protect();
        let call = match kwargs {
            None => Call::Function(r#fn.unbind(), CallbackArguments::from_tuple(args)),
            Some(kwargs) => {
                let all = std::iter::once(r#fn).chain(args.iter()).collect::<Vec<_>>();
                let bound = imports::partial(py)?.call(PyTuple::new(py, all)?, Some(&kwargs))?;
                Call::Function(bound.unbind(), CallbackArguments::Empty)
            }
        };
        let future = imports::concurrent_future(py)?.call0()?;
        let job = Job::for_threads(future.clone(), call)?;
        self.queue(&self.workers(py)?, QueuedJob::Call(job.clone().unbind()), &job)?;
        Ok(future)
    }

    /// Refuse new calls; with `wait`, return when all calls accepted are done and the threads
    /// have ended. `cancel_futures` drops the calls that no thread has begun.
    #[pyo3(signature = (wait=true, *, cancel_futures=false))]
    fn shutdown(&self, py: Python<'_>, wait: bool, cancel_futures: bool) -> PyResult<()> {
        let workers = self.workers(py)?;
        self.stopped.set(py, true);
        for entry in workers.queue().stop(cancel_futures) {
            entry.cancel(py)?;
        }
        if wait {
            for thread in PySet::new(py, self.threads(py)?.iter())?.iter() {
                thread.call_method0(intern!(py, "join"))?;
            }
        }
        Ok(())
    }

    #[getter]
    fn _max_workers(&self) -> usize {
        self.limit
    }

    #[getter]
    fn _thread_name_prefix(&self) -> &str {
        &self.prefix
    }

    #[getter]
    fn _threads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PySet>> {
        self.workers(py)?;
        self.threads(py)
    }

    #[getter]
    fn _shutdown(&self, py: Python<'_>) -> bool {
        self.stopped.get(py)
    }

    /// Number of calls that no thread has begun.
    fn _queued(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.workers(py)?.queue().len())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.threads.traverse(|threads| visit.call(threads))
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop(self.threads.replace(py, None)));
    }
}
