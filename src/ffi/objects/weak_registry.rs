//! A registry of live objects that does not keep them alive.
//!
//! A weak reference per task costs more than the rest of its life. Here each object contains a
//! [`RegistryEntry`] which, dropped with the object, removes it from the registry.

use std::ptr::NonNull;
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::PyClass;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::objects::object;
use crate::ffi::objects::process_state::{Locked, Published};

const UNREGISTERED: u32 = u32::MAX;

/// The number of parts of a registry. On free-threaded builds each thread registers objects in a
/// part of its own, as long as there are not more threads, so that loops do not wait for each other.
const PARTS: usize = if cfg!(Py_GIL_DISABLED) { 64 } else { 1 };

/// Pointers to the registered objects, in no particular order.
pub struct WeakRegistry([Part; PARTS]);

/// On a cache line of its own.
#[cfg_attr(Py_GIL_DISABLED, repr(align(64)))]
struct Part(Locked<Vec<Registered>>);

/// A registered object, and the address of its index.
#[derive(Clone, Copy)]
struct Registered {
    object: NonNull<ffi::PyObject>,
    index: NonNull<Index>,
}

// SAFETY: the pointers are only dereferenced while the part is borrowed, while the object lives.
unsafe impl Send for Registered {}

/// The index of an object in its part. Read and written while the part is borrowed, except to see
/// whether the object is registered.
type Index = Published<u32>;

/// Part of an object that can be registered in a [`WeakRegistry`]; dropping it unregisters the
/// object.
pub struct RegistryEntry {
    index: Index,
    /// The part of the registry that was chosen when the object was registered.
    #[cfg(Py_GIL_DISABLED)]
    part: AtomicU32,
    registry: &'static WeakRegistry,
}

impl RegistryEntry {
    /// An entry that is not registered yet.
    #[inline(always)]
    pub fn new(registry: &'static WeakRegistry) -> Self {
        Self {
            index: Index::new(UNREGISTERED),
            #[cfg(Py_GIL_DISABLED)]
            part: AtomicU32::new(0),
            registry,
        }
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
        if self.is_registered(py) {
            return;
        }
        object::enable_try_incref(owner);
        #[cfg(Py_GIL_DISABLED)]
        self.part.store(PART.with(|part| *part), Ordering::Relaxed);
        let entry = Registered {
            object: NonNull::new(owner.as_ptr()).expect("a bound object is not null"),
            index: NonNull::from(&self.index),
        };
        self.part().0.with(py, |entries| {
            let index = u32::try_from(entries.len()).unwrap_or(UNREGISTERED - 1);
            self.index.set(py, index);
            entries.push(entry);
        });
    }

    /// The part of the registry that contains the object.
    #[inline(always)]
    fn part(&self) -> &'static Part {
        #[cfg(not(Py_GIL_DISABLED))]
        return &self.registry.0[0];
        #[cfg(Py_GIL_DISABLED)]
        return &self.registry.0[self.part.load(Ordering::Relaxed) as usize];
    }

    /// Whether the object is registered.
    #[inline(always)]
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
        self.part().0.with(py, |entries| {
            // Another object may have left in the meantime, in another thread.
            let index = if cfg!(Py_GIL_DISABLED) { self.index.get(py) } else { index };
            if cfg!(Py_GIL_DISABLED) && index == UNREGISTERED {
                return;
            }
            self.index.set(py, UNREGISTERED);
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

#[cfg(Py_GIL_DISABLED)]
thread_local! {
    /// The part in which this thread registers objects.
    static PART: u32 = {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % PARTS as u32
    };
}

impl WeakRegistry {
    /// An empty registry.
    pub const fn new() -> Self {
        Self([const { Part(Locked::new(Vec::new())) }; PARTS])
    }

    /// Unregisters all objects.
    #[cfg(all(Py_3_14, not(published_tasks)))]
    pub fn clear(&self, py: Python<'_>) {
        for part in &self.0 {
            part.0.with(py, |entries| {
                for entry in entries.drain(..) {
                    // SAFETY: every entry is live, since dropping it unregisters it.
                    unsafe { entry.index.as_ref() }.set(py, UNREGISTERED);
                }
            });
        }
    }

    /// New references to the objects that are not being deallocated right now.
    pub fn snapshot<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>> {
        let mut objects = Vec::new();
        for part in &self.0 {
            part.0.with(py, |entries| {
                // SAFETY: entries are live, since dropping one, which waits for the end of this
                // borrow, unregisters it.
                let found = |entry: &Registered| unsafe { object::try_incref(py, entry.object) };
                objects.extend(entries.iter().filter_map(found));
            });
        }
        objects
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
