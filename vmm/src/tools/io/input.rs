//! Lines of standard input, waited for while requests go on.
use std::io::BufRead;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

#[derive(Default)]
struct Slot {
    /// A line; `Some(None)` at the end.
    line: Option<Option<String>>,
    waker: Option<Waker>,
}

/// A thread that reads a line when it is asked to.
pub(super) struct Lines {
    ask: Sender<()>,
    slot: Arc<Mutex<Slot>>,
}

impl Lines {
    pub fn new() -> Self {
        let (ask, asked) = channel();
        let slot = Arc::new(Mutex::new(Slot::default()));
        let there = Arc::clone(&slot);
        // It ends with the process: nothing can interrupt a read of standard input.
        std::thread::spawn(move || {
            while asked.recv().is_ok() {
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line);
                let line = matches!(read, Ok(1..)).then_some(line);
                let mut slot = there.lock().unwrap_or_else(PoisonError::into_inner);
                slot.line = Some(line);
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
        });
        Self { ask, slot }
    }

    /// The next line; `None` at the end.
    pub async fn next(&self) -> Option<String> {
        if self.ask.send(()).is_err() {
            return None;
        }
        std::future::poll_fn(|task| {
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.line.take() {
                Some(line) => Poll::Ready(line),
                None => {
                    slot.waker = Some(task.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}
