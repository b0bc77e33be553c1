//! From a descriptor chain to request, memory and the place for the response.

use spindle_block::IoBuf;
use zerocopy::FromBytes;

use super::spec::{REQUEST_HEADER_LEN, RequestHeader};
use crate::{
    Dma,
    scsi::{cmd::Cdb, spec::CDB_MAX},
    virtio::ring::{Chain, RingError},
};

/// What came off the ring. The data are in the slot's buffer, and so is the response's place.
pub(super) struct Taken {
    /// The chain's name in the used ring.
    pub head: u16,
    /// Header.
    pub header: RequestHeader,
    /// The CDB, padded with zeros.
    pub cdb: Cdb,
    /// Bytes that the device reads, behind the request.
    pub out_len: u64,
    /// Bytes that the device writes, behind the response.
    pub in_len: u64,
    /// A data buffer lies outside of RAM.
    pub wild: bool,
}

/// How long request and response are, as the driver has set them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Bytes of the CDB.
    pub cdb: usize,
    /// Bytes of the response, sense data included.
    pub response: usize,
}

/// Bytes of a request that are looked at.
const KEPT: usize = REQUEST_HEADER_LEN + CDB_MAX;

/// Takes a chain apart: memory goes into `data` and `response`, which are cleared first.
#[inline]
pub(super) fn take(
    dma: &Dma,
    (data, response): (&mut IoBuf, &mut IoBuf),
    sizes: Sizes,
    chain: &mut Chain<'_>,
) -> Result<Taken, RingError> {
    data.clear();
    response.clear();
    let mut request = [0; KEPT];
    let request_len = REQUEST_HEADER_LEN + sizes.cdb;
    let (mut got, mut out_len, mut in_len) = (0, 0u64, 0u64);
    let (mut wild, mut writable) = (false, false);
    while let Some(buffer) = chain.next_buffer()? {
        let (mut address, mut len) = (buffer.address, u64::from(buffer.len));
        if !buffer.writable {
            if writable {
                // What the device reads comes before what it writes (2.7.4.2).
                return Err(RingError::Chain);
            }
            if got < request_len {
                let n = len.min((request_len - got) as u64) as usize;
                if got < KEPT {
                    let kept = n.min(KEPT - got);
                    let part = &mut request[got..got + kept];
                    dma.read_bytes(address, part).map_err(|_| RingError::Incomplete)?;
                }
                got += n;
                len -= n as u64;
                address = address.wrapping_add(n as u64);
            }
            out_len += len;
            wild |= dma.push(data, address, len).is_err();
            continue;
        }
        writable = true;
        let missing = (sizes.response as u64).saturating_sub(response.len());
        if missing > 0 {
            let n = len.min(missing);
            dma.push(response, address, n).map_err(|_| RingError::Incomplete)?;
            len -= n;
            address = address.wrapping_add(n);
        }
        in_len += len;
        if out_len == 0 {
            wild |= dma.push(data, address, len).is_err();
        }
    }
    if got < request_len || response.len() < sizes.response as u64 {
        return Err(RingError::Incomplete);
    }
    let (header, cdb) = request.split_at(REQUEST_HEADER_LEN);
    let header = RequestHeader::read_from_bytes(header).map_err(|_| RingError::Incomplete)?;
    let cdb = Cdb::try_from(cdb).map_err(|_| RingError::Incomplete)?;
    Ok(Taken { head: chain.head(), header, cdb, out_len, in_len, wild })
}
