//! SCSI disks and drives.

mod disks;
mod sense;
mod units;

use spindle_tests::coverage::{Group, Items, Page, row};

use disks::{OVERWRITING, PROVISIONING, READS_WRITES, RESERVATIONS};
use sense::{CODES, KEYS};
use units::{ATTENTION, DRIVES, ERRORS, FUNCTIONS, IDENTITY, MODES};

const SPEC: &str = "devices/src/scsi/spec.rs";

/// The page.
pub const PAGE: Page = Page {
    name: "scsi",
    title: "SCSI disks and drives",
    specification: "SAM-5, SPC-5, SBC-4 (SBC-2 for what it has no longer) and MMC-6",
    tests: &["devices/tests/scsi"],
    groups: &[
        OPCODES,
        ACTIONS,
        IDENTITY,
        MODES,
        READS_WRITES,
        PROVISIONING,
        OVERWRITING,
        RESERVATIONS,
        DRIVES,
        FUNCTIONS,
        ATTENTION,
        ERRORS,
        KEYS,
        CODES,
    ],
};

const OPCODES: Group = Group {
    title: "Operation codes",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod op",
        except: &[],
        short: &[("READ_TOC", "READ TOC/PMA/ATIP")],
    }),
    rows: &[
        row(
            "TEST UNIT READY",
            "SPC-5 6.47",
            &["modes::a_stopped_unit_is_not_ready", "drives::an_empty_drive_is_not_ready"],
        ),
        row("REQUEST SENSE", "SPC-5 6.39", &["identity::request_sense_answers_in_both_formats"]),
        row(
            "FORMAT UNIT",
            "SBC-4 5.4",
            &[
                "overwriting::a_format_writes_what_it_was_told",
                "overwriting::formats_that_make_no_sense_are_refused",
                "overwriting::a_format_goes_on_in_the_background",
            ],
        ),
        row("READ(6)", "SBC-2 5.5", &["reads_writes::every_form_reads_and_writes_the_same_blocks"]),
        row(
            "WRITE(6)",
            "SBC-2 5.24",
            &["reads_writes::every_form_reads_and_writes_the_same_blocks"],
        ),
        row(
            "INQUIRY",
            "SPC-5 6.7",
            &[
                "identity::standard_inquiry_data_have_their_golden_bytes",
                "identity::vital_product_data_have_their_golden_bytes",
                "identity::pages_of_block_devices_have_their_golden_bytes",
                "identity::inquiry_refuses_what_there_is_not",
            ],
        ),
        row("MODE SELECT(6)", "SPC-5 6.9", &["modes::the_write_cache_can_be_switched"]),
        row("MODE SENSE(6)", "SPC-5 6.11", &["modes::pages_have_their_golden_bytes"]),
        row(
            "START STOP UNIT",
            "SBC-4 5.31",
            &["modes::a_stopped_unit_is_not_ready", "drives::the_tray_opens_and_closes"],
        ),
        row(
            "PREVENT ALLOW MEDIUM REMOVAL",
            "SBC-4 5.17",
            &["modes::removal_may_be_prevented", "drives::a_locked_tray_opens_only_by_force"],
        ),
        row("READ CAPACITY(10)", "SBC-4 5.20", &["identity::the_capacity_is_told_in_both_forms"]),
        row(
            "READ(10)",
            "SBC-4 5.18",
            &[
                "reads_writes::every_form_reads_and_writes_the_same_blocks",
                "drives::a_disc_is_read_in_blocks_of_2048_bytes",
            ],
        ),
        row(
            "WRITE(10)",
            "SBC-4 5.37",
            &["reads_writes::every_form_reads_and_writes_the_same_blocks"],
        ),
        row(
            "WRITE AND VERIFY(10)",
            "SBC-4 5.41",
            &["provisioning::write_and_verify_writes_durably"],
        ),
        row("VERIFY(10)", "SBC-4 5.33", &["provisioning::verify_compares_as_asked"]),
        row(
            "SYNCHRONIZE CACHE(10)",
            "SBC-4 5.32",
            &["reads_writes::a_flush_makes_what_was_written_durable"],
        ),
        row("WRITE SAME(10)", "SBC-4 5.45", &["provisioning::one_block_is_written_over_many"]),
        row(
            "UNMAP",
            "SBC-4 5.35",
            &[
                "provisioning::what_is_unmapped_reads_as_zeros",
                "provisioning::unmap_lists_that_make_no_sense_are_refused_as_a_whole",
            ],
        ),
        row(
            "READ TOC/PMA/ATIP",
            "MMC-6 6.25",
            &["drives::tables_of_contents_have_their_golden_bytes"],
        ),
        row("GET CONFIGURATION", "MMC-6 6.5", &["drives::features_follow_the_disc"]),
        row(
            "SANITIZE",
            "SBC-4 5.30",
            &[
                "overwriting::a_sanitize_overwrites_durably",
                "overwriting::a_sanitize_that_failed_is_left_or_repeated",
                "overwriting::sanitizes_that_make_no_sense_are_refused",
            ],
        ),
        row("GET EVENT STATUS NOTIFICATION", "MMC-6 6.6", &["drives::the_tray_opens_and_closes"]),
        row("LOG SELECT", "SPC-5 6.7", &["identity::log_pages_are_reset"]),
        row("LOG SENSE", "SPC-5 6.8", &["identity::log_pages_are_reported"]),
        row("READ DISC INFORMATION", "MMC-6 6.21", &["drives::a_disc_is_described"]),
        row("READ TRACK INFORMATION", "MMC-6 6.26", &["drives::a_disc_is_described"]),
        row("MODE SELECT(10)", "SPC-5 6.10", &["modes::the_write_cache_can_be_switched"]),
        row("MODE SENSE(10)", "SPC-5 6.12", &["modes::pages_have_their_golden_bytes"]),
        row(
            "PERSISTENT RESERVE IN",
            "SPC-5 6.15",
            &[
                "reservations::keys_are_registered_changed_and_taken_back",
                "reservations::each_type_lets_in_whom_it_says",
                "reservations::capabilities_have_their_golden_bytes",
                "reservations::the_full_status_names_everybody",
            ],
        ),
        row(
            "PERSISTENT RESERVE OUT",
            "SPC-5 6.16",
            &[
                "reservations::keys_are_registered_changed_and_taken_back",
                "reservations::each_type_lets_in_whom_it_says",
                "reservations::only_the_holder_releases",
                "reservations::a_clear_takes_everything",
                "reservations::a_preempt_takes_registrations_and_the_reservation",
                "reservations::preempt_and_abort_ends_commands_first",
                "reservations::a_reservation_can_be_moved",
                "reservations::what_is_to_survive_a_power_loss_does",
            ],
        ),
        row(
            "READ(16)",
            "SBC-4 5.19",
            &["reads_writes::every_form_reads_and_writes_the_same_blocks"],
        ),
        row(
            "COMPARE AND WRITE",
            "SBC-4 5.3",
            &["provisioning::compare_and_write_does_both_or_neither"],
        ),
        row(
            "WRITE(16)",
            "SBC-4 5.39",
            &["reads_writes::every_form_reads_and_writes_the_same_blocks"],
        ),
        row(
            "WRITE AND VERIFY(16)",
            "SBC-4 5.43",
            &["provisioning::write_and_verify_writes_durably"],
        ),
        row("VERIFY(16)", "SBC-4 5.35", &["provisioning::verify_compares_as_asked"]),
        row(
            "SYNCHRONIZE CACHE(16)",
            "SBC-4 5.33",
            &["reads_writes::a_flush_makes_what_was_written_durable"],
        ),
        row("WRITE SAME(16)", "SBC-4 5.46", &["provisioning::one_block_is_written_over_many"]),
        row(
            "SERVICE ACTION IN(16)",
            "SBC-4 4.2.2",
            &[
                "identity::the_capacity_is_told_in_both_forms",
                "provisioning::what_is_mapped_is_told",
            ],
        ),
        row("REPORT LUNS", "SPC-5 6.33", &["adapter::units_have_their_addresses"]),
        row(
            "MAINTENANCE IN",
            "SPC-5 4.2.2",
            &[
                "identity::supported_commands_are_reported",
                "identity::supported_functions_are_reported",
            ],
        ),
        row(
            "READ(12)",
            "SBC-4 5.17",
            &[
                "reads_writes::every_form_reads_and_writes_the_same_blocks",
                "drives::a_disc_is_read_in_blocks_of_2048_bytes",
            ],
        ),
        row(
            "WRITE(12)",
            "SBC-4 5.38",
            &["reads_writes::every_form_reads_and_writes_the_same_blocks"],
        ),
        row(
            "READ DISC STRUCTURE",
            "MMC-6 6.22",
            &["drives::a_dvd_has_structures_and_a_cd_has_none"],
        ),
        row(
            "WRITE AND VERIFY(12)",
            "SBC-4 5.42",
            &["provisioning::write_and_verify_writes_durably"],
        ),
        row("VERIFY(12)", "SBC-4 5.34", &["provisioning::verify_compares_as_asked"]),
        row("MECHANISM STATUS", "MMC-6 6.11", &["drives::the_tray_opens_and_closes"]),
        row("READ CD", "MMC-6 6.20", &["drives::read_cd_reads_user_data"]),
    ],
};

const ACTIONS: Group = Group {
    title: "Service actions",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod action",
        except: &[],
        short: &[
            ("GET_LBA_STATUS", "GET LBA STATUS(16)"),
            ("REPORT_OPCODES", "REPORT SUPPORTED OPERATION CODES"),
            ("REPORT_TMFS", "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS"),
        ],
    }),
    rows: &[
        row("READ CAPACITY(16)", "SBC-4 5.21", &["identity::the_capacity_is_told_in_both_forms"]),
        row("GET LBA STATUS(16)", "SBC-4 5.5", &["provisioning::what_is_mapped_is_told"]),
        row(
            "REPORT SUPPORTED OPERATION CODES",
            "SPC-5 6.35",
            &["identity::supported_commands_are_reported"],
        ),
        row(
            "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
            "SPC-5 6.36",
            &["identity::supported_functions_are_reported"],
        ),
    ],
};
