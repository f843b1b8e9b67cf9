//! TLS for the connections that a server accepts, without a task or a future for each.

#![forbid(unsafe_code)]

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::{Parts, TlsProtocol};
use crate::ffi::exception::{PyOutcome, Raised};
use crate::scheduler::Scheduler;
use crate::scheduler::report::{outcome, report_raised};
use crate::transport::ConnectionLayer;

/// How a server's connections use TLS.
pub struct AcceptSettings {
    /// The `ssl.SSLContext`.
    pub context: Py<PyAny>,
    /// Seconds, or None for asyncio's default.
    pub handshake_timeout: Option<Py<PyAny>>,
    /// Seconds, or None for asyncio's default.
    pub shutdown_timeout: Option<Py<PyAny>>,
}

impl ConnectionLayer for AcceptSettings {
    fn wrap<'py>(
        &self,
        scheduler: &Bound<'py, Scheduler>,
        protocol: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = scheduler.py();
        let bound = |value: &Option<Py<PyAny>>| value.as_ref().map(|value| value.bind(py).clone());
        let protocol = TlsProtocol::create(Parts {
            scheduler: scheduler.clone(),
            protocol,
            context: self.context.bind(py).clone(),
            waiter: None,
            server_side: true,
            server_hostname: None,
            call_connection_made: true,
            handshake_timeout: bound(&self.handshake_timeout),
            shutdown_timeout: bound(&self.shutdown_timeout),
            accepting: true,
        })?;
        Ok(protocol.into_any())
    }

    fn traverse(&self, visit: &pyo3::gc::PyVisit<'_>) -> Result<(), pyo3::gc::PyTraverseError> {
        visit.call(&self.context)
    }
}

impl TlsProtocol {
    /// In the next turn, where asyncio's accepting task would see the failure.
    pub fn schedule_accept_failure<'py>(
        slf: &Bound<'py, Self>,
        exception: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if !this.debug(py) {
            // Nobody is told; the transport only must not complain of never being closed.
            this.mark_transport_closed(py);
            return Ok(());
        }
        let failed = slf.as_any().getattr(intern!(py, "_accept_failed"))?;
        let transport = this.app_transport.get_bound(py);
        let protocol = this.app_protocol.get_bound(py);
        let arguments = (failed, exception, protocol, transport);
        this.event_loop(py).call_method1(intern!(py, "call_soon"), arguments)?;
        Ok(())
    }

    /// What asyncio's accepting task does about a failed handshake, in debug mode.
    pub fn accept_failed<'py>(
        slf: &Bound<'py, Self>,
        raised: &Raised<'py>,
        protocol: Option<&Bound<'py, PyAny>>,
        transport: Option<&Bound<'py, PyAny>>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        if let Some(transport) = transport {
            outcome(py, transport.call_method0(intern!(py, "close")))?;
        }
        let message = "Error on transport creation for incoming connection";
        let message = PyString::new(py, message);
        let reported = report_raised(
            slf.get().event_loop(py).as_any(),
            raised,
            &[
                ("message", Some(message.as_any())),
                ("exception", Some(raised.value())),
                ("protocol", protocol),
                ("transport", transport),
            ],
        );
        outcome(py, reported)
    }
}
