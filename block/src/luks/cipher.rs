//! Ciphers, modes and initialisation vectors of sectors, with the names that LUKS headers have.

use aes::cipher::{
    Array, Block, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit, consts::U16,
};

use super::hash::Hash;
use crate::formats::{FormatError, refuse};

/// Bytes of a block of every cipher here.
const BLOCK: usize = 16;
/// Blocks that are handed to a cipher at once.
const BATCH: usize = 32;
/// Their bytes: what a mode prepares at once, on the stack.
const PIECE: usize = BATCH * BLOCK;

/// A block cipher with its key.
trait Blocks: Send + Sync {
    fn encrypt(&self, bytes: &mut [u8]);
    fn decrypt(&self, bytes: &mut [u8]);
}

struct Keyed<C>(C);

/// Calls `f` with the blocks of `bytes`, some at a time.
fn batches<C: BlockSizeUser<BlockSize = U16>>(
    bytes: &mut [u8],
    mut f: impl FnMut(&mut [Block<C>]),
) {
    let mut blocks: [Block<C>; BATCH] = [Array::default(); BATCH];
    for chunk in bytes.chunks_mut(PIECE) {
        let count = chunk.len() / BLOCK;
        for (block, bytes) in blocks.iter_mut().zip(chunk.chunks_exact(BLOCK)) {
            block.copy_from_slice(bytes);
        }
        f(&mut blocks[..count]);
        for (block, bytes) in blocks.iter().zip(chunk.chunks_exact_mut(BLOCK)) {
            bytes.copy_from_slice(block);
        }
    }
}

impl<C> Blocks for Keyed<C>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync,
{
    fn encrypt(&self, bytes: &mut [u8]) {
        batches::<C>(bytes, |blocks| self.0.encrypt_blocks(blocks));
    }

    fn decrypt(&self, bytes: &mut [u8]) {
        batches::<C>(bytes, |blocks| self.0.decrypt_blocks(blocks));
    }
}

/// A cipher's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Aes,
    Serpent,
    Twofish,
}

impl Family {
    fn called(name: &str) -> Option<Self> {
        match name {
            "aes" => Some(Self::Aes),
            "serpent" => Some(Self::Serpent),
            "twofish" => Some(Self::Twofish),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes",
            Self::Serpent => "serpent",
            Self::Twofish => "twofish",
        }
    }

    fn keyed(self, key: &[u8]) -> Option<Box<dyn Blocks>> {
        fn boxed<C>(key: &[u8]) -> Option<Box<dyn Blocks>>
        where
            Keyed<C>: Blocks + 'static,
            C: KeyInit,
        {
            Some(Box::new(Keyed(C::new_from_slice(key).ok()?)))
        }
        match (self, key.len()) {
            (Self::Aes, 16) => boxed::<aes::Aes128>(key),
            (Self::Aes, 24) => boxed::<aes::Aes192>(key),
            (Self::Aes, 32) => boxed::<aes::Aes256>(key),
            (Self::Serpent, 16 | 24 | 32) => boxed::<serpent::Serpent>(key),
            (Self::Twofish, 16 | 24 | 32) => boxed::<twofish::Twofish>(key),
            _ => None,
        }
    }
}

/// How blocks are chained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Ecb,
    Cbc,
    Ctr,
    Xts,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ecb => "ecb",
            Self::Cbc => "cbc",
            Self::Ctr => "ctr",
            Self::Xts => "xts",
        }
    }
}

/// How a sector's initialisation vector is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IvGen {
    /// The low 32 bits of its number.
    Plain,
    /// All 64.
    Plain64,
    /// Encrypted with the hashed key.
    Essiv(Hash),
}

/// A cipher by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub family: Family,
    pub mode: Mode,
    pub ivgen: IvGen,
}

impl Spec {
    /// The cipher called `name` (`aes`) in `mode` (`xts-plain64`, `cbc-essiv:sha256`).
    pub fn parse(name: &str, mode: &str) -> Result<Self, FormatError> {
        let unknown = || {
            let (name, mode) = (name.escape_debug(), mode.escape_debug());
            FormatError::Unsupported(format!("LUKS cipher '{name}-{mode}' is not supported"))
        };
        let family = Family::called(name).ok_or_else(unknown)?;
        let (mode, ivgen) = mode.split_once('-').unwrap_or((mode, "plain"));
        let mode = match mode {
            "ecb" => Mode::Ecb,
            "cbc" => Mode::Cbc,
            "ctr" => Mode::Ctr,
            "xts" => Mode::Xts,
            _ => return Err(unknown()),
        };
        let ivgen = match (ivgen, ivgen.strip_prefix("essiv:").and_then(Hash::called)) {
            ("plain", _) => IvGen::Plain,
            ("plain64", _) => IvGen::Plain64,
            (_, Some(hash)) => IvGen::Essiv(hash),
            _ => return Err(unknown()),
        };
        Ok(Self { family, mode, ivgen })
    }

    /// The mode as headers have it.
    pub fn mode_text(self) -> String {
        match self.ivgen {
            IvGen::Plain => format!("{}-plain", self.mode.name()),
            IvGen::Plain64 => format!("{}-plain64", self.mode.name()),
            IvGen::Essiv(hash) => format!("{}-essiv:{}", self.mode.name(), hash.name()),
        }
    }

    /// The cipher with its key.
    pub fn keyed(self, key: &[u8]) -> Result<SectorCipher, FormatError> {
        let wrong =
            || refuse("key length", format!("is {} bytes, not one of the cipher's", key.len()));
        let (first, second) = match self.mode {
            Mode::Xts => key.split_at(key.len() / 2),
            _ => (key, &key[..0]),
        };
        let data = self.family.keyed(first).ok_or_else(wrong)?;
        let tweak = match self.mode {
            Mode::Xts => Some(self.family.keyed(second).ok_or_else(wrong)?),
            _ => None,
        };
        let iv = match self.ivgen {
            IvGen::Essiv(hash) => {
                let digest = hash.digest(&[key]);
                Some(self.family.keyed(&digest).ok_or_else(|| {
                    FormatError::Unsupported(format!(
                        "no cipher of the family {} has keys as long as {} digests (essiv)",
                        self.family.name(),
                        hash.name()
                    ))
                })?)
            }
            _ => None,
        };
        Ok(SectorCipher { spec: self, data, tweak, iv })
    }
}

/// A cipher with its key, for whole sectors.
pub(super) struct SectorCipher {
    spec: Spec,
    data: Box<dyn Blocks>,
    /// XTS: the second key.
    tweak: Option<Box<dyn Blocks>>,
    /// ESSIV.
    iv: Option<Box<dyn Blocks>>,
}

fn xor(bytes: &mut [u8], with: &[u8]) {
    bytes.iter_mut().zip(with).for_each(|(a, b)| *a ^= b);
}

impl SectorCipher {
    fn iv(&self, number: u64) -> [u8; BLOCK] {
        let mut iv = [0; BLOCK];
        match self.spec.ivgen {
            IvGen::Plain => iv[..4].copy_from_slice(&(number as u32).to_le_bytes()),
            IvGen::Plain64 | IvGen::Essiv(_) => iv[..8].copy_from_slice(&number.to_le_bytes()),
        }
        if let Some(cipher) = &self.iv {
            cipher.encrypt(&mut iv);
        }
        iv
    }

    /// XTS (IEEE 1619, 5.3): a tweak for each block, doubled in GF(2^128) from block to block.
    fn xts(&self, mut iv: [u8; BLOCK], sector: &mut [u8], crypt: impl Fn(&mut [u8])) {
        if let Some(cipher) = &self.tweak {
            cipher.encrypt(&mut iv);
        }
        let mut tweak = u128::from_le_bytes(iv);
        let mut tweaks = [0; PIECE];
        for piece in sector.chunks_mut(PIECE) {
            for place in tweaks[..piece.len()].as_chunks_mut::<BLOCK>().0 {
                *place = tweak.to_le_bytes();
                let carry = tweak >> 127;
                tweak = (tweak << 1) ^ (carry * 0x87);
            }
            xor(piece, &tweaks);
            crypt(piece);
            xor(piece, &tweaks);
        }
    }

    /// Encrypts sector `number`.
    pub fn encrypt(&self, number: u64, sector: &mut [u8]) {
        let iv = self.iv(number);
        match self.spec.mode {
            Mode::Ecb => self.data.encrypt(sector),
            Mode::Ctr => self.count(iv, sector),
            Mode::Cbc => {
                let mut last = iv;
                for block in sector.chunks_exact_mut(BLOCK) {
                    xor(block, &last);
                    self.data.encrypt(block);
                    last.copy_from_slice(block);
                }
            }
            Mode::Xts => self.xts(iv, sector, |piece| self.data.encrypt(piece)),
        }
    }

    /// Decrypts sector `number`.
    pub fn decrypt(&self, number: u64, sector: &mut [u8]) {
        let iv = self.iv(number);
        match self.spec.mode {
            Mode::Ecb => self.data.decrypt(sector),
            Mode::Ctr => self.count(iv, sector),
            Mode::Cbc => {
                // What a block is combined with: the encrypted one before it.
                let mut chain = [0; PIECE + BLOCK];
                chain[..BLOCK].copy_from_slice(&iv);
                for piece in sector.chunks_mut(PIECE) {
                    let len = piece.len();
                    chain[BLOCK..BLOCK + len].copy_from_slice(piece);
                    self.data.decrypt(piece);
                    xor(piece, &chain);
                    chain.copy_within(len..len + BLOCK, 0);
                }
            }
            Mode::Xts => self.xts(iv, sector, |piece| self.data.decrypt(piece)),
        }
    }

    fn count(&self, iv: [u8; BLOCK], sector: &mut [u8]) {
        let mut number = u128::from_be_bytes(iv);
        let mut stream = [0; PIECE];
        for piece in sector.chunks_mut(PIECE) {
            let stream = &mut stream[..piece.len()];
            for place in stream.as_chunks_mut::<BLOCK>().0 {
                *place = number.to_be_bytes();
                number = number.wrapping_add(1);
            }
            self.data.encrypt(stream);
            xor(piece, stream);
        }
    }

    /// Encrypts or decrypts sectors of `size` bytes, the first of which has the number `number`;
    /// numbers count sectors of 512 bytes.
    pub fn sectors(&self, encrypts: bool, number: u64, size: usize, bytes: &mut [u8]) {
        let step = (size / 512) as u64;
        for (n, sector) in (0..).zip(bytes.chunks_exact_mut(size)) {
            let number = number.wrapping_add(n * step);
            if encrypts { self.encrypt(number, sector) } else { self.decrypt(number, sector) }
        }
    }
}
