//! The end of a TLS connection: flushing and exchanging close_notify, aborting, or end of stream.

use pyo3::exceptions::{PyAttributeError, PyConnectionResetError, PyNotImplementedError};
use pyo3::intern;
use pyo3::prelude::*;

use super::{AppState, Phase, TlsProtocol, cancel_timer, is_ordinary, modules};
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};

impl TlsProtocol {
    /// Starts the shutdown: `close()` of the transport was called, or the peer has sent
    /// close_notify.
    pub fn start_shutdown<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        match this.phase(py) {
            Phase::Flushing if this.has_unread_at_eof(py) => {
                // After end of stream the application does not read the remaining data.
                this.mark_transport_closed(py);
                Self::do_flush(slf)
            }
            Phase::Flushing | Phase::Shutdown | Phase::Unwrapped => Ok(()),
            Phase::Handshake => {
                this.mark_transport_closed(py);
                this.abort(py, None)
            }
            Phase::Wrapped => {
                this.mark_transport_closed(py);
                this.set_phase(py, Phase::Flushing);
                Self::do_flush(slf)
            }
        }
    }

    /// Whether the stream has ended and the application has paused reading before reading all of
    /// it.
    fn has_unread_at_eof(&self, py: Python<'_>) -> bool {
        self.status.inspect(py, |status| status.eof_received && status.app_reading_paused)
            && !self.shutdown_timer.is_some(py)
    }

    /// Starts the timer of the shutdown, unless it is running.
    fn start_shutdown_timer<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if this.shutdown_timer.is_some(py) {
            return Ok(());
        }
        let check = intern!(py, "_check_shutdown_timeout");
        let timer = Self::call_later(slf, &this.shutdown_timeout, check)?;
        this.shutdown_timer.store(py, timer);
        Ok(())
    }

    /// Called when the shutdown's timeout expires.
    ///
    /// Once close_notify is exchanged or the stream has ended, the connection is closed only if the
    /// peer has received nothing of the remaining data meanwhile. asyncio would wait for such a
    /// peer forever.
    pub fn check_shutdown_timeout<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if !matches!(this.phase(py), Phase::Flushing | Phase::Shutdown) {
            return Ok(());
        }
        if let Some(before) = this.unsent_at_shutdown.get(py) {
            let left = this.unsent_bytes(py).or_raise(py)?;
            if left < before {
                this.unsent_at_shutdown.set(py, Some(left));
                drop(this.shutdown_timer.take(py));
                return Self::start_shutdown_timer(slf);
            }
        }
        let error = modules::timeout_error(py)
            .and_then(|class| class.call1((intern!(py, "SSL shutdown timed out"),)));
        let Some(underlying) = this.underlying.get_bound(py) else { return Ok(()) };
        let closed =
            error.and_then(|error| underlying.call_method1(intern!(py, "_force_close"), (error,)));
        closed.map(drop).or_raise(py)
    }

    /// Reads and sends the remaining data, then exchanges close_notify.
    pub fn do_flush<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if this.status.inspect(py, |status| status.sending) {
            // Called during a write, which continues here afterwards.
            this.update(py, |status| status.send_again = true);
            return Ok(());
        }
        Self::start_shutdown_timer(slf)?;
        Self::do_read(slf)?;
        // The application may have closed the connection, or a nested call have made this step.
        if this.phase(py) != Phase::Flushing {
            return Ok(());
        }
        if this.backlog.with(py, |backlog| !backlog.is_empty()) {
            Self::guarded(slf, || Self::do_write(slf))?;
            if this.phase(py) != Phase::Flushing {
                return Ok(());
            }
        }
        this.set_phase(py, Phase::Shutdown);
        Self::do_shutdown(slf)
    }

    /// Exchanges close_notify, unless the stream has ended already.
    pub fn do_shutdown<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if !this.status.inspect(py, |status| status.eof_received) {
            let object = this.session.object(py);
            match call::call_method(&object, intern!(py, "unwrap"), []) {
                Ok(_) => {}
                Err(raised) if modules::wants_more(&raised).or_raise(py)? => {
                    return Self::process_outgoing(slf);
                }
                Err(raised) if modules::is_ssl_error(&raised).or_raise(py)? => {
                    cancel_timer(py, &this.shutdown_timer)?;
                    return Self::fatal_error(slf, &raised, "Fatal error on transport");
                }
                Err(raised) => return Err(raised),
            }
        }
        Self::process_outgoing(slf)?;
        Self::call_eof_received(slf)?;
        match this.unsent_bytes(py).or_raise(py)? {
            0 => cancel_timer(py, &this.shutdown_timer)?,
            // The timer keeps running, since the peer may never receive the remaining data.
            left => this.unsent_at_shutdown.set(py, Some(left)),
        }
        let Some(underlying) = this.underlying.get_bound(py) else { return Ok(()) };
        let queued = underlying
            .getattr(intern!(py, "close"))
            .and_then(|close| this.event_loop(py).call_method1(intern!(py, "call_soon"), (close,)));
        queued.map(drop).or_raise(py)
    }

    /// The number of bytes that are not sent, including those of the underlying transport.
    fn unsent_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        let Some(underlying) = self.underlying.get_bound(py) else { return Ok(0) };
        let buffered: usize = match underlying.call_method0(intern!(py, "get_write_buffer_size")) {
            Ok(size) => size.extract()?,
            // A foreign transport without a buffer.
            Err(error)
                if error.is_instance_of::<PyAttributeError>(py)
                    || error.is_instance_of::<PyNotImplementedError>(py) =>
            {
                0
            }
            Err(error) => return Err(error),
        };
        Ok(buffered.saturating_add(self.write_buffer_size(py)?))
    }

    /// Closes the connection at once.
    pub fn abort<'py>(
        &self,
        py: Python<'py>,
        exception: Option<&Bound<'py, PyAny>>,
    ) -> PyOutcome<'py, ()> {
        self.set_phase(py, Phase::Unwrapped);
        self.force_close_underlying(py, exception)
    }

    /// Called at end of stream of the underlying transport. Returns whether it must stay open.
    pub fn underlying_eof_received<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        slf.get().update(py, |status| status.eof_received = true);
        match Self::eof_in_phase(slf) {
            Err(raised) if is_ordinary(&raised) => {
                slf.get().call_underlying(py, intern!(py, "close"))?;
                Err(raised)
            }
            other => other,
        }
    }

    fn eof_in_phase<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let this = slf.get();
        this.debug_log(slf, "%r received EOF", &[], None).or_raise(py)?;
        match this.phase(py) {
            Phase::Handshake => {
                let error = PyConnectionResetError::new_err(());
                let raised = Raised::of(py, error);
                Self::handshake_failed(slf, raised)?;
            }
            Phase::Wrapped => {
                this.set_phase(py, Phase::Flushing);
                if this.status.inspect(py, |status| status.app_reading_paused) {
                    return Ok(true);
                }
                Self::do_flush(slf)?;
            }
            Phase::Flushing => {
                Self::do_write(slf)?;
                if this.phase(py) == Phase::Flushing {
                    this.set_phase(py, Phase::Shutdown);
                    Self::do_shutdown(slf)?;
                }
            }
            Phase::Shutdown => Self::do_shutdown(slf)?,
            Phase::Unwrapped => {}
        }
        Ok(false)
    }

    /// Called when the underlying transport is closed.
    pub fn underlying_lost<'py>(
        slf: &Bound<'py, Self>,
        exception: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        this.discard_outgoing(py)?;
        this.update(py, |status| status.lost = status.lost.saturating_add(1));
        this.mark_transport_closed(py);
        let status = this.status.get(py);
        let was_connected = matches!(status.app, AppState::Made | AppState::Eof);
        if status.phase != Phase::Handshake && was_connected {
            this.update(py, |status| status.app = AppState::Lost);
            if let Some(protocol) = this.app_protocol.get_bound(py) {
                let queued = protocol.getattr(intern!(py, "connection_lost")).and_then(|lost| {
                    let arguments = (lost, exception);
                    this.event_loop(py).call_method1(intern!(py, "call_soon"), arguments)
                });
                queued.or_raise(py)?;
            }
        }
        this.set_phase(py, Phase::Unwrapped);
        let released = (
            this.underlying.take(py),
            this.app_transport.take(py),
            this.app_protocol.take(py),
            this.receive_buffer.take(py),
        );
        drop(released);
        let reason = Some(exception).filter(|exception| !exception.is_none());
        Self::wake_waiter(slf, reason).or_raise(py)?;
        cancel_timer(py, &this.shutdown_timer)?;
        cancel_timer(py, &this.handshake_timer)
    }
}
