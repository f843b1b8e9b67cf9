//! Objects that CPython and the crate share: their memory, their slots and their registries.

pub mod cell;
pub mod descriptor_owners;
pub mod freelist;
pub mod instance_pool;
pub mod object;
pub mod shared_buffer;
pub mod slots;
mod trashcan;
pub mod weak_registry;
