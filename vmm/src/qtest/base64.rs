//! Base 64 (RFC 4648, section 4), as the `b64read` and `b64write` commands have it.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text for `bytes`, padded.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().chain([0, 0].iter()).take(3).fold(0, |g, b| g << 8 | u32::from(*b));
        for i in 0..4 {
            let digit = (group >> (18 - 6 * i) & 0x3F) as usize;
            text.push(if i <= chunk.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    text
}

/// The bytes of `text`. Characters that are none of the alphabet are skipped, as GLib does.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let digits = text.bytes().filter_map(|c| ALPHABET.iter().position(|digit| *digit == c));
    let (mut bytes, mut group, mut bits) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0);
    for digit in digits {
        group = group << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((group >> bits) as u8);
        }
    }
    bytes
}
