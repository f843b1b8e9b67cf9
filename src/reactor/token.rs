//! The value that the poller returns with each event.

use std::os::fd::RawFd;

/// Identifies one registration of a descriptor: its number, and a generation that distinguishes it
/// from earlier registrations of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// Reserved for the poller's waker: no descriptor has the index `u32::MAX`.
    pub const WAKER: Token = Token::unpack(Token::WAKER_DATA as u64);
    /// [`Token::WAKER`] as mio's token, which is 32 bits wide on some platforms.
    pub(super) const WAKER_DATA: usize = usize::MAX;

    /// The token of registration `generation` of `fd`, which must not be negative.
    #[inline]
    pub const fn new(fd: RawFd, generation: u32) -> Token {
        debug_assert!(fd >= 0);
        Token { index: fd as u32, generation }
    }

    /// The descriptor.
    #[inline]
    pub const fn fd(self) -> RawFd {
        self.index as RawFd
    }

    /// The registration's generation.
    #[inline]
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// Both halves in one number, for the system's event structure.
    #[inline]
    pub const fn pack(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The token from which [`Token::pack`] made `packed`.
    #[inline]
    pub const fn unpack(packed: u64) -> Token {
        Token { index: packed as u32, generation: (packed >> 32) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_lossless() {
        for fd in [0, 1, 255, 65_536, RawFd::MAX] {
            for generation in [0, 1, u32::MAX] {
                let token = Token::new(fd, generation);
                assert_eq!((token.fd(), token.generation()), (fd, generation));
                assert_eq!(Token::unpack(token.pack()), token);
                assert_ne!(token, Token::WAKER);
            }
        }
    }
}
