//! What has no Python in it.

#[path = "../../../src/ffi/panic.rs"]
pub mod panic;
