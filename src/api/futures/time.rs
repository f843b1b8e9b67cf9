//! Sleeping and timeouts for Rust futures, on the loop's timers.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use std::{error, fmt};

use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;

use crate::api::futures::coroutine::running_loop;
use crate::api::futures::failure::wake;
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::panic::drop_catching;
use crate::ffi::section;
use crate::scheduler::{QueueEntry, Queued, RunnableKind, Scheduler, Timer, turn};

/// Waits for a duration, made by [`sleep`].
pub struct Sleep {
    started: Instant,
    duration: Duration,
    /// None before the first poll.
    scheduled: Option<ScheduledTimer>,
}

/// A timer on the loop; dropping it cancels the timer.
struct ScheduledTimer {
    scheduler: Py<Scheduler>,
    timer: Py<SleepTimer>,
    /// Not `Send`: it belongs to the loop's thread.
    _local: PhantomData<*const ()>,
}

/// Waits for `duration`, measured from this call, and never less.
///
/// ```
/// # use std::time::Duration;
/// async fn pause() {
///     ferroloop::sleep(Duration::from_millis(5)).await;
/// }
/// ```
///
/// # Panics
/// If it is polled in a thread in which no loop of ferroloop runs.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { started: Instant::now(), duration, scheduled: None }
}

impl ScheduledTimer {
    fn start(py: Python<'_>, duration: Duration) -> PyResult<Self> {
        let scheduler = running_loop(py)?;
        section::enter(&scheduler, || Self::start_on(&scheduler, duration))
    }

    fn start_on(scheduler: &Bound<'_, Scheduler>, duration: Duration) -> PyResult<Self> {
        let py = scheduler.py();
        let deadline = turn::now(scheduler)? + duration.as_secs_f64();
        let timer = SleepTimer {
            waker: AttachedCell::new(None),
            state: AttachedCell::new(TimerState::Scheduled),
        };
        let timer = Bound::new(py, timer)?;
        let entry = Timer { kind: &WAKE_SLEEPER, object: timer.clone().into_any().unbind() };
        scheduler.get().add_timer(py, deadline, entry);
        Ok(Self {
            scheduler: scheduler.clone().unbind(),
            timer: timer.unbind(),
            _local: PhantomData,
        })
    }
}

impl ScheduledTimer {
    fn cancel(&self, py: Python<'_>) {
        let timer = self.timer.get();
        drop_catching(timer.waker.take(py));
        if timer.state.get(py) == TimerState::Scheduled {
            timer.state.set(py, TimerState::Cancelled);
            drop(self.scheduler.get().cancel_timer(py, &self.timer));
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Python::attach(|py| {
            let this = &mut *self;
            let scheduled = this.scheduled.get_or_insert_with(|| {
                let left = this.duration.saturating_sub(this.started.elapsed());
                ScheduledTimer::start(py, left).unwrap_or_else(|error| panic!("sleep: {error}"))
            });
            let timer = scheduled.timer.get();
            section::enter(scheduled.scheduler.bind(py), || {
                if timer.state.get(py) == TimerState::Expired {
                    return Poll::Ready(());
                }
                drop_catching(timer.waker.replace(py, Some(context.waker().clone())));
                Poll::Pending
            })
        })
    }
}

impl Drop for ScheduledTimer {
    fn drop(&mut self) {
        // While the interpreter shuts down no timer fires any more.
        let _ = Python::try_attach(|py| {
            section::enter(self.scheduler.bind(py), || self.cancel(py));
        });
    }
}

#[derive(Clone, Copy, PartialEq)]
enum TimerState {
    /// In the loop's timers.
    Scheduled,
    /// Due, and removed from the loop's timers.
    Expired,
    /// Still in the loop's timers, which will discard it.
    Cancelled,
}

/// The object of a sleep in the loop's timers.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_TimerAlarm")]
struct SleepTimer {
    waker: AttachedCell<Option<Waker>>,
    state: AttachedCell<TimerState>,
}

static WAKE_SLEEPER: RunnableKind = RunnableKind::of::<SleepTimer>();

impl Queued for SleepTimer {
    type Object = Self;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Self>,
    ) -> PyOutcome<'py, ()> {
        let (py, timer) = (scheduler.py(), entry.object.get());
        let waker = match timer.state.get(py) {
            TimerState::Expired => timer.waker.take(py),
            _ => None,
        };
        waker.map_or(Ok(()), |waker| wake(scheduler, waker))
    }

    fn is_cancelled(timer: &Bound<'_, Self>) -> bool {
        timer.get().state.get(timer.py()) == TimerState::Cancelled
    }

    fn left_timers(timer: &Bound<'_, Self>) {
        let state = &timer.get().state;
        if state.get(timer.py()) == TimerState::Scheduled {
            state.set(timer.py(), TimerState::Expired);
        }
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
/// ```
/// # use std::time::Duration;
/// # fn main() -> pyo3::PyResult<()> {
/// let runtime = ferroloop::Runtime::new()?;
/// let never = std::future::pending::<()>();
/// let result = runtime.block_on(ferroloop::timeout(Duration::from_millis(5), never))?;
/// assert!(result.is_err());
/// runtime.close()
/// # }
/// ```
///
/// # Errors
/// [`Elapsed`] if `future` was not done in time.
///
/// # Panics
/// If it is polled in a thread in which no loop of ferroloop runs.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep(duration));
    std::future::poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        sleep.as_mut().poll(context).map(|()| Err(Elapsed))
    })
    .await
}
