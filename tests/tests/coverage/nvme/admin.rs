//! What admin commands tell and set.

use spindle_tests::coverage::{Group, Items, row};

use super::SPEC;

pub(super) const IDENTIFY: Group = Group {
    title: "Identify structures",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod cns",
        except: &[],
        short: &[
            ("NAMESPACE", "Identify Namespace"),
            ("CONTROLLER", "Identify Controller"),
            ("ACTIVE_LIST", "Active Namespace ID list"),
            ("DESCRIPTORS", "Namespace Identification Descriptor list"),
            ("CSI_NAMESPACE", "Identify Namespace of an I/O command set"),
            ("CSI_CONTROLLER", "Identify Controller of an I/O command set"),
            ("CSI_ACTIVE_LIST", "Active Namespace ID list of an I/O command set"),
            ("INDEPENDENT_NAMESPACE", "I/O command set independent Identify Namespace"),
            ("ALLOCATED_LIST", "Allocated Namespace ID list"),
            ("ALLOCATED_NAMESPACE", "Identify Namespace of an allocated namespace"),
            ("NAMESPACE_CONTROLLERS", "Controllers attached to a namespace"),
            ("CONTROLLERS", "Controllers of the subsystem"),
            ("CSI_ALLOCATED_LIST", "Allocated Namespace ID list of an I/O command set"),
            ("CSI_ALLOCATED_NAMESPACE", "Identify allocated Namespace of an I/O command set"),
            ("COMMAND_SETS", "I/O command sets"),
        ],
    }),
    rows: &[
        row(
            "Identify Namespace",
            "NVM 4.1.5.1",
            &[
                "admin::every_identify_structure_is_there_or_refused",
                "admin::identify_namespace_says_what_the_namespace_is",
            ],
        ),
        row(
            "Identify Controller",
            "5.17.2.1",
            &[
                "admin::every_identify_structure_is_there_or_refused",
                "admin::identify_controller_says_what_the_controller_is",
            ],
        ),
        row(
            "Active Namespace ID list",
            "5.17.2.2",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "Namespace Identification Descriptor list",
            "5.17.2.3",
            &[
                "admin::every_identify_structure_is_there_or_refused",
                "admin::identifiers_follow_from_the_serial_number_and_differ",
            ],
        ),
        row(
            "Identify Namespace of an I/O command set",
            "5.17.2.5",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "Identify Controller of an I/O command set",
            "5.17.2.6",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "Active Namespace ID list of an I/O command set",
            "5.17.2.7",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "I/O command set independent Identify Namespace",
            "5.17.2.8",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "Allocated Namespace ID list",
            "5.17.2.9",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "Identify Namespace of an allocated namespace",
            "5.17.2.10",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "Controllers attached to a namespace",
            "5.17.2.11",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "Controllers of the subsystem",
            "5.17.2.12",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "Allocated Namespace ID list of an I/O command set",
            "5.17.2.19",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "Identify allocated Namespace of an I/O command set",
            "5.17.2.20",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
        row(
            "I/O command sets",
            "5.17.2.21",
            &["admin::every_identify_structure_is_there_or_refused"],
        ),
    ],
};

pub(super) const FEATURES: Group = Group {
    title: "Features",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod feature",
        // There is no such feature.
        except: &[],
        short: &[
            ("POWER", "Power Management"),
            ("TEMPERATURE", "Temperature Threshold"),
            ("WRITE_CACHE", "Volatile Write Cache"),
            ("QUEUES", "Number of Queues"),
            ("COALESCING", "Interrupt Coalescing"),
            ("VECTOR", "Interrupt Vector Configuration"),
            ("ATOMICITY", "Write Atomicity Normal"),
            ("ASYNC_EVENTS", "Asynchronous Event Configuration"),
            ("KEEP_ALIVE", "Keep Alive Timer"),
            ("RESERVATION_MASK", "Reservation Notification Mask"),
        ],
    }),
    rows: &[
        row("Arbitration", "5.27.1.1", &["arbitration::round_robin_by_bursts"]),
        row("Power Management", "5.27.1.2", &["admin::features_are_set_and_got"]),
        row("Temperature Threshold", "5.27.1.3", &["admin::the_temperature_crosses_a_threshold"]),
        row("Volatile Write Cache", "5.27.1.4", &["admin::the_write_cache_is_the_disks"]),
        row("Number of Queues", "5.27.1.5", &["admin::the_host_gets_as_many_queues_as_there_are"]),
        row(
            "Interrupt Coalescing",
            "5.27.1.6",
            &["coalescing::a_completion_waits_for_others_up_to_the_threshold"],
        ),
        row(
            "Interrupt Vector Configuration",
            "5.27.1.7",
            &["coalescing::one_vector_can_be_left_out"],
        ),
        row("Asynchronous Event Configuration", "5.27.1.8", &["admin::features_are_set_and_got"]),
        row("Timestamp", "5.27.1.10", &["admin::the_timestamp_runs"]),
        row(
            "Keep Alive Timer",
            "5.27.1.12",
            &["admin::a_host_that_is_not_heard_of_in_time_is_taken_for_dead"],
        ),
        row("Host Identifier", "5.27.1.25", &["reservations::long_identifiers_have_long_reports"]),
        row(
            "Reservation Notification Mask",
            "5.27.1.26",
            &["reservations::a_notice_is_an_event_unless_it_is_masked"],
        ),
        row(
            "Reservation Persistence",
            "5.27.1.27",
            &["reservations::reservations_persist_through_power_loss_where_they_are_told_to"],
        ),
        row("Error Recovery", "NVM 4.1.3.2", &["admin::features_are_set_and_got"]),
        row("Write Atomicity Normal", "NVM 4.1.3.3", &["admin::features_are_set_and_got"]),
        row(
            "saved values",
            "5.27",
            &["admin::saved_values_are_there_after_a_reset_and_after_a_restart"],
        ),
    ],
};

pub(super) const LOG_PAGES: Group = Group {
    title: "Log pages",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod log_page",
        except: &[],
        short: &[
            ("SUPPORTED", "Supported Log Pages"),
            ("ERRORS", "Error Information"),
            ("HEALTH", "SMART / Health Information"),
            ("FIRMWARE", "Firmware Slot Information"),
            ("CHANGED_NAMESPACES", "Changed Namespace List"),
            ("EFFECTS", "Commands Supported and Effects"),
            ("SELF_TEST", "Device Self-test"),
            ("FEATURES", "Feature Identifiers Supported and Effects"),
            ("RESERVATIONS", "Reservation Notification"),
            ("SANITIZE", "Sanitize Status"),
        ],
    }),
    rows: &[
        row(
            "Supported Log Pages",
            "5.16.1.1",
            &["admin::log_pages_are_there_and_the_supported_ones_say_so"],
        ),
        row("Error Information", "5.16.1.2", &["admin::failed_commands_are_in_the_error_log"]),
        row(
            "SMART / Health Information",
            "5.16.1.3",
            &[
                "admin::health_counts_what_was_transferred",
                "admin::health_goes_on_after_a_shutdown_and_a_restart",
            ],
        ),
        row(
            "Firmware Slot Information",
            "5.16.1.4",
            &["firmware::images_go_to_slots_and_become_active_by_a_reset_or_at_once"],
        ),
        row(
            "Changed Namespace List",
            "5.16.1.5",
            &["namespaces::a_namespace_comes_and_goes_and_the_host_is_told"],
        ),
        row(
            "Commands Supported and Effects",
            "5.16.1.6",
            &["admin::log_pages_are_there_and_the_supported_ones_say_so"],
        ),
        row("Device Self-test", "5.16.1.7", &["background::a_self_test_finds_what_cannot_be_read"]),
        row("Reservation Notification", "5.16.1.24", &["reservations::a_host_preempts_another"]),
        row(
            "Sanitize Status",
            "5.16.1.25",
            &["background::a_failed_sanitize_operation_keeps_everybody_out"],
        ),
        row(
            "Feature Identifiers Supported and Effects",
            "5.16.1.19",
            &["admin::log_pages_are_there_and_the_supported_ones_say_so"],
        ),
    ],
};

pub(super) const EVENTS: Group = Group {
    title: "Asynchronous events",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod event",
        except: &[],
        short: &[
            ("INVALID_DOORBELL", "Error: write to an invalid doorbell register"),
            ("INVALID_DOORBELL_VALUE", "Error: invalid doorbell write value"),
            ("TEMPERATURE", "Health: temperature threshold crossed"),
            ("NAMESPACES", "Notice: namespace attribute changed"),
            ("RESERVATION", "I/O command set specific: reservation log page available"),
            ("SANITIZE", "I/O command set specific: sanitize operation completed"),
        ],
    }),
    rows: &[
        row(
            "Error: write to an invalid doorbell register",
            "5.2.1",
            &["doorbells::bad_doorbells_are_events_and_change_nothing"],
        ),
        row(
            "Error: invalid doorbell write value",
            "5.2.1",
            &["doorbells::bad_doorbells_are_events_and_change_nothing"],
        ),
        row(
            "Health: temperature threshold crossed",
            "5.2.1",
            &["admin::the_temperature_crosses_a_threshold"],
        ),
        row(
            "Notice: namespace attribute changed",
            "5.2.1",
            &["namespaces::a_namespace_comes_and_goes_and_the_host_is_told"],
        ),
        row(
            "I/O command set specific: reservation log page available",
            "5.2.1",
            &["reservations::a_notice_is_an_event_unless_it_is_masked"],
        ),
        row(
            "I/O command set specific: sanitize operation completed",
            "5.2.1",
            &["background::an_erase_and_an_overwrite_leave_nothing"],
        ),
    ],
};
