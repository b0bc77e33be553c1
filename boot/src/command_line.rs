//! The kernel command line.

use vm_memory::GuestMemoryBackend;

use crate::cpu_state::write;
use crate::error::BootError;
use crate::layout::{COMMAND_LINE, COMMAND_LINE_ROOM};
use crate::source::Source;

/// Checks that `line` has no NUL inside.
pub(crate) fn check(line: &str) -> Result<(), BootError> {
    line.bytes().position(|b| b == 0).map_or(Ok(()), |at| Err(BootError::CommandLineNul(at)))
}

/// Checks that `kernel`, which takes `kernel_max` bytes, takes `line`.
pub(crate) fn check_length(
    line: &str,
    kernel: &Source,
    kernel_max: usize,
) -> Result<(), BootError> {
    let max = kernel_max.min(COMMAND_LINE_ROOM as usize - 1);
    if line.len() > max {
        return Err(BootError::CommandLineTooLong { path: kernel.path(), len: line.len(), max });
    }
    Ok(())
}

/// Writes `line` and its final NUL to [`COMMAND_LINE`], after [`check_length`].
pub(crate) fn place<M: GuestMemoryBackend>(
    memory: &M,
    line: &str,
    kernel: &Source,
    kernel_max: usize,
) -> Result<(), BootError> {
    check_length(line, kernel, kernel_max)?;
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(0);
    write(memory, "the kernel command line", COMMAND_LINE, &bytes)
}
