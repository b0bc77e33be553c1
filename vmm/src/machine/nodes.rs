//! Nodes of the block graph: from the description to what the graph opens, and faults both ways.

use spindle_block::{
    BlockError, Cx,
    formats::{ImageFormat, Secret},
    graph::{
        Backing, Cache, Discard, DriverOptions, Graph, GraphError, HostFile, ImageOptions,
        NodeOptions, Qcow2Options, options,
    },
    nodes::fault::{self, Action},
    root::DetectZeroes,
};

use crate::{
    spec::{
        BlockdevSpec, DriverSpec, FaultRule,
        block::{self, FaultAction, FaultErrno, FileSpec, ImageSpec},
    },
    tools::object,
};

/// Opens the nodes of one description, the file's first: all of them, or none.
pub(super) async fn open_all(
    graph: &Graph,
    cx: &Cx,
    specs: &[BlockdevSpec],
) -> Result<(), GraphError> {
    let mut made = Vec::new();
    for spec in specs {
        let opened = match options(spec) {
            Ok(options) => graph.open(cx, options).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(name) => made.push(name),
            Err(error) => {
                for name in made.iter().rev() {
                    if let Err(error) = graph.delete(cx, name).await {
                        log::warn!("closing '{name}': {error}");
                    }
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// What the graph is asked to open for `spec`.
///
/// # Errors
/// There is no passphrase of the id that it names.
pub(super) fn options(spec: &BlockdevSpec) -> Result<NodeOptions, GraphError> {
    let driver = driver(spec).map_err(|reason| GraphError::Image {
        path: spec.node_name.clone().into(),
        format: spec.driver_name(),
        reason,
    })?;
    Ok(NodeOptions {
        read_only: spec.read_only,
        discard: match spec.discard {
            block::DiscardMode::Ignore => Discard::Ignore,
            block::DiscardMode::Unmap => Discard::Unmap,
        },
        detect_zeroes: match spec.detect_zeroes {
            block::DetectZeroes::Off => DetectZeroes::Off,
            block::DetectZeroes::On => DetectZeroes::On,
            block::DetectZeroes::Unmap => DetectZeroes::Unmap,
        },
        cache: Cache { direct: spec.cache.direct, no_flush: spec.cache.no_flush },
        owner: spec.part_of.clone(),
        ..NodeOptions::new(&spec.node_name, driver)
    })
}

/// The passphrase of this id, if one is named.
fn secret(id: Option<&String>) -> Result<Option<Secret>, String> {
    id.map(|id| object::secret(id)).transpose()
}

fn driver(spec: &BlockdevSpec) -> Result<DriverOptions, String> {
    Ok(match &spec.driver {
        DriverSpec::File(file) => DriverOptions::File(host_file(file)),
        DriverSpec::HostDevice(file) => DriverOptions::HostDevice(host_file(file)),
        DriverSpec::Raw(raw) => {
            DriverOptions::Raw { file: raw.file.clone(), offset: raw.offset, size: raw.size }
        }
        DriverSpec::Qcow2(qcow2) => DriverOptions::Qcow2(Qcow2Options {
            file: qcow2.file.clone(),
            backing: backing(&qcow2.backing),
            data_file: qcow2.data_file.clone(),
            lazy_refcounts: qcow2.lazy_refcounts,
            l2_cache_size: qcow2.l2_cache_size,
            secret: secret(qcow2.encrypt.as_ref().and_then(|e| e.key_secret.as_ref()))?,
            encrypt_format: qcow2.encrypt.as_ref().and_then(|e| e.format.clone()),
        }),
        DriverSpec::Luks(luks) => DriverOptions::Image(ImageOptions {
            format: ImageFormat::Luks,
            file: luks.file.clone(),
            backing: Backing::None,
            secret: secret(luks.key_secret.as_ref())?,
            header: luks.header.clone(),
        }),
        DriverSpec::Vmdk(spec) => image(ImageFormat::Vmdk, spec),
        DriverSpec::Vdi(spec) => image(ImageFormat::Vdi, spec),
        DriverSpec::Vpc(spec) => image(ImageFormat::Vpc, spec),
        DriverSpec::Vhdx(spec) => image(ImageFormat::Vhdx, spec),
        DriverSpec::Parallels(spec) => image(ImageFormat::Parallels, spec),
        DriverSpec::Qed(spec) => image(ImageFormat::Qed, spec),
        DriverSpec::Qcow(spec) => image(ImageFormat::Qcow, spec),
        DriverSpec::Dmg(spec) => image(ImageFormat::Dmg, spec),
        DriverSpec::Cloop(spec) => image(ImageFormat::Cloop, spec),
        DriverSpec::Bochs(spec) => image(ImageFormat::Bochs, spec),
        DriverSpec::Null(null) => DriverOptions::Null(options::NullOptions {
            size: null.size,
            latency_ns: null.latency_ns,
            read_zeroes: null.read_zeroes,
            read_only: spec.read_only,
        }),
        DriverSpec::Fault(fault) => DriverOptions::Fault {
            file: fault.file.clone(),
            rules: fault.rules.iter().map(rule).collect(),
        },
        DriverSpec::Blkdebug(spec) => DriverOptions::Blkdebug {
            image: spec.image.clone(),
            config: spec.config.clone(),
            rules: spec.into(),
        },
    })
}

fn backing(backing: &block::Backing) -> Backing {
    match backing {
        block::Backing::FromHeader => Backing::FromHeader,
        block::Backing::None => Backing::None,
        block::Backing::Node(name) => Backing::Node(name.clone()),
    }
}

fn image(format: ImageFormat, spec: &ImageSpec) -> DriverOptions {
    let (file, backing) = (spec.file.clone(), backing(&spec.backing));
    DriverOptions::Image(ImageOptions { format, file, backing, secret: None, header: None })
}

fn host_file(file: &FileSpec) -> HostFile {
    HostFile {
        filename: file.filename.clone(),
        locking: match file.locking {
            block::Locking::Auto => options::Locking::Auto,
            block::Locking::On => options::Locking::On,
            block::Locking::Off => options::Locking::Off,
        },
    }
}

/// Fault operations, here and there.
const OPERATIONS: [(block::FaultOp, fault::FaultOp); 6] = [
    (block::FaultOp::Any, fault::FaultOp::Any),
    (block::FaultOp::Read, fault::FaultOp::Read),
    (block::FaultOp::Write, fault::FaultOp::Write),
    (block::FaultOp::Flush, fault::FaultOp::Flush),
    (block::FaultOp::Discard, fault::FaultOp::Discard),
    (block::FaultOp::WriteZeroes, fault::FaultOp::WriteZeroes),
];

/// Fault errors, here and there.
const ERRORS: [(FaultErrno, BlockError); 12] = [
    (FaultErrno::Eio, BlockError::Medium),
    (FaultErrno::Enospc, BlockError::NoSpace),
    (FaultErrno::Eperm, BlockError::Permission),
    (FaultErrno::Einval, BlockError::Misaligned),
    (FaultErrno::Enomem, BlockError::NoMemory),
    (FaultErrno::Etimedout, BlockError::TimedOut),
    (FaultErrno::Erofs, BlockError::ReadOnly),
    (FaultErrno::Eopnotsupp, BlockError::Unsupported),
    (FaultErrno::Ecanceled, BlockError::Aborted),
    (FaultErrno::Enodev, BlockError::Gone),
    (FaultErrno::Euclean, BlockError::Corrupt),
    (FaultErrno::Erange, BlockError::OutOfRange),
];

/// The rule for a `fault` node that the monitor asks for.
pub(super) fn rule(rule: &FaultRule) -> fault::FaultRule {
    let error = ERRORS.iter().find(|(errno, _)| *errno == rule.errno);
    let error = error.map_or(BlockError::Medium, |(_, error)| *error);
    let op = OPERATIONS.iter().find(|(op, _)| *op == rule.op);
    fault::FaultRule {
        id: rule.id.clone(),
        op: op.map_or(fault::FaultOp::Any, |(_, op)| *op),
        offset: rule.offset,
        length: rule.length,
        skip: rule.skip,
        count: rule.count,
        chance_ppm: rule.chance_ppm,
        seed: rule.seed,
        action: match rule.action {
            FaultAction::Error => Action::Error(error),
            FaultAction::Torn => {
                Action::Torn { bytes: rule.torn_bytes, error: (!rule.silent).then_some(error) }
            }
            FaultAction::Corrupt => Action::Corrupt,
            FaultAction::Delay => Action::Delay(rule.delay_ns),
            FaultAction::Hang => Action::Hang,
        },
    }
}

/// The same in the monitor's words.
pub(super) fn rule_spec(rule: &fault::FaultRule) -> FaultRule {
    let errno = |error: BlockError| {
        let errno = ERRORS.iter().find(|(_, e)| *e == error);
        errno.map_or(FaultErrno::Eio, |(errno, _)| *errno)
    };
    let (action, error) = match rule.action {
        Action::Error(error) => (FaultAction::Error, Some(error)),
        Action::Delay(_) => (FaultAction::Delay, None),
        Action::Hang => (FaultAction::Hang, None),
        Action::Torn { error, .. } => (FaultAction::Torn, error),
        Action::Corrupt => (FaultAction::Corrupt, None),
    };
    let op = OPERATIONS.iter().find(|(_, op)| *op == rule.op);
    FaultRule {
        id: rule.id.clone(),
        op: op.map_or(block::FaultOp::Any, |(op, _)| *op),
        offset: rule.offset,
        length: rule.length,
        skip: rule.skip,
        count: rule.count,
        chance_ppm: rule.chance_ppm,
        seed: rule.seed,
        action,
        errno: error.map_or(FaultErrno::Eio, errno),
        delay_ns: if let Action::Delay(ns) = rule.action { ns } else { 0 },
        torn_bytes: if let Action::Torn { bytes, .. } = rule.action { bytes } else { None },
        silent: matches!(rule.action, Action::Torn { error: None, .. }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_rules_come_back_as_they_went() {
        let base = FaultRule {
            id: Some("r".to_owned()),
            op: block::FaultOp::Any,
            offset: 4096,
            length: Some(512),
            skip: 2,
            count: Some(3),
            action: FaultAction::Error,
            errno: FaultErrno::Eio,
            delay_ns: 0,
            chance_ppm: 12_345,
            seed: u64::MAX,
            torn_bytes: None,
            silent: false,
        };
        assert_eq!(ERRORS.len(), BlockError::ALL.len());
        let mut rules = vec![
            FaultRule { action: FaultAction::Hang, ..base.clone() },
            FaultRule { action: FaultAction::Corrupt, ..base.clone() },
            FaultRule { action: FaultAction::Torn, silent: true, ..base.clone() },
            FaultRule {
                action: FaultAction::Torn,
                torn_bytes: Some(512),
                errno: FaultErrno::Enodev,
                ..base.clone()
            },
            FaultRule { action: FaultAction::Delay, delay_ns: 7, ..base.clone() },
        ];
        rules.extend(OPERATIONS.map(|(op, _)| FaultRule { op, ..base.clone() }));
        rules.extend(ERRORS.map(|(errno, _)| FaultRule { errno, ..base.clone() }));
        for spec in rules {
            assert_eq!(rule_spec(&rule(&spec)), spec);
        }
    }
}
