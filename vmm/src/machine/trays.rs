//! Drives whose medium can be changed: their trays, and what lies on them.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, json};
use spindle_block::{Cx, error::with_causes, graph::Graph};
use spindle_devices::{
    device::Countdown,
    scsi::{LogicalUnit, TrayError},
};

use super::{Machine, nodes};
use crate::{
    monitor::{MediumChange, QmpError, Reply},
    spec::{
        BlockdevSpec,
        format::{self, HostFiles},
        node_from_options,
        props::Mode,
    },
};

fn failed(error: &(dyn std::error::Error + 'static)) -> QmpError {
    QmpError::generic(with_causes(error))
}

/// What is done once a tray is open, or why it is not.
type Then = Box<dyn FnOnce(&mut Machine, Result<(), TrayError>) + Send>;

impl Machine {
    fn drive(&self, id: &str) -> Result<Arc<LogicalUnit>, QmpError> {
        let disk = self.disks.disk(id);
        let disk =
            disk.ok_or_else(|| QmpError::device_not_found(format!("Device '{id}' not found")))?;
        let no_tray = || QmpError::generic(format!("Device '{id}' is not removable"));
        disk.drive.clone().ok_or_else(no_tray)
    }

    /// Opens a tray; `then` is called once nothing uses the medium any more, or at once if it is
    /// locked.
    fn open(&mut self, unit: &LogicalUnit, force: bool, then: Then) {
        let (slot, mailbox) = (Arc::new(Mutex::new(Some(then))), Arc::clone(&self.mailbox));
        let take =
            |slot: &Mutex<Option<Then>>| slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let waits = Arc::clone(&slot);
        let token = Countdown::new(Box::new(move || {
            if let Some(then) = take(&waits) {
                mailbox.call(Box::new(move |machine| then(machine, Ok(()))));
            }
        }));
        if let Err(error) = unit.open_tray(force, &token)
            && let Some(then) = take(&slot)
        {
            then(self, Err(error));
        }
    }

    /// `blockdev-open-tray`. A guest that has locked the tray is asked, and that is all.
    pub(super) fn open_tray(&mut self, id: &str, force: bool, reply: Reply) {
        let unit = match self.drive(id) {
            Ok(unit) => unit,
            Err(error) => return reply.error(error),
        };
        self.open(&unit, force, Box::new(move |_, _| reply.done()));
    }

    /// `blockdev-close-tray`.
    pub(super) fn close_tray(&mut self, id: &str) -> Result<(), QmpError> {
        self.drive(id)?.close_tray().map_err(|e| failed(&e))
    }

    /// `eject`: opens the tray and takes the medium out.
    pub(super) fn eject(&mut self, id: String, force: bool, reply: Reply) {
        let unit = match self.drive(&id) {
            Ok(unit) => unit,
            Err(error) => return reply.error(error),
        };
        let then = move |machine: &mut Self, opened: Result<(), TrayError>| match opened {
            Ok(()) => reply.result(machine.remove_medium(&id)),
            Err(error) => reply.error(locked(&id, error)),
        };
        self.open(&unit, force, Box::new(then));
    }

    /// `blockdev-remove-medium`.
    pub(super) fn remove_medium(&mut self, id: &str) -> Result<(), QmpError> {
        let unit = self.drive(id)?;
        let lay_there = unit.change_medium(None).map_err(|e| not_open(id, e))?;
        drop(lay_there);
        let Some(disk) = self.disks.disk_mut(id) else { return Ok(()) };
        disk.medium = None;
        if let Some(node) = disk.own_node.take() {
            self.forget_node(node);
        }
        Ok(())
    }

    /// `blockdev-insert-medium`.
    pub(super) fn insert_medium(&mut self, id: &str, node: &str) -> Result<(), QmpError> {
        let unit = self.drive(id)?;
        if self.disks.disk(id).is_some_and(|disk| disk.medium.is_some()) {
            return Err(QmpError::generic("Device already has a medium"));
        }
        if !unit.tray_open() {
            return Err(not_open(id, TrayError::Closed));
        }
        let (root, medium) = self.disks.medium(id, node).map_err(|e| failed(&e))?;
        unit.change_medium(Some(root)).map_err(|e| not_open(id, e))?;
        if let Some(disk) = self.disks.disk_mut(id) {
            disk.medium = Some(medium);
        }
        Ok(())
    }

    /// `blockdev-change-medium`: opens the image, then the tray, puts it there, and closes the tray.
    pub(super) fn change_medium(&mut self, change: MediumChange, reply: Reply) {
        self.media += 1;
        let node = format!("{}-medium{}", change.id, self.media);
        let described =
            self.drive(&change.id).and_then(|unit| Ok((unit, describe(&change, &node)?)));
        let (unit, specs) = match described {
            Ok(described) => described,
            Err(error) => return reply.error(error),
        };
        let (graph, mailbox) = (Arc::clone(&self.disks.graph), Arc::clone(&self.mailbox));
        let control = match self.disks.iothreads.control() {
            Ok(control) => control,
            Err(error) => return reply.error(failed(&error)),
        };
        control.post(move |cx| {
            let task = Cx::clone(cx);
            cx.spawn(async move {
                if let Err(error) = nodes::open_all(&graph, &task, &specs).await {
                    return reply.error(failed(&error));
                }
                mailbox.call(Box::new(move |machine| {
                    machine.exchange(unit, change, node, reply);
                }));
            });
        });
    }

    /// The new medium is open as `node`: puts it in the place of the old one. The tray is held meanwhile: a
    /// guest that looks for a medium closes it otherwise.
    fn exchange(
        &mut self,
        unit: Arc<LogicalUnit>,
        change: MediumChange,
        node: String,
        reply: Reply,
    ) {
        let (drive, force) = (Arc::clone(&unit), change.force);
        drive.hold_tray(true);
        let then = move |machine: &mut Self, opened: Result<(), TrayError>| {
            let id = &change.id;
            let done = opened
                .map_err(|error| locked(id, error))
                .and_then(|()| machine.remove_medium(id))
                .and_then(|()| machine.insert_medium(id, &node));
            unit.hold_tray(false);
            match done {
                Ok(()) => {
                    if let Some(disk) = machine.disks.disk_mut(id) {
                        disk.own_node = Some(node);
                    }
                    reply.result(machine.close_tray(id));
                }
                Err(error) => {
                    machine.forget_node(node);
                    reply.error(error);
                }
            }
        };
        self.open(&drive, force, Box::new(then));
    }

    /// Closes a node that was opened for a drive.
    pub(super) fn forget_node(&self, node: String) {
        let (graph, mailbox) = (Arc::clone(&self.disks.graph), Arc::clone(&self.mailbox));
        if let Ok(control) = self.disks.iothreads.control() {
            control.post(move |cx| {
                let task = Cx::clone(cx);
                cx.spawn(async move {
                    delete(&graph, &task, &node).await;
                    // For whoever watches the graph.
                    mailbox.call(Box::new(|_| ()));
                });
            });
        }
    }
}

fn locked(id: &str, error: TrayError) -> QmpError {
    match error {
        TrayError::Locked => QmpError::generic(format!(
            "Device '{id}' is locked and force was not specified, wait for tray to open and try again"
        )),
        other => failed(&other),
    }
}

fn not_open(id: &str, error: TrayError) -> QmpError {
    match error {
        TrayError::Closed => QmpError::generic(format!("Tray of device '{id}' is not open")),
        other => failed(&other),
    }
}

/// The nodes of a medium, the file's first; the upper one is called `node`.
fn describe(change: &MediumChange, node: &str) -> Result<Vec<BlockdevSpec>, QmpError> {
    let path = Path::new(&change.filename);
    let format = match &change.format {
        Some(format) => format.clone(),
        None => format::of_file(&HostFiles, path)?.name().to_owned(),
    };
    let device = format::look(&HostFiles, path)?.block_device;
    let protocol = if device { "host_device" } else { "file" };
    let options = Map::from_iter([
        ("driver".to_owned(), json!(format)),
        ("node-name".to_owned(), json!(node)),
        ("read-only".to_owned(), json!(true)),
        ("file".to_owned(), json!({ "driver": protocol, "filename": change.filename })),
    ]);
    Ok(node_from_options(options, Mode::Lenient)?)
}

/// Closes the nodes of a medium.
async fn delete(graph: &Graph, cx: &Cx, node: &str) {
    if let Err(error) = graph.delete(cx, node).await {
        log::debug!("closing '{node}': {error}");
    }
}
