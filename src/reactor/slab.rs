//! Storage of values under keys that are never valid for another value.

/// Identifies a value in a [`Slab`]. A key stays invalid once its value was removed, even when the
/// slot has another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotKey {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by key. Free slots are used again; none is kept while there is no value.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    next_generation: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slab<T> {
    /// An empty slab; allocates nothing.
    pub const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), next_generation: 0 }
    }

    /// Stores a value.
    ///
    /// # Panics
    /// If the slab has 2³² values already.
    pub fn insert(&mut self, value: T) -> SlotKey {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let slot = Slot { generation, value: Some(value) };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 values fit in memory")
            }
        };
        SlotKey { index, generation }
    }

    /// The value of `key`, if it was not removed.
    #[inline]
    pub fn get_mut(&mut self, key: SlotKey) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    /// Removes and returns the value of `key`, if it was not removed.
    pub fn remove(&mut self, key: SlotKey) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        self.free.push(key.index);
        if self.free.len() == self.slots.len() {
            self.slots.clear();
            self.free.clear();
        }
        Some(value)
    }

    /// Removes and returns all values.
    pub fn take_all(&mut self) -> Vec<T> {
        self.free.clear();
        std::mem::take(&mut self.slots).into_iter().filter_map(|slot| slot.value).collect()
    }

    /// The values, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// How many slots there are, free ones included.
    #[inline(always)]
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// The value in slot `index` and its key; `None` if the slot is free.
    pub fn at(&self, index: usize) -> Option<(SlotKey, &T)> {
        let slot = self.slots.get(index)?;
        let key = SlotKey { index: u32::try_from(index).ok()?, generation: slot.generation };
        Some((key, slot.value.as_ref()?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_key_is_valid_until_its_value_is_removed() {
        let mut slab = Slab::new();
        let (first, second) = (slab.insert('a'), slab.insert('b'));
        assert_eq!(slab.remove(first), Some('a'));
        assert_eq!((slab.remove(first), slab.get_mut(first)), (None, None));
        let third = slab.insert('c');
        assert_eq!(slab.slot_count(), 2, "the slot is used again");
        assert_eq!((slab.remove(first), slab.get_mut(first)), (None, None));
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!(slab.get_mut(third), Some(&mut 'c'));
    }

    #[test]
    fn keys_stay_invalid_when_the_slab_was_empty() {
        let mut slab = Slab::new();
        let removed = slab.insert(1);
        slab.remove(removed);
        let taken = slab.insert(2);
        assert_eq!(slab.take_all(), [2]);
        assert_eq!(slab.slot_count(), 0);
        let key = slab.insert(3);
        assert_eq!(slab.get_mut(removed), None);
        assert_eq!(slab.get_mut(taken), None);
        assert_eq!(slab.at(0), Some((key, &3)));
        assert_eq!(slab.at(1), None);
    }

    #[test]
    fn the_generation_wraps() {
        let mut slab = Slab { next_generation: u32::MAX, ..Slab::new() };
        let (last, first) = (slab.insert('a'), slab.insert('b'));
        assert_eq!((last.generation, first.generation), (u32::MAX, 0));
        assert_eq!((slab.remove(last), slab.remove(first)), (Some('a'), Some('b')));
    }

    #[test]
    fn agrees_with_a_map() {
        let mut slab = Slab::new();
        let mut model = HashMap::new();
        let mut keys = Vec::new();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for step in 0..50_000_u64 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let random = seed >> 33;
            // Alternately more insertions and more removals; some keys are invalid already.
            if random % 8 < if step / 2_000 % 2 == 0 { 5 } else { 3 } || keys.is_empty() {
                let key = slab.insert(step);
                assert_eq!(model.insert(key, step), None, "a key was given twice");
                keys.push(key);
            } else {
                let key = keys[random as usize / 8 % keys.len()];
                assert_eq!(slab.get_mut(key).copied(), model.get(&key).copied());
                assert_eq!(slab.remove(key), model.remove(&key));
            }
            if keys.len() > 500 {
                keys.drain(..100).for_each(|key| assert_eq!(slab.remove(key), model.remove(&key)));
            }
            assert!(slab.slot_count() >= model.len());
        }
        for index in 0..slab.slot_count() {
            if let Some((key, value)) = slab.at(index) {
                assert_eq!(model.get(&key), Some(value));
            }
        }
        assert_eq!(slab.iter().count(), model.len());
        let mut left = slab.take_all();
        left.sort_unstable();
        let mut expected: Vec<_> = model.into_values().collect();
        expected.sort_unstable();
        assert_eq!(left, expected);
    }
}
