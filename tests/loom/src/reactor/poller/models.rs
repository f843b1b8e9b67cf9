//! A wake-up ends a wait, and what its caller wrote before is visible to the polling thread then.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::Poller;
use crate::{Preemptions, explore};

/// The threads write with relaxed stores, so that only the waker can order them.
#[test]
fn what_was_written_before_a_wake_up_is_seen_after_it() {
    explore(Preemptions::AtMost(4), || {
        let poller = Poller::new().unwrap();
        let written: Arc<[AtomicBool; 2]> = Arc::default();
        let threads = [0, 1].map(|number| {
            let (waker, written) = (poller.waker(), written.clone());
            thread::spawn(move || {
                written[number].store(true, Ordering::Relaxed);
                waker.wake().unwrap();
            })
        });
        while !written.iter().all(|written| written.load(Ordering::Relaxed)) {
            poller.wait();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn each_wake_up_ends_a_wait() {
    explore(Preemptions::Any, || {
        let poller = Poller::new().unwrap();
        let waker = poller.waker();
        waker.wake().unwrap();
        poller.wait();
        let thread = thread::spawn(move || waker.wake().unwrap());
        poller.wait();
        thread.join().unwrap();
    });
}
