//! asyncio's stream transport in Rust, to compare with.

use super::*;

/// asyncio's `_SelectorSocketTransport`, statement by statement, with two exceptions: a connection
/// that `resume_writing()` has closed is not lost a second time, and `writelines()` drops what the
/// system refused to watch for, as `write()` does.
pub(super) struct Reference {
    pub(super) system: System,
    pub(super) buffer: usize,
    closing: bool,
    lost: bool,
    eof: bool,
    pub(super) paused: bool,
    high: usize,
    low: usize,
    depth: usize,
}

impl Reference {
    pub(super) fn new(system: System) -> Self {
        let (closing, lost, eof, paused) = (false, false, false, false);
        Self { system, buffer: 0, closing, lost, eof, paused, high: 2, low: 1, depth: 0 }
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Write(size) if !self.eof && !self.lost => self.write(size),
            Event::WriteLines(size) if !self.eof && !self.closing => {
                let idle = self.buffer == 0;
                self.buffer += size;
                if idle {
                    self.buffer -= self.system.send(self.buffer);
                    if self.buffer > 0 && !self.system.watch() {
                        self.buffer = 0;
                        return self.system.seen.push(Seen::Refused);
                    }
                }
                self.maybe_pause();
            }
            Event::WriteEof if !self.closing && !self.eof => {
                self.eof = true;
                if self.buffer == 0 {
                    self.system.seen.push(Seen::ShutDown);
                }
            }
            Event::Close if !self.closing => {
                self.closing = true;
                if self.buffer == 0 {
                    self.lost = true;
                    self.remove_writer();
                    self.system.seen.push(Seen::LostSoon);
                }
            }
            Event::Abort if !self.lost => {
                self.buffer = 0;
                self.remove_writer();
                (self.closing, self.lost) = (true, true);
                self.system.seen.push(Seen::LostSoon);
            }
            Event::Writable if self.system.registered => self.write_ready(),
            Event::LowerLimits => {
                (self.low, self.high) = (0, 0);
                if !self.lost {
                    self.maybe_pause();
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, size: usize) {
        let mut size = size;
        if self.buffer == 0 {
            size -= self.system.send(size);
            if size == 0 {
                return;
            }
            if !self.system.registered && !self.system.watch() {
                return self.system.seen.push(Seen::Refused);
            }
        }
        self.buffer += size;
        self.maybe_pause();
    }

    fn write_ready(&mut self) {
        self.buffer -= self.system.send(self.buffer);
        if self.paused && self.buffer <= self.low {
            self.paused = false;
            self.tell(Seen::Resume);
        }
        if self.buffer == 0 {
            self.remove_writer();
            if self.closing && !self.lost {
                self.lost = true;
                self.system.seen.push(Seen::Lost);
            } else if self.eof && !self.lost {
                self.system.seen.push(Seen::ShutDown);
            }
        }
    }

    fn remove_writer(&mut self) {
        if self.system.registered {
            self.system.unwatch();
        }
    }

    fn maybe_pause(&mut self) {
        if !self.paused && self.buffer > self.high {
            self.paused = true;
            self.tell(Seen::Pause);
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
}
