//! What differs between the kinds of transports.

use std::marker::PhantomData;

use pyo3::PyClass;
use pyo3::prelude::*;

use crate::ffi::exception::PyOutcome;
use crate::metrics::TransportClass;
use crate::scheduler::{QueueEntry, Queued, RunnableKind, Scheduler};
use crate::transport::Transport;
use crate::transport::event::{describe_event, run_event};
use crate::write_side::ResumeAt;

/// One kind of transport: a [`ConcreteTransport`] whose type is erased.
pub struct TransportKind {
    /// See [`ConcreteTransport::asyncio_class`].
    pub class: fn(Python<'_>) -> PyResult<&Bound<'_, PyAny>>,
    /// See [`ConcreteTransport::COUNTED_AS`].
    pub counted_as: TransportClass,
    /// See [`ConcreteTransport::IS_SOCKET`].
    pub is_socket: bool,
    /// Queued when the descriptor is readable.
    pub on_read: RunnableKind,
    /// Queued when the descriptor is writable.
    pub on_write: RunnableKind,
    /// See [`ConcreteTransport::RESUME_AT`].
    pub resume_at: ResumeAt,
    /// See [`ConcreteTransport::WRITE_FAILED`].
    pub write_failed: &'static str,
    /// See [`ConcreteTransport::send`].
    pub send: for<'py> fn(&Bound<'py, Transport>) -> PyOutcome<'py, ()>,
    /// See [`ConcreteTransport::queue_size`].
    pub queue_size: fn(&Bound<'_, Transport>) -> usize,
    /// See [`ConcreteTransport::clear_queue`].
    pub clear_queue: fn(&Bound<'_, Transport>),
    /// See [`ConcreteTransport::on_all_sent`].
    pub on_all_sent: fn(&Bound<'_, Transport>) -> PyResult<()>,
    /// See [`ConcreteTransport::on_lost`].
    pub on_lost: fn(&Bound<'_, Transport>) -> PyResult<()>,
}

/// What differs between the classes of transports.
pub trait ConcreteTransport: PyClass<BaseType = Transport> {
    /// Its class in the loop's metrics.
    const COUNTED_AS: TransportClass;
    /// Whether asyncio treats it as a socket: it has names, and owns its descriptor exclusively.
    const IS_SOCKET: bool;
    /// When a paused protocol is resumed.
    const RESUME_AT: ResumeAt = ResumeAt::LowWater;
    /// The message for a failed write.
    const WRITE_FAILED: &'static str;
    /// The method of asyncio's class that writes the queue.
    const WRITE_METHOD: &'static str = "_write_ready";

    /// asyncio's class, which `__class__` returns.
    fn asyncio_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>>;

    /// Called when the descriptor is readable.
    fn on_readable<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()>;

    /// Sends as much of the queue as the system accepts; an error closes the connection.
    fn send<'py>(_slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        Ok(())
    }

    /// The number of bytes in the queue. Runs no Python code.
    fn queue_size(_slf: &Bound<'_, Self>) -> usize {
        0
    }

    /// Drops the queue.
    fn clear_queue(_slf: &Bound<'_, Self>) {}

    /// Called when the queue has become empty.
    fn on_all_sent(_slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(())
    }

    /// Called after the protocol's `connection_lost()`.
    fn on_lost(_slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(())
    }
}

impl TransportKind {
    /// The table of `T`.
    pub const fn of<T: ConcreteTransport>() -> Self {
        Self {
            class: T::asyncio_class,
            counted_as: T::COUNTED_AS,
            is_socket: T::IS_SOCKET,
            on_read: RunnableKind::of::<OnReadable<T>>(),
            on_write: RunnableKind::of::<OnWritable<T>>(),
            resume_at: T::RESUME_AT,
            write_failed: T::WRITE_FAILED,
            send: |transport| transport.cast().map_or(Ok(()), T::send),
            queue_size: |transport| transport.cast().map_or(0, T::queue_size),
            clear_queue: |transport| {
                if let Ok(transport) = transport.cast() {
                    T::clear_queue(transport);
                }
            },
            on_all_sent: |transport| transport.cast().map_or(Ok(()), T::on_all_sent),
            on_lost: |transport| transport.cast().map_or(Ok(()), T::on_lost),
        }
    }
}

struct OnReadable<T>(PhantomData<T>);

impl<T: ConcreteTransport> Queued for OnReadable<T> {
    type Object = T;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, T>,
    ) -> PyOutcome<'py, ()> {
        run_event(scheduler, entry, "_read_ready", T::on_readable)
    }

    fn describe<'py>(entry: &QueueEntry<'py, T>) -> PyResult<Bound<'py, PyAny>> {
        describe_event(entry, "_read_ready")
    }
}

struct OnWritable<T>(PhantomData<T>);

impl<T: ConcreteTransport> Queued for OnWritable<T> {
    type Object = T;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, T>,
    ) -> PyOutcome<'py, ()> {
        run_event(scheduler, entry, T::WRITE_METHOD, |transport| {
            Transport::write_ready(transport.as_super())
        })
    }

    fn describe<'py>(entry: &QueueEntry<'py, T>) -> PyResult<Bound<'py, PyAny>> {
        describe_event(entry, T::WRITE_METHOD)
    }
}
