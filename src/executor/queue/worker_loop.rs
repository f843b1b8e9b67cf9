//! What a worker thread does from its start to its end.

#![forbid(unsafe_code)]

use crate::executor::queue::jobs::{Queue, Take, WorkerSlot};

/// What the worker needs from those who use the pool.
///
/// The worker calls all methods but `suits` with no lock held. It asks for a job only between
/// them, so whatever `pause` gives up while it waits (the right to run Python, say) is back when a
/// job is taken from the queue: a job is never held by a worker that cannot do it yet.
pub trait JobRunner<J> {
    /// Whether `run` can do the job; if not, `pause` does it by [`Wait::serve`]. Only looks.
    fn suits(&self, _job: &J) -> bool {
        true
    }

    /// Does a job. False ends the worker at once, without another look at the queue: after a
    /// fork in the job, this is the child, where the queue is nobody's.
    fn run(&mut self, job: J) -> bool;

    /// Calls a method of `wait`, which blocks until there may be something for `run` to do.
    fn pause(&mut self, wait: Wait<'_, J>);
}

/// A worker in another state, where it can do other jobs, or none.
pub trait DetachedRunner<J> {
    /// Whether this is a job for [`DetachedRunner::run`]. Only looks.
    fn suits(&self, job: &J) -> bool;

    /// Does a job.
    fn run(&mut self, job: J);

    /// There is nothing to do: the worker is about to block.
    fn idle(&mut self);
}

/// Blocks an idle worker.
pub struct Wait<'a, J> {
    queue: &'a Queue<J>,
    slot: &'a mut WorkerSlot,
}

impl<J> Wait<'_, J> {
    /// Returns when there is a job to try for, or the queue stops.
    pub fn block(self) {
        self.queue.wait(self.slot);
    }

    /// Has `server` do the jobs that suit it. Returns when the oldest is another one, or the queue
    /// stops.
    pub fn serve(self, server: &mut impl DetachedRunner<J>) {
        loop {
            match self.queue.take(self.slot, |job| server.suits(job)) {
                Take::Job(job) => server.run(job),
                Take::Nothing => {
                    server.idle();
                    self.queue.wait(self.slot);
                }
                Take::Unsuited | Take::Stop => return,
            }
        }
    }
}

/// Works until the queue stops and is empty. For each [`crate::executor::queue::NewWorker`], on its own thread.
pub fn work<J>(queue: &Queue<J>, runner: &mut impl JobRunner<J>) {
    let mut slot = WorkerSlot::new();
    loop {
        match queue.take(&mut slot, |job| runner.suits(job)) {
            Take::Job(job) => {
                if !runner.run(job) {
                    return;
                }
            }
            Take::Nothing | Take::Unsuited => {
                runner.pause(Wait { queue, slot: &mut slot });
            }
            Take::Stop => return queue.leave(slot),
        }
    }
}
