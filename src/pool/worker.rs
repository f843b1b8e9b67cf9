//! What a worker thread does from its start to its end.

#![forbid(unsafe_code)]

use super::queue::{Place, Queue, Take};

/// What the worker needs from those who use the pool.
///
/// The worker calls both methods with no lock held. It asks for a job only between them, so
/// whatever `pause` gives up while it waits (the right to run Python, say) is back when a job is
/// taken from the queue: a job is never held by a worker that cannot do it yet.
pub trait Surroundings<J> {
    /// Does a job. False ends the worker at once, without another look at the queue: after a
    /// fork in the job, this is the child, where the queue is nobody's.
    fn run(&mut self, job: J) -> bool;

    /// Calls `wait`, which blocks until there may be something to do.
    fn pause(&mut self, wait: Wait<'_, J>);
}

/// Blocks an idle worker.
pub struct Wait<'a, J> {
    queue: &'a Queue<J>,
    place: &'a mut Place,
}

impl<J> Wait<'_, J> {
    /// Returns when there is a job to try for, or the queue stops.
    pub fn block(self) {
        self.queue.wait(self.place);
    }
}

/// Works until the queue stops and is empty. For each [`super::NewWorker`], on its own thread.
pub fn work<J>(queue: &Queue<J>, surroundings: &mut impl Surroundings<J>) {
    let mut place = Place::new();
    loop {
        match queue.take(&mut place) {
            Take::Job(job) => {
                if !surroundings.run(job) {
                    return;
                }
            }
            Take::Nothing => surroundings.pause(Wait { queue, place: &mut place }),
            Take::Stop => return,
        }
    }
}
