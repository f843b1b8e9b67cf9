//! The system's numbers for `getaddrinfo(3)` and `getnameinfo(3)`.
//!
//! The calls themselves go through Python's `_socket`, which checks arguments, raises audit
//! events and lets go of the GIL exactly as programs expect.

pub(crate) use libc::{
    AI_ALL, AI_NUMERICHOST, AI_NUMERICSERV, AI_PASSIVE, AI_V4MAPPED, NI_NUMERICHOST, NI_NUMERICSERV,
};
