//! Waiting for descriptors and for time. Contains no Python and is tested without it.
//!
//! - [`Poller`] waits for events; [`Registrar`] registers descriptors with it, from any thread;
//!   [`Waker`] ends a wait, and [`WakeSignal`] does so only while the loop sleeps (`poller/`,
//!   `wake_signal.rs`).
//! - [`Registrations`] maps each descriptor to the receiver of its events; the generation in each
//!   [`Token`] keeps an event for a closed descriptor from the next owner of its number
//!   (`registrations.rs`, `token.rs`).
//! - [`Slab`] stores values under keys that are never valid for another value (`slab.rs`).
//! - [`AdaptiveSpin`] decides whether to poll for a moment before going to sleep
//!   (`adaptive_spin.rs`); [`PollThrottle`] decides how often a busy loop polls (`poll_throttle.rs`).
//! - [`Timers`] orders deadlines (`timers.rs`, `timer_entry.rs`; `known_due.rs` tells whether the
//!   clock must be read); [`clock`] reads the time against which they are measured (`clock.rs`).
//!
//! No function here drops a caller's value: what is removed is returned to the caller, since
//! dropping it may run arbitrary code.
#![forbid(unsafe_code)]

mod adaptive_spin;
pub mod clock;
mod known_due;
mod poll_throttle;
mod poller;
mod registrations;
mod slab;
mod timer_entry;
mod timers;
mod token;
mod wake_signal;

pub use mio::Interest;

pub use adaptive_spin::{AdaptiveSpin, WaitStrategy};
pub use poll_throttle::PollThrottle;
pub use poller::{Poller, Readiness, Registrar, Waker};
pub use registrations::{Registration, Registrations};
pub use slab::{Slab, SlotKey};
pub use timers::Timers;
pub use token::Token;
pub use wake_signal::WakeSignal;
