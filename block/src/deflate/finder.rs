//! Finds earlier places that go on like the present one.
//!
//! No chains are followed: the last four places with the same four bytes and the last one with the
//! same three are looked at, all at once and without a branch for each.

/// What a match may not reach back to or beyond, in bytes.
pub(super) const WINDOW: usize = 4096;
/// The shortest and the longest match (RFC 1951 §3.2.5).
pub(super) const MATCH_MIN: usize = 3;
/// As above.
pub(super) const MATCH_MAX: usize = 258;
/// Bytes that have to be there behind what is searched.
pub(super) const SLACK: usize = 8;

const HASH3_BITS: u32 = 12;
const HASH4_BITS: u32 = 12;

/// Length and distance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    pub len: usize,
    pub dist: usize,
}

/// The bytes before a place and the first ones from there on.
type View = [u8; WINDOW + SLACK];

/// Places by what follows them, modulo 65536. A place that is none, or was forgotten since, does no
/// harm: what is found there is compared byte by byte.
pub(super) struct Finder {
    /// By three bytes.
    of3: Box<[u16; 1 << HASH3_BITS]>,
    /// By four bytes, the last place lowest and the three before it above.
    of4: Box<[u64; 1 << HASH4_BITS]>,
}

#[inline(always)]
fn long(data: &[u8], at: usize) -> u64 {
    data.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// What goes on `back` bytes before the place that is looked at.
#[inline(always)]
fn before(view: &View, back: usize) -> u64 {
    let at = WINDOW - back % WINDOW;
    view[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
}

#[inline(always)]
fn hash3(next: u64) -> usize {
    (((next as u32) << 8).wrapping_mul(0x9e37_79b1) >> (32 - HASH3_BITS)) as usize
}

#[inline(always)]
fn hash4(next: u64) -> usize {
    ((next as u32).wrapping_mul(0x9e37_79b1) >> (32 - HASH4_BITS)) as usize
}

impl Finder {
    pub fn new() -> Self {
        Self { of3: Box::new([0; 1 << HASH3_BITS]), of4: Box::new([0; 1 << HASH4_BITS]) }
    }

    /// Forgets every place: what comes out must not depend on what was packed before.
    pub fn forget(&mut self) {
        self.of3.fill(0);
        self.of4.fill(0);
    }

    /// Remembers a place. `data` begins `WINDOW` bytes earlier, here and below.
    #[inline(always)]
    pub fn insert(&mut self, data: &[u8], at: usize) {
        let next = long(data, at + WINDOW);
        self.of3[hash3(next)] = at as u16;
        let of4 = &mut self.of4[hash4(next)];
        *of4 = *of4 << 16 | at as u64 & 0xffff;
    }

    /// Remembers `at`, and returns the longest match there; one of length 0 is none.
    #[inline(always)]
    pub fn find(&mut self, data: &[u8], at: usize, max: usize) -> Match {
        let Some(view) = data.get(at..).and_then(|rest| rest.first_chunk()) else {
            return Match::default();
        };
        let next = before(view, 0);
        let here = at as u32 & 0xffff;
        let of3 = std::mem::replace(&mut self.of3[hash3(next)], here as u16);
        let of4 = &mut self.of4[hash4(next)];
        let both = *of4;
        *of4 = both << 16 | u64::from(here);
        let reach = at.min(WINDOW - 1) as u32;
        // How many bytes are the same, up to eight; of as many, the nearer ones.
        let score = |place: u32| {
            let back = here.wrapping_sub(place) & 0xffff;
            let differ = before(view, back as usize) ^ next;
            let same = ((differ.trailing_zeros() & 0x78) << 16) | (0xffff - back);
            if back.wrapping_sub(1) < reach { same } else { 0 }
        };
        let place = |n: u32| (both >> (16 * n)) as u32 & 0xffff;
        let recent = score(place(0)).max(score(place(1)));
        let best = score(of3.into()).max(recent).max(score(place(2)).max(score(place(3))));
        let found = Match { len: (best >> 19) as usize, dist: (!best & 0xffff) as usize };
        if found.len < 8 {
            return Match { len: found.len.min(max), ..found };
        }
        let found = Match { len: extend(data, at, found.dist, max), ..found };
        let mut found = found;
        for n in 1..4 {
            let dist = here.wrapping_sub(place(n)) as usize & 0xffff;
            if dist != found.dist && score(place(n)) >> 19 == 8 {
                let len = extend(data, at, dist, max);
                if len > found.len {
                    found = Match { len, dist };
                }
            }
        }
        found
    }
}

/// How far what follows `at` and a place `dist` before is the same, up to `max`, beyond eight bytes.
fn extend(data: &[u8], at: usize, dist: usize, max: usize) -> usize {
    let at = at + WINDOW;
    let mut len = 8;
    while len < max {
        let differ = long(data, at + len) ^ long(data, at + len - dist);
        if differ != 0 {
            return (len + differ.trailing_zeros() as usize / 8).min(max);
        }
        len += 8;
    }
    max
}
