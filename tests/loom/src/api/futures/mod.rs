//! The arena, and the state of a future between polls and wake-ups.

#[path = "../../../../../src/api/futures/arena.rs"]
mod arena;
#[cfg(test)]
mod models;
#[path = "../../../../../src/api/futures/poll_state.rs"]
mod poll_state;

use std::pin::Pin;

/// A future whose output does not matter.
pub type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
