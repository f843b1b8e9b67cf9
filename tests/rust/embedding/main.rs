//! The loop in a Rust program. The cases run one after another on the main thread of one process.
//!
//!     cargo test --features embed --test embedding [NAME]...
//!
//! With the name of a Python module in FERROLOOP_TEST_HOST it runs that instead.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program")]

mod awaiting;
mod cancelling;
mod coroutines;
mod hosting;
#[path = "../interface.rs"]
mod interface;
mod leaks;
mod network;
mod panics;
mod support;
mod threads;
mod time;

pub use ::ferroloop;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use pyo3::prelude::*;
use support::Case;

#[global_allocator]
static ALLOCATOR: leaks::CountingAllocator = leaks::CountingAllocator;

fn main() -> ExitCode {
    if let Ok(module) = std::env::var("FERROLOOP_TEST_HOST") {
        let host = if module.is_empty() { hosting::exiting_host } else { hosting::running_host };
        return host(&module).map_or_else(
            |error| {
                Python::attach(|py| error.print(py));
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        );
    }
    let cases: Vec<Case> = [
        coroutines::CASES,
        cancelling::CASES,
        awaiting::CASES,
        time::CASES,
        network::CASES,
        panics::CASES,
        threads::CASES,
        hosting::CASES,
        leaks::CASES,
    ]
    .concat();
    let wanted: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut failed = Vec::new();
    for (name, case) in cases {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        println!("{name}");
        if catch_unwind(AssertUnwindSafe(case)).is_err() {
            failed.push(name);
        }
    }
    for (name, coroutine) in interface::CASES {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        println!("{name}");
        let runtime = support::runtime();
        let done = Python::attach(|py| runtime.run(&coroutine(py)?).map(drop));
        if let Err(error) = done.and_then(|()| runtime.close()) {
            println!("{error}");
            failed.push(name);
        }
    }
    println!("\nembedding: {}", if failed.is_empty() { "ok".into() } else { failed.join(", ") });
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
