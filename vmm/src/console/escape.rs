//! What is typed: bytes for the guest, Ctrl-A commands, and a small prompt.

/// Ctrl-A.
const ESCAPE: u8 = 0x01;
const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const CTRL_U: u8 = 0x15;
const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
/// The longest line of the prompt.
const LINE_LEN_MAX: usize = 256;
const PROMPT: &str = "(spindle) ";

const KEYS_HELP: &str = "\r\nCtrl-A x  leave\r\nCtrl-A c  prompt, and back\r\n\
                         Ctrl-A h  this help\r\nCtrl-A Ctrl-A  Ctrl-A for the guest\r\n";
const PROMPT_HELP: &str = "cont  let the machine run\nstop  pause the machine\n\
                           info  show its state and disks\nquit  end it at once\n\
                           Ctrl-A c or Ctrl-D  back to the console\n";

/// What typed bytes come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bytes for the guest.
    Guest(Vec<u8>),
    /// Bytes to show on the terminal.
    Show(Vec<u8>),
    /// Something for the machine. What it answers is shown through [`Escape::answer`].
    Command(PromptCommand),
}

/// Something for the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptCommand {
    /// Let it run.
    Cont,
    /// Pause it.
    Stop,
    /// Say what state it is in.
    Info,
    /// End it.
    Quit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Bytes go to the guest.
    #[default]
    Console,
    /// A prompt is open.
    Prompt,
}

/// The keys of the console, a state machine.
#[derive(Debug, Default)]
pub struct Escape {
    state: State,
    /// The last byte was Ctrl-A.
    escaped: bool,
    line: Vec<u8>,
}

impl Escape {
    /// Takes typed bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        for &byte in bytes {
            if std::mem::take(&mut self.escaped) {
                self.escaped_key(byte, &mut actions);
            } else if byte == ESCAPE {
                self.escaped = true;
            } else if self.state == State::Prompt {
                self.prompt_key(byte, &mut actions);
            } else {
                guest(&mut actions, byte);
            }
        }
        actions
    }

    /// What to show for the machine's answer to a command: the text, and the prompt if it is
    /// still open.
    #[must_use]
    pub fn answer(&self, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for line in text.lines() {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if self.state == State::Prompt {
            out.extend_from_slice(PROMPT.as_bytes());
        }
        out
    }

    fn escaped_key(&mut self, byte: u8, actions: &mut Vec<Action>) {
        match byte {
            b'x' | b'X' => actions.push(Action::Command(PromptCommand::Quit)),
            b'c' | b'C' => self.toggle(actions),
            b'h' | b'H' | b'?' => {
                show(actions, KEYS_HELP.as_bytes());
                show(actions, &self.answer(""));
            }
            ESCAPE | b'a' if self.state == State::Console => guest(actions, ESCAPE),
            // Not one of ours: dropped, as in QEMU.
            _ => {}
        }
    }

    fn toggle(&mut self, actions: &mut Vec<Action>) {
        self.line.clear();
        show(actions, b"\r\n");
        self.state = match self.state {
            State::Console => State::Prompt,
            State::Prompt => State::Console,
        };
        show(actions, &self.answer(""));
    }

    fn prompt_key(&mut self, byte: u8, actions: &mut Vec<Action>) {
        match byte {
            b'\r' | b'\n' => {
                show(actions, b"\r\n");
                let line = std::mem::take(&mut self.line);
                self.command(&String::from_utf8_lossy(&line), actions);
            }
            BACKSPACE | DELETE if self.line.pop().is_some() => show(actions, b"\x08 \x08"),
            CTRL_D if self.line.is_empty() => self.toggle(actions),
            CTRL_C | CTRL_U => {
                self.line.clear();
                show(actions, b"\r\n");
                show(actions, &self.answer(""));
            }
            // Letters only: an arrow key's sequence would otherwise end up in the line.
            b' '..=b'~' if self.line.len() < LINE_LEN_MAX => {
                self.line.push(byte);
                show(actions, &[byte]);
            }
            _ => {}
        }
    }

    fn command(&mut self, line: &str, actions: &mut Vec<Action>) {
        let command = match line.trim() {
            "" => {
                show(actions, &self.answer(""));
                return;
            }
            "cont" | "c" => PromptCommand::Cont,
            "stop" | "s" => PromptCommand::Stop,
            "info" | "i" => PromptCommand::Info,
            "quit" | "q" | "exit" => PromptCommand::Quit,
            "help" | "?" => {
                show(actions, &self.answer(PROMPT_HELP));
                return;
            }
            other => {
                let near = crate::spec::names::near(other, ["cont", "stop", "info", "quit"]);
                let hint = crate::spec::names::did_you_mean(&near);
                let text = format!("unknown command '{other}'{hint} (try help)");
                show(actions, &self.answer(&text));
                return;
            }
        };
        actions.push(Action::Command(command));
    }
}

fn guest(actions: &mut Vec<Action>, byte: u8) {
    match actions.last_mut() {
        Some(Action::Guest(bytes)) => bytes.push(byte),
        _ => actions.push(Action::Guest(vec![byte])),
    }
}

fn show(actions: &mut Vec<Action>, text: &[u8]) {
    match actions.last_mut() {
        _ if text.is_empty() => {}
        Some(Action::Show(bytes)) => bytes.extend_from_slice(text),
        _ => actions.push(Action::Show(text.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(actions: &[Action]) -> String {
        let bytes: Vec<u8> = actions
            .iter()
            .flat_map(|action| match action {
                Action::Show(bytes) => bytes.clone(),
                _ => vec![],
            })
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn everything_but_ctrl_a_goes_to_the_guest() {
        let mut escape = Escape::default();
        assert_eq!(escape.feed(b"ls\r\x03\x1b[A"), [Action::Guest(b"ls\r\x03\x1b[A".to_vec())]);
        assert_eq!(escape.feed(b"\x01"), []);
        assert_eq!(escape.feed(b"\x01a"), [Action::Guest(b"\x01a".to_vec())]);
        assert_eq!(escape.feed(b"\x01z1"), [Action::Guest(b"1".to_vec())]);
        assert_eq!(escape.feed(b"\x01x"), [Action::Command(PromptCommand::Quit)]);
        assert!(shown(&escape.feed(b"\x01h")).contains("Ctrl-A x"));
    }

    #[test]
    fn the_prompt_takes_lines_and_gives_the_guest_back() {
        let mut escape = Escape::default();
        assert_eq!(shown(&escape.feed(b"\x01c")), "\r\n(spindle) ");
        let actions = escape.feed(b"sx\x7ftop\r");
        assert_eq!(actions.last(), Some(&Action::Command(PromptCommand::Stop)));
        assert_eq!(shown(&actions), "sx\x08 \x08top\r\n");
        assert_eq!(escape.answer("paused\n"), b"paused\r\n(spindle) ");
        for (line, command) in [
            ("cont", PromptCommand::Cont),
            ("info", PromptCommand::Info),
            (" quit ", PromptCommand::Quit),
        ] {
            let actions = escape.feed(format!("{line}\r").as_bytes());
            assert_eq!(actions.last(), Some(&Action::Command(command)));
        }
        assert!(shown(&escape.feed(b"stpo\r")).contains("did you mean 'stop'"));
        assert!(shown(&escape.feed(b"help\r")).contains("pause the machine\r\n"));
        assert_eq!(shown(&escape.feed(b"junk\x15\r")), "junk\r\n(spindle) \r\n(spindle) ");
        assert_eq!(escape.feed(b"\x1b"), []);
        assert_eq!(shown(&escape.feed(b"\x04")), "\r\n");
        assert_eq!(escape.feed(b"ls"), [Action::Guest(b"ls".to_vec())]);
        assert_eq!(escape.answer("late"), b"late\r\n");
    }

    proptest! {
        #[test]
        fn how_bytes_arrive_does_not_matter(bytes in proptest::collection::vec(
            prop_oneof![Just(1_u8), Just(b'c'), Just(b'\r'), any::<u8>()], 0..100,
        )) {
            let flat = |actions: Vec<Action>| -> Vec<String> {
                actions.iter().flat_map(|action| match action {
                    Action::Guest(b) => b.iter().map(|b| format!("g{b}")).collect(),
                    Action::Show(b) => b.iter().map(|b| format!("s{b}")).collect(),
                    Action::Command(c) => vec![format!("{c:?}")],
                }).collect()
            };
            let whole = flat(Escape::default().feed(&bytes));
            let mut one = Escape::default();
            let single: Vec<String> = bytes.iter().flat_map(|b| flat(one.feed(&[*b]))).collect();
            prop_assert_eq!(whole, single);
        }
    }
}
