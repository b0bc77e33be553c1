//! A small QMP client, for tests that drive a monitor.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::LabError;

/// How long a monitor may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A negotiated QMP connection.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    reader: BufReader<UnixStream>,
    events: VecDeque<Value>,
    next_id: u64,
}

impl Qmp {
    /// Connects to a monitor that listens at `path`, waiting for it to appear, and negotiates.
    ///
    /// # Errors
    ///
    /// [`LabError`] if nobody listens there in time or the greeting is not one.
    pub fn connect(path: &Path) -> Result<Self, LabError> {
        let started = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if started.elapsed() > PATIENCE => {
                    return Err(LabError::file("connect to the monitor at", path)(error));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(LabError::file("set up the connection to", path))?;
        let reader = BufReader::new(stream);
        let mut qmp = Self { path: path.to_owned(), reader, events: VecDeque::new(), next_id: 1 };
        let greeting = qmp.receive()?;
        if greeting.get("QMP").is_none() {
            return Err(LabError::Broken(format!("the monitor greets with {greeting}")));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    ///
    /// # Errors
    ///
    /// [`LabError::Broken`] with the monitor's own words if it refuses.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, LabError> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        self.reader
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())
            .map_err(LabError::file("write to", &self.path))?;
        loop {
            let mut answer = self.receive()?;
            if answer.get("event").is_some() {
                self.events.push_back(answer);
            } else if answer["id"] != json!(id) {
                return Err(LabError::Broken(format!("an answer to another request: {answer}")));
            } else if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            } else {
                return Err(LabError::Broken(format!("{command} fails: {}", answer["error"])));
            }
        }
    }

    /// Waits for an event, skipping others, and returns its data.
    ///
    /// # Errors
    ///
    /// [`LabError`] if it does not come within 30 s of silence or the monitor goes away.
    pub fn wait_event(&mut self, name: &str) -> Result<Value, LabError> {
        loop {
            let mut event = match self.events.pop_front() {
                Some(event) => event,
                None => self.receive()?,
            };
            if event["event"] == json!(name) {
                return Ok(event["data"].take());
            }
        }
    }

    fn receive(&mut self) -> Result<Value, LabError> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).map_err(LabError::file("read", &self.path))?;
        if read == 0 {
            return Err(LabError::Broken(format!(
                "the monitor at {} closed the connection",
                self.path.display()
            )));
        }
        serde_json::from_str(&line)
            .map_err(|error| LabError::Broken(format!("the monitor sent {line:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A monitor that says `lines` one after another, each after one line of the client's; first of all the
    /// greeting.
    fn monitor(lines: &'static [&'static str]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
            writeln!(stream, r#"{{"QMP": {{}}}}"#).unwrap();
            writeln!(stream, r#"{{"return": {{}}, "id": 1}}"#).unwrap();
            requests.next();
            for line in lines {
                requests.next();
                writeln!(stream, "{line}").unwrap();
            }
        });
        (directory, path)
    }

    #[test]
    fn an_event_before_the_answer_is_kept() {
        let (_directory, path) =
            monitor(&["{\"event\": \"STOP\", \"data\": {\"a\": 1}}\n{\"return\": 5, \"id\": 2}"]);
        let mut qmp = Qmp::connect(&path).unwrap();
        assert_eq!(qmp.execute("x", json!({})).unwrap(), json!(5));
        assert_eq!(qmp.wait_event("STOP").unwrap(), json!({ "a": 1 }));
    }

    #[test]
    fn a_refusal_is_an_error_with_the_monitors_words() {
        let (_directory, path) = monitor(&[r#"{"error": {"desc": "no such node"}, "id": 2}"#]);
        let mut qmp = Qmp::connect(&path).unwrap();
        let error = qmp.execute("x", json!({})).unwrap_err();
        assert!(error.to_string().contains("no such node"), "{error}");
    }
}
