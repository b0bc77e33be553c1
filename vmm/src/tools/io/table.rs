//! The commands: their names, arguments and descriptions.
use super::Failed;
use super::text::say;

/// A command.
#[derive(Debug)]
pub(super) struct Command {
    pub name: &'static str,
    pub short: Option<&'static str>,
    /// How few words may follow it.
    pub least: usize,
    /// How many words may follow it; `None`: any.
    pub most: Option<usize>,
    /// It needs no open image.
    pub anywhere: bool,
    /// It writes.
    pub writes: bool,
    /// Its arguments; `None` where there is nothing to say of them.
    pub args: Option<&'static str>,
    pub line: &'static str,
    pub help: &'static [&'static str],
}

const PLAIN: Command = Command {
    name: "",
    short: None,
    least: 0,
    most: Some(0),
    anywhere: false,
    writes: false,
    args: None,
    line: "",
    help: &[],
};

const STATISTICS: &str = "-C  print the figures separated by commas";
const QUIET: &str = "-q  print no figures";
const DUMP: &str = "-v  print what was read";
const VERIFY: &str = "-P  compare what was read with this byte";
const FILL: &str = "-P  write this byte instead of 0xcd";
const FUA: &str = "-f  the data is durable when the command ends";
const ZEROES: &str = "-z  write zeros without data";
const UNMAP: &str = "-u  with -z: the space may be given back";
const INVALID: &str = "-i  only count an invalid request";
const REGISTER: &str = "-r  nothing: memory needs no registering";

/// All, in the order of their names.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "abort",
        anywhere: true,
        line: "simulate a program crash using abort(3)",
        ..PLAIN
    },
    Command { name: "aio_flush", line: "completes all outstanding aio requests", ..PLAIN },
    Command {
        name: "aio_read",
        least: 2,
        most: None,
        args: Some("[-Ciqrv] [-P pattern] off len [len..]"),
        line: "asynchronously reads a number of bytes",
        help: &[
            "Starts a read into one buffer for each length, and does not wait for it.",
            STATISTICS,
            VERIFY,
            INVALID,
            DUMP,
            REGISTER,
            QUIET,
        ],
        ..PLAIN
    },
    Command {
        name: "aio_write",
        least: 2,
        most: None,
        writes: true,
        args: Some("[-Cfiqruz] [-P pattern] off len [len..]"),
        line: "asynchronously writes a number of bytes",
        help: &[
            "Starts a write from one buffer for each length, and does not wait for it.",
            FILL,
            STATISTICS,
            FUA,
            INVALID,
            QUIET,
            UNMAP,
            ZEROES,
        ],
        ..PLAIN
    },
    Command {
        name: "alloc",
        short: Some("a"),
        least: 1,
        most: Some(2),
        args: Some("offset [count]"),
        line: "checks if offset is allocated in the file",
        ..PLAIN
    },
    Command {
        name: "break",
        least: 2,
        most: Some(2),
        args: Some("event tag"),
        line: "sets a breakpoint on event and tags the stopped request as tag",
        ..PLAIN
    },
    Command { name: "close", short: Some("c"), line: "close the current open file", ..PLAIN },
    Command {
        name: "discard",
        short: Some("d"),
        least: 2,
        most: None,
        writes: true,
        args: Some("[-Cq] off len"),
        line: "discards a number of bytes at a specified offset",
        help: &["Says that nobody needs these bytes any more.", STATISTICS, QUIET],
        ..PLAIN
    },
    Command {
        name: "flush",
        short: Some("f"),
        line: "flush all in-core file state to disk",
        ..PLAIN
    },
    Command {
        name: "help",
        short: Some("?"),
        most: Some(1),
        anywhere: true,
        args: Some("[command]"),
        line: "help for one or all commands",
        ..PLAIN
    },
    Command {
        name: "info",
        short: Some("i"),
        line: "prints information about the current file",
        ..PLAIN
    },
    Command {
        name: "length",
        short: Some("l"),
        line: "gets the length of the current file",
        ..PLAIN
    },
    Command { name: "map", args: Some(""), line: "prints the allocated areas of a file", ..PLAIN },
    Command {
        name: "open",
        short: Some("o"),
        least: 1,
        most: None,
        anywhere: true,
        args: Some("[-rsCnkU] [-t cache] [-d discard] [-o options] [path]"),
        line: "open the file specified by path",
        help: &[
            "Opens an image for the commands that follow.",
            "-r  only for reading",
            "-s  writes go to a temporary overlay",
            "-C  what is read from the backing file is kept in the image",
            "-n  as -t none",
            "-U  even while somebody else writes to it",
            "-k  as -i native",
            "-i  threads, native or io_uring",
            "-t  the cache mode",
            "-d  ignore or unmap",
            "-o  options of the block driver",
        ],
        ..PLAIN
    },
    Command {
        name: "quit",
        short: Some("q"),
        most: None,
        anywhere: true,
        line: "exit the program",
        ..PLAIN
    },
    Command {
        name: "read",
        short: Some("r"),
        least: 2,
        most: None,
        args: Some("[-abCqrv] [-P pattern [-s off] [-l len]] off len"),
        line: "reads a number of bytes at a specified offset",
        help: &[
            "-b  the VM state instead of the disk",
            STATISTICS,
            "-l  how many bytes -P compares",
            "-p  nothing",
            VERIFY,
            QUIET,
            "-s  where -P begins to compare",
            DUMP,
        ],
        ..PLAIN
    },
    Command {
        name: "readv",
        least: 2,
        most: None,
        args: Some("[-Cqrv] [-P pattern] off len [len..]"),
        line: "reads a number of bytes at a specified offset",
        help: &["Reads into one buffer for each length.", STATISTICS, VERIFY, DUMP, QUIET],
        ..PLAIN
    },
    Command {
        name: "remove_break",
        least: 1,
        most: Some(1),
        args: Some("tag"),
        line: "remove a breakpoint by tag",
        ..PLAIN
    },
    Command {
        name: "reopen",
        most: None,
        args: Some("[(-r|-w)] [-c cache] [-o options]"),
        line: "reopens an image with new options",
        help: &[
            "-r  only for reading",
            "-w  for writing",
            "-c  the cache mode",
            "-o  options of the block driver",
        ],
        ..PLAIN
    },
    Command {
        name: "resume",
        least: 1,
        most: Some(1),
        args: Some("tag"),
        line: "resumes the request tagged as tag",
        ..PLAIN
    },
    Command {
        name: "sigraise",
        least: 1,
        most: Some(1),
        anywhere: true,
        args: Some("signal"),
        line: "raises a signal",
        help: &["Sends the signal of this number to the program itself."],
        ..PLAIN
    },
    Command {
        name: "sleep",
        least: 1,
        most: Some(1),
        anywhere: true,
        line: "waits for the given value in milliseconds",
        ..PLAIN
    },
    Command {
        name: "truncate",
        short: Some("t"),
        least: 1,
        most: Some(3),
        writes: true,
        args: Some("[-m prealloc_mode] off"),
        line: "truncates the current file at the given offset",
        ..PLAIN
    },
    Command {
        name: "wait_break",
        least: 1,
        most: Some(1),
        args: Some("tag"),
        line: "waits for the suspension of a request",
        ..PLAIN
    },
    Command {
        name: "write",
        short: Some("w"),
        least: 2,
        most: None,
        writes: true,
        args: Some("[-bcCfnqruz] [-P pattern | -s source_file] off len"),
        line: "writes a number of bytes at a specified offset",
        help: &[
            "-b  the VM state instead of the disk",
            "-c  compressed",
            FUA,
            "-n  with -z: only if that is quicker than writing",
            "-p  nothing",
            FILL,
            "-s  write what this file holds, over and over",
            STATISTICS,
            QUIET,
            UNMAP,
            ZEROES,
        ],
        ..PLAIN
    },
    Command {
        name: "writev",
        least: 2,
        most: None,
        writes: true,
        args: Some("[-Cfqr] [-P pattern] off len [len..]"),
        line: "writes a number of bytes at a specified offset",
        help: &["Writes from one buffer for each length.", FILL, STATISTICS, FUA, QUIET],
        ..PLAIN
    },
];

/// The command of this name.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name || command.short == Some(name))
}

impl Command {
    /// What is printed where its options or arguments are wrong.
    pub fn usage(&self) {
        say(&format!("{} {} -- {}\n", self.name, self.args.unwrap_or_default(), self.line));
    }

    fn one_line(&self, name: &str) -> String {
        let args = self.args.map_or(String::new(), |args| format!("{args} "));
        format!("{name} {args}-- {}\n", self.line)
    }

    /// `bad argument count …`, if there are too few or too many.
    pub fn count(&self, typed: &str, count: usize) -> Option<String> {
        let expected = match self.most {
            _ if count < self.least || self.most.is_some_and(|most| count > most) => {
                match self.most {
                    None => format!("at least {}", self.least),
                    Some(most) if most == self.least => most.to_string(),
                    Some(most) => format!("between {} and {most}", self.least),
                }
            }
            _ => return None,
        };
        Some(format!("bad argument count {count} to {typed}, expected {expected} arguments"))
    }
}

/// `help`.
pub(super) fn help(name: Option<&str>) -> Result<(), Failed> {
    let Some(name) = name else {
        let lines: String = COMMANDS.iter().map(|c| c.one_line(c.name)).collect();
        say(&format!("{lines}\nUse 'help commandname' for extended help.\n"));
        return Ok(());
    };
    let Some(command) = find(name) else {
        say(&format!("command {name} not found\n"));
        return Err(Failed);
    };
    let mut text = command.one_line(name);
    if !command.help.is_empty() {
        text.push('\n');
        for line in command.help {
            text += &format!(" {line}\n");
        }
        text.push('\n');
    }
    say(&text);
    Ok(())
}
