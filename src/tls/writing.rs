//! Sends application data.
//!
//! Written data is encrypted at once and passed to the underlying transport unless that has paused
//! writing, as in asyncio: buffer sizes, and the moments at which the application is paused, are
//! asyncio's. A large write is passed on in bursts, so that the BIO stays small.
//!
//! The SSL object and a foreign transport may run any code, which may write, close or abort. Only
//! one caller encrypts and sends at a time (`Status::sending`). Data that is written meanwhile
//! waits in the backlog, and that caller sends it afterwards.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::backlog::{self, Backlog, FirstPiece, PendingCiphertext};
use super::direct::Direct;
use super::session::RECORD_SIZE;
use super::{Phase, TlsProtocol, is_ordinary};
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::objects::object::{HasBase, is_exactly};
use crate::ffi::objects::shared_buffer::BufferLease;
use crate::ffi::section;
use crate::ffi::{buffer, call};
use crate::interop::imports;
use crate::transport::StreamTransport;

/// Writes after connection loss that are ignored before a warning, as in asyncio.
const LOG_THRESHOLD_FOR_CONNLOST_WRITES: u32 = 5;

/// The amount of plaintext that is encrypted before it is sent, in bytes: below 128 KiB, from which
/// size on glibc maps and unmaps each block, until its threshold has adapted.
const BURST: usize = 7 * RECORD_SIZE;

/// Why encrypting stopped.
enum Progress {
    /// The backlog is empty.
    Done,
    /// A burst is encrypted, and the backlog is not empty.
    Burst,
    /// The SSL object accepts no data now.
    Blocked,
}

impl TlsProtocol {
    /// `write()` of the transport. `data` is bytes-like and not empty.
    pub fn write_application_data<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        if !Self::check_writable(slf)? {
            return Ok(());
        }
        let this = slf.get();
        let status = this.status.get(slf.py());
        if status.phase != Phase::Wrapped {
            return backlog::append(&this.backlog, data);
        }
        Self::guarded(slf, || {
            if status.sending {
                return backlog::append(&this.backlog, data);
            }
            let direct = this.session.writes_directly(slf.py());
            let idle = this.backlog.with(slf.py(), |backlog| backlog.is_empty());
            if idle && (!direct || buffer::with_bytes(data, <[u8]>::len)? <= RECORD_SIZE) {
                return Self::write_now(slf, data, direct);
            }
            backlog::append(&this.backlog, data)?;
            Self::do_write(slf)
        })
    }

    /// `writelines()` of the transport.
    pub fn write_pieces<'py>(
        slf: &Bound<'py, Self>,
        pieces: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        if !Self::check_writable(slf)? {
            return Ok(());
        }
        for piece in pieces.try_iter().or_raise(py)? {
            backlog::append(&slf.get().backlog, &piece.or_raise(py)?)?;
        }
        if slf.get().phase(py) == Phase::Wrapped {
            return Self::guarded(slf, || Self::do_write(slf));
        }
        Ok(())
    }

    /// Calls `body`; closes the connection if it raises.
    pub fn guarded<'py>(
        slf: &Bound<'py, Self>,
        body: impl FnOnce() -> PyOutcome<'py, ()>,
    ) -> PyOutcome<'py, ()> {
        match body() {
            Err(raised) if is_ordinary(&raised) => {
                Self::fatal_error(slf, &raised, "Fatal error on SSL protocol")
            }
            other => other,
        }
    }

    /// Whether writing is possible; if not, counts the attempt and warns of repeated ones.
    fn check_writable<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let this = slf.get();
        let status = this.status.get(py);
        if matches!(status.phase, Phase::Handshake | Phase::Wrapped) {
            return Ok(true);
        }
        if status.lost >= LOG_THRESHOLD_FOR_CONNLOST_WRITES {
            let text = intern!(py, "SSL connection is closed");
            let warned = imports::logger(py)
                .and_then(|logger| logger.call_method1(intern!(py, "warning"), (text,)));
            warned.or_raise(py)?;
        }
        this.update(py, |status| status.lost = status.lost.saturating_add(1));
        Ok(false)
    }

    /// Calls `body` as the only caller that encrypts and sends, then does what others have
    /// requested meanwhile.
    fn send_exclusively<'py>(
        slf: &Bound<'py, Self>,
        body: impl FnOnce() -> PyOutcome<'py, ()>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        this.update(py, |status| status.sending = true);
        let result = body();
        let again = this.status.inspect(py, |status| status.send_again);
        this.update(py, |status| (status.sending, status.send_again) = (false, false));
        result?;
        if !again {
            return Self::control_after_sending(slf);
        }
        match this.phase(py) {
            Phase::Flushing => Self::do_flush(slf),
            _ => Self::do_write(slf),
        }
    }

    /// Encrypts `data`, while the backlog is empty, and sends it.
    fn write_now<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        direct: bool,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        Self::send_exclusively(slf, || {
            let open = !this.status.inspect(py, |status| status.writing_paused);
            let encrypted = direct && open && this.encrypt_directly(py, data, ..)? > 0;
            let written =
                if encrypted { Ok(Some(usize::MAX)) } else { this.session.write(data, direct) };
            match &written {
                Ok(Some(usize::MAX)) => {}
                Ok(Some(count)) => {
                    let length = match data.cast_exact::<PyBytes>() {
                        Ok(bytes) => Some(bytes.as_bytes().len()),
                        Err(_) => data.len().ok(),
                    };
                    if length.is_some_and(|length| *count < length) {
                        backlog::prepend(&this.backlog, data, *count)?;
                    }
                }
                Ok(None) | Err(_) => backlog::prepend(&this.backlog, data, 0)?,
            }
            match written {
                Ok(Some(0) | None) => this.flush_ciphertext(py, open),
                Ok(Some(_)) => {
                    let idle = || this.backlog.with(py, |backlog| backlog.is_empty());
                    if idle() {
                        this.flush_ciphertext(py, open)?;
                    }
                    // The remaining data, and what the application has written meanwhile.
                    if idle() { Ok(()) } else { Self::write_backlog(slf, open) }
                }
                Err(raised) => Err(raised),
            }
        })
    }

    /// Encrypts the backlog and sends it, unless the underlying transport has paused writing.
    pub fn do_write<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let status = slf.get().status.get(slf.py());
        if status.sending {
            slf.get().update(slf.py(), |status| status.send_again = true);
            return Ok(());
        }
        Self::send_exclusively(slf, || Self::write_backlog(slf, !status.writing_paused))
    }

    /// Encrypts the backlog. If the underlying transport is `open`, passes all of it on, even if
    /// the transport pauses writing meanwhile: asyncio passes it on in one piece.
    fn write_backlog<'py>(slf: &Bound<'py, Self>, open: bool) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        loop {
            let progress = if matches!(this.phase(py), Phase::Wrapped | Phase::Flushing) {
                this.encrypt_burst(py, open)?
            } else {
                Progress::Done
            };
            // A foreign transport gets everything in one piece.
            if matches!(progress, Progress::Burst) && !this.is_over_stream_transport(py) {
                continue;
            }
            this.flush_ciphertext(py, open)?;
            let idle = || this.backlog.with(py, |backlog| backlog.is_empty());
            match progress {
                Progress::Blocked => return Ok(()),
                Progress::Done if idle() || this.phase(py) != Phase::Wrapped => return Ok(()),
                Progress::Done | Progress::Burst => {}
            }
            if this.is_underlying_lost(py) {
                return Ok(());
            }
        }
    }

    /// Encrypts a burst of the backlog.
    fn encrypt_burst<'py>(&self, py: Python<'py>, open: bool) -> PyOutcome<'py, Progress> {
        let mut burst = 0;
        while burst < BURST {
            let Some(first) = self.backlog.with(py, |backlog| backlog.first(py)) else {
                return Ok(Progress::Done);
            };
            let (given, written) = if first.is_bytes {
                self.write_first(py, &first, open)?
            } else {
                (usize::MAX, self.session.write(&first.data, false)?)
            };
            let Some(count) = written else { return Ok(Progress::Blocked) };
            if !first.is_bytes {
                let done = self.backlog.with(py, Backlog::skip_first);
                drop(done);
                continue;
            }
            // An overridden `write()` may return any number.
            let count = count.min(given);
            if count == 0 {
                return Ok(Progress::Blocked);
            }
            burst += count;
            let done = self.backlog.with(py, |backlog| backlog.advance(count));
            drop(done);
        }
        Ok(Progress::Burst)
    }

    /// Encrypts the first piece, one record of it, or one record of several pieces. Returns the
    /// number of bytes passed to the SSL object, and the number that it has accepted.
    fn write_first<'py>(
        &self,
        py: Python<'py>,
        first: &FirstPiece<'py>,
        open: bool,
    ) -> PyOutcome<'py, (usize, Option<usize>)> {
        let FirstPiece { ref data, start, remaining, is_last, .. } = *first;
        if !self.session.writes_directly(py) {
            // The arguments are those of asyncio's call.
            let piece = match data.cast::<PyBytes>() {
                Ok(bytes) if start > 0 => PyBytes::new(py, &bytes.as_bytes()[start..]).into_any(),
                _ => data.clone(),
            };
            return Ok((remaining, self.session.write(&piece, false)?));
        }
        if remaining >= RECORD_SIZE || is_last || !open {
            if open {
                let count = self.encrypt_directly(py, data, start..start + remaining.min(BURST))?;
                if count > 0 {
                    return Ok((remaining, Some(count)));
                }
            }
            let given = remaining.min(RECORD_SIZE);
            let part = if start == 0 && given == remaining {
                data.clone()
            } else {
                buffer::slice_view(data, start..start + given)?
            };
            return Ok((given, self.session.write(&part, true)?));
        }
        // Small pieces share a record, but not while the underlying transport has paused writing:
        // the buffer size would differ from asyncio's.
        let lease = BufferLease::new(py)?;
        let given = lease.with(0..RECORD_SIZE, |room| {
            self.backlog.with(py, |backlog| backlog.copy_into(py, room))
        })?;
        let count = match self.has_older_ciphertext(py) {
            true => 0,
            false => lease.with(0..given, |bytes| self.session.direct().encrypt(py, bytes))?,
        };
        if count > 0 {
            return Ok((given, Some(count)));
        }
        Ok((given, self.session.write(lease.view(0..given), true)?))
    }

    /// Encrypts `part` of `data`, which has at least one byte, by OpenSSL's own functions. Returns
    /// the number of bytes: 0 if the SSL object is to be asked.
    #[inline]
    fn encrypt_directly<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        part: impl std::slice::SliceIndex<[u8], Output = [u8]>,
    ) -> PyOutcome<'py, usize> {
        if self.has_older_ciphertext(py) {
            return Ok(0);
        }
        buffer::with_bytes(data, |bytes| self.session.direct().encrypt(py, &bytes[part]))
    }

    /// Whether ciphertext waits that is older than what OpenSSL's own functions make.
    #[inline]
    fn has_older_ciphertext(&self, py: Python<'_>) -> bool {
        self.pending_ciphertext.with(py, |pending_ciphertext| pending_ciphertext.len() > 0)
    }

    /// Whether the underlying transport is a [`StreamTransport`].
    fn is_over_stream_transport(&self, py: Python<'_>) -> bool {
        self.underlying
            .get_bound(py)
            .is_some_and(|underlying| is_exactly::<StreamTransport>(&underlying))
    }

    /// Whether the underlying transport discards what is written.
    fn is_underlying_lost(&self, py: Python<'_>) -> bool {
        let Some(underlying) = self.underlying.get_bound(py) else { return true };
        is_exactly::<StreamTransport>(&underlying)
            && underlying
                .cast::<StreamTransport>()
                .is_ok_and(|stream| section::enter_of(stream, || stream.base().is_lost(py)))
    }

    /// Passes the ciphertext to the underlying transport if that is `open`; keeps it otherwise.
    fn flush_ciphertext<'py>(&self, py: Python<'py>, open: bool) -> PyOutcome<'py, ()> {
        let ciphertext = self.session.direct().take(py);
        if !open {
            if !ciphertext.is_empty() {
                let piece = PyBytes::new(py, &ciphertext);
                self.pending_ciphertext.with(py, |pending| pending.push(&piece));
            }
            // A foreign transport gets it in one piece.
            if self.is_over_stream_transport(py)
                && self.session.outgoing_size(py).or_raise(py)? >= BURST
            {
                buffer::prepare_allocator();
                let piece = self.session.take_outgoing(py)?;
                self.pending_ciphertext
                    .with(py, |pending_ciphertext| pending_ciphertext.push(&piece));
            }
            return Ok(());
        }
        while let Some(piece) =
            self.pending_ciphertext.with(py, |pending_ciphertext| pending_ciphertext.pop(py))
        {
            if !self.is_underlying_lost(py) {
                self.send_to_underlying(piece.as_any())?;
            }
        }
        if !ciphertext.is_empty() {
            let sent = self.send_slice_to_underlying(py, &ciphertext);
            Direct::reuse(py, ciphertext);
            sent?;
        }
        if !self.session.may_have_outgoing(py) {
            return Ok(());
        }
        let data = self.session.take_outgoing(py)?;
        if data.as_bytes().is_empty() { Ok(()) } else { self.send_to_underlying(data.as_any()) }
    }

    /// asyncio's `_process_outgoing()`.
    pub fn process_outgoing<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let status = slf.get().status.get(py);
        if status.sending {
            slf.get().update(py, |status| status.send_again = true);
            return Ok(());
        }
        Self::send_exclusively(slf, || slf.get().flush_ciphertext(py, !status.writing_paused))
    }

    /// Pauses or resumes writing of the application after an attempt to send.
    #[inline]
    fn control_after_sending<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let paused = this.status.inspect(py, |status| status.writing_paused);
        if paused || this.backlog.with(py, |backlog| !backlog.is_empty()) {
            return Self::control_app_writing(slf);
        }
        Self::control_app_writing_when_empty(slf)
    }

    /// Called when the underlying transport pauses writing.
    pub fn pause_sending(&self, py: Python<'_>) {
        self.update(py, |status| status.writing_paused = true);
    }

    /// Called when the underlying transport resumes writing.
    pub fn resume_sending<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        slf.get().update(slf.py(), |status| status.writing_paused = false);
        Self::process_outgoing(slf)
    }

    /// Discards all data that is not sent.
    pub fn discard_outgoing<'py>(&self, py: Python<'py>) -> PyOutcome<'py, ()> {
        let dropped = (
            self.backlog.with(py, std::mem::take::<Backlog>),
            self.pending_ciphertext.with(py, std::mem::take::<PendingCiphertext>),
            self.session.direct().take(py),
        );
        drop(dropped);
        let outgoing = self.session.outgoing(py);
        call::call_method(&outgoing, intern!(py, "read"), []).map(drop)
    }
}
