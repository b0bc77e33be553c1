//! A device that comes to a machine while it runs (`device_add`).
use super::MachineSpec;
use super::device::DeviceSpec;
use super::draft;
use super::error::SpecError;
use super::keyval::Options;
use super::nodes::device_from_options;
use super::object::ObjectSpec;
use super::props::Mode;
use serde_json::Value;

impl MachineSpec {
    /// The device that `options` describe, checked as `--device` is. Nodes are not: the block graph
    /// knows which there are by now. Queues without an iothread go to the one that serves the fewest.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the options, or does not fit this machine.
    pub fn added_device(&self, options: Options) -> Result<DeviceSpec, SpecError> {
        let driver = options.get("driver").and_then(Value::as_str).unwrap_or("device");
        let fallback = draft::free_id(driver, &mut draft::ids_of(self));
        let mut device = device_from_options(options, &fallback, Mode::Lenient)?;
        device.kind_mut().settle(self)?;
        if self.device(device.id()).is_some() {
            return Err(SpecError::Conflict(format!("Duplicate device ID '{}'", device.id())));
        }
        if let Some(queues) = device.kind_mut().queues_mut() {
            draft::fill_count(self, queues.count);
            if queues.iothread.is_none() && !queues.is_mapped {
                *queues.iothread = self.idlest_iothread();
            }
        }
        device.kind().check(self)?;
        Ok(device)
    }

    /// The iothread to which the fewest devices are bound; the first of them.
    fn idlest_iothread(&self) -> Option<String> {
        let uses = |id: &str| {
            let queues = self.devices.iter().filter_map(|device| device.kind().queues());
            let bound = |q: &super::device::Queues<'_>| {
                q.iothread == Some(id) || q.mapping.iter().any(|m| m.iothread == id)
            };
            queues.filter(bound).count()
        };
        let iothreads = self.objects.iter().filter_map(|object| match object {
            ObjectSpec::Iothread(iothread) => Some(&iothread.id),
            _ => None,
        });
        iothreads.min_by_key(|id| uses(id)).cloned()
    }
}
