//! Hashes, key derivation, and the splitting of keys that makes them easy to destroy.

use ripemd::Ripemd160;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// A hash by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
}

impl Hash {
    pub fn called(name: &str) -> Option<Self> {
        match name {
            "sha1" => Some(Self::Sha1),
            "sha224" => Some(Self::Sha224),
            "sha256" => Some(Self::Sha256),
            "sha384" => Some(Self::Sha384),
            "sha512" => Some(Self::Sha512),
            "ripemd160" => Some(Self::Ripemd160),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Ripemd160 => "ripemd160",
        }
    }

    /// The digest of these bytes, one behind the other.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn of<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
            let mut hash = D::new();
            parts.iter().for_each(|part| hash.update(part));
            hash.finalize().to_vec()
        }
        match self {
            Self::Sha1 => of::<Sha1>(parts),
            Self::Sha224 => of::<Sha224>(parts),
            Self::Sha256 => of::<Sha256>(parts),
            Self::Sha384 => of::<Sha384>(parts),
            Self::Sha512 => of::<Sha512>(parts),
            Self::Ripemd160 => of::<Ripemd160>(parts),
        }
    }

    /// PBKDF2 (RFC 8018, 5.2) with HMAC of this hash.
    pub fn pbkdf2(self, secret: &[u8], salt: &[u8], iterations: u32, len: usize) -> Vec<u8> {
        let mut key = vec![0; len];
        let out = &mut key;
        match self {
            Self::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(secret, salt, iterations, out),
            Self::Sha224 => pbkdf2::pbkdf2_hmac::<Sha224>(secret, salt, iterations, out),
            Self::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(secret, salt, iterations, out),
            Self::Sha384 => pbkdf2::pbkdf2_hmac::<Sha384>(secret, salt, iterations, out),
            Self::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(secret, salt, iterations, out),
            Self::Ripemd160 => pbkdf2::pbkdf2_hmac::<Ripemd160>(secret, salt, iterations, out),
        }
        key
    }

    /// H1 of the splitter (LUKS1, 2.4): each piece of a digest's length is hashed with its number.
    fn diffuse(self, bytes: &mut [u8]) {
        let len = self.digest(&[]).len();
        for (n, piece) in (0_u32..).zip(bytes.chunks_mut(len)) {
            let digest = self.digest(&[&n.to_be_bytes(), piece]);
            piece.copy_from_slice(&digest[..piece.len()]);
        }
    }

    /// Joins a key of `len` bytes that was split into stripes.
    pub fn merge(self, stripes: &[u8], len: usize) -> Vec<u8> {
        let mut key = vec![0; len];
        let count = stripes.len() / len;
        for (n, stripe) in stripes.chunks_exact(len).enumerate() {
            key.iter_mut().zip(stripe).for_each(|(a, b)| *a ^= b);
            if n + 1 < count {
                self.diffuse(&mut key);
            }
        }
        key
    }

    /// Splits a key into `count` stripes, all of which are needed to join it.
    pub fn split(self, key: &[u8], count: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(key.len() * count);
        let mut sum = vec![0; key.len()];
        for _ in 1..count {
            let stripe: Vec<u8> = super::random(key.len());
            sum.iter_mut().zip(&stripe).for_each(|(a, b)| *a ^= b);
            self.diffuse(&mut sum);
            out.extend(stripe);
        }
        sum.iter_mut().zip(key).for_each(|(a, b)| *a ^= b);
        out.extend(sum);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_split_is_joined_again() {
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512, Hash::Ripemd160] {
            let key: Vec<u8> = (0..64).collect();
            let stripes = hash.split(&key, 40);
            assert_eq!(stripes.len(), 40 * 64);
            assert_eq!(hash.merge(&stripes, 64), key);
            let mut torn = stripes;
            torn[100] ^= 1;
            assert_ne!(hash.merge(&torn, 64), key);
        }
    }
}
