//! What a waker writes to, so that the poller sees an event.

use std::io;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::reactor::Token;

/// An eventfd of our own: mio's cannot be replaced after a fork.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[derive(Debug)]
pub(super) struct Notifier(OwnedFd);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Notifier {
    pub(super) fn new(registry: &mio::Registry) -> io::Result<Notifier> {
        let notifier = Notifier(crate::sys::poll::eventfd()?);
        notifier.register(registry)?;
        Ok(notifier)
    }

    /// Each write is an edge, so the counter need not be read.
    pub(super) fn notify(&self) -> io::Result<()> {
        crate::sys::poll::add_one(&self.0)
    }

    /// The descriptor that becomes readable.
    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Keeps the descriptor's number, which other threads may be about to use.
    pub(super) fn renew(&self, registry: &mio::Registry) -> io::Result<()> {
        use crate::sys::poll::{eventfd, reopen};
        reopen(self.descriptor(), registry.as_raw_fd(), eventfd)?;
        self.register(registry)
    }

    fn register(&self, registry: &mio::Registry) -> io::Result<()> {
        let token = mio::Token(Token::WAKER_DATA);
        let descriptor = self.descriptor();
        let mut source = mio::unix::SourceFd(&descriptor);
        registry.register(&mut source, token, mio::Interest::READABLE)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[derive(Debug)]
pub(super) struct Notifier(mio::Waker);

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Notifier {
    pub(super) fn new(registry: &mio::Registry) -> io::Result<Notifier> {
        Ok(Notifier(mio::Waker::new(registry, mio::Token(Token::WAKER_DATA))?))
    }

    pub(super) fn notify(&self) -> io::Result<()> {
        self.0.wake()
    }
}
