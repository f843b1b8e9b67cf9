//! What the methods of native readers and writers return.
//!
//! The object behaves like asyncio's coroutine: nothing happens before it is first resumed. It does
//! what succeeds at once and what waits for data in the usual way; everything else it leaves to
//! asyncio's coroutine, which it then resumes in its place.

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::adoption::native_loop;
use super::originals::Originals;
use super::state::StreamReaderState;
use crate::ffi::call;
use crate::ffi::coroutine::{self, CoroutineStep};
use crate::ffi::entries::entered;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::freelist::{FreeList, Recycled};
use crate::ffi::objects::kept_memory::kept_memory;
use crate::ffi::objects::slots::{Finalize, Resumed, SelfAwaiting, original_dealloc};
use crate::ffi::section::{Home, Owned, attach_unshared};
use crate::future::{Future, FutureIterator};
use crate::scheduler::report::warn_never_awaited;

/// What to do.
pub(super) enum Operation {
    /// `read(n)` with a positive `n`.
    Read(usize),
    /// `readexactly(n)` with a positive `n`.
    ReadExactly(usize),
    /// `readuntil(separator)` with one separator that is not empty.
    ReadUntil(Py<PyBytes>),
    /// `readline()`.
    ReadLine(Py<PyBytes>),
    /// `drain()`.
    Drain,
}

impl Operation {
    fn method(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::ReadExactly(_) => "readexactly",
            Self::ReadUntil(_) => "readuntil",
            Self::ReadLine(_) => "readline",
            Self::Drain => "drain",
        }
    }

    fn qualified_name(&self) -> String {
        let class = if matches!(self, Self::Drain) { "StreamWriter" } else { "StreamReader" };
        format!("{class}.{}", self.method())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    New,
    Waiting,
    /// asyncio's coroutine has taken over.
    Delegated,
    Done,
}

/// A coroutine, made by a method of a native reader or writer.
#[pyclass(frozen, weakref, module = "ferroloop._ferroloop")]
pub struct StreamCoroutine {
    home: Home,
    /// The reader or writer. Never `None`, except while the object is created.
    stream: Option<Py<PyAny>>,
    /// That of the reader; of a writer, if its reader is a native one.
    state: Option<Py<StreamReaderState>>,
    operation: Operation,
    phase: AttachedCell<Phase>,
    /// How many bytes are known not to contain the separator.
    scanned: AttachedCell<usize>,
    waiter: AttachedCell<Option<Py<Future>>>,
    delegate: AttachedCell<Option<Py<PyAny>>>,
}

/// The result of an attempt.
enum Attempt<'py> {
    Done(Bound<'py, PyAny>),
    /// More data is needed.
    Wait,
    /// asyncio's coroutine must decide.
    Delegate,
}

impl StreamCoroutine {
    pub(super) fn new(
        stream: &Bound<'_, PyAny>,
        state: Option<Bound<'_, StreamReaderState>>,
        operation: Operation,
    ) -> Self {
        Self {
            home: Home::same_as(state.as_ref().and_then(StreamReaderState::owner)),
            stream: Some(stream.clone().unbind()),
            state: state.map(Bound::unbind),
            operation,
            phase: AttachedCell::new(Phase::New),
            scanned: AttachedCell::new(0),
            waiter: AttachedCell::new(None),
            delegate: AttachedCell::new(None),
        }
    }

    fn stream<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.stream.as_ref().expect("set by new()").bind(py)
    }

    fn advance<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, CoroutineStep<'py>> {
        let py = slf.py();
        let this = slf.get();
        let was_woken = match this.phase.get(py) {
            Phase::New => false,
            Phase::Waiting => match this.resume_waiter(py)? {
                Some(step) => return Ok(step),
                None => true,
            },
            Phase::Delegated => return this.resume_delegate(py),
            Phase::Done => {
                let error = PyRuntimeError::new_err("cannot reuse already awaited coroutine");
                return Err(Raised::of(py, error));
            }
        };
        match this.attempt(py, was_woken)? {
            Attempt::Done(value) => Ok(CoroutineStep::Returned(value)),
            Attempt::Wait => this.wait(py),
            Attempt::Delegate => this.delegate(py),
        }
    }

    /// `None` if the waiter is done.
    fn resume_waiter<'py>(&self, py: Python<'py>) -> PyOutcome<'py, Option<CoroutineStep<'py>>> {
        let Some(waiter) = self.waiter.get_bound(py) else { return Ok(None) };
        match Future::resume(&waiter) {
            Resumed::Yield(waiter) => Ok(Some(CoroutineStep::Yielded(waiter))),
            Resumed::Return(_) => {
                self.forget_waiter(py);
                Ok(None)
            }
            Resumed::Raise(exception) => Err(Raised::from(exception)),
        }
    }

    /// The `finally` of `_wait_for_data()`.
    fn forget_waiter(&self, py: Python<'_>) {
        if let (Some(_waiter), Some(state)) = (self.waiter.take(py), &self.state) {
            state.get().waiter.store(py, None);
        }
    }

    fn attempt<'py>(&self, py: Python<'py>, was_woken: bool) -> PyOutcome<'py, Attempt<'py>> {
        let Some(state) = self.state.as_ref().map(Py::get) else { return Ok(Attempt::Delegate) };
        if matches!(self.operation, Operation::Drain) {
            return self.attempt_drain(py, state);
        }
        let Some(length) = state.contents.len(py) else { return Ok(Attempt::Delegate) };
        // Once it is woken, `read()` returns what there is, whatever has happened meanwhile.
        let is_usual =
            state.is_usual(py) || (was_woken && matches!(self.operation, Operation::Read(_)));
        if !is_usual {
            return Ok(Attempt::Delegate);
        }
        let wanted = match &self.operation {
            Operation::Read(_) if length == 0 && !state.eof.get(py) && !was_woken => None,
            Operation::Read(wanted) => Some(*wanted),
            Operation::ReadExactly(wanted) => Some(*wanted).filter(|wanted| length >= *wanted),
            Operation::ReadUntil(separator) | Operation::ReadLine(separator) => {
                match self.search(separator.bind(py), state, length)? {
                    Search::Found(end) => Some(end),
                    Search::NotYet => None,
                    Search::TooLong => return Ok(Attempt::Delegate),
                }
            }
            Operation::Drain => return Ok(Attempt::Delegate),
        };
        let Some(wanted) = wanted else {
            return Ok(if state.eof.get(py) { Attempt::Delegate } else { Attempt::Wait });
        };
        let taken = state.contents.take(py, wanted)?;
        if state.paused.get(py) {
            let resume = intern!(py, "_maybe_resume_transport");
            call::call_method(self.stream(py), resume, [])?;
        }
        Ok(Attempt::Done(taken.into_any()))
    }

    fn search<'py>(
        &self,
        separator: &Bound<'py, PyBytes>,
        state: &StreamReaderState,
        length: usize,
    ) -> PyOutcome<'py, Search> {
        let py = separator.py();
        let size = separator.as_bytes().len();
        let (scanned, limit) = (self.scanned.get(py), state.limit.get(py));
        if length < scanned.saturating_add(size) {
            return Ok(Search::NotYet);
        }
        if let Some(start) = state.contents.find(separator, scanned)? {
            return Ok(if start > limit { Search::TooLong } else { Search::Found(start + size) });
        }
        // The end may be the beginning of a separator.
        let scanned = (length + 1).saturating_sub(size);
        self.scanned.set(py, scanned);
        Ok(if scanned > limit { Search::TooLong } else { Search::NotYet })
    }

    /// Only what does nothing: the rest is asyncio's.
    fn attempt_drain<'py>(
        &self,
        py: Python<'py>,
        state: &StreamReaderState,
    ) -> PyOutcome<'py, Attempt<'py>> {
        if !state.is_usual(py) {
            return Ok(Attempt::Delegate);
        }
        let flows = || -> PyResult<bool> {
            let writer = self.stream(py);
            let transport = writer.getattr(intern!(py, "_transport"))?;
            if call::call_method(&transport, intern!(py, "is_closing"), [])?.is_truthy()? {
                return Ok(false);
            }
            let protocol = writer.getattr(intern!(py, "_protocol"))?;
            let is_exact = Originals::get(py).is_some_and(|originals| {
                protocol.get_type().is(&originals.protocol.class)
                    && originals.protocol.is_original(py)
            });
            let is_false = |name| {
                protocol.getattr(name).map(|flag| flag.is(pyo3::types::PyBool::new(py, false)))
            };
            Ok(is_exact
                && is_false(intern!(py, "_connection_lost"))?
                && is_false(intern!(py, "_paused"))?)
        };
        // asyncio's coroutine raises the error again.
        Ok(match flows() {
            Ok(true) => Attempt::Done(py.None().into_bound(py)),
            Ok(false) | Err(_) => Attempt::Delegate,
        })
    }

    /// Does what `_wait_for_data()` does, if nothing is unusual.
    fn wait<'py>(&self, py: Python<'py>) -> PyOutcome<'py, CoroutineStep<'py>> {
        let Some(state) = self.state.as_ref().map(Py::get) else { return self.delegate(py) };
        if state.waiter.is_some(py) || state.paused.get(py) {
            return self.delegate(py);
        }
        let event_loop = state.event_loop.get_bound(py);
        let Some(scheduler) = event_loop.as_ref().and_then(native_loop) else {
            return self.delegate(py);
        };
        let waiter = Bound::new(py, Future::for_loop(scheduler).or_raise(py)?).or_raise(py)?;
        state.waiter.store(py, Some(waiter.clone().into_any()));
        self.waiter.store(py, Some(waiter));
        self.phase.set(py, Phase::Waiting);
        match self.resume_waiter(py)? {
            Some(step) => Ok(step),
            // Not possible: nothing else could finish it yet.
            None => self.delegate(py),
        }
    }

    /// Starts asyncio's coroutine.
    #[cold]
    fn delegate<'py>(&self, py: Python<'py>) -> PyOutcome<'py, CoroutineStep<'py>> {
        let stream = self.stream(py);
        let coroutine = match &self.operation {
            Operation::Read(wanted) => call_original(stream, "read", (*wanted,)),
            Operation::ReadExactly(wanted) => call_original(stream, "readexactly", (*wanted,)),
            Operation::ReadUntil(separator) => call_original(stream, "readuntil", (separator,)),
            Operation::ReadLine(_) => call_original(stream, "readline", ()),
            Operation::Drain => call_original(stream, "drain", ()),
        };
        self.delegate.store(py, Some(coroutine.or_raise(py)?));
        self.phase.set(py, Phase::Delegated);
        self.resume_delegate(py)
    }

    fn resume_delegate<'py>(&self, py: Python<'py>) -> PyOutcome<'py, CoroutineStep<'py>> {
        match self.delegate.get_bound(py) {
            Some(coroutine) => coroutine::send(&coroutine),
            None => Err(Raised::of(py, PyRuntimeError::new_err("the stream is being collected"))),
        }
    }

    fn finish(&self, py: Python<'_>) {
        self.phase.set(py, Phase::Done);
        self.forget_waiter(py);
        self.delegate.store(py, None);
    }
}

/// The result of the search for a separator.
enum Search {
    /// It ends there.
    Found(usize),
    NotYet,
    /// More than the limit came without it.
    TooLong,
}

/// asyncio's method of this name, bound to `stream`: one that the program may have put into its
/// class, since this code also serves what the native one does not.
pub(super) fn original_method<'py>(
    stream: &Bound<'py, PyAny>,
    name: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let class = stream.get_type();
    let base = class.getattr(intern!(stream.py(), "__base__"))?;
    base.getattr(name)?.call_method1(intern!(stream.py(), "__get__"), (stream, class))
}

/// [`original_method`], called.
pub(super) fn call_original<'py>(
    stream: &Bound<'py, PyAny>,
    name: &str,
    arguments: impl pyo3::call::PyCallArgs<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    original_method(stream, name)?.call1(arguments)
}

impl Recycled for StreamCoroutine {
    fn free_list() -> &'static FreeList {
        // One or two exist at a time for each connection that a turn serves.
        kept_memory!(64)
    }
}

impl SelfAwaiting for StreamCoroutine {
    fn resume<'py>(slf: &Bound<'py, Self>) -> Resumed<'py> {
        match Self::advance(slf) {
            Ok(CoroutineStep::Yielded(awaited)) => Resumed::Yield(awaited),
            Ok(CoroutineStep::Returned(value)) => {
                slf.get().finish(slf.py());
                Resumed::Return(value)
            }
            Err(raised) => {
                slf.get().finish(slf.py());
                Resumed::Raise(raised.into_value())
            }
        }
    }
}

impl Finalize for StreamCoroutine {
    original_dealloc!();

    #[inline(always)]
    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
        matches!(slf.get().phase.get(slf.py()), Phase::New | Phase::Waiting)
    }

    /// Warns, as the interpreter does for a coroutine that was never awaited, or ends the wait, as
    /// it does by closing the coroutine.
    fn finalize(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let was_new = slf.get().phase.get(py) == Phase::New;
        slf.get().finish(py);
        if was_new {
            warn_never_awaited(slf, &slf.get().operation.qualified_name());
        }
    }
}

#[pymethods]
impl StreamCoroutine {
    #[getter(__qualname__)]
    fn qualname(&self) -> String {
        self.operation.qualified_name()
    }

    #[getter(__name__)]
    fn name(&self) -> &'static str {
        self.operation.method()
    }

    #[getter]
    fn cr_await<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.delegate.get_bound(py) {
            Some(coroutine) => coroutine.getattr(intern!(py, "cr_await")).map(Some),
            None => Ok(self.waiter.get_bound(py).map(Bound::into_any)),
        }
    }

    #[getter]
    fn cr_running(&self) -> bool {
        false
    }

    /// The value of `inspect.getcoroutinestate()`.
    #[cfg(Py_3_15)]
    #[getter]
    fn cr_state(&self, py: Python<'_>) -> &'static str {
        match self.phase.get(py) {
            Phase::New => "CORO_CREATED",
            Phase::Waiting | Phase::Delegated => "CORO_SUSPENDED",
            Phase::Done => "CORO_CLOSED",
        }
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    /// Resume the coroutine; the value sent is ignored.
    fn send<'py>(slf: &Bound<'py, Self>, _value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Self::resume(slf).into_sent()
    }

    /// Raise an exception where the coroutine waits.
    #[pyo3(signature = (*arguments))]
    fn throw<'py>(
        &self,
        py: Python<'py>,
        arguments: Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(coroutine) = self.delegate.get_bound(py) {
            let throw = coroutine.getattr(intern!(py, "throw"))?;
            let thrown = call::call_tuple(&throw, &arguments);
            if thrown.is_err() {
                self.finish(py);
            }
            return Ok(thrown?);
        }
        self.finish(py);
        FutureIterator::raise(arguments)
    }

    /// Stop waiting and end the coroutine.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let delegate = self.delegate.take(py);
        self.finish(py);
        match delegate {
            Some(coroutine) => {
                call::call_method(coroutine.bind(py), intern!(py, "close"), [])?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let name = slf.get().operation.qualified_name();
        format!("<coroutine object {name} at {:p}>", slf.as_ptr())
    }

    fn __del__(slf: &Bound<'_, Self>) {
        if Self::needs_finalizing(slf) {
            Self::finalize(slf);
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.visit(&visit)?;
        visit.call(&self.stream)?;
        visit.call(&self.state)?;
        self.waiter.visit(&visit)?;
        self.delegate.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop((self.waiter.take(py), self.delegate.take(py))));
    }
}

impl Owned for StreamCoroutine {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().home.get(slf.py())
    }
}

entered!(StreamCoroutine);
