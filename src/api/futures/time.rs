//! Time for Rust futures: the timers of the loop.

#![forbid(unsafe_code)]

use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use std::{error, fmt};

use pyo3::prelude::*;

use crate::api::futures::coroutine::running;
use crate::ffi::objects::cell::AttachedCell;
use crate::scheduler::runnable::{describe_object, nothing_to_note};
use crate::scheduler::{RunnableKind, Scheduler, Timer, turn};

/// Waits until a time has passed, made by [`sleep`].
pub struct Sleep {
    started: Instant,
    duration: Duration,
    /// What waits among the timers, from the first poll on.
    entry: Option<Entry>,
}

/// Belongs to the loop's thread.
struct Entry {
    scheduler: Py<Scheduler>,
    wake_signal: Py<TimerAlarm>,
    _local: PhantomData<*const ()>,
}

/// Waits for `duration`, counted from this call; never ends early.
///
/// ```
/// # use std::time::Duration;
/// async fn blink() {
///     ferroloop::sleep(Duration::from_millis(5)).await;
/// }
/// ```
///
/// # Panics
/// When it is polled where no loop of ferroloop runs.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { started: Instant::now(), duration, entry: None }
}

impl Entry {
    fn start(py: Python<'_>, duration: Duration) -> PyResult<Self> {
        let scheduler = running(py)?;
        let deadline = turn::now(&scheduler)? + duration.as_secs_f64();
        let wake_signal =
            TimerAlarm { waker: AttachedCell::new(None), stage: AttachedCell::new(Stage::Armed) };
        let wake_signal = Bound::new(py, wake_signal)?;
        let timer = Timer { kind: &DUE, object: wake_signal.clone().into_any().unbind() };
        scheduler.get().timers.with(py, |timers| timers.push(deadline, timer));
        Ok(Self {
            scheduler: scheduler.unbind(),
            wake_signal: wake_signal.unbind(),
            _local: PhantomData,
        })
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Python::attach(|py| {
            let this = &mut *self;
            let entry = this.entry.get_or_insert_with(|| {
                let left = this.duration.saturating_sub(this.started.elapsed());
                Entry::start(py, left).unwrap_or_else(|error| panic!("sleep: {error}"))
            });
            let wake_signal = entry.wake_signal.get();
            if wake_signal.stage.get(py) == Stage::Rung {
                return Poll::Ready(());
            }
            drop(wake_signal.waker.replace(py, Some(context.waker().clone())));
            Poll::Pending
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // While the interpreter ends nothing rings any more.
        let _ = Python::try_attach(|py| {
            let wake_signal = self.wake_signal.get();
            drop(wake_signal.waker.take(py));
            if wake_signal.stage.get(py) != Stage::Armed {
                return;
            }
            wake_signal.stage.set(py, Stage::Cancelled);
            let removed = self.scheduler.get().timers.with(py, |timers| {
                let taken = timers.take_last_if(|last| last.object.is(&self.wake_signal));
                if taken.is_none() {
                    timers.note_cancelled();
                }
                taken
            });
            drop(removed);
        });
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// In the timers.
    Armed,
    /// Due; no longer in the timers.
    Rung,
    /// In the timers, to be thrown out.
    Cancelled,
}

/// What a sleep has among the timers.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_TimerAlarm")]
struct TimerAlarm {
    waker: AttachedCell<Option<Waker>>,
    stage: AttachedCell<Stage>,
}

static DUE: RunnableKind = RunnableKind {
    run: |scheduler, runnable| {
        let py = scheduler.py();
        if let Ok(wake_signal) = runnable.object.bind(py).cast::<TimerAlarm>()
            && wake_signal.get().stage.get(py) == Stage::Rung
            && let Some(waker) = wake_signal.get().waker.take(py)
        {
            waker.wake();
        }
        Ok(())
    },
    cancelled: |object| {
        let wake_signal = object.cast::<TimerAlarm>();
        wake_signal
            .is_ok_and(|wake_signal| wake_signal.get().stage.get(object.py()) == Stage::Cancelled)
    },
    sets_current_task: false,
    show: nothing_to_note,
    describe: describe_object,
    left_timers: |object| {
        if let Ok(wake_signal) = object.cast::<TimerAlarm>()
            && wake_signal.get().stage.get(object.py()) == Stage::Armed
        {
            wake_signal.get().stage.set(object.py(), Stage::Rung);
        }
    },
};

/// A future was not done in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the time is up")
    }
}

impl error::Error for Elapsed {}

/// Waits for `future`, but no longer than `duration`, and drops it then.
///
/// # Errors
/// [`Elapsed`]
///
/// # Panics
/// As [`sleep`].
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
