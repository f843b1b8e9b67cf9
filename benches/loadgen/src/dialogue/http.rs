//! HTTP/1.1 GET on a connection that stays open.

use super::{Dialogue, Progress, pattern, wrong};
use crate::failure::Failure;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: loadgen\r\n\
    Accept: */*\r\nAccept-Encoding: identity\r\n\r\n";

/// Expects status 200, a Content-Length and the pattern as body.
pub struct Http {
    body: Vec<u8>,
    reply: Vec<u8>,
}

impl Http {
    /// Bodies of `size` bytes.
    pub fn new(size: usize) -> Self {
        Self { body: pattern(size, 0), reply: Vec::with_capacity(size + 1024) }
    }
}

/// The end of the header block in `reply`, after the empty line.
pub fn end_of_head(reply: &[u8]) -> Option<usize> {
    reply.windows(4).position(|window| window == b"\r\n\r\n").map(|start| start + 4)
}

/// The value of a header line, found without regard to case.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

impl Dialogue for Http {
    fn next(&mut self) {
        self.reply.clear();
    }

    fn request(&self) -> &[u8] {
        REQUEST
    }

    fn receive(&mut self, data: &[u8]) -> Result<Progress, Failure> {
        self.reply.extend(data);
        let Some(end) = end_of_head(&self.reply) else {
            return Ok(Progress::Partial);
        };
        let head = String::from_utf8_lossy(&self.reply[..end]);
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(wrong(format!("{:?}", head.lines().next())));
        }
        let length = header(&head, "content-length").and_then(|value| value.parse().ok());
        if length != Some(self.body.len()) {
            return Err(wrong(format!("Content-Length {length:?}")));
        }
        let body = &self.reply[end..];
        if !self.body.starts_with(body) {
            return Err(wrong("a wrong body"));
        }
        Ok(if body.len() == self.body.len() { Progress::Complete(1.0) } else { Progress::Partial })
    }
}
