//! The wake signal, the waker and the slab, on a poller that waits for the waker alone.

mod poller;
#[path = "../../../../src/reactor/slab.rs"]
mod slab;
#[path = "../../../../src/reactor/wake_signal.rs"]
mod wake_signal;

pub use poller::{Poller, Waker};
pub use slab::{Slab, SlotKey};
pub use wake_signal::WakeSignal;
