//! What disks do.

use spindle_tests::coverage::{Group, row};

pub(super) const READS_WRITES: Group = Group {
    title: "Reads and writes",
    prefix: "",
    items: None,
    rows: &[
        row(
            "READ(6), WRITE(6)",
            "SBC-2 5.5, 5.24",
            &["reads_writes::every_form_reads_and_writes_the_same_blocks"],
        ),
        row(
            "READ(10), WRITE(10)",
            "SBC-4 5.18, 5.37",
            &["reads_writes::every_form_reads_and_writes_the_same_blocks"],
        ),
        row(
            "READ(12), WRITE(12)",
            "SBC-4 5.17, 5.38",
            &["reads_writes::every_form_reads_and_writes_the_same_blocks"],
        ),
        row(
            "READ(16), WRITE(16)",
            "SBC-4 5.19, 5.39",
            &["reads_writes::every_form_reads_and_writes_the_same_blocks"],
        ),
        row(
            "LOGICAL BLOCK ADDRESS OUT OF RANGE",
            "SBC-4 5.18",
            &["reads_writes::blocks_beyond_the_end_are_out_of_range"],
        ),
        row("FUA", "SBC-4 5.37", &["reads_writes::fua_makes_a_write_durable"]),
        row(
            "SYNCHRONIZE CACHE(10), (16)",
            "SBC-4 5.32, 5.33",
            &["reads_writes::a_flush_makes_what_was_written_durable"],
        ),
        row("WRITE PROTECTED", "SBC-4 4.16", &["reads_writes::a_read_only_disk_refuses_writes"]),
    ],
};

pub(super) const PROVISIONING: Group = Group {
    title: "Unmapped blocks and comparisons",
    prefix: "",
    items: None,
    rows: &[
        row("UNMAP", "SBC-4 5.35", &["provisioning::what_is_unmapped_reads_as_zeros"]),
        row(
            "UNMAP: errors",
            "SBC-4 5.35.2",
            &["provisioning::unmap_lists_that_make_no_sense_are_refused_as_a_whole"],
        ),
        row(
            "WRITE SAME(10), (16)",
            "SBC-4 5.45, 5.46",
            &["provisioning::one_block_is_written_over_many"],
        ),
        row(
            "WRITE SAME: errors",
            "SBC-4 5.46",
            &["provisioning::write_same_refuses_what_it_cannot_do"],
        ),
        row("GET LBA STATUS", "SBC-4 5.5", &["provisioning::what_is_mapped_is_told"]),
        row("VERIFY(10), (12), (16)", "SBC-4 5.33", &["provisioning::verify_compares_as_asked"]),
        row(
            "WRITE AND VERIFY(10), (12), (16)",
            "SBC-4 5.41",
            &["provisioning::write_and_verify_writes_durably"],
        ),
        row(
            "COMPARE AND WRITE",
            "SBC-4 5.3",
            &["provisioning::compare_and_write_does_both_or_neither"],
        ),
    ],
};

pub(super) const OVERWRITING: Group = Group {
    title: "Formats and sanitize operations",
    prefix: "",
    items: None,
    rows: &[
        row("FORMAT UNIT", "SBC-4 5.4", &["overwriting::a_format_writes_what_it_was_told"]),
        row(
            "FORMAT UNIT: errors",
            "SBC-4 5.4.2",
            &["overwriting::formats_that_make_no_sense_are_refused"],
        ),
        row(
            "FORMAT UNIT: IMMED",
            "SBC-4 5.4.2.2",
            &["overwriting::a_format_goes_on_in_the_background"],
        ),
        row(
            "SANITIZE: BLOCK ERASE",
            "SBC-4 5.30.3",
            &["overwriting::a_sanitize_overwrites_durably"],
        ),
        row("SANITIZE: OVERWRITE", "SBC-4 5.30.2", &["overwriting::a_sanitize_overwrites_durably"]),
        row(
            "SANITIZE: EXIT FAILURE MODE",
            "SBC-4 5.30.5",
            &["overwriting::a_sanitize_that_failed_is_left_or_repeated"],
        ),
        row(
            "SANITIZE: errors",
            "SBC-4 5.30.2.2",
            &["overwriting::sanitizes_that_make_no_sense_are_refused"],
        ),
        row(
            "NOT READY: SANITIZE IN PROGRESS",
            "SBC-4 4.11.2",
            &["overwriting::others_are_told_how_far_a_sanitize_is"],
        ),
    ],
};

pub(super) const RESERVATIONS: Group = Group {
    title: "Persistent reservations",
    prefix: "",
    items: None,
    rows: &[
        row(
            "PERSISTENT RESERVE IN: READ KEYS",
            "SPC-5 6.15.2",
            &["reservations::keys_are_registered_changed_and_taken_back"],
        ),
        row(
            "PERSISTENT RESERVE IN: READ RESERVATION",
            "SPC-5 6.15.3",
            &["reservations::each_type_lets_in_whom_it_says"],
        ),
        row(
            "PERSISTENT RESERVE IN: REPORT CAPABILITIES",
            "SPC-5 6.15.4",
            &["reservations::capabilities_have_their_golden_bytes"],
        ),
        row(
            "PERSISTENT RESERVE IN: READ FULL STATUS",
            "SPC-5 6.15.5",
            &["reservations::the_full_status_names_everybody"],
        ),
        row(
            "PERSISTENT RESERVE OUT: REGISTER",
            "SPC-5 6.16.2",
            &["reservations::keys_are_registered_changed_and_taken_back"],
        ),
        row(
            "PERSISTENT RESERVE OUT: REGISTER AND IGNORE EXISTING KEY",
            "SPC-5 6.16.2",
            &["reservations::keys_are_registered_changed_and_taken_back"],
        ),
        row(
            "PERSISTENT RESERVE OUT: SPEC_I_PT, ALL_TG_PT",
            "SPC-5 6.16.3",
            &["reservations::a_registration_may_be_for_other_ports_too"],
        ),
        row(
            "PERSISTENT RESERVE OUT: RESERVE",
            "SPC-5 5.14.9",
            &["reservations::each_type_lets_in_whom_it_says"],
        ),
        row(
            "PERSISTENT RESERVE OUT: RELEASE",
            "SPC-5 5.14.11.2.2",
            &["reservations::only_the_holder_releases"],
        ),
        row(
            "PERSISTENT RESERVE OUT: CLEAR",
            "SPC-5 5.14.11.2.9",
            &["reservations::a_clear_takes_everything"],
        ),
        row(
            "PERSISTENT RESERVE OUT: PREEMPT",
            "SPC-5 5.14.11.2.6",
            &["reservations::a_preempt_takes_registrations_and_the_reservation"],
        ),
        row(
            "PERSISTENT RESERVE OUT: PREEMPT AND ABORT",
            "SPC-5 5.14.11.2.7",
            &["reservations::preempt_and_abort_ends_commands_first"],
        ),
        row(
            "PERSISTENT RESERVE OUT: REGISTER AND MOVE",
            "SPC-5 5.14.8",
            &["reservations::a_reservation_can_be_moved"],
        ),
        row(
            "PERSISTENT RESERVE OUT: APTPL",
            "SPC-5 5.14.5",
            &["reservations::what_is_to_survive_a_power_loss_does"],
        ),
        row(
            "PERSISTENT RESERVE: errors",
            "SPC-5 6.15, 6.16",
            &["reservations::what_makes_no_sense_is_refused"],
        ),
    ],
};
