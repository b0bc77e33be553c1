//! A connection: who sends, who receives, and who waits.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    task::{Poll, Waker},
};

use super::stream::Stream;
use super::wire::{self, chunk, command, u16_of, u32_of, u64_of};
use crate::{BlockError, Range, qcow2::sync::lock};

/// The longest chunk of a reply that is no data, in bytes.
const CHUNK_MAX: u32 = 1 << 20;

/// What the server answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// What was read: as many bytes as were asked for.
    pub data: Vec<u8>,
    /// Of each context the first stretch: its number, length and state.
    pub status: Vec<(u32, u32, u32)>,
}

/// A request that waits.
struct Waiting {
    range: Range,
    answer: Answer,
    error: Option<BlockError>,
    done: bool,
    /// Nobody waits any more; its answer is still to come.
    abandoned: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Table {
    requests: HashMap<u64, Waiting>,
    /// The connection is over.
    broken: bool,
}

impl Table {
    /// A request has its whole answer.
    fn finish(&mut self, cookie: u64) {
        match self.requests.get_mut(&cookie) {
            Some(waiting) if waiting.abandoned => drop(self.requests.remove(&cookie)),
            Some(waiting) => waiting.finish(),
            None => {}
        }
    }

    fn break_off(&mut self) {
        self.broken = true;
        for waiting in self.requests.values_mut() {
            if !waiting.done {
                waiting.error = Some(BlockError::Gone);
                waiting.finish();
            }
        }
    }
}

impl Waiting {
    fn finish(&mut self) {
        self.done = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// See the module.
pub(super) struct Link {
    stream: Arc<Stream>,
    table: Arc<Mutex<Table>>,
    outgoing: Mutex<Option<Sender<Vec<u8>>>>,
    next: AtomicU64,
}

/// Forgets a request whose task does not wait for it any more.
struct Forget<'a>(&'a Mutex<Table>, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut table = lock(self.0);
        match table.requests.get_mut(&self.1) {
            Some(waiting) if !waiting.done => waiting.abandoned = true,
            _ => drop(table.requests.remove(&self.1)),
        }
    }
}

impl Link {
    /// Starts the threads of a connection whose handshake is over.
    pub fn start(stream: Stream, structured: bool) -> io::Result<Self> {
        let (stream, table) = (Arc::new(stream), Arc::new(Mutex::new(Table::default())));
        let (sender, receiver) = channel();
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let (socket, known) = (Arc::clone(&stream), Arc::clone(&table));
        thread("nbd-send").spawn(move || {
            send(&socket, &receiver);
            lock(&known).break_off();
        })?;
        let (socket, known) = (Arc::clone(&stream), Arc::clone(&table));
        thread("nbd-receive").spawn(move || {
            if let Err(error) = receive(&socket, &known, structured)
                && !lock(&known).broken
            {
                log::warn!("the connection to the NBD server broke: {error}");
            }
            lock(&known).break_off();
            socket.shut_down();
        })?;
        let outgoing = Mutex::new(Some(sender));
        Ok(Self { stream, table, outgoing, next: AtomicU64::new(1) })
    }

    /// Sends a request and waits for its answer.
    pub async fn ask(
        &self,
        kind: u16,
        flags: u16,
        range: Range,
        data: Vec<u8>,
    ) -> Result<Answer, BlockError> {
        let cookie = self.next.fetch_add(1, Relaxed);
        let len = u32::try_from(range.len).map_err(|_| BlockError::OutOfRange)?;
        let mut message = Vec::with_capacity(28 + data.len());
        message.extend(wire::REQUEST.to_be_bytes());
        message.extend(flags.to_be_bytes());
        message.extend(kind.to_be_bytes());
        message.extend(cookie.to_be_bytes());
        message.extend(range.offset.to_be_bytes());
        message.extend(len.to_be_bytes());
        message.extend(data);
        let mut answer = Answer::default();
        if kind == command::READ {
            answer.data = vec![0; len as usize];
        }
        let waiting =
            Waiting { range, answer, error: None, done: false, abandoned: false, waker: None };
        {
            let mut table = lock(&self.table);
            if table.broken {
                return Err(BlockError::Gone);
            }
            table.requests.insert(cookie, waiting);
        }
        let _forget = Forget(&self.table, cookie);
        let sent = lock(&self.outgoing).as_ref().map(|sender| sender.send(message));
        if !matches!(sent, Some(Ok(()))) {
            return Err(BlockError::Gone);
        }
        std::future::poll_fn(|task| {
            let mut table = lock(&self.table);
            let Some(waiting) = table.requests.get_mut(&cookie) else {
                return Poll::Ready(Err(BlockError::Gone));
            };
            if !waiting.done {
                waiting.waker = Some(task.waker().clone());
                return Poll::Pending;
            }
            let answer = std::mem::take(&mut waiting.answer);
            Poll::Ready(waiting.error.map_or(Ok(answer), Err))
        })
        .await
    }

    /// Says good-bye. Nothing is asked any more.
    pub fn end(&self) {
        let mut table = lock(&self.table);
        if let Some(sender) = lock(&self.outgoing).take()
            && !table.broken
        {
            let mut message = wire::REQUEST.to_be_bytes().to_vec();
            message.extend(0_u16.to_be_bytes());
            message.extend(command::DISCONNECT.to_be_bytes());
            message.extend([0; 20]);
            // Without a connection there is nobody to tell.
            let _ = sender.send(message);
        }
        table.broken = true;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end();
        // The receiver ends when the server hangs up; it does so by itself when it does not.
        if lock(&self.table).requests.is_empty() {
            return;
        }
        self.stream.shut_down();
    }
}

fn send(stream: &Stream, messages: &Receiver<Vec<u8>>) {
    let mut socket = stream;
    for message in messages {
        if socket.write_all(&message).is_err() {
            stream.shut_down();
            return;
        }
    }
    // The good-bye is out. A server that does not hang up is not waited for.
    stream.finish();
}

fn bad<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
}

/// The error of an errno(3) on the wire.
fn error_of(number: u32) -> BlockError {
    match number {
        1 => BlockError::ReadOnly,
        12 => BlockError::NoMemory,
        22 => BlockError::Misaligned,
        28 => BlockError::NoSpace,
        75 => BlockError::OutOfRange,
        95 => BlockError::Unsupported,
        108 => BlockError::Gone,
        _ => BlockError::Medium,
    }
}

fn receive(stream: &Stream, table: &Mutex<Table>, structured: bool) -> io::Result<()> {
    let mut socket = io::BufReader::with_capacity(64 << 10, stream);
    loop {
        match u32_of(&mut socket)? {
            wire::SIMPLE_REPLY => simple(&mut socket, table)?,
            wire::STRUCTURED_REPLY if structured => part(&mut socket, table)?,
            _ => return bad("a reply that is none"),
        }
    }
}

fn simple(socket: &mut impl Read, table: &Mutex<Table>) -> io::Result<()> {
    let (error, cookie) = (u32_of(socket)?, u64_of(socket)?);
    // The bytes are read without the lock.
    let len = match lock(table).requests.get(&cookie) {
        Some(waiting) => waiting.answer.data.len(),
        None => return bad("an answer to nothing"),
    };
    let mut data = vec![0; if error == 0 { len } else { 0 }];
    socket.read_exact(&mut data)?;
    let mut table = lock(table);
    if let Some(waiting) = table.requests.get_mut(&cookie) {
        waiting.answer.data = data;
        waiting.error = (error != 0).then(|| error_of(error));
        table.finish(cookie);
    }
    Ok(())
}

/// A chunk of a structured reply.
fn part(socket: &mut impl Read, table: &Mutex<Table>) -> io::Result<()> {
    let (flags, kind, cookie) = (u16_of(socket)?, u16_of(socket)?, u64_of(socket)?);
    let len = u32_of(socket)?;
    let wanted = match lock(table).requests.get(&cookie) {
        Some(waiting) => (waiting.range, waiting.answer.data.len() as u64),
        None => return bad("an answer to nothing"),
    };
    let within = |offset: u64, len: u64| {
        let (range, have) = wanted;
        let at = offset.checked_sub(range.offset).filter(|at| *at <= have && len <= have - at);
        at.map_or_else(|| bad("data that nobody asked for"), Ok)
    };
    let mut data = Vec::new();
    let mut place = None;
    let mut hole = None;
    match kind {
        chunk::DATA if len >= 8 => {
            let at = within(u64_of(socket)?, u64::from(len) - 8)?;
            data = vec![0; len as usize - 8];
            socket.read_exact(&mut data)?;
            place = Some(at as usize);
        }
        chunk::HOLE if len == 12 => {
            let (offset, size) = (u64_of(socket)?, u32_of(socket)?);
            hole = Some((within(offset, u64::from(size))? as usize, size as usize));
        }
        _ if len > CHUNK_MAX => return bad("a chunk that is too long"),
        _ => {
            data = vec![0; len as usize];
            socket.read_exact(&mut data)?;
        }
    }
    let mut table = lock(table);
    let Some(waiting) = table.requests.get_mut(&cookie) else { return Ok(()) };
    let answer = &mut waiting.answer;
    if let Some(at) = place {
        answer.data[at..at + data.len()].copy_from_slice(&data);
    }
    if let Some((at, len)) = hole {
        answer.data[at..at + len].fill(0);
    }
    if kind == chunk::BLOCK_STATUS {
        let mut data = data.as_slice();
        let context = u32_of(&mut data)?;
        answer.status.push((context, u32_of(&mut data)?, u32_of(&mut data)?));
    }
    if kind & chunk::ERROR != 0 {
        waiting.error = Some(error_of(u32_of(&mut data.as_slice())?));
    }
    if flags & chunk::DONE != 0 {
        table.finish(cookie);
    }
    Ok(())
}
