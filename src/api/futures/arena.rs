//! Thread-local storage of Rust futures, which never leave the thread that created them.
//!
//! A future need not be `Send`, but its Python object can be deallocated in any thread. So the
//! object holds a [`FutureSlot`] and the future is stored in a thread-local arena: by construction
//! it is polled only in that thread, and dropped there exactly once. If another thread releases a
//! slot, it enqueues a request that the arena's own thread processes. Futures that are left when
//! their thread ends are dropped then.

use std::cell::RefCell;
use std::sync::Arc;

use crate::api::futures::LocalFuture;
use crate::ffi::panic::drop_catching;
use crate::reactor::{Slab, SlotKey};
use crate::sys::sync::atomic::{AtomicBool, Ordering};
use crate::sys::sync::parking_lot::Mutex;
use crate::sys::sync::thread_local;

/// The part of an arena that other threads use.
#[derive(Default)]
struct ArenaShared {
    requests: Mutex<Vec<SlotRequest>>,
    has_requests: AtomicBool,
}

/// A request of another thread.
#[derive(Clone, Copy)]
enum SlotRequest {
    /// Drop the future of this slot, which stays reserved.
    DropFuture(SlotKey),
    /// Drop the future of this slot, if there is one, and free the slot.
    FreeSlot(SlotKey),
}

impl ArenaShared {
    fn request(&self, request: SlotRequest) {
        self.requests.lock().push(request);
        self.has_requests.store(true, Ordering::Release);
    }
}

#[derive(Default)]
struct Arena {
    shared: Arc<ArenaShared>,
    /// None while the future is being polled, or was dropped.
    slots: RefCell<Slab<Option<LocalFuture>>>,
}

impl Drop for Arena {
    fn drop(&mut self) {
        for future in self.slots.get_mut().take_all() {
            drop_catching(future);
        }
    }
}

thread_local! {
    static ARENA: Arena = Arena::default();
}

/// The only owner of a slot in the arena of one thread.
pub struct FutureSlot {
    shared: Arc<ArenaShared>,
    key: SlotKey,
}

/// The caller's thread is not the future's.
#[derive(Debug)]
pub struct WrongThread;

/// Whether [`FutureSlot::release`] has dropped the future.
pub enum Release {
    /// The future was dropped, or there was none.
    Done,
    /// The future's own thread was asked to drop it.
    Deferred,
}

impl FutureSlot {
    /// Stores `future` in the arena of this thread.
    pub fn new(future: LocalFuture) -> Self {
        ARENA.with(|arena| {
            process_requests_if_any(arena);
            let key = arena.slots.borrow_mut().insert(Some(future));
            Self { shared: arena.shared.clone(), key }
        })
    }

    /// Takes the future out, to drop it. None if it is being polled or was dropped.
    ///
    /// # Errors
    /// If this is not the future's thread.
    #[inline]
    pub fn take(&self) -> Result<Option<LocalFuture>, WrongThread> {
        self.with_slot(|future| future.take()).ok_or(WrongThread)
    }

    /// Calls `poll` with the future, which is not in the arena meanwhile. None if it is being polled
    /// or was dropped. Looks for the arena of the thread once, which is not cheap.
    ///
    /// # Errors
    /// If this is not the future's thread.
    #[inline]
    pub fn poll_with<R>(
        &self,
        poll: impl FnOnce(&mut LocalFuture) -> R,
    ) -> Result<Option<R>, WrongThread> {
        let here = |arena: &Arena| {
            if !Arc::ptr_eq(&arena.shared, &self.shared) {
                return Err(WrongThread);
            }
            let taken = arena.slots.borrow_mut().get_mut(self.key).and_then(Option::take);
            Ok(taken.map(|mut future| {
                let polled = poll(&mut future);
                // The slot cannot be freed while `self` is used.
                if let Some(stored) = arena.slots.borrow_mut().get_mut(self.key) {
                    *stored = Some(future);
                }
                polled
            }))
        };
        ARENA.try_with(here).unwrap_or(Err(WrongThread))
    }

    /// Drops the future if this is its thread; otherwise asks that thread to drop it.
    pub fn release(&self) -> Release {
        match self.take() {
            Ok(future) => {
                drop_catching(future);
                Release::Done
            }
            Err(WrongThread) => {
                self.shared.request(SlotRequest::DropFuture(self.key));
                Release::Deferred
            }
        }
    }

    /// Calls `body` with the stored future; None in another thread, or if this one is ending.
    #[inline]
    fn with_slot<R>(&self, body: impl FnOnce(&mut Option<LocalFuture>) -> R) -> Option<R> {
        self.with_slots(|slots| slots.get_mut(self.key).map(body)).flatten()
    }

    /// Calls `body` with the slots; None in another thread, or if this one is ending.
    #[inline]
    fn with_slots<R>(&self, body: impl FnOnce(&mut Slab<Option<LocalFuture>>) -> R) -> Option<R> {
        let here = |arena: &Arena| {
            let is_here = Arc::ptr_eq(&arena.shared, &self.shared);
            is_here.then(|| body(&mut arena.slots.borrow_mut()))
        };
        ARENA.try_with(here).ok().flatten()
    }
}

impl Drop for FutureSlot {
    fn drop(&mut self) {
        match self.with_slots(|slots| slots.remove(self.key)) {
            Some(future) => drop_catching(future.flatten()),
            None => self.shared.request(SlotRequest::FreeSlot(self.key)),
        }
    }
}

/// Drops the futures of this thread that other threads have released.
pub fn drop_released_futures() {
    // In a thread that is ending, dropping the arena drops them.
    let _ = ARENA.try_with(process_requests_if_any);
}

#[inline]
fn process_requests_if_any(arena: &Arena) {
    if arena.shared.has_requests.load(Ordering::Acquire) {
        process_requests(arena);
    }
}

#[cold]
fn process_requests(arena: &Arena) {
    arena.shared.has_requests.store(false, Ordering::Relaxed);
    let requests = std::mem::take(&mut *arena.shared.requests.lock());
    for request in requests {
        let mut slots = arena.slots.borrow_mut();
        let future = match request {
            SlotRequest::DropFuture(key) => slots.get_mut(key).and_then(Option::take),
            SlotRequest::FreeSlot(key) => slots.remove(key).flatten(),
        };
        drop(slots);
        drop_catching(future);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::rc::Rc;
    use std::sync::atomic::AtomicUsize;
    use std::thread::{self, ThreadId};

    use super::*;

    /// Records in which thread and how often it is dropped.
    struct DropRecorder(
        Arc<AtomicUsize>,
        Arc<Mutex<Vec<ThreadId>>>,
        #[expect(dead_code, reason = "makes it !Send")] Rc<()>,
    );

    impl Drop for DropRecorder {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            self.1.lock().push(thread::current().id());
        }
    }

    fn slot() -> (FutureSlot, Arc<AtomicUsize>, Arc<Mutex<Vec<ThreadId>>>) {
        let (count, threads) = (Arc::default(), Arc::default());
        let recorder = DropRecorder(Arc::clone(&count), Arc::clone(&threads), Rc::new(()));
        let future: LocalFuture = Box::pin(async move {
            let _recorder = recorder;
            std::future::pending().await
        });
        (FutureSlot::new(future), count, threads)
    }

    #[test]
    fn a_future_is_dropped_with_its_slot() {
        let (slot, count, _) = slot();
        drop(slot);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_future_released_in_another_thread_is_dropped_in_its_own() {
        let this_thread = thread::current().id();
        let (slot, count, threads) = slot();
        thread::spawn(move || drop(slot)).join().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 0);
        drop_released_futures();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert_eq!(*threads.lock(), [this_thread]);
    }

    #[test]
    fn releasing_twice_in_another_thread_does_not_free_the_index_twice() {
        let (slot, count, _) = slot();
        let slot = thread::spawn(move || {
            slot.release();
            slot
        })
        .join()
        .unwrap();
        drop(slot);
        drop_released_futures();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let slots: Vec<_> = (0..3).map(|_| self::slot().0).collect();
        let keys: HashSet<_> = slots.iter().map(|slot| slot.key).collect();
        assert_eq!(keys.len(), 3, "a slot was given away twice");
    }

    #[test]
    fn another_thread_cannot_take_it() {
        let (slot, _, _) = slot();
        let refused = move || (slot.take().is_err() && slot.poll_with(|_| ()).is_err(), slot);
        let taken = thread::spawn(refused).join().unwrap();
        assert!(taken.0);
        assert!(taken.1.take().unwrap().is_some());
    }

    #[test]
    fn a_future_that_is_polled_is_neither_polled_nor_dropped_again() {
        let (slot, count, _) = slot();
        let again = slot.poll_with(|_| {
            assert!(matches!(slot.release(), Release::Done));
            slot.poll_with(|_| ()).unwrap()
        });
        assert_eq!((again.unwrap(), count.load(Ordering::SeqCst)), (Some(None), 0));
        slot.release();
        assert_eq!((slot.poll_with(|_| ()).unwrap(), count.load(Ordering::SeqCst)), (None, 1));
    }

    #[test]
    fn a_thread_that_ends_drops_its_futures() {
        let (send, receive) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let (slot, count, threads) = slot();
            send.send((slot, count, threads, thread::current().id())).unwrap();
        });
        thread.join().unwrap();
        let (slot, count, threads, id) = receive.recv().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert_eq!(*threads.lock(), [id]);
        drop(slot);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}
