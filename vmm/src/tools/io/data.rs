//! Reading and writing.
use super::disk::Disk;
use super::text::{REQUEST_MAX, Report, dump, length, number, pattern, refuse, say};
use super::{Failed, Session, options, table};
use crate::spec::format;
use crate::tools::img::cor;
use crate::tools::img::image::errno_text;
use spindle_block::qcow2::{ClusterPacker, PackedCluster};
use spindle_block::{BlockError, Cx, ExtentKind, Io, IoBuf, Op, Range};
use std::fs::File;
use std::io::Read;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// What memory holds before a read.
const BEFORE_READ: u8 = 0xab;
/// What is written where nothing else is asked for.
const FILL: u8 = 0xcd;
/// Sizes that the oldest commands take.
const SECTOR: u64 = 512;
/// Memory is filled and compared in pieces of so many bytes.
const PIECE: usize = 64 << 10;

/// The letters of a command's options.
struct Letters(Vec<(char, String)>);

impl Letters {
    fn has(&self, letter: char) -> bool {
        self.0.iter().any(|(l, _)| *l == letter)
    }

    /// The byte of `-P`, once every one is known to be good.
    fn pattern(&self) -> Result<Option<u8>, Failed> {
        let mut last = None;
        for (_, text) in self.0.iter().filter(|(letter, _)| *letter == 'P') {
            last = Some(pattern(text)?);
        }
        Ok(last)
    }

    fn number(&self, letter: char) -> Result<Option<u64>, Failed> {
        let mut last = None;
        for (_, text) in self.0.iter().filter(|(l, _)| *l == letter) {
            last = Some(number(text)?);
        }
        Ok(last)
    }

    fn text(&self, letter: char) -> Option<&str> {
        self.0.iter().rev().find(|(l, _)| *l == letter).map(|(_, text)| text.as_str())
    }
}

fn usage<T>(command: &table::Command) -> Result<T, Failed> {
    command.usage();
    Err(Failed)
}

fn filled(len: u64, byte: u8) -> IoBuf {
    let mut buffer = IoBuf::zeroed(usize::try_from(len).unwrap_or(0));
    if byte != 0 {
        let piece = vec![byte; PIECE.min(usize::try_from(len).unwrap_or(0))];
        let mut at = 0;
        while at < len {
            let n = (piece.len() as u64).min(len - at);
            buffer.write_at(at, &piece[..usize::try_from(n).unwrap_or(0)]);
            at += n;
        }
    }
    buffer
}

fn is_all(buffer: &IoBuf, at: u64, len: u64, byte: u8) -> bool {
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < len {
        let n = (PIECE as u64).min(len - done);
        let piece = &mut piece[..usize::try_from(n).unwrap_or(0)];
        buffer.read_at(at + done, piece);
        if piece.iter().any(|b| *b != byte) {
            return false;
        }
        done += n;
    }
    true
}

/// `len` bytes of what a file holds, over and over.
fn from_file(path: &str, len: u64) -> Result<IoBuf, Failed> {
    let failed = |why: &str| {
        eprintln!("{path}: {why}");
        Err(Failed)
    };
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(len).read_to_end(&mut bytes)) {
        Err(error) => {
            let text = error.to_string();
            failed(text.split(" (os error").next().unwrap_or_default())
        }
        Ok(0) if len > 0 => failed("file is empty"),
        Ok(_) => {
            let mut buffer = IoBuf::zeroed(usize::try_from(len).unwrap_or(0));
            let mut at = 0;
            while at < len {
                let n = (bytes.len() as u64).min(len - at);
                buffer.write_at(at, &bytes[..usize::try_from(n).unwrap_or(0)]);
                at += n;
            }
            Ok(buffer)
        }
    }
}

/// The lengths of `readv` and its kin, summed.
fn lengths(texts: &[String]) -> Result<u64, Failed> {
    let mut sum: u64 = 0;
    for text in texts {
        let len = number(text)?;
        if len > REQUEST_MAX {
            return refuse(&format!("Argument '{text}' exceeds maximum size {REQUEST_MAX}"));
        }
        sum += len;
        if sum > REQUEST_MAX {
            return refuse(&format!(
                "The total number of bytes exceed the maximum size {REQUEST_MAX}"
            ));
        }
    }
    Ok(sum)
}

async fn read_disk(
    cx: &Cx,
    disk: &Disk,
    offset: u64,
    buffer: IoBuf,
) -> (IoBuf, Result<(), BlockError>) {
    let range = Range::new(offset, buffer.len());
    let (buffer, mut result) = disk.root.handle().io(cx, Io::read(offset, buffer)).await;
    if disk.copy_on_read && result.is_ok() {
        result = cor::keep(cx, &disk.image, range).await;
    }
    (buffer, result)
}

/// Writes; a raw image whose format was guessed must not begin like another format (QEMU,
/// raw_co_pwritev).
async fn write_disk(cx: &Cx, disk: &Disk, io: Io) -> Result<(), BlockError> {
    if disk.image.probed && disk.image.qcow2.is_none() && io.range.offset == 0 {
        let head = io.buf.view(0, io.buf.len().min(format::HEAD_LEN as u64)).to_vec();
        if format::signature(&head).is_some() {
            return Err(BlockError::Permission);
        }
    }
    disk.root.handle().io(cx, io).await.1
}

pub(super) async fn read(
    cx: &Cx,
    disk: &Disk,
    command: &'static table::Command,
    args: &[String],
) -> Result<(), Failed> {
    let (found, rest) = options(command, args, "bCl:pP:qrs:v")?;
    let letters = Letters(found);
    let (part, skip) = (letters.number('l')?, letters.number('s')?);
    let pattern = letters.pattern()?;
    let [offset, count] = rest.as_slice() else { return usage(command) };
    let offset = number(offset)?;
    let count = length(count, "")?;
    if pattern.is_none() && (part.is_some() || skip.is_some()) {
        return usage(command);
    }
    let skip = skip.unwrap_or(0);
    let part = part.or_else(|| count.checked_sub(skip));
    let Some(part) = part.filter(|part| part.checked_add(skip).is_some_and(|e| e <= count)) else {
        return refuse("pattern verification range exceeds end of read data");
    };
    let state = letters.has('b');
    if state {
        aligned(offset, count)?;
    }
    let began = Instant::now();
    let buffer = filled(count, BEFORE_READ);
    let (buffer, result) = if state {
        read_state(cx, disk, offset, buffer).await
    } else {
        read_disk(cx, disk, offset, buffer).await
    };
    let took = began.elapsed();
    if let Err(error) = result {
        return refuse(&format!("read failed: {}", errno_text(error)));
    }
    let mut verdict = Ok(());
    if let Some(byte) = pattern
        && !is_all(&buffer, skip, part, byte)
    {
        say(&format!("Pattern verification failed at offset {}, {part} bytes\n", offset + skip));
        verdict = Err(Failed);
    }
    if !letters.has('q') {
        if letters.has('v') {
            dump(&buffer, offset);
        }
        Report { what: "read", offset, count, took, terse: letters.has('C') }.print();
    }
    verdict
}

/// Reads machine state, which only qcow2 images have.
async fn read_state(
    cx: &Cx,
    disk: &Disk,
    offset: u64,
    mut buffer: IoBuf,
) -> (IoBuf, Result<(), BlockError>) {
    let result = match &disk.image.qcow2 {
        Some(qcow2) => qcow2.read_vm_state(cx, offset, &mut buffer).await,
        None => Err(BlockError::Unsupported),
    };
    (buffer, result)
}

async fn write_state(cx: &Cx, disk: &Disk, offset: u64, buffer: &IoBuf) -> Result<(), BlockError> {
    match &disk.image.qcow2 {
        Some(qcow2) => qcow2.write_vm_state(cx, offset, buffer).await,
        None => Err(BlockError::Unsupported),
    }
}

fn aligned(offset: u64, count: u64) -> Result<(), Failed> {
    for (value, name) in [(offset, "offset"), (count, "count")] {
        if !value.is_multiple_of(SECTOR) {
            return refuse(&format!("{value} is not a sector-aligned value for '{name}'"));
        }
    }
    Ok(())
}

pub(super) async fn readv(
    cx: &Cx,
    disk: &Disk,
    command: &'static table::Command,
    args: &[String],
) -> Result<(), Failed> {
    let (found, rest) = options(command, args, "CP:qrv")?;
    let letters = Letters(found);
    let pattern = letters.pattern()?;
    let [offset, lens @ ..] = rest.as_slice() else { return usage(command) };
    if lens.is_empty() {
        return usage(command);
    }
    let offset = number(offset)?;
    let count = lengths(lens)?;
    let began = Instant::now();
    let (buffer, result) = read_disk(cx, disk, offset, filled(count, BEFORE_READ)).await;
    if let Err(error) = result {
        return refuse(&format!("readv failed: {}", errno_text(error)));
    }
    let done = Done { offset, count, began, letters, pattern };
    done.read(&buffer)
}

/// A vectored request that has ended well.
struct Done {
    offset: u64,
    count: u64,
    began: Instant,
    letters: Letters,
    pattern: Option<u8>,
}

impl Done {
    fn report(&self, what: &'static str) {
        if !self.letters.has('q') {
            let (offset, count) = (self.offset, self.count);
            let (took, terse) = (self.began.elapsed(), self.letters.has('C'));
            Report { what, offset, count, took, terse }.print();
        }
    }

    fn read(&self, buffer: &IoBuf) -> Result<(), Failed> {
        let mut verdict = Ok(());
        if let Some(byte) = self.pattern
            && !is_all(buffer, 0, self.count, byte)
        {
            let Self { offset, count, .. } = self;
            say(&format!("Pattern verification failed at offset {offset}, {count} bytes\n"));
            verdict = Err(Failed);
        }
        if self.letters.has('v') && !self.letters.has('q') {
            dump(buffer, self.offset);
        }
        self.report("read");
        verdict
    }
}

pub(super) async fn write(
    cx: &Cx,
    disk: &Disk,
    command: &'static table::Command,
    args: &[String],
) -> Result<(), Failed> {
    let (found, rest) = options(command, args, "bcCfnpP:qrs:uz")?;
    let letters = Letters(found);
    let pattern = letters.pattern()?;
    let [offset, count_text] = rest.as_slice() else { return usage(command) };
    let has = |letter| letters.has(letter);
    let clash = [
        (has('b') && has('z'), "-b and -z cannot be specified at the same time"),
        (
            has('f') && (has('b') || has('c')),
            "-f and -b or -c cannot be specified at the same time",
        ),
        (has('n') && !has('z'), "-n requires -z to be specified"),
        (has('u') && !has('z'), "-u requires -z to be specified"),
        (
            [has('z'), pattern.is_some(), has('s')].into_iter().filter(|on| *on).count() > 1,
            "Only one of -z, -P, and -s can be specified at the same time",
        ),
    ];
    if let Some((_, sentence)) = clash.iter().find(|(clash, _)| *clash) {
        return refuse(sentence);
    }
    let offset = number(offset)?;
    let count = if has('n') { number(count_text)? } else { length(count_text, " without -n")? };
    if has('b') || has('c') {
        aligned(offset, count)?;
    }
    let range = Range::new(offset, count);
    let buffer = match letters.text('s') {
        _ if has('z') => IoBuf::empty(),
        Some(path) => from_file(path, count)?,
        None => filled(count, pattern.unwrap_or(FILL)),
    };
    let began = Instant::now();
    let result = if has('b') {
        write_state(cx, disk, offset, &buffer).await
    } else if has('z') {
        write_zeroes(cx, disk, range, &letters).await
    } else if has('c') {
        write_compressed(cx, disk, range, &buffer).await
    } else {
        let op = Op::Write { fua: has('f') };
        write_disk(cx, disk, Io { op, range, buf: buffer }).await
    };
    let took = began.elapsed();
    if let Err(error) = result {
        return refuse(&format!("write failed: {}", errno_text(error)));
    }
    if !has('q') {
        Report { what: "wrote", offset, count, took, terse: has('C') }.print();
    }
    Ok(())
}

async fn write_zeroes(
    cx: &Cx,
    disk: &Disk,
    range: Range,
    letters: &Letters,
) -> Result<(), BlockError> {
    let (size, end) = (disk.image.size(), range.checked_end().ok_or(BlockError::OutOfRange)?);
    if end > size {
        return Err(BlockError::OutOfRange);
    }
    if letters.has('n')
        && let Some(qcow2) = &disk.image.qcow2
    {
        // Parts of clusters would have to be written.
        let cluster = qcow2.cluster_size();
        for at in [range.offset, end] {
            if at.is_multiple_of(cluster) || at == size {
                continue;
            }
            let whole =
                Range::new(at / cluster * cluster, cluster.min(size - at / cluster * cluster));
            let node = Arc::clone(&disk.image.node);
            if matches!(node.extent(Cx::clone(cx), whole).await?.kind, ExtentKind::Data) {
                return Err(BlockError::Unsupported);
            }
        }
    }
    let op = Op::WriteZeroes { unmap: letters.has('u'), fua: letters.has('f') };
    disk.root.handle().io(cx, Io::bare(op, range)).await.1
}

/// Writes whole clusters compressed. What has a place of its own is not overwritten (QEMU,
/// qcow2_alloc_compressed_cluster_offset).
async fn write_compressed(
    cx: &Cx,
    disk: &Disk,
    range: Range,
    buffer: &IoBuf,
) -> Result<(), BlockError> {
    let Some(qcow2) = &disk.image.qcow2 else { return Err(BlockError::Unsupported) };
    let cluster = qcow2.cluster_size();
    let size = disk.image.size();
    if range.checked_end().is_none_or(|end| end > size) {
        return Err(BlockError::OutOfRange);
    }
    let whole_end = range.end().is_multiple_of(cluster) || range.end() == size;
    if !range.offset.is_multiple_of(cluster) || !whole_end {
        return Err(BlockError::Misaligned);
    }
    let mut packer = ClusterPacker::new(qcow2.compression())?;
    let mut at = range.offset;
    while at < range.end() {
        let len = cluster.min(range.end() - at);
        let there = Arc::clone(&disk.image.node).extent(Cx::clone(cx), Range::new(at, len)).await?;
        if there.host_offset.is_some() {
            return Err(BlockError::Medium);
        }
        let view = buffer.view(at - range.offset, len);
        let mut bytes = view.to_vec();
        bytes.resize(usize::try_from(cluster).unwrap_or(0), 0);
        match packer.pack(&bytes) {
            Some(bytes) => {
                qcow2.write_compressed(cx, &[PackedCluster { offset: at, bytes }]).await?;
            }
            None => write_disk(cx, disk, Io::write(at, view)).await?,
        }
        at += len;
    }
    Ok(())
}

pub(super) async fn writev(
    cx: &Cx,
    disk: &Disk,
    command: &'static table::Command,
    args: &[String],
) -> Result<(), Failed> {
    let (found, rest) = options(command, args, "CfqrP:")?;
    let letters = Letters(found);
    let pattern = letters.pattern()?;
    let [offset, lens @ ..] = rest.as_slice() else { return usage(command) };
    if lens.is_empty() {
        return usage(command);
    }
    let offset = number(offset)?;
    let count = lengths(lens)?;
    let began = Instant::now();
    let op = Op::Write { fua: letters.has('f') };
    let buf = filled(count, pattern.unwrap_or(FILL));
    if let Err(error) = write_disk(cx, disk, Io { op, range: Range::new(offset, count), buf }).await
    {
        return refuse(&format!("writev failed: {}", errno_text(error)));
    }
    Done { offset, count, began, letters, pattern }.report("wrote");
    Ok(())
}

impl Session {
    /// Starts a task that counts as a request until it ends.
    fn start(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let aio = Rc::clone(&self.aio);
        aio.begin();
        self.cx.spawn(async move {
            task.await;
            aio.end();
        });
    }

    pub(super) fn aio_read(
        self: &Rc<Self>,
        command: &'static table::Command,
        args: &[String],
        disk: &Rc<Disk>,
    ) -> Result<(), Failed> {
        let (found, rest) = options(command, args, "CP:iqrv")?;
        let letters = Letters(found);
        let pattern = letters.pattern()?;
        if letters.has('i') {
            say("injecting invalid read request\n");
            return Ok(());
        }
        let [offset, lens @ ..] = rest.as_slice() else { return usage(command) };
        if lens.is_empty() {
            return usage(command);
        }
        let offset = number(offset)?;
        let count = lengths(lens)?;
        let done = Done { offset, count, began: Instant::now(), letters, pattern };
        let (cx, disk) = (Cx::clone(&self.cx), Rc::clone(disk));
        self.start(async move {
            let (buffer, result) = read_disk(&cx, &disk, offset, filled(count, BEFORE_READ)).await;
            drop(disk);
            // Whoever started it is told nothing of how it went.
            let _: Result<(), Failed> = match result {
                Ok(()) => done.read(&buffer),
                Err(error) => refuse(&format!("readv failed: {}", errno_text(error))),
            };
        });
        Ok(())
    }

    pub(super) fn aio_write(
        self: &Rc<Self>,
        command: &'static table::Command,
        args: &[String],
        disk: &Rc<Disk>,
    ) -> Result<(), Failed> {
        let (found, rest) = options(command, args, "CfiP:qruz")?;
        let letters = Letters(found);
        let pattern = letters.pattern()?;
        if letters.has('i') {
            say("injecting invalid write request\n");
            return Ok(());
        }
        let [offset, lens @ ..] = rest.as_slice() else { return usage(command) };
        if lens.is_empty() {
            return usage(command);
        }
        let zeroes = letters.has('z');
        if zeroes && lens.len() != 1 {
            return refuse("-z supports only a single length parameter");
        }
        if letters.has('u') && !zeroes {
            return refuse("-u requires -z to be specified");
        }
        let offset = number(offset)?;
        let count = lengths(lens)?;
        let range = Range::new(offset, count);
        let fua = letters.has('f');
        let io = if zeroes {
            Io::bare(Op::WriteZeroes { unmap: letters.has('u'), fua }, range)
        } else {
            let buf = filled(count, pattern.unwrap_or(FILL));
            Io { op: Op::Write { fua }, range, buf }
        };
        let done = Done { offset, count, began: Instant::now(), letters, pattern: None };
        let (cx, disk) = (Cx::clone(&self.cx), Rc::clone(disk));
        self.start(async move {
            let result = write_disk(&cx, &disk, io).await;
            drop(disk);
            match result {
                Ok(()) => done.report("wrote"),
                Err(error) => say(&format!("aio_write failed: {}\n", errno_text(error))),
            }
        });
        Ok(())
    }
}
