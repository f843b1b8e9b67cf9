//! The queue of messages to a loop, which threads use without the GIL. Contains no Python.
//!
//! A sender enqueues its message and then notifies the loop; the loop marks itself asleep and then
//! checks for messages: so it either sees the message or is woken.

use std::sync::Arc;

use crate::reactor::WakeSignal;
use crate::sys::sync::ForkSafeMutex;
use crate::sys::sync::atomic::{AtomicBool, Ordering};

/// The messages of one loop. Threads may keep it longer than the loop lives.
pub struct MessageQueue<M> {
    wake_signal: Arc<WakeSignal>,
    /// `None` once the loop is closed.
    messages: ForkSafeMutex<Option<Vec<M>>>,
    has_any: AtomicBool,
}

impl<M> MessageQueue<M> {
    /// An empty queue.
    pub fn new(wake_signal: Arc<WakeSignal>) -> Self {
        Self {
            wake_signal,
            messages: ForkSafeMutex::new(Some(Vec::new())),
            has_any: AtomicBool::new(false),
        }
    }

    /// Enqueues a message and wakes the loop if it sleeps. Callable from any thread, without the
    /// GIL.
    ///
    /// # Errors
    /// Returns the message if the loop is closed.
    pub fn post(&self, message: M) -> Result<(), M> {
        self.enqueue(message).map(|wake_signal| wake_signal.notify())
    }

    /// Enqueues a message and returns the wake signal, which the caller must notify afterwards.
    ///
    /// # Errors
    /// Returns the message if the loop is closed.
    pub fn enqueue(&self, message: M) -> Result<Arc<WakeSignal>, M> {
        match self.messages.lock().as_deref_mut() {
            Some(Some(messages)) => messages.push(message),
            _ => return Err(message),
        }
        self.has_any.store(true, Ordering::SeqCst);
        Ok(self.wake_signal.clone())
    }

    /// Whether there are messages.
    #[inline(always)]
    pub(super) fn has_messages(&self) -> bool {
        self.has_any.load(Ordering::SeqCst)
    }

    /// Takes all messages.
    pub(super) fn take(&self) -> Vec<M> {
        self.has_any.store(false, Ordering::SeqCst);
        let mut messages = self.messages.lock();
        messages.as_deref_mut().and_then(Option::as_mut).map(std::mem::take).unwrap_or_default()
    }

    /// Takes the messages for which `matches` returns true.
    pub(super) fn take_matching(&self, matches: impl FnMut(&M) -> bool) -> Vec<M> {
        let mut taken = Vec::new();
        if let Some(Some(messages)) = self.messages.lock().as_deref_mut() {
            let (matching, others) = std::mem::take(messages).into_iter().partition(matches);
            taken = matching;
            *messages = others;
            self.has_any.store(!messages.is_empty(), Ordering::SeqCst);
        }
        taken
    }

    /// Visits all messages, unless the loop is closed.
    ///
    /// # Errors
    /// Returns the error with which `visit` has ended it.
    #[cfg(Py_GIL_DISABLED)]
    pub(super) fn visit<E>(&self, visit: impl FnMut(&M) -> Result<(), E>) -> Result<(), E> {
        let messages = self.messages.lock();
        messages
            .as_deref()
            .and_then(Option::as_ref)
            .map_or(Ok(()), |m| m.iter().try_for_each(visit))
    }

    /// Refuses further messages. Returns the unread ones.
    pub(super) fn close(&self) -> Vec<M> {
        self.has_any.store(false, Ordering::SeqCst);
        self.messages.lock().as_deref_mut().and_then(Option::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Poller;
    use crate::sys::fork::tests::{holds_in_child, while_other_thread};

    fn message_queue() -> MessageQueue<u32> {
        let poller = Poller::new().unwrap();
        MessageQueue::new(Arc::new(WakeSignal::new(poller.waker())))
    }

    #[test]
    fn a_child_uses_the_queue_of_its_parent() {
        let queue = message_queue();
        queue.post(1).unwrap();
        assert!(holds_in_child(|| {
            queue.post(2).is_ok() && queue.has_messages() && queue.take() == [1, 2]
        }));
        assert_eq!(queue.take(), [1]);
    }

    /// The child cannot have the messages, but it can close its loop.
    #[test]
    fn a_child_goes_on_although_another_thread_held_the_lock_at_the_fork() {
        let queue = message_queue();
        let hold = |inside: &dyn Fn()| {
            let _guard = queue.messages.lock();
            inside();
        };
        while_other_thread(hold, || {
            assert!(holds_in_child(|| {
                queue.post(1) == Err(1) && queue.take().is_empty() && queue.close().is_empty()
            }));
        });
        queue.post(2).unwrap();
        assert_eq!(queue.take(), [2]);
    }
}
