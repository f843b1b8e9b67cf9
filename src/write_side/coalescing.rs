//! Write coalescing: holds the writes of one callback to send them by one system call.
//!
//! Many programs write a header and a body, for which one system call is enough. A transport that
//! has seen two writes in one callback holds further writes until the callback returns, and stops
//! holding after a callback with a single write. In a busy turn every transport holds its writes
//! until the turn ends.

/// Above this many bytes, copying costs more than a system call, and the delay matters. More is
/// sent at once in a busy turn, or if it was copied.
pub const BULK_THRESHOLD: usize = 16 * 1024;

/// More bytes than this are sent at once. The kernel takes 200 KiB in one call with a sixth less
/// work than in calls of 64 KiB.
const MAXIMUM_HELD: usize = 192 * 1024;

/// How long more than [`BULK_THRESHOLD`] may be held, in nanoseconds, checked at the next write.
const MAXIMUM_HOLD_TIME: u64 = 500_000;

/// The running callback.
#[derive(Clone, Copy, Debug)]
pub struct Callback {
    /// Identifies the callback.
    pub number: u32,
    /// Held writes are sent at the end of the turn, which has many callbacks.
    pub is_busy_turn: bool,
}

impl Callback {
    /// Maximum number of bytes that may be held.
    #[inline(always)]
    pub(super) fn limit(self) -> usize {
        if self.is_busy_turn { BULK_THRESHOLD } else { MAXIMUM_HELD }
    }
}

/// What a transport has observed about its writes.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Coalescing {
    /// The callback that wrote last.
    callback: u32,
    /// The number of writes in that callback.
    writes: u32,
    /// Whether callbacks write more than once.
    enabled: bool,
    /// Since when more than [`BULK_THRESHOLD`] has been held, in nanoseconds; 0 if it is less.
    bulk_since: u64,
}

impl Coalescing {
    /// Notes a write; returns whether to hold it.
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
        if queued > BULK_THRESHOLD {
            let now = now();
            if self.bulk_since == 0 {
                self.bulk_since = now;
            } else if now.saturating_sub(self.bulk_since) > MAXIMUM_HOLD_TIME {
                // A long callback that writes from time to time: its next write is sent at once.
                self.released();
                self.enabled = false;
                self.writes = 0;
                return false;
            }
        }
        true
    }

    /// The held writes are sent.
    #[inline(always)]
    pub(super) fn released(&mut self) {
        self.bulk_since = 0;
    }

    /// The callback that wrote has returned.
    pub(super) fn callback_over(&mut self) {
        // After a single write in a callback, holding was useless.
        self.enabled = self.writes > 1;
    }
}
