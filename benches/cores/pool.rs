//! The pool's queue and its workers without Python: `cargo bench --bench pool` here.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use criterion::{BenchmarkId, Criterion, Throughput};
use ferroloop::internals::{IdleWait, JobRunner, Queue, work};

/// A job reports through this channel that it has run.
type Job = Sender<()>;

struct Plain;

impl JobRunner<Job> for Plain {
    fn run(&mut self, job: Job) -> bool {
        job.send(()).is_ok()
    }

    fn pause(&mut self, wait: IdleWait<'_, Job>) {
        wait.block();
    }
}

struct Pool {
    queue: Arc<Queue<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn new(limit: usize) -> Self {
        Self { queue: Arc::new(Queue::new(limit)), threads: Vec::new() }
    }

    fn push(&mut self, job: Job) {
        let pushed = self.queue.push(job).expect("the queue is not stopping");
        if pushed.new_worker.is_some() {
            let queue = self.queue.clone();
            self.threads.push(thread::spawn(move || work(&queue, &mut Plain)));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.stop(false).for_each(drop);
        for thread in self.threads.drain(..) {
            thread.join().expect("workers do not panic");
        }
    }
}

/// Jobs that do nothing, so that only the hand-over is measured.
fn round_trips(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round trip");
    for in_flight in [1_u64, 64] {
        group.throughput(Throughput::Elements(in_flight));
        group.bench_with_input(
            BenchmarkId::from_parameter(in_flight),
            &in_flight,
            |bencher, &n| {
                let mut pool = Pool::new(6);
                let (done, all) = channel();
                bencher.iter(|| {
                    for _ in 0..n {
                        pool.push(done.clone());
                    }
                    for _ in 0..n {
                        all.recv().expect("a job is done once");
                    }
                });
            },
        );
    }
    group.finish();
}

/// Jobs removed before a worker took them.
fn cancelled_in_the_queue(criterion: &mut Criterion) {
    criterion.bench_function("push and remove", |bencher| {
        let queue = Queue::<u64>::new(1);
        // The worker that the queue asks for is never started.
        let first = queue.push(0).expect("the queue is not stopping");
        assert!(first.new_worker.is_some(), "the first job needs a worker");
        bencher.iter(|| {
            let pushed = queue.push(1).expect("the queue is not stopping");
            queue.remove(pushed.ticket)
        });
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    round_trips(&mut criterion);
    cancelled_in_the_queue(&mut criterion);
    criterion.final_summary();
}
