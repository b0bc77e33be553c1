//! The program: the machine that runs a guest, its monitor, its command line and its tools.
pub mod accel;
pub mod bus;
pub mod cli;
pub mod console;
pub mod doctor;
pub mod kvm;
pub mod machine;
pub mod monitor;
pub mod qtest;
pub mod run;
pub mod sandbox;
pub mod serial;
mod signals;
pub mod spec;
pub mod tools;
pub mod vcpu;
