//! Sets of bytes.

use std::collections::BTreeMap;

use crate::Range;

/// Ranges that do not touch: end by start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range; an empty one or one without an end adds nothing.
    pub fn add(&mut self, range: Range) {
        let Some(mut end) = range.checked_end().filter(|_| range.len > 0) else { return };
        let mut start = range.offset;
        if let Some((&before, &to)) = self.0.range(..=start).next_back()
            && to >= start
        {
            (start, end) = (before, end.max(to));
        }
        while let Some((&next, &to)) = self.0.range(start..=end).next() {
            self.0.remove(&next);
            end = end.max(to);
        }
        self.0.insert(start, end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range) {
        let Some(end) = range.checked_end().filter(|_| range.len > 0) else { return };
        let before = self.0.range(..range.offset).next_back().map(|(start, to)| (*start, *to));
        let inside: Vec<(u64, u64)> =
            self.0.range(range.offset..end).map(|(start, to)| (*start, *to)).collect();
        for (start, to) in before.into_iter().chain(inside) {
            if to <= range.offset {
                continue;
            }
            self.0.remove(&start);
            if start < range.offset {
                self.0.insert(start, range.offset);
            }
            if to > end {
                self.0.insert(end, to);
            }
        }
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.0.iter().map(|(start, end)| Range::new(*start, end - start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_a_set_of_bytes() {
        let seed = fastrand::u64(..);
        println!("seed {seed:#x}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let (mut ranges, mut set) = (Ranges::default(), vec![false; 64]);
            for _ in 0..20 {
                let range = Range::new(rng.u64(0..50), rng.u64(0..14));
                let add = rng.bool();
                if add {
                    ranges.add(range);
                } else {
                    ranges.remove(range);
                }
                set[range.offset as usize..range.end() as usize].fill(add);
                let mut seen = vec![false; 64];
                let mut last = None;
                for range in ranges.iter() {
                    assert!(last.is_none_or(|end| end < range.offset), "{ranges:?}");
                    last = Some(range.end());
                    seen[range.offset as usize..range.end() as usize].fill(true);
                }
                assert_eq!(seen, set, "{ranges:?}");
            }
        }
    }
}
