//! `RustCoroutine`: a Rust future as Python sees it, a coroutine.
//!
//! It can be awaited, made a task of, thrown into and closed. Whatever ends it early (an exception
//! thrown in, as by the cancellation of its task, `close()`, the end of the loop or of the object)
//! drops the Rust future, which is how Rust futures are cancelled.
//!
//! While the future is pending the coroutine awaits a Future of the loop, the waiter, which a
//! wake-up finishes. The loop owns the waiter meanwhile, so that a task is not lost that nobody
//! but a Rust waker knows.

#![forbid(unsafe_code)]

use std::any::Any;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicPtr;
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning, PyStopIteration, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::api::futures::arena::{FutureSlot, LocalFuture};
use crate::api::futures::waker::FutureWaker;
use crate::ffi::exception::{Raised, write_unraisable};
use crate::ffi::objects::cell::{AttachedCell, Traverse};
use crate::ffi::objects::freelist::{FreeList, Recycled};
use crate::ffi::objects::slots::{Finalize, Resumed, SelfAwaiting};
use crate::future::{Future, FutureIterator, new_object};
use crate::interop::imports;
use crate::scheduler::report::{outcome, too_late_to_report};
use crate::scheduler::runnable::{describe_object, never_cancelled, nothing_to_note};
use crate::scheduler::{Runnable, RunnableKind, Scheduler};

/// How far a coroutine is.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    New,
    Suspended,
    Running,
    Done,
}

/// What a coroutine needs of the loop that it runs on.
struct Tenant {
    scheduler: Py<Scheduler>,
    future_waker: Arc<FutureWaker>,
    waker: Waker,
}

impl Traverse for Option<Tenant> {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.as_ref().map(|tenant| &tenant.scheduler))
    }
}

/// A Rust future: a coroutine.
#[pyclass(frozen, weakref, module = "ferroloop._ferroloop")]
pub struct RustCoroutine {
    name: Cow<'static, str>,
    slot: Arc<FutureSlot>,
    tenant: AttachedCell<Option<Tenant>>,
    waiter: AttachedCell<Option<Py<Future>>>,
    stage: AttachedCell<Stage>,
}

impl Recycled for RustCoroutine {
    fn free_list() -> &'static FreeList {
        static FREE_LIST: FreeList = FreeList::new(256);
        &FREE_LIST
    }
}

/// A waiter whose future was woken.
static WOKEN: RunnableKind = RunnableKind {
    run: |scheduler, runnable| {
        let py = scheduler.py();
        let waiter = runnable.object.into_bound(py).cast_into::<Future>().map_err(PyErr::from);
        let waiter = outcome(py, waiter)?;
        if waiter.get().is_done(py) {
            return Ok(()); // cancelled
        }
        outcome(py, Future::finish_with_result(&waiter, py.None().into_bound(py)))
    },
    cancelled: never_cancelled,
    sets_current_task: false,
    show: nothing_to_note,
    describe: describe_object,
    left_timers: nothing_to_note,
};

impl RustCoroutine {
    /// A coroutine that has not begun; it will run on the loop that first resumes it, which must
    /// be in this thread.
    pub fn new<'py>(
        py: Python<'py>,
        name: Cow<'static, str>,
        future: LocalFuture,
    ) -> PyResult<Bound<'py, Self>> {
        let coroutine = Self {
            name,
            slot: Arc::new(FutureSlot::new(future)),
            tenant: AttachedCell::new(None),
            waiter: AttachedCell::new(None),
            stage: AttachedCell::new(Stage::New),
        };
        Bound::new(py, coroutine)
    }

    /// Gives the coroutine a place on the loop, which from then on drops the future when it is
    /// closed.
    pub fn settle(&self, scheduler: &Bound<'_, Scheduler>) -> PyResult<()> {
        let py = scheduler.py();
        scheduler.get().check_open(py)?;
        let inbox = scheduler.get().inbox.clone();
        let future_waker = scheduler.get().parked.with(py, |parked| {
            parked.reserve(|key| Arc::new(FutureWaker::new(inbox, key, self.slot.clone())))
        });
        let tenant = Tenant {
            scheduler: scheduler.clone().unbind(),
            waker: Waker::from(future_waker.clone()),
            future_waker,
        };
        drop(self.tenant.replace(py, Some(tenant)));
        Ok(())
    }

    /// Ends a coroutine that has not begun, without a warning.
    pub fn abandon(&self, py: Python<'_>) {
        self.finish(py);
    }

    /// Ends it: drops the future, unless it is done, and leaves the loop.
    fn finish(&self, py: Python<'_>) {
        self.stage.set(py, Stage::Done);
        drop(self.waiter.take(py));
        match self.tenant.take(py) {
            Some(tenant) => {
                tenant.future_waker.release();
                let released = tenant
                    .scheduler
                    .get()
                    .parked
                    .with(py, |parked| parked.release(tenant.future_waker.key()));
                drop(released);
            }
            None => drop(self.slot.release()),
        }
    }

    /// One resumption: looks at the waiter, polls, waits again.
    fn advance<'py>(&self, py: Python<'py>) -> PyResult<Step<'py>> {
        match self.stage.get(py) {
            Stage::Done => {
                return Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine"));
            }
            Stage::Running => return Err(executing()),
            Stage::New if self.tenant.inspect(py, Option::is_none) => {
                self.settle(&running(py)?)?;
            }
            Stage::New | Stage::Suspended => {}
        }
        self.stage.set(py, Stage::Suspended);
        let settled =
            self.tenant.inspect(py, |tenant| tenant.as_ref().map(|tenant| tenant.clone_ref(py)));
        // The loop drops the future when it is closed.
        let Some(tenant) = settled.filter(|tenant| !tenant.scheduler.get().closed.get(py)) else {
            return Err(closed());
        };
        if let Some(waiter) = self.waiter.get_bound(py) {
            match Future::resume(&waiter) {
                Resumed::Yield(waiter) => return Ok(Step::Wait(waiter)),
                Resumed::Raise(exception) => return Err(PyErr::from_value(exception.into_any())),
                Resumed::Return(_) => drop(self.waiter.take(py)),
            }
        }
        let Ok(future) = self.slot.take() else {
            return Err(PyRuntimeError::new_err(
                "the Rust future was made in another thread than the one that runs the loop",
            ));
        };
        let mut future = future.ok_or_else(closed)?;
        self.stage.set(py, Stage::Running);
        tenant.future_waker.begin_poll();
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(&tenant.waker))
        }));
        self.stage.set(py, Stage::Suspended);
        // Back to its room even if it is over, to be dropped by `finish`.
        self.slot.put_back(future);
        match polled {
            Ok(Poll::Ready(result)) => Ok(Step::Done(result?.into_bound(py))),
            Ok(Poll::Pending) => self.wait(py, &tenant),
            Err(payload) => Err(panicked(&*payload)),
        }
    }

    /// What to await until the next wake-up.
    fn wait<'py>(&self, py: Python<'py>, tenant: &Tenant) -> PyResult<Step<'py>> {
        if !tenant.future_waker.end_poll() {
            // Woken during the poll: the next turn, which a bare yield asks a task for.
            return Ok(Step::Wait(py.None().into_bound(py)));
        }
        let scheduler = tenant.scheduler.bind(py);
        let waiter = new_object(py, Future::on(scheduler)?)?;
        self.waiter.store(py, Some(waiter.clone()));
        let runnable = Runnable::new(&WOKEN, waiter.clone());
        let key = tenant.future_waker.key();
        drop(scheduler.get().parked.with(py, |parked| parked.park(key, runnable)));
        match Future::resume(&waiter) {
            Resumed::Yield(waiter) => Ok(Step::Wait(waiter)),
            // Nobody knows it yet who could have finished it.
            Resumed::Return(value) => Ok(Step::Wait(value)),
            Resumed::Raise(exception) => Err(PyErr::from_value(exception.into_any())),
        }
    }

    /// Refuses to end what is being polled.
    fn check_not_executing(&self, py: Python<'_>) -> PyResult<()> {
        if self.stage.get(py) == Stage::Running { Err(executing()) } else { Ok(()) }
    }
}

/// What a resumption led to.
enum Step<'py> {
    Wait(Bound<'py, PyAny>),
    Done(Bound<'py, PyAny>),
}

impl Tenant {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            scheduler: self.scheduler.clone_ref(py),
            future_waker: self.future_waker.clone(),
            waker: self.waker.clone(),
        }
    }
}

/// The loop of this crate that runs in this thread.
///
/// # Errors
/// RuntimeError if there is none.
pub fn running(py: Python<'_>) -> PyResult<Bound<'_, Scheduler>> {
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

fn closed() -> PyErr {
    PyRuntimeError::new_err("Event loop is closed")
}

/// What a panic becomes.
#[cold]
pub fn panicked(payload: &(dyn Any + Send)) -> PyErr {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown reason");
    PyRuntimeError::new_err(format!("Rust future panicked: {message}"))
}

impl SelfAwaiting for RustCoroutine {
    fn resume<'py>(slf: &Bound<'py, Self>) -> Resumed<'py> {
        let py = slf.py();
        match slf.get().advance(py) {
            Ok(Step::Wait(awaited)) => Resumed::Yield(awaited),
            Ok(Step::Done(value)) => {
                slf.get().finish(py);
                Resumed::Return(value)
            }
            Err(error) => {
                // Wrong use from inside of the poll does not end it.
                if slf.get().stage.get(py) != Stage::Running {
                    slf.get().finish(py);
                }
                Resumed::Raise(error.into_value(py).into_bound(py))
            }
        }
    }
}

impl Finalize for RustCoroutine {
    fn original_dealloc() -> &'static AtomicPtr<()> {
        static DEALLOC: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
        &DEALLOC
    }

    #[inline(always)]
    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
        slf.get().stage.get(slf.py()) == Stage::New
    }

    /// Warns as for any coroutine that nobody awaited.
    fn finalize(slf: &Bound<'_, Self>) {
        let py = slf.py();
        slf.get().stage.set(py, Stage::Done);
        if too_late_to_report(py) {
            return;
        }
        let message = format!("coroutine '{}' was never awaited", slf.get().name);
        let warned = imports::warn(py)
            .and_then(|warn| warn.call1((message, py.get_type::<PyRuntimeWarning>())));
        if let Err(error) = warned {
            write_unraisable(Raised::from(error.into_value(py).into_bound(py)), slf);
        }
    }
}

impl Drop for RustCoroutine {
    fn drop(&mut self) {
        // Not while the interpreter ends: then the thread's end drops the future.
        let _ = Python::try_attach(|py| self.finish(py));
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

    /// What the coroutine waits for.
    #[getter]
    fn cr_await<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Future>> {
        self.waiter.get_bound(py)
    }

    #[getter]
    fn cr_running(&self, py: Python<'_>) -> bool {
        self.stage.get(py) == Stage::Running
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    /// Resume; the value sent is ignored.
    fn send<'py>(slf: &Bound<'py, Self>, _value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match Self::resume(slf) {
            Resumed::Yield(future) => Ok(future),
            Resumed::Return(value) => Err(PyStopIteration::new_err((value.unbind(),))),
            Resumed::Raise(exception) => Err(PyErr::from_value(exception.into_any())),
        }
    }

    /// Drop the Rust future and raise an exception.
    #[pyo3(signature = (*arguments))]
    fn throw<'py>(
        &self,
        py: Python<'py>,
        arguments: Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.check_not_executing(py)?;
        self.finish(py);
        // The argument forms, and the errors for wrong ones, are those of a future's iterator.
        let raising = Bound::new(py, FutureIterator::detached())?;
        raising.call_method1(intern!(py, "throw"), arguments)
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
        self.tenant.visit_with(&visit)?;
        self.waiter.visit(&visit)
    }

    fn __clear__(&self) {
        Python::attach(|py| self.finish(py));
    }
}
