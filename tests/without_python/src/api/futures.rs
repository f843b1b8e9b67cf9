//! The arena of Rust futures, and what their wakers do.

#[path = "../../../../src/api/futures/arena.rs"]
mod arena;
#[path = "../../../../src/api/futures/poll_state.rs"]
mod poll_state;

use std::pin::Pin;

/// A future whose output does not matter.
pub type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
