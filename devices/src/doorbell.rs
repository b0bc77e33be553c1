//! What a register half rings and a queue half hears.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// An atomic word and an eventfd. The word holds what was written last (a tail index, a bit mask);
/// the eventfd wakes the iothread. Outside any lock.
pub struct Bell {
    word: AtomicU32,
    event: Arc<EventFd>,
}

impl Bell {
    /// A bell that nobody has rung.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { word: AtomicU32::new(0), event: Arc::new(EventFd::new(EFD_NONBLOCK)?) })
    }

    /// Wakes the queue half.
    pub fn ring(&self) {
        // It can only fail by overflow; then it is readable, which is all that is wanted.
        drop(self.event.write(1));
    }

    /// Leaves `value` and wakes the queue half.
    pub fn ring_with(&self, value: u32) {
        self.word.store(value, Ordering::Release);
        self.ring();
    }

    /// The value left last.
    #[must_use]
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// The eventfd, for a [`Doorbell`](crate::Doorbell) declaration.
    #[must_use]
    pub fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// The descriptor, for [`Queue::doorbell`](spindle_block::iothread::Queue::doorbell).
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}
