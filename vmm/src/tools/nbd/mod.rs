//! `spindle nbd`: exports one image to NBD clients, with the options and words of `qemu-nbd`.
//!
//! Requests of all clients go to a few iothreads; see `connection` for what a client may cost.
mod connection;
mod credit;
mod execute;
mod export;
mod kernel;
mod list;
mod listen;
mod negotiate;
mod spec;
#[cfg(test)]
mod tests;

pub use kernel::disconnect;
pub use list::list;
pub use listen::Address;
pub use spec::NAME_MAX;

use self::connection::Terms;
use self::export::{Context, Export};
use self::kernel::Device;
use self::listen::Listener;
use self::negotiate::Offer;
use super::img::ImgError;
use super::img::files::block_layer;
use super::img::image::{
    Cache, Image, OpenMode, driver_called, errno_text, shown, warn_of_probing,
};
use super::img::snapshot::Which;
use crate::signals::Signals;
use spindle_block::iothread::thread::{Config, Spawned, spawn};
use spindle_block::nodes::nbd::{Credentials, Stream};
use spindle_block::qcow2::BitmapError;
use spindle_block::ring::Aio;
use spindle_block::root::{DetectZeroes, Policy};
use spindle_block::{Cx, Root};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Most iothreads.
const IOTHREADS_MAX: usize = 4;
/// How long an iothread looks for work before it sleeps.
const POLL: Duration = Duration::from_micros(32);

/// What the command line of `spindle nbd` says.
#[derive(Clone, Debug)]
pub struct ServeRequest {
    /// The image: a name, or an option string.
    pub path: PathBuf,
    /// `-f`.
    pub format: Option<String>,
    /// `-r`.
    pub read_only: bool,
    /// `-s`.
    pub snapshot: bool,
    /// `-n` and `--cache`.
    pub cache: Cache,
    /// `--discard=ignore`.
    pub ignore_discard: bool,
    /// `--detect-zeroes`.
    pub detect_zeroes: DetectZeroes,
    /// `--aio=threads`.
    pub threads: bool,
    /// `-o`, in bytes.
    pub offset: u64,
    /// Where to listen; `None`: nowhere.
    pub address: Option<Address>,
    /// `-c`: a device of the kernel's that gets the disk.
    pub device: Option<PathBuf>,
    /// `-x`.
    pub name: String,
    /// `-D`.
    pub description: Option<String>,
    /// `-e`: most clients at a time; 0: any number.
    pub shared: usize,
    /// `-t`.
    pub persistent: bool,
    /// `-A`.
    pub allocation_depth: bool,
    /// Each `-B`.
    pub bitmaps: Vec<String>,
    /// `-l`.
    pub load_snapshot: Option<Which>,
    /// `-v`.
    pub verbose: bool,
    /// `--handshake-limit`; `None`: without one.
    pub handshake_limit: Option<Duration>,
    /// `--tls-creds`.
    pub credentials: Option<Credentials>,
    /// `--pid-file`.
    pub pid_file: Option<PathBuf>,
}

/// A client that is being served.
struct Client {
    stream: Stream,
    /// Its thread is about to end.
    over: Arc<AtomicBool>,
    /// It came to use the disk, and did not only ask for what there is.
    agreed: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Serves until the last client has gone, or a signal. `ready` is called once clients can come.
///
/// # Errors
///
/// One sentence: the image or the socket cannot be had, or the image cannot be closed.
pub fn serve(request: &ServeRequest, ready: impl FnOnce()) -> Result<(), String> {
    let host = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let signals = Signals::take_over().map_err(host("cannot wait for signals"))?;
    // Their rings are made before the sandbox closes, which is when the block layer starts here.
    let iothreads = iothreads(request.threads).map_err(host("cannot start an iothread"))?;
    let served = serve_on(&iothreads, request, signals, ready);
    for iothread in iothreads {
        iothread.handle.post(|cx| cx.stop());
        // One that panicked has said so.
        let _ = iothread.thread.join();
    }
    let (cx, export, served) = served?;
    let closed = match Arc::try_unwrap(export) {
        Ok(export) => {
            let task = Cx::clone(&cx);
            cx.block_on(async move { export.image.close(&task).await })
        }
        Err(_) => Ok(()),
    };
    served?;
    closed.map_err(|error| format!("Failed to close the image: {}", errno_text(error)))
}

/// The block layer, the image, and how the serving ended.
type Served = (Cx, Arc<Export>, Result<(), String>);

/// Opens the image and serves it. What is open comes back with how the serving ended.
fn serve_on(
    iothreads: &[Spawned],
    request: &ServeRequest,
    signals: Signals,
    ready: impl FnOnce(),
) -> Result<Served, String> {
    let host = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let device = request.device.as_deref().map(Device::open).transpose()?;
    let cx = block_layer().map_err(|e| spindle_block::error::with_causes(&e))?;
    let (task, wanted) = (Cx::clone(&cx), request.clone());
    let export = cx.block_on(async move { open(&task, &wanted).await })?;
    let offer = Offer {
        name: request.name.clone(),
        description: request.description.clone(),
        size: export.size,
        flags: export.flags(request.shared != 1),
        contexts: export.contexts.iter().map(Context::name).collect(),
    };
    let export = Arc::new(export);
    let bound = request.address.as_ref().map_or_else(|| Ok(Vec::new()), Listener::bind);
    let served = bound.and_then(|listeners| {
        let server = Server::new(request, &offer, &export, &listeners, iothreads, signals);
        let mut server = server.map_err(host("cannot wait for clients"))?;
        if let Some(path) = &request.pid_file {
            write_pid(path)?;
        }
        let kernel = device.map(|device| server.attach(device)).transpose()?;
        ready();
        let ran = server.run().map_err(host("cannot wait for clients"));
        if let Some(thread) = kernel {
            // Its connection is gone. One that panicked has said so.
            let _ = thread.join();
        }
        ran
    });
    Ok((cx, export, served))
}

fn write_pid(path: &Path) -> Result<(), String> {
    std::fs::write(path, format!("{}\n", std::process::id())).map_err(|error| {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        format!("Could not create '{}': {text}", path.display())
    })
}

fn iothreads(threads: bool) -> io::Result<Vec<Spawned>> {
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(IOTHREADS_MAX);
    let aio = if threads { Aio::Threads } else { Aio::IoUring };
    (0..count)
        .map(|n| {
            spawn(&Config { name: format!("nbd{n}"), aio, poll_max: POLL }, |_| Ok(()), |_| ())
        })
        .collect()
}

async fn open(cx: &Cx, request: &ServeRequest) -> Result<Export, String> {
    let name = shown(&request.path).into_owned();
    let prefix = format!("Could not open '{name}': ");
    let detail = |error: ImgError| {
        let text = spindle_block::error::with_causes(&error);
        let text = text.strip_prefix(&prefix).map(str::to_owned).unwrap_or(text);
        format!("Failed to blk_new_open '{name}': {text}")
    };
    let format = driver_called(&request.path, request.format.as_deref()).map_err(detail)?;
    let mode = OpenMode {
        format,
        writable: !request.read_only && !request.snapshot && request.load_snapshot.is_none(),
        force_share: false,
        cache: request.cache,
    };
    let mut image = Image::open(cx, &request.path, mode).await.map_err(detail)?;
    warn_of_probing(&image, format);
    if let Some(which) = &request.load_snapshot {
        image = image.at_snapshot(cx, which).await.map_err(|e| e.to_string())?;
    }
    if request.snapshot {
        image = image.with_scratch(cx).await.map_err(detail)?;
    }
    let read_only = request.read_only || !image.writable;
    let size = image.size();
    if request.offset > size {
        let sentence =
            format!("Offset ({}) has to be smaller than the image size ({size})", request.offset);
        // It was only looked at.
        let _ = image.close(cx).await;
        return Err(sentence);
    }
    let contexts = match contexts(cx, request, &image, read_only).await {
        Ok(contexts) => contexts,
        Err(sentence) => {
            // It was only looked at.
            let _ = image.close(cx).await;
            return Err(sentence);
        }
    };
    let policy = Policy {
        read_only,
        ignore_discard: request.ignore_discard,
        detect_zeroes: request.detect_zeroes,
        ..image.policy
    };
    Ok(Export {
        root: Root::new("nbd", Arc::clone(&image.node), policy),
        size: size - request.offset,
        offset: request.offset,
        image,
        read_only,
        contexts,
    })
}

/// What block status can be told in.
async fn contexts(
    cx: &Cx,
    request: &ServeRequest,
    image: &Image,
    read_only: bool,
) -> Result<Vec<Context>, String> {
    let mut contexts = vec![Context::Allocation];
    if request.allocation_depth {
        contexts.push(Context::Depth);
    }
    for name in &request.bitmaps {
        let missing = || format!("Bitmap '{name}' is not found");
        let qcow2 = image.qcow2.as_ref().ok_or_else(missing)?;
        let bits = qcow2.bitmap_bits(cx, name).await.map_err(|error| match error {
            BitmapError::Missing(_) => missing(),
            other => other.to_string(),
        })?;
        contexts.push(Context::Dirty(name.clone(), read_only.then_some(bits)));
    }
    Ok(contexts)
}

struct Server<'a> {
    request: &'a ServeRequest,
    offer: &'a Offer,
    export: &'a Arc<Export>,
    listeners: &'a [Listener],
    iothreads: &'a [Spawned],
    signals: Signals,
    epoll: Epoll,
    /// A client has gone.
    gone: Arc<EventFd>,
    clients: Vec<Client>,
    accepted: usize,
    listening: bool,
    /// Somebody used the disk and has gone.
    used: bool,
}

/// Keys of what is waited for; listeners follow.
const SIGNAL: u64 = 0;
const GONE: u64 = 1;
const LISTENER: u64 = 2;

impl<'a> Server<'a> {
    fn new(
        request: &'a ServeRequest,
        offer: &'a Offer,
        export: &'a Arc<Export>,
        listeners: &'a [Listener],
        iothreads: &'a [Spawned],
        signals: Signals,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let gone = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        for (fd, key) in [(signals.fd(), SIGNAL), (gone.as_raw_fd(), GONE)] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, key))?;
        }
        Ok(Self {
            request,
            offer,
            export,
            listeners,
            iothreads,
            signals,
            epoll,
            gone,
            clients: Vec::new(),
            accepted: 0,
            listening: false,
            used: false,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let result = self.wait();
        for client in &self.clients {
            client.stream.shut_down();
        }
        for client in self.clients.drain(..) {
            let _ = client.thread.join();
        }
        result
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); 8];
        loop {
            self.listen()?;
            let count = match self.epoll.wait(-1, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            for event in &events[..count] {
                match event.data() {
                    SIGNAL if self.signals.read().is_some() => return Ok(()),
                    SIGNAL => {}
                    GONE => {
                        // Only that it was written to matters.
                        let _ = self.gone.read();
                        self.reap();
                        if self.used && self.clients.is_empty() && !self.request.persistent {
                            return Ok(());
                        }
                    }
                    key => self.accept(usize::try_from(key - LISTENER).unwrap_or(usize::MAX)),
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.request.shared != 0 && self.clients.len() >= self.request.shared
    }

    /// Takes clients while there may be more.
    fn listen(&mut self) -> io::Result<()> {
        let wanted = !self.is_full();
        if wanted == self.listening {
            return Ok(());
        }
        for (key, listener) in (LISTENER..).zip(self.listeners) {
            let (operation, set) = if wanted {
                (ControlOperation::Add, EventSet::IN)
            } else {
                (ControlOperation::Delete, EventSet::empty())
            };
            self.epoll.ctl(operation, listener.fd(), EpollEvent::new(set, key))?;
        }
        self.listening = wanted;
        Ok(())
    }

    fn reap(&mut self) {
        let (gone, here) = std::mem::take(&mut self.clients)
            .into_iter()
            .partition(|client| client.over.load(SeqCst));
        self.clients = here;
        let gone: Vec<Client> = gone;
        for client in gone {
            self.used |= client.agreed.load(SeqCst);
            let _ = client.thread.join();
        }
    }

    fn accept(&mut self, listener: usize) {
        let Some(listener) = self.listeners.get(listener) else { return };
        while !self.is_full() {
            match listener.accept() {
                Ok(Some(stream)) => {
                    if let Err(error) = self.start(stream) {
                        say(&format!("a client could not be served: {error}"));
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    log::debug!("a client went before it was taken: {error}");
                    return;
                }
            }
        }
    }

    /// Serves the disk to a device of the kernel's.
    fn attach(&mut self, device: Device) -> Result<JoinHandle<()>, String> {
        let mut connect = || -> io::Result<UnixStream> {
            let (ours, kernels) = UnixStream::pair()?;
            self.start(ours.into())?;
            Ok(kernels)
        };
        let stream = connect().map_err(|error| format!("cannot connect the device: {error}"))?;
        device.attach(stream, &self.request.name)
    }

    fn start(&mut self, stream: Stream) -> io::Result<()> {
        let Some(iothread) = self.iothreads.get(self.accepted % self.iothreads.len().max(1)) else {
            return Err(io::Error::other("no iothread"));
        };
        self.accepted += 1;
        let kept = stream.try_clone()?;
        let (offer, export) = (self.offer.clone(), Arc::clone(self.export));
        let handle = iothread.handle.clone();
        let credentials = self.request.credentials.clone();
        let terms = Terms { limit: self.request.handshake_limit, credentials };
        let over = Arc::new(AtomicBool::new(false));
        let agreed = Arc::new(AtomicBool::new(false));
        let agreed_on = Arc::clone(&agreed);
        let told = Told { over: Arc::clone(&over), gone: Arc::clone(&self.gone) };
        let verbose = self.request.verbose;
        let thread =
            std::thread::Builder::new().name("nbd-client".to_owned()).spawn(move || {
                let told = told;
                let served =
                    connection::serve(&stream, &offer, &export, &handle, &terms, &agreed_on);
                if let Err(error) = served
                    && verbose
                {
                    say(&format!("a client was dropped: {error}"));
                }
                stream.shut_down();
                drop((stream, export));
                drop(told);
            })?;
        self.clients.push(Client { stream: kept, over, agreed, thread });
        Ok(())
    }
}

/// Tells the server that a client has gone, however its thread ends.
struct Told {
    /// Set before the server is told: its thread may be seen running for a while after that.
    over: Arc<AtomicBool>,
    gone: Arc<EventFd>,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        // The counter cannot overflow: every client writes once.
        let _ = self.gone.write(1);
    }
}

/// A line on the error stream, which may be gone.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}: {text}", super::img::error::prefix());
}
