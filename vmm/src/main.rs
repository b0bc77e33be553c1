//! The `spindle` command.
use spindle::cli::{self, Failure, Programs};
use spindle::spec::MachineSpec;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(&Programs { run })
}

fn run(spec: MachineSpec) -> Result<u8, Failure> {
    Ok(spindle::run::run(&spec)?)
}
