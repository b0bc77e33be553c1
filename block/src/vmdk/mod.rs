//! VMDK: VMware's images, of the hosted kinds: monolithicSparse, monolithicFlat,
//! twoGbMaxExtentSparse, twoGbMaxExtentFlat and streamOptimized.
//!
//! A descriptor, in a file of its own or in the first extent, lists extents: plain bytes, or grains
//! that are found through two levels of tables. Source: VMware, *Virtual Disk Format 5.0* (2011).

mod cid;
mod create;
mod descriptor;
mod pull;
mod sparse;
mod spec;
mod stream;

use std::sync::Arc;

pub use create::{Make, Subformat, VmdkOptions, create};
pub(crate) use descriptor::is_descriptor;
use descriptor::{Descriptor, ExtentKind, ExtentLine, NO_PARENT};
pub use pull::StreamReader;
use serde_json::{Map as JsonMap, Value};
use spec::Header;

use crate::{
    Cx, Node, Range,
    formats::{
        BackingName, Beside, Facts, FormatError, Report, Request,
        extents::{Extents, Part},
        io, refuse,
    },
    mapped::Mapped,
    qcow2::host::Host,
};

/// The descriptor of an image, and where it is.
struct Front {
    descriptor: Descriptor,
    /// Of the text in the file.
    place: Range,
    /// The text is in a sparse extent, which is the file itself.
    embedded: bool,
}

async fn read_front(cx: &Cx, file: &Arc<dyn Node>) -> Result<Front, FormatError> {
    let host = Host::new(Arc::clone(file));
    let reading = io("reading the image header");
    let first = host.read(cx, 0, spec::HEADER).await.map_err(&reading)?;
    let embedded = first.starts_with(spec::MAGIC);
    let place = if embedded {
        Header::parse(&first)?.descriptor
    } else {
        if first.starts_with(b"COWD") {
            return Err(FormatError::Unsupported(
                "VMDK extents of ESX (COWD) are not supported".to_owned(),
            ));
        }
        if !is_descriptor(&first) {
            return Err(FormatError::Magic("vmdk"));
        }
        Range::new(0, file.info().size)
    };
    if place.len > descriptor::TEXT_MAX {
        return Err(refuse("descriptor", format!("has {} bytes, more than 64 KiB", place.len)));
    }
    let bytes = host.read(cx, place.offset, place.len as usize).await.map_err(&reading)?;
    let descriptor = Descriptor::parse(&bytes)?;
    Ok(Front { descriptor, place, embedded })
}

/// What the descriptor says.
pub(crate) async fn facts(
    cx: &Cx,
    file: &Arc<dyn Node>,
    beside: &dyn Beside,
) -> Result<Facts, FormatError> {
    let front = read_front(cx, file).await?;
    let descriptor = &front.descriptor;
    let mut facts = Facts { dirty: Some(false), ..Facts::default() };
    let mut list = Vec::new();
    for line in &descriptor.extents {
        let mut entry = JsonMap::new();
        let mut put = |key: &str, value: Value| drop(entry.insert(key.to_owned(), value));
        let mut size = line.len;
        if line.kind == ExtentKind::Sparse {
            let extent = if front.embedded {
                Arc::clone(file)
            } else {
                beside.open(&line.file, true).map_err(FormatError::Beside)?
            };
            let host = Host::new(Arc::clone(&extent));
            let header = sparse::read_header(cx, &host).await?;
            if !front.embedded {
                let _ = Arc::clone(&extent).close(Cx::clone(cx)).await;
            }
            if header.is_compressed() {
                put("compressed", Value::Bool(true));
            }
            size = header.size;
            facts.cluster = Some(header.grain);
            put("virtual-size", size.into());
            put("filename", if front.embedded { "" } else { &*line.file }.into());
            put("cluster-size", header.grain.into());
        } else {
            put("virtual-size", size.into());
            put("filename", (&*line.file).into());
        }
        put("format", if front.embedded { "" } else { line.kind.name() }.into());
        facts.size += size;
        list.push(Value::Object(entry));
    }
    let mut specific = JsonMap::new();
    specific.insert("cid".to_owned(), descriptor.cid.into());
    specific.insert("parent-cid".to_owned(), descriptor.parent_cid.into());
    specific.insert("create-type".to_owned(), descriptor.kind.clone().into());
    specific.insert("extents".to_owned(), Value::Array(list));
    facts.specific = Some(Value::Object(specific));
    facts.id = Some(cid::id(descriptor.cid));
    let parent = descriptor.parent_file.clone().filter(|_| descriptor.parent_cid != NO_PARENT);
    facts.backing = parent.map(|file| BackingName { file, format: Some("vmdk") });
    Ok(facts)
}

/// An extent, open.
struct Opened {
    part: Part,
    mapped: Option<Arc<Mapped>>,
    file: Arc<dyn Node>,
}

async fn open_extent(
    cx: &Cx,
    request: &Request<'_>,
    line: &ExtentLine,
    start: u64,
    file: Option<Arc<dyn Node>>,
) -> Result<Opened, FormatError> {
    let own = file.is_some();
    let file = match file {
        Some(file) => file,
        None => {
            let read_only = request.is_read_only();
            request.beside.open(&line.file, read_only).map_err(FormatError::Beside)?
        }
    };
    let len = line.len;
    if line.kind == ExtentKind::Flat {
        let end = line.offset.checked_add(len);
        if end.is_none_or(|end| end > file.info().size) {
            return Err(refuse(
                "extent description",
                format!(
                    "gives '{}' {len} bytes from {}, and the file has {}",
                    line.file.escape_debug(),
                    line.offset,
                    file.info().size
                ),
            ));
        }
        let node = Some(Arc::clone(&file));
        let part = Part { start, len, node, offset: line.offset };
        return Ok(Opened { part, mapped: None, file });
    }
    let backing = request.backing.as_ref().map(|backing| -> Arc<dyn Node> {
        let inside = backing.info().size.saturating_sub(start);
        if start == 0 || inside == 0 {
            return Arc::clone(backing);
        }
        let part = Part { start: 0, len: inside, node: Some(Arc::clone(backing)), offset: start };
        Extents::new("vmdk", vec![part], Vec::new(), Vec::new(), true, None)
    });
    let backing =
        backing.filter(|_| request.backing.as_ref().is_some_and(|b| b.info().size > start));
    let extent = sparse::open(cx, Arc::clone(&file), backing, request.is_read_only()).await?;
    let size = extent.size();
    if !own && size != len {
        return Err(refuse(
            "extent description",
            format!("gives '{}' {len} bytes, and it has {size}", line.file.escape_debug()),
        ));
    }
    let node: Arc<dyn Node> = Arc::clone(&extent) as _;
    let part = Part { start, len: size, node: Some(node), offset: 0 };
    Ok(Opened { part, mapped: Some(extent), file })
}

async fn open_parts(
    cx: &Cx,
    request: &Request<'_>,
    front: &Front,
) -> Result<Vec<Opened>, FormatError> {
    let mut opened: Vec<Opened> = Vec::new();
    let mut start = 0_u64;
    for line in front.descriptor.extents.iter().filter(|line| line.len > 0) {
        let file = front.embedded.then(|| Arc::clone(&request.file));
        if line.kind == ExtentKind::Zero {
            let file = Arc::clone(&request.file);
            let part = Part { start, len: line.len, node: None, offset: 0 };
            opened.push(Opened { part, mapped: None, file });
            start += line.len;
            continue;
        }
        let extent = open_extent(cx, request, line, start, file).await?;
        start = start
            .checked_add(extent.part.len)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or_else(|| refuse("extent description", "has more than 8 EiB"))?;
        opened.push(extent);
    }
    Ok(opened)
}

/// Opens an image.
pub(crate) async fn open(cx: &Cx, request: Request<'_>) -> Result<Arc<dyn Node>, FormatError> {
    let front = read_front(cx, &request.file).await?;
    let parent_cid = front.descriptor.parent_cid;
    if let (Some(id), true) = (request.backing_id, parent_cid != NO_PARENT)
        && id != cid::id(parent_cid)
    {
        return Err(FormatError::Unsupported(format!(
            "the image belongs to a backing file with the content id {parent_cid:08x}, and this one \
             has another: it was changed since"
        )));
    }
    let read_only = request.is_read_only();
    if front.embedded && !read_only && request.once {
        let host = Host::new(Arc::clone(&request.file));
        if sparse::read_header(cx, &host).await?.is_compressed() {
            return Ok(stream::open(cx, Arc::clone(&request.file)).await? as _);
        }
    }
    let opened = open_parts(cx, &request, &front).await?;
    let mut children = vec![("file", Arc::clone(&request.file))];
    let mut own: Vec<Arc<dyn Node>> = Vec::new();
    for extent in &opened {
        own.extend(extent.mapped.iter().map(|mapped| Arc::clone(mapped) as _));
        if !front.embedded && extent.part.node.is_some() {
            own.push(Arc::clone(&extent.file));
        }
    }
    if let Some(backing) = &request.backing {
        children.push(("backing", Arc::clone(backing)));
    }
    let touch = cid::Touch::new(Arc::clone(&request.file), front.place, &front.descriptor);
    let parts = opened.into_iter().map(|extent| extent.part).collect();
    Ok(Extents::new("vmdk", parts, children, own, read_only, Some(Box::new(touch))))
}

/// Checks the tables of all extents.
pub(crate) async fn check(cx: &Cx, request: Request<'_>) -> Result<Report, FormatError> {
    let front = read_front(cx, &request.file).await?;
    let opened = open_parts(cx, &request, &front).await?;
    let mut report = Report::default();
    for extent in &opened {
        if let Some(mapped) = &extent.mapped {
            let found = crate::mapped::check(cx, mapped).await?;
            report.total += found.total;
            report.allocated += found.allocated;
            report.corruptions += found.corruptions;
            report.messages.extend(found.messages);
        }
        if !front.embedded {
            let _ = Arc::clone(&extent.file).close(Cx::clone(cx)).await;
        }
    }
    Ok(report)
}
