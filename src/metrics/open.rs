//! Things that are open, counted as long as their guards live.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Metrics;

/// What kind of transport is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportClass {
    /// TCP and UNIX stream sockets.
    Stream,
    /// UDP and UNIX datagram sockets.
    Datagram,
    /// Pipes, character devices, and the standard streams of children.
    Pipe,
    /// TLS, each over a stream that is counted, too.
    Tls,
}

impl TransportClass {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Stream, Self::Datagram, Self::Pipe, Self::Tls];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Datagram => "datagram",
            Self::Pipe => "pipe",
            Self::Tls => "tls",
        }
    }
}

/// Counts one transport as open, and gives it the loop's numbers to add to.
pub struct Open {
    metrics: Arc<Metrics>,
    class: TransportClass,
}

impl Open {
    pub(super) fn new(metrics: Arc<Metrics>, class: TransportClass) -> Self {
        metrics.transports[class as usize].add(1);
        Self { metrics, class }
    }

    /// The loop's numbers.
    #[inline(always)]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.transports[self.class as usize].subtract(1);
    }
}
