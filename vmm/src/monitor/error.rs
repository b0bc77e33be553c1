//! Errors as QMP shows them.
use crate::spec::SpecError;
use serde::Serialize;

/// The class of an error (qapi/error.json, QapiErrorClass).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ErrorClass {
    /// Whatever has no class of its own.
    GenericError,
    /// No such command, or not in this state of the session.
    CommandNotFound,
    /// The device cannot be used now.
    DeviceNotActive,
    /// No such device.
    DeviceNotFound,
}

/// An error as QMP shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{desc}")]
pub struct QmpError {
    /// Its class.
    pub class: ErrorClass,
    /// One sentence for people.
    pub desc: String,
}

impl QmpError {
    /// An error without a class of its own.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::GenericError, desc: desc.into() }
    }

    /// The error for a device that is not there.
    pub fn device_not_found(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::DeviceNotFound, desc: desc.into() }
    }

    /// The error for a command that is not there.
    pub fn command_not_found(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::CommandNotFound, desc: desc.into() }
    }
}

impl From<SpecError> for QmpError {
    fn from(error: SpecError) -> Self {
        Self::generic(error.to_string())
    }
}
