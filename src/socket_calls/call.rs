//! The calls of the `sock_*()` methods: one system call, and a wait only if it would block.
//!
//! The object behaves like asyncio's coroutine: it can be awaited, wrapped in a task, thrown into
//! and closed, and it does not start before it is first resumed. Reading happens when the awaiting
//! task runs, not when the socket becomes readable, so that cancelling the task in between loses no
//! data and no descriptor; a message is sent then too.

use std::os::fd::RawFd;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::action::Action;
use crate::ffi::entries::entered;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::layout::socket::PythonSocket;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::slots::{Finalize, Resumed, SelfAwaiting, original_dealloc};
use crate::ffi::section::{Owned, attach_unshared};
use crate::future::{Future, FutureIterator};
use crate::interop::error::os_error;
use crate::reactor::SlotKey;
use crate::scheduler::report::warn_never_awaited;
use crate::scheduler::socket_waiters::SocketWaiterKind;
use crate::scheduler::watch::Direction;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};
use crate::socket_calls::messages;
use crate::socket_calls::reader::SocketReader;
use crate::transport::{OWNERS, Transport};

/// The states of a call.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum CallState {
    New,
    Waiting,
    Done,
}

static WRITABLE: RunnableKind = RunnableKind::of::<SocketCall>();

impl Queued for SocketCall {
    type Object = Self;

    fn run<'py>(
        _scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Self>,
    ) -> PyOutcome<'py, ()> {
        Self::writable(&entry.object)
    }
}

/// The socket was closed while the call waited.
static SOCKET_WAITER: SocketWaiterKind = SocketWaiterKind {
    is_closed: |object| {
        object.cast::<SocketCall>().is_ok_and(|call| call.get().socket.descriptor() == -1)
    },
    end: |object| {
        let py = object.py();
        let call = object.cast::<SocketCall>().or_raise(py)?;
        SocketCall::socket_closed(call)
    },
};

/// A call on a socket: a coroutine, made by the loop's `sock_*()` methods.
#[pyclass(frozen, weakref, module = "ferroloop._ferroloop")]
pub struct SocketCall {
    pub(super) scheduler: Py<Scheduler>,
    pub(super) socket: PythonSocket,
    pub(super) action: AttachedCell<Action>,
    future: AttachedCell<Option<Py<Future>>>,
    reader: AttachedCell<Option<Py<SocketReader>>>,
    pub(super) state: AttachedCell<CallState>,
    /// The descriptor that it waits for, and its key among the loop's waiters.
    waiting: AttachedCell<Option<(RawFd, SlotKey)>>,
}

impl SocketCall {
    /// A call that has not started.
    pub fn new(scheduler: &Bound<'_, Scheduler>, socket: PythonSocket, action: Action) -> Self {
        Self {
            scheduler: scheduler.clone().unbind(),
            socket,
            action: AttachedCell::new(action),
            future: AttachedCell::new(None),
            reader: AttachedCell::new(None),
            state: AttachedCell::new(CallState::New),
            waiting: AttachedCell::new(None),
        }
    }

    /// Refuses the sockets that asyncio's methods refuse.
    fn check_socket(&self, py: Python<'_>) -> PyResult<()> {
        if self.action.inspect(py, Action::is_message) {
            // asyncio's own code refuses them for the other calls.
            messages::refuse_tls(self.socket.object().bind(py))?;
        }
        if self.scheduler.get().is_debug(py) {
            let timeout = self.socket.object().call_method0(py, intern!(py, "gettimeout"))?;
            if !timeout.bind(py).eq(0)? {
                return Err(PyValueError::new_err("the socket must be non-blocking"));
            }
        }
        Ok(())
    }

    /// Watches the socket; returns the future to await.
    fn wait<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Future>> {
        let py = slf.py();
        let this = slf.get();
        let scheduler = this.scheduler.bind(py);
        scheduler.get().check_open(py)?;
        let fd = this.socket.descriptor();
        this.check_no_transport(py, fd)?;
        let future = Bound::new(py, Future::for_loop(scheduler)?)?;
        this.future.store(py, Some(future.clone()));
        let socket = this.socket.object().bind(py);
        if this.action.inspect(py, Action::writes) {
            let runnable = Runnable::new(&WRITABLE, slf.clone());
            let replaced = scheduler
                .get()
                .watch(py, fd, Direction::Write, runnable)
                .map_err(|refused| os_error(py, &refused.error))?;
            drop(replaced);
        } else {
            let reader = SocketReader::wait(scheduler, socket, fd, slf)?;
            this.reader.store(py, Some(reader));
        }
        let slot = scheduler.get().add_socket_waiter(slf.as_any(), &SOCKET_WAITER);
        this.waiting.set(py, Some((fd, slot)));
        Ok(future)
    }

    fn check_no_transport(&self, py: Python<'_>, fd: i32) -> PyResult<()> {
        let Some(owner) = OWNERS.get(py, fd) else { return Ok(()) };
        let Ok(transport) = owner.cast_into::<Transport>() else { return Ok(()) };
        let is_ours =
            transport.get().scheduler(py).is_some_and(|loop_| loop_.is(self.scheduler.bind(py)));
        if !is_ours || transport.get().is_closing(py) {
            return Ok(());
        }
        let transport = transport.as_any().repr()?;
        Err(PyRuntimeError::new_err(format!(
            "File descriptor {fd} is used by transport {transport}"
        )))
    }

    /// Called when the socket is ready.
    pub fn wake(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.get().future.get_bound(py) {
            Some(future) if !future.get().is_done(py) => {
                Future::finish_with_result(&future, py.None().into_bound(py))
            }
            _ => Ok(()),
        }
    }

    /// Called when the socket is writable. As in asyncio, data is sent here and not when the task
    /// runs.
    fn writable<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if !this.action.inspect(py, Action::continues_when_ready) {
            return Self::wake(slf).or_raise(py);
        }
        let Some(future) = this.future.get_bound(py) else { return Ok(()) };
        if future.get().is_done(py) {
            return Ok(());
        }
        let done = match this.try_call(py) {
            Ok(None) => return Ok(()),
            Ok(Some(value)) => Future::finish_with_result(&future, value),
            Err(raised) if raised.stops_the_loop() => return Err(raised),
            Err(raised) => Future::finish_with_exception(&future, raised.into_value()),
        };
        this.release(slf);
        done.or_raise(py)
    }

    /// Called when the socket was closed during the wait: the call fails as on any closed socket.
    fn socket_closed<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        Self::writable(slf)
    }

    /// Stops waiting.
    fn stop_waiting(&self, slf: &Bound<'_, Self>) {
        let py = slf.py();
        let scheduler = self.scheduler.get();
        if let Some(reader) = self.reader.take(py) {
            reader.get().release(slf);
        }
        let Some((fd, slot)) = self.waiting.take(py) else { return };
        drop(scheduler.remove_socket_waiter(py, slot));
        if self.action.inspect(py, Action::writes) {
            drop(scheduler.unwatch_of(fd, Direction::Write, slf));
        }
    }

    /// Stops waiting, and releases the buffers.
    fn release(&self, slf: &Bound<'_, Self>) {
        let py = slf.py();
        self.stop_waiting(slf);
        if let Some(rest) = self.action.inspect(py, |action| action.without_buffers(py)) {
            drop(self.action.replace(py, rest));
        }
    }

    fn finish(slf: &Bound<'_, Self>) {
        let this = slf.get();
        this.state.set(slf.py(), CallState::Done);
        this.release(slf);
        drop(this.future.take(slf.py()));
    }

    fn advance<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, Resumption<'py>> {
        let py = slf.py();
        let this = slf.get();
        match this.state.get(py) {
            CallState::Done => {
                let error = PyRuntimeError::new_err("cannot reuse already awaited coroutine");
                return Err(Raised::of(py, error));
            }
            CallState::New => this.check_socket(py).or_raise(py)?,
            CallState::Waiting => {
                let Some(future) = this.future.get_bound(py) else {
                    return Err(Raised::of(py, PyRuntimeError::new_err("nothing to wait for")));
                };
                match Future::resume(&future) {
                    Resumed::Yield(future) => return Ok(Resumption::Wait(future)),
                    Resumed::Raise(exception) => return Err(Raised::from(exception)),
                    Resumed::Return(value)
                        if this.action.inspect(py, Action::continues_when_ready) =>
                    {
                        return Ok(Resumption::Done(value));
                    }
                    Resumed::Return(_) => {}
                }
            }
        }
        if let Some(value) = this.try_call(py)? {
            return Ok(Resumption::Done(value));
        }
        if this.state.get(py) == CallState::Waiting {
            // Another call, or another process, was faster.
            this.stop_waiting(slf);
        }
        let future = Self::wait(slf).or_raise(py)?;
        this.state.set(py, CallState::Waiting);
        match Future::resume(&future) {
            Resumed::Yield(future) => Ok(Resumption::Wait(future)),
            Resumed::Return(value) => Ok(Resumption::Done(value)),
            Resumed::Raise(exception) => Err(Raised::from(exception)),
        }
    }
}

enum Resumption<'py> {
    Wait(Bound<'py, PyAny>),
    Done(Bound<'py, PyAny>),
}

impl SelfAwaiting for SocketCall {
    fn resume<'py>(slf: &Bound<'py, Self>) -> Resumed<'py> {
        match Self::advance(slf) {
            Ok(Resumption::Wait(future)) => Resumed::Yield(future),
            Ok(Resumption::Done(value)) => {
                Self::finish(slf);
                Resumed::Return(value)
            }
            Err(raised) => {
                Self::finish(slf);
                Resumed::Raise(raised.into_value())
            }
        }
    }
}

impl Finalize for SocketCall {
    original_dealloc!();

    #[inline(always)]
    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
        slf.get().state.get(slf.py()) == CallState::New
    }

    /// Warns, as the interpreter does for a coroutine that was never awaited.
    fn finalize(slf: &Bound<'_, Self>) {
        let py = slf.py();
        slf.get().state.set(py, CallState::Done);
        let name = slf.get().action.inspect(py, Action::name);
        warn_never_awaited(slf, &format!("EventLoop.{name}"));
    }
}

#[pymethods]
impl SocketCall {
    #[getter(__qualname__)]
    fn qualname(&self, py: Python<'_>) -> String {
        format!("EventLoop.{}", self.action.inspect(py, Action::name))
    }

    #[getter(__name__)]
    fn name(&self, py: Python<'_>) -> &'static str {
        self.action.inspect(py, Action::name)
    }

    #[getter]
    fn cr_await<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Future>> {
        self.future.get_bound(py)
    }

    #[getter]
    fn cr_running(&self) -> bool {
        false
    }

    /// The value of `inspect.getcoroutinestate()`.
    #[cfg(Py_3_15)]
    #[getter]
    fn cr_state(&self, py: Python<'_>) -> &'static str {
        match self.state.get(py) {
            CallState::New => "CORO_CREATED",
            CallState::Waiting => "CORO_SUSPENDED",
            CallState::Done => "CORO_CLOSED",
        }
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    /// Resume the coroutine; the value sent is ignored.
    fn send<'py>(slf: &Bound<'py, Self>, _value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Self::resume(slf).into_sent()
    }

    /// Raise an exception where the coroutine waits.
    #[pyo3(signature = (*arguments))]
    fn throw<'py>(
        slf: &Bound<'py, Self>,
        arguments: Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::finish(slf);
        FutureIterator::raise(arguments)
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Self::needs_finalizing(slf) {
            Self::finalize(slf);
        }
    }

    /// Stop waiting and end the call.
    fn close(slf: &Bound<'_, Self>) {
        Self::finish(slf);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.scheduler)?;
        visit.call(self.socket.object())?;
        self.action.visit_with(&visit)?;
        self.future.visit(&visit)?;
        self.reader.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop((self.future.take(py), self.reader.take(py))));
    }
}

impl Owned for SocketCall {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        Some(slf.get().scheduler.bind(slf.py()).as_any().as_borrowed())
    }
}

entered!(SocketCall);
