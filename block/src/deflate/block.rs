//! Blocks: which symbols they are made of, what they cost, and how they are written (RFC 1951 §3.2).

use super::{
    bits::Bits,
    finder::Match,
    huffman::{self, CODE_MAX, Code},
};

/// Symbols for literals, the end of a block and lengths; for distances; for code lengths.
const LITERALS: usize = 286;
/// As above.
const DISTANCES: usize = 30;
const LENGTHS: usize = 19;
const END: usize = 256;
/// Bytes of a block for which codes of its own may not be worth telling.
const SHORT: usize = 4096;
/// The order in which the lengths of length codes are written (RFC 1951 §3.2.7).
const ORDER: [usize; LENGTHS] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Literals, and a match behind them; one of length 0 is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub literals: u32,
    pub len: u16,
    pub dist: u16,
}

/// How often each symbol comes.
#[derive(Clone)]
pub(super) struct Counts {
    pub literals: [u32; LITERALS],
    pub distances: [u32; DISTANCES],
}

impl Counts {
    pub const NONE: Self = Self { literals: [0; LITERALS], distances: [0; DISTANCES] };

    #[inline]
    pub fn literal(&mut self, byte: u8) {
        self.literals[usize::from(byte)] += 1;
    }

    #[inline]
    pub fn found(&mut self, found: Match) {
        self.literals[usize::from(LENGTH[found.len].symbol)] += 1;
        self.distances[distance(found.dist).symbol as usize] += 1;
    }

    pub fn add(&mut self, other: &Self) {
        let literals = self.literals.iter_mut().zip(&other.literals);
        for (count, more) in literals.chain(self.distances.iter_mut().zip(&other.distances)) {
            *count += more;
        }
    }

    /// About how many bits a block of these takes that has codes of its own.
    pub fn estimate(&self, logs: &Logs) -> f32 {
        let mut bits = 0.0;
        let mut symbols = 0_u32;
        for counts in [&self.literals[..], &self.distances[..]] {
            let mut all = 0;
            for &count in counts.iter().filter(|count| **count > 0) {
                all += count;
                symbols += 1;
                bits -= logs.weight(count);
            }
            bits += logs.weight(all);
        }
        bits + 70.0 + 3.0 * symbols as f32
    }
}

/// `n` times its binary logarithm.
pub(super) struct Logs(Vec<f32>);

impl Logs {
    pub fn new() -> Self {
        let log = |n: u16| f32::from(n) * f32::from(n.max(1)).log2();
        Self((0..2048).map(log).collect())
    }

    fn weight(&self, n: u32) -> f32 {
        self.0.get(n as usize).copied().unwrap_or_else(|| n as f32 * (n as f32).log2())
    }
}

/// A length's or a distance's symbol, and what is added to it.
#[derive(Clone, Copy)]
struct Value {
    symbol: u16,
    extra_bits: u8,
    extra: u16,
}

impl Value {
    /// The code and what is added to it, and how many bits these are.
    #[inline(always)]
    fn coded(self, code: Code) -> (u64, u32) {
        let extra = u64::from(self.extra) << code.len;
        (u64::from(code.bits) | extra, u32::from(code.len) + u32::from(self.extra_bits))
    }
}

/// RFC 1951 §3.2.5, by length.
static LENGTH: [Value; 259] = lengths();

const fn lengths() -> [Value; 259] {
    let mut table = [Value { symbol: 0, extra_bits: 0, extra: 0 }; 259];
    let (mut len, mut symbol) = (3, 257);
    while len < 258 {
        let extra_bits = if symbol < 265 { 0 } else { (symbol - 261) / 4 };
        let mut extra = 0;
        while extra < 1 << extra_bits && len < 258 {
            table[len] = Value { symbol, extra_bits: extra_bits as u8, extra };
            len += 1;
            extra += 1;
        }
        symbol += 1;
    }
    table[258] = Value { symbol: 285, extra_bits: 0, extra: 0 };
    table
}

/// RFC 1951 §3.2.5, for a distance from 1 to 32768.
#[inline]
fn distance(dist: usize) -> Value {
    let above = dist.wrapping_sub(1) as u32;
    if above < 4 {
        return Value { symbol: above as u16, extra_bits: 0, extra: 0 };
    }
    let bits = above.ilog2() - 1;
    let symbol = 2 * (bits + 1) + (above >> bits & 1);
    Value {
        symbol: symbol as u16,
        extra_bits: bits as u8,
        extra: (above & ((1 << bits) - 1)) as u16,
    }
}

/// The codes of a block, ready to be written.
pub(super) struct Codes {
    literal_lens: [u8; LITERALS],
    distance_lens: [u8; DISTANCES],
    literals: [Code; LITERALS],
    distances: [Code; DISTANCES],
}

impl Codes {
    /// The best ones for these counts.
    fn best(counts: &Counts) -> Self {
        let mut codes = Self {
            literal_lens: [0; LITERALS],
            distance_lens: [0; DISTANCES],
            literals: [Code::default(); LITERALS],
            distances: [Code::default(); DISTANCES],
        };
        huffman::lengths(&counts.literals, CODE_MAX, &mut codes.literal_lens);
        huffman::lengths(&counts.distances, CODE_MAX, &mut codes.distance_lens);
        codes.assign();
        codes
    }

    /// Those that every reader knows (RFC 1951 §3.2.6).
    fn fixed() -> Self {
        // Two more symbols have codes, which never come.
        let mut lens = [8; 288];
        lens[144..256].fill(9);
        lens[256..280].fill(7);
        let mut all = [Code::default(); 288];
        huffman::codes(&lens, &mut all);
        let mut codes = Self {
            literal_lens: [0; LITERALS],
            distance_lens: [5; DISTANCES],
            literals: [Code::default(); LITERALS],
            distances: [Code::default(); DISTANCES],
        };
        codes.literal_lens.copy_from_slice(&lens[..LITERALS]);
        codes.literals.copy_from_slice(&all[..LITERALS]);
        let mut all = [Code::default(); 32];
        huffman::codes(&[5; 32], &mut all);
        codes.distances.copy_from_slice(&all[..DISTANCES]);
        codes
    }

    fn assign(&mut self) {
        huffman::codes(&self.literal_lens, &mut self.literals);
        huffman::codes(&self.distance_lens, &mut self.distances);
    }

    /// Bits of a block's symbols in these codes.
    fn cost(&self, counts: &Counts) -> u64 {
        let mut bits = 0;
        for (symbol, (count, len)) in (0..).zip(counts.literals.iter().zip(&self.literal_lens)) {
            let extra: u64 = match symbol {
                265..285 => (symbol - 261) / 4,
                _ => 0,
            };
            bits += u64::from(*count) * (u64::from(*len) + extra);
        }
        for (symbol, (count, len)) in (0_u8..).zip(counts.distances.iter().zip(&self.distance_lens))
        {
            let extra = (symbol / 2).saturating_sub(1);
            bits += u64::from(*count) * u64::from(len + extra);
        }
        bits
    }

    fn write(&self, bits: &mut Bits<'_>, steps: &[Step], mut data: &[u8]) {
        for step in steps {
            let (literals, rest) = data.split_at(step.literals as usize);
            for group in literals.chunks(3) {
                for byte in group {
                    let code = self.literals[usize::from(*byte)];
                    bits.put(code.bits.into(), code.len.into());
                }
                bits.settle();
            }
            data = &rest[usize::from(step.len)..];
            if step.len > 0 {
                let value = LENGTH[usize::from(step.len)];
                let (bits1, len1) = value.coded(self.literals[usize::from(value.symbol)]);
                let value = distance(step.dist.into());
                let (bits2, len2) = value.coded(self.distances[usize::from(value.symbol)]);
                bits.put(bits1 | bits2 << len1, len1 + len2);
                bits.settle();
            }
        }
        let code = self.literals[END];
        bits.put(code.bits.into(), code.len.into());
        bits.settle();
    }
}

/// How a block's codes are told (RFC 1951 §3.2.7).
struct Telling {
    literals: usize,
    distances: usize,
    /// A symbol of the length code, what is added to it, and its bits.
    told: Vec<(u8, u8, u8)>,
    lens: [u8; LENGTHS],
    shown: usize,
}

impl Telling {
    fn of(codes: &Codes) -> Self {
        let used = |lens: &[u8], least: usize| {
            lens.iter().rposition(|len| *len > 0).map_or(least, |last| (last + 1).max(least))
        };
        let literals = used(&codes.literal_lens, 257);
        let distances = used(&codes.distance_lens, 1);
        let mut all = [0; LITERALS + DISTANCES];
        all[..literals].copy_from_slice(&codes.literal_lens[..literals]);
        all[literals..literals + distances].copy_from_slice(&codes.distance_lens[..distances]);
        let told = runs(&all[..literals + distances]);
        let mut counts = [0; LENGTHS];
        for (symbol, ..) in &told {
            counts[usize::from(*symbol)] += 1;
        }
        let mut lens = [0; LENGTHS];
        huffman::lengths(&counts, 7, &mut lens);
        let shown =
            ORDER.iter().rposition(|symbol| lens[*symbol] > 0).map_or(4, |n| (n + 1).max(4));
        Self { literals, distances, told, lens, shown }
    }

    fn cost(&self) -> u64 {
        let told: u64 = self
            .told
            .iter()
            .map(|(symbol, _, extra)| u64::from(self.lens[usize::from(*symbol)] + extra))
            .sum();
        14 + 3 * self.shown as u64 + told
    }

    fn write(&self, bits: &mut Bits<'_>) {
        bits.put(self.literals as u64 - 257, 5);
        bits.put(self.distances as u64 - 1, 5);
        bits.put(self.shown as u64 - 4, 4);
        bits.settle();
        for symbol in &ORDER[..self.shown] {
            bits.put(self.lens[*symbol].into(), 3);
            bits.settle();
        }
        let mut codes = [Code::default(); LENGTHS];
        huffman::codes(&self.lens, &mut codes);
        for (symbol, extra, extra_bits) in &self.told {
            let code = codes[usize::from(*symbol)];
            bits.put(code.bits.into(), code.len.into());
            bits.put((*extra).into(), (*extra_bits).into());
            bits.settle();
        }
    }
}

/// Code lengths with their repetitions: symbol, what is added, its bits.
fn runs(lens: &[u8]) -> Vec<(u8, u8, u8)> {
    let mut told = Vec::with_capacity(lens.len());
    for same in lens.chunk_by(|a, b| a == b) {
        let (len, mut left) = (same[0], same.len());
        if len > 0 {
            told.push((len, 0, 0));
            left -= 1;
        }
        while left >= 3 {
            let (symbol, least, most, bits) = match (len, left) {
                (1.., _) => (16, 3, 6, 2),
                (0, ..=10) => (17, 3, 10, 3),
                (0, _) => (18, 11, 138, 7),
            };
            // What is left over should not be too short to be told as a run.
            let mut run = left.min(most);
            if (1..3).contains(&(left - run)) && run >= least + 3 && len > 0 {
                run = left - 3;
            }
            told.push((symbol, (run - least) as u8, bits));
            left -= run;
        }
        told.extend(std::iter::repeat_n((len, 0, 0), left));
    }
    told
}

/// Writes a block in the shortest of the three ways.
pub(super) fn write(
    bits: &mut Bits<'_>,
    counts: &mut Counts,
    steps: &[Step],
    data: &[u8],
    last: bool,
) {
    counts.literals[END] = 1;
    let last = u64::from(last);
    let own = Codes::best(counts);
    let telling = Telling::of(&own);
    let in_own = telling.cost() + own.cost(counts);
    // Only what is short is shorter in codes that need not be told.
    let fixed = (data.len() <= SHORT).then(Codes::fixed);
    let in_fixed = fixed.as_ref().map_or(u64::MAX, |fixed| fixed.cost(counts));
    let pieces = data.len().div_ceil(0xffff).max(1) as u64;
    let stored = u64::from(bits.gap(3)) + (pieces - 1) * 8 + pieces * 32 + 8 * data.len() as u64;
    if stored <= in_own.min(in_fixed) {
        let mut left = data;
        for piece in (0..pieces).rev() {
            let (part, rest) = left.split_at(left.len().min(0xffff));
            bits.put(last & u64::from(piece == 0), 3);
            bits.align();
            let len = part.len() as u16;
            bits.bytes(&len.to_le_bytes());
            bits.bytes(&(!len).to_le_bytes());
            bits.bytes(part);
            left = rest;
        }
    } else if let Some(fixed) = fixed.filter(|_| in_fixed <= in_own) {
        bits.put(last | 1 << 1, 3);
        fixed.write(bits, steps, data);
    } else {
        bits.put(last | 2 << 1, 3);
        telling.write(bits);
        own.write(bits, steps, data);
    }
}
