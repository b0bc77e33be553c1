//! What names an image: a file's name, QEMU's protocol prefixes, `json:{…}`, or an option string
//! (`--image-opts`): a tree of drivers and their options.
use super::image::{OpenMode, file_detail, open_file};
use crate::spec::block::DriverSpec;
use crate::spec::format::{self, Format};
use crate::spec::keyval::{self, Options};
use crate::spec::props::Mode;
use crate::spec::{self, SpecError, size};
use crate::tools::object;
use serde_json::Value;
use spindle_block::formats::{ImageFormat, Secret};
use spindle_block::nodes::fault::{Blkdebug, FaultNode, config};
use spindle_block::nodes::file::FileNode;
use spindle_block::nodes::null::{NullNode, NullOptions};
use spindle_block::nodes::raw::RawNode;
use spindle_block::root::{DetectZeroes, Policy};
use spindle_block::{Cx, Node, qcow2};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a path begins that is an option string: no file's name has this byte.
pub const OPTIONS: char = '\0';
/// The deepest nesting of nodes.
const DEPTH_MAX: usize = 8;

/// An option string (`--image-opts`) in a path's place.
#[must_use]
pub fn options_path(text: &str) -> PathBuf {
    PathBuf::from(format!("{OPTIONS}{text}"))
}

/// Whether a path is such an option string.
pub(super) fn is_options(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with(OPTIONS))
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    /// In a file.
    File(PathBuf),
    /// Where these options say.
    Tree(Options),
}

/// Where unallocated clusters are read from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Backing {
    /// From the file that the header names.
    #[default]
    FromHeader,
    /// From nowhere.
    None,
    /// From this image.
    Tree(Options),
    /// From the file that the header names, with these options.
    Named(Options),
}

/// What holds an image's bytes.
pub(super) struct Bottom {
    pub node: Arc<dyn Node>,
    pub host: Option<Arc<FileNode>>,
    pub fault: Option<Arc<FaultNode>>,
    /// To be closed, parents first.
    pub below: Vec<Arc<dyn Node>>,
}

impl Bottom {
    pub fn of_file(file: Arc<FileNode>) -> Self {
        let node: Arc<dyn Node> = Arc::clone(&file) as _;
        Self { below: vec![Arc::clone(&node)], node, host: Some(file), fault: None }
    }

    fn put(mut self, node: Arc<dyn Node>) -> Self {
        self.below.insert(0, Arc::clone(&node));
        self.node = node;
        self
    }
}

/// An image whose format has not been looked into yet.
pub(super) struct Top {
    pub path: PathBuf,
    pub bottom: Bottom,
    /// `None`: what it begins like.
    pub format: Option<Format>,
    pub backing: Backing,
    /// What the options say that guest data is in; `None`: what the header names, if anything.
    pub data: Option<(PathBuf, Bottom)>,
    pub mode: OpenMode,
    pub qcow2: qcow2::Options,
    pub policy: Policy,
    pub crypt: Crypt,
}

/// How an encrypted image is opened.
#[derive(Default)]
pub(super) struct Crypt {
    /// The id of the passphrase. It is looked up only where it is needed.
    pub key_secret: Option<String>,
    /// `encrypt.format`.
    pub format: Option<String>,
    /// What holds the header, where that is not the image's own file (LUKS).
    pub header: Option<Bottom>,
}

impl Crypt {
    /// The passphrase.
    ///
    /// # Errors
    ///
    /// There is none of this id.
    pub fn secret(&self) -> Result<Option<Secret>, String> {
        self.key_secret.as_deref().map(object::secret).transpose()
    }

    /// Takes `encrypt.…`.
    fn take(&mut self, options: &mut Options) -> Result<(), String> {
        let Some(mut group) = child(options, "encrypt")? else { return Ok(()) };
        self.key_secret = take(&mut group, "key-secret");
        self.format = take(&mut group, "format");
        match group.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("Parameter '{key}' is unexpected")),
        }
    }
}

impl Top {
    pub fn new(path: PathBuf, bottom: Bottom, mode: OpenMode) -> Self {
        Self {
            path,
            bottom,
            format: mode.format,
            backing: Backing::FromHeader,
            data: None,
            mode,
            qcow2: qcow2::Options::default(),
            policy: Policy::default(),
            crypt: Crypt::default(),
        }
    }
}

/// Takes the name of an image apart.
///
/// # Errors
///
/// A protocol that there is not, options that are none.
pub(super) fn place(path: &Path) -> Result<Place, String> {
    let Some(text) = path.to_str() else { return Ok(Place::File(path.to_owned())) };
    if let Some(options) = text.strip_prefix(OPTIONS) {
        let options = keyval::parse("--image-opts", options, None, &[]);
        return options.map(Place::Tree).map_err(|error| match error {
            // QEMU takes it for the name of a node, of which there are none.
            SpecError::NoValue { name, .. } => {
                format!("Cannot find device='{name}' nor node-name='{name}'")
            }
            other => other.to_string(),
        });
    }
    if let Some(json) = text.strip_prefix("json:") {
        return json_tree(json).map(Place::Tree);
    }
    if let Some(name) = text.strip_prefix("file:") {
        return Ok(Place::File(PathBuf::from(name)));
    }
    if let Some(rest) = text.strip_prefix("blkdebug:") {
        let Some((config, name)) = rest.split_once(':') else {
            return Err("blkdebug requires both configuration and image file names".to_owned());
        };
        let mut debug = Options::new();
        debug.insert("driver".to_owned(), "blkdebug".into());
        if !config.is_empty() {
            debug.insert("config".to_owned(), config.into());
        }
        debug.insert("image".to_owned(), file_tree(name));
        return Ok(Place::Tree([("file".to_owned(), Value::Object(debug))].into_iter().collect()));
    }
    if let Some(tree) = super::nbd_source::tree(text) {
        let tree = tree.map(|tree| ("file".to_owned(), Value::Object(tree)));
        return tree.map(|file| Place::Tree([file].into_iter().collect()));
    }
    let scheme = text.split('/').next().unwrap_or_default().split_once(':');
    match scheme {
        Some(("null-co" | "null-aio", _)) => {
            Ok(Place::Tree([("driver".to_owned(), "null-co".into())].into_iter().collect()))
        }
        Some((scheme, _)) => Err(format!("Unknown protocol '{}'", scheme.escape_debug())),
        None => Ok(Place::File(path.to_owned())),
    }
}

/// The options of an image in a file, with what its header does not say.
pub(super) fn named_tree(file: &Path, format: Option<Format>, mut options: Options) -> Options {
    if let Some(format) = format {
        options.entry("driver").or_insert_with(|| format.name().into());
    }
    options.insert("file".to_owned(), file_tree(&file.to_string_lossy()));
    options
}

fn file_tree(name: &str) -> Value {
    let pairs = [("driver", "file"), ("filename", name)];
    Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect())
}

/// JSON whose keys may be dotted, as one tree.
fn json_tree(text: &str) -> Result<Options, String> {
    let wrong = |what: &str| format!("Could not parse the JSON options: JSON parse error, {what}");
    let value: Value = serde_json::from_str(text)
        .map_err(|error| wrong(if error.is_eof() { "premature EOI" } else { "expecting value" }))?;
    let Value::Object(map) = value else {
        return Err("Invalid JSON object given".to_owned());
    };
    let mut tree = Options::new();
    for (key, value) in map {
        let mut parts = key.split('.');
        let last = parts.next_back().unwrap_or_default().to_owned();
        let mut at = &mut tree;
        for part in parts {
            let below = at.entry(part).or_insert_with(|| Value::Object(Options::new()));
            at = below.as_object_mut().ok_or_else(|| wrong("a value is no object"))?;
        }
        match (at.get_mut(&last), value) {
            (Some(Value::Object(have)), Value::Object(more)) => have.extend(more),
            (_, value) => drop(at.insert(last, value)),
        }
    }
    Ok(tree)
}

/// Takes an option out, as text.
fn take(options: &mut Options, key: &str) -> Option<String> {
    match options.remove(key)? {
        Value::String(text) => Some(text),
        Value::Bool(on) => Some(if on { "on" } else { "off" }.to_owned()),
        other => Some(other.to_string()),
    }
}

fn take_switch(options: &mut Options, key: &str) -> Result<Option<bool>, String> {
    match take(options, key).as_deref() {
        None => Ok(None),
        Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
        Some("off" | "no" | "false" | "n") => Ok(Some(false)),
        Some(_) => Err(format!("Parameter '{key}' expects 'on' or 'off'")),
    }
}

fn take_size(options: &mut Options, key: &str) -> Result<Option<u64>, String> {
    let Some(text) = take(options, key) else { return Ok(None) };
    size::parse(&text, 1)
        .map(Some)
        .map_err(|_| format!("Parameter '{key}' expects a non-negative number below 2^64"))
}

/// Takes the options that every node has.
fn common(options: &mut Options, mode: &mut OpenMode, policy: &mut Policy) -> Result<(), String> {
    take(options, "node-name");
    if let Some(read_only) = take_switch(options, "read-only")? {
        mode.writable &= !read_only;
    }
    take_switch(options, "auto-read-only")?;
    if let Some(share) = take_switch(options, "force-share")? {
        mode.force_share = share;
    }
    for (group, key) in [(true, "direct"), (true, "no-flush"), (false, "cache.direct")] {
        let on = match options.get_mut("cache").and_then(Value::as_object_mut) {
            Some(cache) if group => take_switch(cache, key)?,
            _ => take_switch(options, key)?,
        };
        match (key, on) {
            (_, None) => {}
            ("no-flush", Some(on)) => mode.cache.no_flush = on,
            (_, Some(on)) => mode.cache.direct = on,
        }
    }
    if options.get("cache").is_some_and(|cache| cache.as_object().is_some_and(Options::is_empty)) {
        options.remove("cache");
    }
    match take(options, "discard").as_deref() {
        None => {}
        Some("ignore" | "off") => policy.ignore_discard = true,
        Some("unmap" | "on") => policy.ignore_discard = false,
        Some(_) => return Err("Invalid discard option".to_owned()),
    }
    policy.detect_zeroes = match take(options, "detect-zeroes").as_deref() {
        None => policy.detect_zeroes,
        Some("off") => DetectZeroes::Off,
        Some("on") => DetectZeroes::On,
        Some("unmap") => DetectZeroes::Unmap,
        Some(other) => {
            return Err(format!("Parameter 'detect-zeroes' does not accept value '{other}'"));
        }
    };
    Ok(())
}

/// A child, written in place.
fn child(options: &mut Options, role: &str) -> Result<Option<Options>, String> {
    match options.remove(role) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(child)) => Ok(Some(child)),
        Some(Value::String(name)) => {
            Err(format!("Cannot find device='{name}' nor node-name='{name}'"))
        }
        Some(_) => Err(format!("Invalid reference for '{role}'")),
    }
}

fn nothing_left(options: &Options, kind: &str, verb: &str, driver: &str) -> Result<(), String> {
    match options.keys().next() {
        None => Ok(()),
        Some(key) => Err(format!("Block {kind} '{driver}' {verb} the option '{key}'")),
    }
}

/// What a tree says of the image below.
fn backing(options: &mut Options) -> Result<Backing, String> {
    match options.remove("backing") {
        None => Ok(Backing::FromHeader),
        Some(Value::Null) => Ok(Backing::None),
        Some(Value::String(name)) if name.is_empty() => {
            eprintln!(
                "{}: warning: Use of \"backing\": \"\" is deprecated; use \"backing\": null instead",
                super::error::prefix()
            );
            Ok(Backing::None)
        }
        Some(Value::Object(below))
            if ["file", "filename"].iter().any(|k| below.contains_key(*k)) =>
        {
            Ok(Backing::Tree(below))
        }
        Some(Value::Object(below)) => Ok(Backing::Named(below)),
        Some(other) => {
            let name = other.as_str().unwrap_or_default();
            Err(format!("Cannot find device='{name}' nor node-name='{name}'"))
        }
    }
}

/// Opens what options describe, as far as it needs no look into the format.
///
/// # Errors
///
/// QEMU's sentence about options that do not fit, or files that cannot be opened.
pub(super) fn open(mut options: Options, mode: OpenMode) -> Result<Top, String> {
    let mut mode = mode;
    let mut policy = Policy::default();
    let driver = take(&mut options, "driver");
    if let (Some(driver), Some(format)) = (&driver, mode.format)
        && driver != format.name()
    {
        return Err("Driver specified twice".to_owned());
    }
    let driver = driver.or_else(|| mode.format.map(|format| format.name().to_owned()));
    match driver.as_deref() {
        Some(name) if Format::called(name).is_some() => {}
        None if options.contains_key("file") => {}
        None if options.contains_key("filename") => {
            let path = take(&mut options, "filename").unwrap_or_default();
            options.insert("file".to_owned(), file_tree(&path));
        }
        None => return Err("Must specify either driver or file".to_owned()),
        Some(protocol) => {
            common(&mut options, &mut mode, &mut policy)?;
            options.insert("driver".to_owned(), protocol.into());
            let (path, bottom) = bottom(options, mode, 0)?;
            let top = Top::new(path, bottom, OpenMode { format: Some(Format::Raw), ..mode });
            return Ok(Top { policy, ..top });
        }
    }
    common(&mut options, &mut mode, &mut policy)?;
    let Some(file) = child(&mut options, "file")? else {
        return Err("A block device must be specified for \"file\"".to_owned());
    };
    let (path, below) = bottom(file, mode, 0)?;
    let mut top = Top { policy, ..Top::new(path, below, mode) };
    match driver.as_deref() {
        Some("raw") => {
            top.format = Some(Format::Raw);
            let offset = take_size(&mut options, "offset")?;
            let size = take_size(&mut options, "size")?;
            if offset.is_some() || size.is_some() {
                let below = Arc::clone(&top.bottom.node);
                let window = RawNode::new(below, offset.unwrap_or(0), size, !mode.writable);
                let window = window.map_err(|error| error.to_string())?;
                top.bottom = top.bottom.put(window);
            }
            nothing_left(&options, "format", "does not support", "raw")?;
        }
        Some(name) => {
            top.format = Format::called(name);
            match top.format {
                Some(Format::Image(ImageFormat::Luks)) => {
                    top.crypt.key_secret = take(&mut options, "key-secret");
                    if let Some(header) = child(&mut options, "header")? {
                        let mode = OpenMode { writable: false, ..mode };
                        top.crypt.header = Some(bottom(header, mode, 0)?.1);
                    }
                }
                Some(Format::Qcow2 | Format::Image(ImageFormat::Qcow)) => {
                    top.crypt.take(&mut options)?;
                }
                _ => {}
            }
            if top.format == Some(Format::Qcow2) {
                top.qcow2.lazy_refcounts = take_switch(&mut options, "lazy-refcounts")?;
                top.qcow2.cache_bytes = take_size(&mut options, "l2-cache-size")?;
                let data = child(&mut options, "data-file")?;
                top.data = data.map(|data| self::bottom(data, mode, 0)).transpose()?;
            }
            if top.format.is_some_and(Format::has_backing) {
                top.backing = backing(&mut options)?;
            }
            nothing_left(&options, "format", "does not support", name)?;
        }
        None => nothing_left(&options, "format", "does not support", "probed")?,
    }
    Ok(top)
}

/// Opens a node that holds bytes, and what is below it. Returns the name of the file at the bottom.
fn bottom(mut options: Options, mode: OpenMode, depth: usize) -> Result<(PathBuf, Bottom), String> {
    if depth > DEPTH_MAX {
        return Err("too many nodes on top of each other".to_owned());
    }
    let mut mode = mode;
    common(&mut options, &mut mode, &mut Policy::default())?;
    let driver = take(&mut options, "driver").unwrap_or_else(|| "file".to_owned());
    match driver.as_str() {
        "file" | "host_device" => {
            take(&mut options, "locking");
            take(&mut options, "aio");
            let Some(name) = take(&mut options, "filename") else {
                return Err("The 'file' block driver requires a file name".to_owned());
            };
            nothing_left(&options, "protocol", "doesn't support", &driver)?;
            let name = PathBuf::from(name.strip_prefix("file:").unwrap_or(&name));
            let file = open_file(&name, mode).map_err(|error| file_detail(&error))?;
            Ok((name, Bottom::of_file(file)))
        }
        "null-co" | "null-aio" => {
            let null = NullOptions {
                size: take_size(&mut options, "size")?.unwrap_or(1 << 30),
                latency_ns: take_size(&mut options, "latency-ns")?.unwrap_or(0),
                read_zeroes: take_switch(&mut options, "read-zeroes")?.unwrap_or(false),
                read_only: !mode.writable,
            };
            nothing_left(&options, "protocol", "doesn't support", &driver)?;
            let node: Arc<dyn Node> = NullNode::new(null);
            let below = vec![Arc::clone(&node)];
            let bottom = Bottom { node, host: None, fault: None, below };
            Ok((PathBuf::from(format!("{driver}://")), bottom))
        }
        "nbd" => super::nbd_source::open(options, mode),
        "raw" => {
            let Some(file) = child(&mut options, "file")? else {
                return Err("A block device must be specified for \"file\"".to_owned());
            };
            let offset = take_size(&mut options, "offset")?.unwrap_or(0);
            let size = take_size(&mut options, "size")?;
            nothing_left(&options, "format", "does not support", "raw")?;
            let (path, bottom) = bottom(file, mode, depth + 1)?;
            let window = RawNode::new(Arc::clone(&bottom.node), offset, size, !mode.writable);
            Ok((path, bottom.put(window.map_err(|error| error.to_string())?)))
        }
        "blkdebug" => {
            let Some(image) = child(&mut options, "image")? else {
                return Err("A block device must be specified for \"image\"".to_owned());
            };
            let rules = rules(options)?;
            let (path, bottom) = bottom(image, mode, depth + 1)?;
            let fault = FaultNode::blkdebug(Arc::clone(&bottom.node), rules);
            let node: Arc<dyn Node> = Arc::clone(&fault) as _;
            Ok((path, Bottom { fault: Some(fault), ..bottom.put(node) }))
        }
        other => Err(format!("Unknown driver '{}'", other.escape_debug())),
    }
}

/// The rules of `blkdebug`: its options, and those of its file.
fn rules(mut options: Options) -> Result<Blkdebug, String> {
    for (key, value) in [("driver", "blkdebug"), ("node-name", "debug"), ("image", "below")] {
        options.insert(key.to_owned(), value.into());
    }
    let nodes = spec::node_from_options(options, Mode::Lenient).map_err(|e| e.to_string())?;
    let Some(DriverSpec::Blkdebug(spec)) = nodes.into_iter().next().map(|node| node.driver) else {
        return Err("blkdebug needs rules".to_owned());
    };
    let mut rules = Blkdebug::from(&spec);
    if let Some(path) = &spec.config {
        config::read(path, &mut rules).map_err(|error| match error {
            config::ReadError::Io(error) => format!(
                "Could not read blkdebug config file: {}",
                std::io::Error::from(error.kind())
            ),
            other => format!("Could not parse blkdebug config file: {other}"),
        })?;
    }
    Ok(rules)
}

/// The format that a node begins like.
pub(super) async fn probe(cx: &Cx, node: &Arc<dyn Node>) -> Result<Format, String> {
    let len = node.info().size.min(format::HEAD_LEN as u64);
    let head = spindle_block::submit::read(cx, node, 0, usize::try_from(len).unwrap_or(0)).await;
    let head = head.map_err(|e| {
        format!("Could not read image for determining its format: {}", super::image::errno_text(e))
    })?;
    let Some(name) = format::signature(&head.to_vec()) else { return Ok(Format::Raw) };
    Format::called(name)
        .ok_or_else(|| format!("it begins like a {name} image, which cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tree(path: &str) -> Value {
        match place(Path::new(path)).unwrap() {
            Place::Tree(options) => Value::Object(options),
            Place::File(path) => json!(path.to_str()),
        }
    }

    #[test]
    fn names_are_files_prefixes_or_trees() {
        assert_eq!(tree("dir/a:b"), json!("dir/a:b"));
        assert_eq!(tree("file:a:b"), json!("a:b"));
        assert_eq!(
            tree(r#"json:{"file.filename": "x", "driver": "raw", "file": {"driver": "file"}}"#),
            json!({"file": {"filename": "x", "driver": "file"}, "driver": "raw"})
        );
        assert_eq!(
            tree("blkdebug:c:a:b"),
            json!({"file": {"driver": "blkdebug", "config": "c",
                            "image": {"driver": "file", "filename": "a:b"}}})
        );
        let options = options_path("driver=qcow2,file.filename=a,,b");
        assert_eq!(
            tree(options.to_str().unwrap()),
            json!({"driver": "qcow2", "file": {"filename": "a,b"}})
        );
        for (name, part) in [
            ("zz:x", "Unknown protocol 'zz'"),
            ("json:{", "premature EOI"),
            ("json:[]", "Invalid JSON object"),
            ("blkdebug:x", "requires both"),
        ] {
            let error = place(Path::new(name)).unwrap_err();
            assert!(error.contains(part), "{name}: {error}");
        }
    }
}
