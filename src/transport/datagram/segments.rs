//! Several datagrams in one system call, and in one call of the protocol: `send_segments()` and the
//! protocol's method `datagrams_received()`.
//!
//! Both work with every socket. Where the kernel cannot segment or join datagrams, each is sent and
//! received by itself.

use std::collections::VecDeque;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::{Datagram, DatagramTransport, HEADER_SIZE};
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::object::HasBase;
use crate::interop::error::os_error;
use crate::sys::{is_not_ready, segmentation};
use crate::transport::receive;

/// What the socket can do; unknown until it is tried.
#[derive(Clone, Copy, Default)]
pub(super) struct Offload {
    segments: Option<bool>,
    coalesces: Option<bool>,
}

impl DatagramTransport {
    fn is_over_ip(&self) -> bool {
        matches!(self.family, libc::AF_INET | libc::AF_INET6)
    }

    /// Whether datagrams must be received by [`Self::receive_several`].
    #[inline(always)]
    pub(super) fn receives_several(slf: &Bound<'_, Self>) -> bool {
        let py = slf.py();
        slf.base().state.get(py).several_datagrams
            || slf.get().offload.get(py).coalesces == Some(true)
    }

    /// Receives datagrams that arrived together; false if there is none.
    #[cold]
    pub(super) fn receive_several<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let this = slf.get();
        let base = slf.base();
        if !this.is_over_ip() {
            return Self::receive_one(slf);
        }
        let fd = base.descriptor(py);
        let offload = this.offload.get(py);
        if offload.coalesces.is_none() {
            let coalesces = Some(segmentation::coalesce(fd).is_ok());
            this.offload.set(py, Offload { coalesces, ..offload });
        }
        match receive::datagrams(py, fd)? {
            Ok((datagrams, sender)) => {
                let length = datagrams.iter().map(|data| data.as_bytes().len()).sum();
                base.count_received(py, length);
                let sender = Self::sender_object(slf, sender).or_raise(py)?;
                Self::deliver(slf, datagrams, &sender)?;
                Ok(true)
            }
            Err(error) if is_not_ready(&error) => Ok(false),
            Err(error) => {
                Self::error_received(slf, Raised::of(py, os_error(py, &error)))?;
                Ok(true)
            }
        }
    }

    /// Calls the protocol: once if it takes several datagrams, or once for each.
    pub(super) fn deliver<'py>(
        slf: &Bound<'py, Self>,
        datagrams: Vec<Bound<'py, PyBytes>>,
        sender: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let base = slf.base();
        if base.state.get(py).several_datagrams {
            let list = PyList::new(py, datagrams).or_raise(py)?;
            let protocol = base.protocol_or_none(py);
            let method = intern!(py, "datagrams_received");
            return call::call_method(&protocol, method, [list.as_any(), sender]).map(drop);
        }
        // The protocol was replaced by one that takes them singly. An exception does not withhold
        // the others.
        let mut outcome = Ok(());
        for data in datagrams {
            if base.is_closing(py) {
                break;
            }
            let protocol = base.protocol_or_none(py);
            let method = intern!(py, "datagram_received");
            let called = call::call_method(&protocol, method, [data.as_any(), sender]).map(drop);
            outcome = outcome.and(called);
        }
        outcome
    }

    /// How many bytes of datagrams of `size` bytes are sent in one call; `None` if each must be sent
    /// by itself.
    pub(super) fn bytes_of_call(slf: &Bound<'_, Self>, size: u16) -> Option<usize> {
        let py = slf.py();
        let this = slf.get();
        if !this.is_over_ip() {
            return None;
        }
        let offload = this.offload.get(py);
        let supported = offload.segments.unwrap_or_else(|| {
            let supported = segmentation::is_supported(slf.base().descriptor(py));
            this.offload.set(py, Offload { segments: Some(supported), ..offload });
            supported
        });
        let size = usize::from(size);
        let count = segmentation::MAXIMUM_SEGMENTS.min(segmentation::MAXIMUM_BYTES / size);
        (supported && count > 1).then_some(count * size)
    }

    /// Notes that the kernel has refused to segment. EINVAL may concern this size alone.
    #[cold]
    pub(super) fn segmentation_refused(slf: &Bound<'_, Self>, error: &std::io::Error) {
        let py = slf.py();
        if error.raw_os_error() != Some(libc::EINVAL) {
            let offload = slf.get().offload.get(py);
            slf.get().offload.set(py, Offload { segments: Some(false), ..offload });
        }
    }

    /// Replaces a call that cannot be made by its datagrams, at the front of the queue.
    #[cold]
    pub(super) fn queue_singly(
        slf: &Bound<'_, Self>,
        data: &[u8],
        size: u16,
        to: Option<&Py<PyAny>>,
    ) {
        let py = slf.py();
        let this = slf.get();
        let singly: VecDeque<_> = data
            .chunks(size.into())
            .map(|chunk| Datagram {
                data: PyBytes::new(py, chunk).unbind(),
                to: to.map(|to| to.clone_ref(py)),
                segment: None,
            })
            .collect();
        let added = (singly.len() - 1) * HEADER_SIZE;
        this.queued_bytes.set(py, this.queued_bytes.get(py) + added);
        this.queue.with(py, |queue| {
            let rest = std::mem::replace(queue, singly);
            queue.extend(rest);
        });
    }
}
