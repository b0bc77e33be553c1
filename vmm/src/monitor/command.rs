//! The commands: their names, their arguments, and their typed form.
use super::error::QmpError;
use crate::spec::block::FAULT_RULE;
use crate::spec::format::Format;
use crate::spec::keyval::Options;
use crate::spec::names::{did_you_mean, near};
use crate::spec::props::{self, Kind, Mode, Prop, prop};
use crate::spec::{BlockdevSpec, FaultRule, SpecError, node_from_options};
use serde_json::{Map, Value};

/// A command for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `query-status` → [`super::schema::StatusInfo`].
    QueryStatus,
    /// `query-block` → a list of [`super::schema::BlockInfo`].
    QueryBlock,
    /// `query-blockstats` → a list of [`super::schema::BlockStats`].
    QueryBlockstats {
        /// Whether all nodes are asked for, not only those with a device.
        query_nodes: bool,
    },
    /// `query-named-block-nodes` → a list of [`super::schema::BlockDeviceInfo`].
    QueryNamedBlockNodes,
    /// `x-query-exits` → how often CPUs left the guest, by reason
    /// ([`ExitTotals`](crate::vcpu::ExitTotals)).
    QueryExits,
    /// `stop`: pause, answered when no request is in flight.
    Stop,
    /// `cont`.
    Cont,
    /// `system_reset`.
    SystemReset,
    /// `system_powerdown`: press the power button.
    SystemPowerdown,
    /// `quit`.
    Quit,
    /// `block_resize`.
    BlockResize {
        /// What to resize.
        target: BlockTarget,
        /// The new size, in bytes.
        size: u64,
    },
    /// `blockdev-add`: the node last, its inline children before it.
    BlockdevAdd(Vec<BlockdevSpec>),
    /// `device_add`: the options as they came; the machine knows what fits it.
    DeviceAdd(Options),
    /// `device_del`: answered at once, [`DEVICE_DELETED`](super::Event::DeviceDeleted) says when it is
    /// done.
    DeviceDel {
        /// The device's id.
        id: String,
    },
    /// `blockdev-open-tray`.
    OpenTray {
        /// The drive's id.
        id: String,
        /// Whether a guest that has locked it is not asked.
        force: bool,
    },
    /// `blockdev-close-tray`.
    CloseTray {
        /// The drive's id.
        id: String,
    },
    /// `eject`.
    Eject {
        /// The drive's id.
        id: String,
        /// Whether a guest that has locked it is not asked.
        force: bool,
    },
    /// `blockdev-remove-medium`.
    RemoveMedium {
        /// The drive's id.
        id: String,
    },
    /// `blockdev-insert-medium`.
    InsertMedium {
        /// The drive's id.
        id: String,
        /// The node with the medium.
        node_name: String,
    },
    /// `blockdev-change-medium`.
    ChangeMedium(MediumChange),
    /// `blockdev-del`.
    BlockdevDel {
        /// The node.
        node_name: String,
    },
    /// `x-sd-set-wp`: moves the write protect switch of a card.
    SdSetWriteProtected {
        /// The card.
        id: String,
        /// Whether it is protected.
        on: bool,
    },
    /// `x-fault-add` → [`super::schema::FaultAdded`].
    FaultAdd {
        /// The `fault` node.
        node_name: String,
        /// The rule.
        rule: FaultRule,
    },
    /// `x-fault-del`.
    FaultDel {
        /// The `fault` node.
        node_name: String,
        /// The rule.
        id: String,
    },
    /// `x-fault-query` → a list of [`super::schema::FaultInfo`].
    FaultQuery {
        /// The `fault` node; `None`: all.
        node_name: Option<String>,
    },
    /// `x-fault-release`: hanging requests go on.
    FaultRelease {
        /// The `fault` node.
        node_name: String,
        /// The rule that made them hang; `None`: all.
        id: Option<String>,
    },
}

/// `blockdev-change-medium`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediumChange {
    /// The drive's id.
    pub id: String,
    /// The image.
    pub filename: String,
    /// Its format; `None`: as its name says.
    pub format: Option<String>,
    /// Whether a guest that has locked the tray is not asked.
    pub force: bool,
}

/// A disk by the id of its device or the name of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockTarget {
    /// The device's id.
    Device(String),
    /// The node's name.
    Node(String),
}

const NODE: Prop = prop("node-name", Kind::Id, "name of a node");
const NODE_REQUIRED: Prop = NODE.required();
const DEVICE: Prop = prop("id", Kind::Id, "id of a device");
const DRIVE: Prop = prop("device", Kind::Id, "another name for 'id'");
const DRIVE_ID: Prop = prop("id", Kind::Id, "id of a drive");
const FORCE: Prop = prop("force", Kind::Bool, "do not ask a guest that has locked it").or("off");
const RULE: Prop = prop("id", Kind::Id, "name of a rule");

const RESIZE: &[Prop] = &[
    prop("device", Kind::Id, "id of a device"),
    NODE,
    prop("size", Kind::Size { min: 0, max: i64::MAX as u64 }, "new size in bytes").required(),
];

const CHANGE_MEDIUM: &[Prop] = &[
    DRIVE,
    DRIVE_ID,
    prop("filename", Kind::Path, "the image").required(),
    prop("format", Kind::Enum(Format::NAMES), "its format; default: by the file's ending"),
    FORCE,
    prop("read-only-mode", Kind::Enum(&["retain", "read-only"]), "it never is written").ignored(),
];

/// Commands and their arguments. Those that add something check theirs themselves.
const COMMANDS: &[(&str, &[Prop])] = &[
    ("block_resize", RESIZE),
    ("blockdev-add", &[]),
    ("blockdev-change-medium", CHANGE_MEDIUM),
    ("blockdev-close-tray", &[DRIVE, DRIVE_ID]),
    ("blockdev-del", &[NODE_REQUIRED]),
    ("blockdev-insert-medium", &[DRIVE_ID.required(), NODE_REQUIRED]),
    ("blockdev-open-tray", &[DRIVE, DRIVE_ID, FORCE]),
    ("blockdev-remove-medium", &[DRIVE_ID.required()]),
    ("cont", &[]),
    ("device_add", &[]),
    ("device_del", &[DEVICE.required()]),
    ("qmp_capabilities", &[prop("enable", Kind::Uints { max: 0 }, "capabilities: there are none")]),
    ("eject", &[DRIVE, DRIVE_ID, FORCE]),
    ("query-block", &[]),
    ("query-blockstats", &[prop("query-nodes", Kind::Bool, "all nodes").or("off")]),
    ("query-commands", &[]),
    ("query-named-block-nodes", &[prop("flat", Kind::Bool, "without backing images").or("off")]),
    ("query-status", &[]),
    ("query-version", &[]),
    ("quit", &[]),
    ("stop", &[]),
    ("system_powerdown", &[]),
    ("system_reset", &[]),
    ("x-fault-add", &[]),
    ("x-fault-del", &[NODE_REQUIRED, RULE.required()]),
    ("x-fault-query", &[NODE]),
    ("x-fault-release", &[NODE_REQUIRED, RULE]),
    ("x-query-exits", &[]),
    (
        "x-sd-set-wp",
        &[DEVICE.required(), prop("write-protected", Kind::Bool, "where the switch is").required()],
    ),
];

/// What a command is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// For the machine.
    Machine(Box<Command>),
    /// `qmp_capabilities`.
    Capabilities,
    /// `query-commands`.
    QueryCommands,
    /// `query-version`.
    QueryVersion,
}

/// The commands' names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|(name, _)| *name)
}

/// Parses the command `name` with `arguments`.
///
/// # Errors
///
/// CommandNotFound with the near names, or GenericError for arguments that do not fit.
pub(super) fn parse(name: &str, arguments: Options) -> Result<Parsed, QmpError> {
    let Some((name, rows)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
        let hint = did_you_mean(&near(name, names()));
        let desc = format!("The command {name} has not been found{hint}");
        return Err(QmpError::command_not_found(desc));
    };
    let command = match *name {
        "blockdev-add" => Command::BlockdevAdd(node_from_options(arguments, Mode::Strict)?),
        "device_add" => device_add(arguments)?,
        "x-fault-add" => fault_add(arguments)?,
        _ => {
            let of = format!("command '{name}'");
            let checked = Arguments(props::apply(&of, rows, arguments, Mode::Strict)?);
            return simple(name, &checked);
        }
    };
    Ok(Parsed::Machine(Box::new(command)))
}

/// Arguments that went through their table.
struct Arguments(Map<String, Value>);

impl Arguments {
    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_str().map(str::to_owned)
    }

    fn switch(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// An argument that the table requires.
    fn required(&self, name: &str) -> Result<String, QmpError> {
        self.text(name).ok_or_else(|| QmpError::generic(format!("Parameter '{name}' is missing")))
    }
}

fn simple(name: &str, args: &Arguments) -> Result<Parsed, QmpError> {
    let command = match name {
        "qmp_capabilities" => return Ok(Parsed::Capabilities),
        "query-commands" => return Ok(Parsed::QueryCommands),
        "query-version" => return Ok(Parsed::QueryVersion),
        "query-status" => Command::QueryStatus,
        "query-block" => Command::QueryBlock,
        "query-blockstats" => Command::QueryBlockstats { query_nodes: args.switch("query-nodes") },
        "query-named-block-nodes" => Command::QueryNamedBlockNodes,
        "x-query-exits" => Command::QueryExits,
        "stop" => Command::Stop,
        "cont" => Command::Cont,
        "system_reset" => Command::SystemReset,
        "system_powerdown" => Command::SystemPowerdown,
        "quit" => Command::Quit,
        "block_resize" => resize(args)?,
        "blockdev-del" => Command::BlockdevDel { node_name: args.required("node-name")? },
        "blockdev-open-tray" => Command::OpenTray { id: drive(args)?, force: args.switch("force") },
        "blockdev-close-tray" => Command::CloseTray { id: drive(args)? },
        "eject" => Command::Eject { id: drive(args)?, force: args.switch("force") },
        "blockdev-remove-medium" => Command::RemoveMedium { id: args.required("id")? },
        "blockdev-insert-medium" => Command::InsertMedium {
            id: args.required("id")?,
            node_name: args.required("node-name")?,
        },
        "blockdev-change-medium" => Command::ChangeMedium(MediumChange {
            id: drive(args)?,
            filename: args.required("filename")?,
            format: args.text("format"),
            force: args.switch("force"),
        }),
        "device_del" => Command::DeviceDel { id: args.required("id")? },
        "x-sd-set-wp" => Command::SdSetWriteProtected {
            id: args.required("id")?,
            on: args.switch("write-protected"),
        },
        "x-fault-del" => {
            Command::FaultDel { node_name: args.required("node-name")?, id: args.required("id")? }
        }
        "x-fault-query" => Command::FaultQuery { node_name: args.text("node-name") },
        "x-fault-release" => {
            Command::FaultRelease { node_name: args.required("node-name")?, id: args.text("id") }
        }
        // Every name of the table is above; a test goes through them.
        _ => return Err(QmpError::command_not_found(format!("{name} has no meaning"))),
    };
    Ok(Parsed::Machine(Box::new(command)))
}

/// The drive that one of two arguments names.
fn drive(args: &Arguments) -> Result<String, QmpError> {
    match (args.text("id"), args.text("device")) {
        (Some(id), None) | (None, Some(id)) => Ok(id),
        _ => Err(QmpError::generic("Give one of 'id' and 'device'")),
    }
}

fn resize(args: &Arguments) -> Result<Command, QmpError> {
    let target = match (args.text("device"), args.text("node-name")) {
        (Some(device), None) => BlockTarget::Device(device),
        (None, Some(node)) => BlockTarget::Node(node),
        _ => {
            return Err(QmpError::generic("Give one of 'device' and 'node-name'"));
        }
    };
    let size = args.0.get("size").and_then(Value::as_u64).unwrap_or_default();
    Ok(Command::BlockResize { target, size })
}

fn device_add(arguments: Options) -> Result<Command, QmpError> {
    match arguments.get("driver") {
        Some(Value::String(_)) => Ok(Command::DeviceAdd(arguments)),
        _ => Err(QmpError::generic("Parameter 'driver' is missing")),
    }
}

fn fault_add(mut arguments: Options) -> Result<Command, QmpError> {
    let of = "command 'x-fault-add'";
    let node = arguments.remove("node-name").into_iter().map(|v| ("node-name".to_owned(), v));
    let node = Arguments(props::apply(of, &[NODE_REQUIRED], node.collect(), Mode::Strict)?);
    let rule = props::apply(of, FAULT_RULE, arguments, Mode::Strict)?;
    let rule = serde_json::from_value(Value::Object(rule))
        .map_err(|e| SpecError::Conflict(e.to_string()))?;
    Ok(Command::FaultAdd { node_name: node.required("node-name")?, rule })
}
