//! Into a pipe.
use super::super::ImgError;
use super::super::convert::{Checked, plan};
use super::super::create::{FormatPlan, Plan, create_options};
use super::super::formats;
use super::super::image::{Image, errno_text};
use super::super::progress::Progress;
use super::front::FrontNode;
use super::{open, plain};
use spindle_block::formats::{Alone, ImageFormat, Request};
use spindle_block::qcow2::StreamPlan;
use spindle_block::submit::node_io;
use spindle_block::vmdk::{self, Make, VmdkOptions};
use spindle_block::{Cx, Io, IoBuf, Node, Range};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// Bytes that are read at once.
const STEP: u64 = 1 << 20;
/// Bytes of a VMDK's grain.
const GRAIN: u64 = 64 << 10;

fn said<T>(sentence: impl Into<String>) -> Result<T, ImgError> {
    Err(ImgError::said(sentence))
}

/// The sources as one disk.
struct Disk<'a> {
    cx: &'a Cx,
    sources: &'a [Image],
    total: u64,
    progress: Progress,
}

/// Writes the sources into a pipe.
///
/// # Errors
///
/// A format that cannot be written in this way, sources that cannot be read, a pipe that takes no
/// more.
pub(in super::super) async fn write(
    cx: &Cx,
    checked: &Checked,
    sources: &[Image],
) -> Result<(), ImgError> {
    let request = &checked.request;
    let total = sources.iter().map(Image::size).sum();
    if request.existing || request.backing.is_some() {
        return said("-n and -B make no sense where the target is a pipe");
    }
    let name = request.target_format.as_deref().unwrap_or("raw");
    let wrong = |error: &dyn std::fmt::Display| {
        ImgError::said(format!(
            "{}: error while converting {name}: {error}",
            request.target.display()
        ))
    };
    let plan = plan(request, total).map_err(|error| wrong(&error))?;
    let progress = Progress::beside_data(request.show, total);
    let disk = Disk { cx, sources, total, progress };
    match &plan.format {
        FormatPlan::Raw { .. } if !request.compress => {
            disk.raw(open(&request.target, true)?).await?;
        }
        FormatPlan::Qcow2(own) if !request.compress => {
            let options = create_options(&plan, own, total)?;
            let runs = disk.runs(options.cluster_size).await?;
            let stream = StreamPlan::new(&options, runs).map_err(|error| wrong(&error))?;
            disk.qcow2(&stream, open(&request.target, true)?).await?;
        }
        FormatPlan::Image(own) if own.is_stream() && !request.compress => {
            let runs = disk.runs(GRAIN).await?;
            let out = open(&request.target, true)?;
            disk.vmdk(&formats::vmdk_options(own, total), &runs, out).await?;
        }
        _ => return refuse(&plan, request.compress),
    }
    disk.progress.finish();
    Ok(())
}

fn refuse(plan: &Plan, compress: bool) -> Result<(), ImgError> {
    let what = if compress { "compressed " } else { "" };
    said(format!(
        "{what}{} cannot be written to a pipe: that takes raw, qcow2 without -c, or vmdk with -o \
         subformat=streamOptimized",
        plan.format.name()
    ))
}

impl Disk<'_> {
    /// The parts with data, joined where they touch the same unit, in units.
    async fn runs(&self, unit: u64) -> Result<Vec<std::ops::Range<u64>>, ImgError> {
        let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
        let mut at = 0;
        while at < self.total {
            let (len, data) = self.status(at).await?;
            let run = at / unit..(at + len).div_ceil(unit);
            match runs.last_mut() {
                _ if !data => {}
                Some(last) if last.end >= run.start => last.end = last.end.max(run.end),
                _ => runs.push(run),
            }
            at += len;
        }
        Ok(runs)
    }

    /// How far what is at `at` goes, and whether it is data.
    async fn status(&self, at: u64) -> Result<(u64, bool), ImgError> {
        let (image, offset) = self.source(at);
        let range = Range::new(offset, image.size() - offset);
        let failed = |detail: &str| {
            ImgError::said(format!("error while reading block status at offset {at}: {detail}"))
        };
        let status = image.status(self.cx, range, usize::MAX).await;
        let status = status.map_err(|error| failed(errno_text(error)))?;
        if status.len == 0 {
            return Err(failed("Input/output error"));
        }
        Ok((status.len, !status.zero))
    }

    /// The source that has byte `at`, and where that is in it.
    fn source(&self, at: u64) -> (&Image, u64) {
        let mut offset = at;
        let (last, others) = match self.sources.split_last() {
            Some((last, others)) => (last, others),
            None => unreachable!("a conversion has a source"),
        };
        for image in others {
            if offset < image.size() {
                return (image, offset);
            }
            offset -= image.size();
        }
        (last, offset)
    }

    /// Reads a part; what lies behind the end are zeros.
    async fn read(&self, range: Range) -> Result<IoBuf, ImgError> {
        let buf = IoBuf::zeroed(usize::try_from(range.len).unwrap_or(0));
        let end = range.end().min(self.total);
        let mut at = range.offset;
        while at < end {
            let (image, offset) = self.source(at);
            let len = (end - at).min(image.size() - offset);
            let part = Io::read(offset, buf.view(at - range.offset, len));
            node_io(self.cx, &image.node, part).await.1.map_err(|error| {
                ImgError::said(format!("error while reading at byte {at}: {}", errno_text(error)))
            })?;
            at += len;
        }
        Ok(buf)
    }

    async fn raw(&self, mut out: File) -> Result<(), ImgError> {
        let zeros = vec![0; usize::try_from(STEP).unwrap_or(0)];
        let mut at = 0;
        while at < self.total {
            let (mut left, data) = self.status(at).await?;
            while left > 0 {
                let range = Range::new(at, left.min(STEP));
                let len = usize::try_from(range.len).unwrap_or(0);
                let done = if data {
                    out.write_all(&self.read(range).await?.to_vec())
                } else {
                    out.write_all(&zeros[..len])
                };
                done.map_err(|error| writing(at, &error))?;
                self.progress.advance(range.len);
                at += range.len;
                left -= range.len;
            }
        }
        out.flush().map_err(|error| writing(at, &error))
    }

    async fn qcow2(&self, plan: &StreamPlan, mut out: File) -> Result<(), ImgError> {
        plan.metadata(&mut |bytes| out.write_all(bytes)).map_err(|error| writing(0, &error))?;
        let unit = plan.cluster_size();
        let mut before = 0;
        for run in plan.runs() {
            let (mut at, end) = (run.start * unit, run.end * unit);
            self.progress.advance(at - before);
            while at < end {
                let range = Range::new(at, (end - at).min(STEP.max(unit)));
                let bytes = self.read(range).await?.to_vec();
                out.write_all(&bytes).map_err(|error| writing(at, &error))?;
                self.progress.advance(range.len);
                at = range.end();
            }
            before = end;
        }
        Ok(())
    }

    async fn vmdk(
        &self,
        options: &VmdkOptions,
        runs: &[std::ops::Range<u64>],
        out: File,
    ) -> Result<(), ImgError> {
        let front = FrontNode::new(out);
        let file: Arc<dyn Node> = Arc::clone(&front) as _;
        let cannot = |error: &dyn std::error::Error| {
            ImgError::said(format!(
                "error while writing: {}",
                spindle_block::error::with_causes(error)
            ))
        };
        // The name is a courtesy, and there is none.
        vmdk::create(self.cx, &file, "stream.vmdk", options, &NoFiles)
            .await
            .map_err(|e| cannot(&e))?;
        let request =
            Request { read_only: false, once: true, ..Request::read(Arc::clone(&file), &Alone) };
        let opened = spindle_block::formats::open(self.cx, ImageFormat::Vmdk, request).await;
        let image = opened.map_err(|e| cannot(&e))?;
        front.let_go().map_err(|e| cannot(&e))?;
        for run in runs {
            for grain in run.clone() {
                let at = grain * GRAIN;
                let range = Range::new(at, GRAIN.min(self.total - at));
                let buf = self.read(range).await?;
                if !buf.is_zero(0, range.len) {
                    let written = node_io(self.cx, &image, Io::write(at, buf)).await.1;
                    written.map_err(|error| {
                        ImgError::said(format!(
                            "error while writing at byte {at}: {}",
                            errno_text(error)
                        ))
                    })?;
                }
                self.progress.advance(range.len);
            }
        }
        image.close(Cx::clone(self.cx)).await.map_err(|e| cannot(&e))
    }
}

/// A stream is one file.
struct NoFiles;

impl Make for NoFiles {
    fn make(&self, name: &str) -> Result<Arc<dyn Node>, String> {
        Err(format!("the file '{name}' cannot be made beside a pipe"))
    }
}

fn writing(at: u64, error: &std::io::Error) -> ImgError {
    ImgError::said(format!("error while writing at byte {at}: {}", plain(error)))
}
