//! Application data on its way out.
//!
//! What is written becomes records at once, and goes to the transport below unless that has told us
//! to stop, as in asyncio: buffer sizes and the moments at which the application is paused are
//! asyncio's. Of a large write the transport below gets a burst at a time, so that the BIO
//! stays small.
//!
//! The SSL object and a transport that is not ours may run any code, which may write, close or
//! abort. Only one caller encrypts and sends at a time (`Status::busy`); what is written meanwhile
//! waits in the backlog, and the one who is at work goes on with it.

#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::backlog::{self, Backlog, First, Sealed};
use super::session::RECORD;
use super::{Phase, TlsProtocol, is_ordinary};
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::object::is_exactly;
use crate::ffi::objects::shared_buffer::BufferLease;
use crate::ffi::{buffer, call};
use crate::interop::imports;
use crate::scheduler::report::outcome;
use crate::transport::StreamTransport;

/// Writes to a closed connection that are forgiven before a warning.
const FORGIVEN_WRITES: u32 = 5;

/// Plaintext that is encrypted before it is sent: below 128 KiB, from where on glibc maps each
/// block anew in a young process.
const BURST: usize = 7 * RECORD;

/// Why encrypting stopped.
enum Progress {
    /// Nothing waits.
    Done,
    /// A burst is encrypted, and more waits.
    Burst,
    /// The SSL object takes nothing now.
    Blocked,
}

impl TlsProtocol {
    /// `write()` of the transport. `data` is bytes-like and not empty.
    pub fn write_application_data<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        if !Self::may_write(slf)? {
            return Ok(());
        }
        let this = slf.get();
        let status = this.status.get(slf.py());
        if status.phase != Phase::Wrapped {
            return backlog::put_off(&this.backlog, data);
        }
        Self::guarded(slf, || {
            if status.busy {
                return backlog::put_off(&this.backlog, data);
            }
            let direct = this.session.writes_directly(slf.py());
            let idle = this.backlog.with(slf.py(), |backlog| backlog.is_empty());
            if idle && (!direct || buffer::with_bytes(data, <[u8]>::len)? <= RECORD) {
                return Self::write_now(slf, data, direct);
            }
            backlog::put_off(&this.backlog, data)?;
            Self::do_write(slf)
        })
    }

    /// `writelines()` of the transport.
    pub fn write_pieces<'py>(
        slf: &Bound<'py, Self>,
        pieces: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        if !Self::may_write(slf)? {
            return Ok(());
        }
        for piece in outcome(py, pieces.try_iter())? {
            backlog::put_off(&slf.get().backlog, &outcome(py, piece)?)?;
        }
        if slf.get().phase(py) == Phase::Wrapped {
            return Self::guarded(slf, || Self::do_write(slf));
        }
        Ok(())
    }

    /// Ends the connection if `body` raises.
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

    /// Runs `body` as the only one who encrypts and sends, then what was wanted meanwhile.
    fn alone<'py>(
        slf: &Bound<'py, Self>,
        body: impl FnOnce() -> PyOutcome<'py, ()>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        this.update(py, |status| status.busy = true);
        let result = body();
        let again = this.status.inspect(py, |status| status.again);
        this.update(py, |status| (status.busy, status.again) = (false, false));
        result?;
        if !again {
            return Self::control_after_sending(slf);
        }
        match this.phase(py) {
            Phase::Flushing => Self::do_flush(slf),
            _ => Self::do_write(slf),
        }
    }

    /// Encrypts `data` while nothing waits, and sends it.
    fn write_now<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        direct: bool,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        Self::alone(slf, || {
            let written = this.session.write(data, direct);
            match &written {
                Ok(Some(count)) => {
                    let length = match data.cast_exact::<PyBytes>() {
                        Ok(bytes) => Some(bytes.as_bytes().len()),
                        Err(_) => data.len().ok(),
                    };
                    if length.is_some_and(|length| *count < length) {
                        backlog::put_back(&this.backlog, data, *count)?;
                    }
                }
                Ok(None) | Err(_) => backlog::put_back(&this.backlog, data, 0)?,
            }
            let open = !this.status.inspect(py, |status| status.writing_paused);
            match written {
                Ok(Some(0) | None) => this.hand_down(py, open),
                Ok(Some(_)) => {
                    let idle = || this.backlog.with(py, |backlog| backlog.is_empty());
                    if idle() {
                        this.hand_down(py, open)?;
                    }
                    // The rest, and what the application wrote meanwhile.
                    if idle() { Ok(()) } else { Self::write_backlog(slf, open) }
                }
                Err(raised) => Err(raised),
            }
        })
    }

    /// Encrypts what waits and sends it, unless the transport below wants nothing.
    pub fn do_write<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let status = slf.get().status.get(slf.py());
        if status.busy {
            slf.get().update(slf.py(), |status| status.again = true);
            return Ok(());
        }
        Self::alone(slf, || Self::write_backlog(slf, !status.writing_paused))
    }

    /// Encrypts what waits; if the transport below is `open`, gives it all to that, also if it asks
    /// us to stop meanwhile: asyncio gives all of it at once.
    fn write_backlog<'py>(slf: &Bound<'py, Self>, open: bool) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        loop {
            let progress = if matches!(this.phase(py), Phase::Wrapped | Phase::Flushing) {
                this.encrypt_burst(py, open)?
            } else {
                Progress::Done
            };
            // A transport that is not ours gets everything at once.
            if matches!(progress, Progress::Burst) && !this.is_over_ours(py) {
                continue;
            }
            this.hand_down(py, open)?;
            let idle = || this.backlog.with(py, |backlog| backlog.is_empty());
            match progress {
                Progress::Blocked => return Ok(()),
                Progress::Done if idle() || this.phase(py) != Phase::Wrapped => return Ok(()),
                Progress::Done | Progress::Burst => {}
            }
            if this.lower_is_lost(py) {
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
            // An overridden `write()` may say anything.
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

    /// Encrypts the first piece, a record of it, or a record of several pieces: how much was given
    /// to the SSL object, and how much it took.
    fn write_first<'py>(
        &self,
        py: Python<'py>,
        first: &First<'py>,
        open: bool,
    ) -> PyOutcome<'py, (usize, Option<usize>)> {
        let First { ref data, start, rest, is_last, .. } = *first;
        if !self.session.writes_directly(py) {
            // As asyncio calls it.
            let piece = match data.cast::<PyBytes>() {
                Ok(bytes) if start > 0 => PyBytes::new(py, &bytes.as_bytes()[start..]).into_any(),
                _ => data.clone(),
            };
            return Ok((rest, self.session.write(&piece, false)?));
        }
        if rest >= RECORD || is_last || !open {
            let given = rest.min(RECORD);
            let part = if start == 0 && given == rest {
                data.clone()
            } else {
                buffer::part(data, start..start + given)?
            };
            return Ok((given, self.session.write(&part, true)?));
        }
        // Small pieces share a record. While the transport below is paused they do not, as the
        // size of the buffer would differ from asyncio's.
        let window = BufferLease::new(py)?;
        let given = window
            .with(0..RECORD, |room| self.backlog.with(py, |backlog| backlog.copy_into(py, room)))?;
        Ok((given, self.session.write(window.lend(0..given), true)?))
    }

    /// Whether the transport below is the loop's own.
    fn is_over_ours(&self, py: Python<'_>) -> bool {
        self.lower.get_bound(py).is_some_and(|lower| is_exactly::<StreamTransport>(&lower))
    }

    /// Whether the transport below takes no more.
    fn lower_is_lost(&self, py: Python<'_>) -> bool {
        let Some(lower) = self.lower.get_bound(py) else { return true };
        is_exactly::<StreamTransport>(&lower)
            && lower
                .cast::<StreamTransport>()
                .is_ok_and(|stream| stream.as_super().get().is_lost(py))
    }

    /// Gives what is encrypted to the transport below if that is `open`; else keeps it.
    fn hand_down<'py>(&self, py: Python<'py>, open: bool) -> PyOutcome<'py, ()> {
        if !open {
            // A transport that is not ours gets it in one piece.
            if self.is_over_ours(py) && outcome(py, self.session.outgoing_size(py))? >= BURST {
                buffer::prepare_allocator();
                let piece = self.session.take_outgoing(py)?;
                self.sealed.with(py, |sealed| sealed.push(&piece));
            }
            return Ok(());
        }
        while let Some(piece) = self.sealed.with(py, |sealed| sealed.pop(py)) {
            if !self.lower_is_lost(py) {
                self.send_below(piece.as_any())?;
            }
        }
        let data = self.session.take_outgoing(py)?;
        if data.as_bytes().is_empty() { Ok(()) } else { self.send_below(data.as_any()) }
    }

    /// asyncio's `_process_outgoing()`.
    pub fn process_outgoing<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let status = slf.get().status.get(py);
        if status.busy {
            slf.get().update(py, |status| status.again = true);
            return Ok(());
        }
        Self::alone(slf, || slf.get().hand_down(py, !status.writing_paused))
    }

    /// Stops or resumes the application after something was sent, or was not.
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

    /// The transport below wants no more.
    pub fn pause_below(&self, py: Python<'_>) {
        self.update(py, |status| status.writing_paused = true);
    }

    /// The transport below wants more.
    pub fn resume_below<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        slf.get().update(slf.py(), |status| status.writing_paused = false);
        Self::process_outgoing(slf)
    }

    /// Drops what was not sent.
    pub fn discard_outgoing<'py>(&self, py: Python<'py>) -> PyOutcome<'py, ()> {
        let dropped = (
            self.backlog.with(py, std::mem::take::<Backlog>),
            self.sealed.with(py, std::mem::take::<Sealed>),
        );
        drop(dropped);
        let outgoing = self.session.outgoing(py);
        call::call_method(&outgoing, intern!(py, "read"), []).map(drop)
    }
}
