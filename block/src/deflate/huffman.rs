//! Huffman codes of limited length, in the canonical form of RFC 1951 §3.2.2.

/// The longest code of literals, lengths and distances (RFC 1951 §3.2.7).
pub(super) const CODE_MAX: usize = 15;

/// A code: its bits, the first to be written lowest, and how many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Code {
    pub bits: u16,
    pub len: u8,
}

/// Sets `lengths` to the lengths of a complete code for symbols that come `counts` times, none
/// longer than `max`. At least two symbols get a code, for readers that want no other.
///
/// # Panics
/// When there are more symbols than codes of `max` bits, or the slices' lengths differ.
pub(super) fn lengths(counts: &[u32], max: usize, lengths: &mut [u8]) {
    assert!(counts.len() == lengths.len() && counts.len() <= 1 << max && max <= CODE_MAX);
    lengths.fill(0);
    let mut sorted = [(0_u32, 0_u16); 288];
    let mut used = 0;
    for (symbol, &count) in (0..).zip(counts) {
        if count > 0 {
            sorted[used] = (count, symbol);
            used += 1;
        }
    }
    for symbol in 0..2 {
        if used < 2 && counts[usize::from(symbol)] == 0 {
            sorted[used] = (1, symbol);
            used += 1;
        }
    }
    let sorted = &mut sorted[..used];
    sorted.sort_unstable();
    let mut of_length = depths(sorted);
    limit(&mut of_length, max);
    let mut rarest_first = sorted.iter();
    for len in (1..=max).rev() {
        for _ in 0..of_length[len] {
            if let Some((_, symbol)) = rarest_first.next() {
                lengths[usize::from(*symbol)] = len as u8;
            }
        }
    }
}

/// How many leaves an optimal tree over these counts, which ascend, has at each depth; those deeper
/// than the table are counted at its end.
fn depths(sorted: &[(u32, u16)]) -> [u32; 33] {
    let n = sorted.len();
    // Two queues, both ascending: the leaves, and the inner nodes in the order of their making.
    let mut weight = [0_u32; 288];
    let mut parent = [0_u16; 288 * 2];
    let (mut leaf, mut inner) = (0, 0);
    for made in 0..n - 1 {
        for _ in 0..2 {
            let takes_leaf = leaf < n && (inner >= made || sorted[leaf].0 <= weight[inner]);
            let child = if takes_leaf {
                weight[made] += sorted[leaf].0;
                leaf += 1;
                leaf - 1
            } else {
                weight[made] += weight[inner];
                inner += 1;
                288 + inner - 1
            };
            parent[child] = made as u16;
        }
    }
    let mut depth = [0_u8; 288];
    for node in (0..n.saturating_sub(2)).rev() {
        depth[node] = depth[usize::from(parent[288 + node])].saturating_add(1);
    }
    let mut of_length = [0; 33];
    for up in &parent[..n] {
        of_length[usize::from(depth[usize::from(*up)] + 1).min(32)] += 1;
    }
    of_length
}

/// Moves leaves that are deeper than `max` up, and others down until all have room.
fn limit(of_length: &mut [u32; 33], max: usize) {
    let deeper: u32 = of_length[max + 1..].iter().sum();
    of_length[max + 1..].fill(0);
    of_length[max] += deeper;
    let mut taken: u32 = (1..=max).map(|len| of_length[len] << (max - len)).sum();
    while taken > 1 << max {
        // One leaf goes to the side of another that is less deep.
        of_length[max] -= 1;
        let above = (1..max).rev().find(|len| of_length[*len] > 0).unwrap_or(1);
        of_length[above] -= 1;
        of_length[above + 1] += 2;
        taken -= 1;
    }
}

/// The codes that belong to these lengths.
pub(super) fn codes(lengths: &[u8], codes: &mut [Code]) {
    let mut of_length = [0_u16; CODE_MAX + 1];
    for len in lengths {
        of_length[usize::from(*len)] += 1;
    }
    of_length[0] = 0;
    let mut next = [0_u16; CODE_MAX + 1];
    for len in 1..=CODE_MAX {
        next[len] = (next[len - 1] + of_length[len - 1]) << 1;
    }
    for (len, code) in lengths.iter().zip(codes) {
        *code = Code::default();
        if *len > 0 {
            let bits = next[usize::from(*len)];
            next[usize::from(*len)] += 1;
            *code = Code { bits: bits.reverse_bits() >> (16 - u32::from(*len)), len: *len };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(lengths: &[u8], max: usize) -> u32 {
        lengths.iter().filter(|len| **len > 0).map(|len| 1 << (max - usize::from(*len))).sum()
    }

    #[test]
    fn codes_are_complete_limited_and_short_for_what_is_frequent() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..2000 {
            let (symbols, max) = [(286, 15), (30, 15), (19, 7)][round % 3];
            let mut counts = vec![0_u32; symbols];
            let steep = random.u32(1..16);
            for count in &mut counts {
                *count = random.u32(..2) * (1 << random.u32(..steep));
            }
            let mut lens = vec![0; symbols];
            lengths(&counts, max, &mut lens);
            assert_eq!(room(&lens, max), 1 << max, "seed {seed}: {counts:?}");
            for (count, len) in counts.iter().zip(&lens) {
                assert!(*count == 0 || (1..=max).contains(&usize::from(*len)), "seed {seed}");
            }
            for (a, b) in (0..symbols).zip(1..symbols) {
                let ordered = counts[a] == 0 || counts[b] <= counts[a] || lens[b] <= lens[a];
                assert!(ordered, "seed {seed}: {counts:?} {lens:?}");
            }
        }
    }

    #[test]
    fn an_optimal_code_is_found_where_no_limit_is_met() {
        let mut lens = [0; 6];
        lengths(&[45, 13, 12, 16, 9, 5], 15, &mut lens);
        assert_eq!(lens, [1, 3, 3, 3, 4, 4]);
        lengths(&[0, 0, 0, 7, 0, 0], 15, &mut lens);
        assert_eq!(lens, [1, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn fibonacci_counts_meet_the_limit() {
        let mut counts = [1_u32; 30];
        for n in 2..30 {
            counts[n] = counts[n - 1] + counts[n - 2];
        }
        let mut lens = [0; 30];
        lengths(&counts, 15, &mut lens);
        assert_eq!((room(&lens, 15), lens[0]), (1 << 15, 15));
    }

    #[test]
    fn codes_are_those_of_the_rfcs_example() {
        // RFC 1951 §3.2.2: lengths 3,3,3,3,3,2,4,4 give 010 … 110, 00, 1110, 1111.
        let mut out = [Code::default(); 8];
        codes(&[3, 3, 3, 3, 3, 2, 4, 4], &mut out);
        let text = |c: Code| (0..c.len).map(move |n| (b'0' + (c.bits >> n & 1) as u8) as char);
        let texts: Vec<String> = out.iter().map(|c| text(*c).collect()).collect();
        assert_eq!(texts, ["010", "011", "100", "101", "110", "00", "1110", "1111"]);
    }
}
