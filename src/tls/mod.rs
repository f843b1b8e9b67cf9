//! TLS between a transport and the application's protocol.
//!
//! [`TlsProtocol`] is the protocol of the underlying transport, [`TlsTransport`] the transport of
//! the application's protocol. They behave like asyncio's `SSLProtocol` and
//! `_SSLProtocolTransport`, with the same states and names. `ssl.SSLContext` decides everything
//! about TLS.
//!
//! * `session.rs`: the SSL object and its memory BIOs; `direct.rs`: OpenSSL without them;
//!   `records.rs`: counts whole records; `modules.rs`: names of `ssl`;
//! * `handshake.rs`, `shutdown.rs`: the beginning and the end of the connection, each with its
//!   timeout;
//! * `reading.rs` decrypts and delivers (`reading_by_object.rs`: by a replaced `read()`),
//!   `writing.rs` encrypts and sends, `backlog.rs` keeps what waits; `flow_control.rs`: water marks;
//! * `protocol_methods.rs`, `transport.rs`: the Python methods of the protocol and the transport.
//!
//! Ciphertext is read from the receive buffer, which all connections share. Records are decrypted
//! into another shared buffer, from which the protocol gets one bytes object for all data of a turn;
//! a large amount is decrypted into the bytes object directly. An idle connection owns no buffer but
//! OpenSSL's.
//!
//! Invariants, as in `transport/`: everything happens on the loop's thread; no cell is borrowed
//! while Python code runs.

#![forbid(unsafe_code)]

mod backlog;
mod direct;
mod flow_control;
mod handshake;
mod modules;
mod protocol_methods;
mod reading;
mod reading_by_object;
mod records;
mod session;
mod shutdown;
mod transport;
mod writing;

use pyo3::PyClassInitializer;
use pyo3::exceptions::{PyException, PyOSError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use backlog::{Backlog, PendingCiphertext};
use flow_control::WaterMarks;
use session::Session;
pub use transport::TlsTransport;

use crate::ffi::entries::{self, entered};
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::objects::slots;
use crate::ffi::section::{self, Owned};
use crate::interop::imports;
use crate::metrics::OpenGuard;
use crate::scheduler::Scheduler;
use crate::scheduler::report::report_raised;
use crate::transport::{NativeProtocol, NativeProtocolKind, StreamTransport, Transport};

/// Completes the classes. Called once, when the module is made.
pub fn install(py: Python<'_>) -> PyResult<()> {
    slots::install_finalizer::<TlsTransport>(py);
    entries::install::<TlsProtocol>(py);
    entries::install::<TlsTransport>(py);
    // asyncio's name for the callbacks, in reports and in the debug log.
    py.get_type::<TlsProtocol>().setattr("__qualname__", "SSLProtocol")
}

/// asyncio's `SSLProtocolState`.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Unwrapped,
    Handshake,
    Wrapped,
    Flushing,
    Shutdown,
}

/// asyncio's `AppProtocolState`.
#[derive(Clone, Copy, PartialEq)]
enum AppState {
    Init,
    Made,
    Eof,
    Lost,
}

/// The state of a connection.
#[derive(Clone, Copy)]
struct Status {
    phase: Phase,
    app: AppState,
    /// The number of writes after the connection was lost.
    lost: u32,
    /// The underlying transport has reached end of stream.
    eof_received: bool,
    /// The application has paused reading.
    app_reading_paused: bool,
    /// The application's `pause_writing()` was called.
    app_writing_paused: bool,
    /// Reading of the underlying transport is paused.
    reading_paused: bool,
    /// The underlying transport has paused writing.
    writing_paused: bool,
    /// The application's protocol is a BufferedProtocol.
    buffered: bool,
    /// A caller is encrypting or sending.
    sending: bool,
    /// Another caller wanted to send meanwhile.
    send_again: bool,
}

impl Status {
    fn initial(call_connection_made: bool) -> Self {
        Self {
            phase: Phase::Unwrapped,
            app: if call_connection_made { AppState::Init } else { AppState::Made },
            lost: 0,
            eof_received: false,
            app_reading_paused: false,
            app_writing_paused: false,
            reading_paused: false,
            writing_paused: false,
            buffered: false,
            sending: false,
            send_again: false,
        }
    }
}

/// The TLS protocol of a transport. The parameters are those of asyncio's `SSLProtocol`.
///
/// See `asyncio/sslproto.py` of the running version.
#[pyclass(frozen, extends = NativeProtocol, weakref, module = "ferroloop._ferroloop")]
pub struct TlsProtocol {
    scheduler: Py<Scheduler>,
    context: Py<PyAny>,
    session: Session,
    server_side: bool,
    server_hostname: Option<Py<PyAny>>,
    handshake_timeout: Py<PyAny>,
    shutdown_timeout: Py<PyAny>,
    /// The underlying transport.
    underlying: AttachedCell<Option<Py<PyAny>>>,
    app_protocol: AttachedCell<Option<Py<PyAny>>>,
    app_transport: AttachedCell<Option<Py<TlsTransport>>>,
    waiter: AttachedCell<Option<Py<PyAny>>>,
    handshake_timer: AttachedCell<Option<Py<PyAny>>>,
    shutdown_timer: AttachedCell<Option<Py<PyAny>>>,
    handshake_start: AttachedCell<Option<f64>>,
    /// The number of bytes that were not sent when the shutdown was otherwise complete.
    unsent_at_shutdown: AttachedCell<Option<usize>>,
    /// The values of `get_extra_info()`, once the handshake is complete.
    extra: AttachedCell<Option<Py<PyDict>>>,
    status: AttachedCell<Status>,
    write_limits: AttachedCell<WaterMarks>,
    read_limits: AttachedCell<WaterMarks>,
    backlog: AttachedRefCell<Backlog>,
    pending_ciphertext: AttachedRefCell<PendingCiphertext>,
    /// Counts the connection as open while there is an underlying transport.
    open: AttachedCell<Option<OpenGuard>>,
    /// The buffer of an underlying transport that is not ours and has called `get_buffer()`.
    receive_buffer: AttachedCell<Option<Py<PyAny>>>,
}

impl Owned for TlsProtocol {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        Some(slf.get().scheduler.bind(slf.py()).as_any().as_borrowed())
    }
}

entered!(TlsProtocol, TlsTransport);

static KIND: NativeProtocolKind = NativeProtocolKind {
    received: |protocol, lease, length| match protocol.cast::<TlsProtocol>() {
        Ok(protocol) => {
            section::enter_of(protocol, || TlsProtocol::received_lease(protocol, lease, length))
        }
        Err(_) => Ok(()),
    },
};

/// The parts of a new TLS connection.
pub struct TlsParts<'py> {
    /// The loop.
    pub scheduler: Bound<'py, Scheduler>,
    /// The application's protocol.
    pub protocol: Bound<'py, PyAny>,
    /// The `ssl.SSLContext`; a false value means the default one.
    pub context: Bound<'py, PyAny>,
    /// The future that is finished when the handshake has ended.
    pub waiter: Option<Bound<'py, PyAny>>,
    /// Whether this is the server's side.
    pub server_side: bool,
    /// The name for which the peer's certificate must be valid.
    pub server_hostname: Option<Bound<'py, PyAny>>,
    /// Whether to call the protocol's `connection_made()`.
    pub call_connection_made: bool,
    /// In seconds; asyncio's default if None.
    pub handshake_timeout: Option<Bound<'py, PyAny>>,
    /// In seconds; asyncio's default if None.
    pub shutdown_timeout: Option<Bound<'py, PyAny>>,
}

impl TlsProtocol {
    /// Creates a TLS protocol and its transport. The handshake starts with `connection_made()`.
    ///
    /// # Errors
    /// ValueError for a timeout that is not positive; exceptions of the context.
    pub fn create(parts: TlsParts<'_>) -> PyResult<Bound<'_, Self>> {
        let py = parts.scheduler.py();
        let handshake_timeout = timeout(parts.handshake_timeout, py, "handshake")?;
        let shutdown_timeout = timeout(parts.shutdown_timeout, py, "shutdown")?;
        let context = if parts.context.is_truthy()? {
            parts.context
        } else {
            modules::create_transport_context(py)?
                .call1((parts.server_side, parts.server_hostname.as_ref()))?
        };
        let server_hostname = match parts.server_hostname {
            Some(name) if !parts.server_side && name.is_truthy()? => Some(name),
            _ => None,
        };
        let session = Session::new(&context, parts.server_side, server_hostname.as_ref())?;
        let protocol = Self {
            scheduler: parts.scheduler.unbind(),
            context: context.unbind(),
            session,
            server_side: parts.server_side,
            server_hostname: server_hostname.map(Bound::unbind),
            handshake_timeout: handshake_timeout.unbind(),
            shutdown_timeout: shutdown_timeout.unbind(),
            underlying: AttachedCell::new(None),
            app_protocol: AttachedCell::new(None),
            app_transport: AttachedCell::new(None),
            waiter: AttachedCell::new(parts.waiter.map(Bound::unbind)),
            handshake_timer: AttachedCell::new(None),
            shutdown_timer: AttachedCell::new(None),
            handshake_start: AttachedCell::new(None),
            unsent_at_shutdown: AttachedCell::new(None),
            extra: AttachedCell::new(None),
            status: AttachedCell::new(Status::initial(parts.call_connection_made)),
            write_limits: AttachedCell::new(WaterMarks::of_kibibytes(512)),
            read_limits: AttachedCell::new(WaterMarks::of_kibibytes(256)),
            backlog: AttachedRefCell::default(),
            pending_ciphertext: AttachedRefCell::default(),
            open: AttachedCell::new(None),
            receive_buffer: AttachedCell::new(None),
        };
        protocol.bind_app_protocol(parts.protocol)?;
        let base = PyClassInitializer::from(NativeProtocol::new(&KIND));
        let protocol = Bound::new(py, base.add_subclass(protocol))?;
        let transport = Bound::new(py, TlsTransport::new(&protocol))?;
        protocol.get().app_transport.store(py, Some(transport));
        Ok(protocol)
    }

    /// The transport for the application's protocol, until the connection is lost.
    pub fn transport<'py>(slf: &Bound<'py, Self>) -> Option<Bound<'py, TlsTransport>> {
        slf.get().app_transport.get_bound(slf.py())
    }

    /// The loop.
    fn event_loop<'py>(&self, py: Python<'py>) -> Bound<'py, Scheduler> {
        self.scheduler.bind(py).clone()
    }

    fn debug(&self, py: Python<'_>) -> bool {
        self.scheduler.get().is_debug(py)
    }

    fn phase(&self, py: Python<'_>) -> Phase {
        self.status.inspect(py, |status| status.phase)
    }

    fn set_phase(&self, py: Python<'_>, phase: Phase) {
        self.update(py, |status| status.phase = phase);
    }

    #[inline(always)]
    fn update(&self, py: Python<'_>, update: impl FnOnce(&mut Status)) {
        let mut status = self.status.get(py);
        update(&mut status);
        self.status.set(py, status);
    }

    /// Sets the application's protocol.
    fn bind_app_protocol(&self, protocol: Bound<'_, PyAny>) -> PyResult<()> {
        let py = protocol.py();
        // A TlsProtocol is a native protocol, although it poses as asyncio's, which is buffered.
        let buffered = !protocol.is_instance_of::<NativeProtocol>()
            && protocol.hasattr(intern!(py, "get_buffer"))?
            && protocol.is_instance(imports::buffered_protocol(py)?)?;
        self.update(py, |status| status.buffered = buffered);
        self.app_protocol.store(py, Some(protocol));
        Ok(())
    }

    /// Passes ciphertext to the underlying transport.
    fn send_to_underlying<'py>(&self, data: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        let py = data.py();
        let Some(underlying) = self.underlying.get_bound(py) else { return Ok(()) };
        if let Ok(stream) = underlying.cast_exact::<StreamTransport>() {
            return section::enter_of(stream, || StreamTransport::write_checked(stream, data));
        }
        crate::ffi::call::call_method(&underlying, intern!(py, "write"), [data]).map(drop)
    }

    /// Passes ciphertext in memory of ours to the underlying transport.
    fn send_slice_to_underlying<'py>(&self, py: Python<'py>, data: &[u8]) -> PyOutcome<'py, ()> {
        let Some(underlying) = self.underlying.get_bound(py) else { return Ok(()) };
        if let Ok(stream) = underlying.cast_exact::<StreamTransport>() {
            return section::enter_of(stream, || StreamTransport::write_slice(stream, data));
        }
        let data = PyBytes::new(py, data);
        crate::ffi::call::call_method(&underlying, intern!(py, "write"), [data.as_any()]).map(drop)
    }

    /// Calls a method of the underlying transport, if there is one.
    fn call_underlying<'py>(
        &self,
        py: Python<'py>,
        method: &Bound<'py, PyString>,
    ) -> PyOutcome<'py, ()> {
        match self.underlying.get_bound(py) {
            Some(underlying) => crate::ffi::call::call_method(&underlying, method, []).map(drop),
            None => Ok(()),
        }
    }

    /// Closes the underlying transport at once.
    fn force_close_underlying<'py>(
        &self,
        py: Python<'py>,
        exception: Option<&Bound<'py, PyAny>>,
    ) -> PyOutcome<'py, ()> {
        let Some(underlying) = self.underlying.get_bound(py) else { return Ok(()) };
        if let Ok(stream) = underlying.cast_exact::<StreamTransport>() {
            let close = || Transport::force_close(stream.as_super(), exception.cloned());
            return section::enter_of(stream, close).or_raise(py);
        }
        let called = match exception {
            Some(exception) => underlying.call_method1(intern!(py, "_force_close"), (exception,)),
            None => underlying.call_method0(intern!(py, "abort")),
        };
        called.map(drop).or_raise(py)
    }

    /// Marks the transport as closed, so that deallocating it does not warn.
    fn mark_transport_closed(&self, py: Python<'_>) {
        if let Some(transport) = self.app_transport.get_bound(py) {
            transport.get().mark_closed(py);
        }
    }

    /// asyncio's `_fatal_error()`: closes the connection and reports the exception, unless it is an
    /// OSError, which is expected on a network, or a cancellation.
    fn fatal_error<'py>(
        slf: &Bound<'py, Self>,
        raised: &Raised<'py>,
        message: &str,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let exception = raised.value();
        this.force_close_underlying(py, Some(exception.as_any()))?;
        let reported = if exception.is_instance_of::<PyOSError>() {
            this.debug_log(slf, "%r: %s", &[PyString::new(py, message).as_any()], Some(raised))
        } else if exception.is_instance(imports::cancelled_error(py).or_raise(py)?).or_raise(py)? {
            Ok(())
        } else {
            Self::report(slf, message, raised, this.underlying.get_bound(py).as_ref())
        };
        reported.or_raise(py)
    }

    /// Passes an exception to the loop's exception handler.
    fn report<'py>(
        slf: &Bound<'py, Self>,
        message: &str,
        raised: &Raised<'py>,
        transport: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let none = py.None().into_bound(py);
        let message = PyString::new(py, message);
        report_raised(
            slf.get().event_loop(py).as_any(),
            raised,
            &[
                ("message", Some(message.as_any())),
                ("exception", Some(raised.value())),
                ("transport", Some(transport.unwrap_or(&none))),
                ("protocol", Some(slf.as_any())),
            ],
        )
    }

    /// Logs a message with asyncio's logger, in debug mode.
    fn debug_log<'py>(
        &self,
        slf: &Bound<'py, Self>,
        format: &str,
        arguments: &[&Bound<'py, PyAny>],
        raised: Option<&Raised<'py>>,
    ) -> PyResult<()> {
        let py = slf.py();
        if !self.debug(py) {
            return Ok(());
        }
        let mut all = vec![PyString::new(py, format).into_any(), slf.clone().into_any()];
        all.extend(arguments.iter().map(|argument| (*argument).clone()));
        let keywords = PyDict::new(py);
        if let Some(raised) = raised {
            keywords.set_item(intern!(py, "exc_info"), raised.value())?;
        }
        let debug = imports::logger(py)?.getattr(intern!(py, "debug"))?;
        debug.call(pyo3::types::PyTuple::new(py, all)?, Some(&keywords))?;
        Ok(())
    }

    /// Calls `loop.call_soon(self.method)`.
    fn call_soon<'py>(slf: &Bound<'py, Self>, method: &Bound<'py, PyString>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let queued = slf.as_any().getattr(method).and_then(|method| {
            slf.get().event_loop(py).call_method1(intern!(py, "call_soon"), (method,))
        });
        queued.map(drop).or_raise(py)
    }

    /// Calls `loop.call_later(seconds, self.method)`; returns None, and does nothing, for NaN.
    fn call_later<'py>(
        slf: &Bound<'py, Self>,
        seconds: &Py<PyAny>,
        method: &Bound<'py, PyString>,
    ) -> PyOutcome<'py, Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        if seconds.bind(py).extract::<f64>().is_ok_and(f64::is_nan) {
            return Ok(None);
        }
        let timer = slf.as_any().getattr(method).and_then(|method| {
            slf.get().event_loop(py).call_method1(intern!(py, "call_later"), (seconds, method))
        });
        timer.map(Some).or_raise(py)
    }

    fn traverse_parts(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.scheduler)?;
        visit.call(&self.context)?;
        self.session.traverse(visit)?;
        visit.call(&self.server_hostname)?;
        self.underlying.visit(visit)?;
        self.app_protocol.visit(visit)?;
        self.app_transport.visit(visit)?;
        self.waiter.visit(visit)?;
        self.handshake_timer.visit(visit)?;
        self.shutdown_timer.visit(visit)?;
        self.extra.visit(visit)?;
        self.backlog.traverse(|backlog| backlog.traverse(visit))?;
        self.receive_buffer.visit(visit)
    }
}

/// Cancels a timer, if there is one.
fn cancel_timer<'py>(
    py: Python<'py>,
    timer: &AttachedCell<Option<Py<PyAny>>>,
) -> PyOutcome<'py, ()> {
    match timer.take(py) {
        Some(timer) => timer.call_method0(py, intern!(py, "cancel")).map(drop).or_raise(py),
        None => Ok(()),
    }
}

/// Whether `except Exception` in asyncio's code would catch the exception.
fn is_ordinary(raised: &Raised<'_>) -> bool {
    raised.value().is_instance_of::<PyException>()
}

/// The given timeout, or asyncio's default.
fn timeout<'py>(
    given: Option<Bound<'py, PyAny>>,
    py: Python<'py>,
    of: &str,
) -> PyResult<Bound<'py, PyAny>> {
    match given {
        None => {
            let name = format!("SSL_{}_TIMEOUT", of.to_uppercase());
            imports::constants(py)?.getattr(name.as_str())
        }
        Some(given) if given.le(0)? => Err(PyValueError::new_err(format!(
            "ssl_{of}_timeout should be a positive number, got {}",
            given.str()?
        ))),
        Some(given) => Ok(given),
    }
}
