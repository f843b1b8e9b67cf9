//! The timers without a loop and without Python: `cargo bench --bench timers` here.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use ferroloop::internals::Timers;

const NEVER: fn(&u64) -> bool = |_| false;

/// A small linear congruential generator: the same deadlines on every run.
struct Random(u64);

impl Random {
    fn deadline(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as f64 * 1e-6
    }
}

fn filled(count: u64) -> Timers<u64> {
    let mut random = Random(1);
    let mut timers = Timers::new();
    for item in 0..count {
        timers.push(random.deadline(), item);
    }
    timers
}

/// The pattern of a server's timeouts: most are cancelled soon, in the order of their start.
fn schedule_and_cancel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("schedule and cancel");
    for waiting in [0, 1_000, 100_000] {
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(BenchmarkId::from_parameter(waiting), &waiting, |bencher, &n| {
            let mut timers = filled(n);
            let mut now = 1e4;
            bencher.iter(|| {
                now += 1e-6;
                timers.push(now, u64::MAX);
                black_box(timers.take_last_if(|&item| item == u64::MAX))
            });
        });
    }
    group.finish();
}

/// Unordered deadlines, taken one by one as they come due.
fn fire_one_by_one(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fire one by one");
    for count in [100, 10_000, 100_000] {
        group.throughput(Throughput::Elements(count));
        group.bench_with_input(BenchmarkId::from_parameter(count), &count, |bencher, &n| {
            let fire = |mut timers: Timers<u64>| {
                while let Some(item) = timers.pop_due(f64::INFINITY, NEVER) {
                    black_box(item);
                }
            };
            bencher.iter_batched(|| filled(n), fire, BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// Unordered deadlines that are all due at once.
fn fire_in_bulk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fire in bulk");
    for count in [100, 10_000, 100_000] {
        group.throughput(Throughput::Elements(count));
        group.bench_with_input(BenchmarkId::from_parameter(count), &count, |bencher, &n| {
            let fire = |mut timers: Timers<u64>| timers.take_due_in_bulk(f64::INFINITY, NEVER);
            bencher.iter_batched(|| filled(n), fire, BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    schedule_and_cancel(&mut criterion);
    fire_one_by_one(&mut criterion);
    fire_in_bulk(&mut criterion);
    criterion.final_summary();
}
