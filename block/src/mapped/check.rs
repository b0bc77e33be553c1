//! Checking a table, and what stores of all formats need.

use std::{collections::BTreeMap, ops::Range as Indexes};

use super::{Change, Mapped, Place};
use crate::{
    Cx,
    formats::{FormatError, Report, io},
};

/// Findings that are told one by one.
const MESSAGES_MAX: usize = 50;

/// Looks at every entry: it points into the file, to where data can be, and no two to one place.
pub(crate) async fn check(cx: &Cx, image: &Mapped) -> Result<Report, FormatError> {
    let shape = &image.shape;
    let mut report = Report { total: image.table.blocks(), end: shape.origin, ..Report::default() };
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    let mut found = Vec::new();
    image
        .every_place(cx, |block, place| {
            let (Place::Data(at) | Place::Partial(at)) = place else {
                report.allocated += u64::from(matches!(place, Place::Packed(_)));
                if place == Place::Bad {
                    report.corruptions += 1;
                    found.push(format!("ERROR: block {block} has an entry that means nothing"));
                }
                return;
            };
            report.allocated += 1;
            if !image.table.may_hold_data(at) {
                report.corruptions += 1;
                found.push(format!("ERROR: block {block} is at byte {at}, where no data can be"));
                return;
            }
            report.end = report.end.max(at + shape.block);
            let before = places.range(..=at).next_back().map(|(at, block)| (*at, *block));
            let after = places.range(at..).next().map(|(at, block)| (*at, *block));
            let overlaps = |other: u64| other.abs_diff(at) < shape.block;
            if let Some((_, other)) = before.or(after).filter(|(other, _)| overlaps(*other)) {
                report.corruptions += 1;
                found.push(format!("ERROR: blocks {other} and {block} are in one place"));
            } else if let Some((_, other)) = after.filter(|(other, _)| overlaps(*other)) {
                report.corruptions += 1;
                found.push(format!("ERROR: blocks {block} and {other} are in one place"));
            }
            places.insert(at, block);
        })
        .await
        .map_err(io("reading the block table"))?;
    found.truncate(MESSAGES_MAX);
    report.messages = found;
    Ok(report)
}

/// The changed entries of a piece, as runs of indexes.
pub(crate) fn runs(change: &Change) -> Vec<Indexes<usize>> {
    let mut runs: Vec<Indexes<usize>> = Vec::new();
    for index in change.changed.iter().copied().filter(|index| *index < change.entries.len()) {
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}
