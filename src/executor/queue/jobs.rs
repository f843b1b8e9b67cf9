//! Jobs in FIFO order, and the state of workers that decides when to start one and which to wake.
//!
//! Rules:
//! * A worker is *idle* from its start, or from finding nothing to do, until it takes a job. A new
//!   worker is requested when there are more jobs than idle workers, up to the limit: so a sequence
//!   of jobs runs on one thread, and overlapping jobs run in parallel.
//! * At most one idle worker is *signalled* at a time. It signals the next one when it takes a job
//!   and leaves others. So a burst of short jobs wakes one worker instead of all, and still no job
//!   waits behind a long one while a worker is idle. A worker that spins is signalled by a flag,
//!   without a system call.
//! * While the lock is held, nothing is dropped and no foreign code is called.

use std::collections::VecDeque;
use std::time::Instant;

use crate::executor::queue::spin::Spin;
use crate::sys::sync::atomic::{AtomicBool, Ordering};
use crate::sys::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Jobs of type `J` and the workers that run them.
pub struct Queue<J> {
    state: Mutex<State<J>>,
    signalled: Condvar,
    /// Set when a spinning worker must check the state: there are jobs, or it must stop.
    stop_spinning: AtomicBool,
    limit: usize,
}

struct State<J> {
    /// In the order of their tickets.
    jobs: VecDeque<(Ticket, J)>,
    next_ticket: u64,
    /// Number of workers that were started, or are about to be, and have not ended.
    workers: usize,
    /// Number of workers without a job.
    idle: usize,
    /// Number of idle workers waiting on the condition variable, excluding those that have been
    /// notified.
    asleep: usize,
    /// Whether an idle worker is spinning. It counts as idle, not as asleep.
    spinning: bool,
    /// Whether the signalled worker is the spinning one.
    spinner_signalled: bool,
    /// Number of notified workers that have not woken up yet.
    notified: usize,
    /// Whether a worker was signalled and has not come to take a job yet.
    signal_pending: bool,
    stopping: bool,
}

/// Identifies a job in the queue; later jobs have greater tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The result of accepting a job.
#[derive(Debug)]
pub struct Pushed {
    /// The argument of [`Queue::remove`].
    pub ticket: Ticket,
    /// A worker that the caller must start now.
    pub new_worker: Option<NewWorker>,
}

/// A request to start a worker thread, which is counted already: run [`work`](super::work) on it,
/// or call [`Queue::abandon_worker`].
#[must_use = "the queue counts on this worker"]
#[derive(Debug, PartialEq, Eq)]
pub struct NewWorker {
    /// The number of workers before this one.
    pub index: usize,
}

/// The queue is stopping. Contains the rejected job.
#[derive(Debug, PartialEq, Eq)]
pub struct PushError<J>(pub J);

/// The state of a queue at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Number of workers that were started, or are about to be, and have not ended.
    pub workers: usize,
    /// Number of workers without a job.
    pub idle: usize,
    /// Number of jobs that no worker has taken yet.
    pub waiting: usize,
    /// Number of jobs accepted since the queue was created.
    pub accepted: u64,
}

/// The state that belongs to one worker.
pub(in crate::executor::queue) struct WorkerSlot {
    /// Whether the queue counts this worker as idle.
    idle: bool,
    /// Whether this is the worker that was signalled.
    signalled: bool,
    spin: Spin,
}

impl WorkerSlot {
    /// The state of a worker that has just started.
    pub(in crate::executor::queue) fn new() -> Self {
        Self { idle: true, signalled: false, spin: Spin::default() }
    }

    /// Notes that spinning has not saved a sleep.
    pub(in crate::executor::queue) fn note_fruitless_spin(&mut self) {
        self.spin.note_spin(false);
    }
}

/// The result of [`Queue::take`].
pub(in crate::executor::queue) enum Take<J> {
    Job(J),
    /// The worker cannot run the oldest job in its present state.
    Unsuited,
    /// There is nothing to do now: call [`Queue::wait`].
    Nothing,
    /// There will be nothing to do: call [`Queue::leave`] and end.
    Stop,
}

/// How a worker has waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::executor::queue) enum Waited {
    /// There was something to do already.
    Nothing,
    /// The whole time awake.
    Spinning,
    Asleep,
}

impl<J> Queue<J> {
    /// Ignores poisoning: a panic while the lock is held leaves no update incomplete.
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty queue with at most `limit` workers, at least one.
    pub fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                next_ticket: 0,
                workers: 0,
                idle: 0,
                asleep: 0,
                spinning: false,
                spinner_signalled: false,
                notified: 0,
                signal_pending: false,
                stopping: false,
            }),
            signalled: Condvar::new(),
            stop_spinning: AtomicBool::new(false),
            limit: limit.max(1),
        }
    }

    /// Maximum number of workers.
    #[cfg(test)]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Number of jobs that no worker has taken yet.
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// The current counts.
    pub fn counts(&self) -> Counts {
        let state = self.lock();
        Counts {
            workers: state.workers,
            idle: state.idle,
            waiting: state.jobs.len(),
            accepted: state.next_ticket,
        }
    }

    /// Whether every job has been taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of workers without a job.
    #[cfg(test)]
    pub fn idle_workers(&self) -> usize {
        self.lock().idle
    }

    /// Whether [`Queue::stop`] was called.
    #[cfg(test)]
    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Appends a job. The caller must start the new worker if one is requested.
    ///
    /// # Errors
    /// Returns the job if the queue is stopping.
    pub fn push(&self, job: J) -> Result<Pushed, PushError<J>> {
        let mut state = self.lock();
        if state.stopping {
            return Err(PushError(job));
        }
        let ticket = Ticket(state.next_ticket);
        state.next_ticket += 1;
        state.jobs.push_back((ticket, job));
        if state.jobs.len() > state.idle && state.workers < self.limit {
            let index = state.workers;
            state.workers += 1;
            state.idle += 1;
            return Ok(Pushed { ticket, new_worker: Some(NewWorker { index }) });
        }
        self.signal_one(&mut state);
        Ok(Pushed { ticket, new_worker: None })
    }

    /// Removes a job, unless a worker has taken it.
    pub fn remove(&self, ticket: Ticket) -> Option<J> {
        let mut state = self.lock();
        let position = state.jobs.binary_search_by_key(&ticket, |&(ticket, _)| ticket).ok()?;
        state.jobs.remove(position).map(|(_, job)| job)
    }

    /// Reports that a requested worker could not be started.
    pub fn abandon_worker(&self, _worker: NewWorker) {
        let mut state = self.lock();
        state.workers -= 1;
        state.idle -= 1;
    }

    /// Refuses new jobs; workers end when the queued jobs are done. If `cancel`, removes and
    /// returns the jobs that no worker has taken, for the caller to drop.
    pub fn stop(&self, cancel: bool) -> impl Iterator<Item = J> + use<J> {
        let mut state = self.lock();
        state.stopping = true;
        let cancelled = if cancel { std::mem::take(&mut state.jobs) } else { VecDeque::new() };
        self.stop_spinning.store(true, Ordering::Release);
        state.notified += state.asleep;
        state.asleep = 0;
        self.signalled.notify_all();
        cancelled.into_iter().map(|(_, job)| job)
    }

    /// Signals one idle worker, unless one was signalled and has not arrived yet.
    fn signal_one(&self, state: &mut State<J>) {
        if state.signal_pending || state.jobs.is_empty() {
            return;
        }
        if state.spinning {
            state.signal_pending = true;
            state.spinner_signalled = true;
            self.stop_spinning.store(true, Ordering::Release);
        } else if state.asleep > 0 {
            state.signal_pending = true;
            state.asleep -= 1;
            state.notified += 1;
            self.signalled.notify_one();
        }
    }

    /// Takes the oldest job, if the worker can run it at once, which `suits` decides. `suits` must
    /// only read.
    pub(in crate::executor::queue) fn take(
        &self,
        slot: &mut WorkerSlot,
        suits: impl FnOnce(&J) -> bool,
    ) -> Take<J> {
        let mut state = self.lock();
        if state.jobs.front().is_some_and(|(_, job)| !suits(job)) {
            // A signalled worker stays signalled: it will return for the job.
            return Take::Unsuited;
        }
        if slot.signalled {
            slot.signalled = false;
            state.signal_pending = false;
        }
        if let Some((_, job)) = state.jobs.pop_front() {
            if slot.idle {
                slot.idle = false;
                state.idle -= 1;
            }
            self.signal_one(&mut state);
            return Take::Job(job);
        }
        if !slot.idle {
            slot.idle = true;
            state.idle += 1;
        }
        if state.stopping { Take::Stop } else { Take::Nothing }
    }

    /// Reports that a worker ends, after [`Take::Stop`].
    pub(in crate::executor::queue) fn leave(&self, slot: WorkerSlot) {
        let mut state = self.lock();
        state.idle -= usize::from(slot.idle);
        state.workers -= 1;
    }

    /// Blocks until there may be something to [`Queue::take`]. Returns how.
    pub(in crate::executor::queue) fn wait(&self, slot: &mut WorkerSlot) -> Waited {
        let started = Instant::now();
        let mut state = self.lock();
        if !state.jobs.is_empty() || state.stopping {
            return Waited::Nothing;
        }
        if slot.spin.pays() && !state.spinning {
            state.spinning = true;
            self.stop_spinning.store(false, Ordering::Relaxed);
            drop(state);
            Spin::until(started, || self.stop_spinning.load(Ordering::Acquire));
            state = self.lock();
            state.spinning = false;
            let signalled = std::mem::take(&mut state.spinner_signalled);
            let found = !state.jobs.is_empty() || state.stopping;
            slot.spin.note_spin(found);
            if found {
                slot.signalled = signalled;
                return Waited::Spinning;
            }
            if signalled {
                // Another worker has taken the job.
                state.signal_pending = false;
            }
        }
        state.asleep += 1;
        while state.notified == 0 {
            state = self.signalled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.notified -= 1;
        slot.signalled = state.signal_pending;
        drop(state);
        slot.spin.note_sleep(started.elapsed());
        Waited::Asleep
    }
}
