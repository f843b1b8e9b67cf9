//! Writes of a stream: as its write side decides, data is sent at once, coalesced until the
//! callback returns, or queued.

use std::io;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::buffer;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::layout::context;
use crate::ffi::objects::object::HasBase;
use crate::interop::error::os_error;
use crate::reactor::clock;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};
use crate::sys::socket;
use crate::transport::Transport;
use crate::transport::event::{describe_event, run_event};
use crate::transport::stream::{StreamTransport, WRITE_FAILED};
use crate::transport::write_queue::{self, WriteQueue};
use crate::write_side::{BULK_THRESHOLD, Callback, Hold, Write, WriteSide};

/// Queued when the callback that wrote has returned.
static FLUSH: RunnableKind = RunnableKind::of::<Flush>();

struct Flush;

impl Queued for Flush {
    type Object = StreamTransport;
    const SETS_CURRENT_TASK: bool = true;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        mut entry: QueueEntry<'py, StreamTransport>,
    ) -> PyOutcome<'py, ()> {
        let context = entry.context.take();
        let flush = || run_event(scheduler, entry, "_write_ready", StreamTransport::callback_over);
        match context {
            Some(context) => context::run_in_it_or_copy(&context, flush),
            None => flush(),
        }
    }

    fn describe<'py>(entry: &QueueEntry<'py, StreamTransport>) -> PyResult<Bound<'py, PyAny>> {
        describe_event(entry, "_write_ready")
    }
}

impl StreamTransport {
    #[inline(always)]
    fn queued(&self, py: Python<'_>) -> usize {
        self.queue.with(py, |queue| queue.len())
    }

    /// The current callback, if writes may be coalesced until it returns.
    #[inline(always)]
    fn callback(transport: &Transport, py: Python<'_>) -> Option<Callback> {
        transport.scheduler.inspect(py, |scheduler| {
            let deferred = scheduler.as_ref()?.get().deferred();
            Some(Callback {
                number: deferred.callback(py)?,
                is_busy_turn: deferred.is_busy_turn(py),
            })
        })
    }

    /// Sends as much of `data` as the socket accepts and queues the rest.
    #[inline]
    pub fn write<'py>(slf: &Bound<'py, Self>, data: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let base = slf.base();
        let callback = Self::callback(base, py);
        let decided = base.writing.with(py, |side| side.write(callback));
        Self::write_as(slf, data, decided)
    }

    #[inline]
    fn write_as<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        decided: Write,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        let base = transport.get();
        let queued = match decided {
            Write::Send => return Self::send_now(slf, data),
            Write::Late(late) => return Transport::warn_of_late_write(py, late),
            Write::Hold(limit) => Self::push(slf, data).map(|()| Some(limit)),
            Write::Queue => Self::push(slf, data).map(|()| None),
        };
        match queued {
            Ok(Some(limit)) => Self::hold(slf, limit, data.is_instance_of::<PyBytes>()),
            Ok(None) => {
                let size = slf.get().queued(py);
                base.writing.with(py, |side| side.queued_more(size));
                Transport::run_commands(transport)
            }
            Err(raised) => Transport::fatal_error(transport, raised, WRITE_FAILED),
        }
    }

    #[inline]
    fn send_now<'py>(slf: &Bound<'py, Self>, data: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let base = slf.base();
        let fd = base.descriptor(py);
        let sent = write_queue::send_or_push(&slf.get().queue, data, |content| {
            base.count_sent(py, socket::send(fd, content))
        });
        match sent {
            Ok(sent) => Self::after_sending(slf, sent),
            Err(raised) => Transport::fatal_error(slf.as_super(), raised, WRITE_FAILED),
        }
    }

    /// Called with whether all of a write was sent.
    #[inline]
    fn after_sending<'py>(slf: &Bound<'py, Self>, sent: io::Result<bool>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let transport = slf.as_super();
        match sent {
            Ok(true) => Ok(()),
            Ok(false) => {
                let base = transport.get();
                base.writing.with(py, |side| side.wait(this.queued(py)));
                Transport::run_commands(transport)
            }
            Err(error) => Transport::fatal_error(
                transport,
                Raised::of(py, os_error(py, &error)),
                WRITE_FAILED,
            ),
        }
    }

    fn push<'py>(slf: &Bound<'py, Self>, data: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        let queue = &slf.get().queue;
        match data.cast::<PyBytes>() {
            Ok(bytes) => {
                queue.with(slf.py(), |queue| queue.push_object(bytes, 0));
                Ok(())
            }
            Err(_) => buffer::with_bytes(data, |content| {
                queue.with(slf.py(), |queue| queue.push_copy(content));
            }),
        }
    }

    /// `write()` for native protocols, with the checks of Python's `write()`.
    pub fn write_checked<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        slf.get().check_writable(slf, "write").or_raise(slf.py())?;
        Self::write(slf, data)
    }

    /// As [`StreamTransport::write_checked`], for bytes that are copied where they cannot be sent
    /// at once.
    pub fn write_slice<'py>(slf: &Bound<'py, Self>, data: &[u8]) -> PyOutcome<'py, ()> {
        let py = slf.py();
        slf.get().check_writable(slf, "write").or_raise(py)?;
        let base = slf.base();
        let callback = Self::callback(base, py);
        let decided = base.writing.with(py, |side| side.write(callback));
        if decided != Write::Send {
            return Self::write_as(slf, PyBytes::new(py, data).as_any(), decided);
        }
        let fd = base.descriptor(py);
        let sent = write_queue::send_slice_or_push(&slf.get().queue, py, data, |content| {
            base.count_sent(py, socket::send(fd, content))
        });
        Self::after_sending(slf, sent)
    }

    /// Sends several chunks with a vectored call.
    pub fn write_chunks<'py>(
        slf: &Bound<'py, Self>,
        chunks: &[Bound<'py, PyAny>],
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let transport = slf.as_super();
        let base = transport.get();
        let callback = Self::callback(base, py);
        let decided = base.writing.with(py, |side| side.write(callback));
        if let Write::Late(late) = decided {
            return Transport::warn_of_late_write(py, late);
        }
        let before = this.queued(py);
        if let Err(raised) = chunks.iter().try_for_each(|chunk| Self::push(slf, chunk)) {
            return Transport::fatal_error(transport, raised, WRITE_FAILED);
        }
        let queued = this.queued(py);
        let shared = chunks.iter().all(|chunk| chunk.is_instance_of::<PyBytes>());
        match decided {
            _ if queued == before => Ok(()),
            Write::Hold(limit) => Self::hold(slf, limit, shared),
            Write::Send => {
                base.writing.with(py, |side| side.queued_to_send(queued));
                Transport::run_commands(transport)
            }
            Write::Queue | Write::Late(_) => {
                base.writing.with(py, |side| side.queued_more(queued));
                Transport::run_commands(transport)
            }
        }
    }

    /// Schedules sending for when the callback returns or the turn ends. Sends at once if more than
    /// `limit` bytes are queued, or more than [`BULK_THRESHOLD`] if the last write is a copy (not
    /// `shared`).
    fn hold<'py>(slf: &Bound<'py, Self>, limit: usize, shared: bool) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        let base = transport.get();
        let limit = if shared { limit } else { limit.min(BULK_THRESHOLD) };
        let queued = slf.get().queued(py);
        let hold = base.writing.with(py, |side| side.hold(queued, limit, clock::nanoseconds));
        match hold {
            Hold::Scheduled => Ok(()),
            Hold::Release => Transport::run_commands(transport),
            Hold::Schedule => {
                // Sending may call `pause_writing()`, and the connection's other callbacks must see
                // the variables that it sets.
                let own = base.context.get_bound(py).filter(context::is_current);
                let context = own.map_or_else(|| context::copy_current(py), Ok);
                let (Some(scheduler), Ok(context)) = (base.scheduler(py), context) else {
                    return Transport::release_held(transport);
                };
                let mut runnable = Runnable::new(&FLUSH, slf.clone());
                runnable.context = Some(context.unbind());
                scheduler.get().deferred().push(py, runnable);
                Ok(())
            }
        }
    }

    fn callback_over<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let transport = slf.as_super();
        transport.get().writing.with(slf.py(), WriteSide::callback_over);
        Transport::run_commands(transport)
    }

    /// Sends the head of the queue. It is not an error if the socket is not writable.
    pub(in crate::transport) fn send_queue<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let transport = slf.as_super();
        let Err(error) = Self::send_head(slf) else { return Ok(()) };
        let raised = Raised::of(py, os_error(py, &error));
        let exception = raised.value().clone();
        let dropped = slf.get().queue.with(py, WriteQueue::take);
        transport.get().writing.with(py, WriteSide::dropped);
        drop(dropped);
        Transport::fatal_error(transport, raised, WRITE_FAILED)?;
        slf.get().fail_empty_waiter(exception.as_any()).or_raise(py)
    }

    fn send_head(slf: &Bound<'_, Self>) -> io::Result<()> {
        let py = slf.py();
        let base = slf.base();
        let fd = base.descriptor(py);
        write_queue::send_head(&slf.get().queue, py, |slices| {
            let sent = match slices {
                [slice] => socket::send(fd, slice),
                slices => socket::send_vectored(fd, slices),
            };
            base.count_sent(py, sent)
        })
    }
}
