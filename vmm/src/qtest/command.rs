//! The lines of the protocol: words, numbers, and what they ask for. Nothing here touches the
//! machine.
//!
//! Where QEMU ends itself with a failed assertion (a missing or malformed argument), the answer here
//! is a line that begins with `ERR`.

use super::base64;

/// Most bytes that one line may move.
pub(super) const DATA_MAX: u64 = 256 << 20;
/// Most bytes that `memset` fills.
const FILL_MAX: u64 = 64 << 30;

/// How bytes are written in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Hexadecimal digits after `0x`.
    Hex,
    /// Base 64.
    Base64,
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `outb`, `outw`, `outl`.
    Out { port: u16, width: u8, value: u64 },
    /// `inb`, `inw`, `inl`.
    In { port: u16, width: u8 },
    /// `writeb`, `writew`, `writel`, `writeq`.
    Store { address: u64, width: u8, value: u64 },
    /// `readb`, `readw`, `readl`, `readq`.
    Load { address: u64, width: u8 },
    /// `read`, `b64read`.
    Read { address: u64, len: usize, form: Form },
    /// `write`, `b64write`.
    Write { address: u64, data: Vec<u8> },
    /// `memset`.
    Fill { address: u64, len: u64, byte: u8 },
    /// `endianness`.
    Endianness,
    /// `clock_step`, to the next deadline where no time is given.
    ClockStep(Option<i64>),
    /// `clock_set`.
    ClockSet(i64),
    /// `irq_intercept_in`.
    InterceptIn { device: String, named: bool },
    /// `irq_intercept_out`.
    InterceptOut { device: String },
    /// `set_irq_in`.
    SetIrqIn { device: String, name: String, number: i64, level: i64 },
    /// `module_load`.
    ModuleLoad,
}

/// The answer to a line that asks for nothing that can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub String);

fn error(text: impl std::fmt::Display) -> Refusal {
    Refusal(format!("ERR {text}"))
}

/// Reads one line, without its end.
///
/// # Errors
/// The answer for the peer.
pub(super) fn parse(line: &str) -> Result<Command, Refusal> {
    let words: Vec<&str> = line.split(' ').collect();
    let args = Args(&words);
    let name = words.first().copied().unwrap_or_default();
    let width = |prefix| name.strip_prefix(prefix).and_then(width_of);
    if let Some(width) = width("out").filter(|width| *width <= 4) {
        return Ok(Command::Out { port: args.port()?, width, value: args.number(2)? });
    }
    if let Some(width) = width("in").filter(|width| *width <= 4) {
        return Ok(Command::In { port: args.port()?, width });
    }
    if let Some(width) = width("write") {
        return Ok(Command::Store { address: args.number(1)?, width, value: args.number(2)? });
    }
    if let Some(width) = width("read") {
        return Ok(Command::Load { address: args.number(1)?, width });
    }
    let command = match name {
        "read" => args.read(Form::Hex)?,
        "b64read" => args.read(Form::Base64)?,
        "write" => args.write()?,
        "b64write" => args.write_base64()?,
        "memset" => {
            let (address, len) = (args.number(1)?, args.length(FILL_MAX)?);
            Command::Fill { address, len, byte: args.number(3)? as u8 }
        }
        "endianness" => Command::Endianness,
        "clock_step" if words.len() == 1 => Command::ClockStep(None),
        "clock_step" => Command::ClockStep(Some(args.number(1)?.cast_signed())),
        "clock_set" => Command::ClockSet(args.number(1)?.cast_signed()),
        "irq_intercept_in" => {
            Command::InterceptIn { device: args.text(1)?, named: words.len() > 2 }
        }
        "irq_intercept_out" => Command::InterceptOut { device: args.text(1)? },
        "set_irq_in" => Command::SetIrqIn {
            device: args.text(1)?,
            name: args.text(2)?,
            number: args.number(3)?.cast_signed(),
            level: args.number(4)?.cast_signed(),
        },
        "module_load" => {
            args.text(2)?;
            Command::ModuleLoad
        }
        _ => return Err(Refusal(format!("FAIL Unknown command '{name}'"))),
    };
    Ok(command)
}

fn width_of(letter: &str) -> Option<u8> {
    match letter {
        "b" => Some(1),
        "w" => Some(2),
        "l" => Some(4),
        "q" => Some(8),
        _ => None,
    }
}

struct Args<'a>(&'a [&'a str]);

impl Args<'_> {
    fn word(&self, index: usize) -> Result<&str, Refusal> {
        self.0.get(index).copied().ok_or_else(|| error("missing argument"))
    }

    fn text(&self, index: usize) -> Result<String, Refusal> {
        self.word(index).map(str::to_owned)
    }

    fn number(&self, index: usize) -> Result<u64, Refusal> {
        let word = self.word(index)?;
        number(word).ok_or_else(|| error(format_args!("'{word}' is not a number")))
    }

    fn port(&self) -> Result<u16, Refusal> {
        let port = self.number(1)?;
        u16::try_from(port).map_err(|_| error(format_args!("there is no port {port:#x}")))
    }

    fn length(&self, max: u64) -> Result<u64, Refusal> {
        let len = self.number(2)?;
        if len > max {
            return Err(error(format_args!("{len} bytes are too many; at most {max}")));
        }
        Ok(len)
    }

    fn read(&self, form: Form) -> Result<Command, Refusal> {
        let (address, len) = (self.number(1)?, self.length(DATA_MAX)? as usize);
        if len == 0 {
            return Err(error("a length of 0"));
        }
        Ok(Command::Read { address, len, form })
    }

    /// Address, length and the text of the data.
    fn data(&self) -> Result<(u64, usize, &str), Refusal> {
        let (address, len) = (self.number(1)?, self.length(DATA_MAX)? as usize);
        let text = self.word(3)?;
        if text.len() < 3 {
            return Err(error("invalid argument size"));
        }
        Ok((address, len, text))
    }

    /// Digits that are missing are zeros, those beyond the length are ignored.
    fn write(&self) -> Result<Command, Refusal> {
        let (address, len, text) = self.data()?;
        let digits = text.as_bytes().get(2..).unwrap_or_default();
        let mut data = vec![0; len];
        for (byte, pair) in data.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Ok(Command::Write { address, data })
    }

    fn write_base64(&self) -> Result<Command, Refusal> {
        let (address, len, text) = self.data()?;
        let mut data = base64::decode(text);
        data.truncate(len);
        Ok(Command::Write { address, data })
    }
}

/// A hexadecimal digit; anything else is 0, as in QEMU.
fn nibble(digit: u8) -> u8 {
    char::from(digit).to_digit(16).unwrap_or_default() as u8
}

/// A number as strtoull(3) reads it with base 0; it must be the whole word.
fn number(word: &str) -> Option<u64> {
    let (negative, digits) = match word.as_bytes().first()? {
        b'-' => (true, word.get(1..)?),
        b'+' => (false, word.get(1..)?),
        _ => (false, word),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match hex {
        Some(hex) => (hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    Some(if negative { value.wrapping_neg() } else { value })
}
