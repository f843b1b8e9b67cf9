//! Transports move bytes between descriptors and protocols.
//!
//! [`Transport`] is what all kinds share; a [`TransportKind`] is what differs.
//!
//! * `kind.rs`: the traits and the table of a kind;
//! * `lifecycle.rs`: opening, closing, `connection_lost()`;
//! * `writing.rs`: runs the commands of the write side (`src/write_side`);
//! * `flow_control.rs`: water marks; `write_queue.rs`: data that could not be sent at once;
//! * `data.rs`: the types that `write()` accepts;
//! * `receive.rs`: receives into new bytes objects;
//! * `endpoint.rs`: the socket, as a Python object or as a bare descriptor;
//! * `information.rs`: `get_extra_info()`;
//! * `methods.rs`: the Python methods of all transports;
//! * `native_protocol.rs`: protocols written in Rust (TLS), which receive bytes without an object;
//! * `event.rs`: readiness events in the ready queue;
//! * `origin.rs`: where an event was scheduled, for debug mode;
//! * `finalizer.rs`: warns of transports that are deallocated while open;
//! * `stream/`: TCP and UNIX streams, and the listeners that accept them;
//! * `datagram/`: UDP and UNIX datagrams;
//! * `pipe/`: pipes, FIFOs and terminals.
//!
//! Invariants: everything happens on the loop's thread; no cell is borrowed while Python code runs.
//! A transport is watched under the number `fd`, but its system calls use the endpoint's current
//! descriptor, which is -1 as soon as the program has closed the socket.

#![forbid(unsafe_code)]

mod data;
mod datagram;
pub mod endpoint;
mod event;
mod finalizer;
mod flow_control;
mod information;
mod kind;
mod lifecycle;
mod methods;
mod native_protocol;
mod origin;
mod pipe;
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
use kind::TransportKind;
pub use native_protocol::{NativeProtocol, NativeProtocolKind};
pub use pipe::{ReadPipeTransport, WritePipeTransport};
pub use stream::{ListenOptions, Listener, ServeMode, StreamTransport};

use crate::ffi::entries::{self, entered};
use crate::ffi::layout::context;
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::objects::descriptor_owners::{DescriptorOwners, Ownership};
use crate::ffi::objects::slots;
use crate::ffi::section::{Home, Owned};
use crate::metrics::OpenGuard;
use crate::scheduler::Scheduler;
use crate::sys::address::SocketAddress;
use crate::write_side::WriteSide;

/// Completes the classes. Called once, when the module is made.
pub fn install(py: Python<'_>) {
    slots::install_finalizer::<Transport>(py);
    slots::install_finalizer::<StreamTransport>(py);
    slots::install_finalizer::<DatagramTransport>(py);
    slots::install_finalizer::<ReadPipeTransport>(py);
    slots::install_finalizer::<WritePipeTransport>(py);
    entries::install::<Transport>(py);
    entries::install::<StreamTransport>(py);
    entries::install::<DatagramTransport>(py);
    entries::install::<ReadPipeTransport>(py);
    entries::install::<WritePipeTransport>(py);
    entries::install::<Listener>(py);
    entries::install::<origin::DisplayedMethod>(py);
}

/// The open transports, by descriptor.
pub static OWNERS: DescriptorOwners = DescriptorOwners::new();

/// The state of reading and of the protocol. [`WriteSide`] has that of writing and closing.
#[derive(Clone, Copy, Default)]
struct ProtocolState {
    /// `pause_reading()` was called.
    paused: bool,
    /// The protocol is a BufferedProtocol.
    buffered_protocol: bool,
    /// The protocol is a [`NativeProtocol`].
    native_protocol: bool,
    /// The transport is one of datagrams, and the protocol has `datagrams_received()`.
    several_datagrams: bool,
    /// A protocol was set.
    connected: bool,
}

/// Cached addresses.
#[derive(Default)]
struct SocketNames {
    own: Option<SocketAddress>,
    peer: Option<SocketAddress>,
}

/// The base class of all transports.
///
/// Not for direct use: the loop creates transports.
#[pyclass(frozen, subclass, weakref, dict, module = "ferroloop._ferroloop")]
pub struct Transport {
    kind: &'static TransportKind,
    home: Home,
    /// `None` once the connection is lost.
    scheduler: AttachedCell<Option<Py<Scheduler>>>,
    endpoint: AttachedCell<Endpoint>,
    /// The descriptor under which it is watched; unchanged when the descriptor is closed.
    fd: RawFd,
    protocol: AttachedCell<Option<Py<PyAny>>>,
    server: AttachedCell<Option<Py<PyAny>>>,
    extra: AttachedCell<Option<Py<PyDict>>>,
    names: AttachedCell<SocketNames>,
    writing: AttachedRefCell<WriteSide>,
    state: AttachedCell<ProtocolState>,
    ownership: Ownership,
    /// Counts the transport as open until its descriptor is closed.
    open: AttachedCell<Option<OpenGuard>>,
    /// The context of all its callbacks. If None, each runs in a copy of the context that schedules
    /// it.
    context: AttachedCell<Option<Py<PyAny>>>,
}

/// The parts of a new transport.
pub struct TransportParts<'py> {
    /// The loop.
    pub scheduler: Bound<'py, Scheduler>,
    /// The socket.
    pub endpoint: Endpoint,
    /// The protocol; set by `set_protocol()`.
    pub protocol: Bound<'py, PyAny>,
    /// Extra information that the caller provides.
    pub extra: Option<Bound<'py, PyDict>>,
    /// The server that accepted the connection.
    pub server: Option<Bound<'py, PyAny>>,
    /// The peer's address, if it is known already.
    pub(crate) peer: Option<SocketAddress>,
    /// The connection's own context, which streams have from Python 3.15 on.
    pub context: Option<Bound<'py, PyAny>>,
}

impl Owned for Transport {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().home.get(slf.py())
    }
}

macro_rules! owned_as_transports {
    ($($class:ident),*) => {$(
        impl Owned for $class {
            fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
                Transport::owner(slf.as_super())
            }
        }
    )*};
}

owned_as_transports!(StreamTransport, DatagramTransport, ReadPipeTransport, WritePipeTransport);
entered!(Transport, StreamTransport, DatagramTransport, ReadPipeTransport, WritePipeTransport);

impl Transport {
    fn new(kind: &'static TransportKind, parts: TransportParts<'_>) -> Self {
        let fd = parts.endpoint.descriptor();
        Self {
            kind,
            home: Home::of(&parts.scheduler),
            scheduler: AttachedCell::new(Some(parts.scheduler.unbind())),
            endpoint: AttachedCell::new(parts.endpoint),
            fd,
            protocol: AttachedCell::new(None),
            server: AttachedCell::new(parts.server.map(Bound::unbind)),
            extra: AttachedCell::new(parts.extra.map(Bound::unbind)),
            names: AttachedCell::new(SocketNames { own: None, peer: parts.peer }),
            writing: AttachedRefCell::new(WriteSide::new(kind.resume_at)),
            state: AttachedCell::new(ProtocolState::default()),
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
    fn count_received(&self, py: Python<'_>, length: usize) {
        self.open.inspect(py, |open| {
            if let Some(open) = open {
                open.metrics().bytes_received.add(length as u64);
            }
        });
    }

    /// Counts bytes sent.
    #[inline(always)]
    fn count_sent(&self, py: Python<'_>, sent: io::Result<usize>) -> io::Result<usize> {
        if let Ok(length) = sent {
            self.open.inspect(py, |open| {
                if let Some(open) = open {
                    open.metrics().bytes_sent.add(length as u64);
                }
            });
        }
        sent
    }

    /// Allows other uses of the descriptor.
    pub fn release_descriptor(&self, py: Python<'_>) {
        self.ownership.release(py);
    }

    /// Makes the transport the exclusive owner of the descriptor.
    pub fn claim_descriptor(slf: &Bound<'_, Self>) {
        let this = slf.get();
        if !this.endpoint.inspect(slf.py(), Endpoint::is_closed) {
            this.ownership.claim(slf, this.fd);
        }
    }

    /// The protocol, or Python's None once the connection is lost.
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
    fn update_state(&self, py: Python<'_>, update: impl FnOnce(&mut ProtocolState)) {
        let mut state = self.state.get(py);
        update(&mut state);
        self.state.set(py, state);
    }

    fn debug(&self, py: Python<'_>) -> bool {
        self.scheduler
            .inspect(py, |scheduler| scheduler.as_ref().is_some_and(|s| s.get().is_debug(py)))
    }

    fn traverse_parts(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.visit(visit)?;
        self.scheduler.visit(visit)?;
        self.endpoint.visit_with(visit)?;
        self.protocol.visit(visit)?;
        self.server.visit(visit)?;
        self.context.visit(visit)?;
        self.extra.visit(visit)
    }
}
