//! Where the serial console and the monitor are: `stdio`, `null`, `file:PATH`, `unix:PATH`.
use super::error::SpecError;
use super::keyval;
use super::names::near;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Where the serial console goes. In text: `stdio`, `null`, `file:PATH`, `unix:PATH[,server=on]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SerialSpec {
    /// The terminal, or standard input and output.
    Stdio,
    /// Nowhere.
    Null,
    /// Into this file, which is emptied first; there is no input.
    File(PathBuf),
    /// A Unix socket.
    Unix(UnixSpec),
}

/// Where a QMP monitor is. In text: `unix:PATH[,server=on]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QmpSpec {
    /// The socket.
    pub socket: UnixSpec,
}

/// Where the test is that drives a machine without CPUs. In text: `unix:PATH[,server=on]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QtestSpec {
    /// The socket.
    pub socket: UnixSpec,
}

/// A Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSpec {
    /// Its path.
    pub path: PathBuf,
    /// Whether to listen on it (`server=on`) rather than to connect.
    pub server: bool,
}

impl SerialSpec {
    /// Parses the text of `--serial`.
    ///
    /// # Errors
    ///
    /// [`SpecError`] for a form that does not exist.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        const OF: &str = "--serial";
        match text.split_once(':') {
            _ if text == "stdio" => Ok(Self::Stdio),
            _ if text == "null" || text == "none" => Ok(Self::Null),
            Some(("file", path)) if !path.is_empty() => {
                let parts = keyval::split(path);
                match parts.as_slice() {
                    [path] => Ok(Self::File(PathBuf::from(path))),
                    _ => Err(SpecError::syntax(
                        OF,
                        "'file:' takes no options (type ',,' for a comma)",
                    )),
                }
            }
            Some(("unix", rest)) => Ok(Self::Unix(UnixSpec::parse(OF, rest)?)),
            _ => Err(unknown_form(OF, text, &["stdio", "null", "file:PATH", "unix:PATH"])),
        }
    }
}

impl QmpSpec {
    /// Parses the text of `--qmp`.
    ///
    /// # Errors
    ///
    /// [`SpecError`] for a form that does not exist.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        const OF: &str = "--qmp";
        match text.split_once(':') {
            Some(("unix", rest)) => Ok(Self { socket: UnixSpec::parse(OF, rest)? }),
            _ => Err(unknown_form(OF, text, &["unix:PATH,server=on", "unix:PATH"])),
        }
    }
}

impl QtestSpec {
    /// Parses the text of `--qtest`.
    ///
    /// # Errors
    ///
    /// [`SpecError`] for a form that does not exist.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        const OF: &str = "--qtest";
        match text.split_once(':') {
            Some(("unix", rest)) => Ok(Self { socket: UnixSpec::parse(OF, rest)? }),
            _ => Err(unknown_form(OF, text, &["unix:PATH", "unix:PATH,server=on"])),
        }
    }
}

fn unknown_form(of: &str, text: &str, forms: &[&str]) -> SpecError {
    let hint = super::names::did_you_mean(&near(text, forms.iter().copied()));
    SpecError::syntax(of, format!("'{text}' is none of {}{hint}", forms.join(", ")))
}

impl UnixSpec {
    /// The longest path a `sockaddr_un` holds (unix(7)), without its final zero.
    pub const PATH_LEN_MAX: usize = 107;

    fn parse(of: &str, rest: &str) -> Result<Self, SpecError> {
        let options = keyval::parse(of, rest, Some("path"), &["server", "wait"])?;
        let mut spec = Self { path: PathBuf::new(), server: false };
        for (key, value) in options {
            match (key.as_str(), value.as_str()) {
                ("path", Some(path)) => spec.path = PathBuf::from(path),
                ("server", Some("on")) => spec.server = true,
                // The guest never waits for a monitor or a console to be looked at.
                ("server" | "wait", Some("off")) => {}
                ("server", _) => return Err(SpecError::bad(of, "server", "it is 'on' or 'off'")),
                ("wait", _) => {
                    let reason = "only 'off' is offered: the guest starts without waiting";
                    return Err(SpecError::bad(of, "wait", reason));
                }
                _ => {
                    return Err(SpecError::Unknown {
                        of: of.to_owned(),
                        what: "option",
                        near: near(&key, ["server", "wait"]),
                        name: key,
                    });
                }
            }
        }
        let len = spec.path.as_os_str().len();
        if len == 0 || len > Self::PATH_LEN_MAX {
            let reason =
                format!("a socket's path has 1 to {} bytes, not {len}", Self::PATH_LEN_MAX);
            return Err(SpecError::bad(of, "path", reason));
        }
        Ok(spec)
    }
}

impl fmt::Display for UnixSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", keyval::escape(&self.path.to_string_lossy()))?;
        if self.server { f.write_str(",server=on") } else { Ok(()) }
    }
}

impl fmt::Display for SerialSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::Null => f.write_str("null"),
            Self::File(path) => write!(f, "file:{}", keyval::escape(&path.to_string_lossy())),
            Self::Unix(unix) => unix.fmt(f),
        }
    }
}

impl TryFrom<String> for SerialSpec {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        Self::parse(&text)
    }
}

impl From<SerialSpec> for String {
    fn from(spec: SerialSpec) -> Self {
        spec.to_string()
    }
}

impl TryFrom<String> for QmpSpec {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        Self::parse(&text)
    }
}

impl From<QmpSpec> for String {
    fn from(spec: QmpSpec) -> Self {
        spec.socket.to_string()
    }
}

impl TryFrom<String> for QtestSpec {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        Self::parse(&text)
    }
}

impl From<QtestSpec> for String {
    fn from(spec: QtestSpec) -> Self {
        spec.socket.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_come_back_as_typed() {
        for text in ["stdio", "null", "file:/tmp/a,,b", "unix:/tmp/s", "unix:/tmp/s,server=on"] {
            assert_eq!(SerialSpec::parse(text).unwrap().to_string(), text);
        }
        for text in ["unix:/tmp/s", "unix:/tmp/s,server=on"] {
            assert_eq!(String::from(QmpSpec::parse(text).unwrap()), text);
            assert_eq!(String::from(QtestSpec::parse(text).unwrap()), text);
        }
    }

    #[test]
    fn qemus_spellings_are_understood() {
        let listen = QmpSpec::parse("unix:/tmp/s,server=on").unwrap();
        for text in [
            "unix:/tmp/s,server",
            "unix:path=/tmp/s,server=on,wait=off",
            "unix:/tmp/s,server,nowait",
        ] {
            assert_eq!(QmpSpec::parse(text).unwrap(), listen, "{text}");
        }
    }

    #[test]
    fn wrong_forms_say_what_would_be_right() {
        let error = |text: &str| SerialSpec::parse(text).unwrap_err().to_string();
        assert!(error("stdoi").contains("did you mean 'stdio'"), "{}", error("stdoi"));
        assert!(error("file:").contains("none of"));
        assert!(error("file:/a,b=c").contains("no options"));
        assert!(error("unix:/a,sever=on").contains("did you mean 'server'"));
        assert!(error("unix:/a,server,wait=on").contains("only 'off'"));
        assert!(error(&format!("unix:/{}", "x".repeat(107))).contains("107"));
        assert!(QmpSpec::parse("tcp:1234").is_err());
    }
}
