//! One peer's session: bytes in, bytes out, commands for the machine in between.
use super::command::{self, Command, Parsed};
use super::error::QmpError;
use super::stream::{Piece, Splitter, TEXT_LEN_MAX};
use serde_json::{Map, Value, json};

/// How much unsent output may wait before no further command is taken, in bytes.
const OUT_LEN_BUSY: usize = 64 << 10;
/// How much unsent output may wait before the peer is cut off, in bytes.
const OUT_LEN_MAX: usize = 4 << 20;

/// One peer's session.
#[derive(Debug)]
pub(super) struct Session {
    input: Splitter,
    out: Vec<u8>,
    /// How much of `out` was sent.
    sent: usize,
    negotiated: bool,
    pending: Option<Pending>,
    commands_begun: u64,
    broken: bool,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    id: Option<Value>,
}

/// The version that greeting and `query-version` show; `qemu` is where clients look for it.
fn version() -> Value {
    let number = |text: &str| text.parse::<u32>().unwrap_or_default();
    json!({
        "qemu": {
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
        },
        "package": concat!("spindle-", env!("CARGO_PKG_VERSION")),
    })
}

impl Session {
    /// A new session; the greeting is in its output.
    pub(super) fn new() -> Self {
        let mut session = Self {
            input: Splitter::default(),
            out: Vec::new(),
            sent: 0,
            negotiated: false,
            pending: None,
            commands_begun: 0,
            broken: false,
        };
        session.put(&json!({"QMP": {"version": version(), "capabilities": []}}));
        session
    }

    /// Adds bytes from the peer.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if !self.broken {
            self.input.push(bytes);
        }
    }

    /// Whether more bytes are wanted: not while much waits to be looked at or sent.
    pub(super) fn wants_input(&self) -> bool {
        !self.broken && self.input.len() <= TEXT_LEN_MAX && !self.is_busy()
    }

    /// Whether commands wait, for an answer or for the peer to read.
    pub(super) fn is_busy(&self) -> bool {
        self.pending.is_some() || self.unsent().len() > OUT_LEN_BUSY
    }

    /// Whether the session cannot go on: what is unsent should still be sent.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Bytes for the peer.
    pub(super) fn unsent(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    /// Notes that `count` bytes of [`Self::unsent`] were sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.out.len());
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
    }

    /// The next command for the machine and its number. Whatever the session can answer itself is
    /// answered on the way. `None` when there is none, or an earlier one is unanswered.
    pub(super) fn next(&mut self) -> Option<(u64, Command)> {
        while !self.broken && !self.is_busy() {
            match self.input.next()? {
                Piece::Text(text) => {
                    if let Some(command) = self.message(&text) {
                        return Some(command);
                    }
                }
                Piece::Garbage => {
                    let error = QmpError::generic("JSON parse error: a message begins with '{'");
                    self.answer(Err(error), None);
                }
                Piece::TooLarge => {
                    let error = QmpError::generic("JSON parse error: message too long or too deep");
                    self.answer(Err(error), None);
                    self.broken = true;
                }
            }
        }
        None
    }

    /// Answers command `number`; false if it was not waiting for an answer.
    pub(super) fn reply(&mut self, number: u64, answer: Result<Value, QmpError>) -> bool {
        match self.pending.take_if(|pending| pending.number == number) {
            Some(pending) => {
                self.answer(answer, pending.id);
                true
            }
            None => false,
        }
    }

    /// Sends an event, if the session has come to that.
    pub(super) fn event(&mut self, message: &Value) {
        if self.negotiated {
            self.put(message);
        }
    }

    /// One message of the peer; the command in it if it is for the machine.
    fn message(&mut self, text: &[u8]) -> Option<(u64, Command)> {
        let mut id = None;
        match self.parse(text, &mut id) {
            Err(error) => self.answer(Err(error), id),
            Ok(Parsed::Capabilities) => {
                self.negotiated = true;
                self.answer(Ok(json!({})), id);
            }
            Ok(Parsed::QueryVersion) => self.answer(Ok(version()), id),
            Ok(Parsed::QueryCommands) => {
                let names: Vec<Value> =
                    command::names().map(|name| json!({"name": name})).collect();
                self.answer(Ok(Value::Array(names)), id);
            }
            Ok(Parsed::Machine(command)) => {
                self.commands_begun += 1;
                self.pending = Some(Pending { number: self.commands_begun, id });
                return Some((self.commands_begun, *command));
            }
        }
        None
    }

    fn parse(&self, text: &[u8], id: &mut Option<Value>) -> Result<Parsed, QmpError> {
        let value: Value = serde_json::from_slice(text)
            .map_err(|e| QmpError::generic(format!("JSON parse error: {e}")))?;
        let Value::Object(mut message) = value else {
            return Err(QmpError::generic("QMP input must be a JSON object"));
        };
        *id = message.remove("id");
        let name = match message.remove("execute") {
            Some(Value::String(name)) => name,
            Some(_) => {
                return Err(QmpError::generic("QMP input member 'execute' must be a string"));
            }
            None if message.contains_key("exec-oob") => {
                return Err(QmpError::generic("QMP out-of-band execution was not negotiated"));
            }
            None => return Err(QmpError::generic("QMP input lacks member 'execute'")),
        };
        let arguments = match message.remove("arguments") {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => {
                return Err(QmpError::generic("QMP input member 'arguments' must be an object"));
            }
        };
        if let Some(key) = message.keys().next() {
            return Err(QmpError::generic(format!("QMP input member '{key}' is unexpected")));
        }
        if self.negotiated == (name == "qmp_capabilities") {
            return Err(QmpError::command_not_found(if self.negotiated {
                "Capabilities negotiation is already complete, command ignored"
            } else {
                "Expecting capabilities negotiation with 'qmp_capabilities'"
            }));
        }
        command::parse(&name, arguments)
    }

    fn answer(&mut self, answer: Result<Value, QmpError>, id: Option<Value>) {
        let mut message = match answer {
            Ok(value) => json!({"return": value}),
            Err(error) => json!({"error": error}),
        };
        if let Some(id) = id {
            message["id"] = id;
        }
        self.put(&message);
    }

    fn put(&mut self, message: &Value) {
        if self.broken {
            return;
        }
        if self.unsent().len() > OUT_LEN_MAX {
            self.broken = true;
            self.sent(self.out.len());
            return;
        }
        if self.sent > OUT_LEN_BUSY {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        // Writing a `Value` to memory cannot fail: its keys are strings.
        let _ = serde_json::to_writer(&mut self.out, message);
        self.out.extend_from_slice(b"\r\n");
    }
}
