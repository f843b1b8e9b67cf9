//! Rust futures.

mod futures;
