//! From a descriptor chain to header, memory and the place for the status.

use spindle_block::IoBuf;
use zerocopy::FromBytes;

use super::{
    cmd::Request,
    spec::{HEADER_LEN, Header},
};
use crate::{
    Dma,
    virtio::ring::{Buffer, Chain, RingError},
};

/// What came off the ring, its data already in the slot's buffer.
pub(super) struct Taken {
    /// The chain's name in the used ring.
    pub head: u16,
    /// Header and lengths.
    pub request: Request,
    /// Guest address of the status byte.
    pub status_at: u64,
    /// A data buffer lies outside of RAM.
    pub wild: bool,
}

/// Sorts the buffers of a chain: header, data, status byte. Zero-length buffers are nothing.
struct Sorter<'a> {
    dma: &'a Dma,
    buf: &'a mut IoBuf,
    header: [u8; HEADER_LEN],
    header_len: usize,
    request: Request,
    /// The last writable buffer: its last byte is for the status.
    last: Option<(u64, u64)>,
    wild: bool,
}

impl Sorter<'_> {
    #[inline]
    fn take(&mut self, buffer: Buffer) -> Result<(), RingError> {
        let (mut address, mut len) = (buffer.address, u64::from(buffer.len));
        if buffer.writable {
            if self.last.is_none() {
                self.begin_writable()?;
            }
            if len > 0
                && let Some((address, len)) = self.last.replace((address, len))
            {
                self.writable(address, len);
            }
            return Ok(());
        }
        if self.last.is_some() {
            // What the device reads comes before what it writes (2.7.4.2).
            return Err(RingError::Chain);
        }
        if self.header_len < HEADER_LEN {
            let n = len.min((HEADER_LEN - self.header_len) as u64);
            let part = &mut self.header[self.header_len..][..n as usize];
            self.dma.read_bytes(address, part).map_err(|_| RingError::Incomplete)?;
            self.header_len += n as usize;
            len -= n;
            address = address.wrapping_add(n);
        }
        self.request.out_len += len;
        self.push(address, len);
        Ok(())
    }

    /// The header is complete: a request that reads has no use for the data before.
    fn begin_writable(&mut self) -> Result<(), RingError> {
        if self.header_len < HEADER_LEN {
            return Err(RingError::Incomplete);
        }
        Ok(())
    }

    fn writable(&mut self, address: u64, len: u64) {
        self.request.in_len += len;
        if self.request.out_len == 0 {
            self.push(address, len);
        }
    }

    #[inline]
    fn push(&mut self, address: u64, len: u64) {
        self.wild |= self.dma.push(self.buf, address, len).is_err();
    }

    fn finish(mut self, head: u16) -> Result<Taken, RingError> {
        let (address, len) = self.last.take().ok_or(RingError::Incomplete)?;
        let before = len - 1;
        let status_at = address.checked_add(before).ok_or(RingError::Incomplete)?;
        self.dma.check(status_at, 1).map_err(|_| RingError::Incomplete)?;
        if before > 0 {
            self.writable(address, before);
        }
        self.request.header =
            Header::read_from_bytes(&self.header).map_err(|_| RingError::Incomplete)?;
        Ok(Taken { head, request: self.request, status_at, wild: self.wild })
    }
}

/// Takes a chain apart: its data goes into `buf`, which is cleared first.
#[inline]
pub(super) fn take(dma: &Dma, buf: &mut IoBuf, chain: &mut Chain<'_>) -> Result<Taken, RingError> {
    let head = chain.head();
    buf.clear();
    let mut sorter = Sorter {
        dma,
        buf,
        header: [0; HEADER_LEN],
        header_len: 0,
        request: Request::default(),
        last: None,
        wild: false,
    };
    while let Some(buffer) = chain.next_buffer()? {
        sorter.take(buffer)?;
    }
    sorter.finish(head)
}
