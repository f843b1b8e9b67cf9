//! A registry of live objects that does not keep them alive.
//!
//! A weak reference per task costs more than the rest of its life. Here each object contains a
//! [`RegistryEntry`] which, dropped with the object, removes it from the registry.

use std::ptr::NonNull;

use pyo3::PyClass;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};

const UNREGISTERED: u32 = u32::MAX;

/// Pointers to the registered objects, in no particular order.
pub struct WeakRegistry(AttachedRefCell<Vec<Registered>>);

/// A registered object, and the address of its index.
#[derive(Clone, Copy)]
struct Registered {
    object: NonNull<ffi::PyObject>,
    index: NonNull<AttachedCell<u32>>,
}

// SAFETY: the pointers are only dereferenced with the GIL held, while the object lives.
unsafe impl Send for Registered {}

/// Part of an object that can be registered in a [`WeakRegistry`]; dropping it unregisters the
/// object.
pub struct RegistryEntry {
    index: AttachedCell<u32>,
    registry: &'static WeakRegistry,
}

impl RegistryEntry {
    /// An entry that is not registered yet.
    pub const fn new(registry: &'static WeakRegistry) -> Self {
        Self { index: AttachedCell::new(UNREGISTERED), registry }
    }

    /// Registers `owner`, which must contain this entry.
    ///
    /// # Panics
    /// If this entry is not stored inside `owner`.
    #[inline(always)]
    pub fn register<T: PyClass>(&self, owner: &Bound<'_, T>) {
        let py = owner.py();
        let start = owner.as_ptr() as usize;
        let here = std::ptr::from_ref(self) as usize;
        // SAFETY: only the type's size is read.
        let size = unsafe { (*ffi::Py_TYPE(owner.as_ptr())).tp_basicsize }.unsigned_abs();
        assert!((start..start + size).contains(&here), "a registry entry registers its own object");
        if self.index.get(py) != UNREGISTERED {
            return;
        }
        let entry = Registered {
            object: NonNull::new(owner.as_ptr()).expect("a bound object is not null"),
            index: NonNull::from(&self.index),
        };
        self.registry.0.with(py, |entries| {
            self.index.set(py, u32::try_from(entries.len()).unwrap_or(UNREGISTERED - 1));
            entries.push(entry);
        });
    }

    /// Whether the object is registered.
    pub fn is_registered(&self, py: Python<'_>) -> bool {
        self.index.get(py) != UNREGISTERED
    }

    /// Unregisters the object, if it is registered.
    #[inline(always)]
    pub fn unregister(&self, py: Python<'_>) {
        let index = self.index.get(py);
        if index == UNREGISTERED {
            return;
        }
        self.index.set(py, UNREGISTERED);
        self.registry.0.with(py, |entries| {
            entries.swap_remove(index as usize);
            if let Some(moved) = entries.get(index as usize) {
                // SAFETY: every entry is live, since dropping it unregisters it.
                unsafe { moved.index.as_ref() }.set(py, index);
            }
        });
    }
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        // SAFETY: part of a Python object, which is dropped attached. Unregistering drops no
        // objects.
        self.unregister(unsafe { Python::assume_attached() });
    }
}

impl WeakRegistry {
    /// An empty registry.
    pub const fn new() -> Self {
        Self(AttachedRefCell::new(Vec::new()))
    }

    /// Unregisters all objects.
    #[cfg(Py_3_14)]
    pub fn clear(&self, py: Python<'_>) {
        self.0.with(py, |entries| {
            for entry in entries.drain(..) {
                // SAFETY: every entry is live, since dropping it unregisters it.
                unsafe { entry.index.as_ref() }.set(py, UNREGISTERED);
            }
        });
    }

    /// New references to the objects that are not being deallocated right now.
    pub fn snapshot<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>> {
        self.0.with(py, |entries| {
            entries
                .iter()
                .filter_map(|entry| {
                    let object = entry.object.as_ptr();
                    // SAFETY: entries are live; an object whose reference count is zero is being
                    // deallocated and must not be resurrected. An incref runs no Python code.
                    unsafe {
                        (ffi::Py_REFCNT(object) > 0).then(|| Bound::from_borrowed_ptr(py, object))
                    }
                })
                .collect()
        })
    }
}

impl Default for WeakRegistry {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static REGISTRY: WeakRegistry = WeakRegistry::new();

    #[pyclass(frozen)]
    struct Member(RegistryEntry);

    fn member(py: Python<'_>) -> Bound<'_, Member> {
        Bound::new(py, Member(RegistryEntry::new(&REGISTRY))).expect("memory for an object")
    }

    #[test]
    fn objects_are_listed_from_registration_to_death() {
        Python::initialize();
        Python::attach(|py| {
            let members = [member(py), member(py), member(py)];
            for member in &members {
                member.get().0.register(member);
                member.get().0.register(member); // a second time changes nothing
                assert!(member.get().0.is_registered(py));
            }
            let listed = |member: &Bound<'_, Member>| {
                REGISTRY.snapshot(py).iter().filter(|found| found.is(member)).count()
            };
            assert!(members.iter().all(|member| listed(member) == 1));

            // The last entry takes the index of the first, and must still find itself.
            members[0].get().0.unregister(py);
            members[0].get().0.unregister(py);
            assert_eq!(members.each_ref().map(listed), [0, 1, 1]);
            members[2].get().0.unregister(py);
            assert_eq!(members.each_ref().map(listed), [0, 1, 0]);

            let count = REGISTRY.snapshot(py).len();
            drop(members);
            assert_eq!(REGISTRY.snapshot(py).len(), count - 1);
        });
    }

    #[test]
    #[should_panic(expected = "registers its own object")]
    fn an_entry_of_another_object_is_refused() {
        Python::initialize();
        Python::attach(|py| {
            let entry = RegistryEntry::new(&REGISTRY);
            entry.register(&member(py));
        });
    }
}
