//! A registry of live objects that does not keep them alive.
//!
//! A weak reference per task costs more than the rest of its life. Here each object carries a
//! [`Membership`], whose drop, part of the object's own, takes it out again.

use std::ptr::NonNull;

use pyo3::PyClass;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};

const NOT_ENROLLED: u32 = u32::MAX;

/// Pointers to the enrolled objects, in no particular order.
pub struct LiveSet(AttachedRefCell<Vec<Member>>);

/// One object, and the place where it keeps its index.
#[derive(Clone, Copy)]
struct Member {
    object: NonNull<ffi::PyObject>,
    index: NonNull<AttachedCell<u32>>,
}

// SAFETY: the pointers are only followed with the GIL held, while the object lives.
unsafe impl Send for Member {}

/// Part of an object that can be enrolled in a [`LiveSet`]; dropping it takes the object out.
pub struct Membership {
    index: AttachedCell<u32>,
    set: &'static LiveSet,
}

impl Membership {
    /// Not enrolled yet.
    pub const fn new(set: &'static LiveSet) -> Self {
        Self { index: AttachedCell::new(NOT_ENROLLED), set }
    }

    /// Enrolls `owner`, whose part this must be.
    ///
    /// # Panics
    /// If this membership is not stored inside `owner`.
    #[inline(always)]
    pub fn enroll<T: PyClass>(&self, owner: &Bound<'_, T>) {
        let py = owner.py();
        let start = owner.as_ptr() as usize;
        let here = std::ptr::from_ref(self) as usize;
        // SAFETY: only the type's size is read.
        let size = unsafe { (*ffi::Py_TYPE(owner.as_ptr())).tp_basicsize }.unsigned_abs();
        assert!((start..start + size).contains(&here), "a membership enrolls its own object");
        if self.index.get(py) != NOT_ENROLLED {
            return;
        }
        let member = Member {
            object: NonNull::new(owner.as_ptr()).expect("a bound object is not null"),
            index: NonNull::from(&self.index),
        };
        self.set.0.with(py, |members| {
            self.index.set(py, u32::try_from(members.len()).unwrap_or(NOT_ENROLLED - 1));
            members.push(member);
        });
    }

    /// Whether the object is in.
    pub fn is_enrolled(&self, py: Python<'_>) -> bool {
        self.index.get(py) != NOT_ENROLLED
    }

    /// Takes the object out, if it is in.
    #[inline(always)]
    pub fn resign(&self, py: Python<'_>) {
        let index = self.index.get(py);
        if index == NOT_ENROLLED {
            return;
        }
        self.index.set(py, NOT_ENROLLED);
        self.set.0.with(py, |members| {
            members.swap_remove(index as usize);
            if let Some(moved) = members.get(index as usize) {
                // SAFETY: every member lives, for it leaves the set when it is dropped.
                unsafe { moved.index.as_ref() }.set(py, index);
            }
        });
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // SAFETY: part of a Python object, which is dropped attached. What resigns drops nothing.
        self.resign(unsafe { Python::assume_attached() });
    }
}

impl LiveSet {
    /// Nobody yet.
    pub const fn new() -> Self {
        Self(AttachedRefCell::new(Vec::new()))
    }

    /// Takes all out.
    #[cfg(Py_3_14)]
    pub fn clear(&self, py: Python<'_>) {
        self.0.with(py, |members| {
            for member in members.drain(..) {
                // SAFETY: every member lives, for it leaves the set when it is dropped.
                unsafe { member.index.as_ref() }.set(py, NOT_ENROLLED);
            }
        });
    }

    /// New references to the objects that are not being deallocated right now.
    pub fn snapshot<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>> {
        self.0.with(py, |members| {
            members
                .iter()
                .filter_map(|member| {
                    let object = member.object.as_ptr();
                    // SAFETY: members live; one whose count is zero is on its way out and must
                    // not be resurrected. An incref runs no Python code.
                    unsafe {
                        (ffi::Py_REFCNT(object) > 0).then(|| Bound::from_borrowed_ptr(py, object))
                    }
                })
                .collect()
        })
    }
}

impl Default for LiveSet {
    fn default() -> Self {
        Self::new()
    }
}
