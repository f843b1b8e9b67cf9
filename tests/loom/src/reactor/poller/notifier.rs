//! An eventfd that an edge-triggered epoll watches, as a flag: each write is an edge, and the poller
//! reports each edge once.

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, LazyLock};

use loom::sync::{Condvar, Mutex, MutexGuard};

/// The eventfds by their numbers, as the kernel has them. No thread of a model waits for this lock.
static EVENTFDS: LazyLock<std::sync::Mutex<HashMap<RawFd, Arc<Eventfd>>>> =
    LazyLock::new(Default::default);

/// An eventfd.
#[derive(Debug)]
pub(super) struct Eventfd {
    edge: Mutex<bool>,
    written: Condvar,
}

impl Eventfd {
    /// The eventfd with this number.
    pub(super) fn of(descriptor: RawFd) -> Arc<Self> {
        eventfds()[&descriptor].clone()
    }

    /// Waits for an edge, as a poll without a timeout does.
    pub(super) fn wait(&self) {
        let mut edge = self.lock();
        while !*edge {
            edge = self.written.wait(edge).expect("loom's locks are never poisoned");
        }
        *edge = false;
    }

    /// Whether there is an edge, as a poll with a timeout of zero finds it.
    pub(super) fn take_edge(&self) -> bool {
        std::mem::take(&mut *self.lock())
    }

    fn write(&self) {
        *self.lock() = true;
        self.written.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.edge.lock().expect("loom's locks are never poisoned")
    }
}

fn eventfds() -> std::sync::MutexGuard<'static, HashMap<RawFd, Arc<Eventfd>>> {
    EVENTFDS.lock().expect("the table is whole after each of its uses")
}

/// The waker's end of an eventfd.
#[derive(Debug)]
pub(super) struct Notifier {
    descriptor: RawFd,
    eventfd: Arc<Eventfd>,
}

impl Notifier {
    pub(super) fn new(_registry: &mio::Registry) -> io::Result<Self> {
        let eventfd = Arc::new(Eventfd { edge: Mutex::new(false), written: Condvar::new() });
        let mut eventfds = eventfds();
        let descriptor = (0..).find(|number| !eventfds.contains_key(number)).expect("few eventfds");
        eventfds.insert(descriptor, eventfd.clone());
        Ok(Self { descriptor, eventfd })
    }

    pub(super) fn notify(&self) -> io::Result<()> {
        self.eventfd.write();
        Ok(())
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    pub(super) fn renew(&self, _registry: &mio::Registry) -> io::Result<()> {
        unreachable!("no model forks")
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        eventfds().remove(&self.descriptor);
    }
}
