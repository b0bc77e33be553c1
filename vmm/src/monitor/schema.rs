//! The shapes of answers (qapi/run-state.json, qapi/block-core.json of QEMU).
use crate::spec::FaultRule;
use serde::Serialize;

/// The state of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Its vCPUs run.
    Running,
    /// It was paused by the monitor.
    Paused,
    /// It has not run yet.
    Prelaunch,
    /// Its guest has powered off.
    Shutdown,
    /// It was paused by a failed request.
    IoError,
    /// Its guest has panicked.
    GuestPanicked,
    /// A vCPU cannot go on.
    InternalError,
}

/// Why a machine is reset or shuts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownCause {
    /// An error of the host.
    HostError,
    /// `quit`.
    HostQmpQuit,
    /// `system_reset`.
    HostQmpSystemReset,
    /// A signal such as SIGINT.
    HostSignal,
    /// The console's escape key.
    HostUi,
    /// The guest powered off.
    GuestShutdown,
    /// The guest reset itself.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
}

/// `query-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StatusInfo {
    /// The state.
    pub status: RunState,
    /// Whether vCPUs run.
    pub running: bool,
    /// Always false; clients of old QEMU look for it.
    pub singlestep: bool,
}

impl StatusInfo {
    /// The answer for `status`.
    #[must_use]
    pub fn new(status: RunState) -> Self {
        Self { status, running: status == RunState::Running, singlestep: false }
    }
}

/// Whether a disk's requests go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoStatus {
    /// They do.
    Ok,
    /// One failed and paused the machine.
    Failed,
    /// One failed for want of space and paused the machine.
    Nospace,
}

/// One disk in `query-block`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockInfo {
    /// The legacy name of a drive: always empty, as with `-blockdev`.
    pub device: String,
    /// The device's id.
    pub qdev: String,
    /// Always `unknown`, as with QEMU.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Whether its guest has locked the medium in.
    pub locked: bool,
    /// Whether its tray is open, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tray_open: Option<bool>,
    /// Its medium.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inserted: Option<BlockDeviceInfo>,
    /// Whether its requests go through.
    #[serde(rename = "io-status", skip_serializing_if = "Option::is_none")]
    pub io_status: Option<IoStatus>,
}

impl BlockInfo {
    /// A disk, or (`tray_open` is there) a drive, with its medium.
    #[must_use]
    pub fn new(
        qdev: &str,
        inserted: Option<BlockDeviceInfo>,
        io_status: IoStatus,
        tray_open: Option<bool>,
    ) -> Self {
        Self {
            device: String::new(),
            qdev: qdev.to_owned(),
            kind: "unknown",
            removable: tray_open.is_some(),
            locked: false,
            tray_open,
            inserted,
            io_status: Some(io_status),
        }
    }
}

/// A node in `query-block` and `query-named-block-nodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlockDeviceInfo {
    /// The file behind it.
    pub file: String,
    /// The node's name.
    #[serde(rename = "node-name")]
    pub node_name: String,
    /// Whether it refuses writes.
    pub ro: bool,
    /// Its driver.
    pub drv: String,
    /// The file of its backing node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// How many backing nodes there are below it.
    pub backing_file_depth: u32,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// `off`, `on` or `unmap`.
    pub detect_zeroes: &'static str,
    /// Throttle limits, all 0: none.
    pub bps: u64,
    /// Throttle limit for reads.
    pub bps_rd: u64,
    /// Throttle limit for writes.
    pub bps_wr: u64,
    /// Throttle limit for requests.
    pub iops: u64,
    /// Throttle limit for read requests.
    pub iops_rd: u64,
    /// Throttle limit for write requests.
    pub iops_wr: u64,
    /// The image.
    pub image: ImageInfo,
    /// How the host's page cache is used.
    pub cache: BlockCacheInfo,
    /// Write threshold, 0: none.
    pub write_threshold: u64,
}

/// An image in `query-block`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// Its file.
    pub filename: String,
    /// Its format.
    pub format: String,
    /// The size of the disk, in bytes.
    pub virtual_size: u64,
    /// The space its file takes, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// Its cluster size, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The backing file its header names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The format of the backing file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// Whether it was not closed properly.
    pub dirty_flag: bool,
}

/// How the host's page cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockCacheInfo {
    /// Whether the guest sees a write-back cache.
    pub writeback: bool,
    /// Whether the page cache is bypassed.
    pub direct: bool,
    /// Whether flushes are ignored.
    pub no_flush: bool,
}

/// One disk (or node) in `query-blockstats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockStats {
    /// The legacy name of a drive: empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The device's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qdev: Option<String>,
    /// The node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The counters.
    pub stats: BlockDeviceStats,
    /// The node that holds the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Box<BlockStats>>,
    /// The backing node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<Box<BlockStats>>,
}

/// The counters of a disk. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are QEMU's and say what they count")]
pub struct BlockDeviceStats {
    pub rd_bytes: u64,
    pub wr_bytes: u64,
    pub unmap_bytes: u64,
    pub rd_operations: u64,
    pub wr_operations: u64,
    pub flush_operations: u64,
    pub unmap_operations: u64,
    pub rd_total_time_ns: u64,
    pub wr_total_time_ns: u64,
    pub flush_total_time_ns: u64,
    pub unmap_total_time_ns: u64,
    pub wr_highest_offset: u64,
    pub rd_merged: u64,
    pub wr_merged: u64,
    pub unmap_merged: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_time_ns: Option<u64>,
    pub failed_rd_operations: u64,
    pub failed_wr_operations: u64,
    pub failed_flush_operations: u64,
    pub failed_unmap_operations: u64,
    pub invalid_rd_operations: u64,
    pub invalid_wr_operations: u64,
    pub invalid_flush_operations: u64,
    pub invalid_unmap_operations: u64,
    pub account_invalid: bool,
    pub account_failed: bool,
    pub timed_stats: [u64; 0],
}

/// `x-fault-add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultAdded {
    /// The rule's name.
    pub id: String,
}

/// One rule in `x-fault-query`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FaultInfo {
    /// The `fault` node.
    pub node_name: String,
    /// The rule, with its name.
    #[serde(flatten)]
    pub rule: FaultRule,
    /// How often it has acted.
    pub hits: u64,
    /// How many requests wait because of it.
    pub waiting: u64,
    /// Whether it has acted as often as it should.
    pub spent: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn keys(value: &impl Serialize) -> Vec<String> {
        let value = serde_json::to_value(value).unwrap();
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    }

    fn words(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }

    /// Keys as QEMU 7.2 sends them for a qcow2 image on virtio-blk, but for parts of `image` that
    /// are optional.
    #[test]
    fn answers_have_qemus_keys() {
        let image = ImageInfo {
            actual_size: Some(0),
            cluster_size: Some(65536),
            backing_filename: Some("b".to_owned()),
            backing_filename_format: Some("raw".to_owned()),
            ..ImageInfo::default()
        };
        assert_eq!(
            keys(&image),
            words(
                "actual-size backing-filename backing-filename-format cluster-size dirty-flag \
                 filename format virtual-size"
            )
        );
        let node = BlockDeviceInfo {
            image,
            backing_file: Some("b".to_owned()),
            ..BlockDeviceInfo::default()
        };
        assert_eq!(
            keys(&node),
            words(
                "backing_file backing_file_depth bps bps_rd bps_wr cache detect_zeroes drv \
                 encrypted file image iops iops_rd iops_wr node-name ro write_threshold"
            )
        );
        assert_eq!(keys(&node.cache), words("direct no-flush writeback"));
        assert_eq!(
            keys(&BlockInfo::new("disk0", Some(node), IoStatus::Nospace, None)),
            words("device inserted io-status locked qdev removable type")
        );
        assert_eq!(
            keys(&BlockInfo::new("cd0", None, IoStatus::Ok, Some(true))),
            words("device io-status locked qdev removable tray_open type")
        );
        assert_eq!(
            keys(&BlockDeviceStats::default()),
            words(
                "account_failed account_invalid failed_flush_operations failed_rd_operations \
                 failed_unmap_operations failed_wr_operations flush_operations \
                 flush_total_time_ns invalid_flush_operations invalid_rd_operations \
                 invalid_unmap_operations invalid_wr_operations rd_bytes rd_merged rd_operations \
                 rd_total_time_ns timed_stats unmap_bytes unmap_merged unmap_operations \
                 unmap_total_time_ns wr_bytes wr_highest_offset wr_merged wr_operations \
                 wr_total_time_ns"
            )
        );
        let stats = BlockStats {
            device: Some(String::new()),
            qdev: Some("disk0".to_owned()),
            node_name: Some("n".to_owned()),
            parent: Some(Box::default()),
            backing: Some(Box::default()),
            ..BlockStats::default()
        };
        assert_eq!(keys(&stats), words("backing device node-name parent qdev stats"));
        assert_eq!(keys(&StatusInfo::new(RunState::Paused)), words("running singlestep status"));
        assert_eq!(serde_json::to_value(IoStatus::Nospace).unwrap(), Value::from("nospace"));
    }
}
