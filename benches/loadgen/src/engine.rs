//! Drives the connections: one request in flight on each, all on one epoll.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::dialogue::{self, Dialogue, Progress};
use crate::failure::Failure;
use crate::options::{Mode, Options};
use crate::poller::{Interest, Poller};
use crate::process;
use crate::stream::Stream;

/// A server that completes nothing for this long counts as having stopped answering.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A server that slept is slower for some tens of milliseconds, a Python server by 10 %.
const WARM_UP: Duration = Duration::from_millis(50);
/// How many connections are opened at a time if most of them stay idle: fewer than a backlog holds.
const GROUP: usize = 64;

pub struct Connection {
    stream: Stream,
    dialogue: Box<dyn Dialogue>,
    sent: usize,
    interest: Interest,
    /// Whether it, or an earlier connection with its index, has completed an operation.
    warm: bool,
}

impl Connection {
    fn open(options: &Options, index: usize, poller: &Poller) -> Result<Self, Failure> {
        let connection = Self {
            stream: Stream::connect(&options.to)?,
            dialogue: dialogue::start(options, index),
            sent: 0,
            interest: Interest { write: false },
            warm: false,
        };
        poller.add(connection.stream.fd(), index, connection.interest)?;
        Ok(connection)
    }

    /// Send the next request.
    pub fn begin(&mut self) -> Result<(), Failure> {
        self.dialogue.next();
        self.sent = 0;
        self.send()
    }

    pub fn send(&mut self) -> Result<(), Failure> {
        while self.sent < self.dialogue.request().len() {
            match self.stream.write(&self.dialogue.request()[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Read all available data; Some when the reply is complete.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<f64>, Failure> {
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Err(Failure::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if let Progress::Complete(operations) = self.dialogue.receive(&buffer[..count])? {
                return Ok(Some(operations));
            }
        }
    }

    pub fn update_interest(&mut self, index: usize, poller: &Poller) -> io::Result<()> {
        let write = self.sent < self.dialogue.request().len() || self.stream.has_unsent();
        let interest = Interest { write };
        if interest != self.interest {
            self.interest = interest;
            poller.modify(self.stream.fd(), index, interest)?;
        }
        Ok(())
    }
}

/// All connections and the operations that they have completed.
pub struct Engine<'a> {
    options: &'a Options,
    pub poller: Poller,
    pub connections: Vec<Connection>,
    pub buffer: Vec<u8>,
    pub ready: Vec<usize>,
    operations: f64,
    last_completion: Instant,
}

impl<'a> Engine<'a> {
    pub fn new(options: &'a Options) -> Result<Self, Failure> {
        Ok(Self {
            options,
            poller: Poller::new()?,
            connections: Vec::new(),
            buffer: vec![0; 256 * 1024],
            ready: Vec::new(),
            operations: 0.0,
            last_completion: Instant::now(),
        })
    }

    pub fn open_all(&mut self) -> Result<(), Failure> {
        if self.options.active == self.options.connections {
            return self.open(self.options.connections);
        }
        while self.connections.len() < self.options.connections {
            let count = self.connections.len();
            self.open(self.options.connections.min(count + GROUP))?;
            self.operations = 0.0;
            while self.operations < (self.connections.len() - count) as f64 {
                self.turn(false)?;
            }
        }
        for connection in &self.connections {
            connection.stream.reset_at_end()?;
        }
        self.connections[..self.options.active].iter_mut().try_for_each(Connection::begin)
    }

    fn open(&mut self, count: usize) -> Result<(), Failure> {
        for index in self.connections.len()..count {
            let mut connection = Connection::open(self.options, index, &self.poller)?;
            connection.begin()?;
            connection.update_interest(index, &self.poller)?;
            self.connections.push(connection);
        }
        Ok(())
    }

    /// Serve the ready connections; `again` decides whether the next exchange begins after a
    /// completed one. True if an operation was completed.
    pub fn turn(&mut self, again: bool) -> Result<bool, Failure> {
        let before = self.operations;
        self.ready.clear();
        self.poller.wait(100, &mut self.ready)?;
        for position in 0..self.ready.len() {
            let index = self.ready[position];
            self.serve(index, again)?;
        }
        if self.last_completion.elapsed() > PATIENCE {
            return Err(Failure::Silence);
        }
        Ok(self.operations > before)
    }

    fn serve(&mut self, index: usize, again: bool) -> Result<(), Failure> {
        let connection = &mut self.connections[index];
        connection.send()?;
        if let Some(operations) = connection.receive(&mut self.buffer)? {
            self.operations += operations;
            self.last_completion = Instant::now();
            if again && self.options.mode == Mode::Connect {
                *connection = Connection::open(self.options, index, &self.poller)?;
            }
            connection.warm |= operations > 0.0;
            if again {
                connection.begin()?;
            }
        }
        connection.update_interest(index, &self.poller)?;
        Ok(())
    }

    /// Sends and receives what is ready on a connection; true if its reply is complete.
    pub fn exchange(&mut self, index: usize) -> Result<bool, Failure> {
        let connection = &mut self.connections[index];
        connection.send()?;
        let complete = connection.receive(&mut self.buffer)?.is_some();
        connection.update_interest(index, &self.poller)?;
        Ok(complete)
    }

    /// Waits until every request has its reply.
    pub fn drain(&mut self) -> Result<(), Failure> {
        self.operations = 0.0;
        while self.operations < self.options.active as f64 {
            self.turn(false)?;
        }
        Ok(())
    }

    /// Runs until the warm-up time is over and every connection has finished its handshakes.
    pub fn warm_up(&mut self) -> Result<(), Failure> {
        loop {
            self.run_for(WARM_UP)?;
            let active = &self.connections[..self.options.active];
            if active.iter().all(|connection| connection.warm) {
                return Ok(());
            }
        }
    }

    /// Measures from one completion to another, so that no part of a long operation is counted.
    fn run_for(&mut self, duration: Duration) -> Result<Duration, Failure> {
        self.operations = 0.0;
        let begin = Instant::now();
        while !self.turn(true)? || begin.elapsed() < duration {}
        Ok(begin.elapsed())
    }
}

/// Nanoseconds per operation, of wall-clock time or of the server's CPU time.
pub fn drive(options: &Options) -> Result<f64, Failure> {
    let mut engine = Engine::new(options)?;
    engine.open_all()?;
    engine.warm_up()?;
    let cost = match options.pid.filter(|_| options.cpu_time) {
        Some(pid) => {
            let before = process::cpu_time(pid)?;
            engine.run_for(options.duration)?;
            (process::cpu_time(pid)? - before) / engine.operations
        }
        None => engine.run_for(options.duration)?.as_nanos() as f64 / engine.operations,
    };
    drop(engine);
    if let Some(pid) = options.pid {
        wait_until_asleep(pid)?;
    }
    Ok(cost)
}

/// Wait until the server has handled the end of its connections: that work must not be counted for
/// the process measured next on the same core. The wait is limited, as a server may have other work.
pub fn wait_until_asleep(pid: u32) -> Result<(), Failure> {
    let begin = Instant::now();
    while process::is_awake(pid)? && begin.elapsed() < Duration::from_secs(2) {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Bytes by which the server grew per connection that has exchanged one message and is idle.
pub fn hold_idle(options: &Options) -> Result<f64, Failure> {
    let pid = options.pid.ok_or_else(|| Failure::Usage("idle wants --pid".into()))?;
    // What the server allocates only for its first clients must not be counted.
    let few = Options { connections: 10, active: 10, ..options.clone() };
    let mut engine = Engine::new(&few)?;
    open_and_wait(&mut engine)?;
    let before = process::resident(pid)?;
    let mut engine = Engine::new(options)?;
    open_and_wait(&mut engine)?;
    let after = process::resident(pid)?;
    Ok((after - before) / options.connections as f64)
}

fn open_and_wait(engine: &mut Engine<'_>) -> Result<(), Failure> {
    engine.open_all()?;
    while engine.operations < engine.options.connections as f64 {
        engine.turn(false)?;
    }
    Ok(())
}
