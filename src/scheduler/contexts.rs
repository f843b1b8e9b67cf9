//! The contexts of callbacks and tasks, copied only where the program could notice.
//!
//! asyncio copies the current context for every callback. While its variables do not change, all
//! these copies are equal: here they share one, the latest *snapshot*, which is never entered and
//! never visible to the program. A callback that runs gets a copy of its own, which is reused for
//! the next one if the callback did not change it and the program holds no reference to it. A
//! snapshot keeps values alive that nothing else references at most until the end of the turn.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::ffi::layout::context;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::object;

/// The latest snapshot of one loop, and a spare copy to run in.
#[derive(Default)]
pub struct Contexts {
    latest: AttachedCell<Option<Py<PyAny>>>,
    /// A context equal to the latest snapshot.
    spare: AttachedCell<Option<Py<PyAny>>>,
}

/// What may refer to the context in a [`ContextSlot`]. All-zero bytes are `Exposed`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ContextState {
    /// The program may hold it; to be entered as it is.
    #[default]
    Exposed = 0,
    /// A shared snapshot: to be copied before it is entered or exposed.
    Snapshot,
    /// A copy that only its slot holds.
    Private,
}

/// A context to store in a [`ContextSlot`].
pub struct ChosenContext<'py> {
    object: Bound<'py, PyAny>,
    state: ContextState,
}

impl<'py> ChosenContext<'py> {
    /// A context that the program gave, or any object in place of one.
    #[inline(always)]
    pub fn given(object: Bound<'py, PyAny>) -> Self {
        Self { object, state: ContextState::Exposed }
    }

    /// `given`, or a copy of the current context.
    pub fn given_or_copied(py: Python<'py>, given: Option<Bound<'py, PyAny>>) -> PyResult<Self> {
        given.map_or_else(|| context::copy_current(py), Ok).map(Self::given)
    }
}

impl Contexts {
    /// A snapshot equal to the current context. Runs Python code only by dropping values.
    #[inline(always)]
    pub fn current<'py>(&self, py: Python<'py>) -> PyResult<ChosenContext<'py>> {
        let latest = self.latest.inspect(py, |latest| {
            let latest = latest.as_ref()?.bind(py);
            context::equals_current(latest).then(|| latest.clone())
        });
        match latest {
            Some(object) => Ok(ChosenContext { object, state: ContextState::Snapshot }),
            None => self.snapshot(py),
        }
    }

    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<ChosenContext<'py>> {
        let object = context::copy_current(py)?;
        if !context::is_comparable() {
            return Ok(ChosenContext { object, state: ContextState::Private });
        }
        let latest = self.latest.replace(py, Some(object.clone().unbind()));
        drop(latest.map(|latest| latest.into_bound(py)));
        drop(self.spare.take(py).map(|spare| spare.into_bound(py)));
        Ok(ChosenContext { object, state: ContextState::Snapshot })
    }

    /// A copy of a snapshot, to run in; the snapshot itself if nothing else references it.
    #[inline(always)]
    fn copy<'py>(&self, snapshot: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = snapshot.py();
        if !object::is_shared(&snapshot) {
            return Ok(snapshot);
        }
        let spare = self.spare.take(py).map(|spare| spare.into_bound(py));
        match spare.filter(|spare| context::are_equal(&snapshot, spare)) {
            Some(spare) => Ok(spare),
            None => context::copy(&snapshot),
        }
    }

    /// Keeps a copy for reuse if it still equals the latest snapshot and nothing else references
    /// it.
    #[inline(always)]
    fn recycle(&self, copy: Bound<'_, PyAny>) {
        if !object::is_shared(&copy) && self.equals_latest(&copy) {
            self.set_spare(copy);
        }
    }

    #[inline(always)]
    fn set_spare(&self, copy: Bound<'_, PyAny>) {
        let py = copy.py();
        let before = self.spare.replace(py, Some(copy.unbind()));
        drop(before.map(|before| before.into_bound(py)));
    }

    #[inline(always)]
    fn equals_latest(&self, copy: &Bound<'_, PyAny>) -> bool {
        self.latest.inspect(copy.py(), |latest| {
            latest.as_ref().is_some_and(|latest| context::are_equal(latest.bind(copy.py()), copy))
        })
    }

    /// At the end of a turn: drops the snapshot if only it keeps its values alive.
    #[inline(always)]
    pub fn end_turn(&self, py: Python<'_>) {
        let ours = 1 + isize::from(self.spare.is_some(py));
        let lonely = self.latest.inspect(py, |latest| {
            latest.as_ref().is_some_and(|latest| {
                let latest = latest.bind(py);
                !object::is_shared(latest) && context::count_of_variables(latest) <= ours
            })
        });
        if lonely {
            self.clear(py);
        }
    }

    /// Drops the snapshot and the spare copy.
    #[cold]
    pub fn clear(&self, py: Python<'_>) {
        drop((self.latest.take(py), self.spare.take(py)));
    }

    /// Reports the contexts to the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.latest.visit(visit)?;
        self.spare.visit(visit)
    }
}

/// The context of a handle or a task: a view of two of its cells.
pub struct ContextSlot<'a> {
    /// The context.
    pub object: &'a AttachedCell<Option<Py<PyAny>>>,
    /// What may refer to it.
    pub state: &'a AttachedCell<ContextState>,
}

impl ContextSlot<'_> {
    /// Stores `context` in the slot.
    #[inline(always)]
    pub fn set(&self, py: Python<'_>, context: ChosenContext<'_>) {
        self.state.set(py, context.state);
        let before = self.object.replace(py, Some(context.object.unbind()));
        drop(before.map(|before| before.into_bound(py)));
    }

    /// The context, to be given to the program.
    pub fn expose<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(mut object) = self.object.get_bound(py) else { return Ok(None) };
        if self.state.get(py) == ContextState::Snapshot {
            object = context::copy(&object)?;
            self.object.store(py, Some(object.clone()));
        }
        self.state.set(py, ContextState::Exposed);
        Ok(Some(object))
    }

    /// The context, to be entered by the loop.
    #[inline(always)]
    pub fn to_enter<'py>(
        &self,
        py: Python<'py>,
        contexts: &Contexts,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.state.get(py) != ContextState::Snapshot {
            return Ok(self.object.get_bound(py));
        }
        let Some(snapshot) = self.object.take(py) else { return Ok(None) };
        let copy = contexts.copy(snapshot.into_bound(py))?;
        self.object.store(py, Some(copy.clone()));
        self.state.set(py, ContextState::Private);
        Ok(Some(copy))
    }

    /// Reclaims the context of a finished handle that has no other references.
    #[inline(always)]
    pub fn reclaim(&self, py: Python<'_>, contexts: &Contexts) {
        if self.state.get(py) == ContextState::Private {
            if let Some(copy) = self.object.take(py) {
                contexts.recycle(copy.into_bound(py));
            }
        }
    }

    /// As [`ContextSlot::reclaim`], for an object still referenced: a snapshot replaces its private
    /// copy.
    #[inline(always)]
    pub fn replace_by_snapshot(&self, py: Python<'_>, contexts: &Contexts) {
        if self.state.get(py) != ContextState::Private {
            return;
        }
        let Some(copy) = self.object.take(py) else { return };
        let copy = copy.into_bound(py);
        let latest = contexts.latest.get_bound(py);
        match latest.filter(|_| !object::is_shared(&copy) && contexts.equals_latest(&copy)) {
            Some(latest) => {
                self.object.store(py, Some(latest));
                self.state.set(py, ContextState::Snapshot);
                contexts.set_spare(copy);
            }
            None => self.object.store(py, Some(copy)),
        }
    }
}
