//! Cuts a stream of bytes into JSON texts, which may follow each other without any separator.

/// The longest text taken, in bytes.
pub(super) const TEXT_LEN_MAX: usize = 1 << 20;
/// The deepest nesting taken; serde_json refuses 128 itself.
const DEPTH_MAX: usize = 120;
/// This byte never occurs in JSON; peers send it to end whatever was begun.
const RESET: u8 = 0xff;

/// What is in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A text with balanced brackets.
    Text(Vec<u8>),
    /// Something that cannot begin a message, dropped up to the end of its line.
    Garbage,
    /// A text that is too deep or too long: the rest of the stream makes no sense any more.
    TooLarge,
}

/// Cuts a stream of bytes into JSON texts.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    bytes: Vec<u8>,
    /// How far `bytes` was looked at.
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Splitter {
    /// Adds bytes from the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The next piece, once it is complete.
    pub(super) fn next(&mut self) -> Option<Piece> {
        while let Some(&byte) = self.bytes.get(self.scanned) {
            if self.depth == 0 {
                match byte {
                    b' ' | b'\t' | b'\r' | b'\n' | RESET => {
                        self.skip(1);
                        continue;
                    }
                    b'{' | b'[' => {}
                    _ => return self.garbage(),
                }
            }
            self.scanned += 1;
            if byte == RESET {
                self.skip(self.scanned);
                return Some(Piece::Garbage);
            }
            if self.step(byte) {
                let rest = self.bytes.split_off(self.scanned);
                let text = std::mem::replace(&mut self.bytes, rest);
                self.restart();
                return Some(Piece::Text(text));
            }
            if self.depth > DEPTH_MAX {
                return Some(Piece::TooLarge);
            }
        }
        (self.bytes.len() > TEXT_LEN_MAX).then_some(Piece::TooLarge)
    }

    /// Takes one byte of a text; true at the end of the text.
    fn step(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    fn garbage(&mut self) -> Option<Piece> {
        let end = self.bytes.iter().position(|b| matches!(b, b'\n' | &RESET));
        match end {
            Some(end) => {
                self.skip(end + 1);
                Some(Piece::Garbage)
            }
            None => (self.bytes.len() > TEXT_LEN_MAX).then_some(Piece::TooLarge),
        }
    }

    fn skip(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.restart();
    }

    fn restart(&mut self) {
        (self.scanned, self.depth, self.in_string, self.escaped) = (0, 0, false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(splitter: &mut Splitter) -> Vec<Piece> {
        std::iter::from_fn(|| splitter.next()).collect()
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn texts_need_no_separator_and_may_come_in_bits() {
        let mut splitter = Splitter::default();
        splitter.push(br#"{"a":"}\"]"}{"b":[1,{}]} "#);
        assert_eq!(pieces(&mut splitter), [text(r#"{"a":"}\"]"}"#), text(r#"{"b":[1,{}]}"#)]);
        splitter.push(b"\n{\"c\"");
        assert_eq!(pieces(&mut splitter), []);
        splitter.push(b":1}");
        assert_eq!(pieces(&mut splitter), [text("{\"c\":1}")]);
        assert_eq!(splitter.len(), 0);
    }

    #[test]
    fn garbage_costs_its_line_and_a_reset_byte_what_was_begun() {
        let mut splitter = Splitter::default();
        splitter.push(b"hello {}\n{\"a\":1}}\n{\"b\xff{\"c\":2}");
        assert_eq!(
            pieces(&mut splitter),
            [Piece::Garbage, text("{\"a\":1}"), Piece::Garbage, Piece::Garbage, text("{\"c\":2}")]
        );
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let mut splitter = Splitter::default();
        splitter.push("[".repeat(DEPTH_MAX + 1).as_bytes());
        assert_eq!(splitter.next(), Some(Piece::TooLarge));
        for start in [&b"{\""[..], b"x"] {
            let mut splitter = Splitter::default();
            splitter.push(start);
            splitter.push(&vec![b'a'; TEXT_LEN_MAX]);
            assert_eq!(splitter.next(), Some(Piece::TooLarge));
        }
    }

    proptest! {
        #[test]
        fn the_cuts_do_not_depend_on_how_bytes_arrive(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'{'), Just(b'}'), Just(b'"'), Just(b'\\'), Just(b'\n'),
                            Just(b'['), Just(b']'), Just(0xff_u8), any::<u8>()], 0..200),
            cut in 0_usize..200,
        ) {
            let mut whole = Splitter::default();
            whole.push(&bytes);
            let expected = pieces(&mut whole);
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut parts = Splitter::default();
            parts.push(first);
            let mut found = pieces(&mut parts);
            parts.push(second);
            found.extend(pieces(&mut parts));
            prop_assert_eq!(found, expected);
            prop_assert_eq!(parts.len(), whole.len());
        }
    }
}
