//! Tries every sequence of events up to a length, against invariants and against a plain
//! transcription of asyncio's stream transport.

mod choices;
mod reference;

use self::choices::Choices;
use self::reference::Reference;
use super::*;

/// What is observable from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Sent(usize),
    Pause,
    Resume,
    ShutDown,
    /// `connection_lost(None)` in the same callback.
    Lost,
    /// `connection_lost()` in the next turn.
    LostSoon,
    /// A write or its failure was reported to the caller.
    Refused,
}

/// What the program, the system and the loop may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Write(usize),
    WriteLines(usize),
    WriteEof,
    Close,
    Abort,
    Writable,
    /// The program reads the buffer's size.
    Look,
    /// The callback returns.
    CallbackOver,
    LowerLimits,
}

const OUTSIDE: [Event; 10] = [
    Event::Writable,
    Event::Write(1),
    Event::Write(4),
    Event::WriteLines(2),
    Event::Close,
    Event::Abort,
    Event::WriteEof,
    Event::Look,
    Event::CallbackOver,
    Event::LowerLimits,
];

/// What the protocol does in `pause_writing()` and `resume_writing()`.
const INSIDE: [Option<Event>; 6] = [
    None,
    Some(Event::Write(1)),
    Some(Event::Write(4)),
    Some(Event::Close),
    Some(Event::Abort),
    Some(Event::Look),
];

/// Maximum nesting of protocol methods.
const DEPTH: usize = 2;

/// A simulated system: accepts part of what it is offered, and may refuse to watch.
struct System {
    choices: Choices,
    may_refuse: bool,
    registered: bool,
    seen: Vec<Seen>,
}

impl System {
    fn new(choices: Choices, may_refuse: bool) -> Self {
        Self { choices, may_refuse, registered: false, seen: Vec::new() }
    }

    fn send(&mut self, offered: usize) -> usize {
        assert!(offered > 0, "nothing is sent for nothing");
        let taken = match self.choices.choose(3) {
            0 => offered,
            1 => 0,
            _ => 1,
        };
        if taken > 0 {
            self.seen.push(Seen::Sent(taken));
        }
        taken
    }

    fn watch(&mut self) -> bool {
        assert!(!self.registered, "watched twice");
        self.registered = !self.may_refuse || self.choices.choose(2) == 0;
        self.registered
    }

    fn unwatch(&mut self) {
        assert!(self.registered, "unwatched what is not watched");
        self.registered = false;
    }
}

/// A transport like this crate's: carries out the commands of a [`WriteSide`].
struct Transport {
    side: WriteSide,
    system: System,
    /// Bytes in the queue.
    queue: usize,
    /// A callback runs whose writes may be held.
    holds: bool,
    callback: u32,
    scheduled: bool,
    depth: usize,
}

impl Transport {
    fn new(system: System, holds: bool) -> Self {
        let mut side = WriteSide::new(ResumeAt::LowWater);
        side.set_limits(1, 2);
        Self { side, system, queue: 0, holds, callback: 0, scheduled: false, depth: 0 }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Write(size) => self.write(size),
            Event::WriteLines(size) => {
                if self.side.has_eof() || self.side.is_closing() {
                    return;
                }
                self.queue += size;
                self.side.queued_to_send(self.queue);
                self.carry_out();
            }
            Event::WriteEof => {
                self.release();
                self.side.end_of_stream();
                self.carry_out();
            }
            Event::Close => {
                self.release();
                if self.side.close() == Close::Now {
                    self.carry_out();
                    self.system.seen.push(Seen::LostSoon);
                }
            }
            Event::Abort => self.abort(),
            Event::Writable => {
                if self.system.registered {
                    self.side.writable();
                    self.carry_out();
                }
            }
            Event::Look => self.release(),
            Event::CallbackOver => {
                self.callback += 1;
                if std::mem::take(&mut self.scheduled) {
                    self.side.callback_over();
                    self.carry_out();
                }
            }
            Event::LowerLimits => {
                self.side.set_limits(0, 0);
                self.carry_out();
            }
        }
    }

    fn release(&mut self) {
        if self.side.release() {
            self.carry_out();
        }
    }

    fn abort(&mut self) {
        self.release();
        if self.side.abort() {
            self.queue = 0;
            self.carry_out();
            self.system.seen.push(Seen::LostSoon);
        }
    }

    fn write(&mut self, size: usize) {
        if self.side.has_eof() {
            return;
        }
        let callback = Callback { number: self.callback, is_busy_turn: true };
        match self.side.write(self.holds.then_some(callback)) {
            Write::Late(_) => {}
            Write::Send => {
                let taken = self.system.send(size);
                if taken == size {
                    return;
                }
                self.queue += size - taken;
                self.side.wait(self.queue);
                self.carry_out();
            }
            Write::Hold(_) => {
                self.queue += size;
                // The limit is so small that some writes exceed it.
                match self.side.hold(self.queue, 3, || 0) {
                    Hold::Schedule => self.scheduled = true,
                    Hold::Scheduled => assert!(self.scheduled),
                    Hold::Release => self.carry_out(),
                }
            }
            Write::Queue => {
                self.queue += size;
                self.side.queued_more(self.queue);
                self.carry_out();
            }
        }
    }

    fn carry_out(&mut self) {
        let outermost = self.side.begin();
        while let Some(command) = self.side.next(outermost) {
            match command {
                Command::Send => {
                    self.queue -= self.system.send(self.queue);
                    self.side.sent(self.queue);
                }
                Command::Watch => {
                    if !self.system.watch() {
                        self.system.seen.push(Seen::Refused);
                        match self.side.watch_refused() {
                            Refusal::Withdraw => {
                                self.queue = 0;
                                break;
                            }
                            Refusal::Fail => self.abort(),
                        }
                    }
                }
                Command::Unwatch => self.system.unwatch(),
                Command::Pause => self.tell(Seen::Pause),
                Command::Resume => self.tell(Seen::Resume),
                Command::ShutDown => self.system.seen.push(Seen::ShutDown),
                Command::Lose => self.system.seen.push(Seen::Lost),
            }
        }
        if outermost {
            self.side.finish();
        }
    }

    fn tell(&mut self, what: Seen) {
        self.system.seen.push(what);
        if self.depth < DEPTH {
            self.depth += 1;
            if let Some(event) = INSIDE[self.system.choices.choose(INSIDE.len())] {
                self.event(event);
            }
            self.depth -= 1;
        }
    }

    fn check(&self) {
        let side = &self.side;
        let waits = side.queue == Queue::Waiting && !side.is_lost();
        // Held writes are sent before the loop polls again; until then the descriptor may stay
        // watched.
        if side.queue != Queue::Held {
            assert_eq!(
                self.system.registered, waits,
                "the system watches what the queue waits for"
            );
        }
        assert_eq!(side.watched, self.system.registered);
        assert_eq!(side.queued, self.queue);
        assert!(!side.busy);
        match side.queue {
            Queue::Empty => assert_eq!(self.queue, 0),
            Queue::Held => assert!(self.queue > 0 && self.scheduled && side.end == End::Open),
            Queue::Waiting => assert!(self.queue > 0),
            Queue::Ready | Queue::Sending => panic!("a command is left"),
        }
        if !side.is_lost() {
            assert!(
                !(self.queue == 0 && side.paused),
                "a paused protocol has something to wait for"
            );
            assert!(side.queue != Queue::Waiting || side.paused || side.queued <= side.high);
            assert!(side.end == End::Open || self.queue > 0, "nothing is left to close for");
            assert!(
                side.eof != Eof::Requested || self.queue > 0,
                "nothing is left to shut down for"
            );
        }
        let lost = |seen: &&Seen| matches!(seen, Seen::Lost | Seen::LostSoon);
        let times = self.system.seen.iter().filter(lost).count();
        assert_eq!(times, usize::from(side.is_lost()), "the connection is lost once");
        let shut = self.system.seen.iter().filter(|seen| **seen == Seen::ShutDown).count();
        assert!(shut <= 1);
        if let Some(end) = self.system.seen.iter().position(|seen| lost(&seen)) {
            let silent = |seen: &Seen| !matches!(seen, Seen::Sent(_) | Seen::ShutDown);
            assert!(self.system.seen[end + 1..].iter().all(silent), "silence after the end");
        }
    }
}

fn next_event(choices: &mut Choices) -> Event {
    OUTSIDE[choices.choose(OUTSIDE.len())]
}

/// Runs all sequences of `length` events with all choices; returns the number of runs.
fn every_way(length: usize, holds: bool, may_refuse: bool) -> u64 {
    let mut choices = Choices::default();
    let mut ways = 0;
    loop {
        let mut transport = Transport::new(System::new(choices, may_refuse), holds);
        for _ in 0..length {
            let event = next_event(&mut transport.system.choices);
            transport.event(event);
            transport.check();
        }
        // Let the callback return, which sends held writes.
        transport.event(Event::CallbackOver);
        transport.check();
        ways += 1;
        choices = transport.system.choices;
        if !choices.advance() {
            return ways;
        }
    }
}

#[test]
fn registration_and_queue_agree_in_every_sequence() {
    assert!(every_way(4, false, false) > 10_000);
    assert!(every_way(4, true, false) > 10_000);
}

#[test]
fn they_agree_where_the_system_refuses_to_watch() {
    assert!(every_way(3, false, true) > 1_000);
    assert!(every_way(3, true, true) > 1_000);
}

#[test]
fn does_what_asyncio_does_in_every_sequence() {
    assert!(every_way_as_asyncio(4, false) > 10_000);
    assert!(every_way_as_asyncio(3, true) > 10_000);
}

fn every_way_as_asyncio(length: usize, may_refuse: bool) -> u64 {
    let mut choices = Choices::default();
    let mut ways = 0;
    loop {
        let mut transport = Transport::new(System::new(choices, may_refuse), false);
        let mut events = Vec::new();
        for _ in 0..length {
            let event = next_event(&mut transport.system.choices);
            events.push(event);
            transport.event(event);
        }
        let mut made = std::mem::take(&mut transport.system.choices);
        made.repeat();
        let mut reference = Reference::new(System::new(made, may_refuse));
        for _ in 0..length {
            let event = next_event(&mut reference.system.choices);
            reference.event(event);
        }
        assert_eq!(transport.system.seen, reference.system.seen, "{events:?}");
        assert_eq!(transport.system.registered, reference.system.registered, "{events:?}");
        assert_eq!(transport.queue, reference.buffer, "{events:?}");
        assert_eq!(transport.side.is_paused(), reference.paused, "{events:?}");
        ways += 1;
        choices = reference.system.choices;
        if !choices.advance() {
            return ways;
        }
    }
}

#[test]
fn a_write_in_resume_writing_leaves_no_writer_behind() {
    let mut side = WriteSide::new(ResumeAt::LowWater);
    let callback = Callback { number: 1, is_busy_turn: true };
    assert_eq!(side.write(None), Write::Send);
    side.wait(100_000);
    assert!(side.begin());
    assert_eq!(side.next(true), Some(Command::Watch));
    assert_eq!(side.next(true), Some(Command::Pause));
    assert_eq!(side.next(true), None);
    side.finish();
    side.writable();
    assert!(side.begin());
    assert_eq!(side.next(true), Some(Command::Send));
    side.sent(0);
    assert_eq!(side.next(true), Some(Command::Resume));
    assert_eq!(side.write(Some(callback)), Write::Hold(BULK_THRESHOLD));
    assert_eq!(side.hold(10, BULK_THRESHOLD, || 0), Hold::Schedule);
    assert_eq!(side.next(true), None);
    side.finish();
    side.callback_over();
    assert!(side.begin());
    assert_eq!(side.next(true), Some(Command::Send));
    side.sent(0);
    assert_eq!(side.next(true), Some(Command::Unwatch));
    assert_eq!(side.next(true), None);
}

#[test]
fn late_writes_are_counted() {
    let mut side = WriteSide::new(ResumeAt::LowWater);
    assert_eq!(side.close(), Close::Now);
    assert_eq!((side.write(None), side.write(None)), (Write::Late(1), Write::Late(2)));
    assert_eq!(side.late(), 3);
    assert!(!side.abort());
}

#[test]
fn a_pipe_is_resumed_when_all_is_sent() {
    let mut side = WriteSide::new(ResumeAt::Empty);
    side.wait(100_000);
    assert_eq!(side.next(true), Some(Command::Watch));
    assert_eq!(side.next(true), Some(Command::Pause));
    side.writable();
    assert_eq!(side.next(true), Some(Command::Send));
    side.sent(1);
    assert_eq!(side.next(true), None);
    side.writable();
    assert_eq!(side.next(true), Some(Command::Send));
    side.sent(0);
    assert_eq!(side.next(true), Some(Command::Resume));
    assert_eq!(side.next(true), Some(Command::Unwatch));
}

#[test]
fn one_write_in_a_callback_is_not_held() {
    let mut side = WriteSide::new(ResumeAt::LowWater);
    let callback = |number| Some(Callback { number, is_busy_turn: false });
    assert_eq!(side.write(callback(1)), Write::Send);
    assert_eq!(side.write(callback(2)), Write::Send);
    // Two writes in one callback: further ones are held, until a callback writes only once.
    assert!(matches!(side.write(callback(2)), Write::Hold(_)));
    side.hold(10, 100, || 0);
    side.callback_over();
    assert_eq!(side.next(true), Some(Command::Send));
    side.sent(0);
    assert!(matches!(side.write(callback(3)), Write::Hold(_)));
    side.hold(10, 100, || 0);
    side.callback_over();
    assert_eq!(side.next(true), Some(Command::Send));
    side.sent(0);
    assert_eq!(side.write(callback(4)), Write::Send);
}

#[test]
fn much_is_not_held_for_long() {
    let mut side = WriteSide::new(ResumeAt::LowWater);
    let callback = Callback { number: 1, is_busy_turn: false };
    side.write(Some(callback));
    let Write::Hold(limit) = side.write(Some(callback)) else { panic!("two writes are held") };
    assert_eq!(side.hold(20_000, limit, || 1_000), Hold::Schedule);
    assert_eq!(side.hold(40_000, limit, || 2_000), Hold::Scheduled);
    assert_eq!(side.hold(60_000, limit, || 900_000), Hold::Release);
    assert_eq!(side.next(true), Some(Command::Send));
    side.sent(0);
    side.write(Some(callback));
    assert_eq!(side.hold(limit + 1, limit, || 0), Hold::Release);
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<WriteSide>() <= 80);
}
