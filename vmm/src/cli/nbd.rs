//! `spindle nbd`: the options of `qemu-nbd`.
use super::io::{confinement, mistake, name, version};
use super::{EXIT_INPUT, Outcome, Stop};
use crate::sandbox::tool::{self as sandbox, Needs};
use crate::tools::getopt::{Found, Long, Takes, long, parse};
use crate::tools::img::ImgError;
use crate::tools::img::error::prefix;
use crate::tools::img::image::Cache;
use crate::tools::img::snapshot::Which;
use crate::tools::img::source::options_path;
use crate::tools::nbd::{self, Address, NAME_MAX, ServeRequest};
use crate::tools::object;
use crate::tools::tls;
use spindle_block::nodes::nbd::{Credentials, Endpoint, Secure};
use spindle_block::root::DetectZeroes;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SHORT: &str = "hVb:o:p:rsnc:dvk:e:f:tl:x:T:D:AB:L";

const LONG: &[Long] = &[
    long("help", Takes::Nothing, "h"),
    long("version", Takes::Nothing, "V"),
    long("bind", Takes::Argument, "b"),
    long("port", Takes::Argument, "p"),
    long("socket", Takes::Argument, "k"),
    long("offset", Takes::Argument, "o"),
    long("read-only", Takes::Nothing, "r"),
    long("allocation-depth", Takes::Nothing, "A"),
    long("bitmap", Takes::Argument, "B"),
    long("connect", Takes::Argument, "c"),
    long("disconnect", Takes::Nothing, "d"),
    long("list", Takes::Nothing, "L"),
    long("snapshot", Takes::Nothing, "s"),
    long("load-snapshot", Takes::Argument, "l"),
    long("nocache", Takes::Nothing, "n"),
    long("cache", Takes::Argument, ""),
    long("aio", Takes::Argument, ""),
    long("discard", Takes::Argument, ""),
    long("detect-zeroes", Takes::Argument, ""),
    long("shared", Takes::Argument, "e"),
    long("format", Takes::Argument, "f"),
    long("persistent", Takes::Nothing, "t"),
    long("verbose", Takes::Nothing, "v"),
    long("object", Takes::Argument, ""),
    long("export-name", Takes::Argument, "x"),
    long("description", Takes::Argument, "D"),
    long("tls-creds", Takes::Argument, ""),
    long("tls-hostname", Takes::Argument, ""),
    long("tls-authz", Takes::Argument, ""),
    long("image-opts", Takes::Nothing, ""),
    long("trace", Takes::Argument, "T"),
    long("fork", Takes::Nothing, ""),
    long("pid-file", Takes::Argument, ""),
    long("selinux-label", Takes::Argument, ""),
    long("handshake-limit", Takes::Argument, ""),
    long("sandbox", Takes::Argument, ""),
];

const HELP: &str = "\
Exports an image to NBD clients, until the last of them has gone.

WHERE CLIENTS COME IN
  -p, --port PORT          TCP port [default: 10809]
  -b, --bind ADDRESS       address of the host [default: 0.0.0.0, all]
  -k, --socket PATH        a local socket instead; the path begins with '/'
  -e, --shared NUMBER      most clients at a time; 0: any number [default: 1]
  -t, --persistent         stay when the last client has gone
  -c, --connect DEVICE     give the disk to the host's own client, /dev/nbdN (module nbd); it is served
                           in the background, with -v in the foreground, until -d
  -d, --disconnect         take the disk away from the device that is given in place of an image
      --tls-creds ID       encrypt with these credentials: tls-creds-x509,id=…,endpoint=server,dir=…,
                           a directory with ca-cert.pem, server-cert.pem and server-key.pem; clients need
                           a certificate that ca-cert.pem has signed, or verify-peer=off
  -x, --export-name NAME   name that clients ask for [default: none]
  -D, --description TEXT   description of the export
      --handshake-limit N  seconds that a client may take to begin; 0: any [default: 10]

WHAT IS EXPORTED
  -f, --format FORMAT      format of the image [default: what it begins like]
      --image-opts         the image is given by options: driver=…,file.filename=…
      --object OBJECT      an object that options refer to: secret,id=…,data=… or tls-creds-x509,…
  -o, --offset BYTES       where the export begins in the image [default: 0]
  -r, --read-only          only for reading
  -s, --snapshot           writes go to a temporary overlay and are forgotten
  -l, --load-snapshot ID   an internal snapshot instead of the disk, only for reading
  -A, --allocation-depth   offer the context qemu:allocation-depth
  -B, --bitmap NAME        offer a dirty bitmap as a context; may be given several times
  -n, --nocache            bypass the host's page cache, as --cache=none
      --cache MODE         none, writeback, writethrough, directsync or unsafe
                           [default: writeback]
      --aio MODE           io_uring or threads (native: as io_uring) [default: io_uring]
      --discard MODE       what becomes of TRIM: ignore or unmap [default: ignore]
      --detect-zeroes MODE make writes of zeros sparse: off, on or unmap [default: off]

RUNNING
      --fork               return once clients can come; the server goes on
      --pid-file PATH      write the server's process id there
      --sandbox on|off     confine the program to what it needs [default: on]
  -v, --verbose            say why a client was dropped
  -L, --list               show what the server at --bind and --port or --socket exports
      --tls-hostname NAME  with -L and --tls-creds (endpoint=client): whose certificate the server has
  -h, --help               show this
  -V, --version            show the version

  With LISTEN_PID and LISTEN_FDS in the environment, as systemd sets them for a socket unit, the
  socket is the one that was handed over.

  SIGTERM, SIGINT and SIGHUP end the server; what was written is in the image then.

EXIT STATUS
  0 where all went well, 1 otherwise.

EXAMPLES
  spindle nbd -t -e 4 -k /run/disk.sock -f qcow2 disk.qcow2
  spindle nbd --fork --pid-file /run/nbd.pid -r -f raw disk.raw
  spindle nbd -L -k /run/disk.sock
  spindle nbd -c /dev/nbd0 -f qcow2 disk.qcow2; mount /dev/nbd0p1 /mnt
  spindle nbd -d /dev/nbd0
";

/// A line on standard error that says that clients can come; the parent of a server waits for it.
const READY: &str = "\0ready";
/// Set for a server whose parent waits.
const CHILD: &str = "SPINDLE_NBD_CHILD";

fn said(sentence: impl Into<String>) -> Stop {
    Stop { status: EXIT_INPUT, failure: ImgError::said(sentence).into() }
}

/// A plain number, as C writes them.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

/// What the options say of TLS.
#[derive(Default)]
struct Tls {
    /// `--tls-creds`.
    credentials: Option<String>,
    /// `--tls-hostname`.
    host: Option<String>,
    /// `--tls-authz` was given.
    authorization: bool,
}

impl Tls {
    fn get(&self, endpoint: Endpoint) -> Result<Option<Credentials>, Stop> {
        let Some(id) = &self.credentials else {
            return match self {
                Self { authorization: true, .. } => {
                    Err(said("--tls-authz is not permitted without --tls-creds"))
                }
                Self { host: Some(_), .. } => {
                    Err(said("--tls-hostname is not permitted without --tls-creds"))
                }
                _ => Ok(None),
            };
        };
        let found = tls::get(id, endpoint);
        found.map(Some).map_err(|error| said(format!("Failed to get TLS creds: {error}")))
    }

    fn of_server(&self, device: bool) -> Result<Option<Credentials>, Stop> {
        if self.credentials.is_some() {
            if self.host.is_some() {
                return Err(said("TLS hostname is only supported with export list"));
            }
            if device {
                return Err(said("TLS is not supported with a host device"));
            }
            if self.authorization {
                return Err(said(
                    "--tls-authz is not supported: who has a certificate that ca-cert.pem has \
                     signed may come in",
                ));
            }
        }
        self.get(Endpoint::Server)
    }

    fn of_list(&self) -> Result<Option<Secure>, Stop> {
        if self.credentials.is_some() && self.authorization {
            return Err(said("TLS authorization is incompatible with export list"));
        }
        let credentials = self.get(Endpoint::Client)?;
        Ok(credentials.map(|credentials| Secure { credentials, host: self.host.clone() }))
    }
}

/// What the options say, with what only the command line is about.
struct Given {
    request: ServeRequest,
    host: String,
    port: String,
    socket: Option<PathBuf>,
    by_options: bool,
    fork: bool,
    list: bool,
    disconnect: bool,
    /// Options of an export were given.
    export: bool,
    discard: Option<bool>,
    native: bool,
    /// `--aio` was given.
    aio: bool,
    tls: Tls,
    /// `--sandbox`.
    confined: bool,
    /// -b or -p were given.
    placed: bool,
}

impl Given {
    fn new() -> Self {
        let request = ServeRequest {
            path: PathBuf::new(),
            format: None,
            read_only: false,
            snapshot: false,
            cache: Cache::default(),
            ignore_discard: true,
            detect_zeroes: DetectZeroes::Off,
            threads: false,
            offset: 0,
            address: None,
            device: None,
            name: String::new(),
            description: None,
            shared: 1,
            persistent: false,
            allocation_depth: false,
            bitmaps: Vec::new(),
            load_snapshot: None,
            verbose: false,
            handshake_limit: Some(Duration::from_secs(10)),
            credentials: None,
            pid_file: None,
        };
        Self {
            request,
            host: "0.0.0.0".to_owned(),
            port: "10809".to_owned(),
            socket: None,
            by_options: false,
            fork: false,
            list: false,
            disconnect: false,
            export: false,
            discard: None,
            native: false,
            aio: false,
            tls: Tls::default(),
            confined: true,
            placed: false,
        }
    }

    fn take(&mut self, key: &str, value: String, cached: &mut bool) -> Result<(), Stop> {
        let request = &mut self.request;
        match key {
            "b" => (self.host, self.placed) = (value, true),
            "p" => (self.port, self.placed) = (value, true),
            "k" if !value.starts_with('/') => return Err(said("socket path must be absolute")),
            "k" => self.socket = Some(PathBuf::from(value)),
            "o" => match number(&value) {
                Some(offset) => (request.offset, self.export) = (offset, true),
                None if value.strip_prefix('-').is_some_and(|rest| number(rest).is_some()) => {
                    return Err(said(format!(
                        "Value '{value}' is out of range for parameter 'offset'"
                    )));
                }
                None => return Err(said(format!("Invalid offset '{value}'"))),
            },
            "r" => request.read_only = true,
            "A" => (request.allocation_depth, self.export) = (true, true),
            "B" => {
                request.bitmaps.push(value);
                self.export = true;
            }
            "c" => request.device = Some(PathBuf::from(value)),
            "d" => self.disconnect = true,
            "L" => self.list = true,
            "s" => request.snapshot = true,
            "l" => {
                let which = Which::parse(&value).map_err(|error| said(error.to_string()))?;
                (request.load_snapshot, request.read_only) = (Some(which), true);
            }
            "n" | "cache" if std::mem::replace(cached, true) => {
                return Err(said("-n and --cache can only be specified once"));
            }
            "n" => request.cache.direct = true,
            "cache" => match Cache::parse(&value) {
                Some(cache) => request.cache = cache,
                None => return Err(said(format!("Invalid cache mode `{value}'"))),
            },
            "aio" if std::mem::replace(&mut self.aio, true) => {
                return Err(said("--aio can only be specified once"));
            }
            "aio" => match value.as_str() {
                "threads" => request.threads = true,
                "native" => self.native = true,
                "io_uring" => {}
                _ => return Err(said(format!("Invalid aio mode '{value}'"))),
            },
            "discard" => match value.as_str() {
                "ignore" | "off" => self.discard = Some(false),
                "unmap" | "on" => self.discard = Some(true),
                _ => return Err(said(format!("Invalid discard mode `{value}'"))),
            },
            "detect-zeroes" => {
                request.detect_zeroes = match value.as_str() {
                    "off" => DetectZeroes::Off,
                    "on" => DetectZeroes::On,
                    "unmap" => DetectZeroes::Unmap,
                    _ => {
                        return Err(said(format!(
                            "Failed to parse detect_zeroes mode: invalid parameter value: {value}"
                        )));
                    }
                }
            }
            "e" => match value.parse::<i32>().ok().and_then(|n| usize::try_from(n).ok()) {
                Some(shared) => request.shared = shared,
                None => return Err(said(format!("Invalid shared device number '{value}'"))),
            },
            "f" => request.format = Some(value),
            "t" => request.persistent = true,
            "v" => request.verbose = true,
            "object" => object::add(&value).map_err(said)?,
            "x" if value.len() > NAME_MAX => {
                return Err(said(format!("export name '{value}' too long")));
            }
            "x" => (request.name, self.export) = (value, true),
            "D" if value.len() > NAME_MAX => {
                return Err(said(format!("export description '{value}' too long")));
            }
            "D" => (request.description, self.export) = (Some(value), true),
            "tls-creds" => self.tls.credentials = Some(value),
            "tls-authz" => self.tls.authorization = true,
            "tls-hostname" => self.tls.host = Some(value),
            "selinux-label" => return Err(said("SELinux support not enabled in this binary")),
            "image-opts" => self.by_options = true,
            "sandbox" => self.confined = confinement(&value)?,
            "fork" => self.fork = true,
            "pid-file" => request.pid_file = Some(PathBuf::from(value)),
            "handshake-limit" => match value.parse::<u32>() {
                Ok(0) => request.handshake_limit = None,
                Ok(n) => request.handshake_limit = Some(Duration::from_secs(n.into())),
                Err(_) => return Err(said(format!("Invalid handshake limit '{value}'"))),
            },
            _ => {}
        }
        Ok(())
    }

    fn address(&self) -> Address {
        match &self.socket {
            Some(path) => Address::Unix(path.clone()),
            None => Address::Tcp { host: self.host.clone(), port: self.port.clone() },
        }
    }
}

/// Does what the arguments of `spindle nbd` say.
pub(super) fn run(words: &[OsString]) -> Result<Outcome, Stop> {
    let words: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let parsed = parse(&name(), &words, SHORT, LONG);
    let mut given = Given::new();
    let mut cached = false;
    for found in parsed.found {
        match found {
            Found::Option(key, _) if key == "h" => {
                let text = format!("Usage: {} [OPTIONS]... IMAGE\n{HELP}", prefix());
                return Ok(Outcome::Print { text, status: 0 });
            }
            Found::Option(key, _) if key == "V" => {
                return Ok(Outcome::Print { text: version(), status: 0 });
            }
            Found::Option(key, value) => {
                given.take(&key, value.unwrap_or_default(), &mut cached)?;
            }
            Found::Mistake(sentence) => {
                mistake(&sentence);
                return Err(said(format!("Try `{} --help' for more information.", prefix())));
            }
        }
    }
    if given.list {
        if !parsed.rest.is_empty() {
            return Err(said("List mode is incompatible with a file name"));
        }
        if given.export
            || given.request.shared != 1
            || given.disconnect
            || given.request.device.is_some()
        {
            return Err(said("List mode is incompatible with per-device settings"));
        }
        let secure = given.tls.of_list()?;
        let text = nbd::list(&given.address(), secure.as_ref()).map_err(said)?;
        return Ok(Outcome::Print { text, status: 0 });
    }
    let [image] = parsed.rest.as_slice() else {
        return Err(said(format!(
            "Invalid number of arguments\nTry `{} --help' for more information.",
            prefix()
        )));
    };
    if given.disconnect {
        nbd::disconnect(Path::new(image)).map_err(said)?;
        return Ok(Outcome::Print { text: format!("{image} disconnected\n"), status: 0 });
    }
    given.request.credentials = given.tls.of_server(given.request.device.is_some())?;
    if given.request.device.is_some() && !given.request.verbose {
        given.fork = true;
    }
    if given.request.format.is_some() && given.by_options {
        return Err(said("--image-opts and -f are mutually exclusive"));
    }
    if given.request.detect_zeroes == DetectZeroes::Unmap && given.discard != Some(true) {
        return Err(said(
            "setting detect-zeroes to unmap is not allowed without setting discard operation to \
             unmap",
        ));
    }
    if given.native && !given.request.cache.direct {
        return Err(said(format!(
            "Failed to blk_new_open '{image}': aio=native was specified, but it requires \
             cache.direct=on, which was not specified."
        )));
    }
    let path = if given.by_options { options_path(image) } else { PathBuf::from(image) };
    let activated = activated()?;
    if activated.is_some() && given.fork {
        return Err(said("Socket activation does not go with --fork"));
    }
    if activated.is_some() && (given.placed || given.socket.is_some()) {
        return Err(said(
            "Socket activation does not go with -b, -p and -k: whoever activates has the address",
        ));
    }
    let address = match &given.request.device {
        // The kernel is the client; others may come in where -k says.
        Some(_) => given.socket.clone().map(Address::Unix),
        None => Some(activated.unwrap_or_else(|| given.address())),
    };
    let request = ServeRequest {
        path,
        ignore_discard: given.discard != Some(true),
        address,
        ..given.request
    };
    let is_child = std::env::var_os(CHILD).is_some();
    if given.fork && !is_child {
        return fork();
    }
    let ready = || {
        if is_child {
            // The parent may have been killed.
            let _ = writeln!(std::io::stderr(), "{READY}");
        }
    };
    if given.confined {
        let device = request.device.is_some();
        sandbox::arm(Needs { writes: true, network: true, device });
    }
    nbd::serve(&request, ready).map_err(said)?;
    Ok(Outcome::Exit(0))
}

/// The sockets that systemd hands over (sd_listen_fds(3)): those from descriptor 3 on.
fn activated() -> Result<Option<Address>, Stop> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() && count > 0 => {
            if count > 1 {
                return Err(said(
                    "qemu-nbd does not support socket activation with LISTEN_FDS > 1",
                ));
            }
            Ok(Some(Address::Activated))
        }
        _ => Ok(None),
    }
}

/// Starts the same again as a process of its own, and waits until it serves.
fn fork() -> Result<Outcome, Stop> {
    let failed = |error: std::io::Error| said(format!("Failed to fork: {error}"));
    let mut args = std::env::args_os();
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    let mut child = command
        .args(args)
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    // What it says until then is for our user.
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        match line {
            Ok(line) if line == READY => return Ok(Outcome::Exit(0)),
            Ok(line) => eprintln!("{line}"),
            Err(_) => break,
        }
    }
    let status = child.wait().map_err(failed)?;
    Ok(Outcome::Exit(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_INPUT)))
}
