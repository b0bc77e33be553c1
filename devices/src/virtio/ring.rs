//! The device's side of a split virtqueue (virtio 1.2, 2.7).
//!
//! The rings and the descriptor table are looked up once, when the queue is enabled. The used index is
//! published once for all completions of a pass.

use std::sync::atomic::{Ordering, fence};

use crate::{Dma, dma::Span};

mod chain;
pub use chain::{Buffer, Chain};

/// Where a driver has put a queue, and what it has negotiated about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingSetup {
    /// Entries, a power of two.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub event_idx: bool,
}

/// The driver broke the ring: the device needs a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A part of the ring is misaligned, not RAM, or not in one piece of it.
    #[error("the rings are misaligned or outside of RAM")]
    Address,
    /// The available index moved by more than the queue has entries, or the ring is unreadable.
    #[error("the available index jumped")]
    AvailIndex,
    /// A chain loops, is cut short, leaves RAM, nests indirect tables or is too long.
    #[error("a descriptor chain is malformed")]
    Chain,
    /// A descriptor that the device still uses was made available again.
    #[error("a descriptor was made available twice")]
    Reused,
    /// A request without a header, or without a place for its status.
    #[error("a request is incomplete")]
    Incomplete,
}

const AVAIL_HEADER: u64 = 4;
const AVAIL_FLAG_NO_INTERRUPT: u16 = 1;
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;
const IDX: u64 = 2;

/// See the module.
pub struct Ring {
    dma: Dma,
    table: Span,
    avail: Span,
    used: Span,
    size: u16,
    event_idx: bool,
    /// Available elements taken.
    next_avail: u16,
    /// Used elements written, published or not.
    next_used: u16,
    /// The used index as the driver sees it.
    published: u16,
    /// The used index when it was last asked whether it wants an interrupt.
    announced: u16,
}

impl Ring {
    /// The ring of a queue that was enabled.
    ///
    /// # Errors
    /// When its parts are misaligned or not RAM.
    pub fn new(dma: &Dma, setup: &RingSetup) -> Result<Self, RingError> {
        let entries = u64::from(setup.size);
        let is_aligned = setup.desc.is_multiple_of(16)
            && setup.avail.is_multiple_of(2)
            && setup.used.is_multiple_of(4);
        if !setup.size.is_power_of_two() || !is_aligned {
            return Err(RingError::Address);
        }
        let span = |at, len| dma.span(at, len).map_err(|_| RingError::Address);
        let table = span(setup.desc, entries * chain::DESCRIPTOR_LEN)?;
        // Each ring ends with the word for the other side's event index.
        let avail = span(setup.avail, AVAIL_HEADER + entries * 2 + 2)?;
        let used = span(setup.used, USED_HEADER + entries * USED_ELEMENT + 2)?;
        Ok(Self {
            dma: dma.clone(),
            table,
            avail,
            used,
            size: setup.size,
            event_idx: setup.event_idx,
            next_avail: 0,
            next_used: 0,
            published: 0,
            announced: 0,
        })
    }

    /// Entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Whether the driver has made something available. One load.
    #[inline]
    #[must_use]
    pub fn pending(&self) -> bool {
        self.avail.load_u16(IDX, Ordering::Acquire) != self.next_avail
    }

    /// Takes the next chain.
    ///
    /// # Errors
    /// When the available index makes no sense.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Chain<'_>>, RingError> {
        let waiting = self.avail.load_u16(IDX, Ordering::Acquire).wrapping_sub(self.next_avail);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(RingError::AvailIndex);
        }
        let at = AVAIL_HEADER + u64::from(self.next_avail & (self.size - 1)) * 2;
        let head = self.avail.load_u16(at, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(Chain::new(&self.dma, self.table.view(), self.size, head)))
    }

    /// Gives a chain back; the driver sees it after [`Ring::publish`]. `len` is how many bytes at
    /// the start of its writable buffers were written.
    #[inline]
    pub fn push_used(&mut self, head: u16, len: u32) {
        let at = USED_HEADER + u64::from(self.next_used & (self.size - 1)) * USED_ELEMENT;
        self.used.store_u32_pair(at, [head.into(), len]);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Shows the driver everything given back, and does not ask whether it wants an interrupt for it
    /// yet. Returns whether that is still to be asked.
    #[inline]
    pub fn show(&mut self) -> bool {
        if self.published != self.next_used {
            self.used.store_u16(IDX, self.next_used, Ordering::Release);
            self.published = self.next_used;
        }
        self.announced != self.next_used
    }

    /// Shows the driver everything given back since the last time. Returns whether it wants an
    /// interrupt for it.
    #[inline]
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.announced, self.next_used);
        if old == new {
            return false;
        }
        self.show();
        self.announced = new;
        // The index must be out before the driver's wish is read: it writes its wish, then looks at
        // the index again.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event =
                self.avail.load_u16(AVAIL_HEADER + u64::from(self.size) * 2, Ordering::Relaxed);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.avail.load_u16(0, Ordering::Relaxed) & AVAIL_FLAG_NO_INTERRUPT == 0
        }
    }

    /// Asks the driver to notify (or says that it need not). The caller looks at [`Ring::pending`]
    /// again afterwards.
    #[inline]
    pub fn notify(&mut self, on: bool) {
        if self.event_idx {
            if on {
                let at = USED_HEADER + u64::from(self.size) * USED_ELEMENT;
                self.used.store_u16(at, self.next_avail, Ordering::Relaxed);
                fence(Ordering::SeqCst);
            }
        } else {
            self.used.store_u16(0, u16::from(!on), Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
    }
}
