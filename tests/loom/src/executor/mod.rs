//! The job queue.

mod queue;
