//! Small changes to inputs.

use crate::{Target, corpus::Corpus};

/// Numbers at which things change.
const EDGES: &[u64] =
    &[0, 1, 2, 7, 8, 15, 16, 511, 512, 4095, 4096, 65535, 65536, 1 << 31, 1 << 32];

/// An input of the corpus with a few changes.
pub(crate) fn mutant(target: &Target, corpus: &Corpus, rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = corpus.any(rng).to_vec();
    // One or two most often: what is wrong in many places is refused at the first.
    let changes = 1 + rng.u32(0..4).min(rng.u32(0..4)) + if rng.u8(0..16) == 0 { 8 } else { 0 };
    for _ in 0..changes {
        change(&mut input, target, corpus, rng);
    }
    input.truncate(target.len_max);
    input
}

fn change(input: &mut Vec<u8>, target: &Target, corpus: &Corpus, rng: &mut fastrand::Rng) {
    let len = input.len();
    let at = rng.usize(0..=len);
    match rng.u8(0..10) {
        0 | 1 if at < len => input[at] ^= 1 << rng.u8(0..8),
        2 if at < len => input[at] = rng.u8(..),
        3 if at < len => {
            // A number near an edge, in either order of bytes and any width.
            let edge = rng.choice(EDGES).copied().unwrap_or(0);
            let value = edge.wrapping_add(rng.u64(0..3)).wrapping_sub(1);
            let width = [1, 2, 4, 8][rng.usize(0..4)];
            let (big, little) = (value.to_be_bytes(), value.to_le_bytes());
            let bytes = if rng.bool() { &big[8 - width..] } else { &little[..width] };
            let end = len.min(at + width);
            input[at..end].copy_from_slice(&bytes[..end - at]);
        }
        4 if at < len => {
            let end = len.min(at + 1 + rng.usize(0..16));
            input.drain(at..end);
        }
        5 if at < len => {
            let end = len.min(at + 1 + rng.usize(0..32));
            let copy = input[at..end].to_vec();
            let to = rng.usize(0..=len);
            input.splice(to..to, copy);
        }
        6 => {
            let other = corpus.any(rng).to_vec();
            let from = rng.usize(0..=other.len());
            let to = other.len().min(from + rng.usize(0..64));
            let end = if rng.bool() { at } else { len.min(at + to - from) };
            input.splice(at..end, other[from..to].iter().copied());
        }
        7 | 8 if !target.words.is_empty() => {
            let word = rng.choice(target.words).copied().unwrap_or_default();
            input.splice(at..at, word.bytes());
        }
        9 if rng.u8(0..4) == 0 => input.truncate(at),
        _ => input.insert(at, rng.u8(..)),
    }
}
