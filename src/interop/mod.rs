//! Translation between Rust and Python objects.
//!
//! - `imports.rs`: the Python objects that the crate imports;
//! - `error.rs`: system errors as exceptions;
//! - `address.rs`: socket addresses;
//! - `warning.rs`: ResourceWarnings as asyncio's classes issue them.

#![forbid(unsafe_code)]

pub mod address;
pub mod error;
pub mod imports;
pub mod warning;
