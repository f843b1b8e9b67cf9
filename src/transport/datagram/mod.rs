//! Transports for datagram sockets: UDP and UNIX.
//!
//! Each readiness event receives a batch of datagrams, whose size adapts to how many arrived
//! together recently: a busy socket needs few polls, and a quiet one no second receive. An error
//! concerns one datagram and goes to `error_received()`; the transport stays open.
//!
//! * `methods.rs`: the Python methods;
//! * `segments.rs`: several datagrams in one system call;
//! * `address_cache.rs`: the addresses of peers.

mod address_cache;
mod methods;
mod segments;

use std::collections::VecDeque;

use pyo3::PyClassInitializer;
use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::objects::object::HasBase;
use crate::interop::error::os_error;
use crate::interop::{address, imports};
use crate::metrics::TransportClass;
use crate::sys::address::SocketAddress;
use crate::sys::{is_not_ready, segmentation, socket};
use crate::transport::datagram::address_cache::AddressCache;
use crate::transport::datagram::segments::Offload;
use crate::transport::kind::ConcreteTransport;
use crate::transport::{Transport, TransportKind, TransportParts, receive};

/// The maximum size of a datagram over IP, in bytes; it fits into the shared receive buffer.
const MAX_SIZE_OVER_IP: usize = 64 * 1024;
/// asyncio's `max_size`, in bytes.
const MAX_SIZE: usize = 256 * 1024;
/// The most datagrams received per event.
const MAX_BATCH: u32 = 32;
/// What a queued datagram counts in addition to its bytes: asyncio's `_header_size`.
const HEADER_SIZE: usize = if cfg!(Py_3_13) { 8 } else { 0 };

pub(in crate::transport) const WRITE_FAILED: &str = "Fatal write error on datagram transport";

static KIND: TransportKind = TransportKind::of::<DatagramTransport>();

impl ConcreteTransport for DatagramTransport {
    const COUNTED_AS: TransportClass = TransportClass::Datagram;
    const IS_SOCKET: bool = true;
    const WRITE_FAILED: &'static str = WRITE_FAILED;
    const WRITE_METHOD: &'static str = "_sendto_ready";

    fn asyncio_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        imports::datagram_transport(py)
    }

    fn on_readable<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        Self::read_ready(slf)
    }

    fn send<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        Self::send_queue(slf)
    }

    fn queue_size(slf: &Bound<'_, Self>) -> usize {
        slf.get().queued_bytes.get(slf.py())
    }

    fn clear_queue(slf: &Bound<'_, Self>) {
        let py = slf.py();
        slf.get().queued_bytes.set(py, 0);
        drop(slf.get().queue.with(py, std::mem::take));
    }
}

/// A queued datagram and its destination.
pub struct Datagram {
    pub(in crate::transport) data: Py<PyBytes>,
    pub(in crate::transport) to: Option<Py<PyAny>>,
    /// The data are several datagrams of this size, of which the last one may be shorter.
    segment: Option<u16>,
}

/// How many datagrams to receive per event.
#[derive(Clone, Copy)]
struct BatchSize {
    expected: u32,
    /// The number of consecutive events that filled the batch.
    full: u32,
}

/// A datagram socket and its protocol.
///
/// See <https://docs.python.org/3/library/asyncio-protocol.html#datagram-transports>.
#[pyclass(frozen, extends = Transport, module = "ferroloop._ferroloop")]
pub struct DatagramTransport {
    /// `AF_INET` and so on.
    family: i32,
    /// The address to which it was connected, as given by its creator.
    pub(in crate::transport) address: AttachedCell<Option<Py<PyAny>>>,
    /// Whether the socket is connected to a peer that has a name.
    connected: bool,
    /// Whether it is connected to a peer without a name, as the sockets of a pair are. asyncio
    /// treats it as not connected, and fails to send without an address.
    has_unnamed_peer: bool,
    pub(in crate::transport) queue: AttachedRefCell<VecDeque<Datagram>>,
    pub(in crate::transport) queued_bytes: AttachedCell<usize>,
    pub(in crate::transport) address_cache: AttachedRefCell<AddressCache>,
    batch_size: AttachedCell<BatchSize>,
    offload: AttachedCell<Offload>,
}

/// The result of sending a datagram.
pub enum SendOutcome<'py> {
    /// The system has accepted it.
    Sent,
    /// The socket is not writable now.
    NotReady,
    /// Sending it has failed.
    Failed(Raised<'py>),
    /// Several datagrams must be sent singly.
    NotSegmented,
}

impl DatagramTransport {
    /// Creates a transport and starts to open it.
    ///
    /// # Errors
    /// Those of the loop's methods.
    pub fn open<'py>(
        parts: TransportParts<'py>,
        family: i32,
        address: Option<Bound<'py, PyAny>>,
        waiter: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = parts.scheduler.py();
        let protocol = parts.protocol.clone();
        // To asyncio an unnamed peer is none: it tests the truth value of the name.
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
            batch_size: AttachedCell::new(BatchSize { expected: 1, full: 0 }),
            offload: AttachedCell::new(Offload::default()),
        };
        let base = PyClassInitializer::from(Transport::new(&KIND, parts));
        let datagrams = Bound::new(py, base.add_subclass(datagrams))?;
        datagrams.base().bind_protocol(protocol)?;
        Transport::open(datagrams.as_super(), waiter)?;
        Ok(datagrams)
    }

    /// Called when datagrams can be received.
    pub fn read_ready<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let batch_size = this.batch_size.get(py);
        let receive =
            if Self::receives_several(slf) { Self::receive_several } else { Self::receive_one };
        let mut received = 0;
        while received < batch_size.expected {
            if !slf.base().wants_to_read(py) {
                return Ok(());
            }
            if !receive(slf)? {
                break;
            }
            received += 1;
        }
        this.batch_size.set(py, batch_size.after(received));
        Ok(())
    }

    /// Receives one datagram; false if there is none.
    fn receive_one<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let base = slf.base();
        let over_ip = matches!(slf.get().family, libc::AF_INET | libc::AF_INET6);
        let size = if over_ip { MAX_SIZE_OVER_IP } else { MAX_SIZE };
        let protocol = base.protocol_or_none(py);
        match receive::datagram(py, base.descriptor(py), size)? {
            Ok((data, sender)) => {
                base.count_received(py, data.as_bytes().len());
                let sender = Self::sender_object(slf, sender).or_raise(py)?;
                if base.state.get(py).several_datagrams {
                    Self::deliver(slf, vec![data], &sender)?;
                    return Ok(true);
                }
                let method = intern!(py, "datagram_received");
                call::call_method(&protocol, method, [data.as_any(), &sender])?;
                Ok(true)
            }
            Err(error) if is_not_ready(&error) => Ok(false),
            Err(error) => {
                Self::error_received(slf, Raised::of(py, os_error(py, &error)))?;
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
        if let Some(object) = address_cache.with(py, |cache| cache.object(py, &sender)) {
            return Ok(object);
        }
        let object = address::to_python(py, &sender)?;
        let replaced = address_cache.with(py, |cache| cache.insert(sender, &object));
        drop(replaced);
        Ok(object)
    }

    pub(in crate::transport) fn error_received<'py>(
        slf: &Bound<'py, Self>,
        raised: Raised<'py>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let protocol = slf.base().protocol_or_none(py);
        let exception = raised.value().as_any();
        call::call_method(&protocol, intern!(py, "error_received"), [exception]).map(drop)
    }

    /// Sends one datagram, or several of the size `segment`.
    pub(in crate::transport) fn send<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        content: &[u8],
        to: Option<&Bound<'py, PyAny>>,
        segment: Option<u16>,
    ) -> SendOutcome<'py> {
        let py = slf.py();
        let this = slf.get();
        let base = slf.base();
        let fd = base.descriptor(py);
        let sent = if this.connected || (this.has_unnamed_peer && to.is_none()) {
            match segment {
                Some(segment) => segmentation::send(fd, content, segment, None),
                None => socket::send(fd, content),
            }
        } else {
            let known = to.and_then(|to| {
                this.address_cache
                    .with(py, |cache| cache.address(to))
                    .or_else(|| address::from_python(to, this.family))
            });
            match known {
                Some(to @ (SocketAddress::V4 { .. } | SocketAddress::V6 { .. })) => match segment {
                    Some(segment) => segmentation::send(fd, content, segment, Some(&to)),
                    None => socket::send_to(fd, content, &to),
                },
                _ if segment.is_some() => return SendOutcome::NotSegmented,
                _ => return Self::send_by_python(slf, data, to),
            }
        };
        match base.count_sent(py, sent) {
            Ok(_) => SendOutcome::Sent,
            Err(error) if is_not_ready(&error) => SendOutcome::NotReady,
            Err(error) if segment.is_some() && segmentation::is_refusal(&error) => {
                Self::segmentation_refused(slf, &error);
                SendOutcome::NotSegmented
            }
            Err(error) => SendOutcome::Failed(Raised::of(py, os_error(py, &error))),
        }
    }

    /// Calls `sock.sendto(data, to)`: for host names, UNIX paths and wrong types.
    #[cold]
    fn send_by_python<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        to: Option<&Bound<'py, PyAny>>,
    ) -> SendOutcome<'py> {
        let py = slf.py();
        let none = py.None().into_bound(py);
        let socket = match Transport::socket_object(slf.as_super()) {
            Ok(socket) => socket.unwrap_or_else(|| none.clone()),
            Err(error) => {
                return SendOutcome::Failed(Raised::of(py, error));
            }
        };
        match call::call_method(&socket, intern!(py, "sendto"), [data, to.unwrap_or(&none)]) {
            Ok(sent) => {
                let _counted = slf.base().count_sent(py, Ok(sent.extract().unwrap_or(0)));
                SendOutcome::Sent
            }
            Err(raised)
                if raised.value().is_instance_of::<PyBlockingIOError>()
                    || raised.value().is_instance_of::<PyInterruptedError>() =>
            {
                SendOutcome::NotReady
            }
            Err(raised) => SendOutcome::Failed(raised),
        }
    }

    /// Handles an error of sending a datagram.
    pub(in crate::transport) fn send_failed<'py>(
        slf: &Bound<'py, Self>,
        raised: Raised<'py>,
    ) -> PyOutcome<'py, ()> {
        if raised.value().is_instance_of::<PyOSError>() {
            return Self::error_received(slf, raised);
        }
        Transport::fatal_error(slf.as_super(), raised, WRITE_FAILED)
    }

    /// Queues a datagram until the socket is writable.
    pub(in crate::transport) fn enqueue(
        slf: &Bound<'_, Self>,
        data: Bound<'_, PyBytes>,
        to: Option<Py<PyAny>>,
        segment: Option<u16>,
    ) {
        let py = slf.py();
        let this = slf.get();
        this.queued_bytes.set(py, this.queued_bytes.get(py) + data.as_bytes().len() + HEADER_SIZE);
        let datagram = Datagram { data: data.unbind(), to, segment };
        this.queue.with(py, |queue| queue.push_back(datagram));
    }

    /// Reports a queued datagram to the write side. `at_once`: it was queued because sending it at
    /// once has failed, not because others wait.
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
        Transport::run_commands(transport)
    }

    /// Sends the queue. If a datagram fails, the protocol is called and the next one is sent.
    fn send_queue<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        while let Some(datagram) = this.queue.with(py, VecDeque::pop_front) {
            let data = datagram.data.bind(py);
            let content = data.as_bytes();
            let to = datagram.to.as_ref().map(|to| to.bind(py).clone());
            let size = content.len() + HEADER_SIZE;
            match Self::send(slf, data.as_any(), content, to.as_ref(), datagram.segment) {
                SendOutcome::NotSegmented => {
                    let size = datagram.segment.unwrap_or(u16::MAX);
                    Self::queue_singly(slf, content, size, datagram.to.as_ref());
                }
                // Python code that converted the address may have aborted the transport.
                SendOutcome::NotReady if !slf.base().is_lost(py) => {
                    this.queue.with(py, |queue| queue.push_front(datagram));
                    break;
                }
                sent => {
                    let left = this.queued_bytes.get(py).saturating_sub(size);
                    this.queued_bytes.set(py, left);
                    if let SendOutcome::Failed(raised) = sent {
                        Self::send_failed(slf, raised)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl BatchSize {
    fn after(self, received: u32) -> Self {
        if received < self.expected {
            // Not less than half: after the last datagrams of many, many more may follow.
            return Self { expected: received.max(self.expected / 2).max(1), full: 0 };
        }
        // Many sockets receive one datagram at a time: try a second one only after several events.
        let patience = if self.expected == 1 { 8 } else { 1 };
        if self.full + 1 < patience {
            return Self { full: self.full + 1, ..self };
        }
        Self { expected: (self.expected * 2).min(MAX_BATCH), full: 0 }
    }
}
