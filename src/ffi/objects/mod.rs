//! Objects that CPython and the crate share: their memory, slots and registries.
//!
//! * `cell.rs`: interior mutability under the GIL;
//! * `process_state.rs`: state of all loops;
//! * `object.rs`: type checks, dicts and garbage collector tracking of single objects;
//! * `slots.rs`: finalizers and the awaiting protocol;
//! * `instance_pool.rs`, `freelist.rs`, `kept_memory.rs`: reuse of deallocated instances;
//! * `immortal.rs`: objects to which references are not counted;
//! * `trashcan.rs`: bounds the nesting of deallocators;
//! * `weak_registry.rs`: live objects, without weak references;
//! * `descriptor_owners.rs`: which object owns a descriptor;
//! * `shared_buffer.rs`, `buffer_parts.rs`: reusable buffers with the buffer protocol.

pub mod buffer_parts;
pub mod cell;
pub mod descriptor_owners;
pub mod freelist;
pub mod immortal;
pub mod instance_pool;
pub mod kept_memory;
pub mod object;
pub mod process_state;
pub mod shared_buffer;
pub mod slots;
mod trashcan;
pub mod weak_registry;
