//! The modules of the crate that contain no Python, as a crate of their own, so that their unit
//! tests run under tools in which an interpreter does not run, or runs slowly: `make memcheck`.
//!
//! The modules are the files in `src/` of the repository, under the same names.
#![allow(dead_code, unused_imports, reason = "the rest of the crate is not here to use them")]

mod api;
mod executor;
mod ffi;
#[path = "../../../src/metrics/mod.rs"]
mod metrics;
#[path = "../../../src/reactor/mod.rs"]
mod reactor;
mod scheduler;
#[path = "../../../src/sys/mod.rs"]
mod sys;
#[path = "../../../src/write_side/mod.rs"]
mod write_side;
