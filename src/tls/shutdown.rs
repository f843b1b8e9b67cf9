//! How a TLS connection ends: flushed, with close_notify exchanged, at once, or by its peer.

#![forbid(unsafe_code)]

use pyo3::exceptions::{PyAttributeError, PyConnectionResetError, PyNotImplementedError};
use pyo3::intern;
use pyo3::prelude::*;

use super::{AppState, Phase, TlsProtocol, cancel_timer, is_ordinary, modules};
use crate::ffi::call;
use crate::ffi::exception::{PyOutcome, Raised};
use crate::scheduler::report::outcome;

impl TlsProtocol {
    /// `close()` of the transport, or the peer has closed its side.
    pub fn start_shutdown<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        match this.phase(py) {
            Phase::Flushing if this.waits_for_a_reader(py) => {
                // After the end of the stream the application does not read what is left.
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

    /// Whether the stream has ended and the application has paused reading before all was read.
    fn waits_for_a_reader(&self, py: Python<'_>) -> bool {
        self.status.inspect(py, |status| status.eof_received && status.app_reading_paused)
            && !self.shutdown_timer.is_some(py)
    }

    /// Starts the timer of the shutdown, once.
    fn limit_shutdown<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
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

    /// The time for the shutdown is over.
    ///
    /// Once close_notify is exchanged or the peer has sent its end of the stream, only a peer that
    /// takes nothing of what is left is given up: asyncio would wait for it for ever.
    pub fn check_shutdown_timeout<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if !matches!(this.phase(py), Phase::Flushing | Phase::Shutdown) {
            return Ok(());
        }
        if let Some(before) = this.left_at_shutdown.get(py) {
            let left = outcome(py, this.left_below(py))?;
            if left < before {
                this.left_at_shutdown.set(py, Some(left));
                drop(this.shutdown_timer.take(py));
                return Self::limit_shutdown(slf);
            }
        }
        let error = modules::timeout_error(py)
            .and_then(|class| class.call1((intern!(py, "SSL shutdown timed out"),)));
        let Some(lower) = this.lower.get_bound(py) else { return Ok(()) };
        let closed =
            error.and_then(|error| lower.call_method1(intern!(py, "_force_close"), (error,)));
        outcome(py, closed.map(drop))
    }

    /// Reads what is left, sends what is left, then says goodbye.
    pub fn do_flush<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if this.status.inspect(py, |status| status.busy) {
            // Called out of a write, which goes on here.
            this.update(py, |status| status.again = true);
            return Ok(());
        }
        Self::limit_shutdown(slf)?;
        Self::do_read(slf)?;
        // The application may have ended the connection, or this very step have been taken.
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

    /// Exchanges close_notify, unless the peer is gone already.
    pub fn do_shutdown<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        if !this.status.inspect(py, |status| status.eof_received) {
            let object = this.session.object(py);
            match call::call_method(&object, intern!(py, "unwrap"), []) {
                Ok(_) => {}
                Err(raised) if outcome(py, modules::asks_for_more(&raised))? => {
                    return Self::process_outgoing(slf);
                }
                Err(raised) if outcome(py, modules::is_ssl_error(&raised))? => {
                    cancel_timer(py, &this.shutdown_timer)?;
                    return Self::fatal_error(slf, &raised, "Fatal error on transport");
                }
                Err(raised) => return Err(raised),
            }
        }
        Self::process_outgoing(slf)?;
        Self::call_eof_received(slf)?;
        match outcome(py, this.left_below(py))? {
            0 => cancel_timer(py, &this.shutdown_timer)?,
            // The timer goes on: it may be more than the peer will ever take.
            left => this.left_at_shutdown.set(py, Some(left)),
        }
        let Some(lower) = this.lower.get_bound(py) else { return Ok(()) };
        let queued = lower
            .getattr(intern!(py, "close"))
            .and_then(|close| this.event_loop(py).call_method1(intern!(py, "call_soon"), (close,)));
        outcome(py, queued.map(drop))
    }

    /// Bytes that the transport below has not sent.
    fn left_below(&self, py: Python<'_>) -> PyResult<usize> {
        let Some(lower) = self.lower.get_bound(py) else { return Ok(0) };
        let below: usize = match lower.call_method0(intern!(py, "get_write_buffer_size")) {
            Ok(size) => size.extract()?,
            // A transport that is not ours, and has no buffer.
            Err(error)
                if error.is_instance_of::<PyAttributeError>(py)
                    || error.is_instance_of::<PyNotImplementedError>(py) =>
            {
                0
            }
            Err(error) => return Err(error),
        };
        Ok(below.saturating_add(self.write_buffer_size(py)?))
    }

    /// Ends the connection at once.
    pub fn abort<'py>(
        &self,
        py: Python<'py>,
        exception: Option<&Bound<'py, PyAny>>,
    ) -> PyOutcome<'py, ()> {
        self.set_phase(py, Phase::Unwrapped);
        self.force_close_below(py, exception)
    }

    /// The transport below has reached its end. Answers whether it shall stay open.
    pub fn lower_eof<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        slf.get().update(py, |status| status.eof_received = true);
        match Self::end_by_phase(slf) {
            Err(raised) if is_ordinary(&raised) => {
                slf.get().tell_below(py, intern!(py, "close"))?;
                Err(raised)
            }
            other => other,
        }
    }

    fn end_by_phase<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let this = slf.get();
        outcome(py, this.debug_log(slf, "%r received EOF", &[], None))?;
        match this.phase(py) {
            Phase::Handshake => {
                let error = PyConnectionResetError::new_err(());
                let raised = Raised::from(error.into_value(py).into_bound(py));
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

    /// The transport below is closed.
    pub fn lower_lost<'py>(
        slf: &Bound<'py, Self>,
        exception: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        this.discard_outgoing(py)?;
        this.update(py, |status| status.lost = status.lost.saturating_add(1));
        this.mark_transport_closed(py);
        let status = this.status.get(py);
        let told = matches!(status.app, AppState::Made | AppState::Eof);
        if status.phase != Phase::Handshake && told {
            this.update(py, |status| status.app = AppState::Lost);
            if let Some(protocol) = this.app_protocol.get_bound(py) {
                let queued = protocol.getattr(intern!(py, "connection_lost")).and_then(|lost| {
                    let arguments = (lost, exception);
                    this.event_loop(py).call_method1(intern!(py, "call_soon"), arguments)
                });
                outcome(py, queued)?;
            }
        }
        this.set_phase(py, Phase::Unwrapped);
        let released = (
            this.lower.take(py),
            this.app_transport.take(py),
            this.app_protocol.take(py),
            this.lent.take(py),
        );
        drop(released);
        let reason = Some(exception).filter(|exception| !exception.is_none());
        outcome(py, Self::wake_waiter(slf, reason))?;
        cancel_timer(py, &this.shutdown_timer)?;
        cancel_timer(py, &this.handshake_timer)
    }
}
