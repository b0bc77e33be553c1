//! The device's side of a split virtqueue (virtio 1.2, 2.7).
//!
//! `virtio-queue` walks the available ring and the descriptor chains; what it leaves out is here:
//! a chain that ends although its last descriptor says there is more, the driver's NO_INTERRUPT
//! flag, and one publication of the used index for all completions of a pass. The rings themselves
//! are looked up once, when the queue is enabled.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;

use crate::{Dma, dma::Span};

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

/// Most descriptors that one request may have, however they are linked.
const CHAIN_MAX: u32 = 2048;
const AVAIL_FLAG_NO_INTERRUPT: u16 = 1;
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;
const IDX: u64 = 2;

/// See the module.
pub struct Ring {
    queue: Queue,
    dma: Dma,
    avail: Span,
    used: Span,
    size: u16,
    event_idx: bool,
    /// Used elements written, published or not.
    next_used: u16,
    /// The used index as the driver sees it.
    published: u16,
    /// The used index when it was last asked whether it wants an interrupt.
    announced: u16,
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// The device writes to it; otherwise it only reads.
    pub writable: bool,
}

/// A descriptor chain that the driver made available.
pub struct Chain<'a> {
    descriptors: DescriptorChain<&'a Dma>,
    more: bool,
    seen: u32,
}

impl Chain<'_> {
    /// The chain's name in the used ring.
    #[inline]
    #[must_use]
    pub fn head(&self) -> u16 {
        self.descriptors.head_index()
    }

    /// The next buffer; `None` at the chain's end.
    ///
    /// # Errors
    /// When the chain is malformed: it ends although its last descriptor named a next one.
    #[inline]
    pub fn next_buffer(&mut self) -> Result<Option<Buffer>, RingError> {
        let Some(descriptor) = self.descriptors.next() else {
            return if self.more { Err(RingError::Chain) } else { Ok(None) };
        };
        self.more = descriptor.has_next();
        self.seen += 1;
        if self.seen > CHAIN_MAX {
            return Err(RingError::Chain);
        }
        Ok(Some(Buffer {
            address: descriptor.addr().0,
            len: descriptor.len(),
            writable: descriptor.is_write_only(),
        }))
    }
}

impl Ring {
    /// The ring of a queue that was enabled.
    ///
    /// # Errors
    /// When its parts are misaligned or not RAM.
    pub fn new(dma: &Dma, setup: &RingSetup) -> Result<Self, RingError> {
        let entries = u64::from(setup.size);
        let mut queue = Queue::new(setup.size).map_err(|_| RingError::Address)?;
        queue
            .try_set_desc_table_address(GuestAddress(setup.desc))
            .map_err(|_| RingError::Address)?;
        queue
            .try_set_avail_ring_address(GuestAddress(setup.avail))
            .map_err(|_| RingError::Address)?;
        queue
            .try_set_used_ring_address(GuestAddress(setup.used))
            .map_err(|_| RingError::Address)?;
        queue.set_event_idx(setup.event_idx);
        queue.set_ready(true);
        let span = |at, len| dma.span(at, len).map_err(|_| RingError::Address);
        span(setup.desc, entries * 16)?;
        // Each ring ends with the word for the other side's event index.
        let avail = span(setup.avail, 4 + entries * 2 + 2)?;
        let used = span(setup.used, USED_HEADER + entries * USED_ELEMENT + 2)?;
        Ok(Self {
            queue,
            dma: dma.clone(),
            avail,
            used,
            size: setup.size,
            event_idx: setup.event_idx,
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
        self.avail.load_u16(IDX, Ordering::Acquire) != self.queue.next_avail()
    }

    /// Takes the next chain.
    ///
    /// # Errors
    /// When the available index makes no sense.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Chain<'_>>, RingError> {
        let mut available = self.queue.iter(&self.dma).map_err(|_| RingError::AvailIndex)?;
        Ok(available.next().map(|descriptors| Chain { descriptors, more: true, seen: 0 }))
    }

    /// Gives a chain back; the driver sees it after [`Ring::publish`]. `len` is how many bytes at
    /// the start of its writable buffers were written.
    #[inline]
    pub fn push_used(&mut self, head: u16, len: u32) {
        let at = USED_HEADER + u64::from(self.next_used % self.size) * USED_ELEMENT;
        let element = u64::from(head) | u64::from(len) << 32;
        self.used.write_bytes(at, &element.to_le_bytes());
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
            let event = self.avail.load_u16(4 + u64::from(self.size) * 2, Ordering::Relaxed);
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
                self.used.store_u16(at, self.queue.next_avail(), Ordering::Relaxed);
                fence(Ordering::SeqCst);
            }
        } else {
            self.used.store_u16(0, u16::from(!on), Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
    }
}
