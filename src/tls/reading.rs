//! Decrypts received ciphertext and delivers the application data to the protocol.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use super::session::{RECORD_SIZE, Read};
use super::{AppState, Phase, TlsProtocol};
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::shared_buffer::{BufferLease, CAPACITY};
use crate::ffi::{buffer, call, openssl};
use crate::interop::imports;
use crate::streams::Feed;
use crate::transport::NativeProtocol;

/// The maximum amount of ciphertext fed to the BIO at a time, in bytes, so that it stays in the
/// processor's cache and the BIO, which never shrinks, stays small.
const MAX_FEED: usize = 64 * 1024;

/// Ciphertext of this size, in bytes, or more is decrypted directly into new bytes objects.
const LARGE_INPUT: usize = 32 * 1024;

/// Ciphertext that is not fed yet: the bytes from `next` to `end` of the buffer.
struct Input<'a, 'py> {
    lease: &'a BufferLease<'py>,
    next: usize,
    end: usize,
}

/// Why decrypting stopped.
pub(super) enum Stopped<'py> {
    /// No whole record is left.
    Drained,
    /// The buffer is full.
    Full,
    /// The peer has sent close_notify.
    Closed,
    /// The SSL object has raised.
    Failed(Raised<'py>),
}

impl TlsProtocol {
    /// Called with ciphertext in the first `length` bytes of a shared buffer.
    pub fn received_lease<'py>(
        slf: &Bound<'py, Self>,
        lease: &BufferLease<'py>,
        length: usize,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let status = slf.get().status.get(py);
        if status.phase == Phase::Wrapped && !status.app_reading_paused && !status.buffered {
            let mut input = Input { lease, next: 0, end: length };
            return Self::read_guarded(slf, Some(&mut input));
        }
        slf.get().session.feed_lease(py, lease, 0..length)?;
        Self::received_in_phase(slf)
    }

    /// Called with ciphertext in an object.
    pub fn received_object<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        slf.get().session.feed(data)?;
        Self::received_in_phase(slf)
    }

    /// The rest of asyncio's `buffer_updated()`, after it has fed the BIO.
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
                    this.session.feed_lease(py, input.lease, input.next..input.end)?;
                    input.next = input.end;
                }
                Self::read_by_object(slf)?;
            }
            if waits() {
                Self::do_write(slf)?;
            } else {
                Self::process_outgoing(slf)?;
            }
        } else if status.phase == Phase::Wrapped && waits() && !this.session.may_have_data(py) {
            // The data had to wait for a handshake, which may be complete now. OpenSSL accepts
            // application data in a handshake that a read continues, but not in that of a write.
            Self::do_write(slf)?;
        }
        // Less than a record is left, unless the application has paused reading.
        let status = this.status.get(py);
        if status.app_reading_paused
            || status.reading_paused
            || this.read_limits.inspect(py, |limits| limits.high <= 2 * RECORD_SIZE)
        {
            return Self::control_reading(slf);
        }
        Ok(())
    }

    /// Decrypts all received ciphertext and delivers it to the protocol in one piece, if it fits.
    fn read_and_deliver<'py>(
        slf: &Bound<'py, Self>,
        mut input: Option<&mut Input<'_, 'py>>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        loop {
            let mut plaintext = Self::buffer_for(py, input.as_deref())?;
            let mut filled = 0;
            let stopped = loop {
                match this.decrypt_directly(py, &mut input, &plaintext, &mut filled)? {
                    Some(openssl::Stopped::Drained) => break Stopped::Drained,
                    Some(openssl::Stopped::Full) => break Stopped::Full,
                    Some(openssl::Stopped::Other) => {
                        break Self::decide_by_object(slf, (&mut plaintext, &mut filled))?;
                    }
                    None => {}
                }
                match this.decrypt(py, &plaintext, &mut filled) {
                    Stopped::Drained => {}
                    other => break other,
                }
                match &mut input {
                    Some(input) if input.next < input.end => {
                        let end = input.next
                            + this.session.whole_records(
                                py,
                                input.lease,
                                input.next..input.end,
                                MAX_FEED,
                            )?;
                        this.session.feed_lease(py, input.lease, input.next..end)?;
                        input.next = end;
                    }
                    _ => break Stopped::Drained,
                }
            };
            Self::deliver_before(slf, &stopped, || Self::deliver(slf, plaintext, filled))?;
            match stopped {
                Stopped::Drained => return Ok(()),
                Stopped::Full => {}
                Stopped::Closed => return Self::peer_closed(slf),
                Stopped::Failed(raised) => return Err(raised),
            }
            // The application may have paused reading, closed, or set another protocol.
            let status = this.status.get(py);
            let reads = matches!(status.phase, Phase::Wrapped | Phase::Flushing);
            if !reads || status.app_reading_paused || status.buffered {
                if let Some(input) = &mut input {
                    this.session.feed_lease(py, input.lease, input.next..input.end)?;
                    input.next = input.end;
                }
                if reads && status.buffered && !status.app_reading_paused {
                    return Self::call_soon(slf, intern!(py, "_do_read"));
                }
                return Ok(());
            }
        }
    }

    /// A buffer for the plaintext of the input.
    #[inline]
    fn buffer_for<'py>(
        py: Python<'py>,
        input: Option<&Input<'_, 'py>>,
    ) -> PyOutcome<'py, BufferLease<'py>> {
        match input {
            // Plaintext is shorter than its ciphertext, and room for less than a record is not
            // used. For a smaller amount copying is cheaper than shrinking a large object.
            Some(Input { next, end, .. }) if end - next >= LARGE_INPUT => {
                BufferLease::of_new_bytes(py, (end - next + 2 * RECORD_SIZE).min(CAPACITY))
            }
            _ => BufferLease::new(py),
        }
    }

    /// Decrypts the input by OpenSSL's own functions, if that is possible now. Returns `None` if
    /// the SSL object is to be asked.
    #[inline]
    fn decrypt_directly<'py>(
        &self,
        py: Python<'py>,
        input: &mut Option<&mut Input<'_, 'py>>,
        plaintext: &BufferLease<'py>,
        filled: &mut usize,
    ) -> PyOutcome<'py, Option<openssl::Stopped>> {
        match input.as_deref_mut().filter(|input| input.next < input.end) {
            Some(Input { lease, next, end }) => {
                self.session.decrypt(py, lease, next, *end, (plaintext, filled))
            }
            None => Ok(None),
        }
    }

    /// Called when OpenSSL's own functions have not succeeded: lets the SSL object read before any
    /// other code runs, and then delivers what was decrypted until then.
    #[cold]
    fn decide_by_object<'py>(
        slf: &Bound<'py, Self>,
        (plaintext, filled): (&mut BufferLease<'py>, &mut usize),
    ) -> PyOutcome<'py, Stopped<'py>> {
        let py = slf.py();
        let rest = BufferLease::new(py)?;
        let mut length = 0;
        let stopped = slf.get().decrypt(py, &rest, &mut length);
        let earlier = std::mem::replace(plaintext, rest);
        let count = std::mem::replace(filled, length);
        Self::deliver_before(slf, &stopped, || Self::deliver(slf, earlier, count))?;
        Ok(stopped)
    }

    /// Calls `deliver`, which passes on what was read before reading `stopped`. If it has failed,
    /// nothing can be sent any more: what the application writes meanwhile waits, since else the
    /// connection would end with the exception of that write, which does not tell the cause.
    pub(super) fn deliver_before<'py>(
        slf: &Bound<'py, Self>,
        stopped: &Stopped<'py>,
        deliver: impl FnOnce() -> PyOutcome<'py, ()>,
    ) -> PyOutcome<'py, ()> {
        let (py, this) = (slf.py(), slf.get());
        let status = this.status.get(py);
        if !matches!(stopped, Stopped::Failed(_)) || status.sending {
            return deliver();
        }
        this.update(py, |status| status.sending = true);
        let delivered = deliver();
        this.update(py, |status| (status.sending, status.send_again) = (false, false));
        delivered
    }

    /// Decrypts whole records into `lease`, from `filled` on.
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        lease: &BufferLease<'py>,
        filled: &mut usize,
    ) -> Stopped<'py> {
        while self.session.has_unread(py) {
            if lease.capacity() - *filled < RECORD_SIZE {
                return Stopped::Full;
            }
            match self.session.read_lease(py, lease, *filled) {
                Ok(Read::Data(count)) => *filled += count,
                Ok(Read::Drained) => return Stopped::Drained,
                Ok(Read::Closed) => return Stopped::Closed,
                Err(raised) => return Stopped::Failed(raised),
            }
        }
        Stopped::Drained
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
        let feed = Feed::of(&protocol);
        if let Some(feed) = feed.as_ref().filter(|feed| !feed.accepts_message()) {
            if let Some(buffer) = feed.buffer()? {
                return Self::feed_stream(feed, &buffer, plaintext, length);
            }
        }
        let data = plaintext.into_bytes(length)?;
        if let Some(feed) = feed.filter(Feed::accepts_message) {
            return feed.add(data);
        }
        call::call_method(&protocol, intern!(py, "data_received"), [data.as_any()]).map(drop)
    }

    /// Like `deliver()`, for the protocol of asyncio's streams.
    fn feed_stream<'py>(
        feed: &Feed<'py>,
        buffer: &Bound<'py, PyByteArray>,
        plaintext: BufferLease<'py>,
        length: usize,
    ) -> PyOutcome<'py, ()> {
        plaintext.with(0..length, |bytes| buffer::append(buffer, bytes))??;
        drop(plaintext);
        feed.notify_reader()
    }

    /// Decrypts into the buffer of a BufferedProtocol: one buffer now, the rest in the next turn.
    fn read_into_protocol<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        while Self::fill_protocol(slf)? {
            let status = slf.get().status.get(py);
            if status.phase != Phase::Flushing || status.app_reading_paused {
                return Self::call_soon(slf, intern!(py, "_do_read"));
            }
            // The connection is closing: there may be no next turn.
        }
        Ok(())
    }

    /// Fills the protocol's buffer once; returns whether there may be more data.
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
        let hint = this.session.incoming_size(py).or_raise(py)?;
        let hint = hint.into_pyobject(py).or_raise(py)?;
        let target = call::call_method(&protocol, intern!(py, "get_buffer"), [hint.as_any()])?;
        let room = target.len().or_raise(py)?;
        let mut filled = 0;
        let stopped = loop {
            let read = if filled == 0 {
                this.session.read(room, &target)
            } else {
                buffer::slice_view(&target, filled..room)
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
        Self::buffer_filled(slf, &protocol, filled, stopped)
    }

    /// Tells the protocol that `filled` bytes of its buffer are filled, if there are any, and then
    /// acts on why that has stopped. Returns whether there may be more data.
    pub(super) fn buffer_filled<'py>(
        slf: &Bound<'py, Self>,
        protocol: &Bound<'py, PyAny>,
        filled: usize,
        stopped: Stopped<'py>,
    ) -> PyOutcome<'py, bool> {
        let py = slf.py();
        if filled > 0 {
            let filled = filled.into_pyobject(py).or_raise(py)?;
            let updated = intern!(py, "buffer_updated");
            Self::deliver_before(slf, &stopped, || {
                call::call_method(protocol, updated, [filled.as_any()]).map(drop)
            })?;
        }
        match stopped {
            Stopped::Drained => Ok(false),
            Stopped::Full => Ok(true),
            Stopped::Closed => Self::peer_closed(slf).map(|()| false),
            Stopped::Failed(raised) => Err(raised),
        }
    }

    /// Called when the peer has sent close_notify.
    pub(super) fn peer_closed<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        Self::call_eof_received(slf)?;
        Self::start_shutdown(slf)
    }

    /// Calls the application's `eof_received()`, once.
    pub fn call_eof_received<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if this.status.inspect(py, |status| status.app != AppState::Made) {
            return Ok(());
        }
        this.update(py, |status| status.app = AppState::Eof);
        let Some(protocol) = this.app_protocol.get_bound(py) else { return Ok(()) };
        let keep_open = call::call_method(&protocol, intern!(py, "eof_received"), [])
            .and_then(|value| value.is_truthy().or_raise(py));
        match keep_open {
            Ok(false) => Ok(()),
            Ok(true) => {
                let text =
                    intern!(py, "returning true from eof_received() has no effect when using ssl");
                let warned = imports::logger(py)
                    .and_then(|logger| logger.call_method1(intern!(py, "warning"), (text,)));
                warned.map(drop).or_raise(py)
            }
            Err(raised) if raised.stops_the_loop() => Err(raised),
            Err(raised) => Self::fatal_error(slf, &raised, "Error calling eof_received()"),
        }
    }

    /// `pause_reading()` of the transport.
    pub fn pause_app_reading(&self, py: Python<'_>) {
        self.update(py, |status| status.app_reading_paused = true);
    }

    /// `resume_reading()` of the transport: continues in the next turn.
    pub fn resume_app_reading<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if !this.status.inspect(py, |status| status.app_reading_paused) {
            return Ok(());
        }
        this.update(py, |status| status.app_reading_paused = false);
        Self::call_soon(slf, intern!(py, "_resume"))
    }

    /// Continues after the application has resumed reading.
    pub fn resume<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        match slf.get().phase(slf.py()) {
            Phase::Wrapped => Self::do_read(slf),
            Phase::Flushing => Self::do_flush(slf),
            Phase::Shutdown => Self::do_shutdown(slf),
            Phase::Unwrapped | Phase::Handshake => Ok(()),
        }
    }
}
