//! Counting the records of a TLS stream.
//!
//! Reading from an SSL object that has no whole record raises, which costs more than decrypting a
//! small message. All ciphertext passes through here, and the length of each record is in its
//! header (RFC 8446, 5.1), so we know when there is something to read. The count may be too high
//! (a record need not carry application data), never too low; where the stream does not look like
//! TLS we stop counting and OpenSSL is always asked.

#![forbid(unsafe_code)]

/// Type, version, length.
const HEADER: usize = 5;
/// Content types from change_cipher_spec to heartbeat.
const TYPES: std::ops::RangeInclusive<u8> = 20..=24;
/// Largest body of a record: 16 KiB and what TLS 1.2 may add.
const LARGEST_BODY: usize = 16 * 1024 + 2048;
/// Not known how many; also that counting was given up.
const UNKNOWN: u32 = u32::MAX;

/// Whole records that were fed and not read yet.
#[derive(Clone, Copy)]
pub struct Records {
    unread: u32,
    /// Bytes of the body that are still to come.
    body_left: u32,
    header: [u8; HEADER],
    header_length: u8,
    /// Whether the stream looks like TLS so far.
    plausible: bool,
}

impl Default for Records {
    fn default() -> Self {
        Self { unread: 0, body_left: 0, header: [0; HEADER], header_length: 0, plausible: true }
    }
}

impl Records {
    /// More of the stream has come.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.plausible && !bytes.is_empty() {
            if self.body_left > 0 {
                let taken = bytes.len().min(self.body_left as usize);
                self.body_left -= taken as u32;
                bytes = &bytes[taken..];
                if self.body_left == 0 {
                    self.unread = self.unread.saturating_add(1);
                }
                continue;
            }
            let have = usize::from(self.header_length);
            let taken = bytes.len().min(HEADER - have);
            self.header[have..have + taken].copy_from_slice(&bytes[..taken]);
            self.header_length += taken as u8;
            bytes = &bytes[taken..];
            if usize::from(self.header_length) == HEADER {
                self.header_length = 0;
                self.begin_body();
            }
        }
    }

    /// How much of `bytes`, at most `most` if a record fits into that, ends where a record ends.
    pub fn whole_records(mut self, bytes: &[u8], most: usize) -> usize {
        let mut whole = 0;
        while whole < bytes.len() {
            let record = self.rest_of_record(&bytes[whole..]);
            if whole > 0 && whole + record > most {
                break;
            }
            self.feed(&bytes[whole..whole + record]);
            whole += record;
        }
        whole
    }

    /// Bytes until the record that has begun ends, or the next one; all if that can't be told.
    fn rest_of_record(&self, bytes: &[u8]) -> usize {
        let have = usize::from(self.header_length);
        let rest = if !self.plausible {
            bytes.len()
        } else if self.body_left > 0 {
            self.body_left as usize
        } else if have + bytes.len() >= HEADER {
            let byte = |index: usize| {
                if index < have { self.header[index] } else { bytes[index - have] }
            };
            HEADER - have + usize::from(u16::from_be_bytes([byte(3), byte(4)]))
        } else {
            bytes.len()
        };
        rest.min(bytes.len())
    }

    fn begin_body(&mut self) {
        let [kind, major, _, high, low] = self.header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !TYPES.contains(&kind) || major != 3 || length > LARGEST_BODY {
            return self.give_up();
        }
        self.body_left = length as u32;
        if length == 0 {
            self.unread = self.unread.saturating_add(1);
        }
    }

    /// Not all of the stream passes through here: OpenSSL must be asked.
    pub fn give_up(&mut self) {
        self.plausible = false;
        self.unread = UNKNOWN;
    }

    /// Records were read elsewhere, by a handshake: `some` tells whether anything is left.
    pub fn lose_count(&mut self, some: bool) {
        if self.plausible {
            self.unread = if some { UNKNOWN } else { 0 };
        }
    }

    /// Whether reading may give something.
    #[inline(always)]
    pub fn has_unread(&self) -> bool {
        self.unread > 0
    }

    /// A read has taken a whole record, or more.
    #[inline(always)]
    pub fn note_read(&mut self) {
        if self.unread != UNKNOWN {
            self.unread = self.unread.saturating_sub(1);
        }
    }

    /// A read had nothing left to give.
    pub fn note_drained(&mut self) {
        if self.plausible {
            self.unread = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(length: usize) -> Vec<u8> {
        let mut bytes = vec![23, 3, 3];
        bytes.extend_from_slice(&(length as u16).to_be_bytes());
        bytes.resize(HEADER + length, 0xaa);
        bytes
    }

    #[test]
    fn counts_whole_records_wherever_the_stream_is_cut() {
        let stream: Vec<u8> = [1, 0, 16 * 1024 + 17, 5, 300].into_iter().flat_map(record).collect();
        for cut in [1, 2, 3, 4, 5, 6, 7, 4096, 16 * 1024, stream.len()] {
            let mut records = Records::default();
            for piece in stream.chunks(cut) {
                records.feed(piece);
            }
            assert_eq!(records.unread, 5, "cut every {cut} bytes");
        }
    }

    #[test]
    fn whole_records_end_where_a_record_ends() {
        let stream: Vec<u8> = [100, 0, 200].into_iter().flat_map(record).collect();
        let ends = [HEADER + 100, 2 * HEADER + 100, stream.len()];
        for fed in 0..stream.len() {
            let mut records = Records::default();
            records.feed(&stream[..fed]);
            for seen in fed + 1..=stream.len() {
                let taken = records.whole_records(&stream[fed..seen], 120);
                let end = fed + taken;
                let next = ends.into_iter().find(|&end| end > fed);
                assert!(end == seen || ends.contains(&end), "{fed}..{end} of {seen}");
                assert!(taken > 0 && (taken <= 120 || Some(end) == next || end == seen));
            }
        }
        assert_eq!(Records::default().whole_records(&stream, 120), 2 * HEADER + 100);
        assert_eq!(Records::default().whole_records(b"GET / HTTP/1.1\r\n", 4), 16);
    }

    #[test]
    fn a_record_counts_with_its_last_byte() {
        let stream = record(10);
        let mut records = Records::default();
        records.feed(&stream[..14]);
        assert!(!records.has_unread());
        records.feed(&stream[14..]);
        assert!(records.has_unread());
        records.note_read();
        assert!(!records.has_unread());
    }

    #[test]
    fn what_is_not_tls_is_always_read() {
        for stream in [&b"GET / HTTP/1.1\r\n"[..], &[23, 2, 0, 0, 1], &[23, 3, 3, 255, 255]] {
            let mut records = Records::default();
            records.feed(stream);
            assert!(records.has_unread());
            records.note_read();
            records.note_drained();
            assert!(records.has_unread());
        }
    }

    #[test]
    fn an_unknown_number_lasts_until_drained() {
        let mut records = Records::default();
        records.lose_count(true);
        records.note_read();
        records.feed(&record(3));
        assert!(records.has_unread());
        records.note_drained();
        assert!(!records.has_unread());
        records.feed(&record(3));
        assert!(records.has_unread());
        records.lose_count(false);
        assert!(!records.has_unread());
    }
}
