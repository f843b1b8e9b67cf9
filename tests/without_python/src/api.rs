//! Rust futures.

pub mod futures;
