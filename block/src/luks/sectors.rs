//! A cipher between the memory of requests and a file: what encrypted disks of every format share.
//!
//! What is read is decrypted where it is; what is written is encrypted into memory of our own, for
//! the caller's must stay as it is. That memory is bounded over all requests.

use super::cipher::SectorCipher;
use crate::{
    BlockError, Cx, IoBuf, Pin,
    qcow2::{host::Host, sync::Semaphore},
};

/// Bytes that are encrypted and written at once.
const PIECE: u64 = 1 << 20;
/// Memory for them at once, over all requests.
const BYTES_MAX: u64 = 16 << 20;
/// Bytes that go through the cipher at once, on the stack: the largest sector.
const STEP: usize = 4096;

/// See the module.
pub(crate) struct Sectors {
    cipher: SectorCipher,
    /// Bytes of a sector.
    size: usize,
    /// Added to the number of each sector.
    tweak: u64,
    memory: Semaphore,
}

/// What is written: a part of a buffer, or zeros.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// The bytes of this buffer from there on.
    Bytes(&'a IoBuf, u64),
    /// Zeros.
    Zeros,
}

impl Sectors {
    /// Sectors of `size` bytes: a power of two, 512 to 4096.
    pub(super) fn new(cipher: SectorCipher, size: u64, tweak: u64) -> Self {
        Self { cipher, size: size as usize, tweak, memory: Semaphore::new(BYTES_MAX) }
    }

    /// Bytes of a sector.
    pub fn size(&self) -> u64 {
        self.size as u64
    }

    fn crypt(&self, encrypts: bool, number_at: u64, bytes: &mut [u8]) {
        let number = (number_at / 512).wrapping_add(self.tweak);
        self.cipher.sectors(encrypts, number, self.size, bytes);
    }

    /// Calls `f` with the steps of `len` bytes: where each begins, and memory for it.
    fn steps(len: u64, mut f: impl FnMut(u64, &mut [u8])) {
        let mut memory = [0; STEP];
        let mut at = 0;
        while at < len {
            let step = (len - at).min(STEP as u64);
            f(at, &mut memory[..step as usize]);
            at += step;
        }
    }

    /// Reads whole sectors at `place` of the file into `buf`. `number_at` is what they are numbered
    /// by: the offset of the first.
    pub async fn read(
        &self,
        cx: &Cx,
        host: &Host,
        (place, number_at): (u64, u64),
        mut buf: IoBuf,
        pin: Pin,
    ) -> Result<(), BlockError> {
        let len = buf.len();
        host.read_into(cx, place, buf.view(0, len), pin).await?;
        Self::steps(len, |at, bytes| {
            buf.read_at(at, bytes);
            self.crypt(false, number_at.wrapping_add(at), bytes);
            buf.write_at(at, bytes);
        });
        Ok(())
    }

    /// Writes `len` bytes, whole sectors, to `place` of the file; `number_at` as for
    /// [`Sectors::read`]. `pin` makes what keeps the place ours, once for each transfer.
    pub async fn write(
        &self,
        cx: &Cx,
        host: &Host,
        (place, number_at): (u64, u64),
        (source, len): (Source<'_>, u64),
        mut pin: impl FnMut() -> Pin,
    ) -> Result<(), BlockError> {
        let mut done = 0;
        while done < len {
            let piece = PIECE.min(len - done);
            let _memory = self.memory.take(piece).await;
            let mut sealed = IoBuf::zeroed(piece as usize);
            Self::steps(piece, |at, bytes| {
                match source {
                    Source::Bytes(buf, from) => buf.read_at(from + done + at, bytes),
                    Source::Zeros => bytes.fill(0),
                }
                self.crypt(true, number_at.wrapping_add(done + at), bytes);
                sealed.write_at(at, bytes);
            });
            host.write(cx, place + done, sealed, pin()).await?;
            done += piece;
        }
        Ok(())
    }
}
