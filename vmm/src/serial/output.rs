//! Output: vCPU threads put characters into a buffer, one thread writes them out.
//!
//! So a slow terminal never holds a CPU up, and a line costs one system call, not one a character.

use std::{
    io::{self, Write},
    ops::Range,
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use spindle_block::iothread::thread::STACK;
use spindle_devices::platform::serial::Output;

use crate::sandbox::{Kind, Sandbox};

/// Output that waits to be written, at most; beyond it the newest is lost, as on a wire.
const WAITING_MAX: usize = 1 << 20;
/// How long output gathers before it is written: what comes after a pause (the echo of a key) is out at once, and
/// while it keeps coming (a guest that boots) every batch may be twice as late as the last.
pub(super) const GATHER: Range<Duration> = Duration::from_millis(1)..Duration::from_millis(16);

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    writing: bool,
    closed: bool,
    lost: u64,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    sink: Mutex<Option<Box<dyn Write + Send>>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, bytes: &[u8]) {
        let mut waiting = self.lock();
        let taken = bytes.len().min(WAITING_MAX - waiting.bytes.len());
        waiting.lost += (bytes.len() - taken) as u64;
        let was_empty = waiting.bytes.is_empty();
        waiting.bytes.extend_from_slice(&bytes[..taken]);
        if was_empty && !waiting.writing {
            drop(waiting);
            self.changed.notify_all();
        }
    }

    fn run(&self) {
        let mut batch = Vec::new();
        let mut gather = GATHER.start;
        loop {
            let mut waiting = self.lock();
            waiting.writing = false;
            if waiting.bytes.is_empty() {
                self.changed.notify_all();
            }
            let idle = Instant::now();
            while waiting.bytes.is_empty() && !waiting.closed {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            if waiting.bytes.is_empty() {
                return;
            }
            waiting.writing = true;
            if !waiting.closed {
                drop(waiting);
                gather = next_gather(gather, idle.elapsed());
                std::thread::sleep(gather);
                waiting = self.lock();
            }
            std::mem::swap(&mut waiting.bytes, &mut batch);
            let lost = std::mem::take(&mut waiting.lost);
            drop(waiting);
            if lost > 0 {
                log::warn!("serial console: {lost} characters were lost, nobody reads them");
            }
            self.write(&batch);
            batch.clear();
            batch.shrink_to(WAITING_MAX / 16);
        }
    }

    fn write(&self, bytes: &[u8]) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = &mut *sink else { return };
        if let Err(e) = writer.write_all(bytes).and_then(|()| writer.flush()) {
            log::info!("serial console: nobody takes its output any more: {e}");
            *sink = None;
        }
    }
}

/// How long the next batch gathers, after one that gathered for `last` and a pause.
pub(super) fn next_gather(last: Duration, pause: Duration) -> Duration {
    if pause < GATHER.end { (last * 2).min(GATHER.end) } else { GATHER.start }
}

/// The buffer and its thread.
pub struct Outlet {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A way into the buffer.
#[derive(Clone)]
pub struct Tap(Arc<Shared>);

impl Tap {
    /// Writes more than one character.
    pub fn put_all(&self, bytes: &[u8]) {
        self.0.put(bytes);
    }
}

impl Output for Tap {
    fn put(&mut self, byte: u8) {
        self.0.put(&[byte]);
    }
}

/// A socket that does not block, written to as if it did, for a while.
struct Patient(UnixStream);

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const RETRY: Duration = Duration::from_millis(10);
        const GIVE_UP: Duration = Duration::from_secs(10);
        let start = Instant::now();
        loop {
            match self.0.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && start.elapsed() < GIVE_UP => {
                    std::thread::sleep(RETRY);
                }
                result => return result,
            }
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Outlet {
    /// Starts the thread. What is put in goes nowhere until something is connected.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn spawn(sandbox: &Sandbox) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let (its, sandbox) = (Arc::clone(&shared), sandbox.clone());
        let builder = Builder::new().name("serial".to_owned()).stack_size(STACK);
        let thread = builder.spawn(move || match sandbox.enter(Kind::Serial) {
            Ok(()) => its.run(),
            Err(e) => log::error!("serial console: cannot be confined: {e}"),
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// From now on output goes to `sink`.
    pub fn connect(&self, sink: Box<dyn Write + Send>) {
        *self.shared.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
    }

    /// From now on output goes to a socket, which does not block.
    ///
    /// # Errors
    /// When there is no file descriptor left.
    pub fn connect_socket(&self, stream: &UnixStream) -> io::Result<()> {
        self.connect(Box::new(Patient(stream.try_clone()?)));
        Ok(())
    }

    /// From now on output goes nowhere.
    pub fn disconnect(&self) {
        *self.shared.sink.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A way in.
    #[must_use]
    pub fn tap(&self) -> Tap {
        Tap(Arc::clone(&self.shared))
    }

    /// Waits until everything is written, `time` at most.
    pub fn flush(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut waiting = self.shared.lock();
        while !waiting.bytes.is_empty() || waiting.writing {
            let Some(left) = end.checked_duration_since(Instant::now()) else { return };
            let result = self.shared.changed.wait_timeout(waiting, left);
            waiting = result.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        self.flush(PATIENCE);
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        // A thread that hangs in a write (a stopped terminal) ends with the process.
        if let Some(thread) = self.thread.take().filter(|_| !self.shared.lock().writing) {
            drop(thread.join());
        }
    }
}
