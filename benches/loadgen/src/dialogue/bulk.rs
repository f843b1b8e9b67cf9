//! Bulk transfer in one direction. Numbers on the wire are 8 bytes, little-endian.

use super::{Dialogue, Progress, pattern, wrong};
use crate::failure::Failure;

const MEBIBYTE: f64 = (1 << 20) as f64;
const BLOCK: usize = 251 * 256;

/// Sends a length, then that many bytes; the server answers with the number of bytes received.
pub struct Upload {
    message: Vec<u8>,
    answer: Vec<u8>,
}

impl Upload {
    /// Uploads of `size` bytes.
    pub fn new(size: usize) -> Self {
        let mut message = (size as u64).to_le_bytes().to_vec();
        message.extend(pattern(size, 0));
        Self { message, answer: Vec::with_capacity(8) }
    }
}

impl Dialogue for Upload {
    fn next(&mut self) {
        self.answer.clear();
    }

    fn request(&self) -> &[u8] {
        &self.message
    }

    fn receive(&mut self, data: &[u8]) -> Result<Progress, Failure> {
        self.answer.extend(data);
        if self.answer.len() < 8 {
            return Ok(Progress::Partial);
        }
        if self.answer != self.message[..8] {
            return Err(wrong("the server counted another number of bytes"));
        }
        Ok(Progress::Complete((self.message.len() - 8) as f64 / MEBIBYTE))
    }
}

/// Sends a length; the server answers with that many bytes of the pattern.
pub struct Download {
    request: [u8; 8],
    size: usize,
    received: usize,
    expected: Vec<u8>,
}

impl Download {
    /// Downloads of `size` bytes.
    pub fn new(size: usize) -> Self {
        Self {
            request: (size as u64).to_le_bytes(),
            size,
            received: 0,
            expected: pattern(BLOCK, 0),
        }
    }
}

impl Dialogue for Download {
    fn next(&mut self) {
        self.received = 0;
    }

    fn request(&self) -> &[u8] {
        &self.request
    }

    fn receive(&mut self, mut data: &[u8]) -> Result<Progress, Failure> {
        if data.len() > self.size - self.received {
            return Err(wrong("the server sent more than it was asked for"));
        }
        while !data.is_empty() {
            let start = self.received % BLOCK;
            let length = data.len().min(BLOCK - start);
            if data[..length] != self.expected[start..start + length] {
                return Err(wrong(format!("a wrong byte after {}", self.received)));
            }
            self.received += length;
            data = &data[length..];
        }
        Ok(if self.received == self.size {
            Progress::Complete(self.size as f64 / MEBIBYTE)
        } else {
            Progress::Partial
        })
    }
}
