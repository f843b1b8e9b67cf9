//! Drives a server over many connections, checks every byte that it receives and prints the cost of
//! one operation as a line of JSON.
//!
//! One thread, one epoll: it is far cheaper per message than any Python server, so that on its own
//! core it is never the bottleneck.
//!
//! Exit status: 0, or 2 for a wrong reply, 3 for a server that stopped answering, 1 for the rest.
#![deny(missing_docs)]

mod dialogue;
mod engine;
mod failure;
mod latency;
mod options;
mod poller;
mod process;
mod stream;
mod tls;

use std::process::ExitCode;

use failure::Failure;
use options::{Mode, Options};

fn run() -> Result<f64, Failure> {
    let options = Options::from_arguments(std::env::args().skip(1))?;
    process::raise_file_limit();
    if let Some(cpu) = options.cpu {
        process::pin(cpu)?;
    }
    match (options.mode, options.latency) {
        (Mode::Idle, _) => engine::hold_idle(&options),
        (_, Some(percentage)) => latency::measure(&options, percentage),
        _ => engine::drive(&options),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(cost) => {
            println!("{{\"cost\": {cost:.1}}}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}
