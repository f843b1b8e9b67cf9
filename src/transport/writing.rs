//! Writing of all transports: runs the commands of their [`WriteSide`].
//!
//! Each kind of transport owns its queue. It asks the write side what to do with a write and
//! reports what it has queued. Then [`Transport::run_commands`] sends, watches the descriptor and
//! calls the protocol, as the write side decides.

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;

use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::cell::AttachedRefCell;
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::scheduler::watch::Direction;
use crate::sys::socket;
use crate::transport::Transport;
use crate::write_side::{Command, Refusal, WriteSide};

/// Writes after connection loss that are ignored before a warning, as in asyncio.
pub(in crate::transport) const LOG_THRESHOLD_FOR_CONNLOST_WRITES: u32 = 5;

/// Ends the running of commands, even if one of them panics.
struct FinishOnDrop<'a, 'py>(Python<'py>, &'a AttachedRefCell<WriteSide>);

impl Drop for FinishOnDrop<'_, '_> {
    fn drop(&mut self) {
        self.1.with(self.0, WriteSide::finish);
    }
}

impl Transport {
    /// Runs the commands of the write side until there are none. May run Python code.
    pub(in crate::transport) fn run_commands<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let writing = &slf.get().writing;
        let outermost = writing.with(py, WriteSide::begin);
        let _finish = outermost.then(|| FinishOnDrop(py, writing));
        while let Some(command) = writing.with(py, |side| side.next(outermost)) {
            Self::run_command(slf, command)?;
        }
        Ok(())
    }

    fn run_command<'py>(slf: &Bound<'py, Self>, command: Command) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        match command {
            Command::Send => {
                let sent = (this.kind.send)(slf);
                let left = (this.kind.queue_size)(slf);
                this.writing.with(py, |side| side.sent(left));
                sent
            }
            Command::Watch => Self::watch_for_writing(slf),
            Command::Unwatch => {
                this.unwatch(slf, Direction::Write);
                if this.is_lost(py) { Ok(()) } else { (this.kind.on_all_sent)(slf).or_raise(py) }
            }
            Command::Pause => Self::call_protocol(
                slf,
                intern!(py, "pause_writing"),
                "protocol.pause_writing() failed",
            ),
            Command::Resume => Self::call_protocol(
                slf,
                intern!(py, "resume_writing"),
                "protocol.resume_writing() failed",
            ),
            Command::ShutDown => {
                let shut = socket::shutdown_write(this.descriptor(py));
                shut.map_err(|error| os_error(py, &error)).or_raise(py)
            }
            Command::Lose => {
                this.unwatch(slf, Direction::Read);
                Self::call_connection_lost(slf, py.None().bind(py))
            }
        }
    }

    fn watch_for_writing<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let this = slf.get();
        let context = this.callback_context(py);
        let watched = context.and_then(|context| Self::watch(slf, Direction::Write, context));
        let Err(error) = watched else { return Ok(()) };
        let refusal = this.writing.with(py, WriteSide::watch_refused);
        let raised = Raised::of(py, error);
        if refusal == Refusal::Withdraw {
            (this.kind.clear_queue)(slf);
            return Err(raised);
        }
        if raised.value().is_instance_of::<PyOSError>() {
            return Self::fatal_error(slf, raised, this.kind.write_failed);
        }
        Err(raised)
    }

    /// Sends the data that is coalesced until the callback returns, before the program reads the
    /// transport's state or the transport closes.
    pub(in crate::transport) fn flush_coalesced(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::release_held(slf).map_err(PyErr::from)
    }

    /// Like [`Transport::flush_coalesced`], with an outcome.
    #[inline(always)]
    pub(in crate::transport) fn release_held<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        if slf.get().writing.with(slf.py(), WriteSide::release) {
            return Self::run_commands(slf);
        }
        Ok(())
    }

    /// Called when the descriptor is writable.
    pub(in crate::transport) fn write_ready<'py>(slf: &Bound<'py, Self>) -> PyOutcome<'py, ()> {
        slf.get().writing.with(slf.py(), WriteSide::writable);
        Self::run_commands(slf)
    }

    /// Warns of repeated writes after connection loss, of which there were `late` so far.
    #[cold]
    pub(in crate::transport) fn warn_of_late_write<'py>(
        py: Python<'py>,
        late: u32,
    ) -> PyOutcome<'py, ()> {
        if late < LOG_THRESHOLD_FOR_CONNLOST_WRITES {
            return Ok(());
        }
        let text = "socket.send() raised exception.";
        let warned = imports::logger(py)
            .and_then(|logger| logger.call_method1(intern!(py, "warning"), (text,)));
        warned.map(drop).or_raise(py)
    }
}
