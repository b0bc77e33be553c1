//! Where everything goes in an image that is written from front to back.

use std::{io, ops::Range};

use super::super::{
    create::{self, CreateError, CreateOptions, Plan},
    header::Header,
    layout::{COPIED, Layout},
};

/// Bytes of a table that are made in memory at once.
const PIECE: u64 = 64 << 10;

/// An image whose data is known to be in certain clusters.
pub struct StreamPlan {
    header: Header,
    plan: Plan,
    /// Guest clusters with data, in runs that ascend.
    runs: Vec<Range<u64>>,
    /// L1 entries that have a table.
    tables: Vec<u64>,
}

impl StreamPlan {
    /// An image like this whose guest clusters in `runs`, ascending and apart, have data. Nothing is
    /// preallocated, whatever the options say.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn new(options: &CreateOptions, runs: Vec<Range<u64>>) -> Result<Self, CreateError> {
        let options =
            CreateOptions { preallocation: create::Preallocation::Off, ..options.clone() };
        let (mut header, _) = create::plan(&options)?;
        let layout = header.layout();
        if layout.external {
            return Err(CreateError::StreamedDataFile);
        }
        if options.encrypt.is_some() {
            return Err(CreateError::StreamedCrypt);
        }
        let mut tables: Vec<u64> = Vec::new();
        for run in runs.iter().filter(|run| !run.is_empty()) {
            let (first, last) = (run.start >> layout.l2_bits(), (run.end - 1) >> layout.l2_bits());
            let known = tables.last().map_or(0, |last| last + 1);
            tables.extend(first.max(known)..=last);
        }
        let data = runs.iter().map(|run| run.end - run.start).sum();
        let too_large =
            CreateError::TooLarge { size: options.size, cluster_size: options.cluster_size };
        let l1_entries = u64::from(header.l1_size);
        let plan =
            Plan::with(layout, l1_entries, (tables.len() as u64, data), 0).ok_or(too_large)?;
        header.l1_offset = plan.l1_at() << layout.cluster_bits;
        header.reftable_clusters = plan.reftable as u32;
        Ok(Self { header, plan, runs, tables })
    }

    /// Bytes in a cluster.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        self.header.layout().cluster()
    }

    /// Bytes of the image.
    #[must_use]
    pub fn file_size(&self) -> u64 {
        self.plan.total() << self.header.cluster_bits
    }

    /// Guest clusters with data, in the order in which their data follows the metadata.
    #[must_use]
    pub fn runs(&self) -> &[Range<u64>] {
        &self.runs
    }

    /// Hands everything that comes before the data to `out`.
    ///
    /// # Errors
    /// What `out` says; a header that does not fit.
    pub fn metadata(&self, out: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let (layout, plan) = (self.header.layout(), &self.plan);
        let bits = layout.cluster_bits;
        let mut first = self.header.to_bytes().map_err(io::Error::other)?;
        first.resize(layout.cluster() as usize, 0);
        out(&first)?;
        let block = |n: u64| if n < plan.blocks { (plan.blocks_at() + n) << bits } else { 0 };
        words(plan.reftable << bits, block, out)?;
        self.refcounts(layout, out)?;
        let mut tables = self.tables.iter().zip(plan.tables_at()..).peekable();
        let table = |index: u64| match tables.next_if(|(of, _)| **of == index) {
            Some((_, cluster)) => cluster << bits | COPIED,
            None => 0,
        };
        words(plan.l1 << bits, table, out)?;
        self.l2_tables(layout, out)
    }

    fn refcounts(
        &self,
        layout: Layout,
        out: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let (refs, total) = (layout.refs, self.plan.total());
        let per_word = refs.in_bytes(8);
        let len = self.plan.blocks << layout.cluster_bits;
        let word = |n: u64| {
            let mut bytes = [0; 8];
            for i in 0..per_word {
                refs.put(&mut bytes, i, u64::from(n * per_word + i < total));
            }
            u64::from_be_bytes(bytes)
        };
        words(len, word, out)
    }

    fn l2_tables(
        &self,
        layout: Layout,
        out: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let bits = layout.cluster_bits;
        let mut host = self.plan.data_at();
        let mut runs = self.runs.iter().filter(|run| !run.is_empty()).cloned().peekable();
        for table in &self.tables {
            let first = table << layout.l2_bits();
            let descriptor = |n: u64| {
                while runs.next_if(|run| run.end <= first + n).is_some() {}
                if runs.peek().is_none_or(|run| !run.contains(&(first + n))) {
                    return 0;
                }
                host += 1;
                (host - 1) << bits | COPIED
            };
            if layout.extended {
                let mut has_data = false;
                let mut descriptor = descriptor;
                let entry = |n: u64| {
                    if n % 2 == 1 {
                        return if has_data { u64::from(u32::MAX) } else { 0 };
                    }
                    let word = descriptor(n / 2);
                    has_data = word != 0;
                    word
                };
                words(layout.cluster(), entry, out)?;
            } else {
                words(layout.cluster(), descriptor, out)?;
            }
        }
        Ok(())
    }
}

/// Hands `len` bytes of 64-bit words to `out`, piece by piece.
fn words(
    len: u64,
    mut word: impl FnMut(u64) -> u64,
    out: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let end = len.min(at + PIECE);
        let bytes: Vec<u8> = (at / 8..end / 8).flat_map(|n| word(n).to_be_bytes()).collect();
        out(&bytes)?;
        at = end;
    }
    Ok(())
}
