//! Encryption of new images: `-o` of LUKS, and `encrypt.…` of qcow2.
use crate::spec::keyval::Options;
use crate::spec::props::{Kind, Prop, prop};
use crate::tools::object;
use serde_json::Value;
use spindle_block::formats::Secret;
use spindle_block::luks::LuksOptions;
use spindle_block::qcow2::Encrypt;
use std::path::{Path, PathBuf};

const TEXT: Kind = Kind::Str { len_max: 1023 };
const TIME: Kind = Kind::Uint { min: 0, max: 1 << 32 };

/// `-o` of qcow2, in the order in which qemu-img shows them.
pub(super) const QCOW2: [Prop; 9] = [
    prop("encryption", Kind::Bool, "Encrypt the image with format 'aes', of old and weak"),
    prop("encrypt.format", TEXT, "Encrypt the image, format choices: 'aes', 'luks'"),
    prop("encrypt.key-secret", TEXT, "ID of secret providing qcow AES key or LUKS passphrase"),
    prop("encrypt.cipher-alg", TEXT, "Name of encryption cipher algorithm"),
    prop("encrypt.cipher-mode", TEXT, "Name of encryption cipher mode"),
    prop("encrypt.ivgen-alg", TEXT, "Name of IV generator algorithm"),
    prop("encrypt.ivgen-hash-alg", TEXT, "Name of IV generator hash algorithm"),
    prop("encrypt.hash-alg", TEXT, "Name of encryption hash algorithm"),
    prop("encrypt.iter-time", TIME, "Time to spend in PBKDF in milliseconds"),
];

/// `-o` of LUKS, without the size.
pub(super) const LUKS: [Prop; 9] = [
    prop("key-secret", TEXT, "ID of the secret that provides the keyslot passphrase"),
    prop("cipher-alg", TEXT, "Name of encryption cipher algorithm"),
    prop("cipher-mode", TEXT, "Name of encryption cipher mode"),
    prop("ivgen-alg", TEXT, "Name of IV generator algorithm"),
    prop("ivgen-hash-alg", TEXT, "Name of IV generator hash algorithm"),
    prop("hash-alg", TEXT, "Name of encryption hash algorithm"),
    prop("iter-time", TIME, "Time to spend in PBKDF in milliseconds"),
    prop("detached-header", Kind::Bool, "Create a detached LUKS header"),
    prop(
        "luks-version",
        Kind::Uint { min: 1, max: 2 },
        "1, or 2 with Argon2id, which QEMU cannot open",
    ),
];

/// Options in one level: what `keyval` nests has dots again.
pub(super) fn flat(options: Options) -> Options {
    let mut out = Options::new();
    for (key, value) in options {
        match value {
            Value::Object(below) => {
                out.extend(flat(below).into_iter().map(|(k, v)| (format!("{key}.{k}"), v)));
            }
            value => drop(out.insert(key, value)),
        }
    }
    out
}

/// How a qcow2 image is to be encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncryptPlan(Options);

impl EncryptPlan {
    /// What of these options is about encryption.
    pub(super) fn new(options: &Options) -> Self {
        let is_own = |name: &&String| QCOW2.iter().any(|row| row.name == **name);
        Self(
            options
                .iter()
                .filter(|(k, _)| is_own(k))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        )
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The id of the passphrase, where the image is encrypted.
    pub(super) fn key_secret(&self) -> Option<&str> {
        self.text("encrypt.key-secret")
    }

    /// What the block layer is asked for; `None`: no encryption.
    ///
    /// # Errors
    ///
    /// qemu-img's sentence about options that cannot be.
    pub(super) fn block(&self) -> Result<Option<Encrypt>, String> {
        let old = self.0.get("encryption").and_then(Value::as_bool);
        let format = match (old, self.text("encrypt.format")) {
            (Some(_), Some(_)) => {
                let sentence = "'encrypt.format' and its alias 'encryption' can't be used at the \
                                same time";
                return Err(sentence.to_owned());
            }
            (Some(true), None) => "aes",
            (_, Some(format)) => format,
            (_, None) if self.0.keys().any(|key| key.starts_with("encrypt.")) => {
                return Err("Parameter 'encrypt.format' is missing".to_owned());
            }
            (_, None) => return Ok(None),
        };
        match format {
            "aes" => {
                let mut keys = self.0.keys().filter(|key| key.starts_with("encrypt."));
                let own = ["encrypt.format", "encrypt.key-secret"];
                if let Some(other) = keys.find(|key| !own.contains(&key.as_str())) {
                    return Err(format!("Parameter '{other}' is unexpected"));
                }
                Ok(Some(Encrypt::Aes(secret(&self.0, "encrypt.")?)))
            }
            "luks" => Ok(Some(Encrypt::Luks(luks(&self.0, "encrypt.", 0)?))),
            other => Err(format!("Parameter 'format' does not accept value '{other}'")),
        }
    }
}

fn secret(options: &Options, prefix: &str) -> Result<Secret, String> {
    let name = format!("{prefix}key-secret");
    match options.get(&name).and_then(Value::as_str) {
        None => Err(format!("Parameter '{name}' is required for cipher")),
        Some(id) => object::secret(id),
    }
}

/// What a LUKS disk of `size` bytes is to be like.
///
/// # Errors
///
/// qemu-img's sentence about options that cannot be.
pub(super) fn luks(options: &Options, prefix: &str, size: u64) -> Result<LuksOptions, String> {
    let mut luks = LuksOptions::new(size, secret(options, prefix)?);
    let of = |name: &str| options.get(&format!("{prefix}{name}"));
    let text = |name: &str| of(name).and_then(Value::as_str).map(str::to_owned);
    for (name, field) in [
        ("cipher-alg", &mut luks.cipher_alg),
        ("cipher-mode", &mut luks.cipher_mode),
        ("ivgen-alg", &mut luks.ivgen_alg),
        ("hash-alg", &mut luks.hash_alg),
    ] {
        if let Some(value) = text(name) {
            *field = value;
        }
    }
    luks.ivgen_hash_alg = text("ivgen-hash-alg");
    if let Some(time) = of("iter-time").and_then(Value::as_u64) {
        luks.iter_time_ms = time;
    }
    if let Some(version) = of("luks-version").and_then(Value::as_u64) {
        luks.version = u32::try_from(version).unwrap_or(0);
    }
    luks.detached = of("detached-header").and_then(Value::as_bool).unwrap_or(false);
    // Names that there are not are told before anything is made.
    luks.header_len().map_err(|error| error.to_string())?;
    Ok(luks)
}

/// How an image that has just been made is named so that it is opened with its passphrase.
pub(super) fn opened_with(path: &Path, driver: &str, key: &str, id: Option<&str>) -> PathBuf {
    let Some(id) = id else { return path.to_owned() };
    let double = |text: &str| text.replace(',', ",,");
    super::source::options_path(&format!(
        "driver={driver},{key}={},file.driver=file,file.filename={}",
        double(id),
        double(&path.to_string_lossy())
    ))
}
