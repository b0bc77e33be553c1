//! What sense data say.

use spindle_tests::coverage::{Group, Items, row};

use super::SPEC;

pub(super) const KEYS: Group = Group {
    title: "Sense keys",
    prefix: "",
    items: Some(Items { file: SPEC, container: "mod key", except: &[], short: &[] }),
    rows: &[
        row("NO SENSE", "SPC-5 4.4.8", &["identity::request_sense_answers_in_both_formats"]),
        row(
            "NOT READY",
            "SPC-5 4.4.8",
            &["drives::an_empty_drive_is_not_ready", "drives::the_tray_opens_and_closes"],
        ),
        row(
            "MEDIUM ERROR",
            "SPC-5 4.4.8",
            &[
                "errors::every_error_has_its_sense_data",
                "overwriting::a_sanitize_that_failed_is_left_or_repeated",
            ],
        ),
        row(
            "HARDWARE ERROR",
            "SPC-5 4.4.8",
            &[
                "errors::every_error_has_its_sense_data",
                "reservations::what_cannot_be_stored_is_an_error",
            ],
        ),
        row(
            "ILLEGAL REQUEST",
            "SPC-5 4.4.8",
            &[
                "adapter::units_have_their_addresses",
                "adapter::a_target_answers_for_units_that_it_does_not_have",
            ],
        ),
        row(
            "UNIT ATTENTION",
            "SPC-5 4.4.8",
            &[
                "attention::the_first_command_learns_of_the_power_on",
                "attention::an_invalid_command_learns_of_it_too_and_request_sense_takes_it",
            ],
        ),
        row(
            "DATA PROTECT",
            "SPC-5 4.4.8",
            &[
                "errors::every_error_has_its_sense_data",
                "modes::software_write_protection_protects",
            ],
        ),
        row("ABORTED COMMAND", "SPC-5 4.4.8", &["errors::every_error_has_its_sense_data"]),
        row(
            "MISCOMPARE",
            "SPC-5 4.4.8",
            &[
                "provisioning::verify_compares_as_asked",
                "provisioning::compare_and_write_does_both_or_neither",
            ],
        ),
    ],
};

pub(super) const CODES: Group = Group {
    title: "Additional sense codes",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod asc",
        except: &[],
        short: &[
            ("NONE", "NO ADDITIONAL SENSE INFORMATION"),
            (
                "NOT_READY_INITIALIZING_REQUIRED",
                "LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED",
            ),
            ("NOT_READY_FORMAT", "LOGICAL UNIT NOT READY, FORMAT IN PROGRESS"),
            ("NOT_READY_SANITIZE", "LOGICAL UNIT NOT READY, SANITIZE IN PROGRESS"),
            ("PARAMETER_LIST_LENGTH", "PARAMETER LIST LENGTH ERROR"),
            ("MISCOMPARE", "MISCOMPARE DURING VERIFY OPERATION"),
            ("INVALID_OPCODE", "INVALID COMMAND OPERATION CODE"),
            ("LBA_OUT_OF_RANGE", "LOGICAL BLOCK ADDRESS OUT OF RANGE"),
            ("LUN_NOT_SUPPORTED", "LOGICAL UNIT NOT SUPPORTED"),
            ("INVALID_FIELD_IN_PARAMETERS", "INVALID FIELD IN PARAMETER LIST"),
            ("INVALID_RELEASE", "INVALID RELEASE OF PERSISTENT RESERVATION"),
            ("SPACE_ALLOCATION_FAILED", "SPACE ALLOCATION FAILED WRITE PROTECT"),
            ("MEDIUM_CHANGED", "NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED"),
            ("POWER_ON", "POWER ON OCCURRED"),
            ("DEVICE_RESET", "BUS DEVICE RESET FUNCTION OCCURRED"),
            ("NEXUS_LOSS", "I_T NEXUS LOSS OCCURRED"),
            ("MODE_CHANGED", "MODE PARAMETERS CHANGED"),
            ("LOG_CHANGED", "LOG PARAMETERS CHANGED"),
            ("CAPACITY_CHANGED", "CAPACITY DATA HAS CHANGED"),
            ("COMMANDS_CLEARED", "COMMANDS CLEARED BY ANOTHER INITIATOR"),
            ("INCOMPATIBLE_MEDIUM", "INCOMPATIBLE MEDIUM INSTALLED"),
            ("SANITIZE_FAILED", "SANITIZE COMMAND FAILED"),
            ("FORMAT_FAILED", "FORMAT COMMAND FAILED"),
            ("SAVING_NOT_SUPPORTED", "SAVING PARAMETERS NOT SUPPORTED"),
            ("NO_MEDIUM", "MEDIUM NOT PRESENT"),
            ("NO_MEDIUM_TRAY_OPEN", "MEDIUM NOT PRESENT - TRAY OPEN"),
            ("LUNS_CHANGED", "REPORTED LUNS DATA HAS CHANGED"),
            ("INTERNAL_FAILURE", "INTERNAL TARGET FAILURE"),
            ("REMOVAL_PREVENTED", "MEDIUM REMOVAL PREVENTED"),
            ("INSUFFICIENT_REGISTRATIONS", "INSUFFICIENT REGISTRATION RESOURCES"),
            ("OPERATOR_REMOVAL_REQUEST", "OPERATOR MEDIUM REMOVAL REQUEST"),
            ("ILLEGAL_TRACK_MODE", "ILLEGAL MODE FOR THIS TRACK"),
        ],
    }),
    rows: &[
        row(
            "NO ADDITIONAL SENSE INFORMATION",
            "SPC-5 F.2: 00h/00h",
            &["identity::request_sense_answers_in_both_formats"],
        ),
        row(
            "LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED",
            "SPC-5 F.2: 04h/02h",
            &[
                "modes::a_stopped_unit_is_not_ready",
                "modes::a_reset_of_every_adapter_is_a_power_on",
            ],
        ),
        row(
            "LOGICAL UNIT NOT READY, FORMAT IN PROGRESS",
            "SPC-5 F.2: 04h/04h",
            &["overwriting::a_format_goes_on_in_the_background"],
        ),
        row(
            "LOGICAL UNIT NOT READY, SANITIZE IN PROGRESS",
            "SPC-5 F.2: 04h/1Bh",
            &["overwriting::others_are_told_how_far_a_sanitize_is"],
        ),
        row("WRITE ERROR", "SPC-5 F.2: 0Ch/00h", &["errors::every_error_has_its_sense_data"]),
        row(
            "UNRECOVERED READ ERROR",
            "SPC-5 F.2: 11h/00h",
            &["errors::every_error_has_its_sense_data"],
        ),
        row(
            "PARAMETER LIST LENGTH ERROR",
            "SPC-5 F.2: 1Ah/00h",
            &[
                "modes::mode_select_changes_all_or_nothing",
                "overwriting::formats_that_make_no_sense_are_refused",
            ],
        ),
        row(
            "MISCOMPARE DURING VERIFY OPERATION",
            "SPC-5 F.2: 1Dh/00h",
            &[
                "provisioning::verify_compares_as_asked",
                "provisioning::compare_and_write_does_both_or_neither",
            ],
        ),
        row(
            "INVALID COMMAND OPERATION CODE",
            "SPC-5 F.2: 20h/00h",
            &[
                "adapter::units_have_their_addresses",
                "attention::an_invalid_command_learns_of_it_too_and_request_sense_takes_it",
            ],
        ),
        row(
            "LOGICAL BLOCK ADDRESS OUT OF RANGE",
            "SPC-5 F.2: 21h/00h",
            &["drives::a_disc_is_read_in_blocks_of_2048_bytes", "drives::read_cd_reads_user_data"],
        ),
        row(
            "INVALID FIELD IN CDB",
            "SPC-5 F.2: 24h/00h",
            &["adapter::units_have_their_addresses", "drives::read_cd_reads_user_data"],
        ),
        row(
            "LOGICAL UNIT NOT SUPPORTED",
            "SPC-5 F.2: 25h/00h",
            &["adapter::a_target_answers_for_units_that_it_does_not_have"],
        ),
        row(
            "INVALID FIELD IN PARAMETER LIST",
            "SPC-5 F.2: 26h/00h",
            &[
                "modes::mode_select_changes_all_or_nothing",
                "overwriting::formats_that_make_no_sense_are_refused",
            ],
        ),
        row(
            "INVALID RELEASE OF PERSISTENT RESERVATION",
            "SPC-5 F.2: 26h/04h",
            &["reservations::only_the_holder_releases"],
        ),
        row(
            "WRITE PROTECTED",
            "SPC-5 F.2: 27h/00h",
            &[
                "errors::every_error_has_its_sense_data",
                "modes::software_write_protection_protects",
            ],
        ),
        row(
            "SPACE ALLOCATION FAILED WRITE PROTECT",
            "SPC-5 F.2: 27h/07h",
            &["errors::every_error_has_its_sense_data"],
        ),
        row(
            "NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED",
            "SPC-5 F.2: 28h/00h",
            &["drives::the_tray_opens_and_closes"],
        ),
        row(
            "POWER ON OCCURRED",
            "SPC-5 F.2: 29h/01h",
            &[
                "attention::the_first_command_learns_of_the_power_on",
                "attention::an_invalid_command_learns_of_it_too_and_request_sense_takes_it",
            ],
        ),
        row(
            "BUS DEVICE RESET FUNCTION OCCURRED",
            "SPC-5 F.2: 29h/03h",
            &[
                "attention::a_reset_comes_before_everything_else",
                "functions::a_unit_reset_ends_the_commands_of_other_adapters_too",
            ],
        ),
        row(
            "I_T NEXUS LOSS OCCURRED",
            "SPC-5 F.2: 29h/07h",
            &["attention::a_reset_comes_before_everything_else"],
        ),
        row(
            "MODE PARAMETERS CHANGED",
            "SPC-5 F.2: 2Ah/01h",
            &["attention::others_learn_of_changed_modes"],
        ),
        row("LOG PARAMETERS CHANGED", "SPC-5 F.2: 2Ah/02h", &["identity::log_pages_are_reset"]),
        row(
            "RESERVATIONS PREEMPTED",
            "SPC-5 F.2: 2Ah/03h",
            &["reservations::a_clear_takes_everything"],
        ),
        row(
            "RESERVATIONS RELEASED",
            "SPC-5 F.2: 2Ah/04h",
            &[
                "reservations::only_the_holder_releases",
                "reservations::a_preempt_takes_registrations_and_the_reservation",
            ],
        ),
        row(
            "REGISTRATIONS PREEMPTED",
            "SPC-5 F.2: 2Ah/05h",
            &[
                "reservations::a_preempt_takes_registrations_and_the_reservation",
                "reservations::preempt_and_abort_ends_commands_first",
            ],
        ),
        row(
            "CAPACITY DATA HAS CHANGED",
            "SPC-5 F.2: 2Ah/09h",
            &["attention::a_resize_is_told_once"],
        ),
        row(
            "COMMANDS CLEARED BY ANOTHER INITIATOR",
            "SPC-5 F.2: 2Fh/00h",
            &["functions::a_unit_reset_ends_the_commands_of_other_adapters_too"],
        ),
        row(
            "INCOMPATIBLE MEDIUM INSTALLED",
            "SPC-5 F.2: 30h/00h",
            &["drives::a_dvd_has_structures_and_a_cd_has_none"],
        ),
        row(
            "SANITIZE COMMAND FAILED",
            "SPC-5 F.2: 31h/03h",
            &["overwriting::a_sanitize_that_failed_is_left_or_repeated"],
        ),
        row(
            "FORMAT COMMAND FAILED",
            "SPC-5 F.2: 31h/01h",
            &["overwriting::a_format_that_failed_says_so"],
        ),
        row(
            "SAVING PARAMETERS NOT SUPPORTED",
            "SPC-5 F.2: 39h/00h",
            &["modes::mode_sense_refuses_what_there_is_not"],
        ),
        row("MEDIUM NOT PRESENT", "SPC-5 F.2: 3Ah/00h", &["drives::an_empty_drive_is_not_ready"]),
        row(
            "MEDIUM NOT PRESENT - TRAY OPEN",
            "SPC-5 F.2: 3Ah/02h",
            &["drives::the_tray_opens_and_closes"],
        ),
        row(
            "REPORTED LUNS DATA HAS CHANGED",
            "SPC-5 F.2: 3Fh/0Eh",
            &["lifecycle::the_other_units_of_a_target_tell_of_newcomers"],
        ),
        row(
            "INTERNAL TARGET FAILURE",
            "SPC-5 F.2: 44h/00h",
            &[
                "errors::every_error_has_its_sense_data",
                "reservations::what_cannot_be_stored_is_an_error",
            ],
        ),
        row(
            "MEDIUM REMOVAL PREVENTED",
            "SPC-5 F.2: 53h/02h",
            &["drives::a_locked_tray_opens_only_by_force"],
        ),
        row(
            "INSUFFICIENT REGISTRATION RESOURCES",
            "SPC-5 F.2: 55h/04h",
            &["reservations::a_full_table_takes_no_more"],
        ),
        row(
            "OPERATOR MEDIUM REMOVAL REQUEST",
            "SPC-5 F.2: 5Ah/01h",
            &["drives::a_locked_tray_opens_only_by_force"],
        ),
        row(
            "ILLEGAL MODE FOR THIS TRACK",
            "SPC-5 F.2: 64h/00h",
            &["drives::read_cd_reads_user_data"],
        ),
    ],
};
