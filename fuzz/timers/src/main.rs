//! Random operations on the timer heap, compared with a sorted list: see ../README.md.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::env;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use timers::Timers;

#[path = "../../../src/reactor/known_due.rs"]
mod known_due;
#[path = "../../../src/reactor/timer_entry.rs"]
mod timer_entry;
#[allow(dead_code)]
#[path = "../../../src/reactor/timers.rs"]
mod timers;

/// A timer that the model and the heap share.
#[derive(Debug)]
struct Timer {
    deadline: f64,
    number: u64,
    cancelled: Cell<bool>,
}

type Shared = Rc<Timer>;

fn is_cancelled(timer: &Shared) -> bool {
    timer.cancelled.get()
}

/// Heap and model; every operation is done to both.
#[derive(Default)]
struct Pair {
    heap: Timers<Shared>,
    /// The timers that were pushed and not yet removed, in the order in which they must fire.
    model: Vec<Shared>,
    pushed: u64,
    /// Deadlines before this are known to have passed.
    passed: Option<f64>,
}

impl Pair {
    fn push(&mut self, deadline: f64) {
        let due = if deadline.is_nan() { f64::NEG_INFINITY } else { deadline };
        let timer =
            Rc::new(Timer { deadline: due, number: self.pushed, cancelled: Cell::new(false) });
        self.pushed += 1;
        let place = self.model.partition_point(|other| other.deadline <= due);
        self.model.insert(place, Rc::clone(&timer));
        self.heap.push(deadline, timer);
    }

    /// As the loop does: the last timer is removed at once, any other stays until a purge.
    fn cancel(&mut self, index: usize) {
        let timer = Rc::clone(&self.model[index]);
        if timer.cancelled.replace(true) {
            return;
        }
        if self.heap.take_last_if(|last| Rc::ptr_eq(last, &timer)).is_some() {
            self.model.remove(index);
            return;
        }
        self.heap.note_cancelled();
        if self.heap.wants_purge() {
            let purged = self.heap.purge(is_cancelled);
            assert!(purged.iter().all(is_cancelled), "a live timer was purged");
            let before = self.model.len();
            self.model.retain(|timer| !is_cancelled(timer));
            assert_eq!(purged.len(), before - self.model.len());
        }
    }

    fn pop_due(&mut self, end_time: f64) {
        while let Some(due) = self.heap.pop_due(end_time, is_cancelled) {
            let expected = self.model.remove(0);
            assert_eq!(due.number, expected.number, "out of order");
            assert!(due.deadline < end_time, "early");
        }
        assert!(self.model.first().is_none_or(|next| next.deadline >= end_time), "late");
    }

    fn take_in_bulk(&mut self, end_time: f64) {
        let number = self.model.partition_point(|timer| timer.deadline < end_time);
        if self.heap.are_many_due(end_time) {
            assert!(number >= self.model.len() / 8, "a part too small to sort");
        }
        let due = self.heap.take_due_in_bulk(end_time, is_cancelled);
        let expected = self.model.drain(..number).map(|timer| timer.number);
        assert!(due.iter().map(|timer| timer.number).eq(expected), "out of order");
    }

    fn note_passed(&mut self, end_time: f64) {
        self.passed = Some(end_time);
        self.heap.note_passed(end_time);
    }

    fn drop_cancelled_heads(&mut self) {
        while let Some(head) = self.heap.pop_cancelled_head(is_cancelled) {
            assert!(is_cancelled(&head), "a live timer was dropped");
            assert_eq!(self.model.remove(0).number, head.number);
        }
        assert!(self.model.first().is_none_or(|first| !is_cancelled(first)));
    }

    fn check(&self) {
        assert_eq!(self.heap.len(), self.model.len());
        assert_eq!(self.heap.is_empty(), self.model.is_empty());
        assert_eq!(self.heap.next_deadline(), self.model.first().map(|first| first.deadline));
        let cancelled = self.model.iter().filter(|timer| is_cancelled(timer)).count();
        assert_eq!(self.heap.cancelled(), cancelled);
        if self.heap.are_known_due() {
            let passed = self.passed.expect("nothing has passed");
            assert!(self.model.last().is_some_and(|last| last.deadline < passed), "not due");
        }
    }
}

fn deadline(random: &mut fastrand::Rng) -> f64 {
    match random.u32(..100) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => f64::NEG_INFINITY,
        3 => -0.0,
        4 => 0.0,
        5 => f64::MIN_POSITIVE,
        // Few distinct values, so that many deadlines are equal.
        6..40 => f64::from(random.u32(..8)),
        _ => random.f64() * 10.0 - 1.0,
    }
}

/// Runs one sequence; returns the number of operations.
fn sequence(random: &mut fastrand::Rng) -> u64 {
    let mut pair = Pair::default();
    let operations = random.u64(1..2000);
    let many = random.u32(1..400);
    for _ in 0..operations {
        match random.u32(..11) {
            0..4 => (0..random.u32(1..=many)).for_each(|_| pair.push(deadline(random))),
            4..8 if !pair.model.is_empty() => {
                for _ in 0..random.u32(1..=many) {
                    if !pair.model.is_empty() {
                        let index = random.usize(..pair.model.len());
                        pair.cancel(index);
                    }
                }
            }
            8 => pair.pop_due(deadline(random).max(-1.0)),
            9 => pair.take_in_bulk(deadline(random).max(-1.0)),
            10 => pair.note_passed(deadline(random)),
            _ => {}
        }
        pair.drop_cancelled_heads();
        pair.check();
        if pair.model.len() > 5000 {
            assert_eq!(pair.heap.take_all().len(), pair.model.len());
            pair.model.clear();
        }
    }
    operations
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1).map(|word| word.parse::<u64>());
    let (Some(Ok(seconds)), Some(Ok(seed))) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: fuzz-timers SECONDS SEED");
        return ExitCode::from(2);
    };
    println!("timers: seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (started, mut sequences, mut operations) = (Instant::now(), 0, 0);
    while started.elapsed() < Duration::from_secs(seconds) {
        operations += sequence(&mut random);
        sequences += 1;
    }
    println!("timers: {sequences} sequences, {operations} operations");
    ExitCode::SUCCESS
}
