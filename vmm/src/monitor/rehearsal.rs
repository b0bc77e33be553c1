//! A monitor without a machine: what the protocol alone makes of a peer's words.

use super::{QmpError, session::Session};

/// Bytes that arrive at once.
const PART: usize = 1500;

/// Everything that a monitor answers to a peer that sends `bytes`. Commands of a machine are parsed,
/// and answered with an error: there is none.
#[must_use]
pub fn rehearse(bytes: &[u8]) -> Vec<u8> {
    let mut session = Session::new();
    let mut said = Vec::new();
    for part in bytes.chunks(PART) {
        session.receive(part);
        loop {
            let command = session.next();
            said.extend_from_slice(session.unsent());
            let sent = session.unsent().len();
            session.sent(sent);
            match command {
                Some((number, command)) => {
                    let error = QmpError::generic(format!("no machine to carry out {command:?}"));
                    session.reply(number, Err(error));
                }
                // A peer that reads is sent what is left, and more is looked at.
                None if sent == 0 => break,
                None => {}
            }
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_answered_in_order() {
        let said = rehearse(
            b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"stop\",\"id\":1}{\"execute\":\"no\",\"id\":2}",
        );
        let text = String::from_utf8(said).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].contains("QMP") && lines[1].contains("return"));
        assert!(lines[2].contains("no machine to carry out Stop") && lines[2].contains("\"id\":1"));
        assert!(lines[3].contains("CommandNotFound") && lines[3].contains("\"id\":2"));
    }
}
