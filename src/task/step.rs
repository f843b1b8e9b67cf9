//! One step of a task: resumes the coroutine, then handles what it awaits, returns or raises.

use std::ffi::CStr;

use pyo3::exceptions::{PyBaseException, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

#[cfg(Py_3_14)]
use super::awaited_by;
use super::{Task, as_exact_future, current, foreign};
use crate::ffi::bound_callback::{BoundCallback, CallbackDefinition, bind_callback};
use crate::ffi::call;
use crate::ffi::coroutine::{self, CoroutineStep};
use crate::ffi::entries::entered;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::layout::context;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::object::HasBase;
use crate::ffi::section::{self, Owned, attach_unshared};
use crate::future::{Callback, Future, NativeCallback, invalid_state};
use crate::handle::CallbackArguments;
use crate::interop::imports;
use crate::scheduler::patches::must_call_soon;
use crate::scheduler::report::report_raised;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};

/// A queued step. Its argument, if any, is the exception to throw.
pub static STEP: RunnableKind = RunnableKind::of::<QueuedStep>();

struct QueuedStep;

impl Queued for QueuedStep {
    type Object = Task;
    const SETS_CURRENT_TASK: bool = true;

    #[inline(always)]
    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Task>,
    ) -> PyOutcome<'py, ()> {
        let exception = match entry.argument {
            Some(exception) => {
                Some(exception.cast_into::<PyBaseException>().or_raise(scheduler.py())?)
            }
            None => None,
        };
        queued_step(scheduler, &entry.object, exception)
    }
}

/// A queued wake-up. Its argument is the future that is done.
static WAKEUP: RunnableKind = RunnableKind::of::<QueuedWakeup>();

struct QueuedWakeup;

impl Queued for QueuedWakeup {
    type Object = Task;
    const SETS_CURRENT_TASK: bool = true;

    #[inline(always)]
    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Task>,
    ) -> PyOutcome<'py, ()> {
        let exception = match &entry.argument {
            Some(future) => {
                #[cfg(Py_3_14)]
                awaited_by::forget(future, &entry.object).or_raise(scheduler.py())?;
                exception_of(future)
            }
            None => None,
        };
        drop(entry.argument);
        queued_step(scheduler, &entry.object, exception)
    }
}

/// The callback by which a future of this crate wakes a task.
static WAKE_TASK: NativeCallback = NativeCallback {
    kind: &WAKEUP,
    as_callback: |task| {
        let context = task.getattr(intern!(task.py(), "_context"))?;
        Ok([wakeup_callback(task.cast::<Task>()?)?, context])
    },
};

/// The wake-up as a Python callable, for foreign futures.
struct Wakeup;

impl BoundCallback for Wakeup {
    type Class = Task;
    const NAME: &'static CStr = c"task_wakeup";

    /// PyO3 has counted the running loop's entry. A call by another thread is not counted then: its
    /// drops wait for the next entry.
    #[inline(always)]
    fn is_counted(slf: &Bound<'_, Task>) -> bool {
        slf.base().is_on_running_loop(slf.py())
    }

    fn call<'py>(slf: &Bound<'py, Task>, future: &Bound<'py, PyAny>) -> PyResult<()> {
        #[cfg(Py_3_14)]
        awaited_by::forget(future, slf)?;
        let exception = match as_exact_future(future) {
            Some(future) => section::enter_of(future, || retrieved_exception(future)),
            None => foreign::exception_of(future)?,
        };
        called_step(slf, exception).map_err(PyErr::from)
    }
}

pub(super) fn wakeup_callback<'py>(task: &Bound<'py, Task>) -> PyResult<Bound<'py, PyAny>> {
    static DEFINITION: PyOnceLock<CallbackDefinition> = PyOnceLock::new();
    bind_callback::<Wakeup>(task, &DEFINITION)
}

/// The exception to throw into a task that has waited for `future`, which is of this crate.
#[inline(always)]
fn exception_of<'py>(future: &Bound<'py, PyAny>) -> Option<Bound<'py, PyBaseException>> {
    let py = future.py();
    let future = as_exact_future(future)?;
    section::enter_of(future, || {
        if future.get().has_result(py) { None } else { retrieved_exception(future) }
    })
}

/// The exception of `future`, or that of `future.result()`, which raises if the future was
/// initialised again after it was done: it is thrown into the task and not raised to the loop.
fn retrieved_exception<'py>(future: &Bound<'py, Future>) -> Option<Bound<'py, PyBaseException>> {
    let py = future.py();
    match future.get().retrieve_result(py) {
        Ok(result) => result.err(),
        Err(error) => Some(error.into_value(py).into_bound(py)),
    }
}

/// A step from the ready queue: enters the task's context and makes it current.
#[inline(always)]
fn queued_step<'py>(
    scheduler: &Bound<'py, Scheduler>,
    task: &Bound<'py, Task>,
    exception: Option<Bound<'py, PyBaseException>>,
) -> PyOutcome<'py, ()> {
    let py = task.py();
    let contexts = scheduler.get().contexts();
    let context = task.get().context_slot().to_enter(py, contexts).or_raise(py)?;
    let Some(context) = context else { return Ok(()) };
    let result = if context::is_context(&context) {
        context::run_in(&context, || {
            let exception = prepare(task, exception)?;
            current::enter(scheduler, task).or_raise(py)?;
            resume(task, exception)
        })
    } else {
        // Calls the object's own `run()`, as `Handle` does.
        let step = Bound::new(py, TaskStep::new(task, exception)).or_raise(py)?;
        call::call_method(&context, intern!(py, "run"), [step.as_any()]).map(drop)
    };
    drop(context);
    if task.base().is_done(py) {
        task.get().context_slot().replace_by_snapshot(py, contexts);
    }
    match result {
        Err(raised) if !raised.stops_the_loop() => report(scheduler, task, &raised).or_raise(py),
        other => other,
    }
}

/// A step called from Python, by the handle of a foreign loop or by a foreign future, which has
/// entered the context.
pub fn called_step<'py>(
    task: &Bound<'py, Task>,
    exception: Option<Bound<'py, PyBaseException>>,
) -> PyOutcome<'py, ()> {
    let py = task.py();
    let exception = prepare(task, exception)?;
    let event_loop = task.base().event_loop(py).or_raise(py)?;
    current::run_as_current(&event_loop, task, false, || resume(task, exception))
}

/// Reports an error of the step itself, which asyncio's handle of the step would report.
#[cold]
fn report<'py>(
    scheduler: &Bound<'py, Scheduler>,
    task: &Bound<'py, Task>,
    raised: &Raised<'py>,
) -> PyResult<()> {
    let py = task.py();
    let message = PyString::new(py, &format!("Exception in callback {}", task.repr()?));
    report_raised(
        scheduler,
        raised,
        &[
            ("message", Some(message.as_any())),
            ("exception", Some(raised.value().as_any())),
            ("task", Some(task.as_any())),
        ],
    )
}

/// Checks the state and turns a pending cancellation into the exception to throw.
#[inline(always)]
fn prepare<'py>(
    task: &Bound<'py, Task>,
    exception: Option<Bound<'py, PyBaseException>>,
) -> PyOutcome<'py, Option<Bound<'py, PyBaseException>>> {
    let py = task.py();
    let this = task.get();
    let future = task.base();
    let mut exception = exception;
    if future.is_done(py) {
        return Err(already_done(task, exception));
    }
    if this.must_cancel.get(py) {
        this.must_cancel.set(py, false);
        let cancelled = imports::cancelled_error(py).or_raise(py)?;
        let is_cancellation = match &exception {
            Some(exception) => exception.is_instance(cancelled).or_raise(py)?,
            None => false,
        };
        if !is_cancellation {
            exception = Some(future.make_cancelled_error(py).or_raise(py)?);
        }
    }
    this.fut_waiter.store(py, None);
    Ok(exception)
}

#[cold]
fn already_done<'py>(
    task: &Bound<'py, Task>,
    exception: Option<Bound<'py, PyBaseException>>,
) -> Raised<'py> {
    let py = task.py();
    let text = || -> PyResult<String> {
        let exception = match &exception {
            Some(exception) => exception.repr()?.to_string(),
            None => "None".to_owned(),
        };
        Ok(format!("__step(): already done: {} {exception}", task.repr()?))
    };
    let error = match text() {
        Ok(text) => invalid_state(py, &text),
        Err(error) => error,
    };
    Raised::of(py, error)
}

/// Resumes the coroutine and handles its outcome.
#[inline(always)]
pub(super) fn resume<'py>(
    task: &Bound<'py, Task>,
    exception: Option<Bound<'py, PyBaseException>>,
) -> PyOutcome<'py, ()> {
    let py = task.py();
    let Some(coroutine) = task.get().coroutine(py) else { return Ok(()) };
    let stepped = match exception {
        None => coroutine::send(&coroutine),
        Some(exception) => coroutine::throw(&coroutine, exception.as_any()),
    };
    match stepped {
        Ok(CoroutineStep::Yielded(awaited)) => wait_for(task, awaited).or_raise(py),
        Ok(CoroutineStep::Returned(value)) => finish(task, value).or_raise(py),
        Err(raised) => fail(task, raised),
    }
}

#[inline(always)]
fn finish<'py>(task: &Bound<'py, Task>, value: Bound<'py, PyAny>) -> PyResult<()> {
    let py = task.py();
    let this = task.get();
    let future = task.as_super();
    if this.must_cancel.get(py) {
        // It was cancelled during its last step.
        this.must_cancel.set(py, false);
        let message = future.get().cancel_message(py);
        Future::cancel(future, message)?;
    } else if !future.get().is_done(py) {
        Future::finish_with_result(future, value)?;
    }
    this.registry_entry.unregister(py);
    Ok(())
}

#[cold]
fn fail<'py>(task: &Bound<'py, Task>, raised: Raised<'py>) -> PyOutcome<'py, ()> {
    let py = task.py();
    let future = task.as_super();
    let stops = raised.stops_the_loop();
    let exception = raised.into_value();
    let ended = || -> PyResult<()> {
        if exception.is_instance(imports::cancelled_error(py)?)? {
            // Kept, so that its traceback shows the awaiting code where the task was cancelled.
            future.get().keep_cancelled_exception(exception.clone());
            Future::cancel(future, None)?;
        } else {
            Future::finish_with_exception(future, exception.clone())?;
        }
        task.get().registry_entry.unregister(py);
        Ok(())
    };
    ended().or_raise(py)?;
    if stops { Err(Raised::from(exception)) } else { Ok(()) }
}

/// Handles the object that the coroutine awaits.
#[inline(always)]
fn wait_for<'py>(task: &Bound<'py, Task>, awaited: Bound<'py, PyAny>) -> PyResult<()> {
    let py = task.py();
    if let Some(future) = as_exact_future(&awaited) {
        let this = future.get();
        let same_loop = task.base().event_loop(py).is_ok_and(|own| this.belongs_to(py, &own));
        if same_loop && this.is_blocking(py) && !awaited.is(task) {
            this.set_blocking(py, false);
            Future::add_callback(
                future,
                Callback::Native(task.clone().into_any().unbind(), &WAKE_TASK),
            )?;
            #[cfg(Py_3_14)]
            awaited_by::record(&awaited, task)?;
            return record_awaited(task, awaited);
        }
        let blocking = section::enter_of(future, || this.is_blocking(py));
        return throw_invalid_await(task, &awaited, same_loop, blocking);
    }
    if awaited.is_none() {
        return schedule(task, None);
    }
    foreign::wait_for(task, awaited)
}

/// Records the awaited object, and cancels it if the task was cancelled before.
#[inline(always)]
pub(super) fn record_awaited<'py>(
    task: &Bound<'py, Task>,
    awaited: Bound<'py, PyAny>,
) -> PyResult<()> {
    let py = task.py();
    let this = task.get();
    this.fut_waiter.store(py, Some(awaited.clone()));
    if this.must_cancel.get(py) {
        let message = task.base().cancel_message(py);
        if super::cancel::cancel_awaited(&awaited, message)? {
            this.must_cancel.set(py, false);
        }
    }
    Ok(())
}

/// Reports an invalid await: the next step throws RuntimeError into the coroutine, as in asyncio.
#[cold]
pub(super) fn throw_invalid_await<'py>(
    task: &Bound<'py, Task>,
    awaited: &Bound<'py, PyAny>,
    same_loop: bool,
    blocking: bool,
) -> PyResult<()> {
    let text = if !same_loop {
        format!("Task {} got Future {} attached to a different loop", task.repr()?, awaited.repr()?)
    } else if blocking {
        format!("Task cannot await on itself: {}", task.repr()?)
    } else {
        format!(
            "yield was used instead of yield from in task {} with {}",
            task.repr()?,
            awaited.repr()?
        )
    };
    throw_in_next_step(task, text)
}

#[cold]
pub(super) fn throw_in_next_step(task: &Bound<'_, Task>, text: String) -> PyResult<()> {
    let py = task.py();
    let error = PyRuntimeError::new_err(text).into_value(py).into_bound(py);
    schedule(task, Some(error))
}

/// Queues a step.
#[inline(always)]
pub(super) fn schedule<'py>(
    task: &Bound<'py, Task>,
    exception: Option<Bound<'py, PyBaseException>>,
) -> PyResult<()> {
    let py = task.py();
    let future = task.base();
    if let Some(scheduler) = future.scheduler(py).filter(|scheduler| !must_call_soon(scheduler)) {
        let scheduler = scheduler.get();
        scheduler.check_usable(py)?;
        let argument = exception.map(|exception| exception.into_any().unbind());
        let object = task.clone().into_any().unbind();
        scheduler.push(py, Runnable { kind: &STEP, object, argument, context: None });
        return Ok(());
    }
    let step = Bound::new(py, TaskStep::new(task, exception))?;
    let context = task.get().context_slot().expose(py)?;
    let context = context.unwrap_or_else(|| py.None().into_bound(py));
    let event_loop = future.event_loop(py)?;
    call::call_method_in_context(&event_loop, intern!(py, "call_soon"), step.as_any(), &context)?;
    Ok(())
}

/// A queued step as a Python callback.
pub struct StepCallback<'py> {
    /// The callable, bound to the task.
    pub callback: Bound<'py, PyAny>,
    /// For a wake-up, the future that is done.
    pub arguments: CallbackArguments,
    /// The task's context.
    pub context: Option<Bound<'py, PyAny>>,
}

/// The callback that asyncio would have queued for a step or wake-up.
pub fn step_as_callback<'py>(
    py: Python<'py>,
    runnable: &Runnable,
) -> PyResult<Option<StepCallback<'py>>> {
    let Ok(task) = runnable.object.bind(py).cast::<Task>() else { return Ok(None) };
    let argument = runnable.argument.as_ref();
    let (callback, arguments) = if std::ptr::eq(runnable.kind, &STEP) {
        let exception = argument.map(|exception| exception.bind(py).clone().cast_into());
        let step = TaskStep::new(task, exception.transpose()?);
        (Bound::new(py, step)?.into_any(), CallbackArguments::Empty)
    } else if let Some(future) = argument.filter(|_| std::ptr::eq(runnable.kind, &WAKEUP)) {
        (wakeup_callback(task)?, CallbackArguments::One(future.clone_ref(py)))
    } else {
        return Ok(None);
    };
    let context = task.get().context_slot().expose(py)?;
    Ok(Some(StepCallback { callback, arguments, context }))
}

/// A step as a Python callable, for foreign loops.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "TaskStepMethWrapper")]
pub struct TaskStep {
    task: AttachedCell<Option<Py<Task>>>,
    exception: AttachedCell<Option<Py<PyBaseException>>>,
}

impl TaskStep {
    fn new(task: &Bound<'_, Task>, exception: Option<Bound<'_, PyBaseException>>) -> Self {
        Self {
            task: AttachedCell::new(Some(task.clone().unbind())),
            exception: AttachedCell::new(exception.map(Bound::unbind)),
        }
    }
}

impl Owned for TaskStep {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        let task = slf.get().task.owner(slf.py())?.cast::<Future>().ok()?;
        task.get().owning_loop(slf.py())
    }
}

entered!(TaskStep);

#[pymethods]
impl TaskStep {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let Some(task) = self.task.get_bound(py) else { return Ok(()) };
        called_step(&task, self.exception.get_bound(py)).map_err(PyErr::from)
    }

    /// The task, which debug output shows instead of the callable.
    #[getter]
    fn __self__<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Task>> {
        self.task.get_bound(py)
    }

    /// The name of the coroutine.
    #[getter]
    fn __qualname__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let coroutine = self.task.get_bound(py).and_then(|task| task.get().coroutine(py));
        coroutine.map(|coroutine| coroutine.getattr(intern!(py, "__qualname__"))).transpose()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.task.visit(&visit)?;
        self.exception.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop((self.task.take(py), self.exception.take(py))));
    }
}
