//! The addresses that a datagram transport has received from.
//!
//! A peer's address is formatted once and found again by its bytes; an answer to it finds the
//! bytes by the identity of the object.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::ffi::objects::cell::Traverse;
use crate::sys::address::SocketAddress;

/// Most peers remembered. One more, and all are forgotten: whoever has so many at a time would
/// find few of them again, whatever was forgotten first.
const CAPACITY: usize = 256;

/// A small cache, made with the first datagram. A box, as the collector may look at a transport
/// whose memory is still all zero (no valid `HashMap`).
#[derive(Default)]
pub struct AddressCache(Option<Box<CachedAddress>>);

#[derive(Default)]
struct CachedAddress {
    objects: HashMap<SocketAddress, Py<PyAny>>,
    latest: Option<Latest>,
}

/// The address that was given out last, most likely the one to answer to.
struct Latest {
    address: SocketAddress,
    /// Where its object lies, which is alive as long as it is among the objects.
    object: usize,
}

impl AddressCache {
    /// The object for an address.
    pub fn object<'py>(
        &mut self,
        py: Python<'py>,
        address: &SocketAddress,
    ) -> Option<Bound<'py, PyAny>> {
        let known = self.0.as_mut()?;
        let object = known.objects.get(address)?.bind(py).clone();
        known.note_latest(address, &object);
        Some(object)
    }

    /// The address that was given out last, if it was as this very object.
    pub fn address(&self, object: &Bound<'_, PyAny>) -> Option<SocketAddress> {
        let latest = self.0.as_ref()?.latest.as_ref()?;
        (latest.object == identity(object)).then(|| latest.address.clone())
    }

    /// Remembers a pair. Returns what is forgotten for it; the caller drops it.
    #[must_use = "drop it where no cell is lent"]
    pub fn remember(
        &mut self,
        address: SocketAddress,
        object: &Bound<'_, PyAny>,
    ) -> Vec<Py<PyAny>> {
        let known = self.0.get_or_insert_default();
        let mut forgotten = Vec::new();
        if known.objects.len() >= CAPACITY {
            known.latest = None;
            forgotten.extend(known.objects.drain().map(|(_, object)| object));
        }
        known.note_latest(&address, object);
        forgotten.extend(known.objects.insert(address, object.clone().unbind()));
        forgotten
    }
}

impl CachedAddress {
    fn note_latest(&mut self, address: &SocketAddress, object: &Bound<'_, PyAny>) {
        let object = identity(object);
        if self.latest.as_ref().is_none_or(|latest| latest.object != object) {
            self.latest = Some(Latest { address: address.clone(), object });
        }
    }
}

fn identity(object: &Bound<'_, PyAny>) -> usize {
    object.as_ptr() as usize
}

impl Traverse for AddressCache {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(known) = &self.0 else { return Ok(()) };
        known.objects.values().try_for_each(|object| visit.call(object))
    }
}
