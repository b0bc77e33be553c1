//! IDE: the controller, its channels, and what drives keep.

use spindle_tests::coverage::{Group, Items, Page, row};

const SPEC: &str = "devices/src/ide/spec.rs";
const ATA: &str = "devices/src/ata/spec.rs";

/// The page.
pub const PAGE: Page = Page {
    name: "ide",
    title: "IDE, and what ATA drives keep",
    specification: "ATA-7 volume 2, Programming Interface for Bus Master IDE Controller 1.0 \
                    (BMIDE), the data sheets of PIIX3 and PIIX4, and ACS-3",
    tests: &["devices/tests/ide", "devices/tests/ata"],
    groups: &[
        PORTS, CONTROL, BM_COMMAND, BM_STATUS, CONFIG, TABLES, PROTOCOLS, RARE, SET_MAX, MICROCODE,
        SMART, LOGS, SANITIZE,
    ],
};

const fn of(file: &'static str, container: &'static str) -> Option<Items> {
    Some(Items { file, container, except: &[], short: &[] })
}

const PORTS: Group = Group {
    title: "Ports of a channel",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod port",
        except: &[],
        short: &[
            ("ERROR", "ERROR, FEATURES"),
            ("COMMAND", "STATUS, COMMAND"),
            ("CONTROL", "ALTERNATE STATUS, DEVICE CONTROL"),
        ],
    }),
    rows: &[
        row(
            "DATA",
            "ATA-7 7.7",
            &[
                "pio::the_data_port_has_every_width",
                "pio::the_data_port_wakes_nobody_within_a_block",
                "pio::a_data_port_without_data_reads_as_zero_and_forgets",
            ],
        ),
        row("ERROR, FEATURES", "ATA-7 7.10", &["errors::every_error_below_has_its_bits"]),
        row("COUNT", "ATA-7 7.12", &["registers::registers_hold_what_was_written_before"]),
        row("LBA LOW", "ATA-7 7.13", &["registers::registers_hold_what_was_written_before"]),
        row("LBA MID", "ATA-7 7.14", &["registers::registers_hold_what_was_written_before"]),
        row("LBA HIGH", "ATA-7 7.15", &["registers::registers_hold_what_was_written_before"]),
        row(
            "DEVICE",
            "ATA-7 7.8",
            &[
                "registers::both_drives_take_what_is_written_and_one_answers",
                "probing::drive_0_answers_for_a_drive_1_that_is_not_there",
                "probing::drive_1_does_not_answer_for_a_drive_0_that_is_not_there",
                "probing::an_empty_channel_floats",
            ],
        ),
        row(
            "STATUS, COMMAND",
            "ATA-7 7.6, 7.16",
            &[
                "pio::a_command_is_busy_before_its_write_returns",
                "interrupts::a_command_without_data_interrupts_once",
            ],
        ),
        row(
            "ALTERNATE STATUS, DEVICE CONTROL",
            "ATA-7 7.5, 7.9",
            &["interrupts::a_command_without_data_interrupts_once"],
        ),
    ],
};

const CONTROL: Group = Group {
    title: "DEVICE CONTROL",
    prefix: "",
    items: of(SPEC, "mod control"),
    rows: &[
        row("nIEN", "ATA-7 7.9", &["interrupts::nien_holds_interrupts_back"]),
        row(
            "SRST",
            "ATA-7 7.9, 9.2",
            &[
                "resets::a_software_reset_lasts_as_long_as_its_bit",
                "resets::a_reset_in_the_middle_of_a_read_is_over_when_memory_is_left_alone",
                "resets::a_reset_in_the_middle_of_pio_forgets_the_data",
                "resets::a_reset_reaches_both_drives_of_one_channel",
            ],
        ),
        row("HOB", "ATA-7 7.9", &["registers::registers_hold_what_was_written_before"]),
    ],
};

const BM_COMMAND: Group = Group {
    title: "Bus master command",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod bm_command",
        except: &[],
        short: &[("TO_MEMORY", "READ OR WRITE CONTROL")],
    }),
    rows: &[
        row(
            "START",
            "BMIDE 2.1",
            &[
                "dma::a_command_waits_for_the_bus_master",
                "dma::a_stop_in_the_middle_is_over_when_the_transfer_is",
            ],
        ),
        row(
            "READ OR WRITE CONTROL",
            "BMIDE 2.1",
            &["dma::a_transfer_the_wrong_way_is_an_error_of_the_bus"],
        ),
    ],
};

const BM_STATUS: Group = Group {
    title: "Bus master status",
    prefix: "",
    items: of(SPEC, "mod bm_status"),
    rows: &[
        row(
            "ACTIVE",
            "BMIDE 2.2",
            &[
                "dma::memory_that_is_left_over_leaves_the_bus_master_active",
                "dma::a_table_that_is_too_short_leaves_the_drive_waiting",
            ],
        ),
        row(
            "ERROR",
            "BMIDE 2.2",
            &["dma::tables_and_memory_that_are_not_there_are_errors_of_the_bus"],
        ),
        row("INTERRUPT", "BMIDE 2.2", &["interrupts::a_command_without_data_interrupts_once"]),
        row(
            "DRIVE 0",
            "BMIDE 2.2",
            &["registers::bus_master_registers_have_their_bits_at_every_width"],
        ),
        row(
            "DRIVE 1",
            "BMIDE 2.2",
            &["registers::bus_master_registers_have_their_bits_at_every_width"],
        ),
    ],
};

const CONFIG: Group = Group {
    title: "Configuration space",
    prefix: "",
    items: None,
    rows: &[
        row(
            "Identity, class, BMIBA",
            "PIIX 2.1, 2.2",
            &["registers::the_functions_are_those_of_the_chipset"],
        ),
        row(
            "IDETIM, SIDETIM, UDMACTL, UDMATIM, PIRQRC",
            "PIIX 2.2.11, PIIX4 5.1",
            &[
                "registers::chipset_registers_keep_what_there_is_of_them",
                "registers::ports_are_decoded_as_the_function_is_told",
            ],
        ),
        row("PCICMD", "PIIX 2.2.3", &["dma::a_function_that_may_not_reach_memory_does_not"]),
        row(
            "Function reset",
            "PIIX 2.2",
            &["resets::a_reset_of_the_function_is_as_after_power_on"],
        ),
    ],
};

const TABLES: Group = Group {
    title: "Physical region descriptors",
    prefix: "",
    items: None,
    rows: &[
        row(
            "Any number of regions",
            "BMIDE 1.2",
            &["dma::a_transfer_is_scattered_as_the_table_says"],
        ),
        row(
            "Even addresses and lengths",
            "BMIDE 1.2",
            &["dma::the_lowest_bits_of_address_and_length_do_not_exist"],
        ),
        row("64 KiB of table", "BMIDE 1.2", &["dma::a_table_is_no_longer_than_tables_can_be"]),
        row(
            "A table that is too short",
            "BMIDE 2.2",
            &[
                "dma::a_table_that_is_too_short_leaves_the_drive_waiting",
                "dma::a_write_with_a_short_table_writes_whole_sectors",
            ],
        ),
        row(
            "A table that is too long, or without an end",
            "BMIDE 2.2",
            &["dma::memory_that_is_left_over_leaves_the_bus_master_active"],
        ),
        row(
            "Memory that is not there",
            "BMIDE 2.2",
            &["dma::tables_and_memory_that_are_not_there_are_errors_of_the_bus"],
        ),
    ],
};

const PROTOCOLS: Group = Group {
    title: "Protocols",
    prefix: "",
    items: None,
    rows: &[
        row(
            "PIO, single and MULTIPLE",
            "ATA-7 11.6, 11.7",
            &[
                "pio::every_read_and_write_by_pio_moves_the_same_sectors",
                "pio::blocks_of_multiple_are_as_long_as_they_were_set",
                "interrupts::reads_by_pio_interrupt_with_each_block",
                "interrupts::writes_by_pio_interrupt_after_each_block",
            ],
        ),
        row(
            "Cylinders, heads and sectors",
            "ATA-5 6.2",
            &[
                "pio::cylinders_heads_and_sectors_address_the_same_disk",
                "pio::a_geometry_that_was_given_is_the_one_in_force",
            ],
        ),
        row(
            "DMA",
            "ATA-7 11.8",
            &["dma::both_forms_read_and_write", "dma::both_channels_work_at_once"],
        ),
        row(
            "PACKET",
            "ATA-7 11.9, 11.10",
            &[
                "packet::a_packet_is_asked_for_without_an_interrupt",
                "packet::blocks_are_read_by_pio_in_pieces_as_large_as_the_host_allows",
                "packet::blocks_are_read_by_dma",
                "packet::parameters_go_to_the_drive",
                "packet::a_medium_is_changed",
            ],
        ),
        row("DEVICE RESET", "ATA-7 11.13", &["packet::device_reset_ends_what_the_drive_does"]),
        row(
            "EXECUTE DEVICE DIAGNOSTIC",
            "ATA-7 11.12",
            &["resets::diagnostics_are_those_of_both_drives"],
        ),
    ],
};

const TIMER: &[&str] =
    &["power::a_drive_is_as_awake_as_it_was_told_to_be", "power::a_timer_ends_in_standby"];
const POWER: &[&str] = &["power::a_drive_is_as_awake_as_it_was_told_to_be"];
const PASSWORDS: &[&str] = &[
    "security::a_password_locks_the_drive_with_the_next_power_on",
    "security::the_master_password_opens_unless_the_level_is_maximum",
];
const ERASE: &[&str] = &["security::an_erase_takes_data_and_password"];
const AREA: &[&str] = &["address::a_host_protected_area_hides_the_end_of_the_disk"];

const RARE: Group = Group {
    title: "Commands about what a drive keeps",
    prefix: "",
    items: Some(Items {
        file: ATA,
        container: "mod rare",
        except: &[],
        short: &[
            ("READ_NATIVE_MAX", "READ NATIVE MAX ADDRESS"),
            ("READ_NATIVE_MAX_EXT", "READ NATIVE MAX ADDRESS EXT"),
            ("SET_MAX", "SET MAX ADDRESS"),
            ("SET_MAX_EXT", "SET MAX ADDRESS EXT"),
            ("MAX_ADDRESS", "ACCESSIBLE MAX ADDRESS CONFIGURATION"),
            ("WRITE_UNCORRECTABLE", "WRITE UNCORRECTABLE EXT"),
            ("PSEUDO_LOGGED", "WRITE UNCORRECTABLE EXT: logged"),
            ("FLAGGED", "WRITE UNCORRECTABLE EXT: flagged"),
            ("SANITIZE", "SANITIZE DEVICE"),
        ],
    }),
    rows: &[
        row("READ NATIVE MAX ADDRESS", "ATA-6 8.32", AREA),
        row("READ NATIVE MAX ADDRESS EXT", "ATA-6 8.33", AREA),
        row("SET MAX ADDRESS", "ATA-6 8.47", AREA),
        row(
            "DOWNLOAD MICROCODE",
            "ACS-3 7.7",
            &[
                "microcode::a_whole_image_is_in_force_at_once",
                "microcode::what_is_no_image_is_refused",
            ],
        ),
        row("DOWNLOAD MICROCODE DMA", "ACS-3 7.8", &["microcode::images_come_by_dma_too"]),
        row("SET MAX ADDRESS EXT", "ATA-6 8.48", AREA),
        row(
            "ACCESSIBLE MAX ADDRESS CONFIGURATION",
            "ACS-3 7.2",
            &["address::an_accessible_max_address_is_kept"],
        ),
        row(
            "WRITE UNCORRECTABLE EXT",
            "ACS-3 7.73",
            &[
                "marks::marked_sectors_cannot_be_read_until_they_are_written",
                "marks::marks_that_make_no_sense_are_refused",
            ],
        ),
        row(
            "WRITE UNCORRECTABLE EXT: logged",
            "ACS-3 7.73",
            &["marks::only_logged_errors_are_counted"],
        ),
        row(
            "WRITE UNCORRECTABLE EXT: flagged",
            "ACS-3 7.73",
            &["marks::only_logged_errors_are_counted"],
        ),
        row(
            "SMART",
            "ACS-3 7.48",
            &["smart::commands_without_the_key_or_with_other_features_are_aborted"],
        ),
        row("SANITIZE DEVICE", "ACS-3 7.36", &["sanitize::a_block_erase_leaves_nothing"]),
        row(
            "STANDBY IMMEDIATE",
            "ACS-3 7.55",
            &[
                "power::a_drive_is_as_awake_as_it_was_told_to_be",
                "power::standby_writes_the_cache_first",
            ],
        ),
        row("IDLE IMMEDIATE", "ACS-3 7.15", POWER),
        row("STANDBY", "ACS-3 7.54", TIMER),
        row("IDLE", "ACS-3 7.14", TIMER),
        row("CHECK POWER MODE", "ACS-3 7.3", POWER),
        row("SLEEP", "ACS-3 7.49", &["power::only_a_reset_wakes_a_drive_that_sleeps"]),
        row("SECURITY SET PASSWORD", "ACS-3 7.41", PASSWORDS),
        row(
            "SECURITY UNLOCK",
            "ACS-3 7.42",
            &[
                "security::a_password_locks_the_drive_with_the_next_power_on",
                "security::five_wrong_passwords_are_the_last",
            ],
        ),
        row("SECURITY ERASE PREPARE", "ACS-3 7.38", ERASE),
        row("SECURITY ERASE UNIT", "ACS-3 7.39", ERASE),
        row(
            "SECURITY FREEZE LOCK",
            "ACS-3 7.40",
            &["security::a_frozen_drive_changes_nothing_until_the_next_power_on"],
        ),
        row("SECURITY DISABLE PASSWORD", "ACS-3 7.37", PASSWORDS),
    ],
};

const LOCK: &[&str] = &["address::a_password_keeps_the_largest_address"];

const SET_MAX: Group = Group {
    title: "SET MAX",
    prefix: "",
    items: of(ATA, "mod set_max"),
    rows: &[
        row("SET PASSWORD", "ATA-6 8.47.2", LOCK),
        row("LOCK", "ATA-6 8.47.3", LOCK),
        row("UNLOCK", "ATA-6 8.47.4", LOCK),
        row("FREEZE LOCK", "ATA-6 8.47.5", LOCK),
    ],
};

const MICROCODE: Group = Group {
    title: "DOWNLOAD MICROCODE",
    prefix: "",
    items: Some(Items {
        file: ATA,
        container: "mod microcode",
        except: &["PIECE_MAX"],
        short: &[],
    }),
    rows: &[
        row("PIECES", "ACS-3 7.7.3", &["microcode::an_image_comes_in_pieces"]),
        row("WHOLE", "ACS-3 7.7.3", &["microcode::a_whole_image_is_in_force_at_once"]),
        row("PIECES LATER", "ACS-3 7.7.3", &["microcode::an_image_waits_for_its_activation"]),
        row("ACTIVATE", "ACS-3 7.7.3", &["microcode::an_image_waits_for_its_activation"]),
    ],
};

const LOGS: Group = Group {
    title: "Logs of what is kept",
    prefix: "",
    items: None,
    rows: &[
        row(
            "extended comprehensive SMART error",
            "ACS-3 9.7",
            &["smart::the_extended_logs_are_read_by_read_log_ext"],
        ),
        row(
            "extended SMART self-test",
            "ACS-3 9.8",
            &["smart::the_extended_logs_are_read_by_read_log_ext"],
        ),
        row(
            "WRITE LOG EXT",
            "ACS-3 7.65",
            &["logs::what_a_host_writes_is_there_after_a_power_loss"],
        ),
        row("device statistics", "ACS-3 9.5", &["smart::device_statistics_are_in_their_log"]),
        row(
            "host specific",
            "ACS-3 9.1",
            &["logs::what_a_host_writes_is_there_after_a_power_loss", "logs::there_are_no_others"],
        ),
    ],
};

const TESTS: &[&str] = &["smart::self_tests_read_the_medium_and_are_logged"];
const SELECTIVE: &[&str] = &["smart::a_selective_test_reads_its_spans"];
const ATTRIBUTES: &[&str] = &["smart::attributes_count_what_happened"];

const SMART: Group = Group {
    title: "SMART",
    prefix: "",
    items: Some(Items { file: ATA, container: "mod smart", except: &["KEY"], short: &[] }),
    rows: &[
        row("READ DATA", "ACS-3 7.48.6", ATTRIBUTES),
        row("READ THRESHOLDS", "ATA-3 7.25", ATTRIBUTES),
        row(
            "ATTRIBUTE AUTOSAVE",
            "ACS-3 7.48.3",
            &["smart::commands_without_the_key_or_with_other_features_are_aborted"],
        ),
        row(
            "EXECUTE OFFLINE",
            "ACS-3 7.48.5",
            &[
                "smart::self_tests_read_the_medium_and_are_logged",
                "smart::a_test_goes_on_beside_commands_until_it_is_aborted",
                "smart::a_reset_and_standby_end_a_test",
                "smart::sectors_that_were_marked_fail_a_test",
            ],
        ),
        row("READ LOG", "ACS-3 7.48.7", TESTS),
        row("WRITE LOG", "ACS-3 7.48.9", &["logs::smart_writes_and_reads_the_same_logs"]),
        row("ENABLE", "ACS-3 7.48.4", &["smart::smart_is_switched_off_and_on_over_a_power_loss"]),
        row("DISABLE", "ACS-3 7.48.2", &["smart::smart_is_switched_off_and_on_over_a_power_loss"]),
        row("RETURN STATUS", "ACS-3 7.48.8", ATTRIBUTES),
        row("SHORT TEST", "ACS-3 7.48.5", TESTS),
        row("EXTENDED TEST", "ACS-3 7.48.5", TESTS),
        row("SELECTIVE TEST", "ACS-3 7.48.5", SELECTIVE),
        row("OFFLINE", "ACS-3 7.48.5", &["smart::data_are_collected_off_line"]),
        row(
            "ABORT TEST",
            "ACS-3 7.48.5",
            &["smart::a_test_goes_on_beside_commands_until_it_is_aborted"],
        ),
        row("CAPTIVE", "ACS-3 7.48.5", TESTS),
        row("SUMMARY LOG", "ACS-3 9.22", TESTS),
        row(
            "TEST LOG",
            "ACS-3 9.21",
            &[
                "smart::self_tests_read_the_medium_and_are_logged",
                "smart::the_log_of_self_tests_keeps_the_last_ones",
            ],
        ),
        row("SELECTIVE LOG", "ACS-3 9.20", SELECTIVE),
    ],
};

const FREEZING: &[&str] = &["sanitize::freezing_and_its_opposite_hold_until_the_next_power_on"];

const SANITIZE: Group = Group {
    title: "SANITIZE DEVICE",
    prefix: "",
    items: Some(Items {
        file: ATA,
        container: "mod sanitize",
        except: &[
            "CRYPTO_SCRAMBLE_KEY",
            "BLOCK_ERASE_KEY",
            "OVERWRITE_KEY",
            "FREEZE_LOCK_KEY",
            "ANTIFREEZE_LOCK_KEY",
        ],
        short: &[],
    }),
    rows: &[
        row(
            "STATUS",
            "ACS-3 7.36.6",
            &[
                "sanitize::a_block_erase_leaves_nothing",
                "sanitize::a_failure_is_forgotten_only_where_that_was_agreed",
            ],
        ),
        row(
            "CRYPTO SCRAMBLE",
            "ACS-3 7.36.3",
            &["sanitize::a_crypto_scramble_leaves_nothing_to_be_read"],
        ),
        row(
            "BLOCK ERASE",
            "ACS-3 7.36.2",
            &[
                "sanitize::a_block_erase_leaves_nothing",
                "sanitize::a_drive_whose_erase_failed_gives_out_nothing",
            ],
        ),
        row(
            "OVERWRITE",
            "ACS-3 7.36.7",
            &[
                "sanitize::an_overwrite_writes_its_pattern_as_often_as_it_was_told",
                "sanitize::an_operation_goes_on_after_a_power_loss",
            ],
        ),
        row("FREEZE LOCK", "ACS-3 7.36.4", FREEZING),
        row("ANTIFREEZE LOCK", "ACS-3 7.36.5", FREEZING),
    ],
};
