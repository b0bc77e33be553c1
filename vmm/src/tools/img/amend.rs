//! `amend`: changes what an image is.
use super::ImgError;
use super::files::on_block_layer;
use super::image::{
    Cache, Image, OpenMode, driver_called, errno_text, open_detail, open_file, warn_of_probing,
};
use super::progress::{Progress, Show};
use crate::spec::format::Format;
use crate::spec::size;
use crate::tools::object;
use spindle_block::formats::ImageFormat;
use spindle_block::luks::{self, SlotChange};
use spindle_block::qcow2::{self, Amend, AmendError};
use spindle_block::{BlockError, Cx, Node};
use std::path::PathBuf;
use std::sync::Arc;

/// What the command line of `amend` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AmendRequest {
    /// The image.
    pub path: PathBuf,
    /// `-f`.
    pub format: Option<String>,
    /// Each `-o`.
    pub options: Vec<String>,
    /// `-t`.
    pub cache: Option<String>,
    /// `--force`.
    pub force: bool,
    /// `-p`.
    pub show: Show,
}

/// Options of qcow2 that only `create` has.
const ONLY_CREATE: [&str; 12] = [
    "cluster_size",
    "compression_type",
    "encryption",
    "encrypt.cipher-alg",
    "encrypt.cipher-mode",
    "encrypt.format",
    "encrypt.hash-alg",
    "encrypt.ivgen-alg",
    "encrypt.ivgen-hash-alg",
    "encrypt.key-secret",
    "extended_l2",
    "preallocation",
];

/// Options of LUKS that only `create` has.
const LUKS_ONLY_CREATE: [&str; 8] = [
    "cipher-alg",
    "cipher-mode",
    "detached-header",
    "hash-alg",
    "ivgen-alg",
    "ivgen-hash-alg",
    "key-secret",
    "size",
];

/// What `-o help` prints for a format (qemu-img, print_amend_option_help).
#[must_use]
pub fn help(format: Option<&str>) -> &'static str {
    if format == Some("luks") { LUKS_HELP } else { HELP }
}

const LUKS_HELP: &str = "\
Amend options for 'luks':
  iter-time=<num>        - Time to spend in PBKDF in milliseconds
  keyslot=<num>          - Select a single keyslot to modify explicitly
  new-secret=<str>       - New secret to set in the matching keyslots. Empty string to erase
  old-secret=<str>       - Select all keyslots that match this password
  state=<str>            - Select new state of affected keyslots (active/inactive)
";

const HELP: &str = "\
Amend options for 'qcow2':
  backing_file=<str>     - File name of a base image
  backing_fmt=<str>      - Image format of the base image
  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])
  data_file=<str>        - File name of an external data file
  data_file_raw=<bool (on/off)> - The external data file must stay valid as a raw image
  encrypt.iter-time=<num> - Time to spend in PBKDF in milliseconds
  encrypt.keyslot=<num>  - Select a single keyslot to modify explicitly
  encrypt.new-secret=<str> - New secret to set in the matching keyslots. Empty string to erase
  encrypt.old-secret=<str> - Select all keyslots that match this password
  encrypt.state=<str>    - Select new state of affected keyslots (active/inactive)
  lazy_refcounts=<bool (on/off)> - Postpone refcount updates
  refcount_bits=<num>    - Width of a reference count entry in bits
  size=<size>            - Virtual disk size
";

/// The options, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    amend: Amend,
    size: Option<u64>,
    backing_file: Option<String>,
    backing_format: Option<String>,
    data_file: Option<String>,
    data_file_raw: Option<bool>,
    keys: Option<Keys>,
}

/// What is to become of key slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Keys {
    state: Option<String>,
    new_secret: Option<String>,
    old_secret: Option<String>,
    keyslot: Option<u64>,
    iter_time: Option<u64>,
}

impl Keys {
    /// Takes an option. `name` is without the prefix that `shown` may have. Returns whether it is one.
    fn take(&mut self, name: &str, shown: &str, value: &str) -> Result<bool, ImgError> {
        let number = || match value.parse::<u64>() {
            Ok(number) => Ok(number),
            Err(_) => said(format!("Parameter '{shown}' expects a number")),
        };
        match name {
            "state" => self.state = Some(value.to_owned()),
            "new-secret" => self.new_secret = Some(value.to_owned()),
            "old-secret" => self.old_secret = Some(value.to_owned()),
            "keyslot" => self.keyslot = Some(number()?),
            "iter-time" => self.iter_time = Some(number()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn change(&self, force: bool) -> Result<SlotChange, ImgError> {
        let active = match self.state.as_deref() {
            None => return said("Parameter 'state' is missing"),
            Some("active") => true,
            Some("inactive") => false,
            Some(other) => {
                return said(format!("Parameter 'state' does not accept value '{other}'"));
            }
        };
        let secret = |id: &Option<String>| id.as_deref().map(object::secret).transpose();
        Ok(SlotChange {
            active,
            new_secret: secret(&self.new_secret).map_err(ImgError::said)?,
            old_secret: secret(&self.old_secret).map_err(ImgError::said)?,
            keyslot: self.keyslot,
            iter_time_ms: self.iter_time,
            force,
        })
    }
}

/// Changes the key slots of an image that is open.
async fn change_keys(cx: &Cx, image: &Image, keys: &Keys, force: bool) -> Result<(), ImgError> {
    let change = keys.change(force)?;
    let Some(secret) = &image.secret else {
        return said("Can't amend encryption options - encryption not present");
    };
    let header = image.node.children().into_iter().find(|(role, _)| *role == "header");
    let file = header.map_or_else(|| Arc::clone(&image.file), |(_, header)| header);
    let changed = if image.qcow2.is_some() {
        qcow2::amend_keys(cx, &file, secret, &change).await
    } else {
        luks::amend(cx, &file, secret, &change).await
    };
    changed.map_err(|error| ImgError::said(spindle_block::error::with_causes(&error)))
}

fn said<T>(sentence: impl Into<String>) -> Result<T, ImgError> {
    Err(ImgError::said(sentence))
}

/// Amends.
///
/// # Errors
///
/// Options that there are not, and changes that are not possible. What was changed before stays so.
pub fn run(request: AmendRequest) -> Result<(), ImgError> {
    if request.options.is_empty() {
        return said(format!(
            "Must specify options (-o)\nTry '{} amend --help' for more info",
            super::error::prefix()
        ));
    }
    let name = request.cache.as_deref().unwrap_or("writeback");
    let cache = Cache::parse(name)
        .ok_or_else(|| ImgError::said(format!("Invalid cache option: {name}")))?;
    let format = driver_called(&request.path, request.format.as_deref())?;
    on_block_layer(|cx| async move {
        let mode = OpenMode { cache, ..OpenMode::write(format) };
        let image = Image::open(&cx, &request.path, mode).await?;
        warn_of_probing(&image, format);
        let mode = OpenMode { format: Some(image.format), ..mode };
        let mut wanted = understand(&cx, &image, &request.options).await;
        if let Ok(Wanted { keys: Some(keys), .. }) = &wanted
            && let Err(error) = change_keys(&cx, &image, keys, request.force).await
        {
            wanted = Err(error);
        }
        let (file, is_qcow2) = (image.path.clone(), image.qcow2.is_some());
        let closed = image.close(&cx).await;
        let wanted = wanted?;
        closed.map_err(failed)?;
        let progress = Progress::new(request.show, 1);
        if is_qcow2 {
            amend(&cx, (&request.path, &file), mode, wanted).await?;
        }
        progress.finish();
        Ok(())
    })
}

fn failed(error: BlockError) -> ImgError {
    ImgError::said(format!("Error while amending options: {}", errno_text(error)))
}

/// Reads the options, and compares them with what the image has.
async fn understand(cx: &Cx, image: &Image, options: &[String]) -> Result<Wanted, ImgError> {
    if image.format == Format::Image(ImageFormat::Luks) {
        let mut keys = Keys::default();
        for (name, value) in options.iter().flat_map(|text| pairs(text)) {
            if !keys.take(&name, &name, &value)? {
                return said(invalid(&name, &LUKS_ONLY_CREATE));
            }
        }
        return Ok(Wanted { keys: Some(keys), ..Wanted::default() });
    }
    if image.qcow2.is_none() {
        let name = image.format.name();
        return said(format!("Format driver '{name}' does not support option amendment"));
    }
    let mut wanted = Wanted::default();
    for text in options {
        for (name, value) in pairs(text) {
            wanted.take(&name, &value)?;
        }
    }
    let file: Arc<dyn Node> = Arc::clone(&image.file) as _;
    let header = qcow2::read_header(cx, &file).await;
    let header = header.map_err(|e| ImgError::said(open_detail(&e)))?;
    let other_file = wanted
        .backing_file
        .as_ref()
        .is_some_and(|name| name.as_str() != header.backing_file.as_deref().unwrap_or("\0"));
    let other_format = wanted
        .backing_format
        .as_ref()
        .is_some_and(|name| name.as_str() != header.backing_format().as_deref().unwrap_or("\0"));
    if other_file || other_format {
        return said("Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.");
    }
    let version = wanted.amend.version.unwrap_or(header.version);
    let other_width = wanted
        .amend
        .refcount_bits
        .is_some_and(|bits| bits.is_power_of_two() && bits <= 64 && bits != 16);
    if version < 3 && other_width {
        return said(
            "Refcount widths other than 16 bits require compatibility level 1.1 or above (use \
             compat=1.1 or greater)",
        );
    }
    if wanted.data_file_raw == Some(true) && !header.has_raw_data_file() {
        return said("data-file-raw cannot be set on existing images");
    }
    if wanted.data_file.is_some() && !header.has_data_file() {
        return said("data-file can only be set for images that use an external data file");
    }
    Ok(wanted)
}

/// `KEY=VALUE,…`: a comma inside a value is typed twice, and a key alone is `on` (QEMU,
/// opts_do_parse).
fn pairs(text: &str) -> Vec<(String, String)> {
    const COMMA: &str = "\0";
    let text = text.replace(",,", COMMA);
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, "on"));
        (key.to_owned(), value.replace(COMMA, ","))
    };
    text.split(',').filter(|part| !part.is_empty()).map(pair).collect()
}

impl Wanted {
    fn take(&mut self, name: &str, value: &str) -> Result<(), ImgError> {
        let flag = || match value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => said(format!("Parameter '{name}' expects 'on' or 'off'")),
        };
        match name {
            "compat" => {
                self.amend.version = Some(match value {
                    "0.10" | "v2" => 2,
                    "1.1" | "v3" => 3,
                    other => return said(format!("Unknown compatibility level {other}")),
                });
            }
            "lazy_refcounts" => self.amend.lazy_refcounts = Some(flag()?),
            "refcount_bits" => match value.parse::<u64>() {
                Ok(bits) => self.amend.refcount_bits = Some(bits),
                Err(_) => {
                    return said(format!("Parameter '{name}' expects a number"));
                }
            },
            "size" => match size::parse(value, 1) {
                Ok(bytes) => self.size = Some(bytes.next_multiple_of(512)),
                Err(_) => {
                    return said(
                        "Parameter 'size' expects a non-negative number below 2^64\nOptional \
                         suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand \
                         exabytes, respectively.",
                    );
                }
            },
            "backing_file" => self.backing_file = Some(value.to_owned()),
            "backing_fmt" => self.backing_format = Some(value.to_owned()),
            "data_file" => self.data_file = Some(value.to_owned()),
            "data_file_raw" => self.data_file_raw = Some(flag()?),
            _ => {
                let key = name.strip_prefix("encrypt.").unwrap_or_default();
                let keys = self.keys.get_or_insert_default();
                if !keys.take(key, name, value)? {
                    return said(invalid(name, &ONLY_CREATE));
                }
            }
        }
        Ok(())
    }
}

/// What is said of an option that there is not.
fn invalid(name: &str, only_create: &[&str]) -> String {
    let sentence = format!("Invalid parameter '{name}'");
    if only_create.contains(&name) {
        return sentence + "\nThis option is only supported for image creation";
    }
    sentence
}

/// Versions rise first and fall last, so that the rest happens where it is possible.
/// `path` is what the image is called, `file` where it is.
async fn amend(
    cx: &Cx,
    (path, file): (&std::path::Path, &std::path::Path),
    mode: OpenMode,
    wanted: Wanted,
) -> Result<(), ImgError> {
    let falls = wanted.amend.version == Some(2);
    let all_but_the_fall =
        Amend { version: wanted.amend.version.filter(|_| !falls), ..wanted.amend };
    let data_file = (wanted.data_file.as_deref(), wanted.data_file_raw);
    offline(cx, file, mode, &all_but_the_fall, Some(data_file)).await?;
    if wanted.size.is_some() || falls {
        let image = Image::open(cx, path, mode).await?;
        let result = online(cx, &image, wanted.size, falls).await;
        let closed = image.close(cx).await;
        result?;
        closed.map_err(failed)?;
    }
    if falls {
        let fall = Amend { version: Some(2), ..Amend::default() };
        offline(cx, file, mode, &fall, None).await?;
    }
    Ok(())
}

async fn offline(
    cx: &Cx,
    path: &std::path::Path,
    mode: OpenMode,
    wanted: &Amend,
    data_file: Option<(Option<&str>, Option<bool>)>,
) -> Result<(), ImgError> {
    debug_assert_eq!(mode.format, Some(Format::Qcow2));
    let file = open_file(path, mode)?;
    let node: Arc<dyn Node> = Arc::clone(&file) as _;
    let result = match data_file {
        Some((name, raw)) => qcow2::set_data_file(cx, &node, name, raw).await.map_err(Into::into),
        None => Ok(()),
    };
    let result = match result {
        Ok(()) => qcow2::amend(cx, &node, wanted).await,
        failed => failed,
    };
    file.close(Cx::clone(cx)).await.map_err(failed)?;
    result.map_err(|error| match error {
        AmendError::Open(error) => ImgError::said(open_detail(&error)),
        AmendError::Io(error) => failed(error),
        other => ImgError::said(spindle_block::error::with_causes(&other)),
    })
}

async fn online(cx: &Cx, image: &Image, size: Option<u64>, falls: bool) -> Result<(), ImgError> {
    let Some(qcow2) = &image.qcow2 else { return Ok(()) };
    if let Some(size) = size {
        let resized = if size < image.size() {
            qcow2.shrink(cx, size).await
        } else {
            Arc::clone(&image.node).resize(Cx::clone(cx), size).await
        };
        match resized {
            Err(BlockError::Unsupported) if qcow2.is_version_2() => {
                return said("Can't resize a v2 image which has snapshots");
            }
            resized => resized.map_err(failed)?,
        }
    }
    if falls && !qcow2.is_version_2() {
        let wide = qcow2.refcount_bits() != 16;
        if wide {
            return said("compat=0.10 requires refcount_bits=16");
        }
        qcow2.expand_zeroes(cx).await.map_err(failed)?;
    }
    Ok(())
}
