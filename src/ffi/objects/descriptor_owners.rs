//! Maps descriptors to the objects that own them, without keeping the objects alive.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::ptr::NonNull;

use pyo3::PyClass;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::objects::object;
use crate::ffi::objects::process_state::Locked;

/// Descriptors and their owners.
pub struct DescriptorOwners(Locked<BTreeMap<RawFd, OwnerPointer>>);

#[derive(Clone, Copy, PartialEq)]
struct OwnerPointer(NonNull<ffi::PyObject>);

// SAFETY: the pointer is only dereferenced while the owners are borrowed, while the object lives.
unsafe impl Send for OwnerPointer {}

/// Part of an object that owns a descriptor; dropping it removes the entry.
pub struct Ownership {
    owners: &'static DescriptorOwners,
    entry: Locked<Option<(RawFd, OwnerPointer)>>,
}

impl Ownership {
    /// Owns no descriptor yet.
    pub const fn new(owners: &'static DescriptorOwners) -> Self {
        Self { owners, entry: Locked::new(None) }
    }

    /// Registers `owner`, which must contain this, as the owner of `fd`.
    ///
    /// # Panics
    /// If this is not stored inside `owner`.
    pub fn claim<T: PyClass>(&self, owner: &Bound<'_, T>, fd: RawFd) {
        let py = owner.py();
        let start = owner.as_ptr() as usize;
        let here = std::ptr::from_ref(self) as usize;
        // SAFETY: only the type's size is read.
        let size = unsafe { (*ffi::Py_TYPE(owner.as_ptr())).tp_basicsize }.unsigned_abs();
        assert!((start..start + size).contains(&here), "an ownership claims for its own object");
        self.release(py);
        object::enable_try_incref(owner);
        let object = NonNull::new(owner.as_ptr()).expect("a bound object is not null");
        self.entry.set(py, Some((fd, OwnerPointer(object))));
        self.owners.0.with(py, |owners| owners.insert(fd, OwnerPointer(object)));
    }

    /// Removes the entry, unless another object has become the owner of the number.
    pub fn release(&self, py: Python<'_>) {
        let Some((fd, owner)) = self.entry.replace(py, None) else { return };
        self.owners.0.with(py, |owners| {
            if owners.get(&fd) == Some(&owner) {
                owners.remove(&fd);
            }
        });
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        Python::attach(|py| self.release(py));
    }
}

impl DescriptorOwners {
    /// No owners.
    pub const fn new() -> Self {
        Self(Locked::new(BTreeMap::new()))
    }

    /// The owner of `fd`, unless it is being deallocated right now.
    pub fn get<'py>(&self, py: Python<'py>, fd: RawFd) -> Option<Bound<'py, PyAny>> {
        self.0.with(py, |owners| {
            let owner = owners.get(&fd)?;
            // SAFETY: owners are live, since one that is dropped, for which it waits for the end of
            // this borrow, releases its descriptor.
            unsafe { object::try_incref(py, owner.0) }
        })
    }
}

impl Default for DescriptorOwners {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static OWNERS: DescriptorOwners = DescriptorOwners::new();

    #[pyclass(frozen)]
    struct Holder(Ownership);

    fn holder(py: Python<'_>) -> Bound<'_, Holder> {
        Bound::new(py, Holder(Ownership::new(&OWNERS))).expect("memory for an object")
    }

    #[test]
    fn a_descriptor_belongs_to_the_last_claim() {
        Python::initialize();
        Python::attach(|py| {
            let (first, second) = (holder(py), holder(py));
            let owns = |holder: &Bound<'_, Holder>, fd| {
                OWNERS.get(py, fd).is_some_and(|owner| owner.is(holder))
            };
            first.get().0.claim(&first, 100);
            assert!(owns(&first, 100));

            // The number is another file's by now: the first owner must not end that claim.
            second.get().0.claim(&second, 100);
            first.get().0.release(py);
            assert!(owns(&second, 100));

            // A claim of another number gives up the former.
            second.get().0.claim(&second, 101);
            assert!(OWNERS.get(py, 100).is_none() && owns(&second, 101));
            drop(second);
            assert!(OWNERS.get(py, 101).is_none(), "an owner is not kept alive");
        });
    }

    #[test]
    #[should_panic(expected = "claims for its own object")]
    fn a_claim_for_another_object_is_refused() {
        Python::initialize();
        Python::attach(|py| Ownership::new(&OWNERS).claim(&holder(py), 102));
    }
}
