//! No job is lost, no worker sleeps while a job waits for one, and `stop` ends all workers. A worker
//! that sleeps forever is a deadlock, which loom reports.

use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

use super::{DetachedRunner, IdleWait, JobRunner, Queue, spin, work};
use crate::Preemptions;

/// Explores a model with workers that spin before they sleep, and with workers that do not.
fn explore(preemptions: Preemptions, model: impl Fn() + Clone + Send + Sync + 'static) {
    for spins in [false, true] {
        spin::set_pays(spins);
        crate::explore(preemptions, model.clone());
    }
}

/// A job: the index of its counter and its gate.
type Job = usize;

const JOBS: usize = 4;

/// Waits until it was opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
    }
}

/// A queue and what its jobs use.
#[derive(Clone)]
struct Pool {
    queue: Arc<Queue<Job>>,
    /// How often each job has run.
    runs: Arc<[AtomicUsize; JOBS]>,
    /// Each job opens its gate when it has run.
    gates: Arc<[Gate; JOBS]>,
}

/// A worker: runs the jobs for which `suits` returns true, and the others while it is detached.
#[derive(Clone)]
struct Worker {
    pool: Pool,
    suits: fn(Job) -> bool,
    body: fn(&Pool, Job),
}

impl Worker {
    fn run_job(&self, job: Job) {
        (self.body)(&self.pool, job);
        self.pool.runs[job].fetch_add(1, Ordering::Relaxed);
        self.pool.gates[job].open();
    }
}

impl JobRunner<Job> for Worker {
    fn suits(&self, job: &Job) -> bool {
        (self.suits)(*job)
    }

    fn run(&mut self, job: Job) -> bool {
        self.run_job(job);
        true
    }

    fn pause(&mut self, wait: IdleWait<'_, Job>) {
        wait.run_detached(&mut Detached(self.clone()));
    }
}

struct Detached(Worker);

impl DetachedRunner<Job> for Detached {
    fn suits(&self, job: &Job) -> bool {
        !(self.0.suits)(*job)
    }

    fn run(&mut self, job: Job) {
        self.0.run_job(job);
    }

    fn idle(&mut self) {}
}

impl Pool {
    fn new(limit: usize) -> Self {
        Self { queue: Arc::new(Queue::new(limit)), runs: Arc::default(), gates: Arc::default() }
    }

    /// A worker that runs all jobs, which do nothing but count.
    fn worker(&self) -> Worker {
        Worker { pool: self.clone(), suits: |_| true, body: |_, _| {} }
    }

    /// Pushes a job and starts `worker` if the queue requests one.
    fn push(&self, job: Job, worker: Worker) -> Option<JoinHandle<()>> {
        let pushed = self.queue.push(job).expect("the queue is not stopping");
        pushed.new_worker.map(|_| worker.start())
    }

    /// Stops the queue and waits for its workers.
    fn join(&self, workers: impl IntoIterator<Item = JoinHandle<()>>) {
        drop(self.queue.stop(false));
        for worker in workers {
            worker.join().unwrap();
        }
        let counts = self.queue.counts();
        assert_eq!((counts.workers, counts.idle, counts.waiting), (0, 0, 0));
    }

    fn runs(&self) -> [usize; JOBS] {
        std::array::from_fn(|job| self.runs[job].load(Ordering::Relaxed))
    }
}

impl Worker {
    fn start(mut self) -> JoinHandle<()> {
        let queue = self.pool.queue.clone();
        thread::spawn(move || work(&queue, &mut self))
    }
}

#[test]
fn one_worker_runs_each_job_once_and_ends() {
    explore(Preemptions::Any, || {
        let pool = Pool::new(1);
        let worker = pool.push(0, pool.worker());
        assert!(pool.push(1, pool.worker()).is_none());
        pool.join(worker);
        assert_eq!(pool.runs(), [1, 1, 0, 0]);
    });
}

#[test]
fn two_workers_run_each_job_once_and_end() {
    explore(Preemptions::AtMost(4), || {
        let pool = Pool::new(2);
        let workers: Vec<_> = (0..3).filter_map(|job| pool.push(job, pool.worker())).collect();
        pool.join(workers);
        assert_eq!(pool.runs(), [1, 1, 1, 0]);
    });
}

/// Two workers sleep or are about to. Of the next two jobs the first needs the other one, so both
/// workers must be woken.
#[test]
fn no_job_waits_while_a_worker_is_idle() {
    explore(Preemptions::AtMost(3), || {
        let pool = Pool::new(2);
        let body = |pool: &Pool, job| match job {
            0 => pool.gates[1].wait(),
            2 => pool.gates[3].wait(),
            _ => {}
        };
        let worker = || Worker { body, ..pool.worker() };
        let mut workers: Vec<_> = (0..2).filter_map(|job| pool.push(job, worker())).collect();
        pool.gates[0].wait();
        workers.extend((2..4).filter_map(|job| pool.push(job, worker())));
        pool.gates[2].wait();
        pool.join(workers);
        assert_eq!(pool.runs(), [1, 1, 1, 1]);
    });
}

/// One of two workers may be signalled for a job that the other one takes.
#[test]
fn a_signal_that_comes_too_late_does_not_prevent_the_next() {
    explore(Preemptions::AtMost(2), || {
        let pool = Pool::new(2);
        let body = |pool: &Pool, job| {
            if job == 0 {
                pool.gates[1].wait();
            }
        };
        let worker = || Worker { body, ..pool.worker() };
        let mut workers: Vec<_> = (0..2).filter_map(|job| pool.push(job, worker())).collect();
        pool.gates[1].wait();
        for job in 2..4 {
            workers.extend(pool.push(job, worker()));
            pool.gates[job].wait();
        }
        pool.join(workers);
        assert_eq!(pool.runs(), [1, 1, 1, 1]);
    });
}

/// A worker must change its state for every other job.
#[test]
fn jobs_of_both_kinds_run() {
    explore(Preemptions::Any, || {
        let pool = Pool::new(1);
        let suits = |job| job == 1;
        let worker = || Worker { suits, ..pool.worker() };
        let workers: Vec<_> = (0..3).filter_map(|job| pool.push(job, worker())).collect();
        pool.join(workers);
        assert_eq!(pool.runs(), [1, 1, 1, 0]);
    });
}

#[test]
fn two_workers_run_jobs_of_both_kinds() {
    explore(Preemptions::AtMost(4), || {
        let pool = Pool::new(2);
        let suits = |job| job == 1;
        let worker = || Worker { suits, ..pool.worker() };
        let workers: Vec<_> = (0..3).filter_map(|job| pool.push(job, worker())).collect();
        pool.join(workers);
        assert_eq!(pool.runs(), [1, 1, 1, 0]);
    });
}

#[test]
fn no_job_of_two_threads_is_lost() {
    explore(Preemptions::AtMost(4), || {
        let pool = Pool::new(1);
        let other = {
            let pool = pool.clone();
            thread::spawn(move || pool.push(1, pool.worker()))
        };
        let here = pool.push(0, pool.worker());
        let there = other.join().unwrap();
        pool.join(here.into_iter().chain(there));
        assert_eq!(pool.runs(), [1, 1, 0, 0]);
    });
}

/// The worker sleeps, spins or is about to when the next job comes.
#[test]
fn an_idle_worker_is_woken_each_time() {
    explore(Preemptions::AtMost(4), || {
        let pool = Pool::new(1);
        let worker = pool.push(0, pool.worker());
        for job in 1..3 {
            pool.gates[job - 1].wait();
            pool.push(job, pool.worker());
        }
        pool.gates[2].wait();
        pool.join(worker);
        assert_eq!(pool.runs(), [1, 1, 1, 0]);
    });
}

#[test]
fn an_idle_worker_is_woken_for_jobs_of_both_kinds() {
    explore(Preemptions::AtMost(4), || {
        let pool = Pool::new(1);
        let worker = Worker { suits: |job| job % 2 == 1, ..pool.worker() };
        let worker = pool.push(0, worker);
        for job in 1..4 {
            pool.gates[job - 1].wait();
            pool.push(job, pool.worker());
        }
        pool.gates[3].wait();
        pool.join(worker);
        assert_eq!(pool.runs(), [1, 1, 1, 1]);
    });
}

#[test]
fn a_job_runs_or_is_removed() {
    explore(Preemptions::Any, || {
        let pool = Pool::new(1);
        let pushed = pool.queue.push(0).expect("the queue is not stopping");
        let worker = pushed.new_worker.map(|_| pool.worker().start());
        let removed = pool.queue.remove(pushed.ticket).is_some();
        pool.join(worker);
        assert_eq!(pool.runs(), [usize::from(!removed), 0, 0, 0]);
    });
}

#[test]
fn a_job_runs_or_is_cancelled() {
    explore(Preemptions::Any, || {
        let pool = Pool::new(1);
        let worker = pool.push(0, pool.worker());
        let cancelled = pool.queue.stop(true).count();
        pool.join(worker);
        assert_eq!(pool.runs(), [1 - cancelled, 0, 0, 0]);
    });
}
