//! What a worker thread does from its start to its end.

use crate::executor::queue::jobs::{Queue, Take, Waited, WorkerSlot};

/// The environment of a worker.
///
/// All methods but `suits` are called with no lock held. The worker takes a job only between these
/// calls, so whatever `pause` releases while it waits (such as the GIL) has been reacquired when a
/// job is taken: a worker never holds a job that it cannot run yet.
pub trait JobRunner<J> {
    /// Whether `run` can run the job; if not, `pause` must do so by [`IdleWait::run_detached`].
    /// Must only read.
    fn suits(&self, _job: &J) -> bool {
        true
    }

    /// Runs a job. Returning false ends the worker without touching the queue again: after a fork
    /// in the job, this is the child, which must not use the queue.
    fn run(&mut self, job: J) -> bool;

    /// Must call a method of `wait`, which blocks until there may be something for `run` to do.
    fn pause(&mut self, wait: IdleWait<'_, J>);
}

/// A worker in a state in which it can run other jobs, or none.
pub trait DetachedRunner<J> {
    /// Whether [`DetachedRunner::run`] can run the job. Must only read.
    fn suits(&self, job: &J) -> bool;

    /// Runs a job.
    fn run(&mut self, job: J);

    /// Called when there is nothing to do and the worker is about to block.
    fn idle(&mut self);

    /// Called when a spin has found a job that only [`JobRunner::run`] can run: waits a moment for
    /// what that needs, without sleeping. Returns whether it came.
    fn spin_for_release(&mut self) -> bool {
        true
    }
}

/// Blocks an idle worker.
pub struct IdleWait<'a, J> {
    queue: &'a Queue<J>,
    slot: &'a mut WorkerSlot,
}

impl<J> IdleWait<'_, J> {
    /// Returns when there may be a job to take, or the queue stops.
    pub fn block(self) {
        self.queue.wait(self.slot);
    }

    /// Runs the jobs that `detached` can run. Returns when the oldest job is another one, or the
    /// queue stops.
    pub fn run_detached(self, detached: &mut impl DetachedRunner<J>) {
        let mut waited = Waited::Nothing;
        loop {
            match self.queue.take(self.slot, |job| detached.suits(job)) {
                Take::Job(job) => detached.run(job),
                Take::Nothing => {
                    detached.idle();
                    waited = self.queue.wait(self.slot);
                }
                Take::Unsuited => {
                    if waited == Waited::Spinning && !detached.spin_for_release() {
                        self.slot.note_fruitless_spin();
                    }
                    return;
                }
                Take::Stop => return,
            }
        }
    }
}

/// Runs jobs until the queue stops and is empty. To be run once for each `NewWorker`, on its own
/// thread.
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
                runner.pause(IdleWait { queue, slot: &mut slot });
            }
            Take::Stop => return queue.leave(slot),
        }
    }
}
