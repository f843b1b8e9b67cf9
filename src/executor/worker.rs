//! The body of a pool thread.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::prelude::*;

use super::crew::Crew;
use super::job::Job;
use crate::pool::{Surroundings, Wait, work};
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
        let mut attached = Attached { py, crew: &self.crew, alarm: None };
        work(self.crew.queue(), &mut attached);
        attached.ring();
    }
}

/// A worker that holds the GIL except while it waits.
struct Attached<'a, 'py> {
    py: Python<'py>,
    crew: &'a Crew,
    /// Loop that has got an outcome and has not been woken yet: while this thread holds the GIL
    /// a woken loop could do nothing but wait for it.
    alarm: Option<Arc<Alarm>>,
}

impl Attached<'_, '_> {
    fn ring(&mut self) {
        if let Some(alarm) = self.alarm.take() {
            alarm.ring();
        }
    }
}

impl Surroundings<Py<Job>> for Attached<'_, '_> {
    fn run(&mut self, job: Py<Job>) -> bool {
        // The next job may take long.
        self.ring();
        self.alarm = job.bind(self.py).get().run(self.py, self.crew);
        drop(job);
        self.crew.is_ours()
    }

    fn pause(&mut self, wait: Wait<'_, Py<Job>>) {
        let alarm = self.alarm.take();
        self.py.detach(|| {
            if let Some(alarm) = alarm {
                alarm.ring();
            }
            wait.block();
        });
    }
}
