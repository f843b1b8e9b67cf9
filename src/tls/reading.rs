//! Application data on its way in.

#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PySlice};

use super::session::{RECORD, Read};
use super::{AppState, Phase, TlsProtocol};
use crate::ffi::exception::{PyOutcome, Raised};
use crate::ffi::objects::shared_buffer::{BufferLease, CAPACITY};
use crate::ffi::{buffer, call};
use crate::interop::imports;
use crate::scheduler::report::outcome;
use crate::transport::{Feed, NativeProtocol};

/// Ciphertext that is fed at a time: it stays in the processor's cache, and a BIO never shrinks.
const STEP: usize = 64 * 1024;

/// Ciphertext of this size is decrypted into new objects.
const LARGE: usize = 32 * 1024;

/// What asyncio asks an SSL object for.
const MAX_SIZE: usize = 256 * 1024;

/// Ciphertext that is to be fed.
struct Input<'a, 'py> {
    window: &'a BufferLease<'py>,
    next: usize,
    end: usize,
}

/// Why decrypting stopped.
enum Stopped<'py> {
    /// No whole record is left.
    Drained,
    /// The buffer is full.
    Full,
    /// The peer has closed its side.
    Closed,
    /// The SSL object raised.
    Failed(Raised<'py>),
}

/// The chunks as one object: the only one as it is, as in asyncio.
fn joined<'py>(
    py: Python<'py>,
    mut chunks: Vec<Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if chunks.len() < 2 {
        return Ok(chunks.pop());
    }
    PyBytes::new(py, b"").call_method1(intern!(py, "join"), (chunks,)).map(Some)
}

impl TlsProtocol {
    /// Ciphertext has come, in a window.
    pub fn received_lease<'py>(
        slf: &Bound<'py, Self>,
        window: &BufferLease<'py>,
        length: usize,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let status = slf.get().status.get(py);
        if status.phase == Phase::Wrapped && !status.app_reading_paused && !status.buffered {
            let mut input = Input { window, next: 0, end: length };
            return Self::read_guarded(slf, Some(&mut input));
        }
        slf.get().session.feed_lease(py, window, 0..length)?;
        Self::received_in_phase(slf)
    }

    /// Ciphertext has come, in an object.
    pub fn received_object<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        slf.get().session.feed(data)?;
        Self::received_in_phase(slf)
    }

    /// asyncio's `buffer_updated()` after it has fed the BIO.
    pub fn received_in_phase<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        match slf.get().phase(slf.py()) {
            Phase::Handshake => Self::do_handshake(slf),
            Phase::Wrapped => Self::do_read(slf),
            Phase::Flushing => Self::do_flush(slf),
            Phase::Shutdown => Self::do_shutdown(slf),
            Phase::Unwrapped => Ok(()),
        }
    }

    /// asyncio's `_do_read()`.
    pub fn do_read<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        if !matches!(slf.get().phase(slf.py()), Phase::Wrapped | Phase::Flushing) {
            return Ok(());
        }
        Self::read_guarded(slf, None)
    }

    fn read_guarded<'py>(
        slf: &Bound<'py, Self>,
        input: Option<&mut Input<'_, 'py>>,
    ) -> PyOutcome<'py, ()> {
        Self::guarded(slf, || Self::read_application_data(slf, input))
    }

    fn read_application_data<'py>(
        slf: &Bound<'py, Self>,
        input: Option<&mut Input<'_, 'py>>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let status = this.status.get(py);
        let waits = || this.backlog.with(py, |backlog| !backlog.is_empty());
        if !status.app_reading_paused {
            if status.buffered {
                Self::read_into_protocol(slf)?;
            } else if this.session.reads_directly(py) {
                Self::read_and_deliver(slf, input)?;
            } else {
                if let Some(input) = input {
                    this.session.feed_lease(py, input.window, input.next..input.end)?;
                    input.next = input.end;
                }
                Self::read_by_object(slf)?;
            }
            if waits() {
                Self::do_write(slf)?;
            } else {
                Self::process_outgoing(slf)?;
            }
        } else if status.phase == Phase::Wrapped && waits() {
            // A handshake holds the data back, and may have gone on.
            Self::do_write(slf)?;
        }
        // Less than a record is left unless the application has paused.
        let status = this.status.get(py);
        if status.app_reading_paused
            || status.reading_paused
            || this.read_limits.inspect(py, |limits| limits.high <= 2 * RECORD)
        {
            return Self::control_reading(slf);
        }
        Ok(())
    }

    /// Decrypts all that has come and gives it to a protocol in one piece, if it fits.
    fn read_and_deliver<'py>(
        slf: &Bound<'py, Self>,
        mut input: Option<&mut Input<'_, 'py>>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        loop {
            let plaintext = match &input {
                // Plaintext is shorter than its ciphertext, and room for less than a record is
                // not used. Less is copied for less than it takes to cut a large object.
                Some(Input { next, end, .. }) if end - next >= LARGE => {
                    BufferLease::of_new_bytes(py, (end - next + 2 * RECORD).min(CAPACITY))?
                }
                _ => BufferLease::new(py)?,
            };
            let mut filled = 0;
            let stopped = loop {
                match this.decrypt(py, &plaintext, &mut filled) {
                    Stopped::Drained => {}
                    other => break other,
                }
                match &mut input {
                    Some(input) if input.next < input.end => {
                        let end = input.next
                            + this.session.whole_records(
                                py,
                                input.window,
                                input.next..input.end,
                                STEP,
                            )?;
                        this.session.feed_lease(py, input.window, input.next..end)?;
                        input.next = end;
                    }
                    _ => break Stopped::Drained,
                }
            };
            Self::deliver(slf, plaintext, filled)?;
            match stopped {
                Stopped::Drained => return Ok(()),
                Stopped::Full => {}
                Stopped::Closed => return Self::peer_closed(slf),
                Stopped::Failed(raised) => return Err(raised),
            }
            // The application may have paused, closed, or become another protocol.
            let status = this.status.get(py);
            let reads = matches!(status.phase, Phase::Wrapped | Phase::Flushing);
            if !reads || status.app_reading_paused || status.buffered {
                if let Some(input) = &mut input {
                    this.session.feed_lease(py, input.window, input.next..input.end)?;
                    input.next = input.end;
                }
                if reads && status.buffered && !status.app_reading_paused {
                    return Self::call_soon(slf, intern!(py, "_do_read"));
                }
                return Ok(());
            }
        }
    }

    /// Decrypts whole records into `window`, from `filled` on.
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        window: &BufferLease<'py>,
        filled: &mut usize,
    ) -> Stopped<'py> {
        while self.session.has_unread(py) {
            let capacity = window.capacity();
            if capacity - *filled < RECORD {
                return Stopped::Full;
            }
            match self.session.read(capacity - *filled, window.lend(*filled..capacity)) {
                Ok(Read::Data(count)) => *filled += count,
                Ok(Read::Drained) => return Stopped::Drained,
                Ok(Read::Closed) => return Stopped::Closed,
                Err(raised) => return Stopped::Failed(raised),
            }
        }
        Stopped::Drained
    }

    /// As [`Self::read_and_deliver`], if `read()` of the SSL object was replaced: it is called as
    /// asyncio calls it.
    fn read_by_object<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let most = outcome(py, MAX_SIZE.into_pyobject(py).map_err(PyErr::from))?;
        let mut chunks = Vec::new();
        let stopped = loop {
            match this.session.read_by_object(py, [most.as_any()]) {
                Ok(None) => break Stopped::Drained,
                Ok(Some(chunk)) => match outcome(py, chunk.is_truthy())? {
                    true => chunks.push(chunk),
                    false => break Stopped::Closed,
                },
                Err(raised) => break Stopped::Failed(raised),
            }
        };
        if let Some(data) = outcome(py, joined(py, chunks))?
            && let Some(protocol) = this.app_protocol.get_bound(py)
        {
            call::call_method(&protocol, intern!(py, "data_received"), [&data])?;
        }
        match stopped {
            Stopped::Drained | Stopped::Full => Ok(()),
            Stopped::Closed => Self::peer_closed(slf),
            Stopped::Failed(raised) => Err(raised),
        }
    }

    fn deliver<'py>(
        slf: &Bound<'py, Self>,
        plaintext: BufferLease<'py>,
        length: usize,
    ) -> PyOutcome<'py, ()> {
        if length == 0 {
            return Ok(());
        }
        let py = slf.py();
        let Some(protocol) = slf.get().app_protocol.get_bound(py) else { return Ok(()) };
        if let Ok(protocol) = protocol.cast::<NativeProtocol>() {
            return NativeProtocol::received(protocol, &plaintext, length);
        }
        if let Some(feed) = Feed::of(&protocol) {
            return Self::feed_stream(feed, plaintext, length);
        }
        let data = plaintext.into_bytes(length)?;
        call::call_method(&protocol, intern!(py, "data_received"), [data.as_any()]).map(drop)
    }

    /// As `deliver()`, for the protocol of asyncio's streams.
    fn feed_stream<'py>(
        feed: Feed<'py>,
        plaintext: BufferLease<'py>,
        length: usize,
    ) -> PyOutcome<'py, ()> {
        let py = feed.buffer.py();
        plaintext.with(0..length, |bytes| buffer::append(&feed.buffer, bytes))??;
        drop(plaintext);
        outcome(py, feed.notify_reader())
    }

    /// Decrypts into the buffer of a BufferedProtocol: one buffer, and the rest in the next turn.
    fn read_into_protocol<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        while Self::fill_protocol(slf)? {
            let status = slf.get().status.get(py);
            if status.phase != Phase::Flushing || status.app_reading_paused {
                return Self::call_soon(slf, intern!(py, "_do_read"));
            }
            // The connection is about to end: there may be no next turn.
        }
        Ok(())
    }

    /// Fills the protocol's buffer once; answers whether more may be there.
    fn fill_protocol<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let this = slf.get();
        if !this.session.reads_directly(py) {
            return Self::fill_protocol_by_object(slf);
        }
        if !this.session.has_unread(py) {
            return Ok(false);
        }
        let Some(protocol) = this.app_protocol.get_bound(py) else { return Ok(false) };
        let hint = outcome(py, this.session.incoming_size(py))?;
        let hint = outcome(py, hint.into_pyobject(py).map_err(PyErr::from))?;
        let target = call::call_method(&protocol, intern!(py, "get_buffer"), [hint.as_any()])?;
        let room = outcome(py, target.len())?;
        let mut filled = 0;
        let stopped = loop {
            let read = if filled == 0 {
                this.session.read(room, &target)
            } else {
                buffer::part(&target, filled..room)
                    .and_then(|rest| this.session.read(room - filled, &rest))
            };
            match read {
                Ok(Read::Data(count)) => filled += count,
                Ok(Read::Drained) => break Stopped::Drained,
                Ok(Read::Closed) => break Stopped::Closed,
                Err(raised) => break Stopped::Failed(raised),
            }
            if filled >= room {
                break Stopped::Full;
            }
            if !this.session.has_unread(py) {
                break Stopped::Drained;
            }
        };
        drop(target);
        if filled > 0 {
            let filled = outcome(py, filled.into_pyobject(py).map_err(PyErr::from))?;
            call::call_method(&protocol, intern!(py, "buffer_updated"), [filled.as_any()])?;
        }
        match stopped {
            Stopped::Drained => Ok(false),
            Stopped::Full => Ok(true),
            Stopped::Closed => Self::peer_closed(slf).map(|()| false),
            Stopped::Failed(raised) => Err(raised),
        }
    }

    /// As [`Self::fill_protocol`], if `read()` of the SSL object was replaced. What that says is
    /// handed on as it is: the memory is the protocol's.
    fn fill_protocol_by_object<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let this = slf.get();
        let Some(protocol) = this.app_protocol.get_bound(py) else { return Ok(false) };
        let hint = outcome(py, this.session.incoming_size(py))?;
        let hint = outcome(py, hint.into_pyobject(py).map_err(PyErr::from))?;
        let target = call::call_method(&protocol, intern!(py, "get_buffer"), [hint.as_any()])?;
        let room = outcome(py, target.len())?;
        let mut filled = 0;
        let stopped = loop {
            let wanted = outcome(py, (room - filled).into_pyobject(py).map_err(PyErr::from))?;
            let rest = match filled {
                0 => target.clone(),
                _ => {
                    outcome(py, target.get_item(PySlice::new(py, filled as isize, isize::MAX, 1)))?
                }
            };
            let count = match this.session.read_by_object(py, [wanted.as_any(), &rest]) {
                Ok(None) => break Stopped::Drained,
                Ok(Some(count)) => outcome(py, count.extract::<isize>())?,
                Err(raised) => break Stopped::Failed(raised),
            };
            match usize::try_from(count) {
                Ok(0) => break Stopped::Closed,
                Ok(count) => filled = filled.saturating_add(count),
                Err(_) => break Stopped::Drained,
            }
            if filled >= room {
                break Stopped::Full;
            }
        };
        drop(target);
        if filled > 0 {
            let filled = outcome(py, filled.into_pyobject(py).map_err(PyErr::from))?;
            call::call_method(&protocol, intern!(py, "buffer_updated"), [filled.as_any()])?;
        }
        match stopped {
            Stopped::Drained => Ok(false),
            Stopped::Full => Ok(true),
            Stopped::Closed => Self::peer_closed(slf).map(|()| false),
            Stopped::Failed(raised) => Err(raised),
        }
    }

    /// The peer has sent its close_notify.
    fn peer_closed<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        Self::call_eof_received(slf)?;
        Self::start_shutdown(slf)
    }

    /// Tells the application, once, that nothing more will come.
    pub fn call_eof_received<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if this.status.inspect(py, |status| status.app != AppState::Made) {
            return Ok(());
        }
        this.update(py, |status| status.app = AppState::Eof);
        let Some(protocol) = this.app_protocol.get_bound(py) else { return Ok(()) };
        let told = call::call_method(&protocol, intern!(py, "eof_received"), [])
            .and_then(|keep_open| outcome(py, keep_open.is_truthy()));
        match told {
            Ok(false) => Ok(()),
            Ok(true) => {
                let text =
                    intern!(py, "returning true from eof_received() has no effect when using ssl");
                let warned = imports::logger(py)
                    .and_then(|logger| logger.call_method1(intern!(py, "warning"), (text,)));
                outcome(py, warned.map(drop))
            }
            Err(raised) if raised.stops_the_loop() => Err(raised),
            Err(raised) => Self::fatal_error(slf, &raised, "Error calling eof_received()"),
        }
    }

    /// `pause_reading()` of the transport.
    pub fn pause_app_reading(&self, py: Python<'_>) {
        self.update(py, |status| status.app_reading_paused = true);
    }

    /// `resume_reading()` of the transport: goes on in the next turn.
    pub fn resume_app_reading<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if !this.status.inspect(py, |status| status.app_reading_paused) {
            return Ok(());
        }
        this.update(py, |status| status.app_reading_paused = false);
        Self::call_soon(slf, intern!(py, "_resume"))
    }

    /// What was put off while the application did not read.
    pub fn resume<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        match slf.get().phase(slf.py()) {
            Phase::Wrapped => Self::do_read(slf),
            Phase::Flushing => Self::do_flush(slf),
            Phase::Shutdown => Self::do_shutdown(slf),
            Phase::Unwrapped | Phase::Handshake => Ok(()),
        }
    }
}
