//! The obligation to answer a command, and the mailbox that answers and events travel in.
use super::command::Command;
use super::error::QmpError;
use super::event::Event;
use serde::Serialize;
use serde_json::Value;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::SystemTime;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// What carries out commands: the machine.
pub trait Handler {
    /// Carries out `command` and spends `reply`, now or later, here or on another thread.
    fn handle(&mut self, command: Command, reply: Reply);
}

impl<F: FnMut(Command, Reply)> Handler for F {
    fn handle(&mut self, command: Command, reply: Reply) {
        self(command, reply);
    }
}

/// A machine that other parts of the main loop use too.
#[derive(Debug)]
pub struct Shared<H>(pub Rc<RefCell<H>>);

impl<H: Handler> Handler for Shared<H> {
    fn handle(&mut self, command: Command, reply: Reply) {
        self.0.borrow_mut().handle(command, reply);
    }
}

/// Which command of which peer an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// The connection's number.
    pub(super) connection: u64,
    /// The command's number on it.
    pub(super) command: u64,
}

/// What travels to the server from elsewhere.
#[derive(Debug)]
pub(super) enum Message {
    /// An answer.
    Answer(Token, Result<Value, QmpError>),
    /// An event and when it happened.
    Event(Event, SystemTime),
}

/// The sending end of the server's mailbox.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    sender: Sender<Message>,
    doorbell: Arc<EventFd>,
}

impl Mailbox {
    /// A mailbox: the sending end, the receiving end, and the eventfd that tells of messages.
    pub(super) fn new() -> io::Result<(Self, Receiver<Message>, Arc<EventFd>)> {
        let doorbell = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        let (sender, receiver) = channel();
        Ok((Self { sender, doorbell: Arc::clone(&doorbell) }, receiver, doorbell))
    }

    pub(super) fn put(&self, message: Message) {
        // Both fail only when the server is gone or rung already; then nobody misses anything.
        if self.sender.send(message).is_ok() {
            let _ = self.doorbell.write(1);
        }
    }
}

/// The obligation to answer one command. Dropped unspent, it answers with an error.
#[derive(Debug)]
#[must_use = "the peer waits for an answer"]
pub struct Reply {
    token: Token,
    mailbox: Option<Mailbox>,
}

impl Reply {
    pub(super) fn new(token: Token, mailbox: Mailbox) -> Self {
        Self { token, mailbox: Some(mailbox) }
    }

    /// A reply, and where its answer comes out.
    #[cfg(test)]
    pub(crate) fn tapped() -> (Self, impl Fn() -> Option<Result<Value, QmpError>>) {
        let (mailbox, receiver, _) = Mailbox::new().expect("an eventfd");
        let reply = Self::new(Token { connection: 0, command: 0 }, mailbox);
        let answer = move || match receiver.try_recv().ok()? {
            Message::Answer(_, answer) => Some(answer),
            Message::Event(..) => None,
        };
        (reply, answer)
    }

    /// Answers `{}`: done.
    pub fn done(self) {
        self.spend(Ok(Value::Object(serde_json::Map::new())));
    }

    /// Answers with a value.
    pub fn value(self, value: &impl Serialize) {
        let value = serde_json::to_value(value);
        self.spend(value.map_err(|e| QmpError::generic(format!("cannot show the answer: {e}"))));
    }

    /// Answers with an error.
    pub fn error(self, error: QmpError) {
        self.spend(Err(error));
    }

    /// Answers with what came out: `{}` or an error.
    pub fn result(self, result: Result<(), QmpError>) {
        match result {
            Ok(()) => self.done(),
            Err(error) => self.error(error),
        }
    }

    fn spend(mut self, answer: Result<Value, QmpError>) {
        if let Some(mailbox) = self.mailbox.take() {
            mailbox.put(Message::Answer(self.token, answer));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(mailbox) = self.mailbox.take() {
            let error = QmpError::generic("the machine ended before the command was done");
            mailbox.put(Message::Answer(self.token, Err(error)));
        }
    }
}
