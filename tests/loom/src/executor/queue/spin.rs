//! Whether a worker spins before it sleeps is the model's choice, and no clock decides when it ends.

use std::cell::Cell;
use std::time::{Duration, Instant};

std::thread_local! {
    /// Loom runs all threads of a model on the thread of its test.
    static PAYS: Cell<bool> = const { Cell::new(false) };
}

/// Has the workers of the next models of this test spin, or not.
pub fn set_pays(pays: bool) {
    PAYS.set(pays);
}

/// Stands for `src/executor/queue/spin.rs`.
#[derive(Default)]
pub struct Spin;

impl Spin {
    pub fn pays(&self) -> bool {
        PAYS.get()
    }

    /// Looks twice.
    pub fn until(_started: Instant, ready: impl Fn() -> bool) {
        if !ready() {
            loom::thread::yield_now();
            ready();
        }
    }

    pub fn note_spin(&mut self, _found: bool) {}

    pub fn note_sleep(&mut self, _time: Duration) {}
}
