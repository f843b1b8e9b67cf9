//! Maps registered descriptors to the receivers of their events.
//!
//! A two-level table indexed by the descriptor's number: the kernel hands out the lowest free
//! numbers, so pages fill up, a lookup is two loads, and one descriptor with a huge number costs
//! one page. Slots stay allocated for the next owner of their number.

use std::os::fd::RawFd;

use mio::Interest;

use super::Token;

const PAGE_BITS: u32 = 7;
const PAGE_SIZE: usize = 1 << PAGE_BITS;

type Page<P> = Box<[Option<Registration<P>>]>;

/// A registered descriptor.
#[derive(Debug)]
pub struct Registration<P> {
    fd: RawFd,
    generation: u32,
    /// The readiness that the descriptor is registered for.
    pub interest: Interest,
    /// The receiver of its events.
    pub payload: P,
}

impl<P> Registration<P> {
    /// The descriptor.
    #[inline]
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// The token to register the descriptor with.
    #[inline]
    pub fn token(&self) -> Token {
        Token::new(self.fd, self.generation)
    }
}

/// The registered descriptors, each with one registration.
#[derive(Debug)]
pub struct Registrations<P> {
    pages: Vec<Option<Page<P>>>,
    len: usize,
    next_generation: u32,
}

impl<P> Default for Registrations<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> Registrations<P> {
    /// An empty table; allocates nothing.
    pub const fn new() -> Self {
        Registrations { pages: Vec::new(), len: 0, next_generation: 0 }
    }

    /// The number of registered descriptors.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no descriptor is registered.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `fd` under a new generation.
    ///
    /// # Errors
    /// Returns `payload` if `fd` is already registered, or negative.
    pub fn insert(&mut self, fd: RawFd, interest: Interest, payload: P) -> Result<Token, P> {
        let Some((page, slot)) = position(fd) else { return Err(payload) };
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page]
            .get_or_insert_with(|| std::iter::repeat_with(|| None).take(PAGE_SIZE).collect());
        let slot = &mut page[slot];
        if slot.is_some() {
            return Err(payload);
        }
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        *slot = Some(Registration { fd, generation, interest, payload });
        self.len += 1;
        Ok(Token::new(fd, generation))
    }

    /// The registration of `fd`.
    #[inline]
    pub fn get(&self, fd: RawFd) -> Option<&Registration<P>> {
        let (page, slot) = position(fd)?;
        self.pages.get(page)?.as_ref()?[slot].as_ref()
    }

    /// The registration of `fd`, to change its interest or payload.
    #[inline]
    pub fn get_mut(&mut self, fd: RawFd) -> Option<&mut Registration<P>> {
        self.slot_mut(fd)?.as_mut()
    }

    /// The registration that an event belongs to; `None` if it was removed since, even if its
    /// number is registered again.
    #[inline]
    pub fn lookup(&self, token: Token) -> Option<&Registration<P>> {
        self.get(token.fd()).filter(|registration| registration.generation == token.generation())
    }

    /// Removes and returns the registration of `fd`.
    pub fn remove(&mut self, fd: RawFd) -> Option<Registration<P>> {
        let removed = self.slot_mut(fd)?.take()?;
        self.len -= 1;
        Some(removed)
    }

    /// Removes and returns all registrations, by ascending descriptor, and frees the table.
    pub fn take_all(&mut self) -> Vec<Registration<P>> {
        let mut all = Vec::with_capacity(self.len);
        self.len = 0;
        for page in std::mem::take(&mut self.pages).into_iter().flatten() {
            all.extend(page.into_iter().flatten());
        }
        all
    }

    /// The registrations by ascending descriptor.
    pub fn iter(&self) -> impl Iterator<Item = &Registration<P>> {
        self.pages.iter().flatten().flat_map(|page| page.iter().flatten())
    }

    #[inline]
    fn slot_mut(&mut self, fd: RawFd) -> Option<&mut Option<Registration<P>>> {
        let (page, slot) = position(fd)?;
        Some(&mut self.pages.get_mut(page)?.as_mut()?[slot])
    }
}

/// The page and the slot in it of a descriptor; `None` if it is negative.
#[inline]
fn position(fd: RawFd) -> Option<(usize, usize)> {
    let number = usize::try_from(fd).ok()?;
    Some((number >> PAGE_BITS, number & (PAGE_SIZE - 1)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const READ: Interest = Interest::READABLE;

    #[test]
    fn one_registration_per_descriptor() {
        let mut table = Registrations::new();
        let token = table.insert(3, READ, "first").unwrap();
        assert_eq!(table.insert(3, READ, "second"), Err("second"));
        assert_eq!(table.insert(-1, READ, "negative"), Err("negative"));
        assert_eq!(table.len(), 1);
        assert_eq!(table.get(3).unwrap().payload, "first");
        assert_eq!(table.get(3).unwrap().token(), token);
        assert!(table.get(-1).is_none());
        assert!(table.remove(-1).is_none());
        assert!(table.remove(4).is_none());
        assert!(table.remove(1_000_000).is_none());
    }

    #[test]
    fn a_stale_token_finds_nothing() {
        let mut table = Registrations::new();
        let old = table.insert(9, READ, 'a').unwrap();
        assert_eq!(table.remove(9).unwrap().payload, 'a');
        assert!(table.lookup(old).is_none());
        let new = table.insert(9, READ, 'b').unwrap();
        assert!(table.lookup(old).is_none());
        assert_eq!(table.lookup(new).unwrap().payload, 'b');
        assert!(table.lookup(Token::WAKER).is_none());
    }

    #[test]
    fn the_generation_wraps() {
        let mut table = Registrations::new();
        table.next_generation = u32::MAX;
        let last = table.insert(1, READ, ()).unwrap();
        let first = table.insert(2, READ, ()).unwrap();
        assert_eq!((last.generation(), first.generation()), (u32::MAX, 0));
    }

    #[test]
    fn interest_and_payload_can_change() {
        let mut table = Registrations::new();
        let token = table.insert(5, READ, 1).unwrap();
        let registration = table.get_mut(5).unwrap();
        registration.interest = READ | Interest::WRITABLE;
        registration.payload = 2;
        let registration = table.get(5).unwrap();
        assert!(registration.interest.is_writable());
        assert_eq!((registration.fd(), registration.payload), (5, 2));
        assert_eq!(registration.token(), token);
    }

    #[test]
    fn a_huge_descriptor_costs_one_page() {
        let mut table = Registrations::new();
        table.insert(1 << 24, READ, 0_u64).unwrap();
        assert_eq!(table.pages.iter().flatten().count(), 1);
        assert_eq!(table.iter().count(), 1);
    }

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Option<Registration<usize>>>() <= 24);
    }

    #[test]
    fn agrees_with_a_map() {
        let mut table = Registrations::new();
        let mut model = BTreeMap::new();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for step in 0..50_000_u32 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let fd = (seed >> 40) as RawFd % 700;
            if seed >> 33 & 1 == 0 {
                let inserted = table.insert(fd, READ, step).is_ok();
                assert_eq!(inserted, !model.contains_key(&fd));
                model.entry(fd).or_insert(step);
            } else {
                assert_eq!(table.remove(fd).map(|removed| removed.payload), model.remove(&fd));
            }
            assert_eq!(table.len(), model.len());
        }
        let entries = |(&fd, &payload)| (fd, payload);
        assert!(table.iter().map(|r| (r.fd(), r.payload)).eq(model.iter().map(entries)));
        let all = table.take_all();
        assert!(all.iter().map(|r| (r.fd(), r.payload)).eq(model.iter().map(entries)));
        assert!(table.is_empty() && table.iter().next().is_none());
    }
}
