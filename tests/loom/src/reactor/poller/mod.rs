//! A poller that waits for its waker alone.

#[cfg(test)]
mod models;
mod notifier;
#[path = "../../../../../src/reactor/poller/waker.rs"]
mod waker;

use std::io;
use std::sync::{Arc, OnceLock};

use notifier::Eventfd;
pub use waker::Waker;

/// Waits for [`Waker::wake`].
pub struct Poller {
    waker: Arc<Waker>,
}

impl Poller {
    /// A poller with its waker.
    ///
    /// # Errors
    /// None: as the real one's.
    pub fn new() -> io::Result<Self> {
        // The model's notifier does not use it, but `Waker::new` has it as a parameter.
        static REGISTRY: OnceLock<mio::Poll> = OnceLock::new();
        let poll = REGISTRY.get_or_init(|| mio::Poll::new().expect("an epoll can be created"));
        Ok(Self { waker: Arc::new(Waker::new(poll.registry())?) })
    }

    /// The waker of this poller.
    pub fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    /// As the real poller's `poll` without a timeout: waits until the waker was called.
    pub fn wait(&self) {
        Eventfd::of(self.waker.descriptor()).wait();
        self.waker.acknowledge();
    }

    /// As the real poller's `poll` with a timeout of zero.
    pub fn look(&self) {
        if Eventfd::of(self.waker.descriptor()).take_edge() {
            self.waker.acknowledge();
        }
    }
}
