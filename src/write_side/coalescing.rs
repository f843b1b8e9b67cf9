//! Coalesced writes: holding those of one callback back, to send them by one system call.
//!
//! Many programs write a head and a body: one system call is enough for both. A transport that has
//! seen two writes in one callback holds further ones until the callback returns, and stops doing
//! so when there was only one. In a crowded turn every transport holds its writes until the turn
//! ends.

#![forbid(unsafe_code)]

/// From here on it matters how long bytes are held, and copying them costs more than a system call.
/// What is more is sent at once where many transports hold, or if it is a copy.
pub const LITTLE: usize = 16 * 1024;

/// More than this is sent at once. The kernel takes 200 KiB in one call with a sixth less work than
/// in calls of 64 KiB.
const HELD_AT_MOST: usize = 192 * 1024;

/// Nanoseconds for which more than [`LITTLE`] may be held, when the next write comes.
const LONGEST: u64 = 500_000;

/// The callback that runs now.
#[derive(Clone, Copy, Debug)]
pub struct Callback {
    /// Differs from one callback to the next.
    pub number: u32,
    /// Many callbacks run in this turn: what is held is sent when the turn ends.
    pub is_busy_turn: bool,
}

impl Callback {
    /// Bytes that may be held.
    #[inline(always)]
    pub(super) fn limit(self) -> usize {
        if self.is_busy_turn { LITTLE } else { HELD_AT_MOST }
    }
}

/// What a transport knows of its writes.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Coalescing {
    /// The callback that wrote last.
    callback: u32,
    /// Writes in that callback.
    writes: u32,
    /// Callbacks write more than once.
    enabled: bool,
    /// When more than [`LITTLE`] was held; 0 if it is less.
    bulk_since: u64,
}

impl Coalescing {
    /// Notes a write; whether it is worth holding.
    #[inline(always)]
    pub(super) fn note(&mut self, callback: Callback) -> bool {
        if self.callback == callback.number {
            self.writes = self.writes.saturating_add(1);
            self.enabled |= self.writes > 1;
        } else {
            self.callback = callback.number;
            self.writes = 1;
        }
        self.enabled || callback.is_busy_turn
    }

    /// Whether `queued` bytes may be held. `now` is the time in nanoseconds.
    pub(super) fn may_hold(
        &mut self,
        queued: usize,
        limit: usize,
        now: impl FnOnce() -> u64,
    ) -> bool {
        if queued > limit {
            self.released();
            return false;
        }
        if queued > LITTLE {
            let now = now();
            if self.bulk_since == 0 {
                self.bulk_since = now;
            } else if now.saturating_sub(self.bulk_since) > LONGEST {
                // A long callback that writes now and then: its next write goes out at once.
                self.released();
                self.enabled = false;
                self.writes = 0;
                return false;
            }
        }
        true
    }

    /// What was held is sent.
    #[inline(always)]
    pub(super) fn released(&mut self) {
        self.bulk_since = 0;
    }

    /// The callback that wrote has returned.
    pub(super) fn callback_over(&mut self) {
        // A single write in a callback: holding was of no use.
        self.enabled = self.writes > 1;
    }
}
