//! Waiting for descriptors and for time. Knows no Python and is tested without it.
//!
//! - [`Poller`] waits; [`Registrar`] says, from any thread, what for; [`Waker`] interrupts it, and
//!   [`WakeSignal`] does so only while the loop sleeps.
//! - [`Registrations`] remembers who registered a descriptor; the generation in each [`Token`]
//!   keeps an event for a closed descriptor from its number's next owner.
//! - [`AdaptiveSpin`] says whether to poll for a moment before going to sleep.
//! - [`Timers`] orders deadlines; [`clock`] reads the time they are measured by.
//!
//! No function here drops a caller's value: what is removed is returned, since dropping it may
//! run arbitrary code.
#![forbid(unsafe_code)]

mod adaptive_spin;
pub mod clock;
mod poller;
mod registrations;
mod timers;
mod token;
mod wake_signal;

pub use mio::Interest;

pub use adaptive_spin::{AdaptiveSpin, Wait};
pub use poller::{Poller, Readiness, Registrar, Trigger, Waker};
pub use registrations::{Registration, Registrations};
pub use timers::Timers;
pub use token::Token;
pub use wake_signal::WakeSignal;
