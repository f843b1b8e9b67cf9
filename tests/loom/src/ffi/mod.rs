//! Panics of a program's code.

#[path = "../../../../src/ffi/panic.rs"]
pub mod panic;
