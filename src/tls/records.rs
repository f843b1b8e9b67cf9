//! Counts the records of a TLS stream.
//!
//! Reading from an SSL object that has no whole record raises, which costs more than decrypting a
//! small message. All ciphertext passes through here, and each record's header has its length
//! (RFC 8446, 5.1), so it is known when there is something to read. The count may be too high (a
//! record need not contain application data), but never too low. If the stream does not look like
//! TLS, counting stops and the SSL object is always read.

/// The length of a header: type, version, length.
const HEADER: usize = 5;
/// The content types, from change_cipher_spec to heartbeat.
const TYPES: std::ops::RangeInclusive<u8> = 20..=24;
/// The content type of application data, and in TLS 1.3 of all that is encrypted.
const APPLICATION_DATA: u8 = 23;
/// The maximum size of a record's body, in bytes: 16 KiB and the expansion that TLS 1.2 allows.
const MAX_BODY: usize = 16 * 1024 + 2048;
/// The number of records is unknown, or counting has stopped.
const UNKNOWN: u32 = u32::MAX;

/// The number of whole records that were fed and not read yet.
#[derive(Clone, Copy)]
pub struct Records {
    unread: u32,
    /// The number of bytes missing from the current record's body.
    body_left: u32,
    header: [u8; HEADER],
    header_length: u8,
    /// Whether a record of the type of application data may be unread, complete or not.
    data: bool,
    /// Whether the stream looks like TLS so far.
    plausible: bool,
}

impl Default for Records {
    fn default() -> Self {
        Self {
            unread: 0,
            body_left: 0,
            header: [0; HEADER],
            header_length: 0,
            data: false,
            plausible: true,
        }
    }
}

impl Records {
    /// Counts the records of the next part of the stream.
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

    /// The length of the longest prefix of `bytes` that ends at the end of a record and is not
    /// longer than `most`, unless the first record is.
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

    /// The number of bytes to the end of the current record, or else of the next one; all if that
    /// is unknown.
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
        if !TYPES.contains(&kind) || major != 3 || length > MAX_BODY {
            return self.stop_counting();
        }
        self.data |= kind == APPLICATION_DATA;
        self.body_left = length as u32;
        if length == 0 {
            self.unread = self.unread.saturating_add(1);
        }
    }

    /// Stops counting, since parts of the stream do not pass through here.
    pub fn stop_counting(&mut self) {
        self.plausible = false;
        self.data = true;
        self.unread = UNKNOWN;
    }

    /// Called when a handshake has read an unknown number of records; `some`: whether data is left.
    pub fn forget_count(&mut self, some: bool) {
        if self.plausible {
            self.unread = if some { UNKNOWN } else { 0 };
            self.data = some;
        }
    }

    /// Whether a record of the type of application data may be unread, complete or not.
    pub fn may_have_data(&self) -> bool {
        self.data
    }

    /// Whether reading may return data.
    #[inline(always)]
    pub fn has_unread(&self) -> bool {
        self.unread > 0
    }

    /// Called when a whole record was read.
    #[inline(always)]
    pub fn note_read(&mut self) {
        if self.unread != UNKNOWN {
            self.unread = self.unread.saturating_sub(1);
        }
    }

    /// Called when there was nothing left to read.
    pub fn note_drained(&mut self) {
        if self.plausible {
            self.unread = 0;
            self.data = self.body_left > 0 && self.header[0] == APPLICATION_DATA;
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
    fn application_data_is_told_from_a_handshake() {
        let mut records = Records::default();
        let handshake = [22, 3, 3, 0, 2, 0, 0];
        records.feed(&handshake);
        assert!(records.has_unread() && !records.may_have_data());
        records.feed(&record(10)[..6]);
        records.note_drained();
        assert!(records.may_have_data(), "a part of the record is read");
        records.feed(&record(10)[6..]);
        records.note_drained();
        assert!(!records.may_have_data());
        records.feed(&handshake);
        assert!(!records.may_have_data());
    }

    #[test]
    fn an_unknown_number_lasts_until_drained() {
        let mut records = Records::default();
        records.forget_count(true);
        records.note_read();
        records.feed(&record(3));
        assert!(records.has_unread());
        records.note_drained();
        assert!(!records.has_unread());
        records.feed(&record(3));
        assert!(records.has_unread());
        records.forget_count(false);
        assert!(!records.has_unread());
    }
}
