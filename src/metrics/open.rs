//! Open transports, counted while their guards live.

use std::sync::Arc;

use super::Metrics;

/// The kinds of transports that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportClass {
    /// TCP and UNIX stream sockets.
    Stream,
    /// UDP and UNIX datagram sockets.
    Datagram,
    /// Pipes, character devices, and the standard streams of children.
    Pipe,
    /// TLS, each over a stream that is also counted.
    Tls,
}

impl TransportClass {
    /// All classes, in the order of their discriminants.
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

/// Counts one transport as open until dropped, and gives access to the loop's metrics.
pub struct OpenGuard {
    metrics: Arc<Metrics>,
    class: TransportClass,
}

impl OpenGuard {
    pub(super) fn new(metrics: Arc<Metrics>, class: TransportClass) -> Self {
        metrics.transports[class as usize].add_by_any_thread(1);
        Self { metrics, class }
    }

    /// The loop's metrics.
    #[inline(always)]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.metrics.transports[self.class as usize].subtract_by_any_thread(1);
    }
}
