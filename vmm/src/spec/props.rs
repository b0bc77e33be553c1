//! Property tables: one row per property drives parsing, `help`, near-name errors and the
//! documentation alike.
use super::error::SpecError;
use super::keyval::Options;
use super::names::{id_wellformed, near};
use super::size;
use serde_json::{Map, Value};

/// The type of a property's value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `on` or `off`.
    Bool,
    /// A switch of which only this setting is supported.
    Only(bool),
    /// `on`, `off` or `auto`.
    OnOffAuto,
    /// A number within bounds, decimal or `0x…`.
    Uint {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A number of bytes within bounds, with an optional suffix.
    Size {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A number of bytes that must be a power of two within bounds (a block size).
    BlockSize {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// Any text of at most this many bytes.
    Str {
        /// Longest text, in bytes.
        len_max: usize,
    },
    /// The name of a file.
    Path,
    /// One of these words.
    Enum(&'static [&'static str]),
    /// The id of an object or the name of a node.
    Id,
    /// A node name, or nothing at all (JSON `null`, or empty).
    IdOrNull,
    /// A place on the PCI bus: `SLOT` or `SLOT.FUNCTION`, hexadecimal as in QEMU.
    PciAddr,
    /// Properties of their own, one level down.
    Group(&'static [Prop]),
    /// A list of groups, in JSON or as `name.0.key=value`.
    Groups(&'static [Prop]),
    /// A list of numbers, in JSON or as `name.0=value`.
    Uints {
        /// Largest element.
        max: u64,
    },
}

/// One property.
#[derive(Clone, Copy, Debug)]
pub struct Prop {
    /// Its name, as QEMU has it where QEMU has one.
    pub name: &'static str,
    /// Other spellings accepted for it.
    pub aliases: &'static [&'static str],
    /// The type of its value.
    pub kind: Kind,
    /// The value when it is not given, as one would type it; `None` if it then is absent.
    pub default: Option<&'static str>,
    /// Whether leaving it out is an error.
    pub required: bool,
    /// Whether its value is checked and then forgotten: a property of QEMU that has only one
    /// meaning here. `help` does not show it.
    pub ignored: bool,
    /// What it does, in a few words.
    pub help: &'static str,
}

/// A row without a default.
#[must_use]
pub const fn prop(name: &'static str, kind: Kind, help: &'static str) -> Prop {
    Prop { name, aliases: &[], kind, default: None, required: false, ignored: false, help }
}

impl Prop {
    /// The same row with a default value.
    #[must_use]
    pub const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    /// The same row, required.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The same row, checked and forgotten.
    #[must_use]
    pub const fn ignored(mut self) -> Self {
        self.ignored = true;
        self
    }

    /// The same row with more spellings.
    #[must_use]
    pub const fn alias(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Whether `name` is this property's name or another spelling of it.
    #[must_use]
    pub fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

/// How strictly values are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Command line and configuration files: text stands for numbers, sizes and switches too.
    Lenient,
    /// QMP: a number is a JSON number, a switch is `true` or `false`.
    Strict,
}

/// A table of properties and whose they are.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// What the thing is: `device`, `blockdev driver`, `object`.
    pub what: &'static str,
    /// Its name: `virtio-blk-pci`.
    pub name: &'static str,
    /// What it is good for, in one line.
    pub help: &'static str,
    /// Its properties.
    pub props: &'static [Prop],
}

impl Table {
    /// Checks `options` against the table and returns them with their proper types, real names
    /// and defaults filled in, in the order of the table.
    ///
    /// # Errors
    ///
    /// An unknown name (with near ones), a value that does not fit, a missing required property.
    pub fn apply(&self, options: Options, mode: Mode) -> Result<Options, SpecError> {
        let of = format!("{} '{}'", self.what, self.name);
        apply(&of, self.props, options, mode)
    }
}

/// [`Table::apply`] for bare rows; `of` names their owner in errors.
///
/// # Errors
///
/// As [`Table::apply`].
pub fn apply(of: &str, props: &[Prop], options: Options, mode: Mode) -> Result<Options, SpecError> {
    let mut given = Map::new();
    for (name, value) in options {
        let row = props.iter().find(|p| p.answers_to(&name)).ok_or_else(|| SpecError::Unknown {
            of: of.to_owned(),
            what: if mode == Mode::Strict { "argument" } else { "property" },
            near: near(&name, props.iter().map(|p| p.name)),
            name: name.clone(),
        })?;
        if given.insert(row.name.to_owned(), convert(of, row, value, mode)?).is_some() {
            return Err(SpecError::bad(of, row.name, "it is given twice"));
        }
    }
    let mut complete = Map::new();
    for row in props {
        let value = match (given.remove(row.name), row.default) {
            (Some(_), _) if row.ignored => continue,
            (Some(value), _) => value,
            (None, Some(text)) => convert(of, row, Value::String(text.to_owned()), Mode::Lenient)?,
            (None, None) if row.required => {
                return Err(SpecError::Missing {
                    of: of.to_owned(),
                    name: row.name.to_owned(),
                    help: row.help.to_owned(),
                });
            }
            (None, None) => match row.kind {
                Kind::Group(rows) if !rows.iter().any(|r| r.required) => {
                    Value::Object(apply(of, rows, Map::new(), mode)?)
                }
                _ => continue,
            },
        };
        complete.insert(row.name.to_owned(), value);
    }
    Ok(complete)
}

/// The value of `row` in its proper type.
fn convert(of: &str, row: &Prop, value: Value, mode: Mode) -> Result<Value, SpecError> {
    let bad = |reason: String| SpecError::bad(of, row.name, reason);
    match (row.kind, value) {
        (Kind::Bool, Value::Bool(b)) => Ok(Value::Bool(b)),
        (Kind::Bool, Value::String(s)) if mode == Mode::Lenient => switch(&s).map_err(bad),
        (Kind::Only(only), Value::Bool(b)) => only_setting(only, b).map_err(bad),
        (Kind::Only(only), Value::String(s)) if mode == Mode::Lenient => {
            let given = switch(&s).map_err(bad)?;
            only_setting(only, given == Value::Bool(true)).map_err(bad)
        }
        (Kind::OnOffAuto, Value::Bool(b)) if mode == Mode::Lenient => {
            Ok(Value::from(if b { "on" } else { "off" }))
        }
        (Kind::OnOffAuto, Value::String(s)) => word(&s, &["on", "off", "auto"]).map_err(bad),
        (Kind::Enum(words), Value::String(s)) => word(&s, words).map_err(bad),
        (Kind::Enum(words), Value::Bool(b)) if mode == Mode::Lenient => {
            word(if b { "on" } else { "off" }, words).map_err(bad)
        }
        (Kind::Uint { min, max }, v) => {
            within(number(&v, mode, false).map_err(bad)?, min, max, false).map_err(bad)
        }
        (Kind::Size { min, max }, v) => {
            within(number(&v, mode, true).map_err(bad)?, min, max, true).map_err(bad)
        }
        (Kind::BlockSize { min, max }, v) => {
            let bytes = number(&v, mode, true).map_err(bad)?;
            // QEMU's block size properties take 0 for "as the image says".
            if bytes != 0 && !bytes.is_power_of_two() {
                return Err(bad(format!("{bytes} is not a power of two")));
            }
            within(bytes, if bytes == 0 { 0 } else { min }, max, true).map_err(bad)
        }
        (Kind::Str { len_max }, Value::String(s)) => {
            if s.len() > len_max {
                let reason = format!("'{s}' is {} bytes long, at most {len_max} fit", s.len());
                return Err(bad(reason));
            }
            Ok(Value::String(s))
        }
        (Kind::Path, Value::String(s)) => path(s).map_err(bad),
        (Kind::IdOrNull, Value::Null) => Ok(Value::Null),
        (Kind::IdOrNull, Value::String(s)) if s.is_empty() => Ok(Value::Null),
        (Kind::Id | Kind::IdOrNull, Value::String(s)) => {
            if !id_wellformed(&s) {
                return Err(bad(format!(
                    "'{s}' is not a name: a letter, then letters, digits, '-', '.' and '_'"
                )));
            }
            Ok(Value::String(s))
        }
        (Kind::PciAddr, Value::String(s)) => pci_addr(&s).map_err(bad),
        (Kind::Group(rows), Value::Object(map)) => {
            Ok(Value::Object(apply(&format!("{of}: {}", row.name), rows, map, mode)?))
        }
        (Kind::Groups(rows), v) => groups(of, row.name, rows, v, mode),
        (Kind::Uints { max }, Value::Array(items)) => items
            .iter()
            .map(|v| number(v, mode, false).and_then(|n| within(n, 0, max, false)).map_err(bad))
            .collect::<Result<Vec<_>, _>>()
            .map(Value::Array),
        (_, other) => {
            Err(bad(format!("{} does not fit; it takes {}", describe(&other), type_text(row.kind))))
        }
    }
}

fn groups(
    of: &str,
    name: &str,
    rows: &[Prop],
    value: Value,
    mode: Mode,
) -> Result<Value, SpecError> {
    let value = match value {
        // key=value syntax has no lists within values: QEMU takes JSON text there.
        Value::String(text) if mode == Mode::Lenient => serde_json::from_str(&text)
            .map_err(|e| SpecError::bad(of, name, format!("invalid JSON: {e}")))?,
        other => other,
    };
    let Value::Array(items) = value else {
        return Err(SpecError::bad(of, name, "it takes a list of objects"));
    };
    let mut out = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let Value::Object(map) = item else {
            return Err(SpecError::bad(of, name, format!("element {i} is not an object")));
        };
        out.push(Value::Object(apply(&format!("{of}: {name}.{i}"), rows, map, mode)?));
    }
    Ok(Value::Array(out))
}

fn switch(text: &str) -> Result<Value, String> {
    match text {
        "on" | "yes" | "true" | "y" => Ok(Value::Bool(true)),
        "off" | "no" | "false" | "n" => Ok(Value::Bool(false)),
        _ => Err(format!("'{text}' is neither 'on' nor 'off'")),
    }
}

fn only_setting(only: bool, given: bool) -> Result<Value, String> {
    let word = |on| if on { "on" } else { "off" };
    if given == only {
        return Ok(Value::Bool(only));
    }
    Err(format!("'{}' is not supported, only '{}' is", word(given), word(only)))
}

fn word(text: &str, words: &[&str]) -> Result<Value, String> {
    if words.contains(&text) {
        return Ok(Value::from(text));
    }
    let hint = super::names::did_you_mean(&near(text, words.iter().copied()));
    Err(format!("'{text}' is none of {}{hint}", words.join(", ")))
}

fn number(value: &Value, mode: Mode, is_size: bool) -> Result<u64, String> {
    match value {
        Value::Number(n) => n.as_u64().ok_or_else(|| format!("{n} is not a whole number ≥ 0")),
        Value::String(s) if mode == Mode::Lenient && is_size => size::parse(s, 1),
        Value::String(s) if mode == Mode::Lenient => {
            let parsed = match s.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16),
                None => s.parse(),
            };
            parsed.map_err(|_| format!("'{s}' is not a number"))
        }
        other => Err(format!("{} is not a number", describe(other))),
    }
}

fn within(n: u64, min: u64, max: u64, is_size: bool) -> Result<Value, String> {
    if (min..=max).contains(&n) {
        return Ok(Value::from(n));
    }
    let show = |n: u64| if is_size { size::format(n) } else { n.to_string() };
    Err(format!("{} is not within {} to {}", show(n), show(min), show(max)))
}

fn path(text: String) -> Result<Value, String> {
    if text.is_empty() {
        return Err("the file name is empty".to_owned());
    }
    if text.contains('\0') {
        return Err("the file name contains a zero byte".to_owned());
    }
    Ok(Value::String(text))
}

fn pci_addr(text: &str) -> Result<Value, String> {
    let wrong = || format!("'{text}' is not SLOT or SLOT.FUNCTION, slot 0-1f, function 0-7, hex");
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    let hex =
        |s: &str| u8::from_str_radix(s.strip_prefix("0x").unwrap_or(s), 16).map_err(|_| wrong());
    let (slot, function) = (hex(slot)?, hex(function)?);
    if slot > 0x1f || function > 7 {
        return Err(wrong());
    }
    Ok(Value::String(format!("{slot:02x}.{function:x}")))
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(s) => format!("'{s}'"),
        other => other.to_string(),
    }
}

/// The type of a property in the words of `help`.
#[must_use]
pub fn type_text(kind: Kind) -> String {
    match kind {
        Kind::Bool => "bool".to_owned(),
        Kind::Only(only) => (if only { "on" } else { "off" }).to_owned(),
        Kind::OnOffAuto => "on|off|auto".to_owned(),
        Kind::Uint { .. } => "number".to_owned(),
        Kind::Size { .. } | Kind::BlockSize { .. } => "size".to_owned(),
        Kind::Str { .. } => "str".to_owned(),
        Kind::Path => "file".to_owned(),
        Kind::Enum(words) => words.join("|"),
        Kind::Id => "id".to_owned(),
        Kind::IdOrNull => "id|null".to_owned(),
        Kind::PciAddr => "slot[.function]".to_owned(),
        Kind::Group(_) => "group".to_owned(),
        Kind::Groups(_) => "list".to_owned(),
        Kind::Uints { .. } => "list of numbers".to_owned(),
    }
}
