//! `spindle io`: the options of `qemu-io`.
use super::img::names_a_server;
use super::{EXIT_INPUT, Outcome, Stop};
use crate::sandbox::tool::{self as sandbox, Needs};
use crate::tools::getopt::{Found, Long, Takes, long, parse};
use crate::tools::img::ImgError;
use crate::tools::img::error::prefix;
use crate::tools::img::image::Cache;
use crate::tools::img::source::options_path;
use crate::tools::io::{self, IoRequest, OpenRequest};
use std::ffi::OsString;
use std::path::PathBuf;

const SHORT: &str = "hVc:d:f:rsnCmki:t:T:U";

const LONG: &[Long] = &[
    long("help", Takes::Nothing, "h"),
    long("version", Takes::Nothing, "V"),
    long("cmd", Takes::Argument, "c"),
    long("format", Takes::Argument, "f"),
    long("read-only", Takes::Nothing, "r"),
    long("snapshot", Takes::Nothing, "s"),
    long("nocache", Takes::Nothing, "n"),
    long("copy-on-read", Takes::Nothing, "C"),
    long("misalign", Takes::Nothing, "m"),
    long("native-aio", Takes::Nothing, "k"),
    long("aio", Takes::Argument, "i"),
    long("discard", Takes::Argument, "d"),
    long("cache", Takes::Argument, "t"),
    long("trace", Takes::Argument, "T"),
    long("force-share", Takes::Nothing, "U"),
    long("object", Takes::Argument, ""),
    long("image-opts", Takes::Nothing, ""),
    long("sandbox", Takes::Argument, ""),
];

const HELP: &str = "\
Reads, writes and inspects an image by commands, given with -c or typed at a prompt.

OPTIONS
  -c, --cmd COMMAND     run a command; may be given several times
  -f, --format FORMAT   format of the image [default: what it begins like]
      --image-opts      the image is given by options: driver=…,file.filename=…
      --object OBJECT   an object that options refer to: secret,id=…,data=…
  -r, --read-only       only for reading
  -s, --snapshot        writes go to a temporary overlay and are forgotten
  -n, --nocache         bypass the host's page cache, as -t none
  -t, --cache MODE      none, writeback, writethrough, directsync or unsafe [default: writeback]
  -d, --discard MODE    what becomes of discards: ignore or unmap [default: unmap]
  -C, --copy-on-read    what is read from a backing file is kept in the image
  -i, --aio MODE        threads, native or io_uring; io_uring is used where the host has it
  -k, --native-aio      as -i native
  -m, --misalign        nothing: memory is aligned where O_DIRECT needs it
  -T, --trace PATTERN   nothing: there are no trace events
  -U, --force-share     even while somebody else writes to it
      --sandbox on|off  confine the program to what it needs [default: on]
  -h, --help            show this
  -V, --version         show the version

COMMANDS
  'help' lists them, 'help COMMAND' says more. Those most in need:
    read [-P BYTE] [-v] OFFSET LENGTH     write [-P BYTE | -z | -c] OFFSET LENGTH
    discard OFFSET LENGTH                 flush, length, info, map, alloc OFFSET [LENGTH]
    aio_read, aio_write, aio_flush        break, wait_break, resume (over blkdebug)
  Numbers may end in k, M, G, T, P or E, or begin with 0x.

EXIT STATUS
  0 where every command did what it should, 1 otherwise.

EXAMPLES
  spindle io -c 'write -P 0xa5 0 64k' -c 'read -v 512 16' disk.qcow2
  spindle io -r -c map disk.qcow2
  spindle io -f qcow2 -c 'break write_aio A' -c 'aio_write 0 4k' -c 'wait_break A' \\
      -c 'resume A' -c aio_flush blkdebug::disk.qcow2
";

/// What `--help` prints, and what follows a mistake.
fn help() -> String {
    format!("Usage: {} [OPTIONS]... [-c COMMAND]... [IMAGE]\n{HELP}", prefix())
}

fn said(sentence: impl Into<String>) -> Stop {
    Stop { status: EXIT_INPUT, failure: ImgError::said(sentence).into() }
}

/// A mistake in the options, in the C library's words.
pub(super) fn mistake(sentence: &str) {
    eprintln!("{sentence}");
}

/// Does what the arguments of `spindle io` say.
pub(super) fn run(words: &[OsString]) -> Result<Outcome, Stop> {
    let words: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let parsed = parse(&name(), &words, SHORT, LONG);
    let mut request = IoRequest::default();
    let mut open = OpenRequest::default();
    let (mut native, mut confined) = (false, true);
    for found in parsed.found {
        let (key, value) = match found {
            Found::Option(key, value) => (key, value.unwrap_or_default()),
            Found::Mistake(sentence) => {
                mistake(&sentence);
                return Ok(Outcome::Print { text: help(), status: EXIT_INPUT });
            }
        };
        match key.as_str() {
            "h" => return Ok(Outcome::Print { text: help(), status: 0 }),
            "V" => return Ok(Outcome::Print { text: version(), status: 0 }),
            "c" => request.commands.push(value),
            "f" => open.format = Some(value),
            "r" => open.read_only = true,
            "s" => open.snapshot = true,
            "n" => open.cache.direct = true,
            "C" => open.copy_on_read = true,
            "k" => native = true,
            "i" => match value.as_str() {
                "threads" | "io_uring" => native = false,
                "native" => native = true,
                _ => return Err(said(format!("Invalid aio option: {value}"))),
            },
            "d" => match value.as_str() {
                "ignore" | "off" => open.ignore_discard = true,
                "unmap" | "on" => open.ignore_discard = false,
                _ => return Err(said(format!("Invalid discard option: {value}"))),
            },
            "t" => match Cache::parse(&value) {
                Some(cache) => open.cache = cache,
                None => return Err(said(format!("Invalid cache option: {value}"))),
            },
            "U" => open.force_share = true,
            "object" => crate::tools::object::add(&value).map_err(said)?,
            "image-opts" => open.by_options = true,
            "sandbox" => confined = confinement(&value)?,
            _ => {}
        }
    }
    if parsed.rest.len() > 1 {
        return Ok(Outcome::Print { text: help(), status: EXIT_INPUT });
    }
    if open.format.is_some() && open.by_options {
        return Err(said("--image-opts and -f are mutually exclusive"));
    }
    if let Some(image) = parsed.rest.first() {
        if native && !open.cache.direct {
            let place = if open.by_options { String::new() } else { format!(" device {image}") };
            return Err(said(format!(
                "can't open{place}: aio=native was specified, but it requires cache.direct=on, \
                 which was not specified."
            )));
        }
        open.path = if open.by_options { options_path(image) } else { PathBuf::from(image) };
        request.open = Some(open);
    }
    if confined {
        // What it opens is given by commands, later.
        sandbox::arm(Needs { writes: true, network: names_a_server(), device: false });
    }
    let well =
        io::run(request).map_err(|error| Stop { status: EXIT_INPUT, failure: error.into() })?;
    Ok(Outcome::Exit(if well { 0 } else { EXIT_INPUT }))
}

/// `--sandbox`.
pub(super) fn confinement(value: &str) -> Result<bool, Stop> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(said(format!("Invalid sandbox option: {value} (on or off)"))),
    }
}

/// The name that the C library's words begin with: as it was typed.
pub(super) fn name() -> String {
    let typed = std::env::args_os().next().unwrap_or_default();
    let is_tool = std::path::Path::new(&typed)
        .file_name()
        .is_some_and(|n| crate::tools::img::error::NAMES.iter().any(|known| n == *known));
    if is_tool { typed.to_string_lossy().into_owned() } else { prefix().to_owned() }
}

/// What `--version` prints.
pub(super) fn version() -> String {
    format!("{} version {} (spindle)\n", prefix(), env!("CARGO_PKG_VERSION"))
}
