//! Resource descriptors that acpi_tables lacks (ACPI 6.5, 6.4.2).

use acpi_tables::{Aml, AmlSink};

/// An ISA interrupt: edge-triggered, active high, not shared (6.4.2.1, the two-byte form).
pub(super) struct IsaIrq(pub(super) u8);

impl Aml for IsaIrq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1u16.checked_shl(self.0.into()).unwrap_or(0));
    }
}
