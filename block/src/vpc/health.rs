//! The footer and its copy.

use std::sync::Arc;

use super::{
    FOOTER, Footer, Kind, TAIL, read_headers,
    spec::{self, Dynamic},
};
use crate::{
    Cx, Node,
    formats::{Ailment, FormatError, Request, io},
    qcow2::host::Host,
};

/// Both places of the footer.
struct Copies {
    /// That at the beginning, where there is one; fixed disks have none.
    front: Option<Vec<u8>>,
    /// That at the end, and where it is.
    back: Option<(u64, Vec<u8>)>,
    /// Bytes of the file.
    size: u64,
}

async fn copies(cx: &Cx, host: &Host) -> Result<Copies, FormatError> {
    let size = host.node().info().size;
    let reading = io("reading the footer");
    let front = host.read(cx, 0, FOOTER).await.map_err(&reading)?;
    let tail = size.min(TAIL) as usize;
    let last = host.read(cx, size - tail as u64, tail).await.map_err(&reading)?;
    let found = last.chunks_exact(FOOTER).enumerate().rev().find(|(_, s)| Footer::parse(s).is_ok());
    let back = found.map(|(n, sector)| (size - (tail - n * FOOTER) as u64, sector.to_vec()));
    // The only sector of a file that short is both.
    let front = Some(front).filter(|f| size > FOOTER as u64 && Footer::parse(f).is_ok());
    Ok(Copies { front, back, size })
}

fn kind(footer: &[u8]) -> Option<Kind> {
    Footer::parse(footer).ok().map(|footer| footer.kind)
}

pub(crate) async fn ailments(cx: &Cx, file: &Arc<dyn Node>) -> Result<Vec<Ailment>, FormatError> {
    let host = Host::new(Arc::clone(file));
    let copies = copies(cx, &host).await?;
    let mut found = Vec::new();
    let fixed = copies.back.as_ref().and_then(|(_, back)| kind(back)) == Some(Kind::Fixed);
    match (&copies.front, &copies.back) {
        (None, None) => {
            found.push(Ailment::new(
                "neither the footer at the end nor its copy at the beginning is whole: nothing \
                 says what the disk is like",
                None,
            ));
            return Ok(found);
        }
        (Some(_), None) => found.push(Ailment::new(
            "the footer at the end is missing: the image was not closed, or its file was cut off",
            Some("writes the footer again, from its copy at the beginning"),
        )),
        (None, Some(_)) if !fixed => found.push(Ailment::new(
            "the copy of the footer at the beginning is damaged",
            Some("writes it again, from the footer at the end"),
        )),
        _ => {}
    }
    let footer = copies.front.as_ref().or(copies.back.as_ref().map(|(_, b)| b));
    let Some(footer) = footer.and_then(|bytes| Footer::parse(bytes).ok()) else {
        return Ok(found);
    };
    if footer.kind != Kind::Fixed {
        let header = host
            .read(cx, footer.data_offset.min(copies.size), spec::DYNAMIC)
            .await
            .map_err(io("reading the dynamic disk header"))?;
        if let Err(error) = Dynamic::parse(&header, &footer) {
            found.push(Ailment::new(
                format!("the dynamic disk header cannot be used: {error}"),
                None,
            ));
            return Ok(found);
        }
        if read_headers(cx, file).await.is_ok() {
            table(cx, file, &mut found).await?;
        }
    }
    Ok(found)
}

/// Looks at the table of blocks.
async fn table(cx: &Cx, file: &Arc<dyn Node>, found: &mut Vec<Ailment>) -> Result<(), FormatError> {
    let request = Request::read(Arc::clone(file), &crate::formats::Alone);
    let Some(image) = super::open_mapped(cx, request).await?.1 else { return Ok(()) };
    let report = crate::mapped::check(cx, &image).await?;
    found.extend(report.messages.iter().map(|text| Ailment::new(text.clone(), None)));
    Ok(())
}

pub(crate) async fn cure(cx: &Cx, file: &Arc<dyn Node>) -> Result<(), FormatError> {
    let host = Host::new(Arc::clone(file));
    let copies = copies(cx, &host).await?;
    let writing = io("writing the footer");
    match (copies.front, copies.back) {
        (Some(front), None) => {
            let at = copies.size.next_multiple_of(FOOTER as u64);
            host.write_bytes(cx, at, &front).await.map_err(&writing)?;
        }
        (None, Some((_, back))) if kind(&back) != Some(Kind::Fixed) => {
            host.write_bytes(cx, 0, &back).await.map_err(&writing)?;
        }
        _ => return Ok(()),
    }
    host.sync(cx).await.map_err(writing)
}
