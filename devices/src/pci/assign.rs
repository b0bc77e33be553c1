//! Addresses for BARs on a machine that boots without firmware.

use std::ops::Range;

use super::{Address, Bar, BarKind, PciBus, PciFunction};
use crate::Access;

/// What the machine leaves for BARs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarWindows {
    /// Memory below 4 GiB.
    pub low: Range<u64>,
    /// Memory above; may be empty.
    pub high: Range<u64>,
    /// I/O ports; may be empty.
    pub ports: Range<u64>,
}

/// A window is full.
#[derive(Debug, thiserror::Error)]
#[error(
    "no PCI address space is left for the {size:#x} bytes of BAR {index} of device '{id}' at {at}; \
     give the machine fewer devices"
)]
pub struct AssignError {
    id: String,
    at: Address,
    index: u8,
    size: u64,
}

fn take(window: &mut Range<u64>, size: u64) -> Option<u64> {
    let base = window.start.checked_next_multiple_of(size)?;
    let end = base.checked_add(size)?;
    if base == 0 || end > window.end {
        return None;
    }
    window.start = end;
    Some(base)
}

impl BarWindows {
    fn place(&mut self, bar: &Bar) -> Option<u64> {
        match bar.kind {
            BarKind::Io => take(&mut self.ports, bar.size),
            BarKind::Memory32 => take(&mut self.low, bar.size),
            BarKind::Memory64 { .. } => {
                take(&mut self.high, bar.size).or_else(|| take(&mut self.low, bar.size))
            }
        }
    }

    /// Gives every BAR on `bus` an address, the largest first, and switches decoding on. Bus
    /// mastering is left to the drivers.
    ///
    /// # Errors
    /// When a window is full.
    pub fn assign(mut self, bus: &PciBus) -> Result<(), AssignError> {
        let functions = bus.functions();
        let mut bars: Vec<_> = functions
            .iter()
            .flat_map(|(at, function)| {
                function.bars().into_iter().map(move |bar| (at, function, bar))
            })
            .collect();
        bars.sort_by_key(|(at, _, bar)| (std::cmp::Reverse(bar.size), **at, bar.index));
        for (at, function, bar) in &bars {
            let base = self.place(bar).ok_or_else(|| AssignError {
                id: function.id().to_owned(),
                at: **at,
                index: bar.index,
                size: bar.size,
            })?;
            write_bar(&***function, bar, base);
        }
        for (_, function) in functions {
            enable(&*function);
        }
        Ok(())
    }
}

fn write_bar(function: &dyn PciFunction, bar: &Bar, base: u64) {
    let offset = 0x10 + u64::from(bar.index) * 4;
    function.config_write(Access { offset, width: 4 }, base as u32);
    if bar.kind.is_64() {
        function.config_write(Access { offset: offset + 4, width: 4 }, (base >> 32) as u32);
    }
}

fn enable(function: &dyn PciFunction) {
    let decode = function
        .bars()
        .iter()
        .fold(0, |bits, bar| bits | if bar.kind == BarKind::Io { 1 } else { 2 });
    let command = Access { offset: 4, width: 2 };
    let old = function.config_read(command);
    function.config_write(command, old | decode);
}
