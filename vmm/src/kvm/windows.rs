//! Doorbells and coalesced zones as KVM knows them.

use std::{io, sync::Arc};

use kvm_bindings::{
    KVMIO, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign,
    kvm_ioeventfd_flag_nr_pio,
};
use kvm_ioctls::{IoEventAddress, VmFd};
use spindle_devices::{Doorbell, Space};
use std::os::fd::AsRawFd;
use vmm_sys_util::{ioctl::ioctl_with_ref, ioctl_iow_nr};

use crate::bus::Offload;

// The crate's own call cannot say "of this width, any value".
ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);

/// Turns declarations into ioeventfds and coalesced zones.
#[derive(Debug)]
pub struct KvmOffload {
    vm: Arc<VmFd>,
    coalesces_ports: bool,
}

impl KvmOffload {
    /// For `vm`; whether it can collect port writes is a capability of its own.
    #[must_use]
    pub fn new(vm: Arc<VmFd>, coalesces_ports: bool) -> Self {
        Self { vm, coalesces_ports }
    }

    fn ioeventfd(&self, doorbell: &Doorbell, extra: u32) -> io::Result<()> {
        let mut flags = extra;
        if doorbell.space == Space::Port {
            flags |= 1 << kvm_ioeventfd_flag_nr_pio;
        }
        if doorbell.value.is_some() {
            flags |= 1 << kvm_ioeventfd_flag_nr_datamatch;
        }
        let argument = kvm_ioeventfd {
            datamatch: doorbell.value.unwrap_or_default(),
            addr: doorbell.address,
            len: u32::from(doorbell.width),
            fd: doorbell.event.as_raw_fd(),
            flags,
            ..Default::default()
        };
        // SAFETY: a VM's file descriptor, the structure the call takes, and a checked result.
        match unsafe { ioctl_with_ref(&*self.vm, KVM_IOEVENTFD(), &argument) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn address(space: Space, base: u64) -> IoEventAddress {
    match space {
        Space::Memory => IoEventAddress::Mmio(base),
        Space::Port => IoEventAddress::Pio(base),
    }
}

impl Offload for KvmOffload {
    fn add_doorbell(&self, doorbell: &Doorbell) -> io::Result<()> {
        self.ioeventfd(doorbell, 0)
    }

    fn remove_doorbell(&self, doorbell: &Doorbell) -> io::Result<()> {
        self.ioeventfd(doorbell, 1 << kvm_ioeventfd_flag_nr_deassign)
    }

    fn add_zone(&self, space: Space, base: u64, len: u32) -> io::Result<()> {
        if space == Space::Port && !self.coalesces_ports {
            return Ok(());
        }
        Ok(self.vm.register_coalesced_mmio(address(space, base), len)?)
    }

    fn remove_zone(&self, space: Space, base: u64, len: u32) -> io::Result<()> {
        if space == Space::Port && !self.coalesces_ports {
            return Ok(());
        }
        Ok(self.vm.unregister_coalesced_mmio(address(space, base), len)?)
    }
}
