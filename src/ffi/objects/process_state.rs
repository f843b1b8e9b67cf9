//! State that all loops of the process use.
//!
//! While there is a GIL, one value serves all threads. On free-threaded builds loops run at the
//! same time, and what they share must neither race nor make them wait for each other:
//!
//! * [`PerThread`] is a value that each thread has of its own: caches and scratch memory;
//! * [`Locked`] is one value for all threads, behind a lock that is held only briefly: what is
//!   written rarely, or must be the same for all threads;
//! * [`Published`] is a small value that one thread writes and any thread reads.
//!
//! With a GIL they are an [`AttachedRefCell`] or an [`AttachedCell`]. The closures that borrow the
//! first two must not run Python code, drop objects or borrow another [`Locked`], so a thread that
//! waits for such a lock waits only for the instructions of one closure.
//!
//! `os.fork()` finds no such lock held: CPython pauses the other threads first, and a thread that
//! is attached pauses only where it could also run Python code.

#[cfg(Py_GIL_DISABLED)]
use std::cell::RefCell;
#[cfg(Py_GIL_DISABLED)]
use std::marker::PhantomData;
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicPtr, Ordering};
#[cfg(Py_GIL_DISABLED)]
use std::sync::{Mutex, PoisonError};
#[cfg(Py_GIL_DISABLED)]
use std::thread::LocalKey;

use pyo3::gc::PyTraverseError;
use pyo3::prelude::*;

#[cfg(not(Py_GIL_DISABLED))]
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
#[cfg(not(Py_GIL_DISABLED))]
use crate::ffi::section::unshared;

/// A value for each thread; one for all of them while there is a GIL. Declared by [`per_thread!`].
#[cfg(not(Py_GIL_DISABLED))]
pub struct PerThread<T>(AttachedRefCell<T>);

#[cfg(not(Py_GIL_DISABLED))]
impl<T> PerThread<T> {
    /// For [`per_thread!`].
    pub const fn new(value: T) -> Self {
        Self(AttachedRefCell::new(value))
    }

    /// Calls `body`, which must not run Python code, with a mutable borrow of the value.
    ///
    /// # Panics
    /// If the value is already borrowed.
    #[inline(always)]
    pub fn with<R>(&self, py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
        unshared(|| self.0.with(py, body))
    }
}

/// A value for each thread. Declared by [`per_thread!`].
#[cfg(Py_GIL_DISABLED)]
pub struct PerThread<T: 'static> {
    key: &'static LocalKey<RefCell<T>>,
    initial: fn() -> T,
}

#[cfg(Py_GIL_DISABLED)]
impl<T> PerThread<T> {
    /// For [`per_thread!`].
    pub const fn new(key: &'static LocalKey<RefCell<T>>, initial: fn() -> T) -> Self {
        Self { key, initial }
    }

    /// Calls `body`, which must not run Python code, with a mutable borrow of the value; with
    /// another one while the thread ends and its own is gone.
    ///
    /// # Panics
    /// If the value is already borrowed.
    #[inline(always)]
    pub fn with<R>(&self, _py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
        let mut body = Some(body);
        let mut run = |value: &mut T| {
            body.take().map(|body| body(value)).expect("runs once: here or below, never both")
        };
        match self.key.try_with(|value| run(&mut value.borrow_mut())) {
            Ok(result) => result,
            Err(_ended) => run(&mut (self.initial)()),
        }
    }
}

/// Declares a static of type [`PerThread`]: `per_thread!(static NAME: Type = constant);`.
macro_rules! per_thread {
    ($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $initial:expr) => {
        $(#[$attribute])*
        $visibility static $name: $crate::ffi::objects::process_state::PerThread<$type> = {
            #[cfg(not(Py_GIL_DISABLED))]
            {
                $crate::ffi::objects::process_state::PerThread::new($initial)
            }
            #[cfg(Py_GIL_DISABLED)]
            {
                const INITIAL: $type = $initial;
                ::std::thread_local! {
                    static VALUE: ::std::cell::RefCell<$type> =
                        const { ::std::cell::RefCell::new(INITIAL) };
                }
                $crate::ffi::objects::process_state::PerThread::new(&VALUE, || INITIAL)
            }
        };
    };
}
pub(crate) use per_thread;

/// One value for all threads.
pub struct Locked<T>(
    #[cfg(not(Py_GIL_DISABLED))] AttachedRefCell<T>,
    #[cfg(Py_GIL_DISABLED)] Mutex<T>,
);

impl<T> Locked<T> {
    /// Holds `value`.
    pub const fn new(value: T) -> Self {
        #[cfg(not(Py_GIL_DISABLED))]
        return Self(AttachedRefCell::new(value));
        #[cfg(Py_GIL_DISABLED)]
        return Self(Mutex::new(value));
    }

    /// Calls `body` with a mutable borrow of the value. `body` must not run Python code, drop
    /// objects or borrow another value of this type.
    #[inline(always)]
    pub fn with<R>(&self, py: Python<'_>, body: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(not(Py_GIL_DISABLED))]
        return unshared(|| self.0.with(py, body));
        #[cfg(Py_GIL_DISABLED)]
        {
            let _ = py;
            // A panic in a closure leaves no update incomplete.
            body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    /// Calls `body` with the value during a garbage collection; does nothing while it is borrowed.
    ///
    /// An object that is not reported counts as referenced from outside, which is safe.
    pub fn traverse(
        &self,
        body: impl FnOnce(&T) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        #[cfg(not(Py_GIL_DISABLED))]
        return self.0.traverse(body);
        #[cfg(Py_GIL_DISABLED)]
        self.0.try_lock().map_or(Ok(()), |value| body(&value))
    }

    /// Stores `value` and returns the old one, which the caller drops.
    #[must_use = "dropping the old value may run Python: do it where that is safe"]
    pub fn replace(&self, py: Python<'_>, value: T) -> T {
        self.with(py, |held| std::mem::replace(held, value))
    }
}

impl<T: Copy> Locked<T> {
    /// A copy of the value.
    pub fn get(&self, py: Python<'_>) -> T {
        self.with(py, |value| *value)
    }

    /// Overwrites the value.
    pub fn set(&self, py: Python<'_>, value: T) {
        self.with(py, |held| *held = value);
    }
}

/// A small value that any thread reads without waiting for another one. Writes follow the rules of
/// the object that contains it.
#[cfg(not(Py_GIL_DISABLED))]
pub struct Published<T>(AttachedCell<T>);

#[cfg(not(Py_GIL_DISABLED))]
impl<T: Word> Published<T> {
    /// Holds `value`.
    pub const fn new(value: T) -> Self {
        Self(AttachedCell::new(value))
    }

    /// A copy of the value.
    #[inline(always)]
    pub fn get(&self, py: Python<'_>) -> T {
        unshared(|| self.0.get(py))
    }

    /// Overwrites the value.
    #[inline(always)]
    pub fn set(&self, py: Python<'_>, value: T) {
        unshared(|| self.0.set(py, value));
    }
}

/// A small value that any thread reads without waiting for another one. Writes follow the rules of
/// the object that contains it.
#[cfg(Py_GIL_DISABLED)]
pub struct Published<T>(AtomicU64, PhantomData<T>);

#[cfg(Py_GIL_DISABLED)]
impl<T: Word> Published<T> {
    /// Holds `value`.
    pub fn new(value: T) -> Self {
        Self(AtomicU64::new(value.to_bits()), PhantomData)
    }

    /// A copy of the value.
    #[inline(always)]
    pub fn get(&self, _py: Python<'_>) -> T {
        T::from_bits(self.0.load(Ordering::Acquire))
    }

    /// Overwrites the value.
    #[inline(always)]
    pub fn set(&self, _py: Python<'_>, value: T) {
        self.0.store(value.to_bits(), Ordering::Release);
    }
}

/// A value for [`Published`].
#[cfg_attr(not(Py_GIL_DISABLED), expect(dead_code, reason = "a cell holds the value itself"))]
pub trait Word: Copy {
    /// The value as a number.
    fn to_bits(self) -> u64;
    /// The value of a number from [`Word::to_bits`].
    fn from_bits(bits: u64) -> Self;
}

impl Word for bool {
    fn to_bits(self) -> u64 {
        u64::from(self)
    }

    fn from_bits(bits: u64) -> Self {
        bits != 0
    }
}

impl Word for u64 {
    fn to_bits(self) -> u64 {
        self
    }

    fn from_bits(bits: u64) -> Self {
        bits
    }
}

impl Word for usize {
    fn to_bits(self) -> u64 {
        self as u64
    }

    fn from_bits(bits: u64) -> Self {
        bits as Self
    }
}

impl Word for u32 {
    fn to_bits(self) -> u64 {
        u64::from(self)
    }

    fn from_bits(bits: u64) -> Self {
        bits as Self
    }
}

/// A pointer that attached threads read and rarely replace.
pub struct Pointer<T>(AtomicPtr<T>);

impl<T> Pointer<T> {
    /// Null.
    pub const fn null() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// The pointer.
    #[inline(always)]
    pub fn get(&self, _py: Python<'_>) -> *mut T {
        // SAFETY: only the holder of the GIL writes it. An atomic load would cost an instruction, as
        // compilers do not make it part of a comparison.
        #[cfg(not(Py_GIL_DISABLED))]
        return unsafe { self.0.as_ptr().read() };
        #[cfg(Py_GIL_DISABLED)]
        return self.0.load(Ordering::Acquire);
    }

    /// Stores a pointer and returns the old one.
    pub fn replace(&self, _py: Python<'_>, pointer: *mut T) -> *mut T {
        self.0.swap(pointer, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    per_thread!(static NUMBERS: Vec<u32> = Vec::new());

    static TOTAL: Locked<u32> = Locked::new(0);

    /// What another thread, which is attached, returns.
    fn in_other_thread<R: Send>(py: Python<'_>, body: impl FnOnce(Python<'_>) -> R + Send) -> R {
        let run = || Python::attach(body);
        py.detach(|| std::thread::scope(|scope| scope.spawn(run).join()).expect("no panic"))
    }

    #[test]
    fn threads_have_their_own_value_only_without_a_gil() {
        Python::initialize();
        Python::attach(|py| {
            NUMBERS.with(py, |numbers| numbers.push(1));
            let there = in_other_thread(py, |py| {
                NUMBERS.with(py, |numbers| {
                    numbers.push(2);
                    numbers.clone()
                })
            });
            let here = NUMBERS.with(py, |numbers| numbers.clone());
            if cfg!(Py_GIL_DISABLED) {
                assert_eq!((here, there), (vec![1], vec![2]));
            } else {
                assert_eq!((here, there), (vec![1, 2], vec![1, 2]));
            }
        });
    }

    #[test]
    fn all_threads_share_one_value() {
        Python::initialize();
        Python::attach(|py| {
            TOTAL.set(py, 1);
            assert_eq!(in_other_thread(py, |py| TOTAL.replace(py, 2)), 1);
            TOTAL.with(py, |total| *total += 1);
            assert_eq!(TOTAL.get(py), 3);
        });
    }
}
