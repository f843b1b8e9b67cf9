//! Where Rust futures live: in the thread that made them, which they never release.
//!
//! A future need not be `Send`, but the Python object that stands for it can be dropped in any
//! thread. So the object holds a [`FutureSlot`], and the future lies in a thread-local arena: it is
//! polled and dropped there and nowhere else, exactly once, by construction. A slot given up
//! in another thread is put on a list that the arena's own thread clears; what is left when the
//! thread ends is dropped then.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;

/// A future whose output goes to Python.
pub type LocalFuture = Pin<Box<dyn Future<Output = PyResult<Py<PyAny>>>>>;

/// What other threads know of an arena.
#[derive(Default)]
struct ArenaShared {
    requests: Mutex<Vec<Request>>,
    any: AtomicBool,
}

/// What another thread asks for.
#[derive(Clone, Copy)]
enum Request {
    /// The future of this index is to be dropped; the index stays reserved.
    Empty(u32),
    /// Nobody uses this index any more.
    Free(u32),
}

impl ArenaShared {
    fn request(&self, request: Request) {
        self.requests.lock().push(request);
        self.any.store(true, Ordering::Release);
    }
}

#[derive(Default)]
struct Arena {
    shared: Arc<ArenaShared>,
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    /// None while a index is free, or its future is being polled.
    futures: Vec<Option<LocalFuture>>,
    free: Vec<u32>,
}

impl Drop for Arena {
    fn drop(&mut self) {
        for future in std::mem::take(&mut self.slots.get_mut().futures) {
            drop_quietly(future);
        }
    }
}

thread_local! {
    static ARENA: Arena = Arena::default();
}

/// Sole owner of a index in the arena of one thread.
pub struct FutureSlot {
    shared: Arc<ArenaShared>,
    index: u32,
}

/// A future was asked for in a thread that is not its own.
#[derive(Debug)]
pub struct WrongThread;

/// What became of the future of a slot.
pub enum Release {
    /// Dropped, or there was none.
    Done,
    /// Its thread was told to drop it.
    DeferredToItsThread,
}

impl FutureSlot {
    /// Gives `future` a index in this thread.
    pub fn new(future: LocalFuture) -> Self {
        ARENA.with(|arena| {
            grant_requests_if_any(arena);
            let mut slots = arena.slots.borrow_mut();
            let index = match slots.free.pop() {
                Some(index) => {
                    slots.futures[index as usize] = Some(future);
                    index
                }
                None => {
                    slots.futures.push(Some(future));
                    u32::try_from(slots.futures.len() - 1)
                        .expect("fewer than 2^32 futures fit in memory")
                }
            };
            Self { shared: arena.shared.clone(), index }
        })
    }

    /// Takes the future out, to poll or to drop it. None if somebody has it already.
    ///
    /// # Errors
    /// If this is not its thread.
    #[inline]
    pub fn take(&self) -> Result<Option<LocalFuture>, WrongThread> {
        self.with_slot(|future| future.take()).ok_or(WrongThread)
    }

    /// Puts a future back that was taken out.
    #[inline]
    pub fn put_back(&self, future: LocalFuture) {
        let mut future = Some(future);
        self.with_slot(|index| *index = future.take());
        debug_assert!(future.is_none(), "a future is put back in the thread that took it");
    }

    /// Drops the future, if this is its thread; otherwise has that thread drop it.
    pub fn release(&self) -> Release {
        match self.take() {
            Ok(future) => {
                drop_quietly(future);
                Release::Done
            }
            Err(WrongThread) => {
                self.shared.request(Request::Empty(self.index));
                Release::DeferredToItsThread
            }
        }
    }

    /// Runs `body` on the index; None in another thread, or when this one is ending.
    #[inline]
    fn with_slot<R>(&self, body: impl FnOnce(&mut Option<LocalFuture>) -> R) -> Option<R> {
        let here = |arena: &Arena| {
            if !Arc::ptr_eq(&arena.shared, &self.shared) {
                return None;
            }
            arena.slots.borrow_mut().futures.get_mut(self.index as usize).map(body)
        };
        ARENA.try_with(here).ok().flatten()
    }
}

impl Drop for FutureSlot {
    fn drop(&mut self) {
        match self.take() {
            Ok(future) => {
                drop_quietly(future);
                // In a thread that is ending there is no arena any more.
                let _ = ARENA.try_with(|arena| {
                    // Requests for this index must not reach its next tenant.
                    grant_requests_if_any(arena);
                    arena.slots.borrow_mut().free.push(self.index);
                });
            }
            Err(WrongThread) => self.shared.request(Request::Free(self.index)),
        }
    }
}

/// Drops the futures of this thread that were given up elsewhere.
pub fn sweep() {
    // In a thread that is ending the arena drops them itself.
    let _ = ARENA.try_with(grant_requests_if_any);
}

#[inline]
fn grant_requests_if_any(arena: &Arena) {
    if arena.shared.any.load(Ordering::Acquire) {
        grant_requests(arena);
    }
}

#[cold]
fn grant_requests(arena: &Arena) {
    arena.shared.any.store(false, Ordering::Relaxed);
    let requests = std::mem::take(&mut *arena.shared.requests.lock());
    for request in requests {
        let (Request::Empty(index) | Request::Free(index)) = request;
        let mut slots = arena.slots.borrow_mut();
        let future = slots.futures.get_mut(index as usize).and_then(Option::take);
        drop(slots);
        drop_quietly(future);
        if let Request::Free(index) = request {
            arena.slots.borrow_mut().free.push(index);
        }
    }
}

/// A panic in a destructor must not get into whatever dropped the future. The hook has told.
fn drop_quietly(future: Option<LocalFuture>) {
    if catch_unwind(AssertUnwindSafe(|| drop(future))).is_err() {
        tracing::error!("a Rust future panicked while it was dropped");
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::atomic::AtomicUsize;
    use std::thread::{self, ThreadId};

    use super::*;

    /// Notes where and how often it is dropped.
    struct Witness(
        Arc<AtomicUsize>,
        Arc<Mutex<Vec<ThreadId>>>,
        #[expect(dead_code, reason = "makes it !Send")] Rc<()>,
    );

    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            self.1.lock().push(thread::current().id());
        }
    }

    fn slot() -> (FutureSlot, Arc<AtomicUsize>, Arc<Mutex<Vec<ThreadId>>>) {
        let (count, threads) = (Arc::default(), Arc::default());
        let witness = Witness(Arc::clone(&count), Arc::clone(&threads), Rc::new(()));
        let future: LocalFuture = Box::pin(async move {
            let _witness = witness;
            std::future::pending().await
        });
        (FutureSlot::new(future), count, threads)
    }

    #[test]
    fn a_future_is_dropped_with_its_lodging() {
        let (slot, count, _) = slot();
        drop(slot);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_future_given_up_elsewhere_is_dropped_at_home() {
        let shared = thread::current().id();
        let (slot, count, threads) = slot();
        thread::spawn(move || drop(slot)).join().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 0);
        sweep();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert_eq!(*threads.lock(), [shared]);
    }

    #[test]
    fn leaving_elsewhere_twice_does_not_free_the_room_twice() {
        let (slot, count, _) = slot();
        let slot = thread::spawn(move || {
            slot.release();
            slot
        })
        .join()
        .unwrap();
        drop(slot);
        sweep();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let slots: Vec<_> = (0..3).map(|_| self::slot().0).collect();
        let mut numbers: Vec<_> = slots.iter().map(|slot| slot.index).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 3, "a index was given away twice");
    }

    #[test]
    fn another_thread_cannot_take_it() {
        let (slot, _, _) = slot();
        let taken = thread::spawn(move || (slot.take().is_err(), slot)).join().unwrap();
        assert!(taken.0);
        assert!(taken.1.take().unwrap().is_some());
    }

    #[test]
    fn a_thread_that_ends_drops_what_it_has() {
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
