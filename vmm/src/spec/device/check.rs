//! Checks that several kinds of devices need.
use super::super::names::{did_you_mean, near};
use super::super::{IothreadSpec, MachineSpec, ObjectSpec, SpecError};
use super::Kindred;

/// An error of a device.
pub(super) fn conflict(id: &str, reason: &str) -> Result<(), SpecError> {
    Err(SpecError::Conflict(format!("device '{id}': {reason}")))
}

/// Every iothread named is there, and a mapping is whole.
pub(super) fn iothreads(spec: &MachineSpec, device: &dyn Kindred) -> Result<(), SpecError> {
    let id = device.id();
    let Some(queues) = device.queues() else { return Ok(()) };
    if queues.iothread.is_some() && !queues.mapping.is_empty() {
        return conflict(id, "give iothread or iothread-vq-mapping, not both");
    }
    for name in queues.iothread.into_iter().chain(queues.mapping.iter().map(|m| &*m.iothread)) {
        if !matches!(spec.object(name), Some(ObjectSpec::Iothread(_))) {
            let known = spec.objects.iter().filter_map(|object| match object {
                ObjectSpec::Iothread(IothreadSpec { id, .. }) => Some(&**id),
                _ => None,
            });
            let hint = did_you_mean(&near(name, known));
            return conflict(id, &format!("no iothread '{name}'{hint}"));
        }
    }
    let lists = queues.mapping.iter().filter_map(|m| m.vqs.as_ref());
    let with_list = lists.clone().count();
    if with_list != 0 {
        let mut sorted: Vec<u16> = lists.flatten().copied().collect();
        sorted.sort_unstable();
        if with_list != queues.mapping.len() || !sorted.iter().copied().eq(0..queues.count) {
            let last = queues.count.saturating_sub(1);
            return conflict(
                id,
                &format!(
                    "iothread-vq-mapping: list each of the queues 0 to {last} once, or none at all"
                ),
            );
        }
    }
    Ok(())
}

/// A physical sector holds whole logical ones; 0 is filled in later.
pub(super) fn block_sizes(id: &str, logical: u32, physical: u32) -> Result<(), SpecError> {
    if physical != 0 && logical > physical {
        let reason =
            format!("logical_block_size {logical} is larger than physical_block_size {physical}");
        return conflict(id, &reason);
    }
    Ok(())
}

/// Every queue has an interrupt vector; none at all means the pin.
pub(super) fn vectors(
    id: &str,
    property: &str,
    vectors: Option<u16>,
    needed: u32,
) -> Result<(), SpecError> {
    match vectors {
        Some(given) if given != 0 && u32::from(given) < needed => conflict(
            id,
            &format!(
                "{property}={given} is too few for its queues: give it {needed}, or fewer queues"
            ),
        ),
        _ => Ok(()),
    }
}

/// Cylinders, heads and sectors per track are given together or not at all.
pub(super) fn geometry(id: &str, chs: [u16; 3]) -> Result<(), SpecError> {
    if chs != [0; 3] && chs.contains(&0) {
        return conflict(id, "give all of cyls, heads and secs, or none");
    }
    Ok(())
}
