//! The body of a pool thread.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::prelude::*;

use crate::executor::job::Entry;
use crate::executor::queue::{Server, Surroundings, Wait, work};
use crate::executor::worker_threads::Crew;
use crate::scheduler::Alarm;

/// Target of a `threading.Thread`.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_Worker")]
pub struct Worker {
    crew: Arc<Crew>,
    state: AtomicU8,
}

const NEW: u8 = 0;
const RUNNING: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Worker {
    /// One more worker of the crew, which counts it already.
    pub fn of(crew: Arc<Crew>) -> Self {
        Self { crew, state: AtomicU8::new(NEW) }
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
    /// Work until the crew is told to stop.
    fn __call__(&self, py: Python<'_>) {
        if !self.leave_new(RUNNING) {
            return;
        }
        let mut attached = Attached { py, crew: &self.crew, alarm: PutOff::default() };
        work(self.crew.queue(), &mut attached);
        attached.alarm.ring();
    }
}

/// A worker that holds the GIL.
struct Attached<'a, 'py> {
    py: Python<'py>,
    crew: &'a Crew,
    /// Of the loop that has got an outcome: while this thread holds the GIL a woken loop could do
    /// nothing but wait for it.
    alarm: PutOff,
}

impl Surroundings<Entry> for Attached<'_, '_> {
    fn suits(&self, entry: &Entry) -> bool {
        matches!(entry, Entry::Call(_))
    }

    fn run(&mut self, entry: Entry) -> bool {
        // The next job may take long.
        self.alarm.ring();
        if let Entry::Call(job) = entry {
            self.alarm = PutOff(job.bind(self.py).get().run(self.py, self.crew));
        }
        self.crew.is_ours()
    }

    fn pause(&mut self, wait: Wait<'_, Entry>) {
        let mut detached = Detached(std::mem::take(&mut self.alarm));
        self.py.detach(|| {
            wait.serve(&mut detached);
            detached.0.ring();
        });
    }
}

/// A worker without the GIL.
struct Detached(
    /// Of the loop that has got an answer: it is woken when this worker counts as idle, so that
    /// it finds it for the next job.
    PutOff,
);

impl Server<Entry> for Detached {
    fn suits(&self, entry: &Entry) -> bool {
        matches!(entry, Entry::Errand(_))
    }

    fn run(&mut self, entry: Entry) {
        // The next job may take long.
        self.0.ring();
        if let Entry::Errand(errand) = entry {
            self.0 = PutOff(errand.run());
        }
    }

    fn idle(&mut self) {
        self.0.ring();
    }
}

/// A loop that has got something and has not been woken yet.
#[derive(Default)]
struct PutOff(Option<Arc<Alarm>>);

impl PutOff {
    fn ring(&mut self) {
        if let Some(alarm) = self.0.take() {
            alarm.ring();
        }
    }
}
