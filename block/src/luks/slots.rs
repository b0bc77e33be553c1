//! Key slots of version 1: passphrases are added and taken away, the key of the disk stays.
//!
//! A crash at any moment leaves every slot that was and stays active as it was: stripes are durable
//! before the header says that they mean something, and are wiped only after it does not. A slot that
//! is overwritten while it is active (`force`) has its successor in a free slot meanwhile.

use std::sync::Arc;

use super::{
    STRIPES,
    create::iterations,
    random,
    v1::{Header, SALT, SLOTS, Slot},
};
use crate::{
    Cx, Node,
    formats::{FormatError, Secret, io},
    qcow2::host::Host,
};

/// How long finding the key of a new slot takes where nothing else is asked for, in milliseconds.
const ITER_TIME_MS: u64 = 2000;

/// What becomes of key slots, with QEMU's names (LUKSKeyslotState and its options).
#[derive(Clone, Debug, Default)]
pub struct SlotChange {
    /// `state`: a slot gets a passphrase (`active`), or slots are erased.
    pub active: bool,
    /// `new-secret`: the passphrase that the slot gets.
    pub new_secret: Option<Secret>,
    /// `old-secret`: slots with this passphrase are erased.
    pub old_secret: Option<Secret>,
    /// `keyslot`: which; by default the first free one gets the passphrase.
    pub keyslot: Option<u64>,
    /// `iter-time`, in milliseconds.
    pub iter_time_ms: Option<u64>,
    /// Active slots may be overwritten, and the last may be erased: the disk is lost then.
    pub force: bool,
}

fn no<T>(sentence: impl Into<String>) -> Result<T, FormatError> {
    Err(FormatError::Option(sentence.into()))
}

/// Changes the key slots of the disk whose header begins `file`; `secret` opens it.
///
/// # Errors
/// QEMU's sentence about a change that is not possible, or a file that cannot be written.
pub async fn amend(
    cx: &Cx,
    file: &Arc<dyn Node>,
    secret: &Secret,
    change: &SlotChange,
) -> Result<(), FormatError> {
    let host = Host::new(Arc::clone(file));
    let header = match super::read_header(cx, &host).await? {
        super::Header::V1(header) => header,
        super::Header::V2(_) => {
            let sentence = "key slots of LUKS2 disks are changed with cryptsetup";
            return Err(FormatError::Unsupported(sentence.to_owned()));
        }
    };
    let key = header.find_key(cx, &host, secret.bytes()).await?;
    let slots = Slots { cx, host, header, key };
    if change.active { slots.activate(change).await } else { slots.erase(change).await }
}

/// A disk whose key is known.
struct Slots<'a> {
    cx: &'a Cx,
    host: Host,
    header: Header,
    key: Vec<u8>,
}

fn index(given: u64) -> Result<usize, FormatError> {
    match usize::try_from(given) {
        Ok(n) if n < SLOTS => Ok(n),
        _ => no(format!("Invalid keyslot {given} specified, must be between 0 and {}", SLOTS - 1)),
    }
}

impl Slots<'_> {
    async fn activate(mut self, change: &SlotChange) -> Result<(), FormatError> {
        let Some(secret) = &change.new_secret else {
            return no("'new-secret' is required to activate a keyslot");
        };
        if change.old_secret.is_some() {
            return no("'old-secret' must not be given when activating keyslots");
        }
        let free = self.header.slots.iter().position(|slot| !slot.active);
        let slot = match (change.keyslot, free) {
            (Some(given), _) => {
                let n = index(given)?;
                if self.header.slots[n].active && !change.force {
                    return no(format!(
                        "Refusing to overwrite active keyslot {n} - please erase it first"
                    ));
                }
                n
            }
            (None, Some(n)) => n,
            (None, None) => return no("Can't add a keyslot - all keyslots are in use"),
        };
        let time = change.iter_time_ms.unwrap_or(ITER_TIME_MS);
        let sealed = seal(&self.header, &self.key, secret, time)?;
        let spare = free.filter(|_| self.header.slots[slot].active);
        if let Some(spare) = spare {
            self.put(spare, &sealed).await?;
        }
        self.put(slot, &sealed).await?;
        if let Some(spare) = spare {
            self.wipe(&[spare]).await?;
        }
        Ok(())
    }

    async fn erase(mut self, change: &SlotChange) -> Result<(), FormatError> {
        if change.new_secret.is_some() {
            return no("'new-secret' must not be given when erasing keyslots");
        }
        if change.iter_time_ms.is_some() {
            return no("'iter-time' must not be given when erasing keyslots");
        }
        let active = self.header.slots.iter().filter(|slot| slot.active).count();
        if let Some(given) = change.keyslot {
            let n = index(given)?;
            if let Some(old) = &change.old_secret
                && !self.opens(n, old).await?
            {
                return no(format!(
                    "Given keyslot {n} doesn't contain the given old password for erase operation"
                ));
            }
            if !self.header.slots[n].active && !change.force {
                return no(format!("Given keyslot {n} is already erased (inactive) "));
            }
            if active == 1 && self.header.slots[n].active && !change.force {
                return no(format!(
                    "Attempt to erase the only active keyslot {n} which will erase all the data in \
                     the image irreversibly - refusing operation"
                ));
            }
            return self.wipe(&[n]).await;
        }
        let Some(old) = &change.old_secret else {
            return no(
                "To erase keyslot(s), either explicit keyslot index or the password currently \
                 contained in them must be given",
            );
        };
        let mut found = Vec::new();
        for n in 0..self.header.slots.len() {
            if self.opens(n, old).await? {
                found.push(n);
            }
        }
        if found.is_empty() {
            return no("No keyslots match given (old) password for erase operation");
        }
        if found.len() == active && !change.force {
            return no(
                "All the active keyslots match the (old) password that was given and erasing them \
                 will erase all the data in the image irreversibly - refusing operation",
            );
        }
        self.wipe(&found).await
    }

    async fn opens(&self, n: usize, secret: &Secret) -> Result<bool, FormatError> {
        let slot = &self.header.slots[n];
        if !slot.active {
            return Ok(false);
        }
        Ok(self.header.slot_key(self.cx, &self.host, slot, secret.bytes()).await?.is_some())
    }

    /// Makes a slot one with this passphrase.
    async fn put(&mut self, n: usize, sealed: &Sealed) -> Result<(), FormatError> {
        let failed = io("writing a key slot");
        let slot = &mut self.header.slots[n];
        self.host.write_bytes(self.cx, slot.at, &sealed.stripes).await.map_err(&failed)?;
        self.host.sync(self.cx).await.map_err(&failed)?;
        *slot = Slot { at: slot.at, ..sealed.slot.clone() };
        self.write_header().await
    }

    /// Nothing opens these slots any more.
    async fn wipe(&mut self, slots: &[usize]) -> Result<(), FormatError> {
        let failed = io("wiping a key slot");
        for n in slots {
            self.header.slots[*n].active = false;
        }
        self.write_header().await?;
        let len = (self.header.key_len * STRIPES).next_multiple_of(512);
        for n in slots {
            let at = self.header.slots[*n].at;
            self.host.write_bytes(self.cx, at, &random(len)).await.map_err(&failed)?;
            let slot = &mut self.header.slots[*n];
            slot.iterations = 0;
            slot.salt = vec![0; SALT];
        }
        self.host.sync(self.cx).await.map_err(&failed)?;
        self.write_header().await
    }

    async fn write_header(&self) -> Result<(), FormatError> {
        let failed = io("writing the LUKS header");
        self.host.write_bytes(self.cx, 0, &self.header.to_bytes()).await.map_err(&failed)?;
        self.host.sync(self.cx).await.map_err(&failed)
    }
}

/// The key of a disk, under a passphrase.
pub(super) struct Sealed {
    /// All but the place.
    pub slot: Slot,
    /// Whole sectors.
    pub stripes: Vec<u8>,
}

/// Seals the key of the disk with a passphrase that takes so long to try.
pub(super) fn seal(
    header: &Header,
    key: &[u8],
    secret: &Secret,
    time_ms: u64,
) -> Result<Sealed, FormatError> {
    let rounds = iterations(header.hash, key.len(), time_ms);
    let salt = random(SALT);
    let mut stripes = header.hash.split(key, STRIPES);
    stripes.resize(stripes.len().next_multiple_of(512), 0);
    let derived = header.hash.pbkdf2(secret.bytes(), &salt, rounds, key.len());
    header.spec.keyed(&derived)?.sectors(true, 0, 512, &mut stripes);
    let slot = Slot { active: true, iterations: rounds, salt, at: 0, stripes: STRIPES as u32 };
    Ok(Sealed { slot, stripes })
}
