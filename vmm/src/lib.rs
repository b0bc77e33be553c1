//! The program: the machine that runs a guest, its monitor, its command line and its tools.
pub mod cli;
pub mod doctor;
pub mod monitor;
pub mod spec;
