//! What one connection sends and what it expects to receive.

mod bulk;
mod echo;
mod http;
mod websocket;

use crate::failure::Failure;
use crate::options::{Mode, Options};

/// How much of a reply has been received.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// There is more to come.
    Partial,
    /// The reply is complete and correct; it counts as this many operations.
    Complete(f64),
}

/// A closed loop: one request, one reply, the next request.
pub trait Dialogue {
    /// Prepare the next request; `request` returns it from now on.
    fn next(&mut self);

    /// The bytes to send.
    fn request(&self) -> &[u8];

    /// Check received data; an error says what is wrong with it.
    fn receive(&mut self, data: &[u8]) -> Result<Progress, Failure>;
}

/// The dialogue that `options` select; connections with different seeds send different messages.
pub fn start(options: &Options, seed: usize) -> Box<dyn Dialogue> {
    let size = options.size;
    match options.mode {
        Mode::Echo | Mode::Connect | Mode::Idle => Box::new(echo::Echo::new(size, seed)),
        Mode::Upload => Box::new(bulk::Upload::new(size)),
        Mode::Download => Box::new(bulk::Download::new(size)),
        Mode::Http => Box::new(http::Http::new(size)),
        Mode::Websocket => Box::new(websocket::Websocket::new(size, seed)),
    }
}

/// Bytes with a prime period, so that a shift, a gap or a repetition is detected.
pub fn pattern(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|i| ((i + seed) % 251) as u8).collect()
}

fn wrong(what: impl Into<String>) -> Failure {
    Failure::WrongReply(what.into())
}
