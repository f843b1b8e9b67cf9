//! `RustCoroutine`: a Python coroutine that runs a Rust future.
//!
//! It can be awaited, wrapped in a task, thrown into and closed. Anything that ends it early drops
//! the Rust future, which is how Rust futures are cancelled: an exception thrown in, for example by
//! cancelling its task, `close()`, closing the loop, or deallocating the object.
//!
//! While the Rust future is pending the coroutine awaits a Future of the loop, the waiter, which a
//! wake-up finishes. Meanwhile the loop owns the waiter: otherwise the garbage collector would take
//! a task that only a Rust waker refers to.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::api::futures::LocalFuture;
use crate::api::futures::arena::FutureSlot;
use crate::api::futures::budget;
use crate::api::futures::failure::panicked;
use crate::api::futures::waker::FutureWaker;
use crate::ffi::entries::entered;
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::objects::cell::{AttachedCell, Traverse};
use crate::ffi::objects::freelist::{FreeList, Recycled};
use crate::ffi::objects::kept_memory::kept_memory;
use crate::ffi::objects::slots::{Finalize, Resumed, SelfAwaiting, original_dealloc};
use crate::ffi::panic;
use crate::ffi::section::{self, Home, Owned, attach_unshared};
use crate::future::{Future, FutureIterator, new_object};
use crate::interop::error::with_errno;
use crate::interop::imports;
use crate::scheduler::report::warn_never_awaited;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};

/// The module that makes code and frame objects.
pub(super) const FRAMES: &str = "ferroloop._rust_frames";

/// The states of a coroutine.
#[derive(Clone, Copy, PartialEq)]
enum CoroutineState {
    New,
    Suspended,
    Running,
    Done,
}

/// The loop that a coroutine runs on, and how it is woken there.
struct LoopBinding {
    scheduler: Py<Scheduler>,
    future_waker: Arc<FutureWaker>,
    waker: Waker,
}

impl Traverse for Option<LoopBinding> {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.as_ref().map(|binding| &binding.scheduler))
    }
}

/// A coroutine that runs a Rust future.
#[pyclass(frozen, weakref, module = "ferroloop._ferroloop")]
pub struct RustCoroutine {
    home: Home,
    name: Cow<'static, str>,
    slot: Arc<FutureSlot>,
    binding: AttachedCell<Option<LoopBinding>>,
    waiter: AttachedCell<Option<Py<Future>>>,
    state: AttachedCell<CoroutineState>,
}

/// Deallocated coroutines that are kept. Most are awaited where they are made, so that fewer exist at
/// the same time than tasks.
const FREE_COROUTINES: usize = 256;

impl Recycled for RustCoroutine {
    fn free_list() -> &'static FreeList {
        kept_memory!(FREE_COROUTINES)
    }
}

/// Queued by a wake-up: finishes the waiter.
static WAKE_WAITER: RunnableKind = RunnableKind::of::<WakeWaiter>();

struct WakeWaiter;

impl Queued for WakeWaiter {
    type Object = Future;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Future>,
    ) -> PyOutcome<'py, ()> {
        let py = scheduler.py();
        let waiter = entry.object;
        if waiter.get().is_done(py) {
            return Ok(()); // cancelled
        }
        Future::finish_with_result(&waiter, py.None().into_bound(py)).or_raise(py)
    }
}

impl RustCoroutine {
    /// A coroutine that has not started. It will run on the loop that first resumes it, which must
    /// run in this thread.
    pub fn new<'py>(
        py: Python<'py>,
        name: Cow<'static, str>,
        future: LocalFuture,
    ) -> PyResult<Bound<'py, Self>> {
        let coroutine = Self {
            home: Home::default(),
            name,
            slot: Arc::new(FutureSlot::new(future)),
            binding: AttachedCell::new(None),
            waiter: AttachedCell::new(None),
            state: AttachedCell::new(CoroutineState::New),
        };
        Bound::new(py, coroutine)
    }

    /// Binds the coroutine to a loop, which from then on drops the future when it is closed.
    pub fn bind_to_loop(&self, scheduler: &Bound<'_, Scheduler>) -> PyResult<()> {
        let py = scheduler.py();
        scheduler.get().check_open(py)?;
        let inbox = scheduler.get().inbox().clone();
        let make = |key| Arc::new(FutureWaker::new(inbox, key, self.slot.clone()));
        let future_waker = section::enter(scheduler, || scheduler.get().reserve_slot(py, make));
        let binding = LoopBinding {
            scheduler: scheduler.clone().unbind(),
            waker: Waker::from(future_waker.clone()),
            future_waker,
        };
        drop(self.binding.replace(py, Some(binding)));
        self.home.set(scheduler);
        Ok(())
    }

    /// The name, for tools.
    #[cfg(published_tasks)]
    pub fn shown_name(&self) -> &str {
        &self.name
    }

    /// Ends a coroutine that has not started, without the warning that it was never awaited.
    pub fn abandon(&self, py: Python<'_>) {
        self.finish(py);
    }

    /// Ends the coroutine: drops the future and releases its slot on the loop.
    fn finish(&self, py: Python<'_>) {
        self.state.set(py, CoroutineState::Done);
        drop(self.waiter.take(py));
        match self.binding.take(py) {
            Some(binding) => {
                binding.future_waker.release();
                let (scheduler, key) = (binding.scheduler.bind(py), binding.future_waker.key());
                drop(section::enter(scheduler, || scheduler.get().release_slot(py, key)));
            }
            None => drop(self.slot.release()),
        }
    }

    /// Resumes the coroutine: returns the waiter if that is still pending, polls otherwise.
    fn advance<'py>(slf: &Bound<'py, Self>) -> PyResult<Resumption<'py>> {
        let (py, this) = (slf.py(), slf.get());
        let is_new = this.state.get(py) == CoroutineState::New;
        if is_new && this.binding.inspect(py, Option::is_none) {
            this.bind_to_loop(&running_loop(py)?)?;
            // From here on its section is the loop's.
            return section::enter_of(slf, || this.poll_if_suspended(py));
        }
        this.poll_if_suspended(py)
    }

    fn poll_if_suspended<'py>(&self, py: Python<'py>) -> PyResult<Resumption<'py>> {
        match self.state.get(py) {
            CoroutineState::Done => return Err(reused()),
            CoroutineState::Running => return Err(executing()),
            CoroutineState::New | CoroutineState::Suspended => {}
        }
        // Moved out meanwhile, which is quicker than counting references.
        let binding = self.binding.take(py);
        self.state.set(py, CoroutineState::Running);
        let resumed = match &binding {
            Some(binding) if !binding.scheduler.get().is_closed(py) => self.poll(py, binding),
            // Closing the loop has dropped the future.
            _ => Err(closed()),
        };
        self.state.set(py, CoroutineState::Suspended);
        drop(self.binding.replace(py, binding));
        resumed
    }

    /// Polls the future, once the waiter is done.
    fn poll<'py>(&self, py: Python<'py>, binding: &LoopBinding) -> PyResult<Resumption<'py>> {
        if let Some(waiter) = self.waiter.get_bound(py) {
            match Future::resume(&waiter) {
                Resumed::Yield(waiter) => return Ok(Resumption::Wait(waiter)),
                Resumed::Raise(exception) => return Err(PyErr::from_value(exception.into_any())),
                Resumed::Return(_) => drop(self.waiter.take(py)),
            }
        }
        // The future is kept even if it is done: `finish` drops it.
        let polled = self.slot.poll_with(|future| {
            binding.future_waker.state().begin_poll();
            budget::renewed(|| {
                panic::catch(|| future.as_mut().poll(&mut Context::from_waker(&binding.waker)))
            })
        });
        let Ok(polled) = polled else {
            return Err(PyRuntimeError::new_err(
                "the Rust future was made in another thread than the one that runs the loop",
            ));
        };
        match polled.ok_or_else(closed)? {
            Ok(Poll::Ready(result)) => Ok(Resumption::Done(result?.into_bound(py))),
            Ok(Poll::Pending) => self.wait(py, binding),
            Err(message) => Err(panicked(&message)),
        }
    }

    /// Returns the object to await until the next wake-up.
    fn wait<'py>(&self, py: Python<'py>, binding: &LoopBinding) -> PyResult<Resumption<'py>> {
        if !binding.future_waker.state().end_poll() {
            // Woken during the poll. A bare yield makes the task run again in the next turn.
            return Ok(Resumption::Wait(py.None().into_bound(py)));
        }
        let scheduler = binding.scheduler.bind(py);
        let waiter = new_object(py, Future::for_loop(scheduler)?)?;
        self.waiter.store(py, Some(waiter.clone()));
        let runnable = Runnable::new(&WAKE_WAITER, waiter.clone());
        let key = binding.future_waker.key();
        drop(scheduler.get().park(py, key, runnable));
        match Future::resume(&waiter) {
            Resumed::Yield(waiter) => Ok(Resumption::Wait(waiter)),
            // Impossible: nothing else has a reference by which it could be finished yet.
            Resumed::Return(value) => Ok(Resumption::Wait(value)),
            Resumed::Raise(exception) => Err(PyErr::from_value(exception.into_any())),
        }
    }

    /// Raises ValueError while the future is being polled.
    fn check_not_executing(&self, py: Python<'_>) -> PyResult<()> {
        if self.state.get(py) == CoroutineState::Running { Err(executing()) } else { Ok(()) }
    }
}

/// The result of resuming a coroutine.
enum Resumption<'py> {
    /// It awaits this object.
    Wait(Bound<'py, PyAny>),
    /// It returns this value.
    Done(Bound<'py, PyAny>),
}

/// The loop that runs in this thread.
///
/// # Errors
/// RuntimeError if there is none, or if it is not ferroloop's.
pub fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, Scheduler>> {
    let event_loop = imports::get_running_loop(py)?.call0()?;
    if event_loop.is_none() {
        return Err(PyRuntimeError::new_err("no running event loop"));
    }
    event_loop.cast_into().map_err(|_| {
        PyRuntimeError::new_err("Rust futures need an event loop of ferroloop; another one runs")
    })
}

fn executing() -> PyErr {
    PyValueError::new_err("coroutine already executing")
}

fn reused() -> PyErr {
    PyRuntimeError::new_err("cannot reuse already awaited coroutine")
}

/// The error of a loop that is closed.
pub fn closed() -> PyErr {
    PyRuntimeError::new_err("Event loop is closed")
}

/// What the coroutine raises for an error of its future. StopIteration would end it with a result
/// (PEP 479), and errors of the system lack their number.
#[cold]
fn raised(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) {
        return with_errno(py, error);
    }
    let replaced = PyRuntimeError::new_err("coroutine raised StopIteration");
    let stop = error.into_value(py).into_bound(py);
    let linked = replaced.value(py).setattr(intern!(py, "__context__"), &stop);
    replaced.set_cause(py, Some(PyErr::from_value(stop.into_any())));
    linked.err().unwrap_or(replaced)
}

impl SelfAwaiting for RustCoroutine {
    fn resume<'py>(slf: &Bound<'py, Self>) -> Resumed<'py> {
        let py = slf.py();
        match Self::advance(slf) {
            Ok(Resumption::Wait(awaited)) => Resumed::Yield(awaited),
            Ok(Resumption::Done(value)) => {
                slf.get().finish(py);
                Resumed::Return(value)
            }
            Err(error) => {
                // The poll itself resumed the coroutine: an error, which does not end it.
                if slf.get().state.get(py) != CoroutineState::Running {
                    slf.get().finish(py);
                }
                Resumed::Raise(raised(py, error).into_value(py).into_bound(py))
            }
        }
    }
}

impl Finalize for RustCoroutine {
    original_dealloc!();

    #[inline(always)]
    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
        slf.get().state.get(slf.py()) == CoroutineState::New
    }

    /// Warns, as the interpreter does for a coroutine that was never awaited.
    fn finalize(slf: &Bound<'_, Self>) {
        let py = slf.py();
        slf.get().state.set(py, CoroutineState::Done);
        warn_never_awaited(slf, &slf.get().name);
    }
}

impl Drop for RustCoroutine {
    fn drop(&mut self) {
        // While the interpreter shuts down the future stays until its thread ends.
        let _ = Python::try_attach(|py| section::unshared(|| self.finish(py)));
    }
}

#[pymethods]
impl RustCoroutine {
    #[getter(__qualname__)]
    fn qualname(&self) -> &str {
        &self.name
    }

    #[getter(__name__)]
    fn name(&self) -> &str {
        &self.name
    }

    /// The object that the coroutine awaits.
    #[getter]
    fn cr_await<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Future>> {
        self.waiter.get_bound(py)
    }

    /// A frame that stands for the Rust future; None once that has ended.
    #[getter]
    fn cr_frame<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.state.get(py) == CoroutineState::Done {
            return Ok(None);
        }
        py.import(FRAMES)?.call_method1("make_frame", (&self.name,)).map(Some)
    }

    #[getter]
    fn cr_code<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import(FRAMES)?.call_method1("make_code", (&self.name,))
    }

    /// Always None: where the coroutine was made is not recorded.
    #[getter]
    fn cr_origin(&self, py: Python<'_>) -> Py<PyAny> {
        py.None()
    }

    #[getter]
    fn cr_suspended(&self, py: Python<'_>) -> bool {
        self.state.get(py) == CoroutineState::Suspended
    }

    #[getter]
    fn cr_running(&self, py: Python<'_>) -> bool {
        self.state.get(py) == CoroutineState::Running
    }

    /// The value of `inspect.getcoroutinestate()`.
    #[cfg(Py_3_15)]
    #[getter]
    fn cr_state(&self, py: Python<'_>) -> &'static str {
        match self.state.get(py) {
            CoroutineState::New => "CORO_CREATED",
            CoroutineState::Suspended => "CORO_SUSPENDED",
            CoroutineState::Running => "CORO_RUNNING",
            CoroutineState::Done => "CORO_CLOSED",
        }
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    /// Resume the coroutine; the value sent is ignored.
    fn send<'py>(slf: &Bound<'py, Self>, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if slf.get().state.get(slf.py()) == CoroutineState::New && !value.is_none() {
            let message = "can't send non-None value to a just-started coroutine";
            return Err(PyTypeError::new_err(message));
        }
        Self::resume(slf).into_sent()
    }

    /// Drop the Rust future and raise an exception.
    #[pyo3(signature = (*arguments))]
    fn throw<'py>(
        &self,
        py: Python<'py>,
        arguments: Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let state = self.state.get(py);
        match state {
            CoroutineState::Running => return Err(executing()),
            CoroutineState::Done => return Err(reused()),
            CoroutineState::New | CoroutineState::Suspended => self.finish(py),
        }
        let thrown = FutureIterator::raise(arguments);
        // From 3.12 on, a coroutine that has not started does not see the exception.
        let is_unseen = cfg!(Py_3_12) && state == CoroutineState::New;
        thrown.map_err(|error| if is_unseen { error } else { raised(py, error) })
    }

    /// Drop the Rust future.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.check_not_executing(py)?;
        self.finish(py);
        Ok(())
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Self::needs_finalizing(slf) {
            Self::finalize(slf);
        }
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        format!("<coroutine object {} at {:p}>", slf.get().name, slf.as_ptr())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.visit(&visit)?;
        self.binding.visit_with(&visit)?;
        self.waiter.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| self.finish(py));
    }
}

impl Owned for RustCoroutine {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().home.get(slf.py())
    }
}

entered!(RustCoroutine);
