//! The handshake and its timeout, from `connection_made()` of the underlying transport to that of
//! the application.

use pyo3::exceptions::PyConnectionAbortedError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyFloat;

use super::{AppState, Phase, TlsProtocol, cancel_timer, is_ordinary, modules};
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::metrics::TransportClass;
use crate::streams;

impl TlsProtocol {
    /// Called when the underlying transport is connected: starts the handshake.
    pub fn underlying_connected<'py>(
        slf: &Bound<'py, Self>,
        underlying: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        this.underlying.store(py, Some(underlying.clone()));
        let open = this.scheduler.get().metrics().opened(TransportClass::Tls);
        drop(this.open.replace(py, Some(open)));
        // `start_tls()` may have written data to the BIO that was received before.
        if this.session.incoming_size(py).or_raise(py)? > 0 {
            this.session.stop_counting(py);
        }
        this.debug_log(slf, "%r starts SSL handshake", &[], None).or_raise(py)?;
        let start = if this.debug(py) { Some(this.loop_time(py).or_raise(py)?) } else { None };
        this.handshake_start.set(py, start);
        this.set_phase(py, Phase::Handshake);
        let check = intern!(py, "_check_handshake_timeout");
        let timer = Self::call_later(slf, &this.handshake_timeout, check)?;
        this.handshake_timer.store(py, timer);
        Self::do_handshake(slf)
    }

    fn loop_time(&self, py: Python<'_>) -> PyResult<f64> {
        self.event_loop(py).call_method0(intern!(py, "time"))?.extract()
    }

    /// Called when the handshake's timeout expires.
    pub fn check_handshake_timeout<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        if slf.get().phase(py) != Phase::Handshake {
            return Ok(());
        }
        let seconds = slf.get().handshake_timeout.bind(py).str().or_raise(py)?;
        let error = PyConnectionAbortedError::new_err(format!(
            "SSL handshake is taking longer than {seconds} seconds: aborting the connection"
        ));
        let raised = Raised::of(py, error);
        Self::fatal_error(slf, &raised, "Fatal error on transport")
    }

    /// One step of the handshake.
    pub fn do_handshake<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let object = slf.get().session.object(py);
        match call::call_method(&object, intern!(py, "do_handshake"), []) {
            Ok(_) => Self::handshake_complete(slf),
            Err(raised) if modules::wants_more(&raised).or_raise(py)? => {
                Self::process_outgoing(slf)
            }
            Err(raised) if modules::is_ssl_error(&raised).or_raise(py)? => {
                Self::handshake_failed(slf, raised)
            }
            Err(raised) => Err(raised),
        }
    }

    fn handshake_complete<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        cancel_timer(py, &this.handshake_timer)?;
        this.set_phase(py, Phase::Wrapped);
        this.session.forget_count(py).or_raise(py)?;
        this.session.open_directly(py);
        let object = this.session.object(py);
        // An exception fails the handshake: Python may be unable to decode the certificate, or an
        // overridden method may reject it.
        let certificate = match call::call_method(&object, intern!(py, "getpeercert"), []) {
            Ok(certificate) => certificate,
            Err(raised) => return Self::handshake_failed(slf, raised),
        };
        let server_side = this.server_side;
        tracing::debug!(target: "ferroloop::tls", server_side, "a handshake is complete");
        if let Some(start) = this.handshake_start.get(py) {
            let took = (this.loop_time(py).or_raise(py)? - start) * 1e3;
            let took = PyFloat::new(py, took);
            let format = "%r: SSL handshake took %.1f ms";
            this.debug_log(slf, format, &[took.as_any()], None).or_raise(py)?;
        }
        let cipher = call::call_method(&object, intern!(py, "cipher"), [])?;
        let compression = call::call_method(&object, intern!(py, "compression"), [])?;
        let known = [
            (intern!(py, "peercert"), certificate),
            (intern!(py, "cipher"), cipher),
            (intern!(py, "compression"), compression),
            (intern!(py, "ssl_object"), object),
        ];
        let extra = this.extra_dict(py).or_raise(py)?;
        for (name, value) in known {
            extra.set_item(name, value).or_raise(py)?;
        }
        if this.status.inspect(py, |status| status.app == AppState::Init) {
            this.update(py, |status| status.app = AppState::Made);
            let protocol = this.app_protocol.get_bound(py);
            let transport = this.app_transport.get_bound(py);
            if let (Some(protocol), Some(transport)) = (protocol, transport) {
                streams::connection_made(&protocol, transport.as_any())?;
            }
        }
        Self::wake_waiter(slf, None).or_raise(py)?;
        Self::do_read(slf)?;
        // Even if the protocol has paused reading, the peer needs the end of the handshake and the
        // data written before.
        if this.status.inspect(py, |status| status.app_reading_paused)
            && this.phase(py) == Phase::Wrapped
        {
            return Self::guarded(slf, || Self::do_write(slf));
        }
        Ok(())
    }

    /// Called when the handshake has failed: closes the connection and fails the waiter.
    pub fn handshake_failed<'py>(
        slf: &Bound<'py, Self>,
        raised: Raised<'py>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        cancel_timer(py, &this.handshake_timer)?;
        if !is_ordinary(&raised) {
            return Err(raised);
        }
        this.set_phase(py, Phase::Unwrapped);
        let (server_side, error) = (this.server_side, raised.value());
        tracing::debug!(target: "ferroloop::tls", server_side, %error, "a handshake failed");
        let certificate_error = modules::certificate_error(py).or_raise(py)?;
        let message = if raised.value().is_instance(certificate_error).or_raise(py)? {
            "SSL handshake failed on verifying the certificate"
        } else {
            "SSL handshake failed"
        };
        Self::fatal_error(slf, &raised, message)?;
        Self::wake_waiter(slf, Some(raised.value().as_any())).or_raise(py)
    }

    /// Finishes the future of the task that waits for the handshake, once.
    pub fn wake_waiter<'py>(
        slf: &Bound<'py, Self>,
        exception: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some(waiter) = this.waiter.take(py) else { return Ok(()) };
        let waiter = waiter.bind(py);
        if waiter.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
            return Ok(());
        }
        match exception {
            Some(exception) => waiter.call_method1(intern!(py, "set_exception"), (exception,)),
            None => waiter.call_method1(intern!(py, "set_result"), (py.None(),)),
        }
        .map(drop)
    }
}
