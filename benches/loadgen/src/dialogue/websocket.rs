//! Binary WebSocket messages that the server sends back.

use super::http::end_of_head;
use super::{Dialogue, Progress, pattern, wrong};
use crate::failure::Failure;

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
/// What RFC 6455, section 1.3 derives from the key above.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const BINARY: u8 = 0x82;

/// First the upgrade (which counts as no operation), then the same message repeatedly.
pub struct Websocket {
    /// Client's frame: masked.
    frame: Vec<u8>,
    /// Server's frame: the same payload, not masked.
    expected: Vec<u8>,
    reply: Vec<u8>,
    open: bool,
    upgrading: bool,
}

fn frame_head(size: usize, masked: bool) -> Vec<u8> {
    let flag = if masked { 0x80 } else { 0 };
    let mut head = vec![BINARY];
    match size {
        0..126 => head.push(flag | size as u8),
        126..65536 => {
            head.push(flag | 126);
            head.extend((size as u16).to_be_bytes());
        }
        _ => {
            head.push(flag | 127);
            head.extend((size as u64).to_be_bytes());
        }
    }
    head
}

impl Websocket {
    /// Messages of `size` bytes.
    pub fn new(size: usize, seed: usize) -> Self {
        let payload = pattern(size, seed);
        let mut frame = frame_head(size, true);
        frame.extend(MASK);
        let masked = payload.iter().zip(MASK.iter().cycle()).map(|(p, m)| p ^ m);
        frame.extend(masked);
        let mut expected = frame_head(size, false);
        expected.extend(payload);
        Self { frame, expected, reply: Vec::new(), open: false, upgrading: true }
    }
}

impl Dialogue for Websocket {
    fn next(&mut self) {
        self.reply.clear();
        self.upgrading = !self.open;
    }

    fn request(&self) -> &[u8] {
        if self.upgrading { UPGRADE } else { &self.frame }
    }

    fn receive(&mut self, data: &[u8]) -> Result<Progress, Failure> {
        self.reply.extend(data);
        if self.upgrading {
            if end_of_head(&self.reply) != Some(self.reply.len()) {
                return Ok(Progress::Partial);
            }
            let head = String::from_utf8_lossy(&self.reply);
            if !head.starts_with("HTTP/1.1 101 ") || !head.contains(ACCEPT) {
                return Err(wrong(format!("{:?}", head.lines().next())));
            }
            self.open = true;
            return Ok(Progress::Complete(0.0));
        }
        if !self.expected.starts_with(&self.reply) {
            return Err(wrong("another message came back"));
        }
        Ok(if self.reply.len() == self.expected.len() {
            Progress::Complete(1.0)
        } else {
            Progress::Partial
        })
    }
}
