//! No wake-up of a future is lost and none counts twice; a future is dropped once, in its thread.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::LocalFuture;
use super::arena::{FutureSlot, Release, drop_released_futures};
use super::poll_state::PollState;
use crate::{Preemptions, explore};

/// A future that waits for `events`, and what its waker sends to its loop.
#[derive(Default)]
struct Waiting {
    state: PollState,
    /// What the future waits for. Relaxed, so that only the state can order it.
    events: [AtomicBool; 2],
    messages: Mutex<u32>,
    sent: Condvar,
}

impl Waiting {
    /// As the future's waker does it.
    fn wake(&self) {
        if self.state.wake() {
            *self.messages.lock().unwrap() += 1;
            self.sent.notify_one();
        }
    }

    fn happen(&self, event: usize) {
        self.events[event].store(true, Ordering::Relaxed);
        self.wake();
    }

    /// As the coroutine does it: polls until the future is ready, and waits for a message while it
    /// is parked. Returns the number of polls.
    fn run(&self, ready: impl Fn() -> bool) -> u32 {
        let mut polls = 0;
        loop {
            self.state.begin_poll();
            polls += 1;
            if ready() {
                self.state.retire();
                return polls;
            }
            if self.state.end_poll() {
                let mut messages = self.messages.lock().unwrap();
                while *messages == 0 {
                    messages = self.sent.wait(messages).unwrap();
                }
                assert_eq!(std::mem::take(&mut *messages), 1, "woken twice");
            }
        }
    }

    fn has_happened(&self, event: usize) -> bool {
        self.events[event].load(Ordering::Relaxed)
    }
}

#[test]
fn a_wake_up_is_not_lost() {
    explore(Preemptions::Any, || {
        let future = Arc::new(Waiting::default());
        let waker = {
            let future = future.clone();
            thread::spawn(move || future.happen(0))
        };
        let polls = future.run(|| future.has_happened(0));
        waker.join().unwrap();
        assert!(polls <= 2, "polled {polls} times for one wake-up");
    });
}

#[test]
fn wake_ups_of_two_threads_are_not_lost() {
    explore(Preemptions::AtMost(4), || {
        let future = Arc::new(Waiting::default());
        let wakers = [0, 1].map(|event| {
            let future = future.clone();
            thread::spawn(move || future.happen(event))
        });
        let polls = future.run(|| future.has_happened(0) && future.has_happened(1));
        for waker in wakers {
            waker.join().unwrap();
        }
        assert!(polls <= 3, "polled {polls} times for two wake-ups");
    });
}

#[test]
fn a_finished_future_is_not_woken() {
    explore(Preemptions::Any, || {
        let future = Arc::new(Waiting::default());
        let waker = {
            let future = future.clone();
            thread::spawn(move || {
                future.happen(0);
                future.happen(1);
            })
        };
        future.run(|| future.has_happened(0));
        waker.join().unwrap();
        let messages = *future.messages.lock().unwrap();
        assert_eq!(messages, 0, "a message for a future that is over");
    });
}

/// Notes how often it is dropped. Not `Send`, as a future need not be.
struct Dropped(Rc<Cell<u32>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// A future in this thread's arena, and how often it was dropped.
fn slot() -> (FutureSlot, Rc<Cell<u32>>) {
    let count = Rc::new(Cell::new(0));
    let witness = Dropped(count.clone());
    let future: LocalFuture = Box::pin(async move {
        let _witness = witness;
        std::future::pending().await
    });
    (FutureSlot::new(future), count)
}

#[test]
fn a_future_released_elsewhere_is_dropped_once() {
    explore(Preemptions::Any, || {
        let (slot, count) = slot();
        let other = thread::spawn(move || {
            let deferred = matches!(slot.release(), Release::Deferred);
            assert!(deferred, "dropped in a thread that is not its own");
            drop(slot);
        });
        drop_released_futures();
        other.join().unwrap();
        drop_released_futures();
        assert_eq!(count.get(), 1);
    });
}

#[test]
fn a_slot_has_one_owner() {
    explore(Preemptions::Any, || {
        let (first, first_count) = slot();
        let other = thread::spawn(move || {
            first.release();
            drop(first);
        });
        // It may get the slot of the first, once that is free.
        let (second, second_count) = slot();
        other.join().unwrap();
        drop_released_futures();
        assert_eq!((first_count.get(), second_count.get()), (1, 0));
        let (third, third_count) = slot();
        assert!(matches!(second.take(), Ok(Some(_))));
        assert!(matches!(third.take(), Ok(Some(_))));
        assert_eq!((second_count.get(), third_count.get()), (1, 1));
    });
}

#[test]
fn two_threads_release_futures() {
    explore(Preemptions::Any, || {
        let (slots, counts): (Vec<_>, Vec<_>) = (0..2).map(|_| slot()).unzip();
        let threads: Vec<_> =
            slots.into_iter().map(|slot| thread::spawn(move || drop(slot))).collect();
        drop_released_futures();
        for thread in threads {
            thread.join().unwrap();
        }
        drop_released_futures();
        assert!(counts.iter().all(|count| count.get() == 1));
    });
}

/// Another thread asks for a future to be dropped while the future's own thread drops the slot.
#[test]
fn a_request_does_not_affect_the_next_future() {
    explore(Preemptions::Any, || {
        let (first, first_count) = slot();
        // Loom's, so that either thread may be the last to drop it.
        let first = loom::sync::Arc::new(first);
        let other = {
            let first = first.clone();
            thread::spawn(move || drop(first.release()))
        };
        drop(first);
        other.join().unwrap();
        let (second, second_count) = slot();
        drop_released_futures();
        assert_eq!((first_count.get(), second_count.get()), (1, 0));
        drop(second);
    });
}
