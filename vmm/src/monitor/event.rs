//! Events: what they are called, what they carry, and how often they may go out.
use super::reply::{Mailbox, Message};
use super::schema::ShutdownCause;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Something that happened to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was paused.
    Stop,
    /// It goes on.
    Resume,
    /// It was reset.
    Reset {
        /// Whether its guest wanted that.
        guest: bool,
        /// Why.
        reason: ShutdownCause,
    },
    /// It shuts down.
    Shutdown {
        /// Whether its guest wanted that.
        guest: bool,
        /// Why.
        reason: ShutdownCause,
    },
    /// The power button was pressed.
    Powerdown,
    /// The guest told of a panic, or cannot go on.
    GuestPanicked {
        /// `pause` or `poweroff`.
        action: &'static str,
    },
    /// A device is gone: it was unplugged, and nothing of it is left.
    DeviceDeleted {
        /// The device's id.
        device: String,
    },
    /// The tray of a drive was opened or closed.
    DeviceTrayMoved {
        /// The device's id.
        device: String,
        /// Whether it is open now.
        open: bool,
    },
    /// A request failed.
    BlockIoError {
        /// The device's id.
        device: String,
        /// The node's name.
        node_name: String,
        /// What failed.
        operation: IoOperation,
        /// What was done about it.
        action: IoAction,
        /// Whether there is no space left.
        nospace: bool,
        /// The error in words.
        reason: String,
    },
}

/// Which kind of request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IoOperation {
    /// A read.
    Read,
    /// Anything that changes data.
    Write,
}

/// What was done about a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IoAction {
    /// The guest was told it went well.
    Ignore,
    /// The guest was told.
    Report,
    /// The machine was paused.
    Stop,
}

impl Event {
    /// The event's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::Resume => "RESUME",
            Self::Reset { .. } => "RESET",
            Self::Shutdown { .. } => "SHUTDOWN",
            Self::Powerdown => "POWERDOWN",
            Self::GuestPanicked { .. } => "GUEST_PANICKED",
            Self::DeviceDeleted { .. } => "DEVICE_DELETED",
            Self::DeviceTrayMoved { .. } => "DEVICE_TRAY_MOVED",
            Self::BlockIoError { .. } => "BLOCK_IO_ERROR",
        }
    }

    fn data(&self) -> Option<Value> {
        match self {
            Self::Stop | Self::Resume | Self::Powerdown => None,
            Self::Reset { guest, reason } | Self::Shutdown { guest, reason } => {
                Some(json!({"guest": guest, "reason": reason}))
            }
            Self::GuestPanicked { action } => Some(json!({"action": action})),
            Self::DeviceDeleted { device } => {
                Some(json!({"device": device, "path": format!("/machine/peripheral/{device}")}))
            }
            Self::DeviceTrayMoved { device, open } => {
                Some(json!({"device": "", "id": device, "tray-open": open}))
            }
            Self::BlockIoError { device, node_name, operation, action, nospace, reason } => {
                Some(json!({
                    "qom-path": format!("/machine/peripheral/{device}"),
                    "device": "",
                    "node-name": node_name,
                    "reason": reason,
                    "operation": operation,
                    "action": action,
                    "nospace": nospace,
                }))
            }
        }
    }

    /// The message, as of `at`.
    pub(super) fn message(&self, at: SystemTime) -> Value {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut message = json!({
            "timestamp": {"seconds": since.as_secs(), "microseconds": since.subsec_micros()},
            "event": self.name(),
        });
        if let Some(data) = self.data() {
            message["data"] = data;
        }
        message
    }

    /// What events must share to be held back by each other; `None`: it always goes out.
    fn limited_by(&self) -> Option<&str> {
        match self {
            Self::BlockIoError { device, .. } => Some(device),
            _ => None,
        }
    }
}

/// Sends events to all peers, from any thread.
#[derive(Clone, Debug)]
pub struct EventSender {
    pub(super) mailbox: Mailbox,
}

impl EventSender {
    /// Sends an event; its time is now.
    pub fn send(&self, event: Event) {
        self.mailbox.put(Message::Event(event, SystemTime::now()));
    }
}

/// Holds back events that come too often: within a period of the last one sent only the newest
/// is kept, and goes out at the period's end (QEMU, monitor/monitor.c; one second).
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    devices: HashMap<String, Held>,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    newest: Option<Value>,
}

impl RateLimit {
    /// The least time between events of one device.
    pub(super) const PERIOD: Duration = Duration::from_secs(1);

    /// The message of `event`, if it may go out at `now`; otherwise it is kept.
    pub(super) fn pass(&mut self, event: &Event, at: SystemTime, now: Instant) -> Option<Value> {
        let message = event.message(at);
        let Some(device) = event.limited_by() else { return Some(message) };
        match self.devices.get_mut(device) {
            Some(held) if now < held.until => {
                held.newest = Some(message);
                None
            }
            _ => {
                let held = Held { until: now + Self::PERIOD, newest: None };
                self.devices.insert(device.to_owned(), held);
                Some(message)
            }
        }
    }

    /// Messages whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Value> {
        let mut due = Vec::new();
        self.devices.retain(|_, held| {
            if now < held.until {
                return true;
            }
            held.until = now + Self::PERIOD;
            let newest = held.newest.take();
            let keep = newest.is_some();
            due.extend(newest);
            keep
        });
        due
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.devices.values().filter(|held| held.newest.is_some()).map(|held| held.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(device: &str, reason: &str) -> Event {
        Event::BlockIoError {
            device: device.to_owned(),
            node_name: "n".to_owned(),
            operation: IoOperation::Write,
            action: IoAction::Stop,
            nospace: true,
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn messages_have_qemus_shape() {
        let at = UNIX_EPOCH + Duration::from_micros(5_000_007);
        assert_eq!(
            error("d0", "No space left on device").message(at),
            json!({"timestamp": {"seconds": 5, "microseconds": 7}, "event": "BLOCK_IO_ERROR",
                   "data": {"qom-path": "/machine/peripheral/d0", "device": "", "node-name": "n",
                            "reason": "No space left on device", "operation": "write",
                            "action": "stop", "nospace": true}})
        );
        let deleted = Event::DeviceDeleted { device: "d0".to_owned() };
        assert_eq!(
            (deleted.name(), &deleted.message(at)["data"]),
            ("DEVICE_DELETED", &json!({"device": "d0", "path": "/machine/peripheral/d0"}))
        );
        let reset = Event::Reset { guest: true, reason: ShutdownCause::GuestReset };
        assert_eq!(reset.message(at)["data"], json!({"guest": true, "reason": "guest-reset"}));
        assert!(Event::Stop.message(at).get("data").is_none());
    }

    #[test]
    fn the_newest_of_a_burst_follows_after_the_period() {
        let mut limit = RateLimit::default();
        let (at, t0) = (SystemTime::now(), Instant::now());
        assert!(limit.pass(&error("a", "1"), at, t0).is_some());
        assert!(limit.pass(&error("a", "2"), at, t0).is_none());
        assert!(limit.pass(&error("b", "x"), at, t0).is_some(), "devices are apart");
        assert!(limit.pass(&error("a", "3"), at, t0).is_none());
        assert!(limit.pass(&Event::Stop, at, t0).is_some());
        assert_eq!(limit.next_due(), Some(t0 + RateLimit::PERIOD));
        assert!(limit.due(t0).is_empty());
        let due = limit.due(t0 + RateLimit::PERIOD);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0]["data"]["reason"], "3");
        assert_eq!(limit.next_due(), None);
        assert!(limit.due(t0 + 2 * RateLimit::PERIOD).is_empty());
        assert!(limit.devices.is_empty(), "quiet devices are forgotten");
    }
}
