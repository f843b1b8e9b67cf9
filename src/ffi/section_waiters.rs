//! Lets threads that wait for the section of a loop in, although a callback computes.
//!
//! A callback that runs Python code without ever blocking holds the section of its loop. With a GIL
//! another thread gets its turn after 5 ms. Here a helper thread does that: when a thread has waited
//! so long, it pauses all threads of the interpreter for a moment. CPython suspends the sections of
//! a thread that it pauses, and hands a lock over to the thread that has waited for it. A thread that
//! was let in may run Python code, and be suspended in turn: it counts until it has left the section.
//!
//! The helper ends when there has been no such thread for a while, and before the interpreter finalizes: then
//! a thread that pauses others may be stopped while it holds the lock for that.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use crate::ffi::section::{HAS_WAITERS, mutex_bits};

/// How long a thread waits before the others are paused; CPython's default for its GIL.
const INTERVAL: Duration = Duration::from_millis(5);
/// On a busy machine a pause takes long: it begins when each thread has come to a place where it can be
/// paused. The next one is this many times as long in coming, so that pauses do not slow the loops down,
const PART: u32 = 10;
/// but no longer than this.
const MAXIMUM_INTERVAL: Duration = Duration::from_millis(100);
/// How long a thread counts for whose section no thread waits.
const LONG: Duration = Duration::from_secs(1);
/// How long the helper stays without work.
const IDLE: Duration = Duration::from_millis(100);

/// Locked only by attached threads, for a few instructions, so that `os.fork()` finds it unlocked.
static HELPER: Mutex<Option<Arc<Helper>>> = Mutex::new(None);

/// The helper of this process: a forked child makes another one.
struct Helper {
    process: u32,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Entry>,
    next_number: u64,
    /// Whether the helper thread exists.
    runs: bool,
    /// Whether it pauses the other threads at this moment.
    pauses: bool,
    /// Set when the interpreter exits.
    ended: bool,
}

/// A thread that waits for a section, or is in one for which it has waited.
struct Entry {
    number: u64,
    object: *mut ffi::PyObject,
    begun: Instant,
    /// From when on its wait counts.
    since: Instant,
}

// SAFETY: the object is alive as long as the entry is in the list, and its mutex is atomic.
unsafe impl Send for Entry {}

impl Entry {
    fn is_waited_for(&self) -> bool {
        // SAFETY: alive, see above.
        unsafe { mutex_bits(self.object) & HAS_WAITERS != 0 }
    }
}

/// A thread that waits for a section, until it has left that.
pub struct Waiting {
    helper: Arc<Helper>,
    number: u64,
}

impl Waiting {
    /// This thread begins to wait for the section of `object`, which it refers to until this is dropped.
    #[cold]
    pub fn begin(object: &Bound<'_, PyAny>) -> Self {
        let helper = Helper::of_this_process();
        let mut state = helper.lock();
        let number = state.next_number;
        state.next_number += 1;
        let (object, begun) = (object.as_ptr(), Instant::now());
        state.waiting.push(Entry { number, object, begun, since: begun });
        if state.waiting.len() == 1 && !state.ended {
            if state.runs {
                helper.changed.notify_all();
            } else {
                state.runs = Helper::start(&helper);
            }
        }
        drop(state);
        Self { helper, number }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.helper.lock().waiting.retain(|entry| entry.number != self.number);
    }
}

impl Helper {
    fn of_this_process() -> Arc<Self> {
        let process = std::process::id();
        let mut slot = HELPER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(helper) = slot.as_ref().filter(|helper| helper.process == process) {
            return helper.clone();
        }
        let state = Mutex::new(State::default());
        let helper = Arc::new(Self { process, state, changed: Condvar::new() });
        // The parent's is leaked: its thread may have held the lock.
        std::mem::forget(slot.replace(helper.clone()));
        helper
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the thread was started.
    fn start(helper: &Arc<Self>) -> bool {
        let helper = helper.clone();
        let thread = std::thread::Builder::new().name("ferroloop sections".into());
        thread.spawn(move || helper.run()).is_ok()
    }

    /// The thread. It is attached only while it pauses the others.
    fn run(&self) {
        let mut interval = INTERVAL;
        let mut state = self.lock();
        loop {
            let oldest = state.waiting.iter().map(|entry| entry.since).min();
            let pause = oldest.map_or(IDLE, |since| interval.saturating_sub(since.elapsed()));
            if !pause.is_zero() {
                let waited = self.changed.wait_timeout(state, pause);
                let timeout;
                (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                if state.ended
                    || (state.waiting.is_empty() && oldest.is_none() && timeout.timed_out())
                {
                    state.runs = false;
                    return;
                }
                continue;
            }
            if state.waiting.iter().any(Entry::is_waited_for) {
                (state, interval) = self.pause(state);
            }
            let now = Instant::now();
            // A thread that runs the loop stays in the section.
            state.waiting.retain(|entry| now - entry.begun < LONG || entry.is_waited_for());
            state.waiting.iter_mut().for_each(|entry| entry.since = now);
        }
    }

    /// Lets waiting threads in; returns how long the next ones have to wait.
    fn pause<'a>(&'a self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, Duration) {
        state.pauses = true;
        drop(state);
        let begin = Instant::now();
        // Does nothing while the interpreter finalizes.
        let _ = Python::try_attach(pause_all_threads);
        let taken = begin.elapsed();
        let mut state = self.lock();
        state.pauses = false;
        self.changed.notify_all();
        (state, (taken * PART).clamp(INTERVAL, MAXIMUM_INTERVAL))
    }
}

fn pause_all_threads(py: Python<'_>) {
    with_others_paused(py, || ());
}

/// Calls `body` while all other threads are paused. It must not run Python code, detach, drop objects
/// or panic.
///
/// CPython pauses all threads while it calls a function for the objects that the garbage collector
/// knows; the function ends that at the first one.
pub fn with_others_paused<F: FnOnce()>(_py: Python<'_>, body: F) {
    unsafe extern "C" {
        fn PyUnstable_GC_VisitObjects(
            visit: unsafe extern "C" fn(*mut ffi::PyObject, *mut c_void) -> c_int,
            argument: *mut c_void,
        );
    }
    unsafe extern "C" fn visit<F: FnOnce()>(
        _object: *mut ffi::PyObject,
        body: *mut c_void,
    ) -> c_int {
        // SAFETY: the pointer from below.
        if let Some(body) = unsafe { (*body.cast::<Option<F>>()).take() } {
            body();
        }
        0
    }
    let mut body = Some(body);
    // SAFETY: attached; the function is called only until this returns. CPython suspends the sections
    // of this thread while it waits for the others.
    unsafe { PyUnstable_GC_VisitObjects(visit::<F>, (&raw mut body).cast()) };
}

/// Ends the helper when the interpreter exits. Called when the module is made.
///
/// # Errors
/// Only those of a lack of memory.
pub fn install(py: Python<'_>) -> PyResult<()> {
    let end = PyCFunction::new_closure(py, None, None, |arguments, _| end(arguments.py()))?;
    py.import("atexit")?.call_method1("register", (end,)).map(drop)
}

/// Waits until no thread is paused by the helper, which pauses none from then on.
fn end(py: Python<'_>) {
    py.detach(|| {
        let helper = Helper::of_this_process();
        let mut state = helper.lock();
        state.ended = true;
        helper.changed.notify_all();
        while state.pauses {
            state = helper.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    });
}
