//! Between Rust and Python objects: what we import, how errors and addresses translate.

pub mod address;
pub mod error;
pub mod imports;
pub mod warning;
