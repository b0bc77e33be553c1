//! Threads that read ahead of the writing one, each with a ring of its own: a copy then costs the
//! longer of reading and writing, not their sum.
use super::tasks::later;
use spindle_block::iothread::thread::{Config, Spawned, spawn};
use spindle_block::ring::Aio;
use spindle_block::submit::node_io;
use spindle_block::{BlockError, Cx, Io, IoBuf, Node};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

/// Most threads.
const THREADS_MAX: usize = 4;

/// A part of what is read at once.
pub(super) struct Piece {
    /// The image that has it.
    pub node: Arc<dyn Node>,
    /// Where it is there.
    pub offset: u64,
    /// Where it is in the copy.
    pub at: u64,
    /// Its memory.
    pub buffer: IoBuf,
}

/// What is data and what is zeros: offset, length, whether it is zeros.
pub(super) type Runs = Vec<(u64, u64, bool)>;

/// The threads; they end with this.
pub(super) struct Readers {
    threads: Vec<Spawned>,
    next: Cell<usize>,
}

impl Readers {
    /// As many threads as there are CPUs beside this one's; `None` where it is the only one, or no
    /// thread can be had.
    pub fn new(aio: Aio) -> Option<Self> {
        let spare = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        let threads: Vec<Spawned> = (0..spare.min(THREADS_MAX))
            .map_while(|n| {
                let config = Config { name: format!("read{n}"), aio, poll_max: Duration::ZERO };
                spawn(&config, |_| Ok(()), |_| ()).ok()
            })
            .collect();
        (!threads.is_empty()).then_some(Self { threads, next: Cell::new(0) })
    }

    /// Whether it is the caller's own turn to work, where it shares all work with the threads.
    pub fn is_own_turn(&self) -> bool {
        let number = self.next.get() + 1;
        let own = number.is_multiple_of(self.threads.len() + 1);
        if own {
            self.next.set(number);
        }
        own
    }

    /// Reads pieces, and does there what `then` says once they are read.
    ///
    /// # Errors
    ///
    /// Where in the copy reading went wrong, and why.
    pub async fn read<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        pieces: Vec<Piece>,
        then: impl FnOnce(Cx) -> F + Send + 'static,
    ) -> Result<T, (u64, BlockError)> {
        let first = pieces.first().map_or(0, |piece| piece.at);
        let number = self.next.replace(self.next.get() + 1) % self.threads.len();
        let (tell, told) = later();
        self.threads[number].handle.post(move |cx| {
            let task = Cx::clone(cx);
            cx.spawn(async move {
                for Piece { node, offset, at, buffer } in pieces {
                    let result = node_io(&task, &node, Io::read(offset, buffer)).await.1;
                    if let Err(error) = result {
                        return tell.tell(Err((at, error)));
                    }
                }
                tell.tell(Ok(then(task).await));
            });
        });
        // A thread that panicked has said so.
        told.await.unwrap_or(Err((first, BlockError::Aborted)))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for thread in self.threads.drain(..) {
            thread.handle.post(|cx| cx.stop());
            // One that panicked has said so.
            let _ = thread.thread.join();
        }
    }
}
