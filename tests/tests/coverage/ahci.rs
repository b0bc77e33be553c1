//! The AHCI controller. The drives behind it are on the page of ATA.

use spindle_tests::coverage::{Group, Items, Page, row};

const SPEC: &str = "devices/src/ahci/spec.rs";
const REGS: &str = "devices/src/ahci/regs.rs";
const RESET: &str = "registers::reset_values_and_writable_bits";
const WIDTHS: &str = "registers::every_width_and_alignment_reads_and_writes_the_same_bytes";
const GLOBALS: &str = "registers::global_registers";
const WIRE: &str = "interrupts::the_wire_follows_three_enables";
const MESSAGES: &str = "interrupts::a_message_for_each_time_that_something_is_new";
const HBA_RESET: &str = "resets::the_hba_is_reset";
const COMRESET: &str = "resets::comreset";
const STOP: &str = "resets::a_stop_waits_for_what_is_in_flight";
const FRAMES: &str = "queued::the_frames_of_a_queued_command";
const PIO: &str = "transfers::pio_in_ends_with_a_pio_setup_and_everything_else_with_a_register_fis";
const ORDER: &str = "queued::the_order_that_a_driver_may_see";
const SHORT: &str = "transfers::a_table_that_is_too_short_or_not_ram_stops_the_port";
const WILD: &str = "transfers::lists_tables_and_areas_that_are_not_ram";
const SHAPES: &str = "transfers::prd_tables_of_every_shape";
const ERRORS: &str = "errors::each_error_has_its_bits";
const NCQ_ERROR: &str = "errors::a_queued_command_fails_and_its_log_tells_which";
const DEPTH: &str = "queued::thirty_two_commands_at_once";
const COMES: &str = "hotplug::a_drive_comes";
const GOES: &str = "hotplug::a_drive_goes_in_mid_transfer";
const SOFT: &str = "resets::software_reset_in_mid_transfer";
const CLO: &str = "resets::command_list_override_frees_a_port_that_hangs";
const PACKETS: &str = "packets::blocks_by_dma_and_by_pio";
const POWER: &str = "resets::partial_and_slumber";
const SPIN_UP: &str = "resets::spin_up_one_by_one";

/// The page.
pub const PAGE: Page = Page {
    name: "ahci",
    title: "AHCI",
    specification: "AHCI 1.3.1",
    tests: &["devices/tests/ahci"],
    groups: &[GLOBAL, PORT, STATUS, COMMAND, STRUCTURES, FISES, LIFE, COALESCING, SWITCHING],
};

const GLOBAL: Group = Group {
    title: "Generic host control",
    prefix: "",
    items: Some(Items { file: REGS, container: "enum Global", except: &[], short: &[] }),
    rows: &[
        row("CAP", "3.1.1", &[GLOBALS]),
        row("GHC", "3.1.2", &[GLOBALS, HBA_RESET, WIRE]),
        row("IS", "3.1.3", &[WIRE, MESSAGES]),
        row("PI", "3.1.4", &[GLOBALS]),
        row("VS", "3.1.5", &[GLOBALS]),
        row("CCC_CTL", "3.1.6", &["coalescing::registers_are_fixed_while_it_is_enabled"]),
        row("CCC_PORTS", "3.1.7", &["coalescing::registers_are_fixed_while_it_is_enabled"]),
        row("EM_LOC", "3.1.8", &[GLOBALS]),
        row("EM_CTL", "3.1.9", &[GLOBALS]),
        row("CAP2", "3.1.10", &[GLOBALS]),
        row("BOHC", "3.1.11", &[GLOBALS]),
        row(
            "index-data pair",
            "2.4",
            &["registers::the_index_data_pair_reaches_the_same_registers"],
        ),
        row("PCI header and capabilities", "2.1", &["registers::configuration_space"]),
    ],
};

const PORT: Group = Group {
    title: "Port registers",
    prefix: "Px",
    items: Some(Items { file: REGS, container: "enum PortName", except: &[], short: &[] }),
    rows: &[
        row("PxCLB", "3.3.1", &[RESET, WIDTHS]),
        row("PxCLBU", "3.3.2", &[RESET, WIDTHS]),
        row("PxFB", "3.3.3", &[RESET, WIDTHS]),
        row("PxFBU", "3.3.4", &[RESET, WIDTHS]),
        row("PxIS", "3.3.5", &[WIRE, FRAMES, PIO]),
        row("PxIE", "3.3.6", &[RESET, WIRE]),
        row("PxCMD", "3.3.7", &[RESET, STOP]),
        row("PxTFD", "3.3.8", &[RESET, ERRORS]),
        row("PxSIG", "3.3.9", &[RESET, COMRESET]),
        row("PxSSTS", "3.3.10", &[COMRESET, POWER]),
        row("PxSCTL", "3.3.11", &[COMRESET, POWER, "resets::offline_and_back"]),
        row("PxSERR", "3.3.12", &[COMRESET, ERRORS]),
        row("PxSACT", "3.3.13", &[DEPTH, "registers::without_a_start_nothing_is_issued"]),
        row("PxCI", "3.3.14", &[DEPTH, "registers::without_a_start_nothing_is_issued"]),
        row("PxSNTF", "3.3.15", &["multiplier::disks_come_and_go_behind_it"]),
        row("PxFBS", "3.3.16", &["multiplier::an_error_of_one_disk_leaves_the_others_alone"]),
        row("PxDEVSLP", "3.3.17", &[RESET]),
    ],
};

const STATUS: Group = Group {
    title: "Port interrupt status",
    prefix: "PxIS.",
    items: Some(Items {
        file: SPEC,
        container: "mod is",
        // No drive sends what would set them, and memory has no errors of its own.
        except: &["DSS", "UFS", "HBDS", "ENABLE", "CLEAR"],
        short: &[],
    }),
    rows: &[
        row("PxIS.DHRS", "3.3.5", &[PIO]),
        row("PxIS.PSS", "3.3.5", &[PIO, PACKETS]),
        row("PxIS.SDBS", "3.3.5", &[FRAMES]),
        row("PxIS.DPS", "3.3.5", &[SHAPES, FRAMES]),
        row("PxIS.PCS", "3.3.5", &[COMRESET, COMES]),
        row("PxIS.PRCS", "3.3.5", &[COMRESET, GOES]),
        row("PxIS.OFS", "3.3.5, 6.1.4", &[SHORT]),
        row("PxIS.IFS", "3.3.5, 6.1.2", &[ERRORS]),
        row("PxIS.HBFS", "3.3.5, 6.1.1", &[SHORT, WILD]),
        row("PxIS.TFES", "3.3.5, 6.2.2", &[NCQ_ERROR]),
    ],
};

const COMMAND: Group = Group {
    title: "Port command and status",
    prefix: "PxCMD.",
    items: Some(Items {
        file: SPEC,
        container: "mod cmd",
        except: &["CCS_SHIFT", "ICC_SHIFT"],
        short: &[],
    }),
    rows: &[
        row("PxCMD.ST", "3.3.7", &[STOP, "resets::a_start_before_the_stop_is_over_waits_for_it"]),
        row("PxCMD.SUD", "3.3.7, 10.1.1", &[SPIN_UP]),
        row("PxCMD.POD", "3.3.7", &[RESET]),
        row("PxCMD.CLO", "3.3.7", &[CLO]),
        row("PxCMD.FRE", "3.3.7", &["resets::without_a_place_for_it_the_signature_waits"]),
        row("PxCMD.CCS", "3.3.7", &["queued::slots_are_taken_in_turn"]),
        row("PxCMD.FR", "3.3.7", &["resets::without_a_place_for_it_the_signature_waits"]),
        row("PxCMD.CR", "3.3.7", &[STOP]),
        row("PxCMD.PMA", "3.3.7", &["multiplier::it_says_what_it_is_and_what_is_behind_it"]),
        row("PxCMD.FBSCP", "3.3.7", &["multiplier::it_says_what_it_is_and_what_is_behind_it"]),
        row("PxCMD.HPCP", "3.3.7", &[RESET]),
        row("PxCMD.ATAPI", "3.3.7", &[RESET]),
        row("PxCMD.DLAE", "3.3.7", &[RESET]),
        row("PxCMD.ICC", "3.3.7", &[POWER]),
    ],
};

const STRUCTURES: Group = Group {
    title: "Command list and tables",
    prefix: "",
    items: None,
    rows: &[
        row("slots, round robin", "5.3.2.7", &["queued::slots_are_taken_in_turn"]),
        row("PRDBC", "4.2.2", &["transfers::every_read_and_write_moves_its_sectors", SHAPES]),
        row("A: packet", "4.2.2", &[PACKETS, "packets::a_packet_without_its_bit_is_aborted"]),
        row("C: clear busy", "4.2.2", &[SOFT]),
        row("PRDT", "4.2.3.3", &[SHAPES]),
        row("memory that is not there", "6.1.1", &[SHORT, WILD]),
    ],
};

const FISES: Group = Group {
    title: "Received FISes",
    prefix: "",
    items: None,
    rows: &[
        row("DMA Setup", "4.2.1", &[FRAMES]),
        row("PIO Setup", "4.2.1", &[PIO]),
        row("D2H Register", "4.2.1", &[PIO, COMRESET]),
        row("Set Device Bits", "4.2.1", &[FRAMES, NCQ_ERROR]),
        row("order of what is seen", "5.5", &[ORDER]),
    ],
};

const LIFE: Group = Group {
    title: "Errors, resets, hot plug, interrupts",
    prefix: "",
    items: None,
    rows: &[
        row("recovery of queued commands", "6.2.2.2", &[NCQ_ERROR]),
        row("disorder in the queue", "5.5.1", &["errors::disorder_in_the_queue_aborts_it"]),
        row("software reset", "10.4.1", &[SOFT]),
        row("port reset", "10.4.2", &[COMRESET]),
        row("HBA reset", "10.4.3", &[HBA_RESET]),
        row("function reset", "PCI", &["resets::the_function_is_reset_while_paused"]),
        row("hot plug", "7.3", &[COMES]),
        row("hot unplug", "7.3", &[GOES]),
        row("pin", "10.7.2.1", &[WIRE]),
        row(
            "MSI",
            "10.7.2.2",
            &[
                MESSAGES,
                "interrupts::something_that_comes_between_the_acknowledgements_is_not_lost",
            ],
        ),
    ],
};

const COALESCING: Group = Group {
    title: "Command completion coalescing",
    prefix: "",
    items: None,
    rows: &[
        row("completions", "11.4", &["coalescing::an_interrupt_comes_after_so_many_completions"]),
        row("timeout", "11.4", &["coalescing::and_never_later_than_the_time_after_the_first"]),
        row("queued commands", "11.4", &["coalescing::queued_commands_count_when_they_are_done"]),
        row(
            "ports",
            "11.3",
            &["coalescing::other_ports_and_a_controller_without_it_interrupt_as_ever"],
        ),
        row("messages", "11.3", &["coalescing::it_has_messages_too"]),
    ],
};

const SWITCHING: Group = Group {
    title: "Port multipliers",
    prefix: "",
    items: None,
    rows: &[
        row(
            "registers of the multiplier",
            "SATA 16.4",
            &["multiplier::it_says_what_it_is_and_what_is_behind_it"],
        ),
        row(
            "command-based switching",
            "9.2",
            &["multiplier::commands_reach_the_disk_that_they_are_for"],
        ),
        row(
            "FIS-based switching",
            "9.3",
            &["multiplier::with_fis_based_switching_all_are_busy_at_once"],
        ),
        row(
            "error of a single device",
            "9.3.6, 9.3.7",
            &["multiplier::an_error_of_one_disk_leaves_the_others_alone"],
        ),
        row(
            "reset of the HBA",
            "10.4.3",
            &["multiplier::a_reset_of_the_controller_brings_only_the_first_one_back"],
        ),
        row("hot plug, notification", "SATA 13.8", &["multiplier::disks_come_and_go_behind_it"]),
    ],
};
