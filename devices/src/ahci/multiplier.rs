//! A port multiplier (Serial ATA 3.2, 16): its registers, and the links behind it.

use super::spec::{link, multiplier as spec, serr};

/// A link to a device.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    present: bool,
    /// Its device is being reset.
    resetting: bool,
    status: u32,
    error: u32,
    control: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Multiplier {
    links: Vec<Link>,
    error_enable: u32,
    features: u32,
}

/// What a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Nothing,
    /// The device behind a link is reset; [`Multiplier::bring_up`] follows.
    Reset(u8),
}

impl Multiplier {
    /// One with so many ports, 1 to 15.
    pub fn new(ports: u8) -> Self {
        let links = vec![Link::default(); ports.into()];
        let mut multiplier = Self { links, error_enable: spec::ERROR_ENABLE, features: 0 };
        multiplier.reset();
        multiplier
    }

    /// As after COMRESET: only the first link is up (SATA 16.3.3.2).
    pub fn reset(&mut self) {
        (self.error_enable, self.features) = (spec::ERROR_ENABLE, 0);
        for (number, link) in self.links.iter_mut().enumerate() {
            let control = if number == 0 { 0 } else { link::CONTROL_OFFLINE };
            *link = Link { present: link.present, control, ..Link::default() };
        }
        self.bring_up(0);
    }

    /// A device comes to a link, or goes.
    pub fn exchange(&mut self, number: u8, present: bool) {
        let Some(link) = self.links.get_mut(usize::from(number)) else { return };
        link.present = present;
        if link.status & link::DET == link::DET_UP {
            link.error |= serr::PHY;
        }
        link.status = 0;
        self.bring_up(number);
    }

    /// A link comes up, if there is a device and nothing is in its way.
    pub fn bring_up(&mut self, number: u8) {
        let Some(link) = self.links.get_mut(usize::from(number)) else { return };
        link.resetting = false;
        if link.present && link.control & link::DET == 0 {
            link.status =
                link::DET_UP | link::SPD_GEN3 << link::SPD_SHIFT | link::ACTIVE << link::IPM_SHIFT;
            link.error |= serr::EXCHANGED | serr::PHY;
        }
    }

    /// Whether commands reach a device.
    pub fn is_up(&self, number: u8) -> bool {
        self.links
            .get(usize::from(number))
            .is_some_and(|link| link.status & link::DET == link::DET_UP)
    }

    /// Whether the device behind a link is being reset.
    pub fn is_resetting(&self, number: u8) -> bool {
        self.links.get(usize::from(number)).is_some_and(|link| link.resetting)
    }

    /// Whether changes of links are to be told of.
    pub fn notifies(&self) -> bool {
        self.features & spec::NOTIFICATION != 0
    }

    fn errors(&self) -> u32 {
        let bit = |(number, link): (usize, &Link)| {
            u32::from(link.error & self.error_enable != 0) << number
        };
        self.links.iter().enumerate().map(bit).fold(0, |all, bit| all | bit)
    }

    /// READ PORT MULTIPLIER; `None`: there is no such register.
    pub fn read(&self, port: u8, register: u16) -> Option<u32> {
        if port == spec::CONTROL_PORT {
            return match register {
                spec::PRODUCT => Some(spec::PRODUCT_ID),
                spec::REVISION => Some(spec::REVISIONS),
                spec::PORTS => Some(self.links.len() as u32),
                spec::ERROR => Some(self.errors()),
                spec::ERROR_ENABLES => Some(self.error_enable),
                spec::FEATURES => Some(spec::NOTIFICATION),
                spec::FEATURES_ON => Some(self.features),
                _ => None,
            };
        }
        let link = self.links.get(usize::from(port))?;
        match register {
            spec::STATUS => Some(link.status),
            spec::LINK_ERROR => Some(link.error),
            spec::CONTROL => Some(link.control),
            _ => None,
        }
    }

    /// WRITE PORT MULTIPLIER; `None`: there is no such register.
    pub fn write(&mut self, port: u8, register: u16, value: u32) -> Option<Written> {
        if port == spec::CONTROL_PORT {
            match register {
                spec::ERROR_ENABLES => self.error_enable = value,
                spec::FEATURES_ON => self.features = value & spec::NOTIFICATION,
                spec::PRODUCT | spec::REVISION | spec::PORTS | spec::ERROR | spec::FEATURES => {}
                _ => return None,
            }
            return Some(Written::Nothing);
        }
        let link = self.links.get_mut(usize::from(port))?;
        match register {
            spec::STATUS => {}
            spec::LINK_ERROR => link.error &= !value,
            spec::CONTROL => {
                let (old, now) = (link.control & link::DET, value & link::DET);
                link.control = value & link::CONTROL;
                match now {
                    link::CONTROL_RESET => link.status = 0,
                    link::CONTROL_OFFLINE => link.status = link::DET_OFFLINE,
                    0 if old != 0 => {
                        link.status = 0;
                        link.resetting = true;
                        return Some(Written::Reset(port));
                    }
                    _ => {}
                }
            }
            _ => return None,
        }
        Some(Written::Nothing)
    }
}
