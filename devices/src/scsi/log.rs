//! Log pages: LOG SELECT and LOG SENSE (SPC-5, 6.7, 6.8 and 7.3).

use spindle_block::root::{Account, Counters, Stats};

use super::sense::Sense;

/// Page codes (SPC-5, 7.3.1).
mod page {
    pub const SUPPORTED: u8 = 0x00;
    pub const STATISTICS: u8 = 0x19;
    pub const EXCEPTIONS: u8 = 0x2f;
    pub const ALL_SUBPAGES: u8 = 0xff;
}

const PAGES: [u8; 3] = [page::SUPPORTED, page::STATISTICS, page::EXCEPTIONS];
/// PC: cumulative values.
const CUMULATIVE: u8 = 1;

/// Whether a LOG SELECT names pages that there are, and does not want to set their parameters: none can
/// be set. Page 0 is all of them.
pub(super) fn check_select(page: u8, subpage: u8, len: u32) -> Result<(), Sense> {
    if !PAGES.contains(&page) {
        return Err(Sense::cdb_field(2, Some(5)));
    }
    if subpage != 0 {
        return Err(Sense::cdb_field(3, None));
    }
    if len != 0 {
        return Err(Sense::cdb_field(7, None));
    }
    Ok(())
}

/// What was counted since `base`.
pub(super) fn since(stats: &Stats, base: &Stats) -> Stats {
    std::array::from_fn(|i| Counters {
        operations: stats[i].operations.saturating_sub(base[i].operations),
        bytes: stats[i].bytes.saturating_sub(base[i].bytes),
        failed: stats[i].failed.saturating_sub(base[i].failed),
        total_time_ns: stats[i].total_time_ns.saturating_sub(base[i].total_time_ns),
    })
}

/// The answer to LOG SENSE: parameters from number `pointer` on.
pub(super) fn sense(
    control: u8,
    page: u8,
    subpage: u8,
    pointer: u16,
    stats: &Stats,
    block: u32,
) -> Result<Vec<u8>, Sense> {
    if !PAGES.contains(&page) {
        return Err(Sense::cdb_field(2, Some(5)));
    }
    let list = page == page::SUPPORTED && subpage == page::ALL_SUBPAGES;
    if subpage != 0 && !list {
        return Err(Sense::cdb_field(3, None));
    }
    // There are neither thresholds nor other defaults.
    if control != CUMULATIVE && page != page::SUPPORTED {
        return Err(Sense::cdb_field(2, Some(7)));
    }
    let body = match page {
        page::SUPPORTED if list => {
            let pairs = PAGES.iter().flat_map(|page| [*page, 0]);
            [vec![page::SUPPORTED, 0, page::SUPPORTED, page::ALL_SUBPAGES], pairs.skip(2).collect()]
                .concat()
        }
        page::SUPPORTED => PAGES.to_vec(),
        page::STATISTICS => from(pointer, &statistics(stats, block))?,
        // No informational exception, no temperature (SPC-5, 7.3.8).
        _ => from(pointer, &[(0, vec![0, 0, 0xff, 0])])?,
    };
    // SPF, where a subpage was asked for.
    let code = if subpage == 0 { page } else { page | 0x40 };
    let mut data = vec![code, subpage];
    data.extend((body.len() as u16).to_be_bytes());
    data.extend(body);
    Ok(data)
}

/// Code and value of a parameter.
type Parameter = (u16, Vec<u8>);

/// The parameters from number `pointer` on: binary, not to be changed (SPC-5, 7.3.2.2).
fn from(pointer: u16, parameters: &[Parameter]) -> Result<Vec<u8>, Sense> {
    if parameters.last().is_none_or(|(last, _)| pointer > *last) {
        return Err(Sense::cdb_field(5, None));
    }
    let mut bytes = Vec::new();
    for (code, value) in parameters.iter().filter(|(code, _)| *code >= pointer) {
        bytes.extend(code.to_be_bytes());
        bytes.extend([0x03, value.len() as u8]);
        bytes.extend(value);
    }
    Ok(bytes)
}

/// General access statistics and performance, and the unit of time (SPC-5, 7.3.7).
fn statistics(stats: &Stats, block: u32) -> [Parameter; 2] {
    let of = |kind: Account| stats[kind as usize];
    let (read, write) = (of(Account::Read), of(Account::Write));
    let block = u64::from(block);
    let ms = |ns: u64| ns / 1_000_000;
    let values = [
        read.operations,
        write.operations,
        write.bytes / block,
        read.bytes / block,
        ms(read.total_time_ns),
        ms(write.total_time_ns),
        // Nothing is weighted.
        0,
        0,
    ];
    let general = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    // One thousandth of a second: exponent, then integer.
    let interval = [3u32.to_be_bytes(), 1u32.to_be_bytes()].concat();
    [(1, general), (3, interval)]
}
