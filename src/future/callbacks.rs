//! The done callbacks of a future.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use super::Future;
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::layout::context;
use crate::ffi::objects::cell::Traverse;
use crate::handle::{CallbackArguments, Handle};
use crate::interop::imports;
use crate::scheduler::patches::must_call_soon;
use crate::scheduler::report::report_raised;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};

/// The kind of a native done callback.
pub struct NativeCallback {
    /// How it is queued, with the callback's object as object and the future as argument.
    pub kind: &'static RunnableKind,
    /// The `(callback, context)` pair in `future._callbacks`.
    pub as_callback: for<'py> fn(&Bound<'py, PyAny>) -> PyResult<[Bound<'py, PyAny>; 2]>,
}

/// A done callback.
pub enum Callback {
    /// A Python callable and the context to call it in.
    Python(Py<PyAny>, Py<PyAny>),
    /// An object of this crate that is queued without a Python call.
    Native(Py<PyAny>, &'static NativeCallback),
}

impl Callback {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Python(callable, context) => {
                Self::Python(callable.clone_ref(py), context.clone_ref(py))
            }
            Self::Native(object, native) => Self::Native(object.clone_ref(py), native),
        }
    }

    fn object(&self) -> &Py<PyAny> {
        match self {
            Self::Python(object, _) | Self::Native(object, _) => object,
        }
    }

    fn as_pair<'py>(&self, py: Python<'py>) -> PyResult<[Bound<'py, PyAny>; 2]> {
        match self {
            Self::Python(callable, context) => {
                Ok([callable.bind(py).clone(), context.bind(py).clone()])
            }
            Self::Native(object, native) => (native.as_callback)(object.bind(py)),
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Python(callable, context) => {
                visit.call(callable)?;
                visit.call(context)
            }
            Self::Native(object, _) => visit.call(object),
        }
    }
}

/// All done callbacks, in the order in which they were added. Most futures have one.
///
/// The layout makes zeroed memory `None`: see [`Future`].
#[derive(Default)]
#[repr(C, u64)]
pub enum Callbacks {
    /// No callback.
    #[default]
    None = 0,
    /// One [`Callback::Python`].
    Python(Py<PyAny>, Py<PyAny>),
    /// One [`Callback::Native`].
    Native(Py<PyAny>, &'static NativeCallback),
    /// Several callbacks.
    #[expect(clippy::box_collection, reason = "keeps every future 16 bytes smaller")]
    Many(Box<Vec<Callback>>),
}

impl Callbacks {
    fn into_vec(self) -> Vec<Callback> {
        match self {
            Self::None => Vec::new(),
            Self::Python(callable, context) => vec![Callback::Python(callable, context)],
            Self::Native(object, native) => vec![Callback::Native(object, native)],
            Self::Many(callbacks) => *callbacks,
        }
    }

    fn from_vec(mut callbacks: Vec<Callback>) -> Self {
        match callbacks.len() {
            0 | 1 => callbacks.pop().map_or(Self::None, Self::from),
            _ => Self::Many(Box::new(callbacks)),
        }
    }

    #[inline(always)]
    fn pushed(self, callback: Callback) -> Self {
        match self {
            Self::None => Self::from(callback),
            Self::Many(mut callbacks) => {
                callbacks.push(callback);
                Self::Many(callbacks)
            }
            one => {
                let mut callbacks = one.into_vec();
                callbacks.push(callback);
                Self::Many(Box::new(callbacks))
            }
        }
    }

    fn cloned(&self, py: Python<'_>) -> Vec<Callback> {
        match self {
            Self::None => Vec::new(),
            Self::Python(callable, context) => {
                vec![Callback::Python(callable.clone_ref(py), context.clone_ref(py))]
            }
            Self::Native(object, native) => vec![Callback::Native(object.clone_ref(py), native)],
            Self::Many(callbacks) => callbacks.iter().map(|one| one.clone_ref(py)).collect(),
        }
    }
}

impl From<Callback> for Callbacks {
    #[inline(always)]
    fn from(callback: Callback) -> Self {
        match callback {
            Callback::Python(callable, context) => Self::Python(callable, context),
            Callback::Native(object, native) => Self::Native(object, native),
        }
    }
}

impl Traverse for Callbacks {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::None => Ok(()),
            Self::Python(callable, context) => {
                visit.call(callable)?;
                visit.call(context)
            }
            Self::Native(object, _) => visit.call(object),
            Self::Many(callbacks) => callbacks.iter().try_for_each(|one| one.traverse(visit)),
        }
    }
}

impl Future {
    /// Adds a callback; queues it at once if the future is done.
    #[inline(always)]
    pub fn add_callback(slf: &Bound<'_, Self>, callback: Callback) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.is_done(py) {
            return Self::schedule(slf, this.scheduler(py).as_ref(), callback);
        }
        // Moving the list out and back runs no Python code, since nothing is dropped.
        let callbacks = this.callbacks.take(py).pushed(callback);
        drop(this.callbacks.replace(py, callbacks));
        Ok(())
    }

    /// Removes all callbacks and queues them.
    #[inline(always)]
    pub(super) fn schedule_callbacks(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        match this.callbacks.take(py) {
            Callbacks::None => Ok(()),
            Callbacks::Native(object, native) => {
                let callback = Callback::Native(object, native);
                Self::schedule(slf, this.scheduler(py).as_ref(), callback)
            }
            Callbacks::Python(callable, context) => {
                let callback = Callback::Python(callable, context);
                Self::schedule(slf, this.scheduler(py).as_ref(), callback)
            }
            Callbacks::Many(callbacks) => {
                let scheduler = this.scheduler(py);
                callbacks
                    .into_iter()
                    .try_for_each(|callback| Self::schedule(slf, scheduler.as_ref(), callback))
            }
        }
    }

    #[inline(always)]
    fn schedule(
        slf: &Bound<'_, Self>,
        scheduler: Option<&Bound<'_, Scheduler>>,
        callback: Callback,
    ) -> PyResult<()> {
        let py = slf.py();
        let scheduler = scheduler.filter(|scheduler| !must_call_soon(scheduler));
        let Some(scheduler) = scheduler else {
            return Self::schedule_on_foreign_loop(slf, callback);
        };
        let this = scheduler.get();
        if this.is_closed(py) || this.is_debug(py) {
            return Self::schedule_checked(slf, scheduler, callback);
        }
        let argument = Some(slf.clone().into_any().unbind());
        this.push(
            py,
            match callback {
                Callback::Native(object, native) => {
                    Runnable { kind: native.kind, object, argument, context: None }
                }
                Callback::Python(object, context) => {
                    Runnable { kind: &DONE_CALLBACK, object, argument, context: Some(context) }
                }
            },
        );
        Ok(())
    }

    /// Queues a callback after the checks of `call_soon()`: that the loop is open and, in debug
    /// mode, that this is its thread.
    #[cold]
    fn schedule_checked(
        slf: &Bound<'_, Self>,
        scheduler: &Bound<'_, Scheduler>,
        callback: Callback,
    ) -> PyResult<()> {
        let py = slf.py();
        match callback {
            Callback::Native(object, native) => {
                scheduler.get().check_usable(py)?;
                let argument = Some(slf.clone().into_any().unbind());
                let runnable = Runnable { kind: native.kind, object, argument, context: None };
                scheduler.get().push(py, runnable);
                Ok(())
            }
            callback @ Callback::Python(..) => Self::schedule_on_foreign_loop(slf, callback),
        }
    }

    /// Calls `loop.call_soon(callback, self, context=context)`.
    #[cold]
    fn schedule_on_foreign_loop(slf: &Bound<'_, Self>, callback: Callback) -> PyResult<()> {
        let py = slf.py();
        let [callable, context] = callback.as_pair(py)?;
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "context"), context)?;
        let event_loop = slf.get().event_loop(py)?;
        event_loop.call_method(intern!(py, "call_soon"), (callable, slf), Some(&keywords))?;
        Ok(())
    }

    /// `future._callbacks`: a list of `(callback, context)`, or None.
    pub(super) fn callbacks_list<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let callbacks = self.snapshot(py);
        if callbacks.is_empty() {
            return Ok(None);
        }
        let list = PyList::empty(py);
        for callback in callbacks {
            let [callable, context] = callback.as_pair(py)?;
            list.append((callable, context))?;
        }
        Ok(Some(list))
    }

    /// Removes `callable` if it is the only callback; returns how many were removed. `None`, with
    /// nothing done, if callbacks would have to be compared. Runs Python code only by dropping.
    #[inline(always)]
    pub(super) fn remove_only_callback(
        &self,
        py: Python<'_>,
        callable: &Bound<'_, PyAny>,
    ) -> Option<usize> {
        let count = self.callbacks.inspect(py, |callbacks| match callbacks {
            Callbacks::None => Some(0),
            Callbacks::Python(only, _) if only.is(callable) => Some(1),
            _ => None,
        });
        let removed = (count == Some(1)).then(|| self.callbacks.take(py));
        if let Some(Callbacks::Python(only, context)) = removed {
            drop((only.into_bound(py), context.into_bound(py)));
        }
        count
    }

    /// Removes the callbacks that are `callable` or compare equal to it; returns their number.
    pub(super) fn remove_callbacks(
        &self,
        py: Python<'_>,
        callable: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        // `==` may run Python code that changes the list, so a copy is compared, and the matching
        // callbacks that are still in the list are then removed by identity.
        let mut matching = Vec::new();
        for callback in self.snapshot(py) {
            let [candidate, _context] = callback.as_pair(py)?;
            if candidate.is(callable) || candidate.eq(callable)? {
                matching.push(callback);
            }
        }
        if matching.is_empty() {
            return Ok(0);
        }
        let (removed, kept): (Vec<_>, Vec<_>) =
            self.callbacks.take(py).into_vec().into_iter().partition(|callback| {
                matching.iter().any(|other| other.object().as_ptr() == callback.object().as_ptr())
            });
        drop(self.callbacks.replace(py, Callbacks::from_vec(kept)));
        Ok(removed.len())
    }

    fn snapshot(&self, py: Python<'_>) -> Vec<Callback> {
        self.callbacks.inspect(py, |callbacks| callbacks.cloned(py))
    }
}

/// Whether this is the kind of Python done callbacks, whose description can be run instead.
pub fn is_done_callback(kind: &RunnableKind) -> bool {
    std::ptr::eq(kind, &DONE_CALLBACK)
}

/// A Python done callback: the callable, the future as argument, and the context to run in.
static DONE_CALLBACK: RunnableKind = RunnableKind::of::<DoneCallback>();

struct DoneCallback;

impl Queued for DoneCallback {
    type Object = PyAny;

    #[inline]
    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = scheduler.py();
        let callable = &entry.object;
        let (Some(future), Some(context)) = (&entry.argument, &entry.context) else {
            return Ok(());
        };
        let result = if context::is_context(context) {
            context::run_in(context, || call::call1(callable, future))
        } else {
            let arguments = (callable, future).into_pyobject(py).or_raise(py)?;
            context
                .getattr(intern!(py, "run"))
                .or_raise(py)
                .and_then(|run| call::call_tuple(&run, &arguments))
        };
        match result {
            Ok(_) => Ok(()),
            Err(raised) if raised.stops_the_loop() => Err(raised),
            Err(raised) => report(scheduler, &entry, raised).or_raise(py),
        }
    }

    /// The handle that asyncio would have queued.
    fn describe<'py>(entry: &QueueEntry<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = entry.object.py();
        let event_loop = match &entry.argument {
            Some(future) => future.cast::<Future>()?.get().event_loop(py)?,
            None => py.None().into_bound(py),
        };
        let arguments = match &entry.argument {
            Some(future) => CallbackArguments::One(future.clone().unbind()),
            None => CallbackArguments::Empty,
        };
        let (callable, context) = (entry.object.clone(), entry.context.clone());
        let handle = Handle::create(callable, arguments, event_loop, context, false)?;
        Ok(handle.into_any())
    }
}

#[cold]
fn report<'py>(
    scheduler: &Bound<'py, Scheduler>,
    entry: &QueueEntry<'py, PyAny>,
    raised: Raised<'py>,
) -> PyResult<()> {
    let py = scheduler.py();
    let handle = DoneCallback::describe(entry)?;
    let source =
        imports::format_callback_source(py)?.call1((&entry.object, handle.getattr("_args")?))?;
    let message = PyString::new(py, &format!("Exception in callback {source}"));
    report_raised(
        scheduler,
        &raised,
        &[
            ("message", Some(message.as_any())),
            ("exception", Some(raised.value().as_any())),
            ("handle", Some(&handle)),
        ],
    )
}
