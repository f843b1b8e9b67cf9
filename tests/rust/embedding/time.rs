//! Sleeping and timeouts.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ferroloop::{Elapsed, into_future, sleep, spawn_local, timeout};
use futures_util::future::join_all;
use pyo3::prelude::*;

use crate::support::{Case, runtime};

pub const CASES: &[Case] = &[
    ("a sleep never ends early", exact),
    ("sleeps end in their order", order),
    ("a timeout ends a slow future", limits),
    ("an endless sleep does not end", endless),
    ("dropped sleeps are removed from the timers", dropped),
];

fn exact() {
    runtime()
        .block_on(async {
            for micros in [0, 50, 300, 2000, 5000] {
                let (duration, started) = (Duration::from_micros(micros), Instant::now());
                sleep(duration).await;
                assert!(started.elapsed() >= duration);
            }
        })
        .unwrap();
}

fn order() {
    let log = runtime()
        .block_on(async {
            let log = Rc::new(RefCell::new(Vec::new()));
            let tasks = [5, 1, 3, 2, 4].map(|step| {
                let log = log.clone();
                Python::attach(|py| {
                    into_future(spawn_local(py, async move {
                        sleep(Duration::from_millis(step * 3)).await;
                        log.borrow_mut().push(step);
                        Ok(())
                    })?)
                })
                .unwrap()
            });
            for result in join_all(tasks).await {
                result.unwrap();
            }
            log.take()
        })
        .unwrap();
    // However late the loop is.
    assert_eq!(log, [1, 2, 3, 4, 5]);
}

fn limits() {
    runtime()
        .block_on(async {
            let late = timeout(Duration::from_millis(1), sleep(Duration::from_secs(60))).await;
            assert_eq!(late, Err(Elapsed));
            let early = timeout(Duration::from_secs(60), async { 5 }).await;
            assert_eq!(early, Ok(5));
        })
        .unwrap();
}

fn dropped() {
    let runtime = runtime();
    runtime
        .block_on(async {
            for _ in 0..10_000 {
                let mut later = std::pin::pin!(sleep(Duration::from_secs(60)));
                assert!(futures_util::poll!(&mut later).is_pending());
            }
        })
        .unwrap();
    Python::attach(|py| {
        // Not even the first one stays until it is due.
        let repr = runtime.event_loop(py).repr().unwrap().to_string();
        assert!(repr.contains("running=False"), "{repr}");
        let alive =
            c"sum(type(o).__name__ == '_TimerAlarm' for o in __import__('gc').get_objects())";
        let alive: usize = py.eval(alive, None, None).unwrap().extract().unwrap();
        assert!(alive < 200, "{alive} timers");
    });
}

fn endless() {
    let runtime = runtime();
    let handle = runtime.handle();
    // It is the only timer, so the loop sleeps as long as the poller can.
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        handle.stop()
    });
    let slept = runtime.block_on(sleep(Duration::MAX)).unwrap_err().to_string();
    assert_eq!(slept, "RuntimeError: Event loop stopped before Future completed.");
    thread.join().unwrap().unwrap();
    let limited = runtime.block_on(timeout(Duration::MAX, async { 1 })).unwrap();
    assert_eq!(limited, Ok(1));
    runtime.close().unwrap();
}
