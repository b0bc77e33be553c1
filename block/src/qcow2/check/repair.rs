//! Repairing what a walk has found.
//!
//! Refcounts that are only wrong are corrected in place. Where the refcount structures themselves
//! are broken or do not cover the file, new ones are written behind the end of the file, and the
//! header is switched to them when they are durable.

use super::{
    super::{
        be,
        counts::Width,
        header::{Header, field, incompatible},
        host::Host,
        layout::{COMPRESSED, COPIED, Layout, OFFSET, REFTABLE_BYTES_MAX},
    },
    CheckError, MESSAGES_MAX, Repair, io,
    walk::{Beyond, Walk},
};
use crate::{BlockError, Cx};

/// Returns what was found and done, in words, and how many flags were put right.
pub(super) async fn repair(
    cx: &Cx,
    host: &Host,
    header: &Header,
    mut walk: Walk,
    (repair, anew): (Repair, bool),
) -> Result<(Vec<String>, u64), CheckError> {
    let doing = io("writing refcounts");
    let mut messages = std::mem::take(&mut walk.report.messages);
    let flags = messages.split_off(walk.messages_before_flags.min(messages.len()));
    let mut said = Said { messages, flags: 0 };
    if repair == Repair::All && walk.must_rebuild(anew) {
        let refs = walk.layout.refs;
        said.say(|| "Rebuilding refcount structure".to_owned());
        for (cluster, &structure) in walk.structure.iter().enumerate().filter(|(_, n)| **n > 0) {
            let counted = walk.counted[cluster];
            let stored = counted.saturating_add(structure);
            said.say(|| {
                format!("Repairing cluster {cluster} refcount={stored} reference={counted}")
            });
        }
        rebuild(cx, host, &mut walk, refs).await.map_err(&doing)?;
    } else {
        in_place(cx, host, &mut walk, repair, &mut said).await.map_err(&doing)?;
    }
    if repair == Repair::All {
        let written = copied_flags(cx, host, header, &walk, &mut said).await;
        written.map_err(io("writing L2 tables"))?;
    } else {
        said.messages.extend(flags);
    }
    host.sync(cx).await.map_err(io("making the repair durable"))?;
    Ok((said.messages, said.flags))
}

/// What was done, in words, of which there is a bounded number; and how many flags were put right.
struct Said {
    messages: Vec<String>,
    flags: u64,
}

impl Said {
    fn say(&mut self, message: impl FnOnce() -> String) {
        if self.messages.len() < MESSAGES_MAX {
            self.messages.push(message());
        }
    }
}

/// Corrects counts in their blocks.
async fn in_place(
    cx: &Cx,
    host: &Host,
    walk: &mut Walk,
    repair: Repair,
    said: &mut Said,
) -> Result<(), BlockError> {
    let per_block = walk.layout.refs_per_block() as usize;
    for (index, &block) in walk.reftable.iter().enumerate() {
        let usable = matches!(walk.layout.block_of(block), Ok(at) if at != 0);
        if !usable || (block >> walk.layout.cluster_bits) as usize >= walk.counted.len() {
            continue;
        }
        let bytes = host.read(cx, block, walk.layout.cluster() as usize).await?;
        let mut fixed = bytes.clone();
        let refs = walk.layout.refs;
        for at in 0..per_block {
            let cluster = index * per_block + at;
            if cluster >= walk.counted.len() {
                // What was cut off keeps its count: tables still point there.
                break;
            }
            let wanted = u64::from(walk.references(cluster)).min(refs.max());
            let stored = refs.get(&bytes, at as u64);
            if wanted != stored {
                let what = match repair {
                    _ if wanted < stored => "Repairing",
                    Repair::All => "Repairing",
                    _ => "ERROR",
                };
                said.say(|| {
                    format!("{what} cluster {cluster} refcount={stored} reference={wanted}")
                });
            }
            if wanted < stored || (repair == Repair::All && wanted > stored) {
                refs.put(&mut fixed, at as u64, wanted);
                if let Some(stored) = walk.stored.get_mut(cluster) {
                    *stored = wanted as u32;
                }
            }
        }
        if fixed != bytes {
            host.write_bytes(cx, block, &fixed).await?;
        }
    }
    Ok(())
}

/// Sizes of new refcount structures behind `end`: clusters of the table, and of blocks.
fn sizes(layout: Layout, end: u64) -> Option<(u64, u64)> {
    let (mut table, mut blocks) = (1, 1);
    loop {
        let total = end + table + blocks;
        let new_blocks = total.div_ceil(layout.refs_per_block()).max(blocks);
        let new_table = (new_blocks * 8).div_ceil(layout.cluster()).max(table);
        if (new_table, new_blocks) == (table, blocks) {
            return (table * layout.cluster() <= REFTABLE_BYTES_MAX).then_some((table, blocks));
        }
        (table, blocks) = (new_table, new_blocks);
    }
}

/// Writes new refcounts, `refs` wide, behind the end of the file, and switches the header to them.
/// The old ones are free then.
pub(in super::super) async fn rebuild(
    cx: &Cx,
    host: &Host,
    walk: &mut Walk,
    refs: Width,
) -> Result<(), BlockError> {
    let layout = Layout { refs, ..walk.layout };
    let bits = layout.cluster_bits;
    let end = walk.counted.len() as u64;
    let (table, blocks) = sizes(layout, end).ok_or(BlockError::NoSpace)?;
    let total = end + table + blocks;
    host.set_len(cx, total << bits).await?;
    let count = |cluster: u64| match walk.counted.get(cluster as usize) {
        Some(count) => *count,
        None => u32::from(cluster < total),
    };
    let per_block = layout.refs_per_block();
    for block in 0..blocks {
        let counts = block * per_block..(block + 1) * per_block;
        let mut bytes = vec![0; layout.cluster() as usize];
        for (at, cluster) in (0..).zip(counts) {
            layout.refs.put(&mut bytes, at, u64::from(count(cluster)).min(layout.refs.max()));
        }
        host.write_bytes(cx, (end + table + block) << bits, &bytes).await?;
    }
    let mut bytes: Vec<u8> =
        (0..blocks).flat_map(|b| ((end + table + b) << bits).to_be_bytes()).collect();
    bytes.resize((table << bits) as usize, 0);
    host.write_bytes(cx, end << bits, &bytes).await?;
    host.sync(cx).await?;
    let clusters = u32::try_from(table).map_err(|_| BlockError::NoSpace)?;
    change_header(cx, host, |sector| {
        be::put(sector, field::REFTABLE_OFFSET, &(end << bits).to_be_bytes());
        be::put(sector, field::REFTABLE_CLUSTERS, &clusters.to_be_bytes());
        if layout.version >= 3 {
            be::put(sector, field::REFCOUNT_ORDER, &refs.order().to_be_bytes());
        }
    })
    .await?;
    walk.stored.copy_from_slice(&walk.counted);
    // Beyond them nothing is counted any more but the new blocks, which are nobody's data.
    walk.reftable.clear();
    Ok(())
}

async fn change_header(
    cx: &Cx,
    host: &Host,
    change: impl FnOnce(&mut [u8]),
) -> Result<(), BlockError> {
    let mut sector = host.read(cx, 0, 512).await?;
    change(&mut sector);
    host.write_bytes(cx, 0, &sector).await?;
    host.sync(cx).await
}

/// Sets the flag where the refcount is one, and clears it elsewhere, in the active tables.
async fn copied_flags(
    cx: &Cx,
    host: &Host,
    header: &Header,
    walk: &Walk,
    said: &mut Said,
) -> Result<(), BlockError> {
    let layout = walk.layout;
    let mut beyond = Beyond::default();
    let flagged = |entry: u64, count: u32| {
        if count == 1 { entry | COPIED } else { entry & !COPIED }
    };
    let mut l1 = walk.l1.clone();
    for (index, entry) in l1.iter_mut().enumerate() {
        let table = *entry & OFFSET;
        if table == 0 {
            continue;
        }
        let (old, refcount) = (*entry, walk.stored_at(cx, host, &mut beyond, table).await);
        *entry = flagged(old, refcount);
        if *entry != old {
            said.flags += 1;
            said.say(|| {
                format!(
                    "Repairing OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={old:x} \
                     refcount={refcount}"
                )
            });
        }
        let inside = table >> layout.cluster_bits < walk.counted.len() as u64;
        if !inside || layout.table_of(*entry).is_err() {
            continue;
        }
        let bytes = host.read(cx, table, layout.cluster() as usize).await?;
        let old = be::table(&bytes);
        let mut new = old.clone();
        for raw in new.iter_mut().step_by(layout.words()) {
            let (old, at) = (*raw, *raw & OFFSET);
            if old & COMPRESSED != 0 {
                *raw = old & !COPIED;
                continue;
            }
            if at == 0 {
                continue;
            }
            let refcount = match layout.external {
                true => 1,
                false => walk.stored_at(cx, host, &mut beyond, at).await,
            };
            *raw = flagged(old, refcount);
            if *raw != old {
                said.flags += 1;
                said.say(|| {
                    format!(
                        "Repairing OFLAG_COPIED data cluster: l2_entry={old:x} refcount={refcount}"
                    )
                });
            }
        }
        if new != old {
            let bytes: Vec<u8> = new.iter().flat_map(|e| e.to_be_bytes()).collect();
            host.write_bytes(cx, table, &bytes).await?;
        }
    }
    if l1 != walk.l1 {
        let bytes: Vec<u8> = l1.iter().flat_map(|e| e.to_be_bytes()).collect();
        host.write_bytes(cx, header.l1_offset, &bytes).await?;
    }
    Ok(())
}

/// Clears the marks of an image that is sound again.
pub(super) async fn clear_marks(cx: &Cx, host: &Host, header: &Header) -> Result<(), CheckError> {
    let marks = incompatible::DIRTY | incompatible::CORRUPT;
    if header.version < 3 || header.incompatible & marks == 0 {
        return Ok(());
    }
    let bits = header.incompatible & !marks;
    change_header(cx, host, |sector| be::put(sector, field::INCOMPATIBLE, &bits.to_be_bytes()))
        .await
        .map_err(io("clearing the marks of the image"))
}
