//! Threads that pack clusters.
use spindle_block::BlockError;
use spindle_block::qcow2::ClusterPacker;
use spindle_block::qcow2::header::Compression;
use std::future::Future;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;

/// A cluster on its way through the pool.
struct Work {
    cluster: Vec<u8>,
    slot: Arc<Mutex<Slot>>,
}

/// Where the outcome is left.
#[derive(Default)]
struct Slot {
    outcome: Option<Packed>,
    waker: Option<Waker>,
}

/// A cluster that went through the pool.
pub(super) struct Packed {
    /// As it was; empty where it is packed.
    pub cluster: Vec<u8>,
    /// Packed; `None` where that is no shorter.
    pub packed: Option<Vec<u8>>,
}

/// As many threads as the host has CPUs, which end with the pool.
pub(super) struct Pool {
    work: Option<Sender<Work>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// No thread, or no memory for one's state.
    pub fn new(compression: Compression) -> io::Result<Self> {
        let (work, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (0..count).map(|_| {
            let packer = ClusterPacker::new(compression)
                .map_err(|e: BlockError| io::Error::other(e.to_string()))?;
            let receiver = Arc::clone(&receiver);
            std::thread::Builder::new()
                .name("pack".to_owned())
                .spawn(move || pack_all(&receiver, packer))
        });
        Ok(Self { work: Some(work), threads: threads.collect::<io::Result<_>>()? })
    }

    /// Packs a cluster; `None` where the pool has broken down.
    pub fn pack(&self, cluster: Vec<u8>) -> impl Future<Output = Option<Packed>> + use<> {
        let slot = Arc::new(Mutex::new(Slot::default()));
        let work = Work { cluster, slot: Arc::clone(&slot) };
        let sent = self.work.as_ref().is_some_and(|sender| sender.send(work).is_ok());
        std::future::poll_fn(move |task| {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(packed) = slot.outcome.take() {
                return Poll::Ready(Some(packed));
            }
            if !sent {
                return Poll::Ready(None);
            }
            slot.waker = Some(task.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.work = None;
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn pack_all(receiver: &Mutex<Receiver<Work>>, mut packer: ClusterPacker) {
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Work { cluster, slot }) = next else { return };
        let packed = packer.pack(&cluster);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was packed is not needed any more, and memory is.
        let cluster = if packed.is_some() { Vec::new() } else { cluster };
        slot.outcome = Some(Packed { cluster, packed });
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }
}
