//! Application data on its way out.
//!
//! What is written becomes records at once, and goes to the transport below, which gathers the
//! writes of one callback. Data is encrypted no faster than the transport below takes it: the
//! rest waits as it was given, so that a large write costs no second copy of itself.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::session::RECORD;
use super::{Phase, TlsProtocol, is_ordinary};
use crate::ffi::exception::PyOutcome;
use crate::ffi::window::Taken;
use crate::ffi::{buffer, call};
use crate::interop::imports;
use crate::scheduler::report::outcome;

/// Writes to a closed connection that are forgiven before a warning.
const FORGIVEN_WRITES: u32 = 5;

/// Plaintext that is encrypted before it is sent: below 128 KiB, from where on glibc maps each
/// block anew in a young process.
const BURST: usize = 7 * RECORD;

/// Plaintext that waits to be encrypted.
#[derive(Default)]
pub struct Backlog {
    pieces: VecDeque<Py<PyBytes>>,
    /// Bytes of the first piece that are done.
    start: usize,
    size: usize,
}

impl Backlog {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.size
    }

    fn push(&mut self, piece: &Bound<'_, PyBytes>, start: usize) {
        if self.pieces.is_empty() {
            self.start = start;
        } else {
            debug_assert!(start == 0, "only the first piece can be partly done");
        }
        self.size += piece.as_bytes().len() - start;
        self.pieces.push_back(piece.clone().unbind());
    }

    /// Appends all of a bytes object.
    pub fn append(&mut self, piece: &Bound<'_, PyBytes>) {
        if !piece.as_bytes().is_empty() {
            self.push(piece, 0);
        }
    }

    /// The first piece, and how much of it is done.
    fn first<'py>(&self, py: Python<'py>) -> Option<(Bound<'py, PyBytes>, usize)> {
        self.pieces.front().map(|piece| (piece.bind(py).clone(), self.start))
    }

    /// Copies pieces into `room` until it is full; how many bytes.
    fn copy_into(&self, py: Python<'_>, room: &mut [u8]) -> usize {
        let mut filled = 0;
        let mut start = self.start;
        for piece in &self.pieces {
            let bytes = &piece.bind(py).as_bytes()[start..];
            let taken = bytes.len().min(room.len() - filled);
            room[filled..filled + taken].copy_from_slice(&bytes[..taken]);
            filled += taken;
            start = 0;
            if filled == room.len() {
                break;
            }
        }
        filled
    }

    /// Forgets the first `length` bytes. Returns what is done with; the caller drops it.
    #[must_use = "drop it where no cell is lent"]
    fn advance(&mut self, py: Python<'_>, length: usize) -> Vec<Py<PyBytes>> {
        let mut done = Vec::new();
        let mut left = length;
        self.size -= length;
        while let Some(piece) = self.pieces.front() {
            let rest = piece.bind(py).as_bytes().len() - self.start;
            if left < rest {
                self.start += left;
                break;
            }
            left -= rest;
            self.start = 0;
            done.extend(self.pieces.pop_front());
        }
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        done
    }

    /// Empties it; the caller drops what comes back.
    #[must_use = "drop it where no cell is lent"]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

impl TlsProtocol {
    /// `write()` of the transport. `data` is bytes-like and not empty.
    pub fn write_application_data<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if !Self::may_write(slf)? {
            return Ok(());
        }
        let status = this.status.get(py);
        let at_once = status.phase == Phase::Wrapped
            && !status.writing_paused
            && this.backlog.with(py, |backlog| backlog.len()) == 0;
        let written =
            if at_once { Self::encrypt_at_once(slf, data) } else { this.put_off(data, 0) };
        match written.and_then(|()| Self::after_writing(slf)) {
            Err(raised) if is_ordinary(&raised) && status.phase == Phase::Wrapped => {
                Self::fatal_error(slf, &raised, "Fatal error on SSL protocol")
            }
            other => other,
        }
    }

    /// `writelines()` of the transport.
    pub fn write_pieces<'py>(
        slf: &Bound<'py, Self>,
        pieces: &[Bound<'py, PyAny>],
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        if !Self::may_write(slf)? {
            return Ok(());
        }
        let wrapped = slf.get().phase(py) == Phase::Wrapped;
        let written = pieces
            .iter()
            .try_for_each(|piece| slf.get().put_off(piece, 0))
            .and_then(|()| if wrapped { Self::do_write(slf) } else { Ok(()) });
        match written {
            Err(raised) if is_ordinary(&raised) && wrapped => {
                Self::fatal_error(slf, &raised, "Fatal error on SSL protocol")
            }
            other => other,
        }
    }

    /// Whether writing is possible; counts the attempts and warns of them if it is not.
    fn may_write<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let this = slf.get();
        let status = this.status.get(py);
        if matches!(status.phase, Phase::Handshake | Phase::Wrapped) {
            return Ok(true);
        }
        if status.lost >= FORGIVEN_WRITES {
            let text = intern!(py, "SSL connection is closed");
            let warned = imports::logger(py)
                .and_then(|logger| logger.call_method1(intern!(py, "warning"), (text,)));
            outcome(py, warned)?;
        }
        this.update(py, |status| status.lost = status.lost.saturating_add(1));
        Ok(false)
    }

    /// Appends to the backlog; anything but bytes is copied, since its owner may change it.
    fn put_off<'py>(&self, data: &Bound<'py, PyAny>, start: usize) -> PyOutcome<'py, ()> {
        let py = data.py();
        if let Ok(bytes) = data.cast::<PyBytes>() {
            if bytes.as_bytes().len() > start {
                self.backlog.with(py, |backlog| backlog.push(bytes, start));
            }
            return Ok(());
        }
        let copy = buffer::with_bytes(data, |bytes| PyBytes::new(py, &bytes[start..]))?;
        if !copy.as_bytes().is_empty() {
            self.backlog.with(py, |backlog| backlog.push(&copy, 0));
        }
        Ok(())
    }

    /// Encrypts `data` while nothing else waits; puts off what the transport below does not want.
    fn encrypt_at_once<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let length = buffer::with_bytes(data, <[u8]>::len)?;
        let mut done = 0;
        let mut burst = 0;
        while done < length {
            let end = length.min(done + RECORD);
            let written = if done == 0 && end == length {
                this.session.write(data)?
            } else {
                this.session.write(&buffer::part(data, done..end)?)?
            };
            let Some(count) = written else { break };
            done += count;
            burst += count;
            if burst >= BURST && done < length {
                burst = 0;
                this.flush_below(py)?;
                if this.status.inspect(py, |status| status.writing_paused) {
                    break;
                }
                // Sending may have run the application's code.
                if this.phase(py) != Phase::Wrapped {
                    return Ok(());
                }
            }
        }
        if done < length { this.put_off(data, done) } else { Ok(()) }
    }

    /// Sends what is encrypted and controls the application.
    fn after_writing<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let status = slf.get().status.get(slf.py());
        if status.phase != Phase::Wrapped {
            return Ok(());
        }
        Self::process_outgoing(slf)
    }

    /// Encrypts what waits, as far as the transport below wants it, and sends it.
    pub fn do_write<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        while this.backlog.with(py, |backlog| backlog.len()) > 0
            && !this.status.inspect(py, |status| status.writing_paused)
        {
            if !Self::encrypt_burst(slf)? {
                break;
            }
            this.flush_below(py)?;
        }
        Self::process_outgoing(slf)
    }

    /// Encrypts all that waits although the transport below may not want it: the connection is
    /// about to be closed.
    pub fn encrypt_all<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let this = slf.get();
        while this.backlog.with(slf.py(), |backlog| backlog.len()) > 0 && Self::encrypt_burst(slf)?
        {
        }
        Ok(())
    }

    /// Encrypts a burst of the backlog; false if the SSL object takes nothing now.
    fn encrypt_burst<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let this = slf.get();
        let mut burst = 0;
        while burst < BURST {
            let first = this.backlog.with(py, |backlog| backlog.first(py));
            let Some((piece, start)) = first else { break };
            let rest = piece.as_bytes().len() - start;
            let alone = rest >= RECORD || this.backlog.with(py, |backlog| backlog.len()) == rest;
            let written = if alone {
                let end = start + rest.min(RECORD);
                if start == 0 && end == piece.as_bytes().len() {
                    this.session.write(piece.as_any())?
                } else {
                    this.session.write(&buffer::part(piece.as_any(), start..end)?)?
                }
            } else {
                // Small pieces share a record.
                let window = Taken::new(py)?;
                let length = window.with(0..RECORD, |room| {
                    this.backlog.with(py, |backlog| backlog.copy_into(py, room))
                })?;
                this.session.write(window.expose(0..length))?
            };
            let Some(count) = written else { return Ok(false) };
            burst += count;
            let done = this.backlog.with(py, |backlog| {
                let count = count.min(backlog.len());
                backlog.advance(py, count)
            });
            drop(done);
        }
        Ok(true)
    }

    /// Gives what is encrypted to the transport below.
    fn flush_below<'py>(&self, py: Python<'py>) -> PyOutcome<'py, ()> {
        let data = self.session.take_outgoing(py)?;
        if data.as_bytes().is_empty() { Ok(()) } else { self.send_below(data.as_any()) }
    }

    /// asyncio's `_process_outgoing()`.
    pub fn process_outgoing<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if this.status.inspect(py, |status| status.writing_paused) {
            return Self::control_app_writing(slf);
        }
        this.flush_below(py)?;
        let status = this.status.get(py);
        if status.writing_paused || this.backlog.with(py, |backlog| backlog.len()) > 0 {
            return Self::control_app_writing(slf);
        }
        Self::control_app_writing_when_empty(slf)
    }

    /// The transport below wants no more.
    pub fn pause_below(&self, py: Python<'_>) {
        self.update(py, |status| status.writing_paused = true);
    }

    /// The transport below wants more.
    pub fn resume_below<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        slf.get().update(py, |status| status.writing_paused = false);
        if slf.get().phase(py) != Phase::Wrapped {
            return Self::process_outgoing(slf);
        }
        match Self::do_write(slf) {
            Err(raised) if is_ordinary(&raised) => {
                Self::fatal_error(slf, &raised, "Fatal error on SSL protocol")
            }
            other => other,
        }
    }

    /// Drops what was not sent.
    pub fn discard_outgoing<'py>(&self, py: Python<'py>) -> PyOutcome<'py, ()> {
        let dropped = self.backlog.with(py, Backlog::take);
        drop(dropped);
        let outgoing = self.session.outgoing(py);
        call::call_method(&outgoing, intern!(py, "read"), []).map(drop)
    }
}
