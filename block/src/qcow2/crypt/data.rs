//! Data on its way to and from the file.

use super::super::Qcow2;
use crate::{BlockError, Cx, IoBuf, Pin, luks::sectors::Source};

impl Qcow2 {
    /// Whether the disk's data is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.crypt.is_some()
    }

    /// Reads data of the disk into `buf`: at `guest` there, at `host` in the file.
    pub(in super::super) async fn read_data(
        &self,
        cx: &Cx,
        (guest, host): (u64, u64),
        buf: IoBuf,
        pin: Pin,
    ) -> Result<(), BlockError> {
        let Some(crypt) = &self.crypt else {
            return self.data.host.read_into(cx, host, buf, pin).await;
        };
        let at = (host, crypt.number_at(guest, host));
        crypt.sectors.read(cx, &self.data.host, at, buf, pin).await
    }

    /// Writes data of the disk: at `guest` there, at `host` in the file.
    pub(in super::super) async fn write_data(
        &self,
        cx: &Cx,
        (guest, host): (u64, u64),
        buf: IoBuf,
        pin: Pin,
    ) -> Result<(), BlockError> {
        let Some(crypt) = &self.crypt else {
            return self.data.host.write(cx, host, buf, pin).await;
        };
        let at = (host, crypt.number_at(guest, host));
        let mut first = Some(pin);
        // The caller holds the guest clusters, so the place is as true for later pieces.
        let pin = || first.take().unwrap_or_else(|| self.pins.pin(cx.lane()));
        let source = (Source::Bytes(&buf, 0), buf.len());
        crypt.sectors.write(cx, &self.data.host, at, source, pin).await
    }
}
