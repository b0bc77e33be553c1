//! `--object secret,…`: passwords and keys that other options refer to by name. Credentials of TLS are in `tls`.
use crate::spec::keyval;
use crate::spec::object::SecretSpec;
use serde_json::Value;
use spindle_block::formats::Secret;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// The longest secret, in bytes.
const LEN_MAX: u64 = 1 << 20;

/// The objects of this process, which its images are opened with: a command line has one set.
static OBJECTS: RwLock<Secrets> = RwLock::new(Secrets(BTreeMap::new()));

/// Takes an object of the command line.
///
/// # Errors
///
/// As for [`Secrets::add`].
pub fn add(text: &str) -> Result<(), String> {
    if let Ok(options) = keyval::parse("--object", text, Some("qom-type"), &[]) {
        let of = |key: &str| options.get(key).and_then(Value::as_str);
        if of("qom-type").is_some_and(super::tls::is_credentials) {
            return super::tls::add(of("id").ok_or("Parameter 'id' is missing")?, &options);
        }
    }
    OBJECTS.write().unwrap_or_else(PoisonError::into_inner).add(text)
}

/// Takes an object of a machine, in place of one of the same id.
///
/// # Errors
///
/// As for [`Secrets::add`].
pub fn define(secret: &SecretSpec) -> Result<(), String> {
    let (data, file) = (secret.data.as_deref(), secret.file.as_deref());
    let bytes = bytes(data, file, Some(&secret.format))?;
    let mut objects = OBJECTS.write().unwrap_or_else(PoisonError::into_inner);
    objects.0.insert(secret.id.clone(), bytes);
    Ok(())
}

/// The secret of the command line called `id`.
///
/// # Errors
///
/// As for [`Secrets::get`].
pub fn secret(id: &str) -> Result<Secret, String> {
    let objects = OBJECTS.read().unwrap_or_else(PoisonError::into_inner);
    objects.get(id).map(Secret::new)
}

/// The secrets of a command line, by their ids.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<String, Vec<u8>>);

impl std::fmt::Debug for Secrets {
    /// Names only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// Takes an object of the command line.
    ///
    /// # Errors
    ///
    /// QEMU's sentence about an object that is none, or a secret that cannot be had.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let options = keyval::parse("--object", text, Some("qom-type"), &[])
            .map_err(|error| error.to_string())?;
        let of = |key: &str| options.get(key).and_then(Value::as_str);
        match of("qom-type") {
            None => return Err("Parameter 'qom-type' is missing".to_owned()),
            Some("secret") => {}
            Some(other) => {
                return Err(format!("Parameter 'qom-type' does not accept value '{other}'"));
            }
        }
        let Some(id) = of("id") else { return Err("Parameter 'id' is missing".to_owned()) };
        for key in options.keys() {
            match key.as_str() {
                "qom-type" | "id" | "data" | "file" | "format" => {}
                "keyid" | "iv" => {
                    return Err(format!("secrets that are encrypted ('{key}') are not supported"));
                }
                other => return Err(format!("Parameter '{other}' is unexpected")),
            }
        }
        let bytes = bytes(of("data"), of("file"), of("format"))?;
        if self.0.insert(id.to_owned(), bytes).is_some() {
            return Err(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            ));
        }
        Ok(())
    }

    /// The secret called `id`.
    ///
    /// # Errors
    ///
    /// QEMU's sentence about one that there is not.
    pub fn get(&self, id: &str) -> Result<&[u8], String> {
        self.0.get(id).map(Vec::as_slice).ok_or_else(|| format!("No secret with id '{id}'"))
    }
}

fn bytes(data: Option<&str>, file: Option<&str>, format: Option<&str>) -> Result<Vec<u8>, String> {
    let bytes = match (data, file) {
        (Some(_), Some(_)) => {
            return Err("'file' and 'data' are mutually exclusive".to_owned());
        }
        (None, None) => return Err("Either 'file' or 'data' must be provided".to_owned()),
        (Some(data), None) => data.as_bytes().to_vec(),
        (None, Some(file)) => read(file)?,
    };
    match format {
        None | Some("raw") => Ok(bytes),
        Some("base64") => base64(&bytes).ok_or_else(|| "Base64 data is not valid".to_owned()),
        Some(other) => Err(format!("Parameter 'format' does not accept value '{other}'")),
    }
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let failed = |error: std::io::Error| {
        format!("Unable to read {path}: {}", std::io::Error::from(error.kind()))
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LEN_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LEN_MAX {
        return Err(format!("Unable to read {path}: it is longer than {LEN_MAX} bytes"));
    }
    Ok(bytes)
}

/// Decodes base64 (RFC 4648, 4), with white space between.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut count, mut padding) = (0_u32, 0_u32, 0);
    for byte in text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                0
            }
            _ => return None,
        };
        if padding > 2 || (padding > 0 && byte != b'=') {
            return None;
        }
        word = word << 6 | u32::from(value);
        count += 1;
        if count.is_multiple_of(4) {
            out.extend_from_slice(&word.to_be_bytes()[1..]);
            word = 0;
        }
    }
    if !count.is_multiple_of(4) {
        return None;
    }
    out.truncate(out.len() - padding);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_as_they_are_or_decoded() {
        let mut secrets = Secrets::default();
        secrets.add("secret,id=a,data=pass,,word").unwrap();
        secrets.add("secret,id=b,data=c2VjcmV0IQ==,format=base64").unwrap();
        secrets.add(r#"{"qom-type": "secret", "id": "c", "data": "x"}"#).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, b"\x00\xffk").unwrap();
        secrets.add(&format!("secret,id=d,file={}", path.display())).unwrap();
        let of = |id| secrets.get(id).unwrap();
        assert_eq!(of("a"), b"pass,word");
        assert_eq!(of("b"), b"secret!");
        assert_eq!(of("c"), b"x");
        assert_eq!(of("d"), b"\x00\xffk");
        assert_eq!(secrets.get("e").unwrap_err(), "No secret with id 'e'");
        assert!(!format!("{secrets:?}").contains("pass"));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for (text, part) in [
            ("foo,id=x", "does not accept value 'foo'"),
            ("secret,data=x", "'id' is missing"),
            ("secret,id=x", "must be provided"),
            ("secret,id=x,data=a,file=b", "mutually exclusive"),
            ("secret,id=x,data=abc,format=base64", "not valid"),
            ("secret,id=x,data=a=bc,format=base64", "not valid"),
            ("secret,id=x,data=a,format=hex", "'hex'"),
            ("secret,id=x,data=a,zz=1", "'zz' is unexpected"),
            ("secret,id=x,data=a,keyid=b", "not supported"),
            ("secret,id=x,file=/nonexistent/file", "Unable to read"),
        ] {
            let error = Secrets::default().add(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let mut twice = Secrets::default();
        twice.add("secret,id=x,data=a").unwrap();
        assert!(twice.add("secret,id=x,data=a").is_err());
    }
}
