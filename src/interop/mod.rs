//! Python objects that the crate looks up by name, each once.

pub mod imports;
