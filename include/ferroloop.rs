//! Rust futures on ferroloop's event loop, for other extension modules.
//!
//! Copy this file into your PyO3 extension; it depends on `pyo3` (0.27 or later) but not on
//! ferroloop's crate. At run time it imports the Python package `ferroloop` and calls it through a
//! table of C functions (the capsule `ferroloop._ferroloop._C_API`), so the two modules may be
//! built by different compilers and with different versions of PyO3.
//!
//! ```ignore
//! mod ferroloop;
//!
//! #[pyfunction]
//! fn answer(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
//!     ferroloop::coroutine(py, "answer", async {
//!         ferroloop::sleep(Duration::from_millis(5)).await;
//!         Ok(42)
//!     })
//! }
//! ```
//!
//! What is here has the names and the meaning that it has in ferroloop's crate:
//!
//! * [`coroutine()`], [`spawn_local`] and [`spawn_local_with`] give a Rust future to Python;
//! * [`into_future`] and [`into_stream`] give a Python awaitable or asynchronous generator to Rust;
//! * [`spawn_blocking`] calls a blocking function in a thread of the loop's pool;
//!   [`run_on_executor`] runs a future on another executor, such as a Tokio runtime;
//! * [`sleep`], [`timeout`], [`yield_now`] and [`AsyncFd`] wait on the loop;
//! * [`Handle`] is for other threads: they spawn futures onto the loop and call Python there.
//!
//! Futures are made, polled and dropped in the loop's thread, with the GIL held; wakers may be
//! called in any thread and need no GIL.

#![allow(dead_code, reason = "an extension may use a part of it")]

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::ffi::{c_int, c_void};
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::{Duration, Instant};
use std::{error, fmt, io};

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyImportError, PyRuntimeError, PyStopAsyncIteration, PyTimeoutError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyCapsule};

// ---- The futures of Python and of Rust ----

/// A Python coroutine that runs `future` when it is awaited, on ferroloop's loop of this thread.
///
/// It behaves like the coroutine of an `async def` function. A panic becomes RuntimeError.
/// Cancellation drops the future.
///
/// # Errors
/// ImportError if ferroloop is not installed or older than this file.
pub fn coroutine<'py, F, T>(
    py: Python<'py>,
    name: impl Into<Cow<'static, str>>,
    future: F,
) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    let (api, name) = (api(py)?, name.into());
    // SAFETY: attached; the name lives during the call; returns a new reference or null.
    unsafe {
        let coroutine = (api.coroutine)(into_raw(converted(future)), name.as_ptr(), name.len());
        Bound::from_owned_ptr_or_err(py, coroutine)
    }
}

/// Options of a task that runs a Rust future, for [`spawn_local_with`].
#[derive(Default)]
pub struct SpawnOptions<'py> {
    /// Name of the task, by default `Task-N`.
    pub name: Option<Cow<'static, str>>,
    /// The `contextvars.Context` to run in, by default a copy of the current one.
    pub context: Option<Bound<'py, PyAny>>,
}

/// Runs `future` as a task of ferroloop's loop that runs in this thread; returns the task.
///
/// # Errors
/// RuntimeError if no loop of ferroloop runs in this thread; ImportError if ferroloop is not
/// installed or older than this file.
pub fn spawn_local<F, T>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    spawn_local_with(py, SpawnOptions::default(), future)
}

/// Like [`spawn_local`], with a name or a context.
///
/// # Errors
/// As [`spawn_local`]; TypeError if the context is not a `contextvars.Context`.
pub fn spawn_local_with<'py, F, T>(
    py: Python<'py>,
    options: SpawnOptions<'py>,
    future: F,
) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    let api = api(py)?;
    let name = options.name.as_deref();
    let (start, length) = name.map_or((ptr::null(), 0), |name| (name.as_ptr(), name.len()));
    let context = options.context.as_ref().map_or(ptr::null_mut(), Bound::as_ptr);
    // SAFETY: attached; the name and the context live during the call; returns a new reference or
    // null.
    unsafe {
        let task = (api.spawn_with)(into_raw(converted(future)), start, length, context);
        Bound::from_owned_ptr_or_err(py, task)
    }
}

/// Awaits a Python awaitable. A coroutine is wrapped in a task at once. Dropping the future cancels
/// the awaited task or future.
///
/// # Errors
/// RuntimeError if no loop of ferroloop runs in this thread; TypeError if the object is not
/// awaitable.
pub fn into_future(awaitable: Bound<'_, PyAny>) -> PyResult<PythonFuture> {
    let api = api(awaitable.py())?;
    // SAFETY: attached, a live object; `out` is valid.
    LoopFuture::made_by(awaitable.py(), |out| unsafe {
        (api.await_object)(awaitable.as_ptr(), out)
    })
}

/// A Python awaitable as a Rust future, made by [`into_future`].
pub type PythonFuture = LoopFuture;

/// Iterates over an asynchronous generator or any other asynchronous iterable.
///
/// Iteration begins with the first call of [`PythonStream::next`]. Dropping the stream cancels the
/// step that it waits for, and leaves the generator as `break` leaves it in Python.
///
/// # Errors
/// TypeError if the object is not an asynchronous iterable.
pub fn into_stream(iterable: &Bound<'_, PyAny>) -> PyResult<PythonStream> {
    let iterator = iterable.call_method0("__aiter__")?;
    Ok(PythonStream { iterator: Some(iterator.unbind()), step: None })
}

/// An asynchronous iterator of Python, made by [`into_stream`].
///
/// `futures_util::stream::poll_fn(move |context| stream.poll_next(context))` makes a `Stream` of
/// it.
pub struct PythonStream {
    /// None after the end.
    iterator: Option<Py<PyAny>>,
    step: Option<PythonFuture>,
}

impl PythonStream {
    /// The next item, or None at the end. After an exception the end follows, as for a generator.
    pub async fn next(&mut self) -> Option<PyResult<Py<PyAny>>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`PythonStream::next`] for implementations of `Stream`.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<PyResult<Py<PyAny>>>> {
        let Some(iterator) = &self.iterator else { return Poll::Ready(None) };
        let step = match &mut self.step {
            Some(step) => step,
            None => {
                let step =
                    Python::attach(|py| into_future(iterator.bind(py).call_method0("__anext__")?));
                match step {
                    Ok(step) => self.step.insert(step),
                    Err(error) => return Poll::Ready(self.ended(error)),
                }
            }
        };
        let Poll::Ready(item) = Pin::new(step).poll(context) else { return Poll::Pending };
        self.step = None;
        Poll::Ready(item.map_or_else(|error| self.ended(error), |item| Some(Ok(item))))
    }

    fn ended(&mut self, error: PyErr) -> Option<PyResult<Py<PyAny>>> {
        self.iterator = None;
        let is_end = Python::attach(|py| error.is_instance_of::<PyStopAsyncIteration>(py));
        (!is_end).then_some(Err(error))
    }
}

// ---- Other threads and executors ----

/// The return value of a call, or the message of its panic.
type Outcome<T> = Arc<Mutex<Option<Result<T, String>>>>;

/// Waits for a call in the default executor, made by [`spawn_blocking`].
///
/// Dropping it cancels the call if no thread has begun it.
pub struct Blocking<T> {
    done: PythonFuture,
    result: Outcome<T>,
}

/// Calls `function` in a thread of the loop's default executor, with the GIL released.
///
/// The output is the function's return value. It is RuntimeError if the function panics or if the
/// executor is shut down before it makes the call.
///
/// # Errors
/// RuntimeError if no loop of ferroloop runs in this thread, or its executor was shut down.
pub fn spawn_blocking<F, T>(py: Python<'_>, function: F) -> PyResult<Blocking<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let event_loop = running_loop(py)?;
    let result: Outcome<T> = Arc::default();
    // Python drops the job, also if it was cancelled.
    let call = CatchOnDrop(Some((Mutex::new(Some(function)), result.clone())));
    let job = PyCFunction::new_closure(py, None, None, move |arguments, _keywords| {
        let Some((function, slot)) = &call.0 else { return };
        let function = locked(function).take();
        if let Some(function) = function {
            arguments.py().detach(|| {
                let outcome = catch_unwind(AssertUnwindSafe(function)).map_err(message_of);
                *locked(slot) = Some(outcome);
            });
        }
    })?;
    let future = event_loop.call_method1("run_in_executor", (py.None(), job))?;
    Ok(Blocking { done: into_future(future)?, result })
}

impl<T> Future for Blocking<T> {
    type Output = PyResult<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(done) = Pin::new(&mut self.done).poll(context) else {
            return Poll::Pending;
        };
        Poll::Ready(match (done, locked(&self.result).take()) {
            (_, Some(Ok(value))) => Ok(value),
            (_, Some(Err(message))) => Err(panicked(&message)),
            (Err(error), None) => Err(error),
            (Ok(_), None) => Err(PyRuntimeError::new_err("the executor did not make the call")),
        })
    }
}

/// Runs `future` on another executor, for example a Tokio runtime, whose timers and sockets it may
/// then use. `spawn` must spawn the future that it is called with.
///
/// Dropping the returned future, as cancelling its task does, drops `future` on its executor as
/// soon as that polls it again, which it is told to do at once.
///
/// ```ignore
/// let body = run_on_executor(|task| runtime.spawn(task), async { fetch().await }).await?;
/// ```
///
/// The output is RuntimeError if `future` panics or if the executor drops it.
pub fn run_on_executor<F, R>(
    spawn: impl FnOnce(ExecutorTask<F>) -> R,
    future: F,
) -> ExecutorFuture<F::Output>
where
    F: Future,
{
    let shared = Arc::new(Mutex::new(Remote {
        outcome: None,
        ended: false,
        cancelled: false,
        task: None,
        waiter: None,
    }));
    drop(spawn(ExecutorTask { future: Some(Box::pin(future)), shared: shared.clone() }));
    ExecutorFuture(shared)
}

/// What an [`ExecutorTask`] and its [`ExecutorFuture`] share.
struct Remote<T> {
    outcome: Option<Result<T, PyErr>>,
    /// The task is done or was dropped.
    ended: bool,
    cancelled: bool,
    task: Option<Waker>,
    waiter: Option<Waker>,
}

/// The future that another executor polls: see [`run_on_executor`].
pub struct ExecutorTask<F: Future> {
    /// None once it is done or cancelled.
    future: Option<Pin<Box<F>>>,
    shared: Arc<Mutex<Remote<F::Output>>>,
}

/// Waits for a future that runs on another executor, made by [`run_on_executor`].
pub struct ExecutorFuture<T>(Arc<Mutex<Remote<T>>>);

impl<F: Future> ExecutorTask<F> {
    fn drop_future(&mut self) {
        catch(|| self.future = None);
    }

    fn end(&mut self, outcome: Option<PyResult<F::Output>>) {
        let mut shared = locked(&self.shared);
        shared.ended = true;
        shared.outcome = outcome;
        let wakers = (shared.waiter.take(), shared.task.take());
        drop(shared);
        if let Some(waiter) = wakers.0 {
            waiter.wake();
        }
    }
}

impl<F: Future> Future for ExecutorTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(future) = &mut this.future else { return Poll::Ready(()) };
        let mut shared = locked(&this.shared);
        let is_cancelled = shared.cancelled;
        let unused = shared.task.replace(context.waker().clone());
        drop(shared);
        drop(unused);
        if is_cancelled {
            this.drop_future();
            this.end(None);
            return Poll::Ready(());
        }
        let outcome = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(payload) => Err(panicked(&message_of(payload))),
        };
        this.drop_future();
        this.end(Some(outcome));
        Poll::Ready(())
    }
}

impl<F: Future> Drop for ExecutorTask<F> {
    fn drop(&mut self) {
        if self.future.is_some() {
            self.drop_future();
            self.end(None);
        }
    }
}

impl<T> Future for ExecutorFuture<T> {
    type Output = PyResult<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut shared = locked(&self.0);
        if !shared.ended {
            let unused = shared.waiter.replace(context.waker().clone());
            drop(shared);
            drop(unused);
            return Poll::Pending;
        }
        Poll::Ready(shared.outcome.take().unwrap_or_else(|| {
            Err(PyRuntimeError::new_err("the executor dropped the future before it was done"))
        }))
    }
}

impl<T> Drop for ExecutorFuture<T> {
    fn drop(&mut self) {
        let mut shared = locked(&self.0);
        shared.cancelled = true;
        let wakers = (shared.task.take(), shared.waiter.take());
        drop(shared);
        if let Some(task) = wakers.0 {
            task.wake();
        }
    }
}

/// Refers to a loop from any thread: it holds no Python object and its methods need no GIL.
///
/// A handle does not keep the loop open.
pub struct Handle {
    data: *const c_void,
    functions: &'static HandleFunctions,
}

// SAFETY: the functions of a handle may be called in any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// The loop that runs in this thread.
    ///
    /// # Errors
    /// RuntimeError if no loop of ferroloop runs in this thread; ImportError if ferroloop is not
    /// installed or older than this file.
    pub fn current(py: Python<'_>) -> PyResult<Self> {
        Self::of(&running_loop(py)?)
    }

    /// The loop that is this Python object.
    ///
    /// # Errors
    /// TypeError if the object is not a loop of ferroloop; ImportError if ferroloop is not
    /// installed or older than this file.
    pub fn of(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = event_loop.py();
        let mut raw = RawHandle { data: ptr::null(), functions: ptr::null() };
        // SAFETY: attached, a live object; `raw` is valid.
        if unsafe { (api(py)?.handle)(event_loop.as_ptr(), &mut raw) } != 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: the functions live as long as the process.
        Ok(Self { data: raw.data, functions: unsafe { &*raw.functions } })
    }

    /// Runs `future` as a task of the loop. Any thread can await or join its output.
    ///
    /// # Errors
    /// [`Closed`] if the loop is closed.
    pub fn spawn<F>(&self, future: F) -> Result<JoinHandle<F::Output>, Closed>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_with(move || future)
    }

    /// Like [`Handle::spawn`], for a future that is not `Send`: `make` is called in the loop's
    /// thread.
    ///
    /// # Errors
    /// [`Closed`] if the loop is closed.
    pub fn spawn_with<M, F>(&self, make: M) -> Result<JoinHandle<F::Output>, Closed>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let (sender, handle) = output_channel();
        self.call(move |event_loop| {
            let future = make();
            let task_body = async move {
                sender.send(future.await);
                Ok(())
            };
            spawn_local(event_loop.py(), task_body).map(drop)
        })?;
        Ok(handle)
    }

    /// Calls `function` with the loop, in the loop's thread, between two callbacks. Errors and
    /// panics of the function go to the loop's exception handler.
    ///
    /// # Errors
    /// [`Closed`] if the loop is closed.
    pub fn call<F>(&self, function: F) -> Result<(), Closed>
    where
        F: for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<()> + Send + 'static,
    {
        let call = RawCall {
            data: Box::into_raw(Box::new(function)).cast(),
            functions: const { &CallFunctions { call: call_boxed::<F>, drop: drop_boxed::<F> } },
        };
        // SAFETY: valid data, which this handle owns.
        let posted = unsafe { (self.functions.call)(self.data, call) };
        if posted == 0 { Ok(()) } else { Err(Closed) }
    }

    /// Stops the loop after its current turn, as `loop.stop()` does.
    ///
    /// # Errors
    /// [`Closed`] if the loop is closed.
    pub fn stop(&self) -> Result<(), Closed> {
        self.call(|event_loop| event_loop.call_method0("stop").map(drop))
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        // SAFETY: valid data, which this handle owns.
        Self { data: unsafe { (self.functions.clone)(self.data) }, functions: self.functions }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the last use of the data.
        unsafe { (self.functions.drop)(self.data) };
    }
}

/// The loop is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the event loop is closed")
    }
}

impl error::Error for Closed {}

/// RuntimeError, with the text that the loop's own methods raise.
impl From<Closed> for PyErr {
    fn from(_: Closed) -> Self {
        PyRuntimeError::new_err("Event loop is closed")
    }
}

/// Waits for the output of a future spawned by a [`Handle`]: as a future of any executor, or by
/// blocking with [`JoinHandle::join`].
///
/// Dropping it does not cancel the future.
pub struct JoinHandle<T>(Arc<JoinShared<T>>);

/// Why a [`JoinHandle`] gives no output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinError {
    /// The future was dropped before it was done: its task was cancelled, it panicked, or its loop
    /// was closed.
    Dropped,
}

impl fmt::Display for JoinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the future was dropped before it was done")
    }
}

impl error::Error for JoinError {}

/// RuntimeError.
impl From<JoinError> for PyErr {
    fn from(error: JoinError) -> Self {
        PyRuntimeError::new_err(error.to_string())
    }
}

struct JoinShared<T> {
    state: Mutex<JoinState<T>>,
    ended: Condvar,
}

enum JoinState<T> {
    Pending(Option<Waker>),
    Done(T),
    Dropped,
}

/// The sending end. Dropping it without an output makes the other end fail.
struct OutputSender<T>(Arc<JoinShared<T>>);

fn output_channel<T>() -> (OutputSender<T>, JoinHandle<T>) {
    let state = Mutex::new(JoinState::Pending(None));
    let shared = Arc::new(JoinShared { state, ended: Condvar::new() });
    (OutputSender(shared.clone()), JoinHandle(shared))
}

impl<T> JoinShared<T> {
    fn end(&self, outcome: JoinState<T>) {
        let before = std::mem::replace(&mut *locked(&self.state), outcome);
        self.ended.notify_all();
        if let JoinState::Pending(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> OutputSender<T> {
    fn send(self, value: T) {
        self.0.end(JoinState::Done(value));
    }
}

impl<T> Drop for OutputSender<T> {
    fn drop(&mut self) {
        if matches!(*locked(&self.0.state), JoinState::Pending(_)) {
            self.0.end(JoinState::Dropped);
        }
    }
}

impl<T> JoinHandle<T> {
    /// Blocks until the future is done or dropped.
    ///
    /// It deadlocks if it is called in the loop's thread, or with the GIL held, since the future
    /// cannot run then: release the GIL with [`Python::detach`].
    ///
    /// # Errors
    /// If the future was dropped before it was done.
    pub fn join(self) -> Result<T, JoinError> {
        let mut state = locked(&self.0.state);
        loop {
            match std::mem::replace(&mut *state, JoinState::Dropped) {
                JoinState::Done(value) => return Ok(value),
                JoinState::Dropped => return Err(JoinError::Dropped),
                pending @ JoinState::Pending(_) => {
                    *state = pending;
                    state = self.0.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = locked(&self.0.state);
        if let JoinState::Pending(waker) = &mut *state {
            let unused = waker.replace(context.waker().clone());
            drop(state);
            drop(unused);
            return Poll::Pending;
        }
        match std::mem::replace(&mut *state, JoinState::Dropped) {
            JoinState::Done(value) => Poll::Ready(Ok(value)),
            _ => Poll::Ready(Err(JoinError::Dropped)),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- Time and descriptors ----

/// Waits for a duration, made by [`sleep`].
pub struct Sleep {
    started: Instant,
    duration: Duration,
    /// None before the first poll.
    timer: Option<LoopFuture>,
}

/// Waits for `duration`, measured from this call, and never less.
///
/// # Panics
/// If it is polled in a thread in which no loop of ferroloop runs.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { started: Instant::now(), duration, timer: None }
}

impl Sleep {
    /// Longer sleeps end after this time, which the C function can express.
    const LONGEST: Duration = Duration::from_secs(1 << 40);

    fn start(left: Duration) -> PyResult<LoopFuture> {
        Python::attach(|py| {
            let api = api(py)?;
            let seconds = left.min(Self::LONGEST).as_secs_f64();
            // SAFETY: attached; `out` is valid.
            LoopFuture::made_by(py, |out| unsafe { (api.sleep)(seconds, out) })
        })
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let timer = this.timer.get_or_insert_with(|| {
            let left = this.duration.saturating_sub(this.started.elapsed());
            Self::start(left).unwrap_or_else(|error| panic!("sleep: {error}"))
        });
        Pin::new(timer).poll(context).map(|slept| {
            if let Err(error) = slept {
                panic!("sleep: {error}");
            }
        })
    }
}

/// The future of a [`timeout`] was not done in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the time is up")
    }
}

impl error::Error for Elapsed {}

/// TimeoutError, as `asyncio.timeout()` raises.
impl From<Elapsed> for PyErr {
    fn from(_: Elapsed) -> Self {
        PyTimeoutError::new_err(())
    }
}

/// Waits for `future` for at most `duration`, then drops it.
///
/// # Errors
/// [`Elapsed`] if `future` was not done in time.
///
/// # Panics
/// If it is polled in a thread in which no loop of ferroloop runs.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep(duration));
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        sleep.as_mut().poll(context).map(|()| Err(Elapsed))
    })
    .await
}

/// Yields to other callbacks; ready in the loop's next turn.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Data, a connection, end of file or an error can be read.
    Read,
    /// Something can be written.
    Write,
}

/// A descriptor whose readiness can be awaited on the loop of this thread.
///
/// One task at a time can wait for a direction: [`AsyncFd::ready`] and [`AsyncFd::io`] fail in a
/// second one. So does every wait for a descriptor that a transport, `add_reader()` or another
/// `AsyncFd` uses.
///
/// The descriptor must be non-blocking, or [`AsyncFd::io`] may block the loop. Regular files do not
/// work: epoll does not accept them.
pub struct AsyncFd<T: AsRawFd>(T);

impl<T: AsRawFd> AsyncFd<T> {
    /// Takes ownership of a descriptor. It is registered while a task waits for it.
    ///
    /// # Errors
    /// If no loop of ferroloop runs in this thread.
    pub fn new(inner: T) -> io::Result<Self> {
        Python::attach(|py| running_loop(py).map(drop)).map_err(io::Error::other)?;
        Ok(Self(inner))
    }

    /// The owner of the descriptor that was passed to [`AsyncFd::new`].
    pub fn get_ref(&self) -> &T {
        &self.0
    }

    /// Returns the owner of the descriptor.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// Calls `operation`, again if it is interrupted or if it fails with
    /// [`io::ErrorKind::WouldBlock`], then as soon as the descriptor is ready.
    ///
    /// # Errors
    /// Errors of the operation, and of registering the descriptor with the poller.
    pub async fn io<R>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            match operation(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready(direction).await?;
                }
                other => return other,
            }
        }
    }

    /// Waits until the descriptor is ready, for operations that cannot simply be tried, as
    /// [`AsyncFd::io`] does.
    ///
    /// # Errors
    /// Errors of registering the descriptor with the poller.
    pub async fn ready(&self, direction: Direction) -> io::Result<()> {
        let direction = match direction {
            Direction::Read => READ,
            Direction::Write => WRITE,
        };
        let fd: RawFd = self.0.as_raw_fd();
        let ready = Python::attach(|py| {
            let api = api(py)?;
            // SAFETY: attached; `out` is valid.
            LoopFuture::made_by(py, |out| unsafe { (api.ready)(fd, direction, out) })
        })?;
        Ok(ready.await.map(drop)?)
    }
}

// ---- The table of C functions ----

/// The version of [`Api`]. New functions are added at its end, and do not change the version: the
/// size of the table tells which there are.
pub const VERSION: u32 = 1;

/// [`FutureFunctions::poll`]: not ready; the waker will be called.
pub const PENDING: c_int = 0;
/// [`FutureFunctions::poll`]: done; the result is a new reference.
pub const READY: c_int = 1;
/// [`FutureFunctions::poll`]: done; an exception is set.
pub const FAILED: c_int = -1;

/// [`Api::ready`]: data, a connection, end of file or an error can be read.
pub const READ: c_int = 0;
/// [`Api::ready`]: something can be written.
pub const WRITE: c_int = 1;

/// A future, owned by the holder of this struct. All functions must be called in the thread that
/// created it, with the GIL held.
#[repr(C)]
pub struct RawFuture {
    /// The argument of the functions.
    pub data: *mut c_void,
    /// The functions.
    pub functions: *const FutureFunctions,
}

/// The functions of a [`RawFuture`]. None of them may unwind.
#[repr(C)]
pub struct FutureFunctions {
    /// Polls the future; returns [`PENDING`], [`READY`] or [`FAILED`], and must not be called again
    /// after the latter two. The waker is borrowed: the future must clone it to keep it.
    pub poll: unsafe extern "C" fn(
        data: *mut c_void,
        waker: *const BorrowedWaker,
        result: *mut *mut ffi::PyObject,
    ) -> c_int,
    /// Drops the future, whether it is done or not. Must be the last call.
    pub drop: unsafe extern "C" fn(data: *mut c_void),
}

/// A waker. Its functions may be called in any thread, without the GIL.
#[repr(C)]
pub struct BorrowedWaker {
    /// The argument of the functions.
    pub data: *const c_void,
    /// The functions.
    pub functions: *const WakerFunctions,
}

/// The functions of a waker.
#[repr(C)]
pub struct WakerFunctions {
    /// Returns a new reference, as data for the same functions.
    pub clone: unsafe extern "C" fn(data: *const c_void) -> *const c_void,
    /// Wakes the task; does not release the reference.
    pub wake: unsafe extern "C" fn(data: *const c_void),
    /// Releases a reference that `clone` has returned.
    pub drop: unsafe extern "C" fn(data: *const c_void),
}

/// A handle of a loop, owned by the holder of this struct.
#[repr(C)]
pub struct RawHandle {
    /// The argument of the functions.
    pub data: *const c_void,
    /// The functions, which live as long as the process.
    pub functions: *const HandleFunctions,
}

/// The functions of a [`RawHandle`]. They may be called in any thread, without the GIL.
#[repr(C)]
pub struct HandleFunctions {
    /// Returns a new reference, as data for the same functions.
    pub clone: unsafe extern "C" fn(data: *const c_void) -> *const c_void,
    /// Arranges for the call, of which it takes ownership, to be made in the loop's thread between
    /// two callbacks. Returns 0, or -1 if the loop is closed.
    pub call: unsafe extern "C" fn(data: *const c_void, RawCall) -> c_int,
    /// Releases the reference.
    pub drop: unsafe extern "C" fn(data: *const c_void),
}

/// A call to be made in a loop's thread. One of the functions is called, once.
#[repr(C)]
pub struct RawCall {
    /// The argument of the functions.
    pub data: *mut c_void,
    /// The functions, which live as long as the process.
    pub functions: *const CallFunctions,
}

/// The functions of a [`RawCall`]. None of them may unwind.
#[repr(C)]
pub struct CallFunctions {
    /// Makes the call and releases the data. Called with the GIL held; the loop is borrowed.
    /// Returns 0, or -1 with an exception set.
    pub call: unsafe extern "C" fn(data: *mut c_void, event_loop: *mut ffi::PyObject) -> c_int,
    /// Releases the data without a call: the loop was closed before. Called in any thread, with or
    /// without the GIL.
    pub drop: unsafe extern "C" fn(data: *mut c_void),
}

/// The table that the capsule points to. All functions need the GIL. On failure they set an
/// exception and return null or -1.
#[repr(C)]
pub struct Api {
    /// [`VERSION`] of the module that owns the table.
    pub version: u32,
    /// The size of the table in bytes.
    pub size: u32,
    /// Returns a coroutine (a new reference) that runs the future. It takes ownership of the future
    /// even on failure. The name is UTF-8 of `length` bytes, and is copied.
    pub coroutine:
        unsafe extern "C" fn(RawFuture, name: *const u8, length: usize) -> *mut ffi::PyObject,
    /// Like `coroutine`, but returns a task of the running loop. If `name` is null, the task gets a
    /// default name.
    pub spawn:
        unsafe extern "C" fn(RawFuture, name: *const u8, length: usize) -> *mut ffi::PyObject,
    /// Makes a future that awaits a Python awaitable, of which it takes a new reference.
    pub await_object: unsafe extern "C" fn(*mut ffi::PyObject, *mut RawFuture) -> c_int,
    /// Makes a future whose output, after `seconds`, is None.
    pub sleep: unsafe extern "C" fn(seconds: f64, *mut RawFuture) -> c_int,
    /// Makes a future whose output is None as soon as the descriptor is ready in direction [`READ`]
    /// or [`WRITE`]. The descriptor must stay open until the future is dropped.
    pub ready: unsafe extern "C" fn(fd: c_int, direction: c_int, *mut RawFuture) -> c_int,
    /// Returns ferroloop's loop that runs in this thread (a new reference).
    pub running_loop: unsafe extern "C" fn() -> *mut ffi::PyObject,
    /// Like `spawn`, in a context (a `contextvars.Context`, borrowed), or in a copy of the current
    /// one if that is null.
    pub spawn_with: unsafe extern "C" fn(
        RawFuture,
        name: *const u8,
        length: usize,
        context: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject,
    /// Makes a handle of a loop (borrowed), which must be one of ferroloop.
    pub handle: unsafe extern "C" fn(event_loop: *mut ffi::PyObject, *mut RawHandle) -> c_int,
}

/// The name of the capsule.
pub const CAPSULE: &std::ffi::CStr = c"ferroloop._ferroloop._C_API";

fn api(py: Python<'_>) -> PyResult<&'static Api> {
    struct Table(&'static Api);
    static TABLE: PyOnceLock<Table> = PyOnceLock::new();
    let find = || {
        let module = py.import("ferroloop")?.getattr("_ferroloop")?;
        let capsule = module.getattr("_C_API")?;
        let capsule = capsule.cast::<PyCapsule>()?;
        let pointer: NonNull<Api> = capsule.pointer_checked(Some(CAPSULE))?.cast();
        // SAFETY: a capsule of this name points to a table that lives as long as the process and
        // begins with these two numbers. What it lacks is not read.
        let [version, size] = unsafe { pointer.cast::<[u32; 2]>().read() };
        if version != VERSION || (size as usize) < size_of::<Api>() {
            return Err(PyImportError::new_err("this extension needs a newer ferroloop"));
        }
        // SAFETY: the table has all fields.
        Ok(Table(unsafe { pointer.as_ref() }))
    };
    Ok(TABLE.get_or_try_init(py, find)?.0)
}

/// The loop of ferroloop that runs in this thread.
fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let api = api(py)?;
    // SAFETY: attached; returns a new reference or null.
    unsafe { Bound::from_owned_ptr_or_err(py, (api.running_loop)()) }
}

/// A future that ferroloop has made. It is not `Send`.
pub struct LoopFuture {
    raw: RawFuture,
    _local: PhantomData<*const ()>,
}

impl LoopFuture {
    /// # Safety
    /// `raw` has no other owner, and its functions fulfil the contract of [`FutureFunctions`].
    pub unsafe fn from_raw(raw: RawFuture) -> Self {
        Self { raw, _local: PhantomData }
    }

    fn made_by(py: Python<'_>, make: impl FnOnce(*mut RawFuture) -> c_int) -> PyResult<Self> {
        let mut raw = RawFuture { data: ptr::null_mut(), functions: ptr::null() };
        if make(&mut raw) != 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: just made, and not used elsewhere.
        Ok(unsafe { Self::from_raw(raw) })
    }
}

impl Future for LoopFuture {
    type Output = PyResult<Py<PyAny>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Valid during the poll, as `WAKER_FUNCTIONS` require.
        let waker = BorrowedWaker {
            data: ptr::from_ref(context.waker()).cast(),
            functions: &WAKER_FUNCTIONS,
        };
        Python::attach(|py| {
            let mut result = ptr::null_mut();
            // SAFETY: attached, in the future's thread; both pointers are valid during the call.
            match unsafe { ((*self.raw.functions).poll)(self.raw.data, &waker, &mut result) } {
                PENDING => Poll::Pending,
                // SAFETY: a new reference.
                READY => Poll::Ready(Ok(unsafe { Bound::from_owned_ptr(py, result) }.unbind())),
                _ => Poll::Ready(Err(PyErr::fetch(py))),
            }
        })
    }
}

impl Drop for LoopFuture {
    fn drop(&mut self) {
        // While the interpreter shuts down the future is leaked.
        let _ = Python::try_attach(|_py| {
            // SAFETY: attached, in the future's thread; dropped once.
            unsafe { ((*self.raw.functions).drop)(self.raw.data) };
        });
    }
}

/// Converts the output of a future to a Python object: `()` to None.
async fn converted<F, T>(future: F) -> PyResult<Py<PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'a> IntoPyObject<'a> + 'static,
{
    let value = future.await?;
    Python::attach(|py| {
        let is_unit = TypeId::of::<T>() == TypeId::of::<()>();
        if is_unit { Ok(py.None()) } else { value.into_py_any(py) }
    })
}

/// The exception for a panic.
#[cold]
fn panicked(message: &str) -> PyErr {
    PyRuntimeError::new_err(format!("Rust future panicked: {message}"))
}

unsafe extern "C" fn call_boxed<F>(data: *mut c_void, event_loop: *mut ffi::PyObject) -> c_int
where
    F: for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<()>,
{
    // SAFETY: the box of `Handle::call`, used once.
    let function = unsafe { Box::from_raw(data.cast::<F>()) };
    Python::attach(|py| {
        // SAFETY: the caller passes a live object.
        let event_loop = unsafe { Bound::from_borrowed_ptr(py, event_loop) };
        let called = catch_unwind(AssertUnwindSafe(|| function(&event_loop)));
        match called.unwrap_or_else(|payload| Err(panicked(&message_of(payload)))) {
            Ok(()) => 0,
            Err(error) => {
                error.restore(py);
                -1
            }
        }
    })
}

/// Makes a future of this module usable by ferroloop.
pub fn into_raw<F: Future<Output = PyResult<Py<PyAny>>> + 'static>(future: F) -> RawFuture {
    RawFuture {
        data: Box::into_raw(Box::new(future)).cast(),
        functions: const { &FutureFunctions { poll: poll_boxed::<F>, drop: drop_boxed::<F> } },
    }
}

unsafe extern "C" fn poll_boxed<F: Future<Output = PyResult<Py<PyAny>>>>(
    data: *mut c_void,
    waker: *const BorrowedWaker,
    result: *mut *mut ffi::PyObject,
) -> c_int {
    // SAFETY: `data` is the box of `into_raw`, which nothing else accesses during the call and
    // which does not move until it is dropped.
    let future = unsafe { Pin::new_unchecked(&mut *data.cast::<F>()) };
    // SAFETY: the waker is valid during the call, and this one, which borrows it, is not used
    // longer.
    let waker = ManuallyDrop::new(unsafe { Waker::new(waker.cast(), &BORROWED) });
    let polled = catch_unwind(AssertUnwindSafe(|| future.poll(&mut Context::from_waker(&waker))));
    Python::attach(|py| match polled {
        Ok(Poll::Pending) => PENDING,
        Ok(Poll::Ready(Ok(value))) => {
            // SAFETY: a valid pointer, through which the caller takes the reference.
            unsafe { *result = value.into_ptr() };
            READY
        }
        Ok(Poll::Ready(Err(error))) => {
            error.restore(py);
            FAILED
        }
        Err(payload) => {
            panicked(&message_of(payload)).restore(py);
            FAILED
        }
    })
}

unsafe extern "C" fn drop_boxed<F>(data: *mut c_void) {
    // SAFETY: a box of `into_raw` or of `Handle::call`, dropped once.
    let future = unsafe { Box::from_raw(data.cast::<F>()) };
    catch(|| drop(future));
}

/// Calls `body`. The panic hook has reported a panic of it, which must not unwind into C.
fn catch<R>(body: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(body)).map_err(message_of).ok()
}

/// Catches a panic of the value's destructor.
struct CatchOnDrop<T>(Option<T>);

impl<T> Drop for CatchOnDrop<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        catch(|| drop(value));
    }
}

/// The message of a caught panic. Drops the payload.
fn message_of(payload: Box<dyn Any + Send>) -> String {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown reason")
        .to_owned();
    // Dropping the payload may panic as well. That one's payload is leaked, or this might not end.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    message
}

/// An owned reference to one of ferroloop's wakers.
struct OwnedWaker {
    data: *const c_void,
    functions: *const WakerFunctions,
}

impl OwnedWaker {
    /// # Safety
    /// The waker must be valid, and its functions must live as long as the process.
    unsafe fn raw(data: *const c_void, functions: *const WakerFunctions) -> RawWaker {
        // SAFETY: by the contract of this function.
        let data = unsafe { ((*functions).clone)(data) };
        let owned = Box::new(OwnedWaker { data, functions });
        RawWaker::new(Box::into_raw(owned).cast_const().cast(), &OWNED)
    }
}

/// For a [`BorrowedWaker`] during a poll.
static BORROWED: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: the pointer is to a waker that is valid during the poll.
        unsafe {
            let waker = &*data.cast::<BorrowedWaker>();
            OwnedWaker::raw(waker.data, waker.functions)
        }
    },
    wake_borrowed,
    wake_borrowed,
    |_data| {},
);

unsafe fn wake_borrowed(data: *const ()) {
    // SAFETY: the pointer is to a waker that is valid during the poll.
    unsafe {
        let waker = &*data.cast::<BorrowedWaker>();
        ((*waker.functions).wake)(waker.data);
    }
}

/// For a boxed [`OwnedWaker`], which works in any thread.
static OWNED: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: the pointer is to a box made by `OwnedWaker::raw`.
        unsafe {
            let waker = &*data.cast::<OwnedWaker>();
            OwnedWaker::raw(waker.data, waker.functions)
        }
    },
    |data| {
        // SAFETY: as above; the last use of the box.
        unsafe {
            let waker = Box::from_raw(data.cast_mut().cast::<OwnedWaker>());
            ((*waker.functions).wake)(waker.data);
            ((*waker.functions).drop)(waker.data);
        }
    },
    |data| {
        // SAFETY: as the first.
        unsafe {
            let waker = &*data.cast::<OwnedWaker>();
            ((*waker.functions).wake)(waker.data);
        }
    },
    |data| {
        // SAFETY: as above; the last use of the box.
        unsafe {
            let waker = Box::from_raw(data.cast_mut().cast::<OwnedWaker>());
            ((*waker.functions).drop)(waker.data);
        }
    },
);

/// Wakers of this module for ferroloop. The data is a pointer to a `Waker`, borrowed during a poll
/// or owned and boxed.
static WAKER_FUNCTIONS: WakerFunctions =
    WakerFunctions { clone: clone_waker, wake: wake_waker, drop: drop_waker };

unsafe extern "C" fn clone_waker(data: *const c_void) -> *const c_void {
    // SAFETY: a live waker.
    let waker = unsafe { &*data.cast::<Waker>() };
    // A waker that panics when it is cloned wakes no task.
    let clone = catch(|| waker.clone()).unwrap_or_else(|| Waker::noop().clone());
    Box::into_raw(Box::new(clone)).cast_const().cast()
}

unsafe extern "C" fn wake_waker(data: *const c_void) {
    // SAFETY: a live waker.
    let waker = unsafe { &*data.cast::<Waker>() };
    catch(|| waker.wake_by_ref());
}

unsafe extern "C" fn drop_waker(data: *const c_void) {
    // SAFETY: a box of `clone_waker`, dropped once.
    let waker = unsafe { Box::from_raw(data.cast_mut().cast::<Waker>()) };
    catch(|| drop(waker));
}
