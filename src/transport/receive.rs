//! Receives into new bytes objects.
//!
//! Small messages are received into one buffer that all connections share (on free-threaded builds,
//! those of one thread) and copied out of it, which is cheaper than shrinking an object that was
//! allocated too large. A connection with large messages receives in place, into objects of the size
//! that it received last.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::ffi::buffer::{append_filled_by, bytes_filled_by};
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::process_state::per_thread;
use crate::sys::address::SocketAddress;
use crate::sys::{segmentation, socket};

/// The size of the shared buffer, in bytes.
const SHARED_SIZE: usize = 64 * 1024;
/// The most bytes received by one call: asyncio's `max_size`.
pub const MAX_SIZE: usize = 256 * 1024;

per_thread!(static BUFFER: Vec<MaybeUninit<u8>> = Vec::new());

/// The number of bytes that a connection is expected to receive next; 0 as long as its messages fit
/// into the shared buffer.
#[derive(Clone, Copy, Default)]
pub struct ReadSize(u32);

impl ReadSize {
    /// Calls `receive` once. Returns an empty object at end of stream.
    #[inline]
    pub fn receive<'py>(
        &mut self,
        py: Python<'py>,
        fd: RawFd,
        receive: impl FnOnce(RawFd, &mut [MaybeUninit<u8>]) -> io::Result<usize>,
    ) -> PyOutcome<'py, io::Result<Bound<'py, PyBytes>>> {
        let receive = |buffer: &mut [MaybeUninit<u8>]| receive(fd, buffer);
        if self.0 == 0 {
            self.receive_shared(py, receive)
        } else {
            self.receive_in_place(py, receive)
        }
    }

    /// Like [`ReadSize::receive`], but appends to an array, which must have no views. Returns 0 at
    /// end of stream.
    #[inline]
    pub fn receive_into<'py>(
        &mut self,
        array: &Bound<'py, PyByteArray>,
        fd: RawFd,
        receive: impl FnOnce(RawFd, &mut [MaybeUninit<u8>]) -> io::Result<usize>,
    ) -> PyOutcome<'py, io::Result<usize>> {
        if self.0 != 0 {
            let capacity = self.0 as usize;
            let received = append_filled_by(array, capacity, |room| receive(fd, room));
            if let Ok(Ok(length)) = &received {
                self.adapt_after_in_place(capacity, *length);
            }
            return received;
        }
        BUFFER.with(array.py(), |buffer| {
            let buffer = allocated(buffer);
            let length = match receive(fd, buffer) {
                Ok(length) => length,
                Err(error) => return Ok(Err(error)),
            };
            self.adapt_after_shared(length);
            if length == 0 {
                return Ok(Ok(0));
            }
            append_filled_by(array, length, |room| {
                room.copy_from_slice(&buffer[..length]);
                Ok(length)
            })
        })
    }

    fn receive_shared<'py>(
        &mut self,
        py: Python<'py>,
        receive: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
    ) -> PyOutcome<'py, io::Result<Bound<'py, PyBytes>>> {
        BUFFER.with(py, |buffer| {
            let buffer = allocated(buffer);
            let length = match receive(buffer) {
                Ok(length) => length,
                Err(error) => return Ok(Err(error)),
            };
            self.adapt_after_shared(length);
            bytes_filled_by(py, length.max(2), |bytes| {
                bytes[..length].copy_from_slice(&buffer[..length]);
                Ok(length)
            })
        })
    }

    fn receive_in_place<'py>(
        &mut self,
        py: Python<'py>,
        receive: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
    ) -> PyOutcome<'py, io::Result<Bound<'py, PyBytes>>> {
        let capacity = self.0 as usize;
        let received = bytes_filled_by(py, capacity, receive);
        if let Ok(Ok(bytes)) = &received {
            self.adapt_after_in_place(capacity, bytes.as_bytes().len());
        }
        received
    }

    fn adapt_after_shared(&mut self, length: usize) {
        if length == SHARED_SIZE {
            self.0 = 2 * SHARED_SIZE as u32;
        }
    }

    fn adapt_after_in_place(&mut self, capacity: usize, length: usize) {
        if length == capacity {
            self.0 = (2 * capacity).min(MAX_SIZE) as u32;
        } else if length < SHARED_SIZE / 2 {
            self.0 = 0;
        }
    }
}

/// `sock.recv(size)`, through the shared buffer, unless more data is available than it holds.
pub fn at_most<'py>(
    py: Python<'py>,
    fd: RawFd,
    size: usize,
) -> PyOutcome<'py, io::Result<Bound<'py, PyBytes>>> {
    BUFFER.with(py, |buffer| {
        let buffer = allocated(buffer);
        let first = &mut buffer[..size.min(SHARED_SIZE)];
        let length = match socket::receive(fd, first) {
            Ok(length) => length,
            Err(error) => return Ok(Err(error)),
        };
        let capacity =
            if length == SHARED_SIZE && size > SHARED_SIZE { size.min(MAX_SIZE) } else { length };
        bytes_filled_by(py, capacity.max(2), |bytes| {
            bytes[..length].copy_from_slice(&buffer[..length]);
            if capacity <= length {
                return Ok(length);
            }
            // An error must not discard the data received so far: the next call raises it.
            Ok(length + socket::receive(fd, &mut bytes[length..]).unwrap_or(0))
        })
    })
}

/// `sock.recvfrom(size)`.
pub fn datagram<'py>(
    py: Python<'py>,
    fd: RawFd,
    size: usize,
) -> PyOutcome<'py, io::Result<(Bound<'py, PyBytes>, SocketAddress)>> {
    let mut sender = None;
    let received = if size <= SHARED_SIZE {
        BUFFER.with(py, |buffer| {
            let buffer = allocated(buffer);
            let length = match socket::receive_from(fd, &mut buffer[..size]) {
                Ok((length, address)) => {
                    sender = Some(address);
                    length
                }
                Err(error) => return Ok(Err(error)),
            };
            bytes_filled_by(py, length.max(2), |bytes| {
                bytes[..length].copy_from_slice(&buffer[..length]);
                Ok(length)
            })
        })?
    } else {
        bytes_filled_by(py, size.max(2), |bytes| {
            let (length, address) = socket::receive_from(fd, &mut bytes[..size])?;
            sender = Some(address);
            Ok(length)
        })?
    };
    Ok(received.map(|bytes| (bytes, sender.unwrap_or(SocketAddress::Other))))
}

/// Datagrams of one sender that arrived together, where the kernel joins them.
pub fn datagrams<'py>(
    py: Python<'py>,
    fd: RawFd,
) -> PyOutcome<'py, io::Result<(Vec<Bound<'py, PyBytes>>, SocketAddress)>> {
    BUFFER.with(py, |buffer| {
        let buffer = allocated(buffer);
        let received = match segmentation::receive(fd, buffer) {
            Ok(received) => received,
            Err(error) => return Ok(Err(error)),
        };
        let mut datagrams = Vec::with_capacity(received.length.div_ceil(received.segment).max(1));
        let mut rest = &buffer[..received.length];
        loop {
            let (datagram, next) = rest.split_at(received.segment.min(rest.len()));
            let bytes = bytes_filled_by(py, datagram.len().max(2), |bytes| {
                bytes[..datagram.len()].copy_from_slice(datagram);
                Ok(datagram.len())
            })?;
            match bytes {
                Ok(bytes) => datagrams.push(bytes),
                Err(error) => return Ok(Err(error)),
            }
            if next.is_empty() {
                return Ok(Ok((datagrams, received.sender)));
            }
            rest = next;
        }
    })
}

fn allocated(buffer: &mut Vec<MaybeUninit<u8>>) -> &mut [MaybeUninit<u8>] {
    if buffer.is_empty() {
        buffer.resize(SHARED_SIZE, MaybeUninit::uninit());
    }
    buffer
}
