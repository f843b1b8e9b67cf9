//! The job queue.

#[path = "../../../src/executor/queue/mod.rs"]
pub mod queue;
