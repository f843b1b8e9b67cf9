//! The cache of the addresses from which a datagram transport has received.
//!
//! A peer's address is formatted once and then looked up by its bytes. A reply to the peer looks up
//! the bytes by the identity of the address object.

use std::collections::HashMap;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::ffi::objects::cell::Traverse;
use crate::sys::address::SocketAddress;

/// The capacity. When it is exceeded the cache is cleared: with more peers than that, no eviction
/// policy would hit often.
const CAPACITY: usize = 256;

/// A small cache, created with the first datagram. It is boxed since the garbage collector may
/// visit a transport whose memory is still zeroed, which is no valid `HashMap`.
#[derive(Default)]
pub struct AddressCache(Option<Box<CacheContents>>);

#[derive(Default)]
struct CacheContents {
    objects: HashMap<SocketAddress, Py<PyAny>>,
    last: Option<LastAddress>,
}

/// The last address that was looked up or inserted: most likely the next reply goes to it.
struct LastAddress {
    address: SocketAddress,
    /// The address in memory of its object, which is alive since the cache owns it.
    object: usize,
}

impl AddressCache {
    /// The cached object for an address.
    pub fn object<'py>(
        &mut self,
        py: Python<'py>,
        address: &SocketAddress,
    ) -> Option<Bound<'py, PyAny>> {
        let contents = self.0.as_mut()?;
        let object = contents.objects.get(address)?.bind(py).clone();
        contents.set_last(address, &object);
        Some(object)
    }

    /// The last address, if `object` is its object.
    pub fn address(&self, object: &Bound<'_, PyAny>) -> Option<SocketAddress> {
        let last = self.0.as_ref()?.last.as_ref()?;
        (last.object == identity(object)).then(|| last.address.clone())
    }

    /// Caches an address. Returns the evicted objects, for the caller to drop.
    #[must_use = "drop it where no cell is borrowed"]
    pub fn insert(&mut self, address: SocketAddress, object: &Bound<'_, PyAny>) -> Vec<Py<PyAny>> {
        let contents = self.0.get_or_insert_default();
        let mut evicted = Vec::new();
        if contents.objects.len() >= CAPACITY {
            contents.last = None;
            evicted.extend(contents.objects.drain().map(|(_, object)| object));
        }
        contents.set_last(&address, object);
        evicted.extend(contents.objects.insert(address, object.clone().unbind()));
        evicted
    }
}

impl CacheContents {
    fn set_last(&mut self, address: &SocketAddress, object: &Bound<'_, PyAny>) {
        let object = identity(object);
        if self.last.as_ref().is_none_or(|last| last.object != object) {
            self.last = Some(LastAddress { address: address.clone(), object });
        }
    }
}

fn identity(object: &Bound<'_, PyAny>) -> usize {
    object.as_ptr() as usize
}

impl Traverse for AddressCache {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(contents) = &self.0 else { return Ok(()) };
        contents.objects.values().try_for_each(|object| visit.call(object))
    }
}

#[cfg(test)]
mod tests {
    use pyo3::types::PyString;

    use super::*;

    fn address(port: u16) -> SocketAddress {
        SocketAddress::V4 { ip: [127, 0, 0, 1], port }
    }

    #[test]
    fn an_address_keeps_its_object_until_the_cache_is_full() {
        Python::initialize();
        Python::attach(|py| {
            let mut cache = AddressCache::default();
            assert!(cache.object(py, &address(0)).is_none());
            let objects: Vec<_> =
                (0..CAPACITY).map(|port| PyString::new(py, &port.to_string()).into_any()).collect();
            for (port, object) in (0..).zip(&objects) {
                assert!(cache.insert(address(port), object).is_empty());
                assert_eq!(cache.address(object), Some(address(port)));
            }
            let found = cache.object(py, &address(7)).expect("it is remembered");
            assert!(found.is(&objects[7]));
            // Only the address that was handed out last is found by its object.
            assert_eq!(cache.address(&objects[7]), Some(address(7)));
            assert_eq!(cache.address(&objects[8]), None);

            let one_more = PyString::new(py, "one more").into_any();
            assert_eq!(cache.insert(address(9999), &one_more).len(), CAPACITY);
            assert!(cache.object(py, &address(7)).is_none());
            assert!(cache.object(py, &address(9999)).is_some_and(|found| found.is(&one_more)));
        });
    }
}
