//! Where Rust futures live: in the thread that made them, which they never leave.
//!
//! A future need not be `Send`, but the Python object that stands for it can be dropped in any
//! thread. So the object holds a [`Lodging`], and the future lies in a thread-local arena: it is
//! polled and dropped there and nowhere else, exactly once, by construction. A lodging given up
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
struct Home {
    given_up: Mutex<Vec<Request>>,
    any: AtomicBool,
}

/// What another thread asks for.
#[derive(Clone, Copy)]
enum Request {
    /// The future of this room is to be dropped; the room stays reserved.
    Empty(u32),
    /// Nobody uses this room any more.
    Free(u32),
}

impl Home {
    fn ask(&self, request: Request) {
        self.given_up.lock().push(request);
        self.any.store(true, Ordering::Release);
    }
}

#[derive(Default)]
struct Arena {
    home: Arc<Home>,
    rooms: RefCell<Rooms>,
}

#[derive(Default)]
struct Rooms {
    /// None while a room is free, or its future is being polled.
    futures: Vec<Option<LocalFuture>>,
    free: Vec<u32>,
}

impl Drop for Arena {
    fn drop(&mut self) {
        for future in std::mem::take(&mut self.rooms.get_mut().futures) {
            drop_quietly(future);
        }
    }
}

thread_local! {
    static ARENA: Arena = Arena::default();
}

/// Sole owner of a room in the arena of one thread.
pub struct Lodging {
    home: Arc<Home>,
    room: u32,
}

/// A future was asked for in a thread that is not its own.
#[derive(Debug)]
pub struct WrongThread;

/// What became of the future of a lodging.
pub enum Leave {
    /// Dropped, or there was none.
    Done,
    /// Its thread was told to drop it.
    LeftToItsThread,
}

impl Lodging {
    /// Gives `future` a room in this thread.
    pub fn new(future: LocalFuture) -> Self {
        ARENA.with(|arena| {
            clear_given_up(arena);
            let mut rooms = arena.rooms.borrow_mut();
            let room = match rooms.free.pop() {
                Some(room) => {
                    rooms.futures[room as usize] = Some(future);
                    room
                }
                None => {
                    rooms.futures.push(Some(future));
                    u32::try_from(rooms.futures.len() - 1)
                        .expect("fewer than 2^32 futures fit in memory")
                }
            };
            Self { home: arena.home.clone(), room }
        })
    }

    /// Takes the future out, to poll or to drop it. None if somebody has it already.
    ///
    /// # Errors
    /// If this is not its thread.
    #[inline]
    pub fn take(&self) -> Result<Option<LocalFuture>, WrongThread> {
        self.with_room(|future| future.take()).ok_or(WrongThread)
    }

    /// Puts a future back that was taken out.
    #[inline]
    pub fn put_back(&self, future: LocalFuture) {
        let mut future = Some(future);
        self.with_room(|room| *room = future.take());
        debug_assert!(future.is_none(), "a future is put back in the thread that took it");
    }

    /// Drops the future, if this is its thread; otherwise has that thread drop it.
    pub fn leave(&self) -> Leave {
        match self.take() {
            Ok(future) => {
                drop_quietly(future);
                Leave::Done
            }
            Err(WrongThread) => {
                self.home.ask(Request::Empty(self.room));
                Leave::LeftToItsThread
            }
        }
    }

    /// Runs `body` on the room; None in another thread, or when this one is ending.
    #[inline]
    fn with_room<R>(&self, body: impl FnOnce(&mut Option<LocalFuture>) -> R) -> Option<R> {
        let here = |arena: &Arena| {
            if !Arc::ptr_eq(&arena.home, &self.home) {
                return None;
            }
            arena.rooms.borrow_mut().futures.get_mut(self.room as usize).map(body)
        };
        ARENA.try_with(here).ok().flatten()
    }
}

impl Drop for Lodging {
    fn drop(&mut self) {
        match self.take() {
            Ok(future) => {
                drop_quietly(future);
                // In a thread that is ending there is no arena any more.
                let _ = ARENA.try_with(|arena| {
                    // Requests for this room must not reach its next tenant.
                    clear_given_up(arena);
                    arena.rooms.borrow_mut().free.push(self.room);
                });
            }
            Err(WrongThread) => self.home.ask(Request::Free(self.room)),
        }
    }
}

/// Drops the futures of this thread that were given up elsewhere.
pub fn sweep() {
    // In a thread that is ending the arena drops them itself.
    let _ = ARENA.try_with(clear_given_up);
}

#[inline]
fn clear_given_up(arena: &Arena) {
    if arena.home.any.load(Ordering::Acquire) {
        grant_requests(arena);
    }
}

#[cold]
fn grant_requests(arena: &Arena) {
    arena.home.any.store(false, Ordering::Relaxed);
    let requests = std::mem::take(&mut *arena.home.given_up.lock());
    for request in requests {
        let (Request::Empty(room) | Request::Free(room)) = request;
        let mut rooms = arena.rooms.borrow_mut();
        let future = rooms.futures.get_mut(room as usize).and_then(Option::take);
        drop(rooms);
        drop_quietly(future);
        if let Request::Free(room) = request {
            arena.rooms.borrow_mut().free.push(room);
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

    fn lodging() -> (Lodging, Arc<AtomicUsize>, Arc<Mutex<Vec<ThreadId>>>) {
        let (count, threads) = (Arc::default(), Arc::default());
        let witness = Witness(Arc::clone(&count), Arc::clone(&threads), Rc::new(()));
        let future: LocalFuture = Box::pin(async move {
            let _witness = witness;
            std::future::pending().await
        });
        (Lodging::new(future), count, threads)
    }

    #[test]
    fn a_future_is_dropped_with_its_lodging() {
        let (lodging, count, _) = lodging();
        drop(lodging);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_future_given_up_elsewhere_is_dropped_at_home() {
        let home = thread::current().id();
        let (lodging, count, threads) = lodging();
        thread::spawn(move || drop(lodging)).join().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 0);
        sweep();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert_eq!(*threads.lock(), [home]);
    }

    #[test]
    fn leaving_elsewhere_twice_does_not_free_the_room_twice() {
        let (lodging, count, _) = lodging();
        let lodging = thread::spawn(move || {
            lodging.leave();
            lodging
        })
        .join()
        .unwrap();
        drop(lodging);
        sweep();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let rooms: Vec<_> = (0..3).map(|_| self::lodging().0).collect();
        let mut numbers: Vec<_> = rooms.iter().map(|lodging| lodging.room).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 3, "a room was given away twice");
    }

    #[test]
    fn another_thread_cannot_take_it() {
        let (lodging, _, _) = lodging();
        let taken = thread::spawn(move || (lodging.take().is_err(), lodging)).join().unwrap();
        assert!(taken.0);
        assert!(taken.1.take().unwrap().is_some());
    }

    #[test]
    fn a_thread_that_ends_drops_what_it_has() {
        let (send, receive) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let (lodging, count, threads) = lodging();
            send.send((lodging, count, threads, thread::current().id())).unwrap();
        });
        thread.join().unwrap();
        let (lodging, count, threads, id) = receive.recv().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert_eq!(*threads.lock(), [id]);
        drop(lodging);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}
