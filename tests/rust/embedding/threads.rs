//! Several threads and one loop; several loops in several threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ferroloop::{Closed, JoinError, Runtime, sleep, yield_now};
use pyo3::prelude::*;

use crate::support::{Case, fresh_counter, runtime, with_counted_drop};

pub const CASES: &[Case] = &[
    ("any thread spawns onto the loop", spawning),
    ("any thread stops the loop", stopping),
    ("a sleeping loop is woken immediately", waking),
    ("a closed loop refuses", closed),
    ("joining a cancelled future is an error", cancelled),
    ("calls get the loop, and their errors are reported", calls),
    ("several loops run in several threads", several),
    ("wake-ups from many threads are not lost", storm),
];

fn spawning() {
    let runtime = runtime();
    let handle = runtime.handle();
    let worker = thread::spawn(move || {
        let numbers: Vec<_> = (0..200)
            .map(|number| {
                handle.spawn(async move {
                    yield_now().await;
                    number
                })
            })
            .collect();
        let sum: u32 = numbers.into_iter().map(|joined| joined.unwrap().join().unwrap()).sum();
        let local = handle.spawn_with(|| with_counted_drop(async { 7 })).unwrap().join();
        handle.stop().unwrap();
        (sum, local)
    });
    runtime.run_forever().unwrap();
    assert_eq!(worker.join().unwrap(), (199 * 100, Ok(7)));
}

fn stopping() {
    let runtime = runtime();
    let handle = runtime.handle();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        handle.stop()
    });
    let error = runtime.block_on(std::future::pending::<()>()).unwrap_err();
    assert_eq!(error.to_string(), "RuntimeError: Event loop stopped before Future completed.");
    thread.join().unwrap().unwrap();
    // The loop can run again.
    assert_eq!(runtime.block_on(async { 3 }).unwrap(), 3);
}

fn waking() {
    let runtime = runtime();
    let handle = runtime.handle();
    let thread = thread::spawn(move || {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(1));
            let started = Instant::now();
            handle.spawn(async {}).unwrap().join().unwrap();
            slowest = slowest.max(started.elapsed());
        }
        handle.stop().unwrap();
        slowest
    });
    runtime.run_forever().unwrap();
    assert!(thread.join().unwrap() < Duration::from_secs(5));
}

fn closed() {
    let runtime = runtime();
    let handle = runtime.handle();
    let early = handle.spawn(async { 1 }).unwrap();
    runtime.close().unwrap();
    // Closing runs the loop once more, or drops futures that it has not started.
    assert!(matches!(early.join(), Ok(1) | Err(JoinError::Dropped)));
    assert_eq!(handle.spawn(async {}).map(drop), Err(Closed));
    assert_eq!(handle.stop(), Err(Closed));
}

fn cancelled() {
    let drops = fresh_counter();
    let runtime = runtime();
    let joined =
        runtime.handle().spawn_with(|| with_counted_drop(std::future::pending::<()>())).unwrap();
    runtime.block_on(sleep_a_little()).unwrap();
    assert_eq!(drops.count(), 0);
    runtime.close().unwrap();
    assert_eq!(joined.join(), Err(JoinError::Dropped));
    assert_eq!(drops.count(), 1);
    drops.assert_here();
}

async fn sleep_a_little() {
    sleep(Duration::from_millis(1)).await;
}

fn calls() {
    let runtime = runtime();
    Python::attach(|py| {
        let code = c"messages = []; handler = lambda loop, c: messages.append(str(c['exception']))";
        py.run(code, None, None)?;
        let handler = py.eval(c"handler", None, None)?;
        runtime.event_loop(py).call_method1("set_exception_handler", (handler,)).map(drop)
    })
    .unwrap();
    let handle = runtime.handle();
    handle.call(|event_loop| event_loop.call_method0("no_such_method").map(drop)).unwrap();
    handle.call(|_| panic!("in a call")).unwrap();
    handle.call(|event_loop| event_loop.call_method0("stop").map(drop)).unwrap();
    runtime.run_forever().unwrap();
    let messages: Vec<String> =
        Python::attach(|py| py.eval(c"messages", None, None)?.extract()).unwrap();
    assert_eq!(messages.len(), 2);
    assert!(messages[0].contains("no_such_method"), "{messages:?}");
    assert_eq!(messages[1], "Rust future panicked: in a call");
}

fn several() {
    Python::initialize();
    let threads: Vec<_> = (0..4)
        .map(|number| {
            thread::spawn(move || {
                let drops = fresh_counter();
                for _ in 0..5 {
                    let runtime = Runtime::new()?;
                    let doubled = runtime.block_on(async move {
                        for _ in 0..50 {
                            with_counted_drop(yield_now()).await;
                        }
                        sleep_a_little().await;
                        number * 2
                    })?;
                    assert_eq!(doubled, number * 2);
                    runtime.close()?;
                }
                assert_eq!(drops.count(), 250);
                drops.assert_here();
                Ok::<_, PyErr>(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
}

fn storm() {
    // Each number is sent by one of four threads, all of which wake the same futures.
    let received = Arc::new(AtomicUsize::new(0));
    let (send, receive) = futures_channel::mpsc::unbounded::<usize>();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let send = send.clone();
            thread::spawn(move || (0..5000).for_each(|n| send.unbounded_send(n).unwrap()))
        })
        .collect();
    drop(send);
    let count = received.clone();
    runtime()
        .block_on(async move {
            futures_util::StreamExt::for_each(receive, |_| {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::ready(())
            })
            .await;
        })
        .unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(received.load(Ordering::Relaxed), 20_000);
}
