//! Jobs in the order in which they came, and the few facts about workers that decide when to
//! start one and whom to wake.
//!
//! Rules:
//! * A worker is *idle* from its start, or from finding nothing to do, until it takes a job. A
//!   new worker is asked for when there are more jobs than idle workers, up to the limit: so a
//!   sequence of jobs runs on one thread, and jobs that overlap run side by side.
//! * Of the idle workers at most one is *called* at a time. It calls the next when it takes a job
//!   and leaves others. So a burst of short jobs wakes one worker instead of all, and still no
//!   job waits behind a long one while a worker is idle. A worker that spins is called by the
//!   queue's length alone, without a system call.
//! * Nothing is dropped and nothing foreign is called while the lock is held.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
// Not parking_lot's: its table of waiting threads is one for the process, and a child forked while
// a worker changes it would wait for that worker for ever.
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::executor::queue::spin::Spin;

/// Jobs of type `J` and the workers that do them.
pub struct Queue<J> {
    state: Mutex<State<J>>,
    called: Condvar,
    /// Set when a spinning worker should look at the state: there are jobs, or it must stop.
    attention: AtomicBool,
    limit: usize,
}

struct State<J> {
    /// In the order of their tickets.
    jobs: VecDeque<(Ticket, J)>,
    next_ticket: u64,
    /// Started, or about to be, and not ended.
    workers: usize,
    /// Workers without a job.
    idle: usize,
    /// Idle workers asleep on the condition variable, less those that have been notified.
    asleep: usize,
    /// Whether an idle worker spins. It counts as idle, not as asleep.
    spinning: bool,
    /// Whether the worker that was called is the spinning one.
    spinner_called: bool,
    /// Notified workers that have not woken up yet.
    notified: usize,
    /// Whether a worker was called and has not yet come to take a job.
    calling: bool,
    stopping: bool,
}

/// Names a job in the queue; later jobs have greater tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A job was accepted.
#[derive(Debug)]
pub struct Pushed {
    /// For [`Queue::remove`].
    pub ticket: Ticket,
    /// A worker that the caller must start now.
    pub new_worker: Option<NewWorker>,
}

/// Order to start a worker thread, which is counted already: run [`crate::executor::queue::work`] on it, or tell
/// [`Queue::give_up_worker`].
#[must_use = "the queue counts on this worker"]
#[derive(Debug, PartialEq, Eq)]
pub struct NewWorker {
    /// Workers before this one.
    pub index: usize,
}

/// The queue is stopping; the job comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused<J>(pub J);

/// The state of a queue at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Workers started, or about to be, and not ended.
    pub workers: usize,
    /// Workers without a job.
    pub idle: usize,
    /// Jobs that no worker has taken yet.
    pub waiting: usize,
    /// Jobs accepted since the queue was made.
    pub accepted: u64,
}

/// A worker's own part of the bookkeeping.
pub(in crate::executor::queue) struct WorkerSlot {
    /// Whether the queue counts this worker as idle.
    idle: bool,
    /// Whether this is the worker that was called.
    called: bool,
    spin: Spin,
}

impl WorkerSlot {
    /// Of a worker that was just started.
    pub(in crate::executor::queue) fn new() -> Self {
        Self { idle: true, called: false, spin: Spin::default() }
    }
}

/// What a worker gets.
pub(in crate::executor::queue) enum Take<J> {
    Job(J),
    /// The oldest job is not one that the worker can do as it is now.
    Unsuited,
    /// Nothing to do now: [`Queue::wait`].
    Nothing,
    /// Nothing to do ever: the worker is to [`Queue::leave`] and end.
    Stop,
}

impl<J> Queue<J> {
    /// A panic while the lock is held leaves nothing half done, so poisoning means nothing.
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
                spinner_called: false,
                notified: 0,
                calling: false,
                stopping: false,
            }),
            called: Condvar::new(),
            attention: AtomicBool::new(false),
            limit: limit.max(1),
        }
    }

    /// Most workers at a time.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Jobs that no worker has taken yet.
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// How many of everything there are now.
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

    /// Workers without a job.
    pub fn idle_workers(&self) -> usize {
        self.lock().idle
    }

    /// Whether [`Queue::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Appends a job. If a new worker should do it, the caller starts one.
    ///
    /// # Errors
    /// The job, if the queue is stopping.
    pub fn push(&self, job: J) -> Result<Pushed, Refused<J>> {
        let mut state = self.lock();
        if state.stopping {
            return Err(Refused(job));
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
        self.call_one(&mut state);
        Ok(Pushed { ticket, new_worker: None })
    }

    /// Takes a job out that no worker has taken yet.
    pub fn remove(&self, ticket: Ticket) -> Option<J> {
        let mut state = self.lock();
        let position = state.jobs.binary_search_by_key(&ticket, |&(ticket, _)| ticket).ok()?;
        state.jobs.remove(position).map(|(_, job)| job)
    }

    /// The worker could not be started.
    pub fn give_up_worker(&self, _worker: NewWorker) {
        let mut state = self.lock();
        state.workers -= 1;
        state.idle -= 1;
    }

    /// Refuses new jobs; workers end when the jobs here are done. Returns the jobs not taken yet
    /// if `cancel`, for the caller to drop.
    pub fn stop(&self, cancel: bool) -> impl Iterator<Item = J> + use<J> {
        let mut state = self.lock();
        state.stopping = true;
        let cancelled = if cancel { std::mem::take(&mut state.jobs) } else { VecDeque::new() };
        self.attention.store(true, Ordering::Release);
        state.notified += state.asleep;
        state.asleep = 0;
        self.called.notify_all();
        cancelled.into_iter().map(|(_, job)| job)
    }

    /// Calls one idle worker, unless one has been called and is on its way.
    fn call_one(&self, state: &mut State<J>) {
        if state.calling || state.jobs.is_empty() {
            return;
        }
        if state.spinning {
            state.calling = true;
            state.spinner_called = true;
            self.attention.store(true, Ordering::Release);
        } else if state.asleep > 0 {
            state.calling = true;
            state.asleep -= 1;
            state.notified += 1;
            self.called.notify_one();
        }
    }

    /// The oldest job, for a worker that is ready to do it at once, as `suits` says. It must not
    /// do more than look.
    pub(in crate::executor::queue) fn take(
        &self,
        slot: &mut WorkerSlot,
        suits: impl FnOnce(&J) -> bool,
    ) -> Take<J> {
        let mut state = self.lock();
        if state.jobs.front().is_some_and(|(_, job)| !suits(job)) {
            // If it was called it still is: it will be back for the job.
            return Take::Unsuited;
        }
        if slot.called {
            slot.called = false;
            state.calling = false;
        }
        if let Some((_, job)) = state.jobs.pop_front() {
            if slot.idle {
                slot.idle = false;
                state.idle -= 1;
            }
            self.call_one(&mut state);
            return Take::Job(job);
        }
        if !slot.idle {
            slot.idle = true;
            state.idle += 1;
        }
        if state.stopping { Take::Stop } else { Take::Nothing }
    }

    /// A worker that was told to stop ends.
    pub(in crate::executor::queue) fn leave(&self, slot: WorkerSlot) {
        let mut state = self.lock();
        state.idle -= usize::from(slot.idle);
        state.workers -= 1;
    }

    /// Waits until there may be something to [`Queue::take`].
    pub(in crate::executor::queue) fn wait(&self, slot: &mut WorkerSlot) {
        let started = Instant::now();
        let mut state = self.lock();
        if !state.jobs.is_empty() || state.stopping {
            return;
        }
        if slot.spin.pays() && !state.spinning {
            state.spinning = true;
            self.attention.store(false, Ordering::Relaxed);
            drop(state);
            Spin::until(started, || self.attention.load(Ordering::Acquire));
            state = self.lock();
            state.spinning = false;
            let called = std::mem::take(&mut state.spinner_called);
            if !state.jobs.is_empty() || state.stopping {
                slot.called = called;
                slot.spin.learn(started.elapsed());
                return;
            }
            if called {
                // Another worker was quicker.
                state.calling = false;
            }
        }
        state.asleep += 1;
        while state.notified == 0 {
            state = self.called.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.notified -= 1;
        slot.called = state.calling;
        drop(state);
        slot.spin.learn(started.elapsed());
    }
}
