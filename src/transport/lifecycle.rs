//! The life cycle of a transport, from `connection_made()` to `connection_lost()`.

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::layout::context;
use crate::ffi::section;
use crate::future::Future;
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::metrics::TransportClass;
use crate::scheduler::watch::Direction;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};
use crate::streams;
use crate::transport::event::{as_handle, in_context, report_exception_of, report_failure};
use crate::transport::origin::{self, displayed_method};
use crate::transport::{Endpoint, NativeProtocol, Transport};
use crate::write_side::{Close, WriteSide};

/// Calls `protocol.connection_made(transport)`, then starts reading. The argument is the protocol.
static CONNECTION_MADE: RunnableKind = RunnableKind::of::<ConnectionMade>();

struct ConnectionMade;

impl Queued for ConnectionMade {
    type Object = Transport;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Transport>,
    ) -> PyOutcome<'py, ()> {
        connection_made(scheduler, entry)
    }

    fn describe<'py>(entry: &QueueEntry<'py, Transport>) -> PyResult<Bound<'py, PyAny>> {
        let transport = entry.object.as_any();
        let (protocol, stack) = origin::split(entry.argument.as_ref());
        let Some(protocol) = protocol else { return Ok(transport.clone()) };
        let callback = protocol.getattr(intern!(transport.py(), "connection_made"))?;
        as_handle(transport, callback, &[transport], stack, entry.context.clone())
    }
}

/// Finishes the future for which the creator of a transport waits.
static WAKE_WAITER: RunnableKind = RunnableKind::of::<CreatorsWaiter>();

struct CreatorsWaiter;

impl Queued for CreatorsWaiter {
    type Object = PyAny;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = scheduler.py();
        let waiter = entry.object;
        let none = py.None().into_bound(py);
        let waking = match waiter.cast::<Future>() {
            Ok(future) => section::enter_of(future, || {
                if future.get().is_cancelled(py) {
                    return Ok(());
                }
                if future.get().is_done(py) {
                    return set_foreign_waiter(&waiter);
                }
                Future::finish_with_result(future, none.clone())
            }),
            Err(_) => set_foreign_waiter(&waiter),
        };
        match waking.or_raise(py) {
            Err(raised) if !raised.stops_the_loop() => {
                let callback = imports::set_result_unless_cancelled(py).cloned().or_raise(py)?;
                report_failure(scheduler, callback, &[&waiter, &none], None, raised)
            }
            other => other,
        }
    }

    fn describe<'py>(entry: &QueueEntry<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let waiter = &entry.object;
        let py = waiter.py();
        let (_, stack) = origin::split(entry.argument.as_ref());
        let callback = imports::set_result_unless_cancelled(py)?.clone();
        let event_loop = waiter.call_method0(intern!(py, "get_loop"))?;
        as_handle(&event_loop, callback, &[waiter, &py.None().into_bound(py)], stack, None)
    }
}

/// Calls `transport._call_connection_lost(exception)`. The argument is the exception or None.
static CONNECTION_LOST: RunnableKind = RunnableKind::of::<ConnectionLost>();

struct ConnectionLost;

impl Queued for ConnectionLost {
    type Object = Transport;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Transport>,
    ) -> PyOutcome<'py, ()> {
        let py = scheduler.py();
        let (exception, _) = origin::split(entry.argument.as_ref());
        let exception = exception.unwrap_or_else(|| py.None().into_bound(py));
        let (transport, context) = (&entry.object, entry.context.as_ref());
        let result = in_context(context, || Transport::call_connection_lost(transport, &exception));
        let method = intern!(py, "_call_connection_lost");
        report_exception_of(scheduler, transport, method, &[&exception], context, result)
    }

    fn describe<'py>(entry: &QueueEntry<'py, Transport>) -> PyResult<Bound<'py, PyAny>> {
        let transport = entry.object.as_any();
        let py = transport.py();
        let callback = displayed_method(transport, intern!(py, "_call_connection_lost"))?;
        let (exception, stack) = origin::split(entry.argument.as_ref());
        let exception = exception.unwrap_or_else(|| py.None().into_bound(py));
        as_handle(transport, callback, &[&exception], stack, entry.context.clone())
    }
}

fn set_foreign_waiter(waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = waiter.py();
    imports::set_result_unless_cancelled(py)?.call1((waiter, py.None()))?;
    Ok(())
}

fn connection_made<'py>(
    scheduler: &Bound<'py, Scheduler>,
    entry: QueueEntry<'py, Transport>,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let (protocol, _) = origin::split(entry.argument.as_ref());
    let (Some(protocol), Some(context)) = (protocol, entry.context) else {
        return Ok(());
    };
    let transport = entry.object;
    let reading_context = match transport.get().context.get_bound(py) {
        Some(own) => own,
        // Copied before the call: the reading callbacks do not see the variables that it sets, as
        // in asyncio, where each callback gets a copy of its creator's context.
        None => context::copy(&context).or_raise(py)?,
    };
    let made =
        context::run_in(&context, || streams::connection_made(&protocol, transport.as_any()));
    let added = match Transport::add_reader(&transport, reading_context).or_raise(py) {
        // Some files, such as the null device, can be opened but not watched.
        Err(raised) if !raised.stops_the_loop() => {
            let callback = scheduler.getattr(intern!(py, "_add_reader")).or_raise(py)?;
            let fd = transport.get().fd.into_pyobject(py).or_raise(py)?;
            report_failure(scheduler, callback, &[fd.as_any()], Some(&context), raised)
        }
        other => other,
    };
    let result = match made {
        Err(raised) if !raised.stops_the_loop() => {
            let callback = protocol.getattr(intern!(py, "connection_made")).or_raise(py)?;
            report_failure(scheduler, callback, &[transport.as_any()], Some(&context), raised)
        }
        other => other.map(drop),
    };
    result.and(added)
}

impl Transport {
    /// Schedules `connection_made()`, then reading, then the waiter.
    pub fn open(slf: &Bound<'_, Self>, waiter: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some(scheduler) = this.scheduler(py) else { return Ok(()) };
        let scheduler = scheduler.get();
        scheduler.check_usable(py)?;
        if let Some(server) = this.server.get_bound(py) {
            attach(&server, slf)?;
        }
        if this.kind.is_socket {
            this.ownership.claim(slf, this.fd);
        }
        let accepted = this.server.is_some(py);
        let kind = this.kind.counted_as.name();
        tracing::debug!(target: "ferroloop::transport", fd = this.fd, kind, accepted, "a transport opens");
        let open = scheduler.metrics().opened(this.kind.counted_as);
        drop(this.open.replace(py, Some(open)));
        let context = this.callback_context(py)?;
        let protocol = origin::with_stack(scheduler, py, this.protocol.get_bound(py))?;
        scheduler.push(
            py,
            Runnable {
                kind: &CONNECTION_MADE,
                object: slf.clone().into_any().unbind(),
                argument: protocol,
                context: Some(context.unbind()),
            },
        );
        if let Some(waiter) = waiter.filter(|waiter| !waiter.is_none()) {
            let argument = origin::with_stack(scheduler, py, None)?;
            scheduler.push(py, Runnable { argument, ..Runnable::new(&WAKE_WAITER, waiter) });
        }
        Ok(())
    }

    /// Sets the protocol and determines its kind.
    pub fn bind_protocol<'py>(&self, protocol: Bound<'py, PyAny>) -> PyResult<()> {
        let py = protocol.py();
        let native = protocol.is_instance_of::<NativeProtocol>();
        let buffered = !native && protocol.is_instance(imports::buffered_protocol(py)?)?;
        // In the class: an object that has every attribute, as a mock, does not count.
        let several = self.kind.counted_as == TransportClass::Datagram
            && protocol.get_type().hasattr(intern!(py, "datagrams_received"))?;
        self.update_state(py, |state| {
            state.native_protocol = native;
            state.buffered_protocol = buffered;
            state.several_datagrams = several;
            state.connected = true;
        });
        self.protocol.store(py, Some(protocol));
        Ok(())
    }

    /// Whether the transport is receiving: neither paused nor closing.
    #[inline(always)]
    pub fn wants_to_read(&self, py: Python<'_>) -> bool {
        !self.state.get(py).paused && !self.is_closing(py)
    }

    /// Starts reading, in `context`, unless the transport is paused or closing.
    pub fn add_reader<'py>(slf: &Bound<'py, Self>, context: Bound<'py, PyAny>) -> PyResult<()> {
        if !slf.get().wants_to_read(slf.py()) {
            return Ok(());
        }
        Self::watch(slf, Direction::Read, context)
    }

    /// Queues the transport's event for `direction` whenever the descriptor is ready.
    ///
    /// # Errors
    /// OSError if the descriptor cannot be watched; RuntimeError if the loop is closed. The watches
    /// are unchanged then.
    pub(in crate::transport) fn watch<'py>(
        slf: &Bound<'py, Self>,
        direction: Direction,
        context: Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some(scheduler) = this.scheduler(py) else { return Ok(()) };
        let scheduler = scheduler.get();
        scheduler.check_open(py)?;
        let kind = match direction {
            Direction::Read => &this.kind.on_read,
            Direction::Write => &this.kind.on_write,
        };
        let runnable = Runnable {
            kind,
            object: slf.clone().into_any().unbind(),
            argument: origin::with_stack(scheduler, py, None)?,
            context: Some(context.unbind()),
        };
        let replaced = scheduler
            .watch(py, this.fd, direction, runnable)
            .map_err(|refused| os_error(py, &refused.error))?;
        drop(replaced);
        Ok(())
    }

    /// Stops watching one direction. A watch of another object is left alone: if the program has
    /// closed the socket, its descriptor's number may have been reused.
    pub(in crate::transport) fn unwatch(&self, slf: &Bound<'_, Self>, direction: Direction) {
        let py = slf.py();
        let Some(scheduler) = self.scheduler(py) else { return };
        let scheduler = scheduler.get();
        if !scheduler.is_closed(py) {
            drop(scheduler.unwatch_of(self.fd, direction, slf));
        }
    }

    /// Closes the transport: stops reading, and loses the connection once all data is sent.
    pub fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        Self::flush_coalesced(slf)?;
        let this = slf.get();
        let close = this.writing.with(py, WriteSide::close);
        if close == Close::AlreadyClosing {
            return Ok(());
        }
        this.unwatch(slf, Direction::Read);
        if close == Close::WhenSent {
            return Ok(());
        }
        Self::run_commands(slf)?;
        Self::schedule_connection_lost(slf, None)
    }

    /// Closes the transport at once and discards buffered data.
    pub fn force_close<'py>(
        slf: &Bound<'py, Self>,
        exception: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        Self::flush_coalesced(slf)?;
        if !this.writing.with(py, WriteSide::abort) {
            return Ok(());
        }
        (this.kind.clear_queue)(slf);
        this.unwatch(slf, Direction::Read);
        Self::run_commands(slf)?;
        Self::schedule_connection_lost(slf, exception)
    }

    /// Schedules `connection_lost()` for the next turn.
    pub(in crate::transport) fn schedule_connection_lost<'py>(
        slf: &Bound<'py, Self>,
        exception: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let Some(scheduler) = slf.get().scheduler(py) else { return Ok(()) };
        scheduler.get().check_usable(py)?;
        let fd = slf.get().fd;
        match &exception {
            Some(error) => {
                tracing::debug!(target: "ferroloop::transport", fd, %error, "a connection is lost");
            }
            None => tracing::debug!(target: "ferroloop::transport", fd, "a transport closes"),
        }
        let context = slf.get().callback_context(py)?;
        let argument = origin::with_stack(scheduler.get(), py, exception)?;
        scheduler.get().push(
            py,
            Runnable {
                kind: &CONNECTION_LOST,
                object: slf.clone().into_any().unbind(),
                argument,
                context: Some(context.unbind()),
            },
        );
        Ok(())
    }

    /// Closes the connection because of an exception. OSError is expected on a network and only
    /// passed to the protocol; any other exception is also reported.
    pub fn fatal_error<'py>(
        slf: &Bound<'py, Self>,
        raised: Raised<'py>,
        message: &str,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        if raised.stops_the_loop() {
            return Err(raised);
        }
        let reported = if raised.value().is_instance_of::<PyOSError>() {
            Self::log(slf, "%r: %s", Some(message), Some(&raised))
        } else {
            Self::report(slf, message, &raised)
        };
        reported.or_raise(py)?;
        Self::force_close(slf, Some(raised.into_value().into_any())).or_raise(py)
    }

    /// Logs a message with asyncio's logger, in debug mode.
    pub fn log(
        slf: &Bound<'_, Self>,
        format: &str,
        argument: Option<&str>,
        raised: Option<&Raised<'_>>,
    ) -> PyResult<()> {
        let py = slf.py();
        if !slf.get().debug(py) {
            return Ok(());
        }
        let mut arguments = vec![PyString::new(py, format).into_any(), slf.clone().into_any()];
        arguments.extend(argument.map(|argument| PyString::new(py, argument).into_any()));
        let keywords = PyDict::new(py);
        if let Some(raised) = raised {
            keywords.set_item(intern!(py, "exc_info"), raised.value())?;
        }
        let debug = imports::logger(py)?.getattr(intern!(py, "debug"))?;
        debug.call(PyTuple::new(py, arguments)?, Some(&keywords))?;
        Ok(())
    }

    /// Calls the protocol's `connection_lost()`, then releases all resources.
    pub fn call_connection_lost<'py>(
        slf: &Bound<'py, Self>,
        exception: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let notified = match this.protocol.get_bound(py) {
            Some(protocol) if this.state.get(py).connected => {
                call::call_method(&protocol, intern!(py, "connection_lost"), [exception]).map(drop)
            }
            _ => Ok(()),
        };
        let closed = Self::release_resources(slf).or_raise(py);
        let after = (this.kind.on_lost)(slf).or_raise(py);
        notified.and(closed).and(after)
    }

    fn release_resources(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.kind.is_socket {
            this.cache_own_name(py);
        }
        let closed = Self::close_endpoint(slf);
        drop(this.protocol.take(py));
        drop(this.context.take(py));
        drop(this.scheduler.take(py));
        match this.server.take(py) {
            Some(server) => closed.and(detach(server.bind(py), slf)),
            None => closed,
        }
    }

    /// Stops watching the descriptor, whatever the state, and closes it: the next file gets its
    /// number.
    pub fn close_endpoint(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        this.unwatch(slf, Direction::Read);
        this.unwatch(slf, Direction::Write);
        this.ownership.release(py);
        drop(this.open.take(py));
        match this.endpoint.replace(py, Endpoint::Closed(None)) {
            Endpoint::Bare(socket) => drop(socket),
            Endpoint::Python(socket) => {
                let object = socket.object().clone_ref(py);
                drop(this.endpoint.replace(py, Endpoint::Closed(Some(object.clone_ref(py)))));
                object.call_method0(py, intern!(py, "close"))?;
            }
            Endpoint::Foreign(object, _) => {
                drop(this.endpoint.replace(py, Endpoint::Closed(Some(object.clone_ref(py)))));
                object.call_method0(py, intern!(py, "close"))?;
            }
            closed @ Endpoint::Closed(_) => drop(this.endpoint.replace(py, closed)),
        }
        Ok(())
    }
}

/// Calls `server._attach()`, whose signature changed in 3.13.
fn attach(server: &Bound<'_, PyAny>, transport: &Bound<'_, Transport>) -> PyResult<()> {
    let name = intern!(server.py(), "_attach");
    if cfg!(Py_3_13) {
        server.call_method1(name, (transport,))?;
    } else {
        server.call_method0(name)?;
    }
    Ok(())
}

/// The opposite of [`attach`].
pub fn detach(server: &Bound<'_, PyAny>, transport: &Bound<'_, Transport>) -> PyResult<()> {
    let name = intern!(server.py(), "_detach");
    if cfg!(Py_3_13) {
        server.call_method1(name, (transport,))?;
    } else {
        server.call_method0(name)?;
    }
    Ok(())
}
