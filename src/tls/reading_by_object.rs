//! Reads where `read()` of the SSL object is replaced: it is called as asyncio calls it.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PySlice};

use super::TlsProtocol;
use super::reading::Stopped;
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome};

/// The size, in bytes, that asyncio passes to the SSL object's `read()`.
const MAX_SIZE: usize = 256 * 1024;

/// Joins the chunks. A single one is returned unchanged, as in asyncio.
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
    /// Like `read_and_deliver()`, if `read()` of the SSL object is replaced: it is called as
    /// asyncio calls it.
    pub(super) fn read_by_object<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let most = MAX_SIZE.into_pyobject(py).or_raise(py)?;
        let mut chunks = Vec::new();
        let stopped = loop {
            match this.session.read_by_object(py, [most.as_any()]) {
                Ok(None) => break Stopped::Drained,
                Ok(Some(chunk)) => match chunk.is_truthy().or_raise(py)? {
                    true => chunks.push(chunk),
                    false => break Stopped::Closed,
                },
                Err(raised) => break Stopped::Failed(raised),
            }
        };
        if let Some(data) = joined(py, chunks).or_raise(py)? {
            if let Some(protocol) = this.app_protocol.get_bound(py) {
                Self::deliver_before(slf, &stopped, || {
                    call::call_method(&protocol, intern!(py, "data_received"), [&data]).map(drop)
                })?;
            }
        }
        match stopped {
            Stopped::Drained | Stopped::Full => Ok(()),
            Stopped::Closed => Self::peer_closed(slf),
            Stopped::Failed(raised) => Err(raised),
        }
    }

    /// Like `fill_protocol()`, if `read()` of the SSL object is replaced. The count that it
    /// returns is passed on unchecked: the memory is the protocol's.
    pub(super) fn fill_protocol_by_object<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, bool> {
        let py = slf.py();
        let this = slf.get();
        let Some(protocol) = this.app_protocol.get_bound(py) else { return Ok(false) };
        let hint = this.session.incoming_size(py).or_raise(py)?;
        let hint = hint.into_pyobject(py).or_raise(py)?;
        let target = call::call_method(&protocol, intern!(py, "get_buffer"), [hint.as_any()])?;
        let room = target.len().or_raise(py)?;
        let mut filled = 0;
        let stopped = loop {
            let wanted = (room - filled).into_pyobject(py).or_raise(py)?;
            let rest = match filled {
                0 => target.clone(),
                _ => target
                    .get_item(PySlice::new(py, filled as isize, isize::MAX, 1))
                    .or_raise(py)?,
            };
            let count = match this.session.read_by_object(py, [wanted.as_any(), &rest]) {
                Ok(None) => break Stopped::Drained,
                Ok(Some(count)) => count.extract::<isize>().or_raise(py)?,
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
        Self::buffer_filled(slf, &protocol, filled, stopped)
    }
}
