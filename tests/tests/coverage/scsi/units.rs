//! What all units do, and what drives do.

use spindle_tests::coverage::{Group, row};

pub(super) const IDENTITY: Group = Group {
    title: "Identification",
    prefix: "",
    items: None,
    rows: &[
        row("INQUIRY", "SPC-5 6.7", &["identity::standard_inquiry_data_have_their_golden_bytes"]),
        row(
            "INQUIRY: VPD 00h, 80h, 83h, 86h",
            "SPC-5 7.7",
            &["identity::vital_product_data_have_their_golden_bytes"],
        ),
        row(
            "INQUIRY: VPD B0h, B1h, B2h",
            "SBC-4 6.6",
            &["identity::pages_of_block_devices_have_their_golden_bytes"],
        ),
        row(
            "INQUIRY: INVALID FIELD IN CDB",
            "SPC-5 6.7.1",
            &["identity::inquiry_refuses_what_there_is_not"],
        ),
        row(
            "READ CAPACITY(10), (16)",
            "SBC-4 5.20, 5.21",
            &["identity::the_capacity_is_told_in_both_forms"],
        ),
        row("REQUEST SENSE", "SPC-5 6.39", &["identity::request_sense_answers_in_both_formats"]),
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
        row("LOG SENSE", "SPC-5 6.8", &["identity::log_pages_are_reported"]),
        row(
            "INVALID COMMAND OPERATION CODE",
            "SPC-5 4.4",
            &["identity::what_is_no_command_is_refused"],
        ),
    ],
};

pub(super) const MODES: Group = Group {
    title: "Modes and the state of a unit",
    prefix: "",
    items: None,
    rows: &[
        row("MODE SENSE(6), (10)", "SPC-5 6.11, 6.12", &["modes::pages_have_their_golden_bytes"]),
        row("MODE SENSE: errors", "SPC-5 6.11", &["modes::mode_sense_refuses_what_there_is_not"]),
        row("MODE SELECT(6), (10)", "SPC-5 6.9, 6.10", &["modes::the_write_cache_can_be_switched"]),
        row(
            "MODE SELECT: SP, saved pages",
            "SPC-5 5.9, 6.9",
            &["modes::saved_pages_outlive_a_reset_and_a_power_loss"],
        ),
        row("MODE SELECT: errors", "SPC-5 6.9", &["modes::mode_select_changes_all_or_nothing"]),
        row(
            "Control mode page: D_SENSE, SWP",
            "SPC-5 7.5.8",
            &["modes::software_write_protection_protects"],
        ),
        row("START STOP UNIT", "SBC-4 5.31", &["modes::a_stopped_unit_is_not_ready"]),
        row("PREVENT ALLOW MEDIUM REMOVAL", "SBC-4 5.17", &["modes::removal_may_be_prevented"]),
    ],
};

pub(super) const DRIVES: Group = Group {
    title: "CD and DVD drives",
    prefix: "",
    items: None,
    rows: &[
        row(
            "READ(10), READ(12)",
            "MMC-6 6.18, 6.19",
            &["drives::a_disc_is_read_in_blocks_of_2048_bytes"],
        ),
        row("READ CD", "MMC-6 6.20", &["drives::read_cd_reads_user_data"]),
        row(
            "READ TOC/PMA/ATIP",
            "MMC-6 6.25",
            &["drives::tables_of_contents_have_their_golden_bytes"],
        ),
        row("GET CONFIGURATION", "MMC-6 6.5", &["drives::features_follow_the_disc"]),
        row("GET EVENT STATUS NOTIFICATION", "MMC-6 6.6", &["drives::the_tray_opens_and_closes"]),
        row("READ DISC INFORMATION", "MMC-6 6.21", &["drives::a_disc_is_described"]),
        row("READ TRACK INFORMATION", "MMC-6 6.26", &["drives::a_disc_is_described"]),
        row(
            "READ DISC STRUCTURE",
            "MMC-6 6.22",
            &["drives::a_dvd_has_structures_and_a_cd_has_none"],
        ),
        row("MECHANISM STATUS", "MMC-6 6.11", &["drives::the_tray_opens_and_closes"]),
        row("START STOP UNIT: LOEJ", "MMC-6 6.42", &["drives::the_tray_opens_and_closes"]),
        row(
            "PREVENT ALLOW MEDIUM REMOVAL",
            "MMC-6 6.13",
            &["drives::a_locked_tray_opens_only_by_force"],
        ),
        row("NOT READY: MEDIUM NOT PRESENT", "MMC-6 4.1", &["drives::an_empty_drive_is_not_ready"]),
        row("MODE SENSE: capabilities", "MMC-6 E.3", &["drives::modes_have_their_golden_bytes"]),
    ],
};

pub(super) const FUNCTIONS: Group = Group {
    title: "Task management functions",
    prefix: "",
    items: None,
    rows: &[
        row(
            "ABORT TASK",
            "SAM-5 7.2",
            &["functions::an_aborted_command_is_answered_before_the_function"],
        ),
        row(
            "Task attributes: SIMPLE, ORDERED, HEAD OF QUEUE",
            "SAM-5 8.9",
            &[
                "attributes::an_ordered_command_waits_for_the_older_and_the_younger_for_it",
                "attributes::commands_that_wait_for_their_turn_are_ended_by_functions_and_resets",
                "attributes::a_reset_with_commands_in_line_leaves_no_line",
                "attributes::random_attributes_on_all_queues_end_all_and_keep_the_order",
            ],
        ),
        row(
            "ABORT TASK SET",
            "SAM-5 7.3",
            &["functions::a_function_ends_what_it_names_and_nothing_else"],
        ),
        row("CLEAR ACA", "SAM-5 7.4", &["functions::functions_for_nobody_are_refused"]),
        row(
            "CLEAR TASK SET",
            "SAM-5 7.5",
            &["functions::a_function_ends_what_it_names_and_nothing_else"],
        ),
        row(
            "I_T NEXUS RESET",
            "SAM-5 7.6",
            &["functions::a_function_ends_what_it_names_and_nothing_else"],
        ),
        row(
            "LOGICAL UNIT RESET",
            "SAM-5 7.7",
            &["functions::a_function_ends_what_it_names_and_nothing_else"],
        ),
        row("QUERY TASK", "SAM-5 7.8", &["functions::queries_tell_what_is_under_way"]),
        row("QUERY TASK SET", "SAM-5 7.9", &["functions::queries_tell_what_is_under_way"]),
    ],
};

pub(super) const ATTENTION: Group = Group {
    title: "Unit attentions",
    prefix: "",
    items: None,
    rows: &[
        row(
            "UNIT ATTENTION: POWER ON",
            "SAM-5 5.14",
            &["attention::the_first_command_learns_of_the_power_on"],
        ),
        row(
            "UNIT ATTENTION: BUS DEVICE RESET",
            "SAM-5 6.3.3",
            &["attention::a_reset_comes_before_everything_else"],
        ),
        row(
            "UNIT ATTENTION: I_T NEXUS LOSS",
            "SAM-5 6.3.4",
            &["attention::a_reset_comes_before_everything_else"],
        ),
        row(
            "UNIT ATTENTION: CAPACITY CHANGED",
            "SBC-4 4.10",
            &["attention::a_resize_is_told_once"],
        ),
        row(
            "UNIT ATTENTION: MODE PARAMETERS CHANGED",
            "SPC-5 5.9",
            &["attention::others_learn_of_changed_modes"],
        ),
    ],
};

pub(super) const ERRORS: Group = Group {
    title: "Errors of the medium",
    prefix: "",
    items: None,
    rows: &[
        row("MEDIUM ERROR", "SBC-4 4.18", &["errors::every_error_has_its_sense_data"]),
        row(
            "DATA PROTECT: SPACE ALLOCATION FAILED",
            "SBC-4 4.7.3.6",
            &["errors::every_error_has_its_sense_data"],
        ),
    ],
};
