//! The NVMe controller.

mod admin;
mod commands;
mod status;

use spindle_tests::coverage::{Group, Items, Page, row};

use admin::{EVENTS, FEATURES, IDENTIFY, LOG_PAGES};
use commands::{ADMIN_COMMANDS, IO_COMMANDS};
use status::ERRORS;

const SPEC: &str = "devices/src/nvme/spec.rs";

/// The page.
pub const PAGE: Page = Page {
    name: "nvme",
    title: "NVMe",
    specification: "NVM Express Base 2.0; with NVM, those of the NVM Command Set 1.0; with PCIe, those of \
                    the PCIe Transport 1.0",
    tests: &["devices/tests/nvme"],
    groups: &[
        REGISTERS,
        ADMIN_COMMANDS,
        IDENTIFY,
        FEATURES,
        LOG_PAGES,
        EVENTS,
        IO_COMMANDS,
        TRANSFERS,
        ERRORS,
    ],
};

const REGISTERS: Group = Group {
    title: "Registers",
    prefix: "",
    items: Some(Items {
        file: "devices/src/nvme/regs.rs",
        container: "enum Name",
        except: &[],
        short: &[],
    }),
    rows: &[
        row(
            "CAP",
            "3.1.3.1",
            &["registers::every_register_reads_its_reset_value_at_every_width_and_alignment"],
        ),
        row(
            "VS",
            "3.1.3.2",
            &["registers::every_register_reads_its_reset_value_at_every_width_and_alignment"],
        ),
        row(
            "INTMS",
            "3.1.3.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::interrupt_masks_are_set_and_cleared_by_ones",
            ],
        ),
        row(
            "INTMC",
            "3.1.3.4",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::interrupt_masks_are_set_and_cleared_by_ones",
            ],
        ),
        row(
            "CC",
            "3.1.3.5",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "CSTS",
            "3.1.3.6",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "NSSR",
            "3.1.3.7",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::a_subsystem_reset_needs_its_magic_and_says_that_it_occurred",
            ],
        ),
        row(
            "AQA",
            "3.1.3.8",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
                "registers::the_admin_queue_cannot_be_moved_while_enabled_and_survives_a_controller_reset",
            ],
        ),
        row(
            "ASQ",
            "3.1.3.9",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
                "registers::the_admin_queue_cannot_be_moved_while_enabled_and_survives_a_controller_reset",
            ],
        ),
        row(
            "ACQ",
            "3.1.3.10",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
                "registers::the_admin_queue_cannot_be_moved_while_enabled_and_survives_a_controller_reset",
            ],
        ),
        row(
            "CMBLOC",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "CMBSZ",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "BPINFO",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "BPRSEL",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "BPMBL",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "CMBMSC",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "CMBSTS",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "CMBEBS",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "CMBSWTP",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "NSSD",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "CRTO",
            "3.1.3",
            &[
                "registers::every_register_reads_its_reset_value_at_every_width_and_alignment",
                "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment",
            ],
        ),
        row(
            "CC.EN",
            "3.7.2",
            &["lifecycle::a_reset_under_load_is_done_only_when_nothing_can_touch_memory_any_more"],
        ),
        row(
            "CC.CSS, CC.MPS, CC.AMS",
            "3.1.3.5",
            &["registers::unsupported_settings_are_fatal_and_a_reset_helps"],
        ),
        row(
            "CC.SHN, CSTS.SHST",
            "3.6.1",
            &["lifecycle::a_shutdown_ends_what_is_in_flight_and_flushes"],
        ),
        row("CC.IOSQES, CC.IOCQES", "3.1.3.5", &["queues::entry_sizes_are_those_that_there_are"]),
        row("doorbells", "PCIe 3.1.2", &["doorbells::bad_doorbells_are_events_and_change_nothing"]),
        row(
            "CSTS.CFS",
            "3.1.3.6",
            &["registers::unsupported_settings_are_fatal_and_a_reset_helps"],
        ),
        row(
            "CSTS.NSSRO",
            "3.1.3.6",
            &["registers::a_subsystem_reset_needs_its_magic_and_says_that_it_occurred"],
        ),
    ],
};

const TRANSFERS: Group = Group {
    title: "Data pointers",
    prefix: "",
    items: Some(Items { file: SPEC, container: "mod sgl", except: &[], short: &[] }),
    rows: &[
        row("Data block", "4.1.2.1", &["transfers::sgls_of_every_shape_move_exactly_their_bytes"]),
        row(
            "Bit bucket",
            "4.1.2.1",
            &[
                "transfers::a_bit_bucket_takes_what_the_host_does_not_want",
                "transfers::bad_sgls_are_refused",
            ],
        ),
        row(
            "Segment",
            "4.1.2.1",
            &[
                "transfers::sgls_of_every_shape_move_exactly_their_bytes",
                "transfers::a_loop_of_segments_ends",
            ],
        ),
        row(
            "Last segment",
            "4.1.2.1",
            &[
                "transfers::sgls_of_every_shape_move_exactly_their_bytes",
                "transfers::bad_sgls_are_refused",
            ],
        ),
        row(
            "PRP entries and lists",
            "4.1.1",
            &[
                "transfers::prp_transfers_of_every_length_and_offset_move_exactly_their_bytes",
                "transfers::a_prp_list_goes_on_in_other_pages",
                "transfers::larger_memory_pages_change_what_a_prp_covers",
            ],
        ),
    ],
};
