//! The loop does not sleep through what another thread has queued for it. A loop that does is a
//! deadlock, which loom reports.

use std::cell::RefCell;
use std::sync::Arc;

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::MessageQueue;
use crate::reactor::{Poller, WakeSignal};
use crate::{Preemptions, explore};

/// What of a loop has to do with waking it.
struct Loop {
    poller: Poller,
    wake_signal: Arc<WakeSignal>,
    inbox: Arc<MessageQueue<u32>>,
    /// The GIL, and the ready queue that it protects.
    gil: Arc<Mutex<Vec<u32>>>,
}

impl Loop {
    fn new() -> Self {
        let poller = Poller::new().unwrap();
        let wake_signal = Arc::new(WakeSignal::new(poller.waker()));
        let inbox = Arc::new(MessageQueue::new(wake_signal.clone()));
        Self { poller, wake_signal, inbox, gil: Arc::default() }
    }

    /// Turns until `count` messages and callbacks have come; returns them.
    fn run_until(&self, count: usize) -> Vec<u32> {
        let mut found = Vec::new();
        loop {
            self.read_inbox(&mut found);
            found.append(&mut self.gil());
            if found.len() >= count {
                return found;
            }
            self.sleep();
            self.read_inbox(&mut found);
        }
    }

    /// As the turn does it.
    fn read_inbox(&self, found: &mut Vec<u32>) {
        if self.inbox.has_messages() {
            found.append(&mut self.inbox.take());
        }
    }

    fn sleep(&self) {
        let ready = RefCell::new(Some(self.gil()));
        let has_callbacks = || ready.borrow().as_ref().is_some_and(|ready| !ready.is_empty());
        let has_work = || has_callbacks() || self.inbox.has_messages();
        self.wake_signal.sleep_unless(has_work, |may_sleep| {
            if may_sleep {
                drop(ready.take());
                self.poller.wait();
            } else {
                self.poller.look();
            }
        });
    }

    fn gil(&self) -> loom::sync::MutexGuard<'_, Vec<u32>> {
        self.gil.lock().unwrap()
    }
}

/// A thread that runs `body`.
fn other(body: impl FnOnce() + 'static) -> thread::JoinHandle<()> {
    thread::spawn(body)
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

fn sorted(mut found: Vec<u32>) -> Vec<u32> {
    found.sort_unstable();
    found
}

#[test]
fn a_message_wakes_the_loop() {
    explore(Preemptions::Any, || {
        let event_loop = Loop::new();
        let inbox = event_loop.inbox.clone();
        let sender = other(move || inbox.post(1).expect("the loop is open"));
        assert_eq!(event_loop.run_until(1), [1]);
        join([sender]);
    });
}

#[test]
fn each_message_wakes_the_loop() {
    explore(Preemptions::AtMost(5), || {
        let event_loop = Loop::new();
        let inbox = event_loop.inbox.clone();
        let sender = other(move || {
            inbox.post(1).expect("the loop is open");
            inbox.post(2).expect("the loop is open");
        });
        assert_eq!(event_loop.run_until(2), [1, 2]);
        join([sender]);
    });
}

#[test]
fn messages_of_two_threads_wake_the_loop() {
    explore(Preemptions::AtMost(4), || {
        let event_loop = Loop::new();
        let senders = [1, 2].map(|message| {
            let inbox = event_loop.inbox.clone();
            other(move || inbox.post(message).expect("the loop is open"))
        });
        assert_eq!(sorted(event_loop.run_until(2)), [1, 2]);
        join(senders);
    });
}

/// As a worker thread does it: with the GIL it queues, and notifies the loop when it has released
/// the GIL.
#[test]
fn a_callback_wakes_the_loop() {
    explore(Preemptions::Any, || {
        let event_loop = Loop::new();
        let (gil, wake_signal) = (event_loop.gil.clone(), event_loop.wake_signal.clone());
        let sender = other(move || {
            gil.lock().unwrap().push(1);
            wake_signal.notify();
        });
        assert_eq!(event_loop.run_until(1), [1]);
        join([sender]);
    });
}

#[test]
fn a_callback_and_a_message_wake_the_loop() {
    explore(Preemptions::AtMost(4), || {
        let event_loop = Loop::new();
        let (gil, wake_signal) = (event_loop.gil.clone(), event_loop.wake_signal.clone());
        let inbox = event_loop.inbox.clone();
        let senders = [
            other(move || {
                gil.lock().unwrap().push(1);
                wake_signal.notify();
            }),
            // A detached job enqueues its reply, and notifies the loop later.
            other(move || inbox.enqueue(2).expect("the loop is open").notify()),
        ];
        assert_eq!(sorted(event_loop.run_until(2)), [1, 2]);
        join(senders);
    });
}

/// Code that turns the loop inside a callback takes the replies alone, and leaves what else there
/// is for the next turn.
#[test]
fn what_a_nested_turn_leaves_is_found_later() {
    explore(Preemptions::AtMost(5), || {
        let event_loop = Loop::new();
        let inbox = event_loop.inbox.clone();
        let sender = other(move || {
            inbox.post(1).expect("the loop is open");
            inbox.post(2).expect("the loop is open");
        });
        let mut found = event_loop.inbox.take_matching(|&message| message == 2);
        found.extend(event_loop.run_until(2 - found.len()));
        assert_eq!(sorted(found), [1, 2]);
        join([sender]);
    });
}

#[test]
fn closing_loses_no_message() {
    explore(Preemptions::Any, || {
        let event_loop = Loop::new();
        let inbox = event_loop.inbox.clone();
        let refused = Arc::new(AtomicBool::new(false));
        let sender = {
            let refused = refused.clone();
            other(move || refused.store(inbox.post(1).is_err(), Ordering::Relaxed))
        };
        let mut found = Vec::new();
        event_loop.read_inbox(&mut found);
        found.append(&mut event_loop.inbox.close());
        event_loop.wake_signal.disconnect();
        join([sender]);
        assert_eq!(found.is_empty(), refused.load(Ordering::Relaxed));
    });
}

/// On free-threaded builds: before the loop appends to its own queue, it takes what other threads
/// have queued. So what was queued before something that the loop has seen comes first.
#[test]
fn a_callback_of_another_thread_runs_before_what_the_loop_queues_later() {
    explore(Preemptions::Any, || {
        let event_loop = Loop::new();
        let has_returned = Arc::new(AtomicBool::new(false));
        let sender = {
            let (queue, has_returned) = (event_loop.inbox.clone(), has_returned.clone());
            other(move || {
                queue.post(1).expect("the loop is open");
                has_returned.store(true, Ordering::Release);
            })
        };
        let mut ready = Vec::new();
        // An earlier turn takes what there is, perhaps while the thread enqueues.
        event_loop.read_inbox(&mut ready);
        let is_first = has_returned.load(Ordering::Acquire);
        event_loop.read_inbox(&mut ready);
        ready.push(2);
        join([sender]);
        event_loop.read_inbox(&mut ready);
        assert!(ready == [1, 2] || !is_first && ready == [2, 1]);
    });
}
