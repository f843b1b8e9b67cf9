//! Listeners accept connections.
//!
//! A listener accepts as many connections per readiness event as its backlog holds, and creates the
//! protocol and the transport of each without a task or a socket object. When the process runs out
//! of descriptors it stops accepting for a second: otherwise the kernel would report the pending
//! connection in every turn.

use std::io;
use std::os::fd::RawFd;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::ffi::call;
use crate::ffi::entries::entered;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::layout::context;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::section::{Home, Owned, attach_unshared};
use crate::handle::{CallbackArguments, Handle};
use crate::interop::address;
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::scheduler::report::{call_exception_handler, report_raised};
use crate::scheduler::watch::Direction;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};
use crate::sys::address::SocketAddress;
use crate::sys::is_not_ready;
use crate::sys::socket;
use crate::transport::endpoint::{BareSocket, Endpoint};
use crate::transport::event::run_event;
use crate::transport::origin;
use crate::transport::{StreamTransport, TransportParts};

static ON_CONNECTION: RunnableKind = RunnableKind::of::<Listener>();

impl Queued for Listener {
    type Object = Self;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Self>,
    ) -> PyOutcome<'py, ()> {
        run_event(scheduler, entry, "_accept_connection", |listener| {
            listener.get().accept_waiting(scheduler)
        })
    }

    fn describe<'py>(entry: &QueueEntry<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let listener = &entry.object;
        let callback = listener.as_any().getattr(intern!(listener.py(), "_accept_connection"))?;
        let event_loop = listener.get().event_loop(listener.py());
        let none = CallbackArguments::Empty;
        let handle = Handle::create(callback, none, event_loop, entry.context.clone(), false)?;
        if let (_, Some(stack)) = origin::split(entry.argument.as_ref()) {
            handle.get().set_source_traceback(stack);
        }
        Ok(handle.into_any())
    }
}

/// A listening socket, and how its connections are served.
#[pyclass(frozen, weakref, module = "ferroloop._ferroloop")]
pub struct Listener {
    home: Home,
    event_loop: AttachedCell<Option<Py<Scheduler>>>,
    /// The socket object. Closing it stops the listener.
    socket: AttachedCell<Endpoint>,
    /// Creates a connection's protocol, or the coroutine that serves it.
    factory: AttachedCell<Option<Py<PyAny>>>,
    server: AttachedCell<Option<Py<PyAny>>>,
    mode: ServeMode,
    /// The server's context, of which each connection gets a copy; None before Python 3.15.
    context: AttachedCell<Option<Py<PyAny>>>,
    fd: RawFd,
    backlog: u32,
    family: i32,
    kind: i32,
    protocol: i32,
}

impl Owned for Listener {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().home.get(slf.py())
    }
}

entered!(Listener);

/// How connections are served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ServeMode {
    /// By a protocol each, which the factory creates.
    Protocol,
    /// By a task each, as in asyncio: the factory creates its coroutine from the socket and the
    /// extra information. For connections with a handshake, which the program can then end by
    /// cancelling all tasks.
    Task,
}

/// How a listener serves its connections.
pub struct ListenOptions<'py> {
    /// Creates a connection's protocol, or the coroutine that serves it.
    pub factory: Bound<'py, PyAny>,
    /// The server that connections belong to.
    pub server: Option<Bound<'py, PyAny>>,
    /// The maximum number of connections to accept per readiness event.
    pub backlog: u32,
    /// How connections are served.
    pub mode: ServeMode,
    /// The context of the server, of which each connection gets a copy (Python 3.15).
    pub context: Option<Bound<'py, PyAny>>,
}

/// The result of one call of `accept()`.
enum Accepted {
    Connection(BareSocket, SocketAddress),
    /// No connection is pending, or the socket is closed.
    NoConnection,
    /// The peer has aborted the connection before it was accepted.
    Aborted,
    /// No descriptor or memory is left for another connection.
    OutOfResources(io::Error),
}

impl Listener {
    /// Starts to accept connections.
    ///
    /// # Errors
    /// Those of the socket's attributes and of the poller.
    pub fn start<'py>(
        scheduler: &Bound<'py, Scheduler>,
        sock: &Bound<'py, PyAny>,
        options: ListenOptions<'py>,
    ) -> PyResult<()> {
        let py = scheduler.py();
        scheduler.get().check_open(py)?;
        let endpoint = Endpoint::of(sock)?;
        let fd = endpoint.descriptor();
        let family = sock.getattr(intern!(py, "family"))?.extract()?;
        if family == libc::AF_INET || family == libc::AF_INET6 {
            // Connections inherit the option from their listener. The call fails, harmlessly, for
            // streams over IP that are not TCP.
            let _not_tcp = socket::set_no_delay(fd);
        }
        let listener = Self {
            home: Home::of(scheduler),
            event_loop: AttachedCell::new(Some(scheduler.clone().unbind())),
            socket: AttachedCell::new(endpoint),
            factory: AttachedCell::new(Some(options.factory.unbind())),
            server: AttachedCell::new(options.server.map(Bound::unbind)),
            mode: options.mode,
            context: AttachedCell::new(options.context.map(Bound::unbind)),
            fd,
            backlog: options.backlog,
            family,
            kind: sock.getattr(intern!(py, "type"))?.extract()?,
            protocol: sock.getattr(intern!(py, "proto"))?.extract()?,
        };
        Self::watch(&Bound::new(py, listener)?)
    }

    fn watch(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some(scheduler) = this.event_loop.get_bound(py) else { return Ok(()) };
        let mut runnable = Runnable::new(&ON_CONNECTION, slf.clone());
        runnable.argument = origin::with_stack(scheduler.get(), py, None)?;
        runnable.context = Some(context::copy_current(py)?.unbind());
        let replaced = scheduler
            .get()
            .watch(py, this.fd, Direction::Read, runnable)
            .map_err(|refused| os_error(py, &refused.error))?;
        drop(replaced);
        Ok(())
    }

    fn event_loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self.event_loop.get_bound(py) {
            Some(scheduler) => scheduler.into_any(),
            None => py.None().into_bound(py),
        }
    }

    fn accept(&self, py: Python<'_>) -> io::Result<Accepted> {
        let fd = self.socket.inspect(py, Endpoint::descriptor);
        if fd < 0 {
            return Ok(Accepted::NoConnection);
        }
        match socket::accept(fd) {
            Ok((fd, peer)) => {
                let (family, kind, protocol) = (self.family, self.kind, self.protocol);
                Ok(Accepted::Connection(BareSocket { fd, family, kind, protocol }, peer))
            }
            Err(error) if is_not_ready(&error) => Ok(Accepted::NoConnection),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(Accepted::Aborted),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                ) =>
            {
                Ok(Accepted::OutOfResources(error))
            }
            Err(error) => Err(error),
        }
    }

    fn accept_waiting<'py>(&self, scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
        let py = scheduler.py();
        for _ in 0..self.backlog.saturating_add(u32::from(cfg!(Py_3_14))) {
            match self.accept(py) {
                Ok(Accepted::Connection(connection, peer)) => {
                    scheduler.get().metrics().accepts.add(1);
                    tracing::debug!(target: "ferroloop::transport", listener = self.fd, %peer, "a connection was accepted");
                    self.serve(scheduler, connection, peer)?;
                }
                Ok(Accepted::NoConnection) => break,
                Ok(Accepted::Aborted) if cfg!(Py_3_14) => {}
                Ok(Accepted::Aborted) => break,
                // Continues, as asyncio does: the exception handler may have freed descriptors.
                Ok(Accepted::OutOfResources(error)) => {
                    self.pause_accepting(scheduler, &error).or_raise(py)?;
                }
                Err(error) => return Err(Raised::of(py, os_error(py, &error))),
            }
        }
        Ok(())
    }

    /// Creates the protocol and transport, or the task, that serve a connection.
    fn serve<'py>(
        &self,
        scheduler: &Bound<'py, Scheduler>,
        connection: BareSocket,
        peer: SocketAddress,
    ) -> PyOutcome<'py, ()> {
        let py = scheduler.py();
        let Some(factory) = self.factory.get_bound(py) else { return Ok(()) };
        let debug = scheduler.get().is_debug(py);
        if self.mode == ServeMode::Task {
            let started = self.serve_by_task(scheduler, &factory, connection, &peer, debug);
            return started.or_raise(py);
        }
        let mut protocol = None;
        let own = self.connection_context(py).or_raise(py)?;
        let context = match &own {
            Some(own) => own.clone(),
            None => context::copy_current(py).or_raise(py)?,
        };
        let made = context::run_in(&context, || {
            let endpoint = if debug {
                let socket = self.log_connection(py, connection, &peer).or_raise(py)?;
                Endpoint::of(&socket).or_raise(py)?
            } else {
                Endpoint::Bare(connection)
            };
            let made = call::call0(&factory)?;
            protocol = Some(made.clone());
            let parts = TransportParts {
                scheduler: scheduler.clone(),
                endpoint,
                protocol: made,
                extra: None,
                server: self.server.get_bound(py),
                peer: Some(peer),
                context: own.clone(),
            };
            StreamTransport::open(parts, None).or_raise(py)
        });
        match made {
            Ok(_) => Ok(()),
            Err(raised) if raised.stops_the_loop() => Err(raised),
            // As in asyncio, reported only in debug mode.
            Err(_) if !debug => Ok(()),
            Err(raised) => report_creation(scheduler, protocol.as_ref(), &raised).or_raise(py),
        }
    }

    /// The connection's own context; None if connections do not have one.
    fn connection_context<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.context.get_bound(py).map(|context| context::copy(&context)).transpose()
    }

    fn serve_by_task<'py>(
        &self,
        scheduler: &Bound<'py, Scheduler>,
        factory: &Bound<'py, PyAny>,
        connection: BareSocket,
        peer: &SocketAddress,
        debug: bool,
    ) -> PyResult<()> {
        let py = scheduler.py();
        let socket = if debug {
            self.log_connection(py, connection, peer)?
        } else {
            connection.into_python(py)?
        };
        let extra = PyDict::new(py);
        extra.set_item(intern!(py, "peername"), address::to_python(py, peer)?)?;
        let context = self.connection_context(py)?;
        let coroutine = factory.call1((socket, extra, &context))?;
        let create_task = intern!(py, "create_task");
        match context {
            Some(context) => {
                let keywords = PyDict::new(py);
                keywords.set_item(intern!(py, "context"), context)?;
                scheduler.call_method(create_task, (coroutine,), Some(&keywords)).map(drop)
            }
            None => scheduler.call_method1(create_task, (coroutine,)).map(drop),
        }
    }

    /// Logs a new connection with asyncio's logger. Returns the socket object, which the message
    /// shows.
    #[cold]
    fn log_connection<'py>(
        &self,
        py: Python<'py>,
        connection: BareSocket,
        peer: &SocketAddress,
    ) -> PyResult<Bound<'py, PyAny>> {
        let socket = connection.into_python(py)?;
        let server = self.server.get_bound(py);
        let peer = address::to_python(py, peer)?;
        let format = intern!(py, "%r got a new connection from %r: %r");
        let arguments = (format, server, peer, &socket);
        imports::logger(py)?.call_method1(intern!(py, "debug"), arguments)?;
        Ok(socket)
    }

    /// Reports the error, stops accepting and schedules a restart in a second.
    #[cold]
    fn pause_accepting(&self, scheduler: &Bound<'_, Scheduler>, error: &io::Error) -> PyResult<()> {
        let py = scheduler.py();
        let Some(socket) =
            self.socket.inspect(py, |socket| Some(socket.object()?.bind(py).clone()))
        else {
            return Ok(());
        };
        let message = PyString::new(py, "socket.accept() out of system resource");
        let exception = os_error(py, error).into_value(py).into_bound(py);
        let shown = imports::transport_socket(py)?.call1((socket,))?;
        call_exception_handler(
            scheduler.as_any(),
            &[
                ("message", Some(message.as_any())),
                ("exception", Some(exception.as_any())),
                ("socket", Some(&shown)),
            ],
        )?;
        let removed = scheduler.get().unwatch(py, self.fd, Direction::Read);
        // This listener, unless another object has replaced the watch.
        if let Some(listener) = removed {
            Self::schedule_restart(scheduler, listener.object.bind(py))?;
        }
        Ok(())
    }

    fn schedule_restart(
        scheduler: &Bound<'_, Scheduler>,
        listener: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = scheduler.py();
        let again = listener.getattr(intern!(py, "_start_again"))?;
        let delay = imports::constants(py)?.getattr(intern!(py, "ACCEPT_RETRY_DELAY"))?;
        scheduler.call_method1(intern!(py, "call_later"), (delay, again)).map(drop)
    }
}

#[cold]
fn report_creation(
    scheduler: &Bound<'_, Scheduler>,
    protocol: Option<&Bound<'_, PyAny>>,
    raised: &Raised<'_>,
) -> PyResult<()> {
    let py = scheduler.py();
    let message = "Error on transport creation for incoming connection";
    let message = PyString::new(py, message);
    report_raised(
        scheduler.as_any(),
        raised,
        &[
            ("message", Some(message.as_any())),
            ("exception", Some(raised.value())),
            ("protocol", protocol),
        ],
    )
}

#[pymethods]
impl Listener {
    fn _accept_connection(&self, py: Python<'_>) -> PyResult<()> {
        match self.event_loop.get_bound(py) {
            Some(scheduler) => self.accept_waiting(&scheduler).map_err(PyErr::from),
            None => Ok(()),
        }
    }

    /// Accepts connections again after a pause, unless the socket was closed meanwhile.
    fn _start_again(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if slf.get().socket.inspect(py, Endpoint::descriptor) < 0 {
            return Ok(());
        }
        let watched = Self::watch(slf);
        if watched.is_err() {
            let scheduler = slf.get().event_loop.get_bound(py);
            if let Some(scheduler) = scheduler.filter(|scheduler| !scheduler.get().is_closed(py)) {
                // The poller has no room. The caller, a timer, reports the error; the server must
                // go on.
                Self::schedule_restart(&scheduler, slf)?;
            }
        }
        watched
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.visit(&visit)?;
        self.event_loop.visit(&visit)?;
        self.socket.visit_with(&visit)?;
        self.factory.visit(&visit)?;
        self.context.visit(&visit)?;
        self.server.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            drop((self.event_loop.take(py), self.factory.take(py), self.server.take(py)));
            drop(self.context.take(py));
        });
    }
}
