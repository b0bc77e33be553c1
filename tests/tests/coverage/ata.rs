//! The ATA and ATAPI command set, as AHCI carries it.

use spindle_tests::coverage::{Group, Page, row};

const RW: &str = "ahci/transfers::every_read_and_write_moves_its_sectors";
const PIO: &str =
    "ahci/transfers::pio_in_ends_with_a_pio_setup_and_everything_else_with_a_register_fis";
const PARSED: &str = "ata/tests::addresses_of_28_and_48_bits_and_by_cylinder_head_sector";
const END: &str = "ahci/commands::addresses_beyond_the_end_are_not_found";
const SIMPLE: &str = "ahci/commands::verify_flush_and_the_rest_that_only_succeeds";
const UNKNOWN: &str = "ahci/commands::what_is_not_known_is_aborted";
const MULTIPLE: &str = "ahci/commands::multiple_mode_takes_powers_of_two";
const OFF: &str = "ata/tests::multiple_is_refused_while_it_is_off";
const TRIM: &str = "ahci/commands::trimmed_sectors_read_as_zeros_and_give_their_space_back";
const LOGS: &str = "ahci/commands::logs_and_their_directory";
const ERROR_LOG: &str = "ahci/errors::a_queued_command_fails_and_its_log_tells_which";
const FEATURES: &str = "ahci/commands::set_features_and_what_they_do";
const CACHE: &str = "ahci/commands::without_a_write_cache_writes_are_durable";
const BUFFER: &str = "ahci/commands::a_buffer_is_written_and_read";
const DEPTH: &str = "ahci/queued::thirty_two_commands_at_once";
const GOLDEN: &str = "ahci/identify::a_disk_by_the_word";
const SETTINGS: &str = "ahci/resets::which_settings_a_reset_keeps";
const ERRORS: &str = "ahci/errors::each_error_has_its_bits";
const PACKET: &str = "ahci/packets::blocks_by_dma_and_by_pio";
const SENSE: &str = "ahci/packets::sense_data_wait_until_they_are_asked_for";

/// The page.
pub const PAGE: Page = Page {
    name: "ata",
    title: "ATA and ATAPI drives",
    specification: "ACS-3 (T13/2161-D revision 5)",
    tests: &["devices/tests/ahci", "devices/src/ata/tests.rs"],
    groups: &[COMMANDS, SUBCOMMANDS, LOG_PAGES, DATA, ERROR_BITS],
};

const COMMANDS: Group = Group {
    title: "Commands",
    prefix: "",
    items: None,
    rows: &[
        row("NOP", "7.23", &[UNKNOWN]),
        row("DATA SET MANAGEMENT", "7.5", &[TRIM, "tests::ranges_to_trim_are_joined_and_checked"]),
        row("DEVICE RESET", "7.6", &[UNKNOWN, "ahci/packets::device_reset"]),
        row("RECALIBRATE", "ATA-3 8.16", &[SIMPLE]),
        row("READ SECTOR(S)", "7.35", &[RW, PIO, PARSED]),
        row("READ SECTOR(S) EXT", "7.36", &[RW, END]),
        row("READ DMA", "7.25", &[RW, PARSED]),
        row("READ DMA EXT", "7.26", &[RW, PARSED, END]),
        row("READ MULTIPLE", "7.33", &[RW, MULTIPLE, OFF]),
        row("READ MULTIPLE EXT", "7.34", &[RW, OFF]),
        row("READ LOG EXT", "7.30", &[LOGS, ERROR_LOG]),
        row("READ LOG DMA EXT", "7.31", &[LOGS]),
        row("WRITE SECTOR(S)", "7.70", &[RW, PIO]),
        row("WRITE SECTOR(S) EXT", "7.71", &[RW]),
        row("WRITE DMA", "7.60", &[RW]),
        row("WRITE DMA EXT", "7.61", &[RW, END]),
        row("WRITE DMA FUA EXT", "7.62", &[RW]),
        row("WRITE MULTIPLE", "7.67", &[RW, OFF]),
        row("WRITE MULTIPLE EXT", "7.68", &[RW, OFF]),
        row("WRITE MULTIPLE FUA EXT", "7.69", &[RW, OFF]),
        row("READ VERIFY SECTOR(S)", "7.37", &[SIMPLE]),
        row("READ VERIFY SECTOR(S) EXT", "7.38", &[SIMPLE, END]),
        row("READ FPDMA QUEUED", "7.27", &[DEPTH]),
        row("WRITE FPDMA QUEUED", "7.63", &[DEPTH, "ahci/queued::fua_is_durable"]),
        row("SEND FPDMA QUEUED", "7.44", &["ahci/queued::queued_trim"]),
        row("SEEK", "ATA-6 8.35", &[SIMPLE]),
        row(
            "EXECUTE DEVICE DIAGNOSTIC",
            "7.9",
            &["ahci/commands::the_diagnostic_leaves_a_signature"],
        ),
        row("PACKET", "7.18", &[PACKET, SENSE]),
        row("IDENTIFY PACKET DEVICE", "7.13", &["ahci/packets::its_signature_and_identity"]),
        row("SET MULTIPLE MODE", "7.46", &[MULTIPLE]),
        row("READ BUFFER, READ BUFFER DMA", "7.22, 7.23", &[BUFFER]),
        row("WRITE BUFFER, WRITE BUFFER DMA", "7.57, 7.58", &[BUFFER]),
        row("FLUSH CACHE, FLUSH CACHE EXT", "7.10, 7.11", &[SIMPLE]),
        row("IDENTIFY DEVICE", "7.12", &[GOLDEN]),
        row("SET FEATURES", "7.45", &[FEATURES]),
        row("what is not supported", "6.3", &[UNKNOWN]),
    ],
};

const SUBCOMMANDS: Group = Group {
    title: "SET FEATURES",
    prefix: "",
    items: None,
    rows: &[
        row("volatile write cache", "7.45.7, 7.45.8", &[FEATURES, CACHE]),
        row("transfer mode", "7.45.9", &[FEATURES]),
        row("read look-ahead", "7.45.13", &[FEATURES]),
        row("reverting to power-on defaults", "7.45.14", &[SETTINGS]),
        row("software settings preservation", "7.45.18.6", &[FEATURES, SETTINGS]),
    ],
};

const LOG_PAGES: Group = Group {
    title: "Logs",
    prefix: "",
    items: None,
    rows: &[
        row("directory", "9.2", &[LOGS]),
        row("NCQ command error", "9.14", &[ERROR_LOG]),
        row("NCQ send and receive", "9.15", &[LOGS]),
        row("IDENTIFY DEVICE data", "9.11", &[LOGS]),
    ],
};

const DATA: Group = Group {
    title: "Sectors and addresses",
    prefix: "",
    items: None,
    rows: &[
        row("28-bit, 48-bit, CHS", "4.1.2", &[PARSED]),
        row("translation", "ATA-5 annex C", &["tests::a_translation_there_and_back"]),
        row("4096-byte sectors", "4.1.2", &["ahci/commands::sectors_of_4096_bytes"]),
        row("physical sectors", "7.12.7.60", &["ahci/identify::sectors_of_other_sizes"]),
        row("strings", "3.3.10", &["ahci/identify::names_that_are_not_ascii"]),
    ],
};

const ERROR_BITS: Group = Group {
    title: "Error field",
    prefix: "",
    items: None,
    rows: &[
        row("ABRT", "6.3", &[UNKNOWN, ERRORS]),
        row("IDNF", "6.3", &[END, ERRORS]),
        row("UNC", "6.3", &[ERRORS, ERROR_LOG]),
        row("ICRC", "6.3", &[ERRORS]),
        row("sense key", "7.18.6", &[SENSE, "ahci/packets::errors_of_the_medium"]),
    ],
};
