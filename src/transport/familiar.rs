//! The addresses that a datagram transport has lately received from.
//!
//! A peer's address is formatted once and found again by its bytes; an answer to it finds the
//! bytes by the identity of the object.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::ffi::cell::Traverse;
use crate::sys::address::SocketAddress;

/// Peers remembered; a power of two.
const PLACES: usize = 16;

/// A small cache, filled from the first datagram on.
#[derive(Default)]
pub struct FamiliarAddresses(Vec<Option<(SocketAddress, Py<PyAny>)>>);

impl FamiliarAddresses {
    fn place(address: &SocketAddress) -> usize {
        // Ports of successive clients differ in their low bits: no need to mix.
        match address {
            SocketAddress::V4 { port, .. } | SocketAddress::V6 { port, .. } => {
                usize::from(port ^ (port >> 8)) % PLACES
            }
            other => {
                let hasher = BuildHasherDefault::<DefaultHasher>::default();
                hasher.hash_one(other) as usize % PLACES
            }
        }
    }

    /// The object for an address.
    pub fn object<'py>(
        &self,
        py: Python<'py>,
        address: &SocketAddress,
    ) -> Option<Bound<'py, PyAny>> {
        let (known, object) = self.0.get(Self::place(address))?.as_ref()?;
        (known == address).then(|| object.bind(py).clone())
    }

    /// The address that was given out as this very object.
    pub fn address(&self, object: &Bound<'_, PyAny>) -> Option<SocketAddress> {
        self.0.iter().flatten().find(|(_, known)| known.is(object)).map(|(known, _)| known.clone())
    }

    /// Remembers a pair. Returns what it replaces; the caller drops it.
    #[must_use = "drop it where no cell is lent"]
    pub fn remember(
        &mut self,
        address: SocketAddress,
        object: &Bound<'_, PyAny>,
    ) -> Option<Py<PyAny>> {
        if self.0.is_empty() {
            self.0.resize_with(PLACES, || None);
        }
        let place = Self::place(&address);
        let before = self.0.get_mut(place)?.replace((address, object.clone().unbind()));
        before.map(|(_, object)| object)
    }
}

impl Traverse for FamiliarAddresses {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.iter().flatten().try_for_each(|(_, object)| visit.call(object))
    }
}
