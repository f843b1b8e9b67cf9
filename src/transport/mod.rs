//! Transports: what moves bytes between descriptors and protocols.
//!
//! [`Transport`] has what all kinds share, a [`TransportKind`] what they do differently.
//!
//! * `lifecycle.rs`: opening, closing, the protocol's last call;
//! * `writing.rs`: carries out what the write side (`src/write_side`) commands;
//! * `flow_control.rs`: water marks; `write_queue.rs`: what could not be sent at once;
//! * `receive.rs`: receiving into new bytes objects;
//! * `reader_feed.rs`: feeding asyncio's StreamReader without its Python code;
//! * `endpoint.rs`: the socket, as Python's object or as a bare descriptor;
//! * `information.rs`: `get_extra_info()`;
//! * `methods.rs`: what Python sees of every transport;
//! * `native_protocol.rs`: protocols written in Rust (TLS), which get bytes without an object;
//! * `stream.rs`, `stream_writing.rs`, `stream_methods.rs`: TCP and UNIX streams;
//! * `server.rs`: accepting them;
//! * `datagram.rs`, `datagram_methods.rs`, `address_cache.rs`: UDP and UNIX datagrams;
//! * `pipe.rs`, `pipe_reader.rs`, `pipe_writer.rs`: pipes, FIFOs and terminals;
//! * `event.rs`: readiness of a descriptor, as the ready queue runs it;
//! * `origin.rs`: where debug mode says that something was scheduled, and under which name;
//! * `socket_operation.rs`, `socket_reader.rs`: `loop.sock_recv()` and its like.
//!
//! Invariants: everything happens on the loop's thread; no cell is lent while Python code runs;
//! a transport is watched under the number `fd`, its system calls use the endpoint's current
//! descriptor, which is -1 as soon as someone has closed the socket behind our back.

#![forbid(unsafe_code)]

mod data;
mod datagram;
pub mod endpoint;
mod event;
mod finalizer;
mod flow_control;
mod information;
mod lifecycle;
mod methods;
mod native_protocol;
mod origin;
mod pipe;
mod reader_feed;
pub mod receive;
mod stream;
mod write_queue;
mod writing;

use std::io;
use std::os::fd::RawFd;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

pub use datagram::DatagramTransport;
pub use endpoint::Endpoint;
pub use native_protocol::{NativeProtocol, NativeProtocolKind};
pub use pipe::{ReadPipeTransport, WritePipeTransport};
pub use reader_feed::Feed;
pub use stream::{Listener, Service, Serving, StreamTransport};

use crate::ffi::exception::PyOutcome;
use crate::ffi::layout::context;
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::objects::descriptor_owners::{Owners, Ownership};
use crate::ffi::objects::slots;
use crate::metrics::{OpenGuard, TransportClass};
use crate::scheduler::{RunnableKind, Scheduler};
use crate::sys::address::SocketAddress;
use crate::write_side::{ResumeAt, WriteSide};

/// Completes the classes. Called once, when the module is made.
pub fn install(py: Python<'_>) {
    slots::install_finalizer::<Transport>(py);
    slots::install_finalizer::<StreamTransport>(py);
    slots::install_finalizer::<DatagramTransport>(py);
    slots::install_finalizer::<ReadPipeTransport>(py);
    slots::install_finalizer::<WritePipeTransport>(py);
}

/// The open transports by descriptor.
pub static OWNERS: Owners = Owners::new();

/// What one kind of transport does differently from another.
pub struct TransportKind {
    /// asyncio's class for it, which `__class__` answers.
    pub class: fn(Python<'_>) -> PyResult<&Bound<'_, PyAny>>,
    /// What it counts as in the loop's metrics.
    pub counted_as: TransportClass,
    /// Whether it is a socket to asyncio: one has names, and its descriptor is for nobody else.
    pub is_socket: bool,
    /// Queued when something can be read.
    pub on_read: &'static RunnableKind,
    /// Queued when something can be written.
    pub on_write: &'static RunnableKind,
    /// When a paused protocol is resumed.
    pub resume_at: ResumeAt,
    /// What a failed write is reported as.
    pub write_failed: &'static str,
    /// Hands the queue to the system, as far as it takes it, or ends the connection.
    pub send: for<'py> fn(&Bound<'py, Transport>) -> PyOutcome<'py, ()>,
    /// Bytes in the queue. Runs no Python code.
    pub queue_size: for<'py> fn(&Bound<'py, Transport>) -> usize,
    /// Drops the queue.
    pub clear_queue: for<'py> fn(&Bound<'py, Transport>),
    /// Called when a queue that had to wait is empty.
    pub all_sent: for<'py> fn(&Bound<'py, Transport>) -> PyResult<()>,
    /// Called after the protocol's `connection_lost()`.
    pub lost: for<'py> fn(&Bound<'py, Transport>) -> PyResult<()>,
}

/// What a transport knows of its protocol and of reading; of writing and closing see
/// [`WriteSide`].
#[derive(Clone, Copy, Default)]
struct State {
    /// `pause_reading()` was called.
    paused: bool,
    /// The protocol is a BufferedProtocol.
    buffered_protocol: bool,
    /// The protocol is a native one.
    native_protocol: bool,
    /// A protocol was set.
    connected: bool,
}

/// Addresses as they were when the transport was opened or last asked.
#[derive(Default)]
struct Names {
    own: Option<SocketAddress>,
    peer: Option<SocketAddress>,
}

/// What all transports share.
///
/// Not for direct use: the loop makes transports.
#[pyclass(frozen, subclass, weakref, dict, module = "ferroloop._ferroloop")]
pub struct Transport {
    kind: &'static TransportKind,
    /// `None` once the connection is lost.
    scheduler: AttachedCell<Option<Py<Scheduler>>>,
    endpoint: AttachedCell<Endpoint>,
    /// The number under which it is watched; kept when the descriptor is closed.
    fd: RawFd,
    protocol: AttachedCell<Option<Py<PyAny>>>,
    server: AttachedCell<Option<Py<PyAny>>>,
    extra: AttachedCell<Option<Py<PyDict>>>,
    names: AttachedCell<Names>,
    writing: AttachedRefCell<WriteSide>,
    state: AttachedCell<State>,
    ownership: Ownership,
    /// Counts it as open, from its opening until its descriptor is closed.
    open: AttachedCell<Option<OpenGuard>>,
    /// What all of its callbacks run in; `None`: each in a copy of the context that schedules it.
    context: AttachedCell<Option<Py<PyAny>>>,
}

/// What a transport is made of.
pub struct Parts<'py> {
    /// The loop.
    pub scheduler: Bound<'py, Scheduler>,
    /// The socket.
    pub endpoint: Endpoint,
    /// The protocol; set by `set_protocol()`.
    pub protocol: Bound<'py, PyAny>,
    /// Extra information that the caller has.
    pub extra: Option<Bound<'py, PyDict>>,
    /// The server that accepted the connection.
    pub server: Option<Bound<'py, PyAny>>,
    /// The peer's address, where it is known already.
    pub(crate) peer: Option<SocketAddress>,
    /// The connection's own context, which Python 3.15 gives each stream.
    pub context: Option<Bound<'py, PyAny>>,
}

impl Transport {
    fn new(kind: &'static TransportKind, parts: Parts<'_>) -> Self {
        let fd = parts.endpoint.descriptor();
        Self {
            kind,
            scheduler: AttachedCell::new(Some(parts.scheduler.unbind())),
            endpoint: AttachedCell::new(parts.endpoint),
            fd,
            protocol: AttachedCell::new(None),
            server: AttachedCell::new(parts.server.map(Bound::unbind)),
            extra: AttachedCell::new(parts.extra.map(Bound::unbind)),
            names: AttachedCell::new(Names { own: None, peer: parts.peer }),
            writing: AttachedRefCell::new(WriteSide::new(kind.resume_at)),
            state: AttachedCell::new(State::default()),
            ownership: Ownership::new(&OWNERS),
            open: AttachedCell::new(None),
            context: AttachedCell::new(parts.context.map(Bound::unbind)),
        }
    }

    /// The context for a callback that is scheduled now.
    #[inline(always)]
    fn callback_context<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.context.get_bound(py) {
            Some(own) => Ok(own),
            None => context::copy_current(py),
        }
    }

    /// The loop, until the connection is lost.
    #[inline(always)]
    pub fn scheduler<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Scheduler>> {
        self.scheduler.get_bound(py)
    }

    /// The descriptor for system calls; -1 once the socket is closed.
    #[inline(always)]
    fn descriptor(&self, py: Python<'_>) -> RawFd {
        self.endpoint.inspect(py, Endpoint::descriptor)
    }

    /// Counts bytes received.
    #[inline(always)]
    fn note_received(&self, py: Python<'_>, length: usize) {
        self.open.inspect(py, |open| {
            if let Some(open) = open {
                open.metrics().bytes_received.add(length as u64);
            }
        });
    }

    /// Counts bytes sent.
    #[inline(always)]
    fn note_sent(&self, py: Python<'_>, sent: io::Result<usize>) -> io::Result<usize> {
        if let Ok(length) = sent {
            self.open.inspect(py, |open| {
                if let Some(open) = open {
                    open.metrics().bytes_sent.add(length as u64);
                }
            });
        }
        sent
    }

    /// Others may use the descriptor.
    pub fn release_descriptor(&self, py: Python<'_>) {
        self.ownership.release(py);
    }

    /// Others may not use the descriptor.
    pub fn claim_descriptor(slf: &Bound<'_, Self>) {
        let this = slf.get();
        if !this.endpoint.inspect(slf.py(), Endpoint::is_closed) {
            this.ownership.claim(slf, this.fd);
        }
    }

    /// The protocol, or None when the connection is lost.
    fn protocol_or_none<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.protocol.get_bound(py).unwrap_or_else(|| py.None().into_bound(py))
    }

    /// Whether `close()` or `abort()` was called or the connection is lost.
    #[inline(always)]
    pub fn is_closing(&self, py: Python<'_>) -> bool {
        self.writing.with(py, |side| side.is_closing())
    }

    /// Whether `connection_lost()` was called or is scheduled.
    #[inline(always)]
    pub fn is_lost(&self, py: Python<'_>) -> bool {
        self.writing.with(py, |side| side.is_lost())
    }

    #[inline(always)]
    fn update_state(&self, py: Python<'_>, update: impl FnOnce(&mut State)) {
        let mut state = self.state.get(py);
        update(&mut state);
        self.state.set(py, state);
    }

    fn debug(&self, py: Python<'_>) -> bool {
        self.scheduler
            .inspect(py, |scheduler| scheduler.as_ref().is_some_and(|s| s.get().debug.get(py)))
    }

    fn traverse_parts(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.scheduler.visit(visit)?;
        self.endpoint.visit_with(visit)?;
        self.protocol.visit(visit)?;
        self.server.visit(visit)?;
        self.context.visit(visit)?;
        self.extra.visit(visit)
    }
}
