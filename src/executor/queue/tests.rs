//! Tests the queue on plain threads.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{DetachedRunner, IdleWait, JobRunner, NewWorker, PushError, Queue, Ticket, work};

type Job = Box<dyn FnOnce() + Send>;

/// A queue and the threads that were started for it.
#[derive(Clone)]
struct Pool {
    queue: Arc<Queue<Job>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

struct Plain;

impl JobRunner<Job> for Plain {
    fn run(&mut self, job: Job) -> bool {
        job();
        true
    }

    fn pause(&mut self, wait: IdleWait<'_, Job>) {
        wait.block();
    }
}

impl Pool {
    fn new(limit: usize) -> Self {
        Self { queue: Arc::new(Queue::new(limit)), threads: Arc::default() }
    }

    fn push(&self, job: impl FnOnce() + Send + 'static) -> Ticket {
        let pushed = match self.queue.push(Box::new(job)) {
            Ok(pushed) => pushed,
            Err(_) => panic!("the queue is stopping"),
        };
        if let Some(NewWorker { index }) = pushed.new_worker {
            let queue = self.queue.clone();
            let mut threads = self.threads.lock();
            assert!(index < self.queue.limit());
            threads.push(thread::spawn(move || work(&queue, &mut Plain)));
        }
        pushed.ticket
    }

    fn workers(&self) -> usize {
        self.threads.lock().len()
    }

    fn join(self) {
        for _ in self.queue.stop(false) {}
        for handle in std::mem::take(&mut *self.threads.lock()) {
            handle.join().unwrap();
        }
    }

    /// Pushes a job that holds its worker until the sender is dropped; returns when it runs.
    fn block_worker(&self) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        self.push(move || {
            started.send(()).unwrap();
            assert!(released.recv().is_err());
        });
        running.recv().unwrap();
        release
    }
}

#[test]
fn runs_jobs_in_order_on_one_worker() {
    let pool = Pool::new(1);
    let done = Arc::new(Mutex::new(Vec::new()));
    for number in 0..100 {
        let done = done.clone();
        pool.push(move || done.lock().push(number));
    }
    pool.clone().join();
    assert_eq!(*done.lock(), (0..100).collect::<Vec<_>>());
    assert_eq!(pool.workers(), 0);
}

#[test]
fn reuses_an_idle_worker() {
    let pool = Pool::new(8);
    for _ in 0..200 {
        let (sender, receiver) = mpsc::channel();
        pool.push(move || sender.send(()).unwrap());
        receiver.recv().unwrap();
        // The worker becomes idle soon after it has answered.
        let end = Instant::now() + Duration::from_secs(5);
        while pool.queue.idle_workers() == 0 {
            assert!(Instant::now() < end);
            thread::yield_now();
        }
    }
    assert_eq!(pool.workers(), 1);
    pool.join();
}

#[test]
fn overlapping_jobs_run_side_by_side_up_to_the_limit() {
    let pool = Pool::new(4);
    let together = Arc::new(Barrier::new(5));
    for _ in 0..4 {
        let together = together.clone();
        pool.push(move || {
            together.wait();
        });
    }
    together.wait();
    for _ in 0..50 {
        pool.push(|| ());
    }
    assert_eq!(pool.workers(), 4);
    pool.join();
}

#[test]
fn no_job_waits_behind_a_long_one_while_a_worker_is_idle() {
    let pool = Pool::new(6);
    let together = Arc::new(Barrier::new(7));
    for round in 0..200 {
        // Every second round finds all workers asleep.
        if round % 2 == 0 {
            let end = Instant::now() + Duration::from_secs(5);
            while pool.workers() == 6 && pool.queue.idle_workers() < 6 {
                assert!(Instant::now() < end);
                thread::yield_now();
            }
        }
        for _ in 0..6 {
            let together = together.clone();
            pool.push(move || {
                together.wait();
            });
        }
        together.wait();
    }
    pool.join();
}

#[test]
fn a_removed_job_never_runs() {
    let pool = Pool::new(1);
    let release = pool.block_worker();
    let ran = Arc::new(Mutex::new(HashSet::new()));
    let tickets: Vec<_> = (0..10)
        .map(|number| {
            let ran = ran.clone();
            pool.push(move || {
                ran.lock().insert(number);
            })
        })
        .collect();
    for number in [0, 4, 5, 9] {
        assert!(pool.queue.remove(tickets[number]).is_some());
        assert!(pool.queue.remove(tickets[number]).is_none());
    }
    assert_eq!(pool.queue.len(), 6);
    drop(release);
    pool.join();
    assert_eq!(*ran.lock(), HashSet::from([1, 2, 3, 6, 7, 8]));
}

#[test]
fn stopping_finishes_what_was_accepted_and_refuses_the_rest() {
    let pool = Pool::new(2);
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..100 {
        let done = done.clone();
        pool.push(move || {
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(pool.queue.stop(false).count(), 0);
    assert!(pool.queue.is_stopping());
    assert!(matches!(pool.queue.push(Box::new(|| ())), Err(PushError(_))));
    pool.join();
    assert_eq!(done.load(Ordering::Relaxed), 100);
}

#[test]
fn stopping_can_hand_the_jobs_back() {
    let pool = Pool::new(1);
    let release = pool.block_worker();
    for _ in 0..7 {
        pool.push(|| panic!("this job was cancelled"));
    }
    assert_eq!(pool.queue.stop(true).count(), 7);
    drop(release);
    pool.join();
}

#[test]
fn a_worker_that_cannot_start_is_asked_for_again() {
    let queue = Queue::new(3);
    let pushed = queue.push(1).unwrap();
    queue.abandon_worker(pushed.new_worker.unwrap());
    assert_eq!(queue.remove(pushed.ticket), Some(1));
    assert!(queue.is_empty());
    let pushed = queue.push(2).unwrap();
    assert_eq!(pushed.new_worker, Some(NewWorker { index: 0 }));
}

#[test]
fn a_worker_can_end_without_looking_at_the_queue() {
    struct Once(usize);
    impl JobRunner<u8> for Once {
        fn run(&mut self, _job: u8) -> bool {
            self.0 += 1;
            false
        }
        fn pause(&mut self, _wait: IdleWait<'_, u8>) {
            panic!("there were jobs");
        }
    }
    let queue = Queue::new(1);
    for job in 0..3 {
        queue.push(job).unwrap();
    }
    let mut once = Once(0);
    work(&queue, &mut once);
    assert_eq!((once.0, queue.len()), (1, 2));
}

/// A worker that runs even jobs itself and odd ones detached.
struct Parity(Arc<Mutex<Vec<(u64, &'static str)>>>);

impl JobRunner<u64> for Parity {
    fn suits(&self, job: &u64) -> bool {
        job % 2 == 0
    }

    fn run(&mut self, job: u64) -> bool {
        self.0.lock().push((job, "run"));
        true
    }

    fn pause(&mut self, wait: IdleWait<'_, u64>) {
        wait.run_detached(&mut Odd(self.0.clone()));
    }
}

struct Odd(Arc<Mutex<Vec<(u64, &'static str)>>>);

impl DetachedRunner<u64> for Odd {
    fn suits(&self, job: &u64) -> bool {
        job % 2 == 1
    }

    fn run(&mut self, job: u64) {
        self.0.lock().push((job, "served"));
    }

    fn idle(&mut self) {}
}

#[test]
fn jobs_of_two_kinds_are_done_in_order_each_its_own_way() {
    let queue = Queue::new(1);
    let order = [1, 3, 2, 4, 6, 5, 8, 7, 9];
    for job in order {
        let _ = queue.push(job).unwrap();
    }
    drop(queue.stop(false));
    let done = Arc::default();
    work(&queue, &mut Parity(Arc::clone(&done)));
    let expected = order.map(|job| (job, if job % 2 == 0 { "run" } else { "served" }));
    assert_eq!(*done.lock(), expected);
    assert_eq!((queue.counts().workers, queue.counts().idle), (0, 0));
}

#[test]
fn jobs_of_two_kinds_never_stall() {
    let queue = Arc::new(Queue::new(3));
    let done = Arc::new(Mutex::new(Vec::new()));
    let mut threads = Vec::new();
    let mut random = Random(3);
    let end = Instant::now() + Duration::from_secs(30);
    for job in 0..5000 {
        if queue.push(random.below(2) * 10_000 + job).unwrap().new_worker.is_some() {
            let (queue, done) = (queue.clone(), done.clone());
            threads.push(thread::spawn(move || work(&queue, &mut Parity(done))));
        }
        if random.below(3) == 0 {
            while done.lock().len() as u64 <= job {
                assert!(Instant::now() < end, "jobs are stuck in the queue");
                thread::yield_now();
            }
        }
        if random.below(500) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    drop(queue.stop(false));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(queue.counts().workers, 0);
    let mut jobs: Vec<_> = done.lock().iter().map(|(job, _)| job % 10_000).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, (0..5000).collect::<Vec<_>>());
}

/// A small pseudo-random number generator (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Several threads push, remove and pause at random while jobs of random duration run: each job
/// ends in exactly one way, and the pool stops with none left.
#[test]
fn stress() {
    const PUSHERS: u64 = 4;
    const JOBS: usize = 3000;
    for seed in 1..=4_u64 {
        let pool = Pool::new(usize::try_from(1 + seed % 4).unwrap());
        let ran: Arc<Vec<AtomicUsize>> =
            Arc::new((0..PUSHERS as usize * JOBS).map(|_| AtomicUsize::new(0)).collect());
        let pushers: Vec<_> = (0..PUSHERS)
            .map(|pusher| {
                let (pool, ran) = (pool.clone(), ran.clone());
                thread::spawn(move || {
                    let mut random = Random(seed * 1000 + pusher + 1);
                    let mut removed = 0;
                    let mut tickets = Vec::new();
                    for number in 0..JOBS {
                        let slot = pusher as usize * JOBS + number;
                        let (ran, length) = (ran.clone(), random.below(300));
                        tickets.push(pool.push(move || {
                            ran[slot].fetch_add(1, Ordering::Relaxed);
                            for _ in 0..length {
                                std::hint::spin_loop();
                            }
                            if length == 0 {
                                thread::sleep(Duration::from_micros(200));
                            }
                        }));
                        if random.below(10) == 0 {
                            let ticket = tickets[random.below(tickets.len() as u64) as usize];
                            removed += usize::from(pool.queue.remove(ticket).is_some());
                        }
                        match random.below(400) {
                            // Long enough for workers to fall asleep.
                            0 => thread::sleep(Duration::from_millis(1)),
                            1..20 => thread::yield_now(),
                            _ => {}
                        }
                    }
                    removed
                })
            })
            .collect();
        let removed: usize = pushers.into_iter().map(|pusher| pusher.join().unwrap()).sum();
        let end = Instant::now() + Duration::from_secs(30);
        while !pool.queue.is_empty() {
            assert!(Instant::now() < end, "jobs are stuck in the queue");
            thread::yield_now();
        }
        pool.clone().join();
        let counts: Vec<_> = ran.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert!(counts.iter().all(|&count| count <= 1), "a job ran twice");
        assert_eq!(counts.iter().sum::<usize>() + removed, PUSHERS as usize * JOBS);
        assert!(removed > 0);
    }
}

/// One job at a time, as fast as answers come: the worker spins, sleeps and is signalled in turn.
#[test]
fn ping_pong_never_stalls() {
    let pool = Pool::new(2);
    let mut random = Random(7);
    let (sender, receiver) = mpsc::channel();
    for number in 0..20_000_u32 {
        let sender = sender.clone();
        pool.push(move || sender.send(number).unwrap());
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(number));
        if random.below(500) == 0 {
            thread::sleep(Duration::from_micros(random.below(300)));
        }
    }
    pool.join();
}

/// A detached worker that counts how often a spin has found a job of the other kind.
struct Spinning {
    ran: mpsc::Sender<()>,
    spins: Arc<AtomicUsize>,
}

impl JobRunner<u32> for Spinning {
    fn run(&mut self, _job: u32) -> bool {
        self.ran.send(()).unwrap();
        true
    }

    fn pause(&mut self, wait: IdleWait<'_, u32>) {
        wait.run_detached(&mut Fruitless(self.spins.clone()));
    }
}

struct Fruitless(Arc<AtomicUsize>);

impl DetachedRunner<u32> for Fruitless {
    fn suits(&self, _job: &u32) -> bool {
        false
    }

    fn run(&mut self, _job: u32) {}

    fn idle(&mut self) {}

    fn spin_for_release(&mut self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        false
    }
}

/// A spin that finds a job but not what the job needs counts as fruitless, so spins become rare.
#[test]
fn spins_are_given_up_if_what_a_job_needs_does_not_come() {
    const JOBS: u32 = 3_000;
    let (sender, receiver) = mpsc::channel();
    let (queue, spins) = (Arc::new(Queue::new(1)), Arc::new(AtomicUsize::new(0)));
    assert!(queue.push(0).unwrap().new_worker.is_some());
    let worker = {
        let (queue, spins) = (queue.clone(), spins.clone());
        thread::spawn(move || work(&queue, &mut Spinning { ran: sender, spins }))
    };
    for job in 1..=JOBS {
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        let _ = queue.push(job).unwrap();
    }
    receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    drop(queue.stop(false));
    worker.join().unwrap();
    assert!(spins.load(Ordering::Relaxed) < 200, "{spins:?}");
}
