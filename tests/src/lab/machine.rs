//! The lab's machine: QEMU's TCG with the Debian kernel of the recipe `lab`, and its ports.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::session::{Command, Gone, Lines, Output, Session, Sinks, Stream, pump};
use super::{INSIDE, LabError, RAM_DISK, SHARE, console, image, image::Image, lock::LabLock};

/// QEMU's program.
const QEMU: &str = "qemu-system-x86_64";

/// No sign of life for this long means that the lab is lost.
const PATIENCE: Duration = Duration::from_secs(15);

/// Until the agent answers; a start takes four to seven seconds on an idle machine.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How often a lab that does not come up is started.
const STARTS: u32 = 3;

/// What a lab is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory of L1 in MiB: the RAM disk, the tmpfs and the guests share it.
    pub memory_mib: u32,
    /// A host directory that the lab may write, at the same path in there. Default: a temporary one.
    pub share: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory_mib: 5120, share: None }
    }
}

/// A running lab. Dropping it ends it: nothing in it is worth saving.
#[derive(Debug)]
pub struct Lab {
    qemu: Child,
    session: Session,
    stdin: UnixStream,
    attached: bool,
    share: PathBuf,
    work: tempfile::TempDir,
    commands: u32,
    nonce: u32,
    _lock: LabLock,
}

impl Lab {
    /// Builds the lab's image if needed, waits for other labs to end, starts one and waits until it takes
    /// commands. A start that fails is tried again, twice at most, and reported.
    ///
    /// # Errors
    ///
    /// [`LabError`] if the image, QEMU or the third start failed.
    pub fn start(options: &Options) -> Result<Self, LabError> {
        let image = Image::build("lab")?;
        let mut tries = 1;
        loop {
            match Self::start_once(&image, options) {
                Err(error @ LabError::Lost { .. }) if tries < STARTS => {
                    eprintln!("lab-flake: start {tries} of the lab failed: {error}");
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    fn start_once(image: &Image, options: &Options) -> Result<Self, LabError> {
        let lock = LabLock::take()?;
        let work = tempfile::Builder::new()
            .prefix("spindle-lab-")
            .tempdir()
            .map_err(LabError::file("create a directory in", std::env::temp_dir()))?;
        let share = options.share.clone().unwrap_or_else(|| work.path().join("share"));
        let requests = share.join(".lab");
        fs::create_dir_all(&requests).map_err(LabError::file("create", &requests))?;
        let share = share.canonicalize().map_err(LabError::file("find", &share))?;

        let ports = Ports::new().map_err(LabError::file("create sockets for", work.path()))?;
        let log = work.path().join("qemu.log");
        let log = File::create(&log).map_err(LabError::file("create", log))?;
        let qemu = Process::new(QEMU)
            .args(arguments(image, options, &share, &ports))
            .current_dir(work.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(LabError::file("open", work.path()))?)
            .stderr(log)
            .spawn()
            .map_err(|source| LabError::Start { program: QEMU.to_owned(), source })?;

        let (sender, events) = mpsc::channel();
        let Ports { ours: [stdin, out, err, control], theirs } = ports;
        // So that the ports end when QEMU does.
        drop(theirs);
        pump(Stream::Out, out, sender.clone());
        pump(Stream::Err, err, sender.clone());
        let reader = control.try_clone().map_err(LabError::file("open", work.path()))?;
        pump(Stream::Control, reader, sender);
        let session =
            Session { control, events, lines: Lines::default(), patience: START_PATIENCE };
        let mut lab = Self {
            qemu,
            session,
            stdin,
            attached: false,
            share,
            work,
            commands: 0,
            nonce: fastrand::u32(..),
            _lock: lock,
        };
        let started = Instant::now();
        lab.session.wait_line("ready").map_err(|gone| lab.lost(gone, started))?;
        lab.session.patience = PATIENCE;
        Ok(lab)
    }

    /// The directory that the lab shares with the host, at this path on both sides.
    pub fn share(&self) -> &std::path::Path {
        &self.share
    }

    /// Runs a command with an empty standard input and returns what it printed.
    ///
    /// # Errors
    ///
    /// [`LabError::Lost`] if the lab ended meanwhile, [`LabError::File`] if the command could not be sent.
    pub fn run(&mut self, command: &Command, limit: Duration) -> Result<Output, LabError> {
        let started = Instant::now();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut sinks = Sinks { out: &mut stdout, err: &mut stderr };
        let status = self.send(command, limit, "null", &mut sinks)?;
        Ok(Output { status, stdout, stderr, elapsed: started.elapsed() })
    }

    /// Runs a command with an empty standard input and passes its output on as it comes.
    ///
    /// # Errors
    ///
    /// As for [`Lab::run`].
    pub fn run_into(
        &mut self,
        command: &Command,
        limit: Duration,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<i32, LabError> {
        self.send(command, limit, "null", &mut Sinks { out, err })
    }

    /// Runs a command with an empty standard input whose output goes to ours as it comes.
    ///
    /// # Errors
    ///
    /// As for [`Lab::run`].
    pub fn run_shown(&mut self, command: &Command, limit: Duration) -> Result<i32, LabError> {
        self.run_into(command, limit, &mut io::stdout(), &mut io::stderr())
    }

    /// Runs a command on our own standard input, output and error and returns its exit status. Only one
    /// command of a lab can have the standard input; later ones find it at its end.
    ///
    /// # Errors
    ///
    /// As for [`Lab::run`].
    pub fn attach(&mut self, command: &Command, limit: Duration) -> Result<i32, LabError> {
        if !std::mem::replace(&mut self.attached, true) {
            let port = self.stdin.try_clone().map_err(LabError::file("open", self.work.path()))?;
            // Detached: it ends with our standard input, or with this process.
            thread::spawn(move || {
                let _ = io::copy(&mut io::stdin().lock(), &mut &port);
                // Only this direction: at a full hang-up QEMU forgets what it has not yet read.
                let _ = port.shutdown(std::net::Shutdown::Write);
            });
        }
        let (mut out, mut err) = (io::stdout(), io::stderr());
        self.send(command, limit, "port", &mut Sinks { out: &mut out, err: &mut err })
    }

    fn send(
        &mut self,
        command: &Command,
        limit: Duration,
        stdin: &str,
        sinks: &mut Sinks<'_>,
    ) -> Result<i32, LabError> {
        self.commands += 1;
        let id = format!("{}-{:08x}", self.commands, self.nonce);
        let pinned = image::pins()
            .into_iter()
            .fold(command.clone(), |command, (name, path)| command.env(name, path));
        let command = pinned
            .env(INSIDE, "1")
            .env(SHARE, self.share.to_string_lossy())
            .env("SPINDLE_LAB_DISK", RAM_DISK);
        let path = self.share.join(".lab").join(format!("{id}.sh"));
        fs::write(&path, command.script()).map_err(LabError::file("write", &path))?;
        let started = Instant::now();
        let result = self.session.run(&id, limit, stdin, sinks);
        let _ = fs::remove_file(&path);
        result.map_err(|gone| self.lost(gone, started))
    }

    fn lost(&self, gone: Gone, started: Instant) -> LabError {
        let read = |name| fs::read(self.work.path().join(name)).unwrap_or_default();
        let text = [read("console.log"), read("qemu.log")].concat();
        LabError::Lost {
            what: match gone {
                Gone::Ended => "ended",
                Gone::Silent => "fell silent",
            },
            after: started.elapsed(),
            console: console::tail(&console::clean(&String::from_utf8_lossy(&text)), 40),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.session.control.write_all(b"off\n");
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir(self.share.join(".lab"));
    }
}

/// The four port sockets: standard input, output, error, control; our ends and QEMU's.
struct Ports {
    ours: [UnixStream; 4],
    theirs: [UnixStream; 4],
}

impl Ports {
    fn new() -> io::Result<Self> {
        let pair = || -> io::Result<(UnixStream, UnixStream)> {
            let (ours, theirs) = UnixStream::pair()?;
            keep_across_exec(&theirs)?;
            Ok((ours, theirs))
        };
        let [a, b, c, d] = [pair()?, pair()?, pair()?, pair()?];
        Ok(Self { ours: [a.0, b.0, c.0, d.0], theirs: [a.1, b.1, c.1, d.1] })
    }
}

/// Lets QEMU inherit a socket.
fn keep_across_exec(socket: &UnixStream) -> io::Result<()> {
    // SAFETY: F_SETFD changes a flag of a descriptor that `socket` keeps open; no memory is involved.
    match unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// QEMU's command line. Three processors, of which guests use the second and third: QEMU's emulation of
/// SVM corrupts the state of the first one under nested guests. They say that they are of family 17h: the kernels of the
/// lab and of its guests look for an AGP bridge on all PCI buses, twice, where the processor is of family 0Fh, as QEMU's
/// "max" is, which costs a guest 32 thousand exits.
fn arguments(
    image: &Image,
    options: &Options,
    share: &std::path::Path,
    ports: &Ports,
) -> Vec<String> {
    let memory = format!("{}M", options.memory_mib);
    let append = format!(
        "console=ttyS0 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check noreplace-smp \
         kvm.halt_poll_ns=0 kvm.enable_pmu=0 quiet lab.share={}",
        share.display()
    );
    let mut all: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| all.extend(words.iter().map(|&word| word.to_owned()));
    add(&["-accel", "tcg,thread=multi,tb-size=512", "-M", "pc", "-smp", "3"]);
    add(&["-cpu", "max,family=23,model=49,stepping=0"]);
    add(&["-m", &memory, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-kernel", &image.file("vmlinux").to_string_lossy()]);
    add(&["-initrd", &image.file("lab.cpio").to_string_lossy(), "-append", &append]);
    add(&["-serial", "file:console.log", "-device", "virtio-serial-pci,max_ports=8"]);
    for (index, socket) in ports.theirs.iter().enumerate() {
        let number = index + 1;
        let chardev = format!("socket,id=port{number},fd={}", socket.as_raw_fd());
        let device = format!("virtserialport,nr={number},chardev=port{number},name=lab.{number}");
        add(&["-chardev", &chardev, "-device", &device]);
    }
    let shares = [("root", "/".to_owned(), "on"), ("share", comma(share), "off")];
    for (tag, path, readonly) in shares {
        let fsdev = format!(
            "local,id={tag},path={path},security_model=none,multidevs=remap,readonly={readonly}"
        );
        let device = format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}");
        add(&["-fsdev", &fsdev, "-device", &device]);
    }
    all
}

/// A path in a QEMU option, where a comma is written twice.
fn comma(path: &std::path::Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
