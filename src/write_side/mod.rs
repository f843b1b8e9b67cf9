//! The write side of a transport: decides when written data is sent and whether the descriptor is
//! watched for writability. Contains no Python and makes no system calls.
//!
//! The transport reports events ([`WriteSide::write`], [`WriteSide::writable`],
//! [`WriteSide::close`] ...) and then carries out [`Command`]s until [`WriteSide::next`] returns
//! none. `next` compares the wanted state with what was done, so no command is issued twice and
//! none is forgotten: some commands call the protocol, which may write, close or abort meanwhile.
//!
//! The queue is in one of five states:
//!
//! * *empty*: a write is sent at once;
//! * *held*: the writes of one callback are coalesced until it returns (`coalescing.rs`);
//! * *ready*: the queue must be sent now;
//! * *sending*: the transport passes it to the system, and may call the protocol;
//! * *waiting*: the system accepts no more until the descriptor is writable.
//!
//! Invariant when no command is left: the descriptor is watched if and only if the queue waits and
//! the connection is not lost. `tests.rs` and `tests/` try every sequence of events up to a
//! length.

#![forbid(unsafe_code)]

mod coalescing;
#[cfg(test)]
mod tests;

use coalescing::Coalescing;
pub use coalescing::{BULK_THRESHOLD, Callback};

/// What the transport must do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Pass the queue to the system, then report [`WriteSide::sent`].
    Send,
    /// Watch the descriptor for writability, or report [`WriteSide::watch_refused`].
    Watch,
    /// Stop watching the descriptor.
    Unwatch,
    /// Call the protocol's `pause_writing()`.
    Pause,
    /// Call the protocol's `resume_writing()`.
    Resume,
    /// Shut down the sending direction: everything written before `write_eof()` is sent.
    ShutDown,
    /// Call the protocol's `connection_lost(None)` and close the descriptor: everything written
    /// before `close()` is sent.
    Lose,
}

/// The consequence of a refusal to watch the descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Report the error to the caller of the write and drop the queue: it holds only the rest of
    /// that write.
    Withdraw,
    /// Fail the connection: the callers of the queued writes have returned.
    Fail,
}

/// What to do with a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// Send it now; report the rest that the system does not accept by [`WriteSide::wait`].
    Send,
    /// Queue it, then report [`WriteSide::hold`] with this limit.
    Hold(usize),
    /// Queue it behind the waiting data, then report [`WriteSide::queued_more`].
    Queue,
    /// The connection is lost: drop it. The number of earlier writes that came too late.
    Late(u32),
}

/// What to do with a held queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Arrange a call of [`WriteSide::callback_over`] for when the callback returns.
    Schedule,
    /// That call is already arranged.
    Scheduled,
    /// Send it now: carry out commands.
    Release,
}

/// The effect of `close()` at this point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// None: it was called before, or the connection is lost.
    AlreadyClosing,
    /// The connection will be lost when the queue is empty.
    WhenSent,
    /// The connection is lost now.
    Now,
}

/// When a paused protocol is resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResumeAt {
    /// When at most the low-water mark is queued.
    LowWater,
    /// When nothing is queued.
    Empty,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Queue {
    Empty,
    Held,
    Ready,
    Sending,
    Waiting,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
enum End {
    Open,
    /// `close()` was called; the queue must still be sent.
    Closing,
    /// `connection_lost()` was called or scheduled.
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Eof {
    No,
    Requested,
    Sent,
}

/// The state machine; see the head of this module.
#[derive(Clone, Copy, Debug)]
pub struct WriteSide {
    queue: Queue,
    end: End,
    eof: Eof,
    /// The descriptor is watched for writability.
    watched: bool,
    /// The protocol was told to pause.
    paused: bool,
    /// The queue was sent after the descriptor became writable: check whether to resume the
    /// protocol.
    resume_due: bool,
    /// The queue is being sent because the descriptor was writable.
    writable: bool,
    /// Bytes of the last write while a failure can still be raised to its caller; 0 after that.
    last: usize,
    /// Commands are being carried out.
    busy: bool,
    resume_at: ResumeAt,
    /// Bytes in the queue.
    queued: usize,
    high: usize,
    low: usize,
    /// Once lost: one plus the number of writes since.
    late: u32,
    coalescing: Coalescing,
}

impl WriteSide {
    /// An empty queue, with asyncio's water marks of 64 and 16 KiB.
    pub fn new(resume_at: ResumeAt) -> Self {
        Self {
            queue: Queue::Empty,
            end: End::Open,
            eof: Eof::No,
            watched: false,
            paused: false,
            resume_due: false,
            writable: false,
            last: 0,
            busy: false,
            resume_at,
            queued: 0,
            high: 64 * 1024,
            low: 16 * 1024,
            late: 0,
            coalescing: Coalescing::default(),
        }
    }

    /// Whether `close()` was called or the connection is lost.
    #[inline(always)]
    pub fn is_closing(&self) -> bool {
        self.end != End::Open
    }

    /// Whether `connection_lost()` was called or scheduled.
    #[inline(always)]
    pub fn is_lost(&self) -> bool {
        self.end == End::Lost
    }

    /// Once lost: one plus the number of writes that came too late. 0 before.
    pub fn late(&self) -> u32 {
        self.late
    }

    /// Whether `write_eof()` was called.
    #[inline(always)]
    pub fn has_eof(&self) -> bool {
        self.eof != Eof::No
    }

    /// Whether `pause_writing()` was called and `resume_writing()` was not yet.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Bytes in the queue.
    #[inline(always)]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes that the system did not accept; held bytes were not offered to it.
    pub fn unsent(&self) -> usize {
        if self.queue == Queue::Held { 0 } else { self.queued }
    }

    /// The low- and the high-water mark, in bytes.
    pub fn limits(&self) -> (usize, usize) {
        (self.low, self.high)
    }

    /// Sets the water marks, in bytes. The caller carries out commands afterwards.
    pub fn set_limits(&mut self, low: usize, high: usize) {
        self.low = low;
        self.high = high;
    }

    /// Decides about a write; `callback` is the running callback if writes may be held until it
    /// returns.
    #[inline(always)]
    pub fn write(&mut self, callback: Option<Callback>) -> Write {
        if self.end == End::Lost {
            return Write::Late(self.note_late());
        }
        let limit = callback.map(|callback| (self.coalescing.note(callback), callback.limit()));
        match (self.queue, limit) {
            (Queue::Held, limit) => Write::Hold(limit.map_or(0, |(_, limit)| limit)),
            (Queue::Empty, Some((true, limit))) if self.end == End::Open => Write::Hold(limit),
            (Queue::Empty, _) => Write::Send,
            (Queue::Ready | Queue::Sending | Queue::Waiting, _) => Write::Queue,
        }
    }

    /// Notes a write to a lost connection. Returns the number of earlier ones.
    #[cold]
    pub fn note_late(&mut self) -> u32 {
        let late = self.late;
        self.late = late.saturating_add(1);
        late
    }

    /// The system did not accept all of a write: the rest is queued, `queued` bytes now. The caller
    /// carries out commands afterwards.
    pub fn wait(&mut self, queued: usize) {
        if self.end != End::Lost {
            self.last = queued.saturating_sub(self.queued);
            self.queue = Queue::Waiting;
            self.queued = queued;
        }
    }

    /// A write was queued behind others: `queued` bytes now. The caller carries out commands
    /// afterwards.
    #[inline]
    pub fn queued_more(&mut self, queued: usize) {
        self.last = 0;
        self.queued = queued;
    }

    /// A vectored write was queued, to be sent now: `queued` bytes. The caller carries out commands
    /// afterwards.
    pub fn queued_to_send(&mut self, queued: usize) {
        self.last = queued.saturating_sub(self.queued);
        self.queued = queued;
        if self.queue == Queue::Empty {
            self.queue = Queue::Ready;
        }
    }

    /// A write was queued for which [`WriteSide::write`] returned [`Write::Hold`]: `queued` bytes
    /// now, of which at most `limit` may be held. `now` is the time in nanoseconds.
    pub fn hold(&mut self, queued: usize, limit: usize, now: impl FnOnce() -> u64) -> Hold {
        let scheduled = self.queue == Queue::Held;
        let last = queued.saturating_sub(self.queued);
        self.queued = queued;
        self.queue = Queue::Held;
        if !self.coalescing.may_hold(queued, limit, now) {
            self.last = last;
            self.queue = Queue::Ready;
            Hold::Release
        } else if scheduled {
            Hold::Scheduled
        } else {
            Hold::Schedule
        }
    }

    /// Ends the holding of writes. Returns whether there were any; then the caller carries out
    /// commands.
    #[inline(always)]
    pub fn release(&mut self) -> bool {
        let held = self.queue == Queue::Held;
        if held {
            self.last = 0;
            self.coalescing.released();
            self.queue = Queue::Ready;
        }
        held
    }

    /// The callback that wrote has returned. The caller carries out commands afterwards.
    pub fn callback_over(&mut self) {
        self.coalescing.callback_over();
        self.release();
    }

    /// The descriptor is writable. The caller carries out commands afterwards.
    #[inline]
    pub fn writable(&mut self) {
        if self.queue == Queue::Waiting && self.end != End::Lost {
            self.queue = Queue::Ready;
            self.writable = true;
        }
    }

    /// The system has accepted part of the queue, in which `left` bytes remain. Has no effect if
    /// the connection failed meanwhile.
    #[inline]
    pub fn sent(&mut self, left: usize) {
        if self.queue != Queue::Sending {
            return;
        }
        self.queued = left;
        self.queue = if left == 0 { Queue::Empty } else { Queue::Waiting };
        self.resume_due |= std::mem::take(&mut self.writable);
    }

    /// The system refused to watch the descriptor. Returns the consequence.
    pub fn watch_refused(&mut self) -> Refusal {
        self.watched = false;
        if self.queued <= self.last {
            self.dropped();
            return Refusal::Withdraw;
        }
        Refusal::Fail
    }

    /// The transport has dropped the queue: the connection is about to fail.
    pub fn dropped(&mut self) {
        self.queued = 0;
        self.queue = Queue::Empty;
        self.writable = false;
        self.resume_due = false;
    }

    /// `write_eof()`. Has no effect when repeated or after `close()`. The caller carries out
    /// commands afterwards.
    pub fn end_of_stream(&mut self) {
        if self.eof == Eof::No && self.end == End::Open {
            self.eof = Eof::Requested;
        }
    }

    /// `close()`. Held writes must be released before. After [`Close::Now`] the transport schedules
    /// `connection_lost()`. The caller carries out commands afterwards.
    pub fn close(&mut self) -> Close {
        if self.end != End::Open {
            return Close::AlreadyClosing;
        }
        if self.queued != 0 {
            self.end = End::Closing;
            return Close::WhenSent;
        }
        self.lose();
        Close::Now
    }

    /// The connection fails or is aborted: the transport drops the queue, schedules
    /// `connection_lost()` and carries out commands. Returns false if it is already lost.
    pub fn abort(&mut self) -> bool {
        if self.end == End::Lost {
            return false;
        }
        self.dropped();
        self.lose();
        true
    }

    /// The stream has ended: as [`WriteSide::abort`], but even if the connection was lost before,
    /// late writes are counted from here on.
    pub fn lose(&mut self) {
        self.end = End::Lost;
        self.late = self.late.saturating_add(1);
    }

    /// Begins to carry out commands. Returns false if a caller further up the stack is doing so,
    /// from which the protocol was called.
    #[inline(always)]
    pub fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.busy, true)
    }

    /// Ends what [`WriteSide::begin`] began.
    #[inline(always)]
    pub fn finish(&mut self) {
        self.busy = false;
    }

    /// The next command. `outermost` is what [`WriteSide::begin`] returned: inside a protocol's
    /// method, commands that must wait until that method returns are left to the outer caller.
    #[inline]
    pub fn next(&mut self, outermost: bool) -> Option<Command> {
        if self.end == End::Lost {
            return std::mem::take(&mut self.watched).then_some(Command::Unwatch);
        }
        match self.queue {
            Queue::Ready => {
                self.queue = Queue::Sending;
                return Some(Command::Send);
            }
            Queue::Waiting if !self.watched => {
                self.watched = true;
                return Some(Command::Watch);
            }
            Queue::Waiting => self.last = 0,
            _ => {}
        }
        if outermost && std::mem::take(&mut self.resume_due) && self.may_resume() {
            self.paused = false;
            return Some(Command::Resume);
        }
        if self.queue == Queue::Waiting && !self.paused && self.queued > self.high {
            self.paused = true;
            return Some(Command::Pause);
        }
        if self.queue == Queue::Empty {
            return self.next_when_sent(outermost);
        }
        None
    }

    fn next_when_sent(&mut self, outermost: bool) -> Option<Command> {
        if self.eof == Eof::Requested && self.end == End::Open {
            self.eof = Eof::Sent;
            return Some(Command::ShutDown);
        }
        if !outermost {
            return None;
        }
        if std::mem::take(&mut self.watched) {
            return Some(Command::Unwatch);
        }
        if self.end == End::Closing {
            self.lose();
            return Some(Command::Lose);
        }
        None
    }

    /// Whether a paused protocol may be resumed.
    pub fn may_resume(&self) -> bool {
        let enough = match self.resume_at {
            ResumeAt::LowWater => self.low,
            ResumeAt::Empty => 0,
        };
        self.paused && self.queued <= enough
    }

    /// asyncio's `_maybe_resume_protocol()`, for programs that call it. The caller carries out
    /// commands afterwards.
    pub fn check_resume(&mut self) {
        self.resume_due = true;
    }
}
