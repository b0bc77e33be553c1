//! virtio-blk: a disk (virtio 1.2, 5.2).

pub mod config;

pub use config::{
    BlockEvents, ErrorAction, ErrorPolicy, IoErrorEvent, IoOperation, VirtioBlkConfig,
};
