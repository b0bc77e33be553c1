//! A monitor's client.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Instant,
};

use serde_json::{Value, json};

use super::client::PATIENCE;

/// A connection past its negotiation.
pub struct Qmp {
    lines: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects to the socket, once it is there.
    pub fn connect(path: &Path) -> Self {
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(e) => assert!(start.elapsed() < PATIENCE, "no monitor: {e}"),
            }
            std::thread::yield_now();
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut qmp = Self { lines: BufReader::new(stream), events: VecDeque::new() };
        assert!(qmp.line()["QMP"].is_object());
        qmp.run("qmp_capabilities", json!({}));
        qmp
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    /// Has a command carried out; what it returns, or why it failed.
    pub fn try_run(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let message = json!({ "execute": command, "arguments": arguments });
        self.lines.get_mut().write_all(format!("{message}\n").as_bytes()).unwrap();
        loop {
            let line = self.line();
            if line.get("event").is_some() {
                self.events.push_back(line);
            } else if let Some(error) = line.get("error") {
                return Err(error["desc"].as_str().unwrap().to_owned());
            } else {
                return Ok(line["return"].clone());
            }
        }
    }

    /// Has a command carried out that must succeed.
    pub fn run(&mut self, command: &str, arguments: Value) -> Value {
        self.try_run(command, arguments).unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    /// Waits for an event; its data.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.line(),
            };
            if event["event"] == name {
                return event["data"].clone();
            }
        }
    }
}
