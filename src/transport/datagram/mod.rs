//! Datagram sockets: UDP and UNIX.
//!
//! Several datagrams are taken per readiness, as many as lately came together, so that a busy
//! socket needs few polls and a quiet one no second receive. An error belongs to one datagram and
//! goes to `error_received()`; the transport stays open.

#![forbid(unsafe_code)]

mod address_cache;
mod methods;

use std::collections::VecDeque;

use pyo3::PyClassInitializer;
use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::call;
use crate::ffi::exception::{PyOutcome, Raised};
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::interop::error::raised_by_system;
use crate::interop::{address, imports};
use crate::metrics::TransportClass;
use crate::scheduler::RunnableKind;
use crate::scheduler::report::outcome;
use crate::sys::address::SocketAddress;
use crate::sys::is_not_ready;
use crate::sys::socket;
use crate::transport::datagram::address_cache::AddressCache;
use crate::transport::event::{EVENT, run_event};
use crate::transport::lifecycle::describe_event;
use crate::transport::{Parts, Transport, TransportKind, receive};
use crate::write_side::ResumeAt;

/// No datagram over IP is larger than the receive buffer shared by all.
const LARGEST_OVER_IP: usize = 64 * 1024;
/// asyncio's `max_size`.
const LARGEST: usize = 256 * 1024;
/// Most datagrams taken at once.
const BURST: u32 = 32;
/// What a queued datagram counts besides its bytes.
const OVERHEAD: usize = if cfg!(Py_3_13) { 8 } else { 0 };

pub(in crate::transport) const WRITE_FAILED: &str = "Fatal write error on datagram transport";

static KIND: TransportKind = TransportKind {
    class: imports::datagram_transport,
    counted_as: TransportClass::Datagram,
    is_socket: true,
    on_read: &ON_READ,
    on_write: &ON_WRITE,
    resume_at: ResumeAt::LowWater,
    write_failed: WRITE_FAILED,
    send: |transport| match transport.cast::<DatagramTransport>() {
        Ok(datagrams) => DatagramTransport::send_queue(datagrams),
        Err(_) => Ok(()),
    },
    queue_size: |transport| {
        let datagrams = transport.cast::<DatagramTransport>();
        datagrams.map_or(0, |datagrams| datagrams.get().queued_bytes.get(datagrams.py()))
    },
    all_sent: |_| Ok(()),
    clear_queue: |transport| {
        if let Ok(datagrams) = transport.cast::<DatagramTransport>() {
            let py = datagrams.py();
            datagrams.get().queued_bytes.set(py, 0);
            drop(datagrams.get().queue.with(py, std::mem::take));
        }
    },
    lost: |_| Ok(()),
};

static ON_READ: RunnableKind = RunnableKind {
    run: |scheduler, runnable| {
        run_event(scheduler, runnable, "_read_ready", DatagramTransport::read_ready)
    },
    describe: |py, runnable| describe_event(py, runnable, intern!(py, "_read_ready")),
    ..EVENT
};

static ON_WRITE: RunnableKind = RunnableKind {
    run: |scheduler, runnable| {
        run_event(scheduler, runnable, "_sendto_ready", Transport::write_ready)
    },
    describe: |py, runnable| describe_event(py, runnable, intern!(py, "_sendto_ready")),
    ..EVENT
};

/// A datagram that waits to be sent, and where to.
pub struct Datagram {
    pub(in crate::transport) data: Py<PyBytes>,
    pub(in crate::transport) to: Option<Py<PyAny>>,
}

/// How many datagrams came together lately.
#[derive(Clone, Copy)]
struct Burst {
    expected: u32,
    /// Events in a row that brought no more than expected.
    full: u32,
}

/// A datagram socket and its protocol.
///
/// See <https://docs.python.org/3/library/asyncio-protocol.html#datagram-transports>.
#[pyclass(frozen, extends = Transport, module = "ferroloop._ferroloop")]
pub struct DatagramTransport {
    /// `AF_INET` and so on.
    family: i32,
    /// The address that it was connected to, as its creator named it.
    pub(in crate::transport) address: AttachedCell<Option<Py<PyAny>>>,
    /// Whether the socket is connected to a peer that has a name.
    connected: bool,
    /// Whether it is connected to one that has none, as those of a pair are. asyncio takes it for
    /// not connected, and fails to send without an address.
    has_unnamed_peer: bool,
    pub(in crate::transport) queue: AttachedRefCell<VecDeque<Datagram>>,
    pub(in crate::transport) queued_bytes: AttachedCell<usize>,
    pub(in crate::transport) address_cache: AttachedRefCell<AddressCache>,
    burst: AttachedCell<Burst>,
}

/// What became of a datagram.
pub enum Sent<'py> {
    /// The system has it.
    Yes,
    /// The socket takes nothing now.
    NotReady,
    /// The system refused it.
    Refused(Raised<'py>),
}

impl DatagramTransport {
    /// A transport that has begun to open.
    ///
    /// # Errors
    /// Those of the loop's methods.
    pub fn open<'py>(
        parts: Parts<'py>,
        family: i32,
        address: Option<Bound<'py, PyAny>>,
        waiter: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = parts.scheduler.py();
        let protocol = parts.protocol.clone();
        // An unnamed peer is none to asyncio, which asks for the truth of the name.
        let has_unnamed_peer = matches!(
            &parts.peer,
            Some(SocketAddress::UnixPath(path)) if path.is_empty()
        );
        let connected = parts.peer.is_some() && !has_unnamed_peer;
        let address = match address {
            Some(address) if address.is_truthy()? => Some(address.unbind()),
            _ => None,
        };
        let datagrams = Self {
            family,
            address: AttachedCell::new(address),
            connected,
            has_unnamed_peer,
            queue: AttachedRefCell::new(VecDeque::new()),
            queued_bytes: AttachedCell::new(0),
            address_cache: AttachedRefCell::new(AddressCache::default()),
            burst: AttachedCell::new(Burst { expected: 1, full: 0 }),
        };
        let base = PyClassInitializer::from(Transport::new(&KIND, parts));
        let datagrams = Bound::new(py, base.add_subclass(datagrams))?;
        datagrams.as_super().get().bind_protocol(protocol)?;
        Transport::open(datagrams.as_super(), waiter)?;
        Ok(datagrams)
    }

    /// Datagrams can be received.
    pub fn read_ready<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let burst = this.burst.get(py);
        let mut received = 0;
        while received < burst.expected {
            if !slf.as_super().get().wants_to_read(py) {
                return Ok(());
            }
            if !Self::receive_one(slf)? {
                break;
            }
            received += 1;
        }
        this.burst.set(py, burst.after(received));
        Ok(())
    }

    /// Receives one datagram; false if there is none.
    fn receive_one<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let base = slf.as_super().get();
        let over_ip = matches!(slf.get().family, libc::AF_INET | libc::AF_INET6);
        let size = if over_ip { LARGEST_OVER_IP } else { LARGEST };
        let protocol = base.protocol_or_none(py);
        match receive::datagram(py, base.descriptor(py), size)? {
            Ok((data, sender)) => {
                base.note_received(py, data.as_bytes().len());
                let sender = outcome(py, Self::sender_object(slf, sender))?;
                let method = intern!(py, "datagram_received");
                call::call_method(&protocol, method, [data.as_any(), &sender])?;
                Ok(true)
            }
            Err(error) if is_not_ready(&error) => Ok(false),
            Err(error) => {
                Self::error_received(slf, raised_by_system(py, &error))?;
                Ok(true)
            }
        }
    }

    fn sender_object<'py>(
        slf: &Bound<'py, Self>,
        sender: SocketAddress,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let address_cache = &slf.get().address_cache;
        if let Some(object) =
            address_cache.with(py, |address_cache| address_cache.object(py, &sender))
        {
            return Ok(object);
        }
        let object = address::to_python(py, &sender)?;
        let replaced =
            address_cache.with(py, |address_cache| address_cache.remember(sender, &object));
        drop(replaced);
        Ok(object)
    }

    pub(in crate::transport) fn error_received<'py>(
        slf: &Bound<'py, Self>,
        raised: Raised<'py>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let protocol = slf.as_super().get().protocol_or_none(py);
        let exception = raised.value().as_any();
        call::call_method(&protocol, intern!(py, "error_received"), [exception]).map(drop)
    }

    /// Hands one datagram to the system.
    pub(in crate::transport) fn send<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        content: &[u8],
        to: Option<&Bound<'py, PyAny>>,
    ) -> Sent<'py> {
        let py = slf.py();
        let this = slf.get();
        let base = slf.as_super().get();
        let fd = base.descriptor(py);
        let sent = if this.connected || (this.has_unnamed_peer && to.is_none()) {
            socket::send(fd, content)
        } else {
            let known = to.and_then(|to| {
                this.address_cache
                    .with(py, |address_cache| address_cache.address(to))
                    .or_else(|| address::from_python(to, this.family))
            });
            match known {
                Some(SocketAddress::V4 { .. } | SocketAddress::V6 { .. }) => {
                    known.map_or(Ok(0), |to| socket::send_to(fd, content, &to))
                }
                _ => return Self::send_by_python(slf, data, to),
            }
        };
        match base.note_sent(py, sent) {
            Ok(_) => Sent::Yes,
            Err(error) if is_not_ready(&error) => Sent::NotReady,
            Err(error) => Sent::Refused(raised_by_system(py, &error)),
        }
    }

    /// Names to look up, UNIX paths, wrong types: `sock.sendto(data, to)`.
    #[cold]
    fn send_by_python<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        to: Option<&Bound<'py, PyAny>>,
    ) -> Sent<'py> {
        let py = slf.py();
        let none = py.None().into_bound(py);
        let socket = match Transport::socket_object(slf.as_super()) {
            Ok(socket) => socket.unwrap_or_else(|| none.clone()),
            Err(error) => {
                return Sent::Refused(Raised::from(error.into_value(py).into_bound(py)));
            }
        };
        match call::call_method(&socket, intern!(py, "sendto"), [data, to.unwrap_or(&none)]) {
            Ok(sent) => {
                let _counted = slf.as_super().get().note_sent(py, Ok(sent.extract().unwrap_or(0)));
                Sent::Yes
            }
            Err(raised)
                if raised.value().is_instance_of::<PyBlockingIOError>()
                    || raised.value().is_instance_of::<PyInterruptedError>() =>
            {
                Sent::NotReady
            }
            Err(raised) => Sent::Refused(raised),
        }
    }

    /// What to do about a datagram that the system refused.
    pub(in crate::transport) fn refused<'py>(
        slf: &Bound<'py, Self>,
        raised: Raised<'py>,
    ) -> PyOutcome<'py, ()> {
        if raised.value().is_instance_of::<PyOSError>() {
            return Self::error_received(slf, raised);
        }
        Transport::fatal_error(slf.as_super(), raised, WRITE_FAILED)
    }

    /// Queues a datagram until the socket takes it.
    pub(in crate::transport) fn enqueue(
        slf: &Bound<'_, Self>,
        data: Bound<'_, PyBytes>,
        to: Option<Py<PyAny>>,
    ) {
        let py = slf.py();
        let this = slf.get();
        this.queued_bytes.set(py, this.queued_bytes.get(py) + data.as_bytes().len() + OVERHEAD);
        this.queue.with(py, |queue| queue.push_back(Datagram { data: data.unbind(), to }));
    }

    /// Reports what was queued to the write side: behind what waits, or after a call that was to
    /// send it at once (`at_once`).
    pub(in crate::transport) fn note_queued<'py>(
        slf: &Bound<'py, Self>,
        at_once: bool,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        let queued = slf.get().queued_bytes.get(py);
        transport
            .get()
            .writing
            .with(py, |side| if at_once { side.wait(queued) } else { side.queued_more(queued) });
        Transport::carry_out(transport)
    }

    /// Hands the queue to the system. A datagram that is refused concerns the protocol, which is
    /// called, and not the next one.
    fn send_queue<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        while let Some(datagram) = this.queue.with(py, VecDeque::pop_front) {
            let data = datagram.data.bind(py);
            let content = data.as_bytes();
            let to = datagram.to.as_ref().map(|to| to.bind(py).clone());
            let size = content.len() + OVERHEAD;
            match Self::send(slf, data.as_any(), content, to.as_ref()) {
                // A lookup of the address may have run code that aborted the transport.
                Sent::NotReady if !slf.as_super().get().is_lost(py) => {
                    this.queue.with(py, |queue| queue.push_front(datagram));
                    break;
                }
                sent => {
                    let left = this.queued_bytes.get(py).saturating_sub(size);
                    this.queued_bytes.set(py, left);
                    if let Sent::Refused(raised) = sent {
                        Self::refused(slf, raised)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Burst {
    fn after(self, received: u32) -> Self {
        if received < self.expected {
            return Self { expected: received.max(1), full: 0 };
        }
        // One at a time is the rule for many sockets: look for a second one only now and then.
        let patience = if self.expected == 1 { 8 } else { 1 };
        if self.full + 1 < patience {
            return Self { full: self.full + 1, ..self };
        }
        Self { expected: (self.expected * 2).min(BURST), full: 0 }
    }
}
