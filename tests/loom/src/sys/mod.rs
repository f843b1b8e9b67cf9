//! `sys` without what the models do not use.

#[path = "../../../../src/sys/fork.rs"]
pub mod fork;
pub mod sync;
