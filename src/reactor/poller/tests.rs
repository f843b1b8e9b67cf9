//! One set of tests for both backends.

/// Defines the tests for the backend `$backend`.
macro_rules! test_backend {
    ($backend:ident) => {
        mod $backend {
            use std::collections::BTreeSet;
            use std::io::{self, ErrorKind, Read, Write};
            use std::os::fd::{AsRawFd, RawFd};
            use std::os::unix::net::UnixStream;
            use std::sync::Arc;
            use std::sync::atomic::{AtomicUsize, Ordering};
            use std::time::{Duration, Instant};

            use mio::Interest;

            use crate::reactor::poller::$backend::{Poller, Registrar};
            use crate::reactor::{Readiness, Registrations, Token};

            const READ: Interest = Interest::READABLE;
            const WRITE: Interest = Interest::WRITABLE;
            const LONG: Option<Duration> = Some(Duration::from_secs(20));

            fn token(source: &impl AsRawFd) -> Token {
                Token::new(source.as_raw_fd(), 1)
            }

            fn pair() -> (UnixStream, UnixStream) {
                let (left, right) = UnixStream::pair().unwrap();
                left.set_nonblocking(true).unwrap();
                right.set_nonblocking(true).unwrap();
                (left, right)
            }

            /// What one poll without waiting reports.
            fn ready(poller: &mut Poller) -> Vec<(Token, Readiness)> {
                poller.poll(Some(Duration::ZERO)).unwrap();
                assert_eq!(poller.events().len(), poller.event_count());
                poller.events().collect()
            }

            #[test]
            fn level_is_reported_while_it_lasts() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                let (mut reader, mut writer) = pair();
                let fd = reader.as_raw_fd();
                registrar.register(fd, token(&reader), READ).unwrap();
                assert!(ready(&mut poller).is_empty());
                writer.write_all(b"ab").unwrap();
                for _ in 0..3 {
                    let events = ready(&mut poller);
                    assert_eq!(events.len(), 1);
                    assert_eq!(events[0].0, token(&reader));
                    assert!(events[0].1.is_readable() && !events[0].1.is_writable());
                }
                reader.read_exact(&mut [0; 1]).unwrap();
                assert_eq!(ready(&mut poller).len(), 1);
                reader.read_exact(&mut [0; 1]).unwrap();
                assert!(ready(&mut poller).is_empty());
                writer.write_all(b"c").unwrap();
                assert_eq!(ready(&mut poller).len(), 1);
            }

            #[test]
            fn its_descriptor_is_readable_while_there_are_events() {
                let (poller, mut outer) = (Poller::new().unwrap(), Poller::new().unwrap());
                let (reader, mut writer) = pair();
                let fd = reader.as_raw_fd();
                poller.registrar().register(fd, token(&reader), READ).unwrap();
                let inner = Token::new(poller.fd(), 1);
                outer.registrar().register(poller.fd(), inner, READ).unwrap();
                assert!(ready(&mut outer).is_empty());
                writer.write_all(b"a").unwrap();
                let events = ready(&mut outer);
                assert!(events.len() == 1 && events[0].0 == inner && events[0].1.is_readable());
            }

            #[test]
            fn the_extra_descriptor_is_reported_only_when_ready() {
                let mut poller = Poller::new().unwrap();
                let (reader, _writer) = pair();
                for extra in [Some(reader.as_raw_fd()), None] {
                    poller.set_extra(extra);
                    assert!(ready(&mut poller).is_empty());
                    assert!(!poller.was_extra_ready());
                }
            }

            #[test]
            fn the_interest_can_change() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                let (stream, mut peer) = pair();
                let fd = stream.as_raw_fd();
                registrar.register(fd, token(&stream), READ).unwrap();
                registrar.reregister(fd, token(&stream), READ | WRITE).unwrap();
                for _ in 0..2 {
                    let events = ready(&mut poller);
                    assert!(events[0].1.is_writable() && !events[0].1.is_readable());
                }
                peer.write_all(b"x").unwrap();
                registrar.reregister(fd, token(&stream), READ).unwrap();
                for _ in 0..2 {
                    assert!(ready(&mut poller)[0].1.is_readable());
                }
                registrar.deregister(fd).unwrap();
                assert!(ready(&mut poller).is_empty());
                let error = registrar.deregister(fd).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound);
            }

            #[test]
            fn a_closed_peer_is_readable_and_writable() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                let (stream, peer) = pair();
                let fd = stream.as_raw_fd();
                registrar.register(fd, token(&stream), READ).unwrap();
                drop(peer);
                for _ in 0..2 {
                    let readiness = ready(&mut poller)[0].1;
                    assert!(readiness.is_readable() && readiness.is_writable());
                }
            }

            #[test]
            fn a_pipe_without_reader_is_readable_and_writable() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                let (sender, receiver) = mio::unix::pipe::new().unwrap();
                let fd = sender.as_raw_fd();
                drop(receiver);
                registrar.register(fd, token(&sender), WRITE).unwrap();
                let readiness = ready(&mut poller)[0].1;
                assert!(readiness.is_writable() && readiness.is_readable());
            }

            #[test]
            fn a_pipe_without_writer_is_readable() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                let (sender, receiver) = mio::unix::pipe::new().unwrap();
                let fd = receiver.as_raw_fd();
                registrar.register(fd, token(&receiver), READ).unwrap();
                assert!(ready(&mut poller).is_empty());
                drop(sender);
                let readiness = ready(&mut poller)[0].1;
                assert!(readiness.is_readable());
            }

            #[test]
            fn an_event_for_a_closed_descriptor_misses_its_successor() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                let mut table = Registrations::new();
                let (reader, mut writer) = pair();
                let fd = reader.as_raw_fd();
                let old = table.insert(fd, READ, "old").unwrap();
                registrar.register(fd, old, READ).unwrap();
                writer.write_all(b"x").unwrap();
                let polled = ready(&mut poller);

                // Before the event is handled, the number of its descriptor passes to the peer.
                registrar.deregister(fd).unwrap();
                table.remove(fd).unwrap();
                let new = table.insert(fd, READ, "new").unwrap();
                assert_eq!(polled[0].0, old);
                assert!(table.lookup(polled[0].0).is_none());

                registrar.register(fd, new, READ).unwrap();
                let polled = ready(&mut poller);
                assert_eq!(polled.len(), 1);
                assert_eq!(table.lookup(polled[0].0).unwrap().payload, "new");
            }

            #[test]
            fn a_descriptor_closed_while_registered_is_forgotten() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                let (reader, mut writer) = pair();
                let fd = reader.as_raw_fd();
                registrar.register(fd, token(&reader), READ).unwrap();
                writer.write_all(b"x").unwrap();
                assert_eq!(ready(&mut poller).len(), 1);
                drop(reader);
                assert!(ready(&mut poller).is_empty());
            }

            #[test]
            fn errors_are_the_systems() {
                let registrar: Registrar = Poller::new().unwrap().registrar();
                let (stream, _peer) = pair();
                let fd: RawFd = stream.as_raw_fd();
                let register =
                    |fd| registrar.register(fd, Token::new(fd, 0), READ).map_err(os_error);
                assert_eq!(register(fd), Ok(()));
                assert_eq!(register(fd), Err(libc::EEXIST));
                assert_eq!(register(RawFd::MAX), Err(libc::EBADF));
                let file = std::fs::File::open("/proc/self/exe").unwrap();
                assert_eq!(register(file.as_raw_fd()), Err(libc::EPERM));
            }

            fn os_error(error: io::Error) -> i32 {
                error.raw_os_error().unwrap()
            }

            #[test]
            fn no_timeout_ends_early() {
                let mut poller = Poller::new().unwrap();
                for microseconds in [1, 20, 150, 500, 999, 1000, 1400, 3100] {
                    let timeout = Duration::from_micros(microseconds);
                    for _ in 0..5 {
                        let start = Instant::now();
                        poller.poll(Some(timeout)).unwrap();
                        assert!(start.elapsed() >= timeout);
                        assert_eq!(poller.event_count(), 0);
                    }
                }
            }

            #[test]
            fn all_that_is_ready_is_reported_in_the_end() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                let pairs: Vec<_> = (0..400).map(|_| pair()).collect();
                for (stream, _) in &pairs {
                    let fd = stream.as_raw_fd();
                    registrar.register(fd, token(stream), WRITE).unwrap();
                }
                let mut seen: BTreeSet<RawFd> = BTreeSet::new();
                while seen.len() < pairs.len() {
                    let events = ready(&mut poller);
                    assert!(!events.is_empty());
                    seen.extend(events.iter().map(|(token, _)| token.fd()));
                }
                assert!(
                    seen.iter()
                        .eq(&pairs.iter().map(|pair| pair.0.as_raw_fd()).collect::<BTreeSet<_>>())
                );
            }

            #[test]
            fn many_wakes_are_one_wake_up() {
                let mut poller = Poller::new().unwrap();
                let waker = poller.waker();
                for _ in 0..3 {
                    for _ in 0..100 {
                        waker.wake().unwrap();
                    }
                    poller.poll(None).unwrap();
                    assert!(poller.was_woken());
                    assert_eq!(poller.event_count(), 0);
                    assert!(ready(&mut poller).is_empty());
                    assert!(!poller.was_woken());
                }
            }

            #[test]
            fn a_wake_up_comes_along_with_events() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                let (stream, _peer) = pair();
                let fd = stream.as_raw_fd();
                registrar.register(fd, token(&stream), WRITE).unwrap();
                poller.waker().wake().unwrap();
                assert_eq!(ready(&mut poller).len(), 1);
                assert!(poller.was_woken());
            }

            /// Threads count up and wake the poller; the polling thread must see every count
            /// without ever waiting for a timeout.
            #[test]
            fn no_wake_is_lost() {
                const THREADS: usize = 4;
                const EACH: usize = 2000;
                let mut poller = Poller::new().unwrap();
                let posted = Arc::new(AtomicUsize::new(0));
                let threads: Vec<_> = (0..THREADS)
                    .map(|_| {
                        let (posted, waker) = (Arc::clone(&posted), poller.waker());
                        std::thread::spawn(move || {
                            for _ in 0..EACH {
                                posted.fetch_add(1, Ordering::Relaxed);
                                waker.wake().unwrap();
                            }
                        })
                    })
                    .collect();
                let start = Instant::now();
                let mut polls = 0;
                while posted.load(Ordering::Relaxed) < THREADS * EACH {
                    poller.poll(LONG).unwrap();
                    assert!(poller.was_woken());
                    polls += 1;
                }
                threads.into_iter().for_each(|thread| thread.join().unwrap());
                assert!(polls <= THREADS * EACH);
                assert!(start.elapsed() < Duration::from_secs(20));
            }

            /// What a forked child does first; tests in Python cover the parent's side.
            #[test]
            fn a_renewed_poller_starts_afresh() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                assert!(!registrar.is_inherited());
                let (stream, _peer) = pair();
                let fd = stream.as_raw_fd();
                registrar.register(fd, token(&stream), WRITE).unwrap();
                poller.waker().wake().unwrap();
                if let Err(error) = registrar.renew() {
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    return;
                }
                assert!(!registrar.is_inherited());
                assert!(ready(&mut poller).is_empty());
                assert!(poller.was_woken());
                assert_eq!(registrar.deregister(fd).unwrap_err().kind(), ErrorKind::NotFound);
                registrar.register(fd, token(&stream), WRITE).unwrap();
                assert_eq!(ready(&mut poller).len(), 1);
                assert!(!poller.was_woken());
                poller.waker().wake().unwrap();
                ready(&mut poller);
                assert!(poller.was_woken());
            }

            #[test]
            fn a_registration_reaches_a_poll_under_way() {
                let mut poller = Poller::new().unwrap();
                let registrar = poller.registrar();
                let (stream, _peer) = pair();
                let (fd, expected) = (stream.as_raw_fd(), token(&stream));
                let thread = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(20));
                    registrar.register(fd, expected, WRITE).unwrap();
                });
                poller.poll(LONG).unwrap();
                assert_eq!(poller.events().map(|event| event.0).collect::<Vec<_>>(), [expected]);
                thread.join().unwrap();
            }
        }
    };
}

#[cfg(any(target_os = "linux", target_os = "android"))]
test_backend!(epoll);
test_backend!(portable);
