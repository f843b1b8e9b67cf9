//! Between Rust and Python objects: what we import, how errors translate.

pub mod error;
pub mod imports;
