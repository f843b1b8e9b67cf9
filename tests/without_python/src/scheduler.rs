//! The queue of messages.

#[path = "../../../src/scheduler/message_queue.rs"]
mod message_queue;
