//! Virtio devices on PCI: Virtual I/O Device (VIRTIO) Version 1.2, the modern interface.

pub mod blk;
