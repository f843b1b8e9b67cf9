//! The operations of the `sock_*()` methods: one system call, and a wait only if it would block.
//!
//! The object behaves like asyncio's coroutine: it can be awaited, wrapped in a task, thrown into
//! and closed, and it does not start before it is first resumed. Reading happens when the awaiting
//! task runs, not when the socket becomes readable, so that cancelling the task in between loses no
//! data.

#![forbid(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicPtr;

use pyo3::exceptions::{
    PyBlockingIOError, PyInterruptedError, PyOSError, PyRuntimeError, PyRuntimeWarning,
    PyValueError,
};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::ffi::exception::{OrRaise, PyOutcome, Raised, write_unraisable};
use crate::ffi::layout::socket::PythonSocket;
use crate::ffi::objects::cell::{AttachedCell, Traverse};
use crate::ffi::objects::slots::{Finalize, Resumed, SelfAwaiting};
use crate::ffi::{buffer, call};
use crate::future::{Future, FutureIterator};
use crate::interop::address;
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::reactor::SlotKey;
use crate::scheduler::report::too_late_to_report;
use crate::scheduler::waiters::SocketWaiterKind;
use crate::scheduler::watch::Direction;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};
use crate::socket_calls::reader::SocketReader;
use crate::sys::is_not_ready;
use crate::sys::socket;
use crate::transport::endpoint::BareSocket;
use crate::transport::receive;
use crate::transport::{OWNERS, Transport};

/// The call to make on the socket.
pub enum Action {
    /// `sock_recv(sock, n)`.
    Receive(usize),
    /// `sock_recv_into(sock, buf)`.
    ReceiveInto(Py<PyAny>),
    /// `sock_recvfrom(sock, bufsize)`.
    ReceiveFrom(usize),
    /// `sock_recvfrom_into(sock, buf, nbytes)`.
    ReceiveFromInto(Py<PyAny>, usize),
    /// `sock_accept(sock)`.
    Accept,
    /// `sock_sendall(sock, data)`, and the number of bytes sent so far.
    SendAll(Py<PyAny>, usize),
    /// `sock_sendto(sock, data, address)`.
    SendTo(Py<PyAny>, Py<PyAny>),
    /// `sock_connect(sock, address)`, and whether connecting is in progress.
    Connect(Py<PyAny>, bool),
}

impl Action {
    fn name(&self) -> &'static str {
        match self {
            Self::Receive(_) => "sock_recv",
            Self::ReceiveInto(_) => "sock_recv_into",
            Self::ReceiveFrom(_) => "sock_recvfrom",
            Self::ReceiveFromInto(..) => "sock_recvfrom_into",
            Self::Accept => "sock_accept",
            Self::SendAll(..) => "sock_sendall",
            Self::SendTo(..) => "sock_sendto",
            Self::Connect(..) => "sock_connect",
        }
    }

    fn writes(&self) -> bool {
        matches!(self, Self::SendAll(..) | Self::SendTo(..) | Self::Connect(..))
    }
}

impl Traverse for Action {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Receive(_) | Self::ReceiveFrom(_) | Self::Accept => Ok(()),
            Self::ReceiveInto(object)
            | Self::ReceiveFromInto(object, _)
            | Self::SendAll(object, _)
            | Self::Connect(object, _) => visit.call(object),
            Self::SendTo(data, address) => {
                visit.call(data)?;
                visit.call(address)
            }
        }
    }
}

/// The states of an operation.
#[derive(Clone, Copy, PartialEq)]
enum OperationState {
    New,
    Waiting,
    Done,
}

static WRITABLE: RunnableKind = RunnableKind::of::<SocketOperation>();

impl Queued for SocketOperation {
    type Object = Self;

    fn run<'py>(
        _scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Self>,
    ) -> PyOutcome<'py, ()> {
        Self::writable(&entry.object)
    }
}

/// The socket was closed while the operation waited.
static SOCKET_WAITER: SocketWaiterKind = SocketWaiterKind {
    is_closed: |object| {
        object
            .cast::<SocketOperation>()
            .is_ok_and(|operation| operation.get().socket.descriptor() == -1)
    },
    end: |object| {
        let py = object.py();
        let operation = object.cast::<SocketOperation>().or_raise(py)?;
        SocketOperation::socket_closed(operation)
    },
};

/// An operation on a socket: a coroutine, made by the loop's `sock_*()` methods.
#[pyclass(frozen, weakref, module = "ferroloop._ferroloop")]
pub struct SocketOperation {
    scheduler: Py<Scheduler>,
    socket: PythonSocket,
    action: AttachedCell<Action>,
    future: AttachedCell<Option<Py<Future>>>,
    reader: AttachedCell<Option<Py<SocketReader>>>,
    state: AttachedCell<OperationState>,
    /// The descriptor that it waits for, and its key among the loop's waiters.
    waiting: AttachedCell<Option<(RawFd, SlotKey)>>,
}

/// The value of a call, `None` if it would block.
type ReadyValue<'py> = Option<Bound<'py, PyAny>>;

impl SocketOperation {
    /// An operation that has not started.
    pub fn new(scheduler: &Bound<'_, Scheduler>, socket: PythonSocket, action: Action) -> Self {
        Self {
            scheduler: scheduler.clone().unbind(),
            socket,
            action: AttachedCell::new(action),
            future: AttachedCell::new(None),
            reader: AttachedCell::new(None),
            state: AttachedCell::new(OperationState::New),
            waiting: AttachedCell::new(None),
        }
    }

    fn check_non_blocking(&self, py: Python<'_>) -> PyResult<()> {
        if self.scheduler.get().debug.get(py) {
            let timeout = self.socket.object().call_method0(py, intern!(py, "gettimeout"))?;
            if !timeout.bind(py).eq(0)? {
                return Err(PyValueError::new_err("the socket must be non-blocking"));
            }
        }
        Ok(())
    }

    /// Counts bytes received.
    fn count_received(&self, length: usize) {
        self.scheduler.get().metrics.bytes_received.add(length as u64);
    }

    /// Counts bytes sent.
    fn count_sent(&self, length: usize) {
        self.scheduler.get().metrics.bytes_sent.add(length as u64);
    }

    /// Makes the call once.
    fn try_call<'py>(&self, py: Python<'py>) -> PyOutcome<'py, ReadyValue<'py>> {
        enum BoundAction<'py> {
            Receive(usize),
            ReceiveInto(Bound<'py, PyAny>),
            ReceiveFrom(usize),
            ReceiveFromInto(Bound<'py, PyAny>, usize),
            Accept,
            SendAll(Bound<'py, PyAny>, usize),
            SendTo(Bound<'py, PyAny>, Bound<'py, PyAny>),
            Connect(Bound<'py, PyAny>, bool),
        }
        let action = self.action.inspect(py, |action| match action {
            Action::Receive(size) => BoundAction::Receive(*size),
            Action::ReceiveInto(target) => BoundAction::ReceiveInto(target.bind(py).clone()),
            Action::ReceiveFrom(size) => BoundAction::ReceiveFrom(*size),
            Action::ReceiveFromInto(target, size) => {
                BoundAction::ReceiveFromInto(target.bind(py).clone(), *size)
            }
            Action::Accept => BoundAction::Accept,
            Action::SendAll(data, sent) => BoundAction::SendAll(data.bind(py).clone(), *sent),
            Action::SendTo(data, to) => {
                BoundAction::SendTo(data.bind(py).clone(), to.bind(py).clone())
            }
            Action::Connect(to, in_progress) => {
                BoundAction::Connect(to.bind(py).clone(), *in_progress)
            }
        });
        match action {
            BoundAction::Receive(size) => {
                let received = receive::at_most(py, self.socket.descriptor(), size)?;
                let received = none_if_not_ready(py, received)?;
                if let Some(data) = &received {
                    self.count_received(data.as_bytes().len());
                }
                Ok(received.map(Bound::into_any))
            }
            BoundAction::ReceiveInto(target) => {
                let fd = self.socket.descriptor();
                match buffer::with_writable_bytes(&target, |b| socket::receive(fd, b)) {
                    Ok(received) => {
                        self.count_received(*received.as_ref().unwrap_or(&0));
                        number(py, received)
                    }
                    // Python's own method raises the error for an unsuitable buffer.
                    Err(_) => {
                        let socket = self.socket.object().bind(py);
                        call::call_method(socket, intern!(py, "recv_into"), [&target]).map(Some)
                    }
                }
            }
            BoundAction::ReceiveFrom(size) => {
                let received = receive::datagram(py, self.socket.descriptor(), size)?;
                match none_if_not_ready(py, received)? {
                    Some((data, sender)) => {
                        self.count_received(data.as_bytes().len());
                        let sender = address::to_python(py, &sender).or_raise(py)?;
                        pair(py, data.into_any(), sender).or_raise(py)
                    }
                    None => Ok(None),
                }
            }
            BoundAction::ReceiveFromInto(target, size) => {
                let fd = self.socket.descriptor();
                let receive = |room: &mut [MaybeUninit<u8>]| {
                    let size = if size == 0 { room.len() } else { size.min(room.len()) };
                    socket::receive_from(fd, &mut room[..size])
                };
                let received = buffer::with_writable_bytes(&target, receive)?;
                match none_if_not_ready(py, received)? {
                    Some((length, sender)) => {
                        self.count_received(length);
                        let sender = address::to_python(py, &sender).or_raise(py)?;
                        let length = length.into_pyobject(py).or_raise(py)?;
                        pair(py, length.into_any(), sender).or_raise(py)
                    }
                    None => Ok(None),
                }
            }
            BoundAction::Accept => self.accept(py),
            BoundAction::SendAll(data, sent) => self.send_all(&data, sent),
            BoundAction::SendTo(data, to) => self.send_to(&data, &to),
            BoundAction::Connect(to, false) => self.connect(&to),
            BoundAction::Connect(to, true) => self.connect_result(&to),
        }
    }

    fn accept<'py>(&self, py: Python<'py>) -> PyOutcome<'py, ReadyValue<'py>> {
        let Some((fd, peer)) = none_if_not_ready(py, socket::accept(self.socket.descriptor()))?
        else {
            return Ok(None);
        };
        let connection = || -> PyResult<_> {
            let listener = self.socket.object().bind(py);
            let bare = BareSocket {
                fd,
                family: listener.getattr(intern!(py, "family"))?.extract()?,
                kind: listener.getattr(intern!(py, "type"))?.extract()?,
                protocol: listener.getattr(intern!(py, "proto"))?.extract()?,
            };
            pair(py, bare.into_python(py)?, address::to_python(py, &peer)?)
        };
        connection().or_raise(py)
    }

    fn send_all<'py>(
        &self,
        data: &Bound<'py, PyAny>,
        sent: usize,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = data.py();
        let fd = self.socket.descriptor();
        let result = buffer::with_bytes(data, |bytes| {
            let rest = bytes.get(sent..).unwrap_or_default();
            socket::send(fd, rest).map(|more| {
                self.count_sent(more);
                (sent + more, more >= rest.len())
            })
        })?;
        match none_if_not_ready(py, result)? {
            Some((_, true)) => Ok(Some(py.None().into_bound(py))),
            Some((sent, false)) => self.wait_to_send_rest(data, sent),
            None => self.wait_to_send_rest(data, sent),
        }
    }

    /// Keeps a view of the data until the operation ends, as asyncio does, so that the program
    /// cannot resize or close it meanwhile.
    fn wait_to_send_rest<'py>(
        &self,
        data: &Bound<'py, PyAny>,
        sent: usize,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = data.py();
        let view = match self.state.get(py) {
            OperationState::New => buffer::view(data)?,
            _ => data.clone(),
        };
        drop(self.action.replace(py, Action::SendAll(view.unbind(), sent)));
        Ok(None)
    }

    /// Calls the socket object's method, which accepts all kinds of addresses.
    fn send_to<'py>(
        &self,
        data: &Bound<'py, PyAny>,
        to: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = data.py();
        let socket = self.socket.object().bind(py);
        let sent =
            none_if_would_block(call::call_method(socket, intern!(py, "sendto"), [data, to]))?;
        if let Some(sent) = &sent {
            self.count_sent(sent.extract().unwrap_or(0));
        }
        Ok(sent)
    }

    /// Calls the socket object's method, which raises the audit event.
    fn connect<'py>(&self, to: &Bound<'py, PyAny>) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = to.py();
        let in_progress = Action::Connect(to.clone().unbind(), true);
        drop(self.action.replace(py, in_progress));
        let socket = self.socket.object().bind(py);
        none_if_would_block(call::call_method(socket, intern!(py, "connect"), [to]))
    }

    /// The result of connecting.
    fn connect_result<'py>(&self, to: &Bound<'py, PyAny>) -> PyOutcome<'py, ReadyValue<'py>> {
        let py = to.py();
        let failure = socket::take_error(self.socket.descriptor())
            .map_err(|e| os_error(py, &e))
            .or_raise(py)?;
        match failure {
            None => Ok(Some(py.None().into_bound(py))),
            Some(error) if is_not_ready(&error) => Ok(None),
            Some(error) => {
                let text = format!("Connect call failed {to}");
                Err(Raised::of(py, PyOSError::new_err((error.raw_os_error(), text))))
            }
        }
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
                .watches
                .with(py, |watches| watches.set(fd, Direction::Write, runnable))
                .map_err(|refused| os_error(py, &refused.error))?;
            drop(replaced);
        } else {
            let reader = SocketReader::wait(scheduler, socket, fd, slf)?;
            this.reader.store(py, Some(reader));
        }
        let slot =
            scheduler.get().waiters.with(py, |waiters| waiters.add(slf.as_any(), &SOCKET_WAITER));
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

    /// Called when the socket is readable.
    pub fn wake(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.get().future.get_bound(py) {
            Some(future) if !future.get().is_done(py) => {
                Future::finish_with_result(&future, py.None().into_bound(py))
            }
            _ => Ok(()),
        }
    }

    /// Called when the socket is writable. Data is sent here, not when the task runs, since a send
    /// cannot be undone.
    fn writable<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
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
        let py = slf.py();
        if slf.get().action.inspect(py, Action::writes) {
            Self::writable(slf)
        } else {
            Self::wake(slf).or_raise(py)
        }
    }

    /// Stops waiting.
    fn release(&self, slf: &Bound<'_, Self>) {
        let py = slf.py();
        let scheduler = self.scheduler.get();
        if let Some(reader) = self.reader.take(py) {
            reader.get().release(slf);
        }
        let Some((fd, slot)) = self.waiting.take(py) else { return };
        let waiter = scheduler.waiters.with(py, |waiters| waiters.remove(slot));
        drop(waiter);
        if self.action.inspect(py, |action| matches!(action, Action::SendAll(..))) {
            drop(self.action.replace(py, Action::SendAll(py.None(), 0)));
        }
        if self.action.inspect(py, Action::writes) {
            let removed =
                scheduler.watches.with(py, |watches| watches.unset_of(fd, Direction::Write, slf));
            drop(removed);
        }
    }

    fn finish(slf: &Bound<'_, Self>) {
        let this = slf.get();
        this.state.set(slf.py(), OperationState::Done);
        this.release(slf);
        drop(this.future.take(slf.py()));
    }

    fn advance<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, Resumption<'py>> {
        let py = slf.py();
        let this = slf.get();
        match this.state.get(py) {
            OperationState::Done => {
                let error = PyRuntimeError::new_err("cannot reuse already awaited coroutine");
                return Err(Raised::of(py, error));
            }
            OperationState::New => this.check_non_blocking(py).or_raise(py)?,
            OperationState::Waiting => {
                let Some(future) = this.future.get_bound(py) else {
                    return Err(Raised::of(py, PyRuntimeError::new_err("nothing to wait for")));
                };
                match Future::resume(&future) {
                    Resumed::Yield(future) => return Ok(Resumption::Wait(future)),
                    Resumed::Raise(exception) => return Err(Raised::from(exception)),
                    Resumed::Return(value) if this.action.inspect(py, Action::writes) => {
                        return Ok(Resumption::Done(value));
                    }
                    Resumed::Return(_) => {}
                }
            }
        }
        if let Some(value) = this.try_call(py)? {
            return Ok(Resumption::Done(value));
        }
        let future = Self::wait(slf).or_raise(py)?;
        this.state.set(py, OperationState::Waiting);
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

impl SelfAwaiting for SocketOperation {
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

impl Finalize for SocketOperation {
    fn original_dealloc() -> &'static AtomicPtr<()> {
        static DEALLOC: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
        &DEALLOC
    }

    #[inline(always)]
    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
        slf.get().state.get(slf.py()) == OperationState::New
    }

    /// Warns, as the interpreter does for a coroutine that was never awaited.
    fn finalize(slf: &Bound<'_, Self>) {
        let py = slf.py();
        slf.get().state.set(py, OperationState::Done);
        if too_late_to_report(py) {
            return;
        }
        let name = slf.get().action.inspect(py, Action::name);
        let message = format!("coroutine 'EventLoop.{name}' was never awaited");
        let warned = imports::warn(py)
            .and_then(|warn| warn.call1((message, py.get_type::<PyRuntimeWarning>())));
        if let Err(error) = warned {
            write_unraisable(Raised::of(py, error), slf);
        }
    }
}

/// The value of a call of a Python method; `None` if it would block.
fn none_if_would_block<'py>(
    called: PyOutcome<'py, Bound<'py, PyAny>>,
) -> PyOutcome<'py, ReadyValue<'py>> {
    match called {
        Ok(value) => Ok(Some(value)),
        Err(raised)
            if raised.value().is_instance_of::<PyBlockingIOError>()
                || raised.value().is_instance_of::<PyInterruptedError>() =>
        {
            Ok(None)
        }
        Err(raised) => Err(raised),
    }
}

/// The value of a system call; `None` if it would block.
fn none_if_not_ready<T>(py: Python<'_>, result: io::Result<T>) -> PyOutcome<'_, Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_ready(&error) => Ok(None),
        Err(error) => Err(Raised::of(py, os_error(py, &error))),
    }
}

fn number(py: Python<'_>, result: io::Result<usize>) -> PyOutcome<'_, ReadyValue<'_>> {
    match none_if_not_ready(py, result)? {
        Some(number) => {
            let number = number.into_pyobject(py).or_raise(py)?;
            Ok(Some(number.into_any()))
        }
        None => Ok(None),
    }
}

fn pair<'py>(
    py: Python<'py>,
    first: Bound<'py, PyAny>,
    second: Bound<'py, PyAny>,
) -> PyResult<ReadyValue<'py>> {
    Ok(Some(PyTuple::new(py, [first, second])?.into_any()))
}

#[pymethods]
impl SocketOperation {
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

    fn __await__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    /// Resume the coroutine; the value sent is ignored.
    fn send<'py>(slf: &Bound<'py, Self>, _value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match Self::resume(slf) {
            Resumed::Yield(future) => Ok(future),
            Resumed::Return(value) => {
                Err(pyo3::exceptions::PyStopIteration::new_err((value.unbind(),)))
            }
            Resumed::Raise(exception) => Err(PyErr::from_value(exception.into_any())),
        }
    }

    /// Raise an exception where the coroutine waits.
    #[pyo3(signature = (*arguments))]
    fn throw<'py>(
        slf: &Bound<'py, Self>,
        arguments: Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let future = match slf.get().future.get_bound(py) {
            Some(future) => future,
            None => Bound::new(py, Future::for_loop(slf.get().scheduler.bind(py))?)?,
        };
        Self::finish(slf);
        let raising = Bound::new(py, FutureIterator::new(&future))?;
        raising.call_method1(intern!(py, "throw"), arguments)
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Self::needs_finalizing(slf) {
            Self::finalize(slf);
        }
    }

    /// Stop waiting and end the operation.
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
        Python::attach(|py| drop((self.future.take(py), self.reader.take(py))));
    }
}
