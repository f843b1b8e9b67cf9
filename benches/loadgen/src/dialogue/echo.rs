//! The server sends back what it received.

use super::{Dialogue, Progress, pattern, wrong};
use crate::failure::Failure;

/// Numbered messages, so that a late or repeated reply is noticed.
pub struct Echo {
    message: Vec<u8>,
    number: u64,
    received: usize,
}

impl Echo {
    /// Messages of `size` bytes.
    pub fn new(size: usize, seed: usize) -> Self {
        Self { message: pattern(size, seed), number: (seed as u64) << 32, received: 0 }
    }
}

impl Dialogue for Echo {
    fn next(&mut self) {
        self.number += 1;
        self.received = 0;
        let number = self.number.to_le_bytes();
        let length = number.len().min(self.message.len());
        self.message[..length].copy_from_slice(&number[..length]);
    }

    fn request(&self) -> &[u8] {
        &self.message
    }

    fn receive(&mut self, data: &[u8]) -> Result<Progress, Failure> {
        let end = self.received + data.len();
        if self.message.get(self.received..end) != Some(data) {
            return Err(wrong(format!(
                "the echo differs from the message after {} bytes",
                self.received
            )));
        }
        self.received = end;
        Ok(if end == self.message.len() { Progress::Complete(1.0) } else { Progress::Partial })
    }
}
