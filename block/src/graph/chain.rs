//! Backing chains: the files that images name, opened from the bottom up.
//!
//! An image is hostile input, and so is the name in its header: it is only ever a file's name,
//! opened read-only with the format that the header gives, never guessed. A chain is bounded, and a
//! file that is in it already is refused.

use std::{
    collections::BTreeSet,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Backing, BackingReason, Child, DriverOptions, Graph, GraphError, HostFile, ImageOptions,
    Member, NodeOptions, Qcow2Options, Usage,
    open::{Opened, file_options},
};
use crate::{
    Cx, LocalBoxFuture, Node,
    error::with_causes,
    formats::{self, BackingName, Directory, Facts, ImageFormat, Secret},
    nodes::{
        file::{Driver, FileNode},
        raw::RawNode,
    },
};

/// The longest chain: every image in it costs a file and memory.
const DEPTH_MAX: usize = 200;

/// What an image says of its other files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// Its name, as it is written.
    pub file: Option<String>,
    /// Its format.
    pub format: Option<String>,
    /// The file that guest data is in, where that is another one.
    pub data: Option<String>,
}

/// A format whose images can have backing files. There is one; tests have another.
pub(super) trait Overlay {
    /// Reads what the image in `file` says of its other files.
    fn named(
        &self,
        cx: &Cx,
        file: &Arc<dyn Node>,
    ) -> LocalBoxFuture<'static, Result<Named, String>>;

    /// Opens the image in `file`.
    fn open(
        &self,
        cx: &Cx,
        file: Arc<dyn Node>,
        data: Option<Arc<dyn Node>>,
        backing: Option<Arc<dyn Node>>,
        read_only: bool,
        options: Option<&Qcow2Options>,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Node>, String>>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Raw,
    Qcow2,
    Image(ImageFormat),
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Image(format) => format.name(),
        }
    }
}

/// The image that a chain hangs from.
#[derive(Clone, Copy)]
pub(super) enum Upper<'a> {
    Qcow2(&'a Qcow2Options),
    Image(&'a ImageOptions),
}

impl Upper<'_> {
    fn file(&self) -> &str {
        match self {
            Self::Qcow2(qcow2) => &qcow2.file,
            Self::Image(image) => &image.file,
        }
    }

    fn backing(&self) -> &Backing {
        match self {
            Self::Qcow2(qcow2) => &qcow2.backing,
            Self::Image(image) => &image.backing,
        }
    }

    fn format(&self) -> Format {
        match self {
            Self::Qcow2(_) => Format::Qcow2,
            Self::Image(image) => Format::Image(image.format),
        }
    }
}

/// An image of a chain that is to be opened.
struct Opening<'a> {
    format: Format,
    path: Option<&'a Path>,
    file: Arc<dyn Node>,
    data: Option<Arc<dyn Node>>,
    backing: Option<Arc<dyn Node>>,
    backing_id: Option<[u8; 16]>,
    read_only: bool,
    options: Option<&'a Qcow2Options>,
    secret: Option<Secret>,
    /// The node of a header of its own.
    header: Option<Arc<dyn Node>>,
}

/// A file of the chain, not yet an image.
struct Level {
    path: PathBuf,
    format: Format,
    file: Arc<FileNode>,
    /// The file that its guest data is in, where that is another one.
    data: Option<DataFile>,
}

/// A data file that an image names.
struct DataFile {
    path: PathBuf,
    file: Arc<FileNode>,
}

/// Names reserved for members of a chain, given back if it does not come to be.
struct Names<'a> {
    graph: &'a Graph,
    names: Vec<String>,
}

impl Names<'_> {
    fn next(&mut self) -> String {
        let name = self.graph.reserve_auto();
        self.names.push(name.clone());
        name
    }
}

impl Drop for Names<'_> {
    fn drop(&mut self) {
        self.graph.unreserve(&self.names);
    }
}

impl Graph {
    /// Opens an image and, where that is asked for, the backing chain that it names.
    pub(super) async fn open_overlay(
        &self,
        cx: &Cx,
        overlay: &dyn Overlay,
        upper: Upper<'_>,
        options: &NodeOptions,
    ) -> Result<Opened, GraphError> {
        let (file, path, below, host) = {
            let inner = self.lock();
            let file = Arc::clone(&inner.member(upper.file())?.node);
            let bottom = inner.bottom(upper.file()).and_then(|name| inner.members.get(&name));
            let below = bottom.and_then(|member| member.file.clone());
            let host = bottom.and_then(|member| match &member.options.driver {
                DriverOptions::File(host) | DriverOptions::HostDevice(host) => Some(host.clone()),
                _ => None,
            });
            (file, inner.path_below(upper.file()), below, host.unwrap_or_default())
        };
        let shown_path = path.clone().unwrap_or_else(|| PathBuf::from(upper.file()));
        let mut names = Names { graph: self, names: Vec::new() };
        let mut chain = Vec::new();
        let mut children = Vec::new();
        let mut backing_id = None;
        let template = template(options, &host);
        let wrong = |reason| image_error(&shown_path, upper.format(), reason);
        let data: Option<Arc<dyn Node>> = match upper {
            Upper::Qcow2(Qcow2Options { data_file: Some(name), .. }) => Some(self.node(name)?),
            Upper::Qcow2(_) => {
                let named = overlay.named(cx, &file).await.map_err(wrong)?.data;
                let template = NodeOptions { read_only: options.read_only, ..template.clone() };
                let found = named.map(|name| self.data_file(path.as_deref(), &name, &template));
                match found.transpose().map_err(wrong)? {
                    None => None,
                    Some(data) => {
                        let usage = if options.read_only { Usage::READ } else { Usage::WRITE };
                        let made = data_member(&mut names, &data, &template);
                        children.push(Child { role: "data-file", name: made.0.clone(), usage });
                        chain.push(made);
                        Some(data.file)
                    }
                }
            }
            Upper::Image(_) => None,
        };
        let node = match upper.backing() {
            Backing::None => None,
            Backing::Node(name) => Some(self.node(name)?),
            Backing::FromHeader => {
                let top = Top {
                    file: &file,
                    path: path.as_deref(),
                    shown: &shown_path,
                    format: upper.format(),
                };
                let seen = below.and_then(|file| file.identity()).into_iter().collect();
                let levels = self.find_chain(cx, overlay, &top, seen, &template).await?;
                let (made, lower, id) =
                    self.assemble(cx, overlay, levels, &template, &mut names).await?;
                backing_id = id;
                chain.extend(made);
                children.extend(lower.as_ref().map(|(name, _)| Child {
                    role: "backing",
                    name: name.clone(),
                    usage: Usage::READ,
                }));
                lower.map(|(_, node)| node)
            }
        };
        let header = match upper {
            Upper::Image(ImageOptions { header: Some(name), .. }) => Some(self.node(name)?),
            _ => None,
        };
        let opening = Opening {
            format: upper.format(),
            path: path.as_deref(),
            file,
            data,
            backing: node,
            backing_id,
            read_only: options.read_only,
            options: match upper {
                Upper::Qcow2(qcow2) => Some(qcow2),
                Upper::Image(_) => None,
            },
            secret: match upper {
                Upper::Qcow2(_) => None,
                Upper::Image(image) => image.secret.clone(),
            },
            header,
        };
        let node = self.open_level(cx, overlay, opening, &template).await.map_err(wrong)?;
        // From here on the names belong to the members.
        names.names.clear();
        Ok(Opened { chain, children, ..Opened::plain(node) })
    }

    /// Opens the files of a chain, from the top down.
    async fn find_chain(
        &self,
        cx: &Cx,
        overlay: &dyn Overlay,
        top: &Top<'_>,
        mut seen: BTreeSet<(u64, u64)>,
        template: &NodeOptions,
    ) -> Result<Vec<Level>, GraphError> {
        let mut levels: Vec<Level> = Vec::new();
        loop {
            let last = levels.last();
            if last.is_some_and(|level| level.format == Format::Raw) {
                return Ok(levels);
            }
            let image = last.map_or(top.shown, |level| &level.path).to_owned();
            let file = last.map_or(Arc::clone(top.file), |level| Arc::clone(&level.file) as _);
            let image_format = last.map_or(top.format, |level| level.format);
            let image_path = last.map(|level| &*level.path).or(top.path);
            let named = match image_format {
                Format::Raw => Ok(Named::default()),
                Format::Qcow2 => overlay.named(cx, &file).await,
                Format::Image(format) => {
                    let facts = self.facts(cx, format, image_path, &file, template).await;
                    facts.map(|facts| Named::from(facts.backing))
                }
            };
            let named = named.map_err(|reason| image_error(&image, image_format, reason))?;
            // The top's is open already.
            if let (Some(name), Some(level)) = (&named.data, levels.last_mut()) {
                let data = self.data_file(Some(&level.path), name, template);
                let data = data.map_err(|reason| image_error(&image, image_format, reason))?;
                level.data = Some(data);
            }
            let Some(name) = named.file else { return Ok(levels) };
            let refuse = |reason| GraphError::Backing {
                image: image.clone(),
                backing: name.clone(),
                reason,
            };
            if levels.len() >= DEPTH_MAX {
                return Err(refuse(BackingReason::TooDeep(DEPTH_MAX)));
            }
            let last = levels.last();
            let directory = last.map(|level| &*level.path).or(top.path).and_then(Path::parent);
            let format = format_of(named.format.as_deref()).map_err(&refuse)?;
            let path = resolve(directory, &name).map_err(&refuse)?;
            // Before it is opened: a lock on what is in the chain already would only confuse.
            if identity_of(&path).is_some_and(|identity| !seen.insert(identity)) {
                return Err(refuse(BackingReason::Cycle));
            }
            let host = HostFile { filename: path.clone(), locking: locking_of(template) };
            let options = file_options(&host, Driver::Any, template);
            let file = self
                .open_host_file(&options)
                .map_err(|error| GraphError::BackingFile { image, error: Box::new(error) })?;
            levels.push(Level { path, format, file, data: None });
        }
    }
}

impl From<Option<BackingName>> for Named {
    fn from(name: Option<BackingName>) -> Self {
        let format = name.as_ref().and_then(|name| name.format).map(str::to_owned);
        Self { file: name.map(|name| name.file), format, data: None }
    }
}

fn image_error(path: &Path, format: Format, reason: String) -> GraphError {
    GraphError::Image { path: path.to_owned(), format: format.name(), reason }
}

/// An image's name and node.
type Image = (String, Arc<dyn Node>);

impl Graph {
    /// Opens further files of the image at `path`.
    fn beside<'a>(
        &'a self,
        path: Option<&'a Path>,
        template: &'a NodeOptions,
    ) -> Directory<Box<OpenFile<'a>>> {
        Directory(Box::new(move |name, read_only| {
            let directory = path.and_then(Path::parent);
            let directory = directory.ok_or("it is not known in which directory the image is")?;
            let host = HostFile { filename: directory.join(name), locking: locking_of(template) };
            let template = NodeOptions { read_only, ..template.clone() };
            let file = self.open_host_file(&file_options(&host, Driver::Any, &template));
            Ok(file.map_err(|error| error.to_string())? as Arc<dyn Node>)
        }))
    }

    /// Opens the data file that the image at `path` names.
    fn data_file(
        &self,
        path: Option<&Path>,
        name: &str,
        template: &NodeOptions,
    ) -> Result<DataFile, String> {
        let found = crate::qcow2::data_path(path, name);
        let path = found.ok_or("the name of its data file is not that of a file")?;
        let host = HostFile { filename: path.clone(), locking: locking_of(template) };
        let options = file_options(&host, Driver::Any, template);
        let file = self.open_host_file(&options).map_err(|error| with_causes(&error))?;
        Ok(DataFile { path, file })
    }

    async fn facts(
        &self,
        cx: &Cx,
        format: ImageFormat,
        path: Option<&Path>,
        file: &Arc<dyn Node>,
        template: &NodeOptions,
    ) -> Result<Facts, String> {
        let facts = formats::facts(cx, format, file, &self.beside(path, template)).await;
        facts.map_err(|e| with_causes(&e))
    }

    async fn open_level(
        &self,
        cx: &Cx,
        overlay: &dyn Overlay,
        opening: Opening<'_>,
        template: &NodeOptions,
    ) -> Result<Arc<dyn Node>, String> {
        let Opening { format, path, file, data, backing, backing_id, read_only, .. } = opening;
        match format {
            Format::Raw => RawNode::new(file, 0, None, read_only)
                .map(|node| node as Arc<dyn Node>)
                .map_err(|error| error.to_string()),
            Format::Qcow2 => {
                overlay.open(cx, file, data, backing, read_only, opening.options).await
            }
            Format::Image(format) => {
                let beside = self.beside(path, template);
                let request = formats::Request {
                    backing,
                    backing_id,
                    read_only,
                    secret: opening.secret,
                    header: opening.header,
                    ..formats::Request::read(file, &beside)
                };
                formats::open(cx, format, request).await.map_err(|e| with_causes(&e))
            }
        }
    }

    /// Opens the images of a chain, from the bottom up. Returns its members, children first, the
    /// uppermost image, and what images above call it by.
    async fn assemble(
        &self,
        cx: &Cx,
        overlay: &dyn Overlay,
        levels: Vec<Level>,
        template: &NodeOptions,
        names: &mut Names<'_>,
    ) -> Result<Assembled, GraphError> {
        let mut chain = Vec::new();
        let mut lower: Option<Image> = None;
        let mut id = None;
        for level in levels.into_iter().rev() {
            let file: Arc<dyn Node> = Arc::clone(&level.file) as _;
            let opening = Opening {
                format: level.format,
                path: Some(&level.path),
                file: Arc::clone(&file),
                data: level.data.as_ref().map(|data| Arc::clone(&data.file) as _),
                backing: lower.as_ref().map(|(_, node)| Arc::clone(node)),
                backing_id: id.take(),
                read_only: true,
                options: None,
                secret: None,
                header: None,
            };
            let node = self.open_level(cx, overlay, opening, template).await;
            let failed = |reason| image_error(&level.path, level.format, reason);
            let node = node.map_err(failed)?;
            if let Format::Image(format) = level.format {
                let facts = self.facts(cx, format, Some(&level.path), &file, template).await;
                id = facts.map_err(failed)?.id;
            }
            let lower_name = lower.take().map(|(name, _)| name);
            let made = members(names, &level, &node, lower_name, template);
            lower = made.last().map(|(name, _)| (name.clone(), Arc::clone(&node)));
            chain.extend(made);
        }
        Ok((chain, lower, id))
    }
}

/// Opens a file, perhaps read-only.
type OpenFile<'a> = dyn Fn(&Path, bool) -> Result<Arc<dyn Node>, String> + 'a;

/// What [`Graph::assemble`] makes.
type Assembled = (Vec<(String, Member)>, Option<Image>, Option<[u8; 16]>);

/// The image that the chain hangs from.
struct Top<'a> {
    file: &'a Arc<dyn Node>,
    path: Option<&'a Path>,
    /// Its name in messages.
    shown: &'a Path,
    format: Format,
}

/// The options that every member of a chain has; the driver is that of the uppermost file.
fn template(options: &NodeOptions, host: &HostFile) -> NodeOptions {
    NodeOptions {
        node_name: None,
        driver: DriverOptions::File(host.clone()),
        read_only: true,
        auto_read_only: false,
        ..options.clone()
    }
}

fn locking_of(template: &NodeOptions) -> super::options::Locking {
    match &template.driver {
        DriverOptions::File(host) => host.locking,
        _ => super::options::Locking::default(),
    }
}

/// The members that a level becomes: data file, file and image.
fn members(
    names: &mut Names<'_>,
    level: &Level,
    node: &Arc<dyn Node>,
    lower: Option<String>,
    template: &NodeOptions,
) -> Vec<(String, Member)> {
    let data = level.data.as_ref().map(|data| data_member(names, data, template));
    let (file_name, image_name) = (names.next(), names.next());
    let host = HostFile { filename: level.path.clone(), locking: locking_of(template) };
    let is_device = level.file.driver() == "host_device";
    let file_driver =
        if is_device { DriverOptions::HostDevice(host) } else { DriverOptions::File(host) };
    let image_driver = match level.format {
        Format::Raw => DriverOptions::Raw { file: file_name.clone(), offset: 0, size: None },
        Format::Image(format) => DriverOptions::Image(ImageOptions {
            format,
            file: file_name.clone(),
            backing: lower.clone().map_or(Backing::None, Backing::Node),
            secret: None,
            header: None,
        }),
        Format::Qcow2 => DriverOptions::Qcow2(Qcow2Options {
            file: file_name.clone(),
            backing: lower.clone().map_or(Backing::None, Backing::Node),
            data_file: data.as_ref().map(|(name, _)| name.clone()),
            lazy_refcounts: None,
            l2_cache_size: None,
            secret: None,
            encrypt_format: None,
        }),
    };
    let reads = |role, name| Child { role, name, usage: Usage::READ };
    let mut children = vec![reads("file", file_name.clone())];
    children.extend(data.as_ref().map(|(name, _)| reads("data-file", name.clone())));
    children.extend(lower.map(|name| reads("backing", name)));
    let member = |name: &String, driver, node, children, file| Member {
        node,
        options: NodeOptions { node_name: Some(name.clone()), driver, ..template.clone() },
        children,
        owner: None,
        fault: None,
        file,
        order: 0,
    };
    let file_node: Arc<dyn Node> = Arc::clone(&level.file) as _;
    let file =
        member(&file_name, file_driver, file_node, Vec::new(), Some(Arc::clone(&level.file)));
    let image = member(&image_name, image_driver, Arc::clone(node), children, None);
    let mut made = Vec::from_iter(data);
    made.extend([(file_name, file), (image_name, image)]);
    made
}

/// The member that a data file becomes.
fn data_member(names: &mut Names<'_>, data: &DataFile, template: &NodeOptions) -> (String, Member) {
    let name = names.next();
    let host = HostFile { filename: data.path.clone(), locking: locking_of(template) };
    let is_device = data.file.driver() == "host_device";
    let driver =
        if is_device { DriverOptions::HostDevice(host) } else { DriverOptions::File(host) };
    let options = NodeOptions { node_name: Some(name.clone()), driver, ..template.clone() };
    let member = Member {
        node: Arc::clone(&data.file) as _,
        options,
        children: Vec::new(),
        owner: None,
        fault: None,
        file: Some(Arc::clone(&data.file)),
        order: 0,
    };
    (name, member)
}

fn format_of(name: Option<&str>) -> Result<Format, BackingReason> {
    match name {
        None => Err(BackingReason::NoFormat),
        Some("qcow2") => Ok(Format::Qcow2),
        // QEMU writes the protocol's name here when it was told to use it as the format.
        Some("raw" | "file" | "host_device") => Ok(Format::Raw),
        Some(other) => match ImageFormat::called(other) {
            Some(format) => Ok(Format::Image(format)),
            None => Err(BackingReason::Format(other.to_owned())),
        },
    }
}

/// The file that `name` means in an image that is in `directory`.
fn resolve(directory: Option<&Path>, name: &str) -> Result<PathBuf, BackingReason> {
    // As QEMU's path_has_protocol(): a colon before any slash.
    if name.find([':', '/']).is_some_and(|at| name[at..].starts_with(':')) {
        return Err(BackingReason::Protocol);
    }
    let name = Path::new(name);
    match directory {
        _ if name.is_absolute() => Ok(name.to_owned()),
        Some(directory) => Ok(directory.join(name)),
        None => Err(BackingReason::Relative),
    }
}

/// What file `path` is, as [`FileNode::identity`] has it; `None` where it cannot be looked at.
fn identity_of(path: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    let is_device = meta.file_type().is_block_device();
    Some(if is_device { (u64::MAX, meta.rdev()) } else { (meta.dev(), meta.ino()) })
}

#[cfg(test)]
mod tests;
