//! `spindle io`: requests to an image, one command each, with the commands and the output of
//! `qemu-io`, so that test suites written for that run.
mod breaks;
mod control;
mod data;
mod disk;
mod input;
mod table;
mod text;

use self::disk::Disk;
use self::text::{complain, say};
use super::getopt::{Found, parse};
use super::img::error::prefix;
use super::img::files::on_block_layer;
use spindle_block::Cx;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

pub use self::disk::OpenRequest;

/// A command that failed has said so already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failed;

/// What the command line of `spindle io` says.
#[derive(Clone, Debug, Default)]
pub struct IoRequest {
    /// The image that is open from the start.
    pub open: Option<OpenRequest>,
    /// Each `-c`; none: commands are read from standard input.
    pub commands: Vec<String>,
}

/// Runs the commands. Returns whether all went well; what did not has been said.
///
/// # Errors
///
/// The image cannot be opened, or the host has no ring.
pub fn run(request: IoRequest) -> Result<bool, super::img::ImgError> {
    on_block_layer(|cx| async move {
        let session = Rc::new(Session {
            cx,
            disk: RefCell::new(None),
            aio: Rc::default(),
            quit: Cell::new(false),
        });
        if let Some(open) = request.open
            && session.open(open).await.is_err()
        {
            return Ok(false);
        }
        let mut well = true;
        for command in &request.commands {
            if session.quit.get() {
                break;
            }
            well &= session.command(command).await.is_ok();
        }
        if request.commands.is_empty() {
            well = session.read_commands().await;
        }
        session.end().await;
        Ok(well)
    })
}

/// Requests that nobody waits for yet.
#[derive(Default)]
struct Aio {
    count: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

impl Aio {
    fn begin(&self) {
        self.count.set(self.count.get() + 1);
    }

    fn end(&self) {
        self.count.set(self.count.get() - 1);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    async fn all_ended(&self) {
        std::future::poll_fn(|task| {
            if self.count.get() == 0 {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(task.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

struct Session {
    cx: Cx,
    disk: RefCell<Option<Rc<Disk>>>,
    aio: Rc<Aio>,
    quit: Cell<bool>,
}

impl Session {
    /// Commands from standard input, after a prompt each.
    async fn read_commands(self: &Rc<Self>) -> bool {
        let lines = input::Lines::new();
        let mut well = true;
        while !self.quit.get() {
            say(&format!("{}> ", prefix()));
            let Some(line) = lines.next().await else { break };
            well &= self.command(&line).await.is_ok();
        }
        well
    }

    async fn command(self: &Rc<Self>, line: &str) -> Result<(), Failed> {
        let words: Vec<String> =
            line.split([' ', '\n']).filter(|w| !w.is_empty()).map(str::to_owned).collect();
        let Some((typed, args)) = words.split_first() else { return Ok(()) };
        let Some(command) = table::find(typed) else {
            eprintln!("command \"{typed}\" not found");
            return Err(Failed);
        };
        if !command.anywhere && self.disk.borrow().is_none() {
            eprintln!("no file open, try 'help open'");
            return Err(Failed);
        }
        if let Some(sentence) = command.count(typed, args.len()) {
            eprintln!("{sentence}");
            return Err(Failed);
        }
        let disk = self.disk.borrow().clone();
        if command.writes && disk.as_ref().is_some_and(|disk| !disk.image.writable) {
            return complain("Block node is read-only");
        }
        let result = self.dispatch(command, args, disk).await;
        if let Some(disk) = &*self.disk.borrow() {
            disk.breaks.tell();
        }
        result
    }

    async fn dispatch(
        self: &Rc<Self>,
        command: &'static table::Command,
        args: &[String],
        disk: Option<Rc<Disk>>,
    ) -> Result<(), Failed> {
        match command.name {
            "abort" => std::process::abort(),
            "help" => return table::help(args.first().map(String::as_str)),
            "open" => return self.open_command(command, args).await,
            "quit" => {
                self.quit.set(true);
                return Ok(());
            }
            "sigraise" => return control::raise(args),
            "sleep" => return control::sleep(&self.cx, args).await,
            _ => {}
        }
        let Some(disk) = disk else { return Err(Failed) };
        match command.name {
            "aio_flush" => {
                self.aio.all_ended().await;
                Ok(())
            }
            "aio_read" => self.aio_read(command, args, &disk),
            "aio_write" => self.aio_write(command, args, &disk),
            "alloc" => control::alloc(&self.cx, &disk, args).await,
            "break" => disk.breaks.set(&args[0], &args[1]),
            "close" => {
                drop(disk);
                self.close().await;
                Ok(())
            }
            "discard" => control::discard(&self.cx, &disk, command, args).await,
            "flush" => control::flush(&self.cx, &disk).await,
            "info" => control::info(&self.cx, &disk).await,
            "length" => {
                say(&format!("{}\n", text::amount(disk.image.size() as f64)));
                Ok(())
            }
            "map" => control::map(&self.cx, &disk).await,
            "read" => data::read(&self.cx, &disk, command, args).await,
            "readv" => data::readv(&self.cx, &disk, command, args).await,
            "remove_break" => disk.breaks.remove(&args[0]),
            "reopen" => {
                drop(disk);
                self.reopen(command, args).await
            }
            "resume" => disk.breaks.resume(&args[0]),
            "truncate" => control::truncate(&self.cx, &disk, command, args).await,
            "wait_break" => disk.breaks.wait(&self.cx, &self.aio, &args[0]).await,
            "write" => data::write(&self.cx, &disk, command, args).await,
            "writev" => data::writev(&self.cx, &disk, command, args).await,
            _ => Err(Failed),
        }
    }

    /// What was started is ended, and the image closed.
    async fn end(&self) {
        if let Some(disk) = &*self.disk.borrow() {
            disk.breaks.release_all();
        }
        self.close().await;
    }
}

/// The options of a command, by their letters, and its other arguments.
type Words = (Vec<(char, String)>, Vec<String>);

/// Takes the words behind a command apart; what is wrong with them has been said.
fn options(
    command: &'static table::Command,
    args: &[String],
    short: &str,
) -> Result<Words, Failed> {
    let parsed = parse(command.name, args, short, &[]);
    let mut options = Vec::new();
    for found in parsed.found {
        match found {
            Found::Option(key, value) => {
                let letter = key.chars().next().unwrap_or_default();
                options.push((letter, value.unwrap_or_default()));
            }
            Found::Mistake(sentence) => {
                eprintln!("{sentence}");
                command.usage();
                return Err(Failed);
            }
        }
    }
    Ok((options, parsed.rest))
}
