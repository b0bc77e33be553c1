//! The SD host controller, SD cards and eMMC devices.

use spindle_tests::coverage::{Group, Items, Page, row};

/// The page.
pub const PAGE: Page = Page {
    name: "sd",
    title: "SD host controller, SD cards, eMMC",
    specification: "SD Host Controller 3.00 where nothing else is said, SD Physical Layer 6.00 (SD) and \
                    JESD84-B51 (eMMC)",
    tests: &["devices/tests/sdhci", "devices/src/sd/tests.rs"],
    groups: &[REGISTERS, NORMAL, ERRORS, STATUS, CARDS],
};

const REGISTERS: Group = Group {
    title: "Registers",
    prefix: "",
    items: Some(Items {
        file: "devices/src/sdhci/regs/table.rs",
        container: "enum Name",
        except: &[],
        short: &[],
    }),
    rows: &[
        row(
            "SDMA address",
            "2.2.1",
            &[
                "transfers::a_boundary_may_cut_a_block",
                "registers::every_width_and_alignment_writes_the_bits_that_can_be_written",
            ],
        ),
        row("Block size", "2.2.2", &["errors::blocks_of_another_length_are_noticed"]),
        row("Block count", "2.2.3", &["transfers::a_transfer_is_ended_by_a_count_or_by_a_stop"]),
        row(
            "Argument",
            "2.2.4",
            &["registers::every_width_and_alignment_writes_the_bits_that_can_be_written"],
        ),
        row(
            "Transfer mode",
            "2.2.5",
            &[
                "transfers::a_transfer_is_ended_by_a_count_or_by_a_stop",
                "transfers::a_transfer_without_a_count_goes_on_until_it_is_stopped",
            ],
        ),
        row("Command", "2.2.6", &["errors::responses_are_checked_as_the_command_register_says"]),
        row("Response 0", "2.2.7", &["cards::long_responses_lie_in_the_words_as_they_should"]),
        row("Response 1", "2.2.7", &["cards::long_responses_lie_in_the_words_as_they_should"]),
        row("Response 2", "2.2.7", &["cards::long_responses_lie_in_the_words_as_they_should"]),
        row(
            "Response 3",
            "2.2.7",
            &[
                "cards::long_responses_lie_in_the_words_as_they_should",
                "transfers::a_transfer_is_ended_by_a_count_or_by_a_stop",
            ],
        ),
        row("Buffer port", "2.2.8", &["transfers::odd_widths_at_the_data_port_take_as_many_bytes"]),
        row(
            "Present state",
            "2.2.9",
            &[
                "registers::registers_have_their_values_after_a_reset",
                "interrupts::insertion_and_removal_are_told",
            ],
        ),
        row(
            "Host control",
            "2.2.10",
            &[
                "registers::the_card_detect_test_level_replaces_the_pin",
                "cards::card_and_controller_have_to_agree_on_the_lines",
            ],
        ),
        row("Power control", "2.2.11", &["registers::power_needs_a_card"]),
        row(
            "Block gap",
            "2.2.12",
            &[
                "transfers::a_transfer_stops_at_the_gap_and_goes_on",
                "registers::a_continue_request_clears_itself",
            ],
        ),
        row(
            "Wakeup",
            "2.2.13",
            &["registers::every_width_and_alignment_writes_the_bits_that_can_be_written"],
        ),
        row("Clock", "2.2.14", &["registers::the_clock_is_stable_when_it_runs"]),
        row(
            "Timeout",
            "2.2.15",
            &["registers::every_width_and_alignment_writes_the_bits_that_can_be_written"],
        ),
        row(
            "Software reset",
            "2.2.16",
            &["lifecycle::a_reset_is_over_only_when_nothing_can_touch_memory"],
        ),
        row("Normal status", "2.2.17", &["interrupts::the_wire_is_status_and_signal"]),
        row("Error status", "2.2.18", &["registers::errors_can_be_forced"]),
        row("Normal enable", "2.2.19", &["interrupts::what_is_not_enabled_is_not_latched"]),
        row("Error enable", "2.2.20", &["registers::errors_can_be_forced"]),
        row("Normal signal", "2.2.21", &["interrupts::the_wire_is_status_and_signal"]),
        row(
            "Error signal",
            "2.2.22",
            &["registers::every_width_and_alignment_writes_the_bits_that_can_be_written"],
        ),
        row("Auto error", "2.2.23", &["registers::errors_can_be_forced"]),
        row(
            "Host control 2",
            "2.2.24",
            &["cards::signals_change_to_1_8_v_and_tuning_finds_the_clock"],
        ),
        row("Capabilities", "2.2.25", &["registers::versions_have_what_they_had"]),
        row("Max current", "2.2.26", &["registers::registers_have_their_values_after_a_reset"]),
        row("Force auto error", "2.2.27", &["registers::errors_can_be_forced"]),
        row("Force error", "2.2.28", &["registers::errors_can_be_forced"]),
        row("ADMA error", "2.2.30", &["transfers::wrong_tables_are_errors_and_never_more"]),
        row(
            "ADMA address",
            "2.2.31",
            &["transfers::descriptors_of_every_shape_describe_the_same_memory"],
        ),
        row("Preset init", "2.2.32", &["registers::registers_have_their_values_after_a_reset"]),
        row("Preset default", "2.2.32", &["registers::preset_values_set_the_divider"]),
        row("Preset high speed", "2.2.32", &["registers::preset_values_set_the_divider"]),
        row("Preset SDR12", "2.2.32", &["registers::registers_have_their_values_after_a_reset"]),
        row("Preset SDR25", "2.2.32", &["registers::registers_have_their_values_after_a_reset"]),
        row("Preset SDR50", "2.2.32", &["registers::preset_values_set_the_divider"]),
        row("Preset SDR104", "2.2.32", &["registers::registers_have_their_values_after_a_reset"]),
        row("Preset DDR50", "2.2.32", &["registers::registers_have_their_values_after_a_reset"]),
        row("Slot interrupt", "2.2.34", &["interrupts::the_wire_is_status_and_signal"]),
        row("Version", "2.2.35", &["registers::versions_have_what_they_had"]),
    ],
};

const NORMAL: Group = Group {
    title: "Normal interrupt status",
    prefix: "",
    items: Some(Items {
        file: "devices/src/sdhci/spec.rs",
        container: "mod normal",
        except: &[],
        short: &[],
    }),
    rows: &[
        row("Command", "2.2.17", &["interrupts::the_wire_is_status_and_signal"]),
        row("Transfer", "2.2.17", &["interrupts::command_and_data_are_told_by_one_interrupt"]),
        row("Gap", "2.2.17", &["transfers::a_transfer_stops_at_the_gap_and_goes_on"]),
        row(
            "DMA",
            "2.2.17",
            &[
                "transfers::links_are_followed_and_interrupts_are_asked_for",
                "transfers::a_boundary_may_cut_a_block",
            ],
        ),
        row("Write ready", "2.2.17", &["transfers::blocks_go_and_come_by_every_way"]),
        row(
            "Read ready",
            "2.2.17",
            &[
                "transfers::blocks_go_and_come_by_every_way",
                "cards::signals_change_to_1_8_v_and_tuning_finds_the_clock",
            ],
        ),
        row("Insertion", "2.2.17", &["interrupts::insertion_and_removal_are_told"]),
        row("Removal", "2.2.17", &["interrupts::insertion_and_removal_are_told"]),
        row(
            "Error",
            "2.2.17",
            &[
                "interrupts::an_error_is_summed_up_in_the_normal_status",
                "registers::errors_can_be_forced",
            ],
        ),
    ],
};

const ERRORS: Group = Group {
    title: "Error interrupt status",
    prefix: "",
    items: Some(Items {
        file: "devices/src/sdhci/spec.rs",
        container: "mod error",
        except: &[],
        short: &[],
    }),
    rows: &[
        row(
            "Command timeout",
            "2.2.18",
            &["errors::responses_are_checked_as_the_command_register_says"],
        ),
        row(
            "Command CRC",
            "2.2.18",
            &["errors::responses_are_checked_as_the_command_register_says"],
        ),
        row(
            "Command end",
            "2.2.18",
            &["errors::responses_are_checked_as_the_command_register_says"],
        ),
        row(
            "Command index",
            "2.2.18",
            &["errors::responses_are_checked_as_the_command_register_says"],
        ),
        row(
            "Data timeout",
            "2.2.18",
            &[
                "errors::errors_below_are_told_by_card_and_controller",
                "errors::blocks_of_another_length_are_noticed",
            ],
        ),
        row(
            "Data CRC",
            "2.2.18",
            &[
                "errors::errors_below_are_told_by_card_and_controller",
                "errors::blocks_of_another_length_are_noticed",
            ],
        ),
        row("Auto", "2.2.18", &["registers::errors_can_be_forced"]),
        row("ADMA", "2.2.18", &["transfers::wrong_tables_are_errors_and_never_more"]),
        row("Target", "2.2.18", &["transfers::wrong_tables_are_errors_and_never_more"]),
    ],
};

const STATUS: Group = Group {
    title: "Card status",
    prefix: "",
    items: Some(Items {
        file: "devices/src/sd/spec.rs",
        container: "mod status",
        except: &["STATE_SHIFT", "EXCEPTION_EVENT"],
        short: &[],
    }),
    rows: &[
        row("OUT_OF_RANGE", "SD 4.10.1, eMMC 6.13", &["tests::addresses_are_checked"]),
        row("ADDRESS_ERROR", "SD 4.10.1, eMMC 6.13", &["tests::addresses_are_checked"]),
        row("BLOCK_LEN_ERROR", "SD 4.10.1, eMMC 6.13", &["tests::addresses_are_checked"]),
        row("ERASE_SEQ_ERROR", "SD 4.10.1, eMMC 6.13", &["tests::an_erase_is_a_sequence"]),
        row("ERASE_PARAM", "SD 4.10.1, eMMC 6.13", &["tests::an_erase_is_a_sequence"]),
        row(
            "WP_VIOLATION",
            "SD 4.10.1, eMMC 6.13",
            &["tests::protected_groups_are_neither_written_nor_erased"],
        ),
        row("CARD_IS_LOCKED", "SD 4.10.1, eMMC 6.13", &["tests::a_password_locks_the_card"]),
        row("LOCK_UNLOCK_FAILED", "SD 4.10.1, eMMC 6.13", &["tests::a_password_locks_the_card"]),
        row(
            "ILLEGAL_COMMAND",
            "SD 4.10.1, eMMC 6.13",
            &["tests::a_card_is_identified_step_by_step"],
        ),
        row(
            "CARD_ECC_FAILED",
            "SD 4.10.1, eMMC 6.13",
            &["errors::errors_below_are_told_by_card_and_controller"],
        ),
        row(
            "CC_ERROR",
            "SD 4.10.1, eMMC 6.13",
            &["errors::errors_below_are_told_by_card_and_controller"],
        ),
        row(
            "ERROR",
            "SD 4.10.1, eMMC 6.13",
            &["errors::errors_below_are_told_by_card_and_controller"],
        ),
        row(
            "CSD_OVERWRITE",
            "SD 4.10.1, eMMC 6.13",
            &["tests::a_csd_is_programmed_where_it_can_be"],
        ),
        row(
            "WP_ERASE_SKIP",
            "SD 4.10.1, eMMC 6.13",
            &["tests::protected_groups_are_neither_written_nor_erased"],
        ),
        row("ERASE_RESET", "SD 4.10.1, eMMC 6.13", &["tests::an_erase_is_a_sequence"]),
        row("READY_FOR_DATA", "SD 4.10.1, eMMC 6.13", &["tests::an_erase_is_a_sequence"]),
        row(
            "SWITCH_ERROR",
            "SD 4.10.1, eMMC 6.13",
            &["tests::switches_follow_the_rules_of_their_fields"],
        ),
        row("APP_CMD", "SD 4.10.1, eMMC 6.13", &["tests::a_card_is_identified_step_by_step"]),
    ],
};

const CARDS: Group = Group {
    title: "Cards",
    prefix: "",
    items: None,
    rows: &[
        row("CID", "SD 5.2, eMMC 7.2", &["tests::registers_are_byte_for_byte_what_they_were"]),
        row(
            "CSD 1.0 and 2.0",
            "SD 5.3",
            &[
                "tests::a_csd_counts_to_the_size",
                "tests::registers_are_byte_for_byte_what_they_were",
            ],
        ),
        row("SCR", "SD 5.6", &["tests::registers_are_byte_for_byte_what_they_were"]),
        row("SD status", "SD 4.10.2", &["transfers::registers_of_the_card_come_as_data"]),
        row("CMD6 functions", "SD 4.3.10", &["tests::functions_switch_together_or_not_at_all"]),
        row("CMD11", "SD 4.2.4", &["cards::signals_change_to_1_8_v_and_tuning_finds_the_clock"]),
        row("CMD23", "SD 4.3.14", &["tests::a_block_count_ends_a_transfer"]),
        row("erase and discard", "SD 4.3.5", &["cards::an_erase_reaches_the_image"]),
        row(
            "write protect groups",
            "SD 4.3.6",
            &["cards::a_write_to_a_protected_group_fails_half_way"],
        ),
        row("CMD42", "SD 4.3.7", &["cards::a_password_is_a_block_of_data"]),
        row(
            "EXT_CSD",
            "eMMC 7.4",
            &[
                "tests::ext_csd_says_what_there_is",
                "tests::switches_follow_the_rules_of_their_fields",
            ],
        ),
        row(
            "boot partitions",
            "eMMC 6.3",
            &[
                "emmc::partitions_lie_in_the_image_one_after_the_other",
                "tests::boot_partitions_can_be_protected_until_power_is_off",
            ],
        ),
        row(
            "general purpose partitions",
            "eMMC 6.2",
            &["tests::general_purpose_partitions_come_with_the_next_power_on"],
        ),
        row(
            "command queuing",
            "eMMC 6.6.39",
            &[
                "emmc::queued_transfers_are_executed_by_number",
                "emmc::a_queue_refuses_what_is_not_queued",
                "emmc::a_reset_ends_the_queue",
            ],
        ),
        row(
            "HS400, enhanced strobe",
            "eMMC 6.6.2.3",
            &["emmc::hs400_has_eight_lines_at_double_data_rate"],
        ),
        row("RPMB", "eMMC 6.6.22", &["emmc::the_rpmb_takes_what_is_authentic_and_counts_it"]),
        row(
            "cache, flush, sanitize, power off notification",
            "eMMC 6.6.19, 6.6.31, 6.6.39",
            &["tests::the_cache_is_flushed_when_it_is_to_be"],
        ),
        row(
            "high priority interrupt",
            "eMMC 6.6.23",
            &["tests::an_interrupt_of_high_priority_ends_an_erase"],
        ),
        row(
            "bus test and tuning",
            "eMMC 6.6.4, 6.6.5",
            &["emmc::eight_lines_are_tested_tuned_and_used"],
        ),
    ],
};
