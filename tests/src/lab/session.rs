//! Commands in the lab: what is sent to the agent in L1 and how its answers are read.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Exit status of a command that ran out of time, as of `timeout(1)`.
pub const TIMED_OUT: i32 = 124;

/// A command for the lab: a program with arguments, where it runs and what it finds in its environment.
#[derive(Debug, Clone)]
pub struct Command {
    argv: Vec<String>,
    directory: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl Command {
    /// A program and its arguments. It runs in the caller's current directory with its environment.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        let environment = std::env::vars().filter(|(name, _)| is_name(name)).collect();
        Self { argv: argv.into_iter().map(Into::into).collect(), directory: None, environment }
    }

    /// A script for `/bin/sh`.
    pub fn shell(script: impl Into<String>) -> Self {
        Self::new(["/bin/sh".to_owned(), "-c".to_owned(), script.into()])
    }

    /// Sets the directory that it runs in.
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Adds a variable to its environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The script that the agent runs.
    pub(super) fn script(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.environment {
            let _ = writeln!(text, "export {name}={}", quote(value));
        }
        let directory = self.directory.clone().or_else(|| std::env::current_dir().ok());
        if let Some(directory) = directory {
            let _ = writeln!(text, "cd {} || exit 125", quote(&directory.to_string_lossy()));
        }
        let words: Vec<String> = self.argv.iter().map(|word| quote(word)).collect();
        let _ = writeln!(text, "exec {}", words.join(" "));
        text
    }
}

/// Whether a shell can take the name of an environment variable.
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A word as a shell reads it back.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What a command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status; 124 if it ran out of time, 128 + N if signal N ended it.
    pub status: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// How long it took, seen from outside.
    pub elapsed: Duration,
}

/// One of the streams that come out of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
    Control,
}

/// Bytes that came out of the lab; none means that the stream has ended.
pub(super) type Event = (Stream, Vec<u8>);

/// Reads a port on a thread of its own until it ends.
pub(super) fn pump(stream: Stream, mut socket: UnixStream, events: Sender<Event>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        loop {
            let count = socket.read(&mut buffer).unwrap_or(0);
            let bytes = buffer[..count].to_vec();
            if events.send((stream, bytes)).is_err() || count == 0 {
                return;
            }
        }
    });
}

/// Passes a stream on up to its end marker, which may arrive in pieces.
#[derive(Debug)]
struct Until {
    marker: Vec<u8>,
    held: Vec<u8>,
    done: bool,
}

impl Until {
    fn new(marker: &str) -> Self {
        Self { marker: marker.as_bytes().to_vec(), held: Vec::new(), done: false }
    }

    /// Takes bytes and returns those that are certainly not part of the marker.
    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        if let Some(at) = find(&self.held, &self.marker) {
            self.done = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = (1..self.marker.len())
            .rev()
            .find(|&length| self.held.ends_with(&self.marker[..length]))
            .unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, kept)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Where a command's output goes while it runs.
pub(super) struct Sinks<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
}

/// Why waiting for the lab ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// A port was closed: L1 or its QEMU ended.
    Ended,
    /// Not even a heartbeat for too long.
    Silent,
}

/// The control port's lines, cut out of its bytes.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    whole: VecDeque<String>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.partial).into_owned();
                self.whole.push_back(line);
                self.partial.clear();
            } else {
                self.partial.push(byte);
            }
        }
    }
}

/// The host's side of the agent's protocol.
#[derive(Debug)]
pub(super) struct Session {
    pub control: UnixStream,
    pub events: Receiver<Event>,
    pub lines: Lines,
    /// The longest time without any sign of life.
    pub patience: Duration,
}

impl Session {
    /// Waits for a line on the control port.
    pub fn wait_line(&mut self, wanted: &str) -> Result<(), Gone> {
        loop {
            while let Some(line) = self.lines.whole.pop_front() {
                if line == wanted {
                    return Ok(());
                }
            }
            let (stream, bytes) = self.next()?;
            if stream == Stream::Control {
                self.lines.push(&bytes);
            }
        }
    }

    /// Starts the command `id` and passes on what it prints until it and all its output have ended.
    pub fn run(
        &mut self,
        id: &str,
        limit: Duration,
        stdin: &str,
        sinks: &mut Sinks<'_>,
    ) -> Result<i32, Gone> {
        let started = Instant::now();
        let request = format!("run {id} {} {stdin}\n", limit.as_secs().max(1));
        self.control.write_all(request.as_bytes()).map_err(|_| Gone::Ended)?;
        let marker = format!("lab-end-{id}\n");
        let (mut out, mut err) = (Until::new(&marker), Until::new(&marker));
        let mut status = None;
        loop {
            if let (Some(status), true, true) = (status, out.done, err.done) {
                return Ok(status);
            }
            // The agent's own limit comes first; this one is for an agent that is stuck.
            if started.elapsed() > limit + self.patience * 2 {
                return Err(Gone::Silent);
            }
            let (stream, bytes) = self.next()?;
            // A reader that went away (a closed pipe) does not end the command.
            match stream {
                Stream::Out => _ = sinks.out.write_all(&out.push(&bytes)),
                Stream::Err => _ = sinks.err.write_all(&err.push(&bytes)),
                Stream::Control => {
                    self.lines.push(&bytes);
                    status = self.exit_status(id).or(status);
                }
            }
            _ = sinks.out.flush();
        }
    }

    fn exit_status(&mut self, id: &str) -> Option<i32> {
        let mut found = None;
        while let Some(line) = self.lines.whole.pop_front() {
            let mut words = line.split(' ');
            if words.next() == Some("exit") && words.next() == Some(id) {
                found = words.next().and_then(|word| word.parse().ok());
            }
        }
        found
    }

    fn next(&mut self) -> Result<Event, Gone> {
        match self.events.recv_timeout(self.patience) {
            Ok((_, bytes)) if bytes.is_empty() => Err(Gone::Ended),
            Ok(event) => Ok(event),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(Gone::Silent),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(Gone::Ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_in_pieces_ends_the_stream_and_is_not_passed_on() {
        for cut in 0..12 {
            let text = b"hello lab-end-7\nlate";
            let mut until = Until::new("lab-end-7\n");
            let mut seen = until.push(&text[..cut]);
            seen.extend(until.push(&text[cut..]));
            assert_eq!(seen, b"hello ", "cut at {cut}");
            assert!(until.done);
        }
    }

    #[test]
    fn what_only_looks_like_a_marker_is_passed_on() {
        let mut until = Until::new("lab-end-7\n");
        let mut seen = until.push(b"lab-end-");
        seen.extend(until.push(b"8\n"));
        assert_eq!(seen, b"lab-end-8\n");
        assert!(!until.done);
    }

    #[test]
    fn a_shell_gets_back_what_was_quoted() {
        let words = ["plain", "two words", "it's", "$HOME `x` \"y\"", ""];
        let mut argv = vec!["printf".to_owned(), "%s\\n".to_owned()];
        argv.extend(words.map(str::to_owned));
        let script = Command::new(argv).env("A", "b'c").directory("/").script();
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), words.join("\n") + "\n");
    }

    #[test]
    fn names_that_a_shell_refuses_are_left_out() {
        assert!(is_name("_A1"));
        assert!(!is_name("1A"));
        assert!(!is_name("BASH_FUNC_x%%"));
        assert!(!is_name(""));
    }
}
