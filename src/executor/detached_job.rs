//! A job that needs no interpreter: a thread does it without the GIL, and the loop's thread makes
//! Python objects of the answer.

#![forbid(unsafe_code)]

use std::sync::Arc;

use pyo3::prelude::*;

use crate::executor::completion;
use crate::reactor::WakeSignal;
use crate::scheduler::inbox::{Inbox, Message, SlotKey};

/// What a thread does.
pub type DetachedWork = Box<dyn FnOnce() -> MakeResult + Send>;

/// Makes the result, or the exception, on the loop's thread.
pub type MakeResult = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

/// The work, and where the answer goes. Holds no Python object, so it can be dropped anywhere.
pub(in crate::executor) struct DetachedJob {
    work: DetachedWork,
    inbox: Arc<Inbox>,
    /// Where the future waits.
    key: SlotKey,
}

impl DetachedJob {
    pub(in crate::executor) fn new(work: DetachedWork, inbox: Arc<Inbox>, key: SlotKey) -> Self {
        Self { work, inbox, key }
    }

    /// Does the work and leaves the answer for the loop. Returns the wake signal to ring afterwards;
    /// none if the loop is closed.
    pub(in crate::executor) fn run(self) -> Option<Arc<WakeSignal>> {
        let answer = (self.work)();
        let message = Message::Reply(
            self.key,
            Box::new(move |scheduler, waiting| completion::answer(scheduler, waiting, answer)),
        );
        self.inbox.enqueue(message).ok()
    }

    /// Has the loop cancel the future.
    pub(in crate::executor) fn cancel(self) {
        let message = Message::Reply(self.key, Box::new(completion::cancel));
        // A closed loop's futures are nobody's business any more.
        drop(self.inbox.post(message));
    }
}
