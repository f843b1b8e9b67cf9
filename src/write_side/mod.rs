//! The write side of a transport: when what is written leaves, and whether the descriptor is
//! watched for writability. No Python and no system calls.
//!
//! The transport reports events ([`WriteSide::write`], [`WriteSide::writable`],
//! [`WriteSide::close`] ...) and then carries out [`Command`]s until [`WriteSide::next`] has none.
//! `next` compares what the state asks for with what was done, so no command is due twice and none
//! is forgotten: the protocol, which some commands call, may write, close or abort meanwhile.
//!
//! The queue is in one of five states:
//!
//! * *empty*: a write is sent at once;
//! * *held*: writes of one callback are coalesced until it returns (`coalescing.rs`);
//! * *ready*: it is to be sent now;
//! * *sending*: the transport hands it to the system, which may call the protocol;
//! * *waiting*: the system takes no more until the descriptor is writable.
//!
//! Invariant, when no command is left: the descriptor is watched exactly while the queue waits
//! and the connection is not lost. `tests.rs` tries every sequence of events up to a length.

#![forbid(unsafe_code)]

mod coalescing;
#[cfg(test)]
mod tests;

use coalescing::Coalescing;
pub use coalescing::{Callback, LITTLE};

/// What the transport has to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Hand the queue to the system, then report [`WriteSide::sent`].
    Send,
    /// Watch the descriptor for writability, or report [`WriteSide::watch_refused`].
    Watch,
    /// Watch it no longer.
    Unwatch,
    /// Call the protocol's `pause_writing()`.
    Pause,
    /// Call the protocol's `resume_writing()`.
    Resume,
    /// Shut the write end down: everything before the end of the stream is sent.
    ShutDown,
    /// Call the protocol's `connection_lost(None)` and close the descriptor: everything before
    /// `close()` is sent.
    Lose,
}

/// What a refusal to watch the descriptor means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The caller of the write is told, and the queue is dropped: no more than the rest of that
    /// write is in it.
    Withdraw,
    /// The connection fails: the callers of the writes have returned.
    Fail,
}

/// What becomes of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// Send it now; what the system does not take is queued by [`WriteSide::wait`].
    Send,
    /// Queue it, then report [`WriteSide::hold`] with this limit.
    Hold(usize),
    /// Queue it behind what waits, then report [`WriteSide::queued_more`].
    Queue,
    /// The connection is lost: drop it. So many writes came too late before.
    Late(u32),
}

/// What to do about a queue that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Have [`WriteSide::callback_over`] called when the callback returns.
    Schedule,
    /// That is arranged already.
    Scheduled,
    /// It is to be sent now: carry out commands.
    Release,
}

/// What `close()` means at this point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// It was called before, or the connection is lost.
    Before,
    /// The connection is lost when the queue is empty.
    WhenSent,
    /// The connection is lost now.
    Now,
}

/// When a paused protocol is resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResumeAt {
    /// When no more than the low-water mark is queued.
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
    /// `close()` was called; the queue is still to be sent.
    Closing,
    /// `connection_lost()` was called or scheduled.
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Eof {
    No,
    Asked,
    Sent,
}

/// See the module's description.
#[derive(Clone, Copy, Debug)]
pub struct WriteSide {
    queue: Queue,
    end: End,
    eof: Eof,
    /// The descriptor is watched for writability.
    watched: bool,
    /// The protocol was told to pause.
    paused: bool,
    /// The descriptor was writable and something was sent since the protocol was last looked at.
    resume_due: bool,
    /// The queue is being sent because the descriptor was writable.
    writable: bool,
    /// Bytes of the last write while its caller can still be told of a failure; 0 after that.
    last: usize,
    /// Commands are being carried out.
    busy: bool,
    resume_at: ResumeAt,
    /// Bytes in the queue.
    queued: usize,
    high: usize,
    low: usize,
    /// Once lost: one, and the writes since.
    late: u32,
    coalescing: Coalescing,
}

impl WriteSide {
    /// Nothing written yet, with asyncio's water marks of 64 and 16 KiB.
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

    /// Once lost: one, and the writes that came too late. 0 before.
    pub fn late(&self) -> u32 {
        self.late
    }

    /// Whether `write_eof()` was called.
    #[inline(always)]
    pub fn has_eof(&self) -> bool {
        self.eof != Eof::No
    }

    /// Whether the protocol was told to pause and not yet to resume.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Bytes in the queue.
    #[inline(always)]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes that the system did not take: what is held was not offered to it.
    pub fn unsent(&self) -> usize {
        if self.queue == Queue::Held { 0 } else { self.queued }
    }

    /// The low- and the high-water mark, in bytes.
    pub fn limits(&self) -> (usize, usize) {
        (self.low, self.high)
    }

    /// Sets the water marks, in bytes. Commands may be due.
    pub fn set_limits(&mut self, low: usize, high: usize) {
        self.low = low;
        self.high = high;
    }

    /// Something is to be written; `callback` is the callback that runs now, if writes may be held
    /// until it returns.
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

    /// A write came after the connection was lost. Answers how many did before.
    #[cold]
    pub fn note_late(&mut self) -> u32 {
        let late = self.late;
        self.late = late.saturating_add(1);
        late
    }

    /// The system did not take all of a write at once: the rest is queued, `queued` bytes. Commands
    /// are due.
    pub fn wait(&mut self, queued: usize) {
        if self.end != End::Lost {
            self.last = queued.saturating_sub(self.queued);
            self.queue = Queue::Waiting;
            self.queued = queued;
        }
    }

    /// A write was queued behind others: `queued` bytes now. Commands may be due.
    #[inline]
    pub fn queued_more(&mut self, queued: usize) {
        self.last = 0;
        self.queued = queued;
    }

    /// A write of several pieces was queued, to be sent now: `queued` bytes. Commands are due.
    pub fn queued_to_send(&mut self, queued: usize) {
        self.last = queued.saturating_sub(self.queued);
        self.queued = queued;
        if self.queue == Queue::Empty {
            self.queue = Queue::Ready;
        }
    }

    /// A write was queued that [`WriteSide::write`] wants held: `queued` bytes now, at most `limit`
    /// of which may be. `now` is the time in nanoseconds.
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

    /// What is held is to be sent now. Answers whether something was; then commands are due.
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

    /// The callback that wrote has returned. Commands may be due.
    pub fn callback_over(&mut self) {
        self.coalescing.callback_over();
        self.release();
    }

    /// The descriptor is writable. Commands are due.
    #[inline]
    pub fn writable(&mut self) {
        if self.queue == Queue::Waiting && self.end != End::Lost {
            self.queue = Queue::Ready;
            self.writable = true;
        }
    }

    /// The system took what it wanted of the queue: `left` bytes are in it. Has no effect if the
    /// connection failed meanwhile.
    #[inline]
    pub fn sent(&mut self, left: usize) {
        if self.queue != Queue::Sending {
            return;
        }
        self.queued = left;
        self.queue = if left == 0 { Queue::Empty } else { Queue::Waiting };
        self.resume_due |= std::mem::take(&mut self.writable);
    }

    /// The system refused to watch the descriptor. What it means for the queue.
    pub fn watch_refused(&mut self) -> Refusal {
        self.watched = false;
        if self.queued <= self.last {
            self.dropped();
            return Refusal::Withdraw;
        }
        Refusal::Fail
    }

    /// The queue was dropped: the connection is about to fail.
    pub fn dropped(&mut self) {
        self.queued = 0;
        self.queue = Queue::Empty;
        self.writable = false;
        self.resume_due = false;
    }

    /// `write_eof()`. Has no effect when called again or after `close()`. A command may be due.
    pub fn end_of_stream(&mut self) {
        if self.eof == Eof::No && self.end == End::Open {
            self.eof = Eof::Asked;
        }
    }

    /// `close()`: after [`Close::Now`] the transport schedules `connection_lost()`, and commands
    /// may be due. What is held is to be released before.
    pub fn close(&mut self) -> Close {
        if self.end != End::Open {
            return Close::Before;
        }
        if self.queued != 0 {
            self.end = End::Closing;
            return Close::WhenSent;
        }
        self.lose();
        Close::Now
    }

    /// The connection fails or is aborted; the transport drops the queue and schedules
    /// `connection_lost()`, and commands may be due. False if it is lost already.
    pub fn abort(&mut self) -> bool {
        if self.end == End::Lost {
            return false;
        }
        self.dropped();
        self.lose();
        true
    }

    /// The stream has ended: as [`WriteSide::abort`], but late writes are counted from here on even
    /// if it was lost before.
    pub fn lose(&mut self) {
        self.end = End::Lost;
        self.late = self.late.saturating_add(1);
    }

    /// Commands are going to be carried out. False if they are already, by a caller further up the
    /// stack, which the protocol was called by.
    #[inline(always)]
    pub fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.busy, true)
    }

    /// The caller that began carries out no more commands.
    #[inline(always)]
    pub fn finish(&mut self) {
        self.busy = false;
    }

    /// What to do next. `outermost` is what [`WriteSide::begin`] answered: a caller inside of a
    /// protocol's method leaves to the one outside what must wait until that method returns.
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
        if self.eof == Eof::Asked && self.end == End::Open {
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

    /// Whether a protocol that is paused may go on.
    pub fn may_resume(&self) -> bool {
        let enough = match self.resume_at {
            ResumeAt::LowWater => self.low,
            ResumeAt::Empty => 0,
        };
        self.paused && self.queued <= enough
    }

    /// asyncio's `_maybe_resume_protocol()`, for programs that call it. A command may be due.
    pub fn look_at_protocol(&mut self) {
        self.resume_due = true;
    }
}
