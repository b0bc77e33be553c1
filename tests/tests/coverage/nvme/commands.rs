//! What a host can ask for.

use spindle_tests::coverage::{Group, Items, row};

use super::SPEC;

pub(super) const ADMIN_COMMANDS: Group = Group {
    title: "Admin commands",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod admin",
        except: &[],
        short: &[
            ("DELETE_SQ", "Delete I/O Submission Queue"),
            ("CREATE_SQ", "Create I/O Submission Queue"),
            ("DELETE_CQ", "Delete I/O Completion Queue"),
            ("CREATE_CQ", "Create I/O Completion Queue"),
            ("ASYNC_EVENT", "Asynchronous Event Request"),
            ("FIRMWARE_DOWNLOAD", "Firmware Image Download"),
            ("SELF_TEST", "Device Self-test"),
            ("DOORBELL_BUFFER", "Doorbell Buffer Config"),
            ("FORMAT", "Format NVM"),
        ],
    }),
    rows: &[
        row("Abort", "5.1", &["errors::a_parked_command_is_aborted_or_goes_with_its_queue"]),
        row(
            "Asynchronous Event Request",
            "5.2",
            &["admin::event_requests_are_parked_and_answered_when_something_happens"],
        ),
        row(
            "Create I/O Completion Queue",
            "5.4",
            &["queues::every_documented_error_of_creating_and_deleting"],
        ),
        row(
            "Create I/O Submission Queue",
            "5.5",
            &["queues::every_documented_error_of_creating_and_deleting"],
        ),
        row(
            "Delete I/O Completion Queue",
            "5.6",
            &["queues::every_documented_error_of_creating_and_deleting"],
        ),
        row(
            "Delete I/O Submission Queue",
            "5.7",
            &["queues::deleting_a_queue_waits_for_what_is_in_flight"],
        ),
        row(
            "Doorbell Buffer Config",
            "5.8",
            &["doorbells::shadows_save_doorbells_and_lose_no_command"],
        ),
        row(
            "Device Self-test",
            "5.9",
            &["background::self_tests_run_beside_everything_else_and_leave_results"],
        ),
        row(
            "Firmware Commit",
            "5.12",
            &["firmware::images_go_to_slots_and_become_active_by_a_reset_or_at_once"],
        ),
        row("Firmware Image Download", "5.13", &["firmware::every_documented_error"]),
        row(
            "Format NVM",
            "5.14",
            &["format::a_format_erases_and_changes_the_block_size_for_every_queue"],
        ),
        row("Get Features", "5.15", &["admin::features_are_set_and_got"]),
        row("Get Log Page", "5.16", &["admin::a_log_is_read_in_parts"]),
        row("Identify", "5.17", &["admin::every_identify_structure_is_there_or_refused"]),
        row(
            "Keep Alive",
            "5.18",
            &["admin::a_host_that_is_not_heard_of_in_time_is_taken_for_dead"],
        ),
        row(
            "Namespace Attachment",
            "5.22",
            &[
                "management::a_namespace_is_created_attached_used_detached_and_deleted",
                "management::attachments_outlive_the_machine",
            ],
        ),
        row("Namespace Management", "5.23", &["management::every_documented_error"]),
        row("Sanitize", "5.24", &["background::an_erase_and_an_overwrite_leave_nothing"]),
        row("Set Features", "5.27", &["admin::features_are_set_and_got"]),
    ],
};

pub(super) const IO_COMMANDS: Group = Group {
    title: "I/O commands",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod nvm",
        except: &[],
        short: &[("DATASET", "Dataset Management")],
    }),
    rows: &[
        row("Flush", "7.1", &["io::durable_is_what_was_flushed_or_forced"]),
        row(
            "Reservation Acquire",
            "7.2",
            &[
                "reservations::a_host_preempts_another",
                "reservations::a_preempt_and_abort_ends_commands_first",
            ],
        ),
        row("Reservation Register", "7.3", &["reservations::keys_are_checked"]),
        row("Reservation Release", "7.4", &["reservations::keys_are_checked"]),
        row("Reservation Report", "7.5", &["reservations::a_report_tells_who_is_registered"]),
        row("Compare", "NVM 3.2.1", &["io::compare_finds_every_difference"]),
        row("Copy", "NVM 3.2.2", &["media::copies_are_copies"]),
        row("Dataset Management", "NVM 3.2.3", &["io::ranges_are_deallocated"]),
        row("Read", "NVM 3.2.4", &["io::what_is_written_is_on_the_medium_and_read_back"]),
        row("Verify", "NVM 3.2.5", &["io::verify_reads_without_a_transfer"]),
        row("Write", "NVM 3.2.6", &["io::what_is_written_is_on_the_medium_and_read_back"]),
        row(
            "Write Uncorrectable",
            "NVM 3.2.7",
            &["media::marked_blocks_cannot_be_read_until_they_are_written"],
        ),
        row(
            "Write Zeroes",
            "NVM 3.2.8",
            &["io::zeroes_are_written_with_and_without_giving_space_back"],
        ),
        row(
            "Compare and Write",
            "3.4.2",
            &["fused::the_write_happens_only_if_the_compare_does_not_fail"],
        ),
    ],
};
