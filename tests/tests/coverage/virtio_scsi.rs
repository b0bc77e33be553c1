//! The virtio-scsi adapter. The units behind it are on the page of SCSI.

use spindle_tests::coverage::{Group, Items, Page, row};

const SPEC: &str = "devices/src/virtio/scsi/spec.rs";
const GOLDEN: &str = "adapter::the_configuration_has_its_golden_bytes";
const WIDTHS: &str = "adapter::every_width_and_alignment_reads_and_writes_the_same_bytes";
const SIZES: &str = "adapter::sense_and_cdb_sizes_can_be_set";
const ENDS: &str = "functions::a_function_ends_what_it_names_and_nothing_else";
const ABORTS: &str = "functions::an_aborted_command_is_answered_before_the_function";
const QUERIES: &str = "functions::queries_tell_what_is_under_way";
const NOBODY: &str = "functions::functions_for_nobody_are_refused";
const PLUG: &str = "lifecycle::units_come_and_go_and_the_driver_is_told";
const NO_EVENTS: &str = "lifecycle::without_the_features_no_events_are_sent";
const RESIZE: &str = "attention::a_resize_is_told_once";
const NOTICE: &str = "drives::notifications_are_sent_to_whom_they_were_promised";
const BROKEN: &str = "adapter::broken_chains_need_a_reset";

/// The page.
pub const PAGE: Page = Page {
    name: "virtio-scsi",
    title: "virtio-scsi",
    specification: "virtio 1.2",
    tests: &["devices/tests/scsi"],
    groups: &[FEATURES, CONFIG, QUEUES, RESPONSES, CONTROL, FUNCTIONS, NOTIFICATIONS, EVENTS],
};

const FEATURES: Group = Group {
    title: "Feature bits",
    prefix: "VIRTIO_SCSI_F_",
    items: Some(Items { file: SPEC, container: "mod feature", except: &[], short: &[] }),
    rows: &[
        row("VIRTIO_SCSI_F_HOTPLUG", "5.6.3", &[GOLDEN, PLUG, NO_EVENTS]),
        row("VIRTIO_SCSI_F_CHANGE", "5.6.3", &[GOLDEN, RESIZE, NO_EVENTS]),
    ],
};

const CONFIG: Group = Group {
    title: "Configuration",
    prefix: "",
    items: Some(Items { file: SPEC, container: "enum Field", except: &[], short: &[] }),
    rows: &[
        row("num_queues", "5.6.4", &[GOLDEN, WIDTHS]),
        row("seg_max", "5.6.4", &[GOLDEN, WIDTHS]),
        row("max_sectors", "5.6.4", &[GOLDEN, WIDTHS]),
        row("cmd_per_lun", "5.6.4", &[GOLDEN, WIDTHS]),
        row("event_info_size", "5.6.4", &[GOLDEN, WIDTHS]),
        row("sense_size", "5.6.4", &[GOLDEN, WIDTHS, SIZES]),
        row("cdb_size", "5.6.4", &[GOLDEN, WIDTHS, SIZES]),
        row("max_channel", "5.6.4", &[GOLDEN, WIDTHS]),
        row("max_target", "5.6.4", &[GOLDEN, WIDTHS]),
        row("max_lun", "5.6.4", &[GOLDEN, WIDTHS]),
    ],
};

const QUEUES: Group = Group {
    title: "Queues and requests",
    prefix: "",
    items: None,
    rows: &[
        row("controlq", "5.6.2, 5.6.6.2", &[ENDS, BROKEN]),
        row("eventq", "5.6.2, 5.6.6.3", &[PLUG, "adapter::broken_event_buffers_need_a_reset"]),
        row(
            "request queues",
            "5.6.2, 5.6.6.1",
            &[
                "queues::many_commands_on_many_queues_and_units_each_get_their_own_answer",
                BROKEN,
                "adapter::a_chain_that_is_offered_twice_needs_a_reset",
            ],
        ),
        row("lun", "5.6.6.1", &["adapter::units_have_their_addresses"]),
        row("id", "5.6.6.1, 5.6.6.2", &[ABORTS, QUERIES]),
        row("cdb", "5.6.6.1", &[SIZES]),
        row("sense, sense_len", "5.6.6.1", &[SIZES, "errors::every_error_has_its_sense_data"]),
        row("residual", "5.6.6.1", &["errors::every_error_has_its_sense_data"]),
        row(
            "device reset",
            "2.1",
            &[
                "lifecycle::a_reset_under_load_ends_only_when_nothing_can_touch_memory_any_more",
                "lifecycle::a_reset_with_functions_under_way_forgets_them",
            ],
        ),
        row(
            "queue reset",
            "2.6.1",
            &["lifecycle::one_queue_is_reset_while_a_function_waits_for_it"],
        ),
    ],
};

const RESPONSES: Group = Group {
    title: "Responses",
    prefix: "VIRTIO_SCSI_S_",
    items: Some(Items { file: SPEC, container: "mod response", except: &[], short: &[] }),
    rows: &[
        row(
            "VIRTIO_SCSI_S_OK",
            "5.6.6.1",
            &["reads_writes::every_form_reads_and_writes_the_same_blocks"],
        ),
        row(
            "VIRTIO_SCSI_S_OVERRUN",
            "5.6.6.1",
            &["adapter::a_target_answers_for_units_that_it_does_not_have"],
        ),
        row("VIRTIO_SCSI_S_ABORTED", "5.6.6.1", &[ABORTS, ENDS]),
        row(
            "VIRTIO_SCSI_S_BAD_TARGET",
            "5.6.6.1",
            &["adapter::units_have_their_addresses", NOBODY],
        ),
        row("VIRTIO_SCSI_S_RESET", "5.6.6.1", &[ENDS]),
        row(
            "VIRTIO_SCSI_S_FAILURE",
            "5.6.6.1",
            &["adapter::data_in_both_directions_or_outside_of_ram_fail"],
        ),
        row("VIRTIO_SCSI_S_FUNCTION_SUCCEEDED", "5.6.6.2", &[QUERIES]),
        row("VIRTIO_SCSI_S_FUNCTION_REJECTED", "5.6.6.2", &[NOBODY]),
        row("VIRTIO_SCSI_S_INCORRECT_LUN", "5.6.6.2", &[NOBODY]),
    ],
};

const CONTROL: Group = Group {
    title: "Control requests",
    prefix: "VIRTIO_SCSI_T_",
    items: Some(Items { file: SPEC, container: "mod control", except: &[], short: &[] }),
    rows: &[
        row("VIRTIO_SCSI_T_TMF", "5.6.6.2", &[ENDS, NOBODY]),
        row("VIRTIO_SCSI_T_AN_QUERY", "5.6.6.2", &[NOTICE]),
        row("VIRTIO_SCSI_T_AN_SUBSCRIBE", "5.6.6.2", &[NOTICE]),
    ],
};

const FUNCTIONS: Group = Group {
    title: "Task management functions",
    prefix: "VIRTIO_SCSI_T_TMF_",
    items: Some(Items { file: SPEC, container: "mod tmf", except: &[], short: &[] }),
    rows: &[
        row(
            "VIRTIO_SCSI_T_TMF_ABORT_TASK",
            "5.6.6.2",
            &[ABORTS, "functions::a_command_that_the_device_has_not_seen_is_never_begun"],
        ),
        row(
            "VIRTIO_SCSI_T_TMF_ABORT_TASK_SET",
            "5.6.6.2",
            &[ENDS, "functions::functions_end_jobs_and_parked_commands"],
        ),
        row("VIRTIO_SCSI_T_TMF_CLEAR_ACA", "5.6.6.2", &[NOBODY]),
        row(
            "VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET",
            "5.6.6.2",
            &[ENDS, "functions::a_unit_reset_ends_the_commands_of_other_adapters_too"],
        ),
        row("VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET", "5.6.6.2", &[ENDS]),
        row(
            "VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET",
            "5.6.6.2",
            &[ENDS, "functions::a_unit_reset_ends_the_commands_of_other_adapters_too"],
        ),
        row("VIRTIO_SCSI_T_TMF_QUERY_TASK", "5.6.6.2", &[QUERIES]),
        row("VIRTIO_SCSI_T_TMF_QUERY_TASK_SET", "5.6.6.2", &[QUERIES]),
    ],
};

const NOTIFICATIONS: Group = Group {
    title: "Asynchronous notifications",
    prefix: "VIRTIO_SCSI_EVT_ASYNC_",
    items: Some(Items { file: SPEC, container: "mod notification", except: &[], short: &[] }),
    rows: &[row("VIRTIO_SCSI_EVT_ASYNC_MEDIA_CHANGE", "5.6.6.2", &[NOTICE])],
};

const EVENTS: Group = Group {
    title: "Events",
    prefix: "VIRTIO_SCSI_T_",
    items: Some(Items {
        file: SPEC,
        container: "mod event",
        except: &["NO_EVENT"],
        short: &[
            ("RESCAN", "VIRTIO_SCSI_EVT_RESET_RESCAN"),
            ("REMOVED", "VIRTIO_SCSI_EVT_RESET_REMOVED"),
        ],
    }),
    rows: &[
        row("VIRTIO_SCSI_T_TRANSPORT_RESET", "5.6.6.3", &[PLUG]),
        row("VIRTIO_SCSI_EVT_RESET_RESCAN", "5.6.6.3", &[PLUG]),
        row("VIRTIO_SCSI_EVT_RESET_REMOVED", "5.6.6.3", &[PLUG]),
        row("VIRTIO_SCSI_T_ASYNC_NOTIFY", "5.6.6.3", &[NOTICE]),
        row("VIRTIO_SCSI_T_PARAM_CHANGE", "5.6.6.3", &[RESIZE]),
        row(
            "VIRTIO_SCSI_T_EVENTS_MISSED",
            "5.6.6.3",
            &["lifecycle::events_without_buffers_are_kept_and_too_many_are_counted_as_missed"],
        ),
    ],
};
