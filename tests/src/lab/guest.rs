//! Guests: a virtual machine monitor's process, its serial console, and how it ended.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::image::Image;
use super::job::Job;
use super::{LabError, console};

/// A guest that says nothing for this long, not even its heartbeat, hangs.
const SILENCE: Duration = Duration::from_secs(15);

/// What a guest may take, however, until it says anything at all: a quiet kernel boots in silence.
const START_SILENCE: Duration = Duration::from_secs(75);

/// How often a guest shows a sign of life while its job runs, in seconds.
const HEARTBEAT: u32 = 4;

/// How long a guest that oopsed may still talk.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Who runs the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vmm {
    /// The `spindle` program at this path.
    Spindle(PathBuf),
    /// QEMU with KVM, to compare with and to prove the lab itself.
    Qemu,
}

impl Vmm {
    /// The `spindle` beside the running program, or the one that `SPINDLE_BIN` names.
    pub fn spindle() -> Self {
        let beside = || Some(std::env::current_exe().ok()?.parent()?.join("spindle"));
        let named = std::env::var_os("SPINDLE_BIN").map(PathBuf::from);
        Self::Spindle(named.or_else(beside).unwrap_or_else(|| PathBuf::from("spindle")))
    }
}

/// A disk of a guest.
#[derive(Debug, Clone)]
pub struct Disk {
    path: PathBuf,
    options: String,
}

impl Disk {
    /// A virtio-blk disk on an image of the given format, with spindle's defaults.
    pub fn new(path: impl Into<PathBuf>, format: &str) -> Self {
        Self { path: path.into(), options: format!("format={format}") }
    }

    /// Adds options of `--disk`, as `key=value[,key=value…]`.
    pub fn with(mut self, options: &str) -> Self {
        self.options.push(',');
        self.options.push_str(options);
        self
    }
}

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Who runs it.
    pub vmm: Vmm,
    /// Kernel: bzImage or ELF.
    pub kernel: PathBuf,
    /// Initramfs, to which the job is appended.
    pub initrd: Option<PathBuf>,
    /// Kernel command line, after the harness's own words.
    pub append: String,
    /// What the guest runs; without it the guest does what its image does.
    pub job: Option<Job>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disks, in the guest's order.
    pub disks: Vec<Disk>,
    /// More words for the monitor's command line.
    pub extra: Vec<String>,
    /// Whether a reset of the guest resets it; else it ends the process.
    pub reboots: bool,
    /// How long it may run.
    pub limit: Duration,
    /// How long it may be silent.
    pub silence: Duration,
}

impl Guest {
    /// The test guest (`images/guest.sh`), all in its initramfs, started by PVH from the ELF kernel, with the
    /// drivers for virtio-blk alone.
    ///
    /// # Errors
    ///
    /// [`LabError`] if the image cannot be built.
    pub fn initramfs(vmm: Vmm, job: Job) -> Result<Self, LabError> {
        let image = Image::build("guest")?;
        Ok(Self {
            initrd: Some(image.file("guest.cpio")),
            append: "spindle.modules=virtio_pci,virtio_blk,virtio-rng".to_owned(),
            ..Self::bare(vmm, image.file("vmlinux"), job)
        })
    }

    /// The test guest on its small disk: `disk` holds `guest.qcow2` or something made from it.
    ///
    /// # Errors
    ///
    /// [`LabError`] if the image cannot be built.
    pub fn on_disk(vmm: Vmm, disk: Disk, job: Job) -> Result<Self, LabError> {
        let image = Image::build("guest")?;
        Ok(Self {
            initrd: Some(image.file("boot.cpio")),
            append: "root=/dev/vda spindle.modules=virtio_pci,virtio_blk,ext4,crc32c_generic"
                .to_owned(),
            disks: vec![disk],
            ..Self::bare(vmm, image.file("vmlinux"), job)
        })
    }

    /// The real Debian; `disk` holds `debian.qcow2` or something made from it.
    ///
    /// # Errors
    ///
    /// [`LabError`] if the image cannot be built.
    pub fn debian(vmm: Vmm, disk: Disk, job: Job) -> Result<Self, LabError> {
        let image = Image::build("debian")?;
        Ok(Self {
            initrd: Some(image.file("initrd")),
            // Talkative, so that a slow start is not taken for a hang.
            append: "root=LABEL=root ro loglevel=6 systemd.show_status=1 \
                     spindle.job=/run/job/job.sh"
                .to_owned(),
            disks: vec![disk],
            memory_mib: 768,
            limit: Duration::from_secs(300),
            // systemd and udev work for a while before the job and its heartbeat start.
            silence: Duration::from_secs(60),
            ..Self::bare(vmm, image.file("vmlinuz"), job)
        })
    }

    fn bare(vmm: Vmm, kernel: PathBuf, job: Job) -> Self {
        Self {
            vmm,
            kernel,
            initrd: None,
            append: String::new(),
            job: Some(job),
            cpus: 1,
            memory_mib: 512,
            disks: Vec::new(),
            extra: Vec::new(),
            reboots: false,
            limit: Duration::from_secs(120),
            silence: SILENCE,
        }
    }

    /// Adds a disk.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Sets the number of virtual CPUs.
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// Adds words to the monitor's command line.
    pub fn with(mut self, words: &[&str]) -> Self {
        self.extra.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// Starts the guest; `work` is a directory for its initramfs and its standard error.
    ///
    /// # Errors
    ///
    /// [`LabError`] if a file cannot be written or the process does not start.
    pub fn start(&self, work: &Path) -> Result<Running, LabError> {
        let initrd = self.make_initrd(work)?;
        let (program, arguments) = self.command_line(initrd.as_deref());
        let errors = work.join("stderr");
        let stderr = File::create(&errors).map_err(LabError::file("create", &errors))?;
        let started = Instant::now();
        let mut child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|source| LabError::Start { program: program.display().to_string(), source })?;
        let heard = Arc::new(Heard::default());
        if let Some(stdout) = child.stdout.take() {
            listen(stdout, Arc::clone(&heard));
        }
        Ok(Running {
            child,
            heard,
            errors,
            started,
            limit: self.limit,
            silence: self.silence,
            job: self.job.is_some(),
        })
    }

    fn make_initrd(&self, work: &Path) -> Result<Option<PathBuf>, LabError> {
        let (Some(base), Some(job)) = (&self.initrd, &self.job) else {
            return Ok(self.initrd.clone());
        };
        let path = work.join("initrd");
        job.append_to(base, &path)?;
        Ok(Some(path))
    }

    fn command_line(&self, initrd: Option<&Path>) -> (PathBuf, Vec<String>) {
        let append =
            format!("console=ttyS0 quiet panic=-1 spindle.heartbeat={HEARTBEAT} {}", self.append);
        let memory = format!("{}M", self.memory_mib);
        let cpus = self.cpus.to_string();
        let mut words: Vec<String> = Vec::new();
        let mut add = |more: &[&str]| words.extend(more.iter().map(|&word| word.to_owned()));
        let program = match &self.vmm {
            Vmm::Spindle(path) => {
                add(&["run", "--serial", "stdio", "--memory", &memory, "--cpus", &cpus]);
                path.clone()
            }
            Vmm::Qemu => {
                add(&["-accel", "kvm", "-M", "q35", "-cpu", "host", "-nodefaults"]);
                add(&["-no-user-config", "-display", "none", "-serial", "stdio"]);
                add(&["-m", &memory, "-smp", &cpus]);
                PathBuf::from("qemu-system-x86_64")
            }
        };
        let dash = if self.vmm == Vmm::Qemu { "-" } else { "--" };
        add(&[&format!("{dash}kernel"), &self.kernel.to_string_lossy()]);
        add(&[&format!("{dash}append"), append.trim_end()]);
        if let Some(path) = initrd {
            add(&[&format!("{dash}initrd"), &path.to_string_lossy()]);
        }
        if !self.reboots {
            add(&[&format!("{dash}no-reboot")]);
        }
        for disk in &self.disks {
            let path = disk.path.to_string_lossy().replace(',', ",,");
            match self.vmm {
                Vmm::Qemu => add(&["-drive", &format!("file={path},if=virtio,{}", disk.options)]),
                Vmm::Spindle(_) => add(&["--disk", &format!("{path},{}", disk.options)]),
            }
        }
        words.extend(self.extra.iter().cloned());
        (program, words)
    }
}

/// What a console has said so far.
#[derive(Debug, Default)]
struct Heard {
    state: Mutex<HeardState>,
    changed: Condvar,
}

#[derive(Debug)]
struct HeardState {
    bytes: Vec<u8>,
    last: Instant,
    closed: bool,
}

impl Default for HeardState {
    fn default() -> Self {
        Self { bytes: Vec::new(), last: Instant::now(), closed: false }
    }
}

impl Heard {
    fn lock(&self) -> std::sync::MutexGuard<'_, HeardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a little for news; returns the text, the time since the last of it, and whether it is over.
    fn look(&self) -> (String, Duration, bool) {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout(state, Duration::from_millis(50))
            .unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&state.bytes).into_owned();
        (text, state.last.elapsed(), state.closed)
    }
}

fn listen(mut stdout: ChildStdout, heard: Arc<Heard>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let count = stdout.read(&mut buffer).unwrap_or(0);
            let mut state = heard.lock();
            state.bytes.extend_from_slice(&buffer[..count]);
            state.last = Instant::now();
            state.closed = count == 0;
            heard.changed.notify_all();
            if count == 0 {
                return;
            }
        }
    });
}

/// How a guest was lost: in the lab this can be the lab's own fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The process ended with 0 and without the end marker.
    Vanished,
    /// No sign of life, or not finished in its time.
    Hung,
    /// Its kernel oopsed.
    Oopsed,
}

/// Why a guest did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// It was lost.
    #[error("the guest {} after {after:.1?}; its console:\n{console}", match loss {
        Loss::Vanished => "vanished",
        Loss::Hung => "hung",
        Loss::Oopsed => "oopsed",
    })]
    Lost {
        /// How.
        loss: Loss,
        /// Time since its start.
        after: Duration,
        /// The end of its console.
        console: String,
    },
    /// The harness failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Something is not as the test wants it.
    #[error("{0}")]
    Failed(String),
}

/// How a guest ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Exit status of the process; none if a signal ended it.
    pub status: Option<i32>,
    /// Exit status of the job, if it told one.
    pub job: Option<i32>,
    /// Its console, without heartbeats.
    pub console: String,
    /// What the process wrote to standard error.
    pub stderr: String,
    /// From the start of the process to its end.
    pub elapsed: Duration,
}

impl Ended {
    /// Requires that the job succeeded and that the machine then powered off with status 0.
    ///
    /// # Errors
    ///
    /// [`GuestError::Failed`] with the console's end if not.
    pub fn success(self) -> Result<Self, GuestError> {
        if self.status == Some(0) && self.job == Some(0) {
            return Ok(self);
        }
        let word = |status: Option<i32>| status.map_or("none".to_owned(), |code| code.to_string());
        Err(GuestError::Failed(format!(
            "exit status {}, the job's {}; standard error:\n{}\nthe console:\n{}",
            word(self.status),
            word(self.job),
            console::tail(&self.stderr, 20),
            console::tail(&self.console, 60)
        )))
    }
}

/// A guest that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    heard: Arc<Heard>,
    errors: PathBuf,
    started: Instant,
    limit: Duration,
    silence: Duration,
    job: bool,
}

impl Running {
    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Time since the process was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Everything the console has said, without heartbeats.
    pub fn console(&self) -> String {
        console::clean(&String::from_utf8_lossy(&self.heard.lock().bytes))
    }

    /// Waits until the console has said `text`.
    ///
    /// # Errors
    ///
    /// [`GuestError::Lost`] if the guest hung, oopsed or ended first.
    pub fn wait_for(&mut self, text: &str) -> Result<(), GuestError> {
        loop {
            let (heard, quiet, closed) = self.heard.look();
            if heard.contains(text) {
                return Ok(());
            }
            self.check(&heard, quiet)?;
            if closed {
                return Err(self.ended_early(text));
            }
        }
    }

    /// Waits for a time in which the guest must not be lost.
    ///
    /// # Errors
    ///
    /// As for [`Running::wait_for`].
    pub fn run_on(&mut self, time: Duration) -> Result<(), GuestError> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let (heard, quiet, closed) = self.heard.look();
            self.check(&heard, quiet)?;
            if closed {
                return Err(self.ended_early("anything more"));
            }
        }
        Ok(())
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    ///
    /// [`GuestError::Lost`] if it hung, oopsed, or ended with 0 before its job did.
    pub fn finish(mut self) -> Result<Ended, GuestError> {
        let status = loop {
            let (heard, quiet, _) = self.heard.look();
            if let Ok(Some(status)) = self.child.try_wait() {
                break status;
            }
            self.check(&heard, quiet)?;
        };
        // The last bytes may still be in the pipe, which a process that it left behind may hold open.
        let until = Instant::now() + LAST_WORDS;
        while !self.heard.look().2 && Instant::now() < until {}
        let text = self.console();
        let ended = Ended {
            status: status.code(),
            job: console::job_status(&text),
            console: text,
            stderr: fs::read_to_string(&self.errors).unwrap_or_default(),
            elapsed: self.started.elapsed(),
        };
        if console::death(&ended.console).is_some() {
            return Err(self.lost(Loss::Oopsed));
        }
        if self.job && ended.status == Some(0) && ended.job.is_none() {
            return Err(self.lost(Loss::Vanished));
        }
        Ok(ended)
    }

    /// Kills the process at once, as a power cut would the host.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn check(&self, heard: &str, quiet: Duration) -> Result<(), GuestError> {
        if quiet > LAST_WORDS && console::death(heard).is_some() {
            return Err(self.lost(Loss::Oopsed));
        }
        let patience =
            if heard.is_empty() { self.silence.max(START_SILENCE) } else { self.silence };
        if quiet > patience || self.started.elapsed() > self.limit {
            return Err(self.lost(Loss::Hung));
        }
        Ok(())
    }

    fn ended_early(&mut self, wanted: &str) -> GuestError {
        match self.child.wait().map(|status| status.code()) {
            Ok(Some(0)) => self.lost(Loss::Vanished),
            status => GuestError::Failed(format!(
                "the guest ended ({status:?}) before its console said {wanted:?}; standard error:\n{}\n\
                 the console:\n{}",
                fs::read_to_string(&self.errors).unwrap_or_default(),
                console::tail(&self.console(), 60)
            )),
        }
    }

    fn lost(&self, loss: Loss) -> GuestError {
        let mut text = console::tail(&self.console(), 80);
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        if !errors.is_empty() {
            text.push_str("\n-- standard error --\n");
            text.push_str(&console::tail(&errors, 20));
        }
        GuestError::Lost { loss, after: self.started.elapsed(), console: text }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
