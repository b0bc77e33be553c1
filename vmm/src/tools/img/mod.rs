//! `spindle img`: create, info and check, with the options, output and exit statuses of
//! `qemu-img`, so that scripts need change nothing but the name.
pub mod check;
pub mod create;
pub mod info;
mod text;
