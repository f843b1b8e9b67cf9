//! Orders deadlines: a 4-ary heap with lazy deletion.
//!
//! - Entries with equal deadlines are popped in the order in which they were pushed.
//! - A cancelled entry stays until it reaches the head ([`Timers::pop_cancelled_head`]) or until
//!   cancelled entries are the majority ([`Timers::purge`]): amortised constant time, and memory
//!   bounded by twice the live entries. In the usual case, a timeout that was scheduled last and
//!   is cancelled first, it is removed at once ([`Timers::take_last_if`]).
//! - When a large part of the heap is due at once, it is sorted rather than popped
//!   ([`Timers::take_due_in_bulk`]): in a heap beyond the cache each pop misses on every level.
//! - Entries are moved out to the caller, never dropped here. Predicates must only read: they run
//!   while the heap is borrowed.

use super::known_due::KnownDue;
use super::timer_entry::Entry;

/// With at most this many cancelled entries, a [`Timers::purge`] is not worth it.
const PURGE_MINIMUM: usize = 100;
/// With fewer due entries, sorting is not worth it.
const BULK_MINIMUM: usize = 64;
/// Sorting pays if at least one in this many entries is due, since it visits all of them.
const BULK_SHARE: usize = 8;
/// Children per node: a shallower heap than a binary one, each level within two cache lines.
const ARITY: usize = 4;

/// Items by deadline.
#[derive(Debug)]
pub struct Timers<T> {
    heap: Vec<Entry<T>>,
    next_sequence: u64,
    cancelled: usize,
    known: KnownDue,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Timers<T> {
    /// No timers; allocates nothing.
    pub const fn new() -> Self {
        Timers { heap: Vec::new(), next_sequence: 0, cancelled: 0, known: KnownDue::new() }
    }

    /// The number of entries, including cancelled ones.
    #[inline]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there are no entries.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The number of entries that were noted as cancelled.
    #[inline]
    pub fn cancelled(&self) -> usize {
        self.cancelled
    }

    /// Adds `item`. A NaN deadline is due at once, as in asyncio, where `_when >= end_time` is
    /// false for it.
    #[inline]
    pub fn push(&mut self, deadline: f64, item: T) {
        // Adding zero turns -0.0 into 0.0: asyncio treats them as equal, total_cmp does not.
        let deadline = if deadline.is_nan() { f64::NEG_INFINITY } else { deadline + 0.0 };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.known.note_deadline(deadline, self.heap.is_empty());
        self.heap.push(Entry { deadline, sequence, item });
        self.sift_up(self.heap.len() - 1);
    }

    /// The earliest deadline, cancelled or not.
    #[inline]
    pub fn next_deadline(&self) -> Option<f64> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// Notes that deadlines before `end_time` have passed.
    #[inline]
    pub fn note_passed(&mut self, end_time: f64) {
        self.known.note_passed(end_time);
    }

    /// Whether there are entries and all of them are due by what [`Timers::note_passed`] has told,
    /// so that the clock need not be read to know it.
    #[inline]
    pub fn are_known_due(&self) -> bool {
        !self.heap.is_empty() && self.known.are_all_due()
    }

    /// Removes and returns the earliest item if its deadline is before `end_time`, which in asyncio
    /// is the time plus the clock's resolution. A cancelled one is subtracted from the count.
    #[inline]
    pub fn pop_due(&mut self, end_time: f64, is_cancelled: impl FnOnce(&T) -> bool) -> Option<T> {
        if self.next_deadline()? >= end_time {
            return None;
        }
        let due = self.pop_head()?;
        if self.cancelled > 0 && is_cancelled(&due) {
            self.cancelled -= 1;
        }
        Some(due)
    }

    /// Removes and returns, in order, all items whose deadline is before `end_time`: faster than one
    /// by one if [`Timers::are_many_due`]. Cancelled ones are subtracted from the count.
    pub fn take_due_in_bulk(&mut self, end_time: f64, is_cancelled: impl Fn(&T) -> bool) -> Vec<T> {
        let (mut due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.heap).into_iter().partition(|e| e.deadline < end_time);
        self.heap = rest;
        self.restore_order();
        due.sort_unstable_by(Entry::order);
        let due: Vec<T> = due.into_iter().map(|entry| entry.item).collect();
        if self.cancelled > 0 {
            self.cancelled -= due.iter().filter(|item| is_cancelled(item)).count();
        }
        due
    }

    /// Whether so many entries are due that they are to be taken in bulk.
    #[inline]
    pub fn are_many_due(&self, end_time: f64) -> bool {
        self.heap.len() >= BULK_MINIMUM && self.has_many_due_entries(end_time)
    }

    /// Whether enough entries are due. Due entries form a tree at the root of the heap.
    fn has_many_due_entries(&self, end_time: f64) -> bool {
        let enough = (self.heap.len() / BULK_SHARE).max(BULK_MINIMUM);
        if self.heap[0].deadline >= end_time {
            return false;
        }
        let mut found = 0;
        let mut pending = vec![0];
        while let Some(index) = pending.pop() {
            found += 1;
            if found == enough {
                return true;
            }
            let first = index * ARITY + 1;
            let children = first..self.heap.len().min(first + ARITY);
            pending.extend(children.filter(|&child| self.heap[child].deadline < end_time));
        }
        false
    }

    /// Removes and returns the earliest item if it is cancelled.
    #[inline]
    pub fn pop_cancelled_head(&mut self, is_cancelled: impl FnOnce(&T) -> bool) -> Option<T> {
        if self.cancelled == 0 || !is_cancelled(&self.heap.first()?.item) {
            return None;
        }
        self.cancelled -= 1;
        self.pop_head()
    }

    /// Removes and returns the item in the heap's last position if it is the wanted one. That is
    /// the item pushed last if its deadline is the latest. Not for items noted as cancelled.
    #[inline]
    pub fn take_last_if(&mut self, is_wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        if is_wanted(&self.heap.last()?.item) {
            self.heap.pop().map(|entry| entry.item)
        } else {
            None
        }
    }

    /// Counts one more entry as cancelled. Call it once per entry.
    #[inline]
    pub fn note_cancelled(&mut self) {
        self.cancelled += 1;
    }

    /// Whether enough entries are cancelled for [`Timers::purge`] to remove them.
    #[inline]
    pub fn wants_purge(&self) -> bool {
        self.cancelled > PURGE_MINIMUM && self.cancelled > self.heap.len() / 2
    }

    /// Removes and returns the cancelled entries if [`Timers::wants_purge`].
    pub fn purge(&mut self, is_cancelled: impl Fn(&T) -> bool) -> Vec<T> {
        if !self.wants_purge() {
            return Vec::new();
        }
        let mut removed = Vec::with_capacity(self.cancelled);
        let mut index = 0;
        while index < self.heap.len() {
            if is_cancelled(&self.heap[index].item) {
                removed.push(self.heap.swap_remove(index).item);
            } else {
                index += 1;
            }
        }
        self.cancelled = 0;
        self.heap.shrink_to(self.heap.len().max(PURGE_MINIMUM) * 2);
        self.restore_order();
        removed
    }

    /// Removes and returns all items, in no particular order, and frees the heap.
    pub fn take_all(&mut self) -> Vec<T> {
        self.cancelled = 0;
        std::mem::take(&mut self.heap).into_iter().map(|entry| entry.item).collect()
    }

    /// The items in heap order, including cancelled ones: the first is the earliest.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|entry| &entry.item)
    }

    fn pop_head(&mut self) -> Option<T> {
        if self.heap.is_empty() {
            return None;
        }
        let head = self.heap.swap_remove(0);
        if self.heap.len() > 1 {
            self.sift_down(0);
        }
        Some(head.item)
    }

    #[inline]
    fn sift_up(&mut self, mut index: usize) {
        while index > 0 {
            let parent = (index - 1) / ARITY;
            if !self.heap[index].precedes(&self.heap[parent]) {
                break;
            }
            self.heap.swap(index, parent);
            index = parent;
        }
    }

    fn sift_down(&mut self, mut index: usize) {
        loop {
            let first = index * ARITY + 1;
            let children = first..self.heap.len().min(first + ARITY);
            let Some(earliest) = children.reduce(|best, child| {
                if self.heap[child].precedes(&self.heap[best]) { child } else { best }
            }) else {
                break;
            };
            if !self.heap[earliest].precedes(&self.heap[index]) {
                break;
            }
            self.heap.swap(index, earliest);
            index = earliest;
        }
    }

    fn restore_order(&mut self) {
        for index in (0..self.heap.len().div_ceil(ARITY)).rev() {
            self.sift_down(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use super::*;

    /// A small linear congruential generator: the same sequence on every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % bound
        }
    }

    fn pop_all<T>(timers: &mut Timers<T>) -> Vec<T> {
        std::iter::from_fn(|| timers.pop_due(f64::INFINITY, |_| false)).collect()
    }

    #[test]
    fn earliest_first_and_equal_deadlines_in_order() {
        let mut timers = Timers::new();
        for (deadline, item) in [(3.0, 'e'), (1.0, 'b'), (1.0, 'c'), (0.5, 'a'), (1.0, 'd')] {
            timers.push(deadline, item);
        }
        assert_eq!(timers.next_deadline(), Some(0.5));
        assert_eq!(timers.iter().next(), Some(&'a'));
        assert_eq!(pop_all(&mut timers), ['a', 'b', 'c', 'd', 'e']);
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn due_means_before_the_end_time() {
        let mut timers = Timers::new();
        timers.push(2.0, ());
        assert_eq!(timers.pop_due(1.0, |_| false), None);
        assert_eq!(timers.pop_due(2.0, |_| false), None);
        assert_eq!(timers.pop_due(2.0 * (1.0 + f64::EPSILON), |_| false), Some(()));
    }

    #[test]
    fn odd_deadlines() {
        let mut timers = Timers::new();
        timers.push(f64::INFINITY, "never");
        timers.push(0.0, "zero");
        timers.push(-0.0, "minus zero");
        timers.push(-f64::NAN, "nan");
        timers.push(f64::NAN, "another nan");
        assert_eq!(pop_all(&mut timers), ["nan", "another nan", "zero", "minus zero"]);
        assert_eq!(timers.take_all(), ["never"]);
        assert!(timers.is_empty());
    }

    #[test]
    fn the_last_one_leaves_at_once() {
        let mut timers = Timers::new();
        timers.push(1.0, 1);
        timers.push(9.0, 2);
        assert_eq!(timers.take_last_if(|&item| item == 1), None);
        assert_eq!(timers.take_last_if(|&item| item == 2), Some(2));
        assert_eq!(timers.take_last_if(|&item| item == 1), Some(1));
        assert_eq!(timers.take_last_if(|_| true), None);
    }

    #[test]
    fn few_cancelled_entries_stay() {
        let mut timers = Timers::new();
        for item in 0..100 {
            timers.push(f64::from(item), item);
            timers.note_cancelled();
        }
        assert!(timers.purge(|_| true).is_empty());
        timers.push(100.0, 100);
        timers.note_cancelled();
        assert_eq!(timers.purge(|_| true).len(), 101);
        assert_eq!((timers.len(), timers.cancelled()), (0, 0));
    }

    #[test]
    fn a_minority_of_cancelled_entries_stays() {
        let mut timers = Timers::new();
        for item in 0..1000 {
            timers.push(f64::from(item % 7), item);
        }
        for _ in 0..500 {
            timers.note_cancelled();
        }
        assert!(timers.purge(|item| item % 2 == 0).is_empty());
        assert_eq!(timers.len(), 1000);
        timers.note_cancelled();
        assert_eq!(timers.purge(|item| item % 2 == 0 || *item == 1).len(), 501);
        assert_eq!(timers.len(), 499);
        let rest = pop_all(&mut timers);
        assert!(rest.is_sorted_by_key(|item| (item % 7, *item)));
    }

    #[test]
    fn a_cancelled_head_is_counted_down() {
        let mut timers = Timers::new();
        timers.push(1.0, "cancelled");
        timers.push(2.0, "live");
        assert_eq!(timers.pop_cancelled_head(|_| true), None, "none was noted");
        timers.note_cancelled();
        let is_cancelled = |item: &&str| *item == "cancelled";
        assert_eq!(timers.pop_cancelled_head(is_cancelled), Some("cancelled"));
        assert_eq!(timers.pop_cancelled_head(is_cancelled), None);
        assert_eq!((timers.len(), timers.cancelled()), (1, 0));
    }

    #[test]
    fn memory_stays_bounded_when_everything_is_cancelled() {
        let mut timers = Timers::new();
        let mut random = Random(7);
        let mut returned = 0;
        for item in 0..100_000 {
            timers.push(random.below(1000) as f64, item);
            timers.note_cancelled();
            returned += timers.purge(|_| true).len();
            assert!(timers.len() <= PURGE_MINIMUM + 1);
            assert!(timers.heap.capacity() <= 4 * PURGE_MINIMUM);
        }
        assert_eq!(returned + timers.len(), 100_000);
    }

    /// An item that counts its drops, to show that none happens inside.
    struct Counted {
        id: u64,
        cancelled: Cell<bool>,
        drops: Rc<Cell<usize>>,
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.drops.set(self.drops.get() + 1);
        }
    }

    fn is_cancelled(item: &Rc<Counted>) -> bool {
        item.cancelled.get()
    }

    type Model = BTreeMap<(u64, u64), Rc<Counted>>;

    /// Returns how many were removed.
    fn check_bulk(timers: &mut Timers<Rc<Counted>>, model: &mut Model, end_time: u64) -> usize {
        let end = end_time as f64;
        let later = model.split_off(&(end_time, 0));
        let expected = std::mem::replace(model, later);
        let enough = BULK_MINIMUM.max(timers.len() / BULK_SHARE);
        assert_eq!(timers.are_many_due(end), expected.len() >= enough);
        let due = timers.take_due_in_bulk(end, is_cancelled);
        assert!(due.iter().map(|item| item.id).eq(expected.keys().map(|key| key.1)));
        due.len()
    }

    /// Returns how many were removed.
    fn check_pop(timers: &mut Timers<Rc<Counted>>, model: &mut Model, end_time: u64) -> usize {
        let mut removed = 0;
        while let Some(item) = timers.pop_cancelled_head(is_cancelled) {
            assert_eq!(model.pop_first().unwrap().1.id, item.id);
            removed += 1;
        }
        let due = timers.pop_due(end_time as f64, is_cancelled);
        let expected = model.first_key_value().filter(|(key, _)| key.0 < end_time);
        assert_eq!(due.as_ref().map(|item| item.id), expected.map(|(key, _)| key.1));
        if due.is_some() {
            model.pop_first();
            removed += 1;
        }
        removed
    }

    /// Applies random operations to the heap and to a sorted map, which must agree after each.
    #[test]
    fn agrees_with_a_sorted_map() {
        for seed in 0..40 {
            let mut random = Random(seed);
            let drops = Rc::new(Cell::new(0));
            let mut dropped = 0;
            let mut timers = Timers::<Rc<Counted>>::new();
            let mut model = BTreeMap::new();
            for id in 0..3000 {
                match random.below(10) {
                    0..5 => {
                        let deadline = random.below(200);
                        let item = Rc::new(Counted {
                            id,
                            cancelled: Cell::new(false),
                            drops: Rc::clone(&drops),
                        });
                        timers.push(deadline as f64, Rc::clone(&item));
                        model.insert((deadline, id), item);
                    }
                    5..8 if !model.is_empty() => {
                        let nth = random.below(model.len() as u64) as usize;
                        let key = *model.keys().nth(nth).unwrap();
                        let item = &model[&key];
                        let last = timers.take_last_if(|other| other.id == item.id);
                        if let Some(last) = last {
                            if last.cancelled.get() {
                                // It was counted before: a real caller would not take it.
                                timers.cancelled -= 1;
                            }
                            model.remove(&key);
                            dropped += 1;
                        } else if !item.cancelled.replace(true) {
                            timers.note_cancelled();
                        }
                    }
                    8 if random.below(4) == 0 => {
                        dropped += check_bulk(&mut timers, &mut model, random.below(200));
                    }
                    8 => {
                        let removed = timers.purge(is_cancelled);
                        for item in &removed {
                            model.retain(|key, _| key.1 != item.id);
                        }
                        dropped += removed.len();
                    }
                    _ => {
                        dropped += check_pop(&mut timers, &mut model, random.below(100));
                    }
                }
                assert_eq!(drops.get(), dropped);
                assert_eq!(timers.len(), model.len());
                assert_eq!(timers.cancelled(), timers.iter().filter(|i| is_cancelled(i)).count());
                assert_eq!(timers.next_deadline(), model.keys().next().map(|key| key.0 as f64));
            }
            let order: Vec<u64> = pop_all(&mut timers).iter().map(|item| item.id).collect();
            assert!(order.into_iter().eq(model.keys().map(|key| key.1)));
        }
    }
}
