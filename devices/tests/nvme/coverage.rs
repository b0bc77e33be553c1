//! Every register, command, feature, log page and documented error: where it is defined and which
//! test shows it. A row without a test fails.
//!
//! Sections are those of NVM Express Base 2.0, and of the NVM Command Set 1.0 where they begin with
//! "NVM".

/// Name, section, the test that shows it (module and function).
type Row = (&'static str, &'static str, &'static str);

/// Controller registers.
pub const REGISTERS: &[Row] = &[
    ("CAP, VS, CRTO, CMB, BP, NSSD", "3.1.3", READS),
    ("INTMS, INTMC", "3.1.3.3", "registers::interrupt_masks_are_set_and_cleared_by_ones"),
    ("CC, AQA, ASQ, ACQ bits", "3.1.3", WRITES),
    (
        "CC.EN",
        "3.7.2",
        "lifecycle::a_reset_under_load_is_done_only_when_nothing_can_touch_memory_any_more",
    ),
    (
        "CC.CSS, CC.MPS, CC.AMS",
        "3.1.3.5",
        "registers::unsupported_settings_are_fatal_and_a_reset_helps",
    ),
    ("CC.SHN, CSTS.SHST", "3.6.1", "lifecycle::a_shutdown_ends_what_is_in_flight_and_flushes"),
    ("CC.IOSQES, CC.IOCQES", "3.1.3.5", "queues::entry_sizes_are_those_that_there_are"),
    ("CSTS.CFS", "3.1.3.6", "registers::unsupported_settings_are_fatal_and_a_reset_helps"),
    (
        "NSSR, CSTS.NSSRO",
        "3.1.3.7",
        "registers::a_subsystem_reset_needs_its_magic_and_says_that_it_occurred",
    ),
    (
        "AQA, ASQ, ACQ",
        "3.1.3.8",
        "registers::the_admin_queue_cannot_be_moved_while_enabled_and_survives_a_controller_reset",
    ),
    ("doorbells", "PCIe 3.1.2", "doorbells::bad_doorbells_are_events_and_change_nothing"),
];

const READS: &str = "registers::every_register_reads_its_reset_value_at_every_width_and_alignment";
const WRITES: &str =
    "registers::exactly_the_writable_bits_can_be_written_at_every_width_and_alignment";

/// Admin commands.
pub const ADMIN_COMMANDS: &[Row] = &[
    ("Abort", "5.1", "errors::a_parked_command_is_aborted_or_goes_with_its_queue"),
    (
        "Asynchronous Event Request",
        "5.2",
        "admin::event_requests_are_parked_and_answered_when_something_happens",
    ),
    ("Create I/O Completion Queue", "5.4", QUEUE_ERRORS),
    ("Create I/O Submission Queue", "5.5", QUEUE_ERRORS),
    ("Delete I/O Completion Queue", "5.6", QUEUE_ERRORS),
    ("Delete I/O Submission Queue", "5.7", "queues::deleting_a_queue_waits_for_what_is_in_flight"),
    ("Doorbell Buffer Config", "5.8", "doorbells::shadows_save_doorbells_and_lose_no_command"),
    (
        "Device Self-test",
        "5.9",
        "background::self_tests_run_beside_everything_else_and_leave_results",
    ),
    (
        "Firmware Commit",
        "5.12",
        "firmware::images_go_to_slots_and_become_active_by_a_reset_or_at_once",
    ),
    ("Firmware Image Download", "5.13", "firmware::every_documented_error"),
    ("Format NVM", "5.14", "format::a_format_erases_and_changes_the_block_size_for_every_queue"),
    ("Get Features", "5.15", "admin::features_are_set_and_got"),
    ("Get Log Page", "5.16", "admin::a_log_is_read_in_parts"),
    ("Identify", "5.17", "admin::every_identify_structure_is_there_or_refused"),
    ("Keep Alive", "5.18", "admin::a_host_that_is_not_heard_of_in_time_is_taken_for_dead"),
    (
        "Namespace Attachment",
        "5.22",
        "management::a_namespace_is_created_attached_used_detached_and_deleted",
    ),
    ("Namespace Management", "5.23", "management::every_documented_error"),
    ("Sanitize", "5.24", "background::an_erase_and_an_overwrite_leave_nothing"),
    ("Set Features", "5.27", "admin::features_are_set_and_got"),
];

const QUEUE_ERRORS: &str = "queues::every_documented_error_of_creating_and_deleting";

/// I/O commands.
pub const IO_COMMANDS: &[Row] = &[
    ("Flush", "7.1", "io::durable_is_what_was_flushed_or_forced"),
    ("Reservation Acquire", "7.2", "reservations::a_host_preempts_another"),
    ("Reservation Register", "7.3", "reservations::keys_are_checked"),
    ("Reservation Release", "7.4", "reservations::keys_are_checked"),
    ("Reservation Report", "7.5", "reservations::a_report_tells_who_is_registered"),
    ("Compare", "NVM 3.2.1", "io::compare_finds_every_difference"),
    ("Copy", "NVM 3.2.2", "media::copies_are_copies"),
    ("Dataset Management", "NVM 3.2.3", "io::ranges_are_deallocated"),
    ("Read", "NVM 3.2.4", "io::what_is_written_is_on_the_medium_and_read_back"),
    ("Verify", "NVM 3.2.5", "io::verify_reads_without_a_transfer"),
    ("Write", "NVM 3.2.6", "io::what_is_written_is_on_the_medium_and_read_back"),
    (
        "Write Uncorrectable",
        "NVM 3.2.7",
        "media::marked_blocks_cannot_be_read_until_they_are_written",
    ),
    ("Write Zeroes", "NVM 3.2.8", "io::zeroes_are_written_with_and_without_giving_space_back"),
    ("Compare and Write", "3.4.2", "fused::the_write_happens_only_if_the_compare_does_not_fail"),
];

/// Features.
pub const FEATURES: &[Row] = &[
    ("Arbitration", "5.27.1.1", "arbitration::round_robin_by_bursts"),
    ("Power Management", "5.27.1.2", "admin::features_are_set_and_got"),
    ("Temperature Threshold", "5.27.1.3", "admin::the_temperature_crosses_a_threshold"),
    ("Volatile Write Cache", "5.27.1.4", "admin::the_write_cache_is_the_disks"),
    ("Number of Queues", "5.27.1.5", "admin::the_host_gets_as_many_queues_as_there_are"),
    (
        "Interrupt Coalescing",
        "5.27.1.6",
        "coalescing::a_completion_waits_for_others_up_to_the_threshold",
    ),
    ("Interrupt Vector Configuration", "5.27.1.7", "coalescing::one_vector_can_be_left_out"),
    ("Asynchronous Event Configuration", "5.27.1.8", "admin::features_are_set_and_got"),
    ("Timestamp", "5.27.1.10", "admin::the_timestamp_runs"),
    (
        "Keep Alive Timer",
        "5.27.1.12",
        "admin::a_host_that_is_not_heard_of_in_time_is_taken_for_dead",
    ),
    ("Host Identifier", "5.27.1.25", "reservations::long_identifiers_have_long_reports"),
    (
        "Reservation Notification Mask",
        "5.27.1.26",
        "reservations::a_notice_is_an_event_unless_it_is_masked",
    ),
    (
        "Reservation Persistence",
        "5.27.1.27",
        "reservations::reservations_persist_through_power_loss_where_they_are_told_to",
    ),
    ("Error Recovery", "NVM 4.1.3.2", "admin::features_are_set_and_got"),
    ("Write Atomicity Normal", "NVM 4.1.3.3", "admin::features_are_set_and_got"),
    ("saved values", "5.27", "admin::saved_values_are_there_after_a_reset_and_after_a_restart"),
];

/// Log pages.
pub const LOG_PAGES: &[Row] = &[
    ("Supported Log Pages", "5.16.1.1", "admin::log_pages_are_there_and_the_supported_ones_say_so"),
    ("Error Information", "5.16.1.2", "admin::failed_commands_are_in_the_error_log"),
    ("SMART / Health Information", "5.16.1.3", "admin::health_counts_what_was_transferred"),
    (
        "Firmware Slot Information",
        "5.16.1.4",
        "firmware::images_go_to_slots_and_become_active_by_a_reset_or_at_once",
    ),
    (
        "Changed Namespace List",
        "5.16.1.5",
        "namespaces::a_namespace_comes_and_goes_and_the_host_is_told",
    ),
    (
        "Commands Supported and Effects",
        "5.16.1.6",
        "admin::log_pages_are_there_and_the_supported_ones_say_so",
    ),
    ("Device Self-test", "5.16.1.7", "background::a_self_test_finds_what_cannot_be_read"),
    ("Reservation Notification", "5.16.1.24", "reservations::a_host_preempts_another"),
    ("Sanitize Status", "5.16.1.25", "background::a_failed_sanitize_operation_keeps_everybody_out"),
];

/// Status codes: type and code, the test in which a command ends with it.
pub const ERRORS: &[Row] = &[
    ("0h 01h Invalid Command Opcode", "3.3.3.2.1", "admin::unknown_commands_are_refused"),
    ("0h 02h Invalid Field in Command", "3.3.3.2.1", "io::every_documented_error_of_data_commands"),
    ("0h 04h Data Transfer Error", "3.3.3.2.1", "transfers::bad_prps_are_refused"),
    ("0h 06h Internal Error", "3.3.3.2.1", "errors::every_error_has_a_status"),
    ("0h 07h Command Abort Requested", "3.3.3.2.1", "admin::a_parked_event_request_is_aborted"),
    (
        "0h 08h Command Aborted due to SQ Deletion",
        "3.3.3.2.1",
        "errors::a_parked_command_is_aborted_or_goes_with_its_queue",
    ),
    (
        "0h 09h Command Aborted due to Failed Fused Command",
        "3.4.2",
        "fused::the_write_happens_only_if_the_compare_does_not_fail",
    ),
    ("0h 0Ah Command Aborted due to Missing Fused Command", "3.4.2", "fused::halves_are_refused"),
    (
        "0h 0Bh Invalid Namespace or Format",
        "3.3.3.2.1",
        "io::every_documented_error_of_data_commands",
    ),
    ("0h 0Ch Command Sequence Error", "3.3.3.2.1", "admin::features_are_set_and_got"),
    ("0h 0Dh Invalid SGL Segment Descriptor", "4.1.2", "transfers::bad_sgls_are_refused"),
    ("0h 0Eh Invalid Number of SGL Descriptors", "4.1.2", "transfers::a_loop_of_segments_ends"),
    ("0h 0Fh Data SGL Length Invalid", "4.1.2", "transfers::bad_sgls_are_refused"),
    ("0h 11h SGL Descriptor Type Invalid", "4.1.2", "transfers::bad_sgls_are_refused"),
    ("0h 13h PRP Offset Invalid", "4.1.1", "transfers::bad_prps_are_refused"),
    ("0h 15h Operation Denied", "5.23", "management::every_documented_error"),
    (
        "0h 18h Host Identifier Inconsistent Format",
        "7.5",
        "reservations::long_identifiers_have_long_reports",
    ),
    (
        "0h 1Ch Sanitize Failed",
        "8.21",
        "background::a_failed_sanitize_operation_keeps_everybody_out",
    ),
    ("0h 1Dh Sanitize In Progress", "8.21", "background::an_erase_and_an_overwrite_leave_nothing"),
    ("0h 20h Namespace is Write Protected", "8.12", "io::a_read_only_namespace_takes_no_changes"),
    ("0h 80h LBA Out of Range", "NVM 3.2", "io::every_documented_error_of_data_commands"),
    ("0h 81h Capacity Exceeded", "NVM 3.2", "errors::every_error_has_a_status"),
    ("0h 82h Namespace Not Ready", "NVM 3.2", "errors::every_error_has_a_status"),
    (
        "0h 83h Reservation Conflict",
        "8.19",
        "reservations::each_type_keeps_others_from_what_it_says",
    ),
    (
        "0h 84h Format In Progress",
        "5.14",
        "format::a_format_waits_for_what_is_in_flight_and_refuses_what_comes_meanwhile",
    ),
    ("1h 00h Completion Queue Invalid", "5.5", QUEUE_ERRORS),
    ("1h 01h Invalid Queue Identifier", "5.4", QUEUE_ERRORS),
    ("1h 02h Invalid Queue Size", "5.4", QUEUE_ERRORS),
    (
        "1h 05h Asynchronous Event Request Limit Exceeded",
        "5.2",
        "admin::more_event_requests_than_can_be_parked_are_refused",
    ),
    ("1h 06h Invalid Firmware Slot", "5.12", "firmware::every_documented_error"),
    ("1h 07h Invalid Firmware Image", "5.12", "firmware::every_documented_error"),
    ("1h 08h Invalid Interrupt Vector", "5.4", QUEUE_ERRORS),
    ("1h 09h Invalid Log Page", "5.16", "admin::log_pages_are_there_and_the_supported_ones_say_so"),
    ("1h 0Ah Invalid Format", "5.14", "format::every_documented_error"),
    ("1h 0Ch Invalid Queue Deletion", "5.6", QUEUE_ERRORS),
    ("1h 0Dh Feature Identifier Not Saveable", "5.27", "admin::features_are_set_and_got"),
    ("1h 0Fh Feature Not Namespace Specific", "5.27", "admin::features_are_set_and_got"),
    ("1h 14h Overlapping Range", "5.13", "firmware::every_documented_error"),
    (
        "1h 15h Namespace Insufficient Capacity",
        "5.23",
        "management::without_a_pool_there_is_no_capacity",
    ),
    ("1h 18h Namespace Already Attached", "5.22", "management::every_documented_error"),
    ("1h 19h Namespace Is Private", "5.22", "management::every_documented_error"),
    ("1h 1Ah Namespace Not Attached", "5.22", "management::every_documented_error"),
    ("1h 1Bh Thin Provisioning Not Supported", "5.23", "management::every_documented_error"),
    ("1h 1Ch Controller List Invalid", "5.22", "management::every_documented_error"),
    (
        "1h 1Dh Device Self-test In Progress",
        "5.9",
        "background::self_tests_run_beside_everything_else_and_leave_results",
    ),
    ("1h 83h Command Size Limit Exceeded", "NVM 3.2.2", "media::every_documented_error_of_copy"),
    ("2h 80h Write Fault", "NVM 3.2", "errors::every_error_has_a_status"),
    (
        "2h 81h Unrecovered Read Error",
        "NVM 3.2",
        "media::marked_blocks_cannot_be_read_until_they_are_written",
    ),
    ("2h 85h Compare Failure", "NVM 3.2.1", "io::compare_finds_every_difference"),
    ("2h 86h Access Denied", "NVM 3.2", "errors::every_error_has_a_status"),
];

#[test]
fn every_row_names_a_test_that_there_is() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvme");
    let tables = [REGISTERS, ADMIN_COMMANDS, IO_COMMANDS, FEATURES, LOG_PAGES, ERRORS];
    for (name, section, test) in tables.into_iter().flatten() {
        assert!(!section.is_empty(), "{name}");
        let (module, function) = test.split_once("::").unwrap();
        let source = std::fs::read_to_string(dir.join(format!("{module}.rs"))).unwrap();
        let there = source.contains(&format!("#[test]\nfn {function}() {{"));
        assert!(there, "{name}: there is no test {test}");
    }
}
