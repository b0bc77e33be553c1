//! The rule files of QEMU's `blkdebug`: `[inject-error]` and `[set-state]` sections of
//! `key = "value"` lines.

use std::{fmt, fs::File, io::Read, path::Path};

use super::debug::{Blkdebug, Event, InjectError, IoType, RULES_MAX, SetState};
use crate::BlockError;

/// The largest file, in bytes.
const LEN_MAX: u64 = 1 << 20;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ConfigError {
    /// The line, from 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[from] std::io::Error),
    /// It is too long, or no text.
    #[error("it is no text of at most 1 MiB")]
    NoText,
    /// Its content.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Reads the rules of a file and adds them to `rules`.
///
/// # Errors
/// When the file cannot be read or is not understood.
pub fn read(path: &Path, rules: &mut Blkdebug) -> Result<(), ReadError> {
    let mut text = Vec::new();
    File::open(path)?.take(LEN_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LEN_MAX {
        return Err(ReadError::NoText);
    }
    let text = std::str::from_utf8(&text).map_err(|_| ReadError::NoText)?;
    Ok(parse(text, rules)?)
}

/// A section as far as it was read.
struct Section<'a> {
    line: usize,
    name: &'a str,
    pairs: Vec<(usize, &'a str, &'a str)>,
}

fn wrong(line: usize, reason: impl fmt::Display) -> ConfigError {
    ConfigError { line, reason: reason.to_string() }
}

/// Adds the rules of a file's text to `rules`.
///
/// # Errors
/// The first line that is not understood.
pub fn parse(text: &str, rules: &mut Blkdebug) -> Result<(), ConfigError> {
    let mut section: Option<Section<'_>> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            finish(section.take(), rules)?;
            // A section may have a name of its own, which means nothing.
            let name = name.split_whitespace().next().unwrap_or_default();
            section = Some(Section { line: number, name, pairs: Vec::new() });
            continue;
        }
        let (key, value) =
            line.split_once('=').ok_or_else(|| wrong(number, "it is no key = \"value\""))?;
        let value = value.trim();
        let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let value = inner.ok_or_else(|| wrong(number, "the value is not in double quotes"))?;
        let section =
            section.as_mut().ok_or_else(|| wrong(number, "it belongs to no [section]"))?;
        section.pairs.push((number, key.trim(), value));
    }
    finish(section, rules)
}

fn finish(section: Option<Section<'_>>, rules: &mut Blkdebug) -> Result<(), ConfigError> {
    let Some(section) = section else { return Ok(()) };
    if rules.inject_error.len() + rules.set_state.len() >= RULES_MAX {
        return Err(wrong(section.line, format_args!("more than {RULES_MAX} rules")));
    }
    match section.name {
        "inject-error" => rules.inject_error.push(inject_error(&section)?),
        "set-state" => rules.set_state.push(set_state(&section)?),
        name => {
            let reason = format_args!("'{name}' is neither inject-error nor set-state");
            return Err(wrong(section.line, reason));
        }
    }
    Ok(())
}

fn inject_error(section: &Section<'_>) -> Result<InjectError, ConfigError> {
    let mut rule = InjectError {
        event: Event::None,
        state: 0,
        iotype: None,
        error: Some(BlockError::Medium),
        sector: None,
        once: false,
    };
    let mut has_event = false;
    for (line, key, value) in section.pairs.iter().copied() {
        match key {
            "event" => (rule.event, has_event) = (event(line, value)?, true),
            "state" => rule.state = number(line, value)?,
            "iotype" => {
                let kind = IoType::named(value);
                rule.iotype = Some(
                    kind.ok_or_else(|| wrong(line, format_args!("unknown iotype '{value}'")))?,
                );
            }
            "errno" => rule.error = error(number(line, value)?),
            "sector" if value == "-1" => rule.sector = None,
            "sector" => rule.sector = Some(number(line, value)?),
            "once" => rule.once = switch(line, value)?,
            // When an error comes without a detour is not told apart here.
            "immediately" => drop(switch(line, value)?),
            _ => return Err(unknown_key(line, key)),
        }
    }
    if has_event { Ok(rule) } else { Err(no_event(section)) }
}

fn set_state(section: &Section<'_>) -> Result<SetState, ConfigError> {
    let (mut of, mut state, mut new_state) = (None, 0, None);
    for (line, key, value) in section.pairs.iter().copied() {
        match key {
            "event" => of = Some(event(line, value)?),
            "state" => state = number(line, value)?,
            "new_state" => new_state = Some(number(line, value)?),
            _ => return Err(unknown_key(line, key)),
        }
    }
    let event = of.ok_or_else(|| no_event(section))?;
    let new_state = new_state.ok_or_else(|| wrong(section.line, "the rule has no new_state"))?;
    Ok(SetState { event, state, new_state })
}

/// The error that a rule's errno stands for; 0: none.
#[must_use]
pub fn error(errno: i32) -> Option<BlockError> {
    (errno != 0).then(|| BlockError::from_errno(errno))
}

fn unknown_key(line: usize, key: &str) -> ConfigError {
    wrong(line, format_args!("unknown key '{key}'"))
}

fn no_event(section: &Section<'_>) -> ConfigError {
    wrong(section.line, "the rule has no event")
}

fn event(line: usize, name: &str) -> Result<Event, ConfigError> {
    Event::named(name).ok_or_else(|| {
        let known = Event::ALL.map(|(name, _)| name).join(", ");
        wrong(line, format_args!("there is no event '{name}' here; known: {known}"))
    })
}

fn number<T: std::str::FromStr>(line: usize, value: &str) -> Result<T, ConfigError> {
    value.parse().map_err(|_| wrong(line, format_args!("'{value}' is not a fitting number")))
}

fn switch(line: usize, value: &str) -> Result<bool, ConfigError> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(wrong(line, format_args!("'{value}' is neither 'on' nor 'off'"))),
    }
}
