//! Busy polling: polls repeatedly for a while instead of sleeping, which saves a wake-up.

use std::io;
use std::time::{Duration, Instant};

use super::Poller;

impl Poller {
    /// Polls without sleeping until a descriptor is ready, the waker is called or `spin` has
    /// passed. A signal does not end it early.
    pub fn poll_busily(&mut self, spin: Duration) -> io::Result<()> {
        let started = Instant::now();
        loop {
            self.poll(Some(Duration::ZERO))?;
            if self.event_count() != 0 || self.was_woken() || started.elapsed() >= spin {
                return Ok(());
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_after_its_time() {
        let mut poller = Poller::new().unwrap();
        let started = Instant::now();
        poller.poll_busily(Duration::from_millis(20)).unwrap();
        assert!(started.elapsed() >= Duration::from_millis(20));
        assert_eq!(poller.event_count(), 0);
    }

    #[test]
    fn ends_at_a_wake() {
        let mut poller = Poller::new().unwrap();
        let waker = poller.waker();
        let thread = std::thread::spawn(move || waker.wake().unwrap());
        let started = Instant::now();
        poller.poll_busily(Duration::from_secs(20)).unwrap();
        assert!(poller.was_woken());
        assert!(started.elapsed() < Duration::from_secs(10));
        thread.join().unwrap();
    }
}
