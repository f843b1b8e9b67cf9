//! A job that needs no interpreter: a worker thread runs it without the GIL, and the loop's thread
//! converts the reply to Python objects.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::executor::completion;
use crate::reactor::SlotKey;
use crate::reactor::WakeSignal;
use crate::scheduler::inbox::{Inbox, Message};

/// The function that a worker thread runs.
pub type DetachedWork = Box<dyn FnOnce() -> MakeResult + Send>;

/// Creates the result or the exception on the loop's thread.
pub type MakeResult = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

/// The work, and the destination of its reply. Holds no Python object, so it can be dropped in any
/// thread.
pub(in crate::executor) struct DetachedJob {
    work: DetachedWork,
    inbox: Arc<Inbox>,
    /// The slot in which the future waits.
    key: SlotKey,
}

impl DetachedJob {
    pub(in crate::executor) fn new(work: DetachedWork, inbox: Arc<Inbox>, key: SlotKey) -> Self {
        Self { work, inbox, key }
    }

    /// Runs the work and sends its reply to the loop. Returns the wake signal, which the caller
    /// must notify afterwards; `None` if the loop is closed.
    pub(in crate::executor) fn run(self) -> Option<Arc<WakeSignal>> {
        let reply = (self.work)();
        let message = Message::Reply(
            self.key,
            Box::new(move |scheduler, waiting| {
                completion::deliver_reply(scheduler, waiting, reply)
            }),
        );
        self.inbox.enqueue(message).ok()
    }

    /// Makes the loop cancel the future.
    pub(in crate::executor) fn cancel(self) {
        let message = Message::Reply(self.key, Box::new(completion::cancel));
        // Fails if the loop is closed, which has dropped the future.
        drop(self.inbox.post(message));
    }
}
