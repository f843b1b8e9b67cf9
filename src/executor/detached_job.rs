//! A job that needs no interpreter: a thread does it without the GIL, and the loop's thread makes
//! Python objects of the answer.

#![forbid(unsafe_code)]

use std::sync::Arc;

use pyo3::prelude::*;

use crate::executor::completion;
use crate::scheduler::Alarm;
use crate::scheduler::inbox::{Inbox, Key, Letter};

/// What a thread does.
pub type Work = Box<dyn FnOnce() -> Answer + Send>;

/// Makes the result, or the exception, on the loop's thread.
pub type Answer = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

/// The work, and where the answer goes. Holds no Python object, so it can be dropped anywhere.
pub(in crate::executor) struct Errand {
    work: Work,
    inbox: Arc<Inbox>,
    /// Where the future waits.
    key: Key,
}

impl Errand {
    pub(in crate::executor) fn new(work: Work, inbox: Arc<Inbox>, key: Key) -> Self {
        Self { work, inbox, key }
    }

    /// Does the work and leaves the answer for the loop. Returns the alarm to ring afterwards;
    /// none if the loop is closed.
    pub(in crate::executor) fn run(self) -> Option<Arc<Alarm>> {
        let answer = (self.work)();
        let letter = Letter::Answer(
            self.key,
            Box::new(move |scheduler, waiting| completion::answer(scheduler, waiting, answer)),
        );
        self.inbox.leave(letter).ok()
    }

    /// Has the loop cancel the future.
    pub(in crate::executor) fn cancel(self) {
        let letter = Letter::Answer(self.key, Box::new(completion::cancel));
        // A closed loop's futures are nobody's business any more.
        drop(self.inbox.post(letter));
    }
}
