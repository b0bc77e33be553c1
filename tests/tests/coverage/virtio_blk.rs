//! virtio-blk.

use spindle_tests::coverage::{Group, Items, Page, row};

const SPEC: &str = "devices/src/virtio/blk/spec.rs";
const FIELDS: &str = "config::every_field_is_what_was_configured";
const OFFERS: &str = "transport::offers_follow_the_configuration";
const SEGMENTS: &str = "requests::segments_that_make_no_sense_are_errors";
const DOES: &str = "requests::discards_write_zeroes_and_secure_erases_do_what_they_say";
const UNSUPPORTED: &str = "requests::what_was_not_negotiated_is_unsupported";
const READ_ONLY: &str = "requests::a_read_only_disk_says_so_and_refuses_writes";

/// The page.
pub const PAGE: Page = Page {
    name: "virtio-blk",
    title: "virtio-blk",
    specification: "virtio 1.2",
    tests: &["devices/tests/virtio", "devices/src/virtio/blk/tests.rs"],
    groups: &[FEATURES, CONFIG, REQUESTS, STATUS],
};

const FEATURES: Group = Group {
    title: "Feature bits",
    prefix: "VIRTIO_BLK_F_",
    items: Some(Items { file: SPEC, container: "mod feature", except: &[], short: &[] }),
    rows: &[
        row("VIRTIO_BLK_F_SIZE_MAX", "5.2.3", &[OFFERS, FIELDS]),
        row(
            "VIRTIO_BLK_F_SEG_MAX",
            "5.2.3",
            &[OFFERS, FIELDS, "config::defaults_are_those_of_a_plain_disk"],
        ),
        row("VIRTIO_BLK_F_GEOMETRY", "5.2.3", &[OFFERS, FIELDS]),
        row("VIRTIO_BLK_F_RO", "5.2.3", &[OFFERS, READ_ONLY]),
        row(
            "VIRTIO_BLK_F_BLK_SIZE",
            "5.2.3",
            &[OFFERS, "requests::sectors_smaller_than_the_block_size_are_refused"],
        ),
        row(
            "VIRTIO_BLK_F_FLUSH",
            "5.2.3",
            &[OFFERS, "requests::without_flush_and_cache_control_every_write_is_durable"],
        ),
        row("VIRTIO_BLK_F_TOPOLOGY", "5.2.3", &[OFFERS, FIELDS]),
        row(
            "VIRTIO_BLK_F_CONFIG_WCE",
            "5.2.3",
            &[
                OFFERS,
                "requests::the_cache_mode_can_be_switched",
                "config::writeback_needs_its_feature",
            ],
        ),
        row(
            "VIRTIO_BLK_F_MQ",
            "5.2.3",
            &[
                OFFERS,
                "requests::many_requests_on_many_queues_and_iothreads_each_get_their_own_answer",
            ],
        ),
        row("VIRTIO_BLK_F_DISCARD", "5.2.3", &[OFFERS, DOES, UNSUPPORTED]),
        row("VIRTIO_BLK_F_WRITE_ZEROES", "5.2.3", &[OFFERS, DOES, UNSUPPORTED]),
        row("VIRTIO_BLK_F_LIFETIME", "5.2.3", &[OFFERS, "requests::the_state_of_wear_is_answered"]),
        row("VIRTIO_BLK_F_SECURE_ERASE", "5.2.3", &[OFFERS, DOES, UNSUPPORTED]),
    ],
};

const CONFIG: Group = Group {
    title: "Configuration",
    prefix: "",
    items: Some(Items { file: SPEC, container: "enum Field", except: &[], short: &[] }),
    rows: &[
        row(
            "capacity",
            "5.2.4",
            &[
                FIELDS,
                "config::a_resize_is_seen_with_an_interrupt_and_a_new_generation",
                "config::a_write_to_anything_but_writeback_changes_nothing",
            ],
        ),
        row("size_max", "5.2.4", &[FIELDS]),
        row("seg_max", "5.2.4", &[FIELDS, "config::defaults_are_those_of_a_plain_disk"]),
        row("cylinders", "5.2.4", &[FIELDS]),
        row("heads", "5.2.4", &[FIELDS]),
        row("sectors", "5.2.4", &[FIELDS]),
        row("blk_size", "5.2.4", &[FIELDS, "config::defaults_are_those_of_a_plain_disk"]),
        row("physical_block_exp", "5.2.4", &[FIELDS]),
        row("alignment_offset", "5.2.4", &[FIELDS]),
        row("min_io_size", "5.2.4", &[FIELDS]),
        row("opt_io_size", "5.2.4", &[FIELDS]),
        row(
            "writeback",
            "5.2.4, 5.2.6.2",
            &[
                FIELDS,
                "config::a_disk_without_write_cache_starts_so",
                "requests::the_cache_mode_can_be_switched",
            ],
        ),
        row(
            "num_queues",
            "5.2.4",
            &[
                FIELDS,
                "requests::many_requests_on_many_queues_and_iothreads_each_get_their_own_answer",
            ],
        ),
        row("max_discard_sectors", "5.2.4", &[FIELDS, SEGMENTS]),
        row("max_discard_seg", "5.2.4", &[FIELDS, SEGMENTS]),
        row("discard_sector_alignment", "5.2.4", &[FIELDS]),
        row("max_write_zeroes_sectors", "5.2.4", &[FIELDS, SEGMENTS]),
        row("max_write_zeroes_seg", "5.2.4", &[FIELDS, SEGMENTS]),
        row("write_zeroes_may_unmap", "5.2.4", &[FIELDS]),
        row("max_secure_erase_sectors", "5.2.4", &[FIELDS, SEGMENTS]),
        row("max_secure_erase_seg", "5.2.4", &[FIELDS, SEGMENTS]),
        row("secure_erase_sector_alignment", "5.2.4", &[FIELDS]),
    ],
};

const REQUESTS: Group = Group {
    title: "Requests",
    prefix: "VIRTIO_BLK_T_",
    items: Some(Items { file: SPEC, container: "mod request", except: &[], short: &[] }),
    rows: &[
        row(
            "VIRTIO_BLK_T_IN",
            "5.2.6",
            &[
                "requests::what_was_written_is_read_back_with_every_combination_of_ring_features",
                "requests::reads_and_writes_that_make_no_sense_are_errors",
            ],
        ),
        row(
            "VIRTIO_BLK_T_OUT",
            "5.2.6",
            &[
                "requests::what_was_written_is_read_back_with_every_combination_of_ring_features",
                "requests::reads_and_writes_that_make_no_sense_are_errors",
            ],
        ),
        row("VIRTIO_BLK_T_FLUSH", "5.2.6", &["requests::a_flush_makes_what_was_written_durable"]),
        row("VIRTIO_BLK_T_GET_ID", "5.2.6", &["requests::the_serial_number_is_answered"]),
        row("VIRTIO_BLK_T_GET_LIFETIME", "5.2.6", &["requests::the_state_of_wear_is_answered"]),
        row("VIRTIO_BLK_T_DISCARD", "5.2.6", &[DOES, SEGMENTS]),
        row("VIRTIO_BLK_T_WRITE_ZEROES", "5.2.6", &[DOES, SEGMENTS]),
        row(
            "VIRTIO_BLK_T_SECURE_ERASE",
            "5.2.6",
            &[DOES, SEGMENTS, "tests::a_secure_erase_is_durable_zeros_that_keep_their_space"],
        ),
        row("any other type", "5.2.6", &[UNSUPPORTED]),
    ],
};

const STATUS: Group = Group {
    title: "Answers and errors",
    prefix: "",
    items: None,
    rows: &[
        row(
            "VIRTIO_BLK_S_OK",
            "5.2.6",
            &["requests::what_was_written_is_read_back_with_every_combination_of_ring_features"],
        ),
        row(
            "VIRTIO_BLK_S_IOERR",
            "5.2.6, 5.2.6.2",
            &[
                "errors::every_error_has_a_status",
                "requests::reads_and_writes_that_make_no_sense_are_errors",
                "requests::data_in_the_wrong_direction_is_an_error",
                READ_ONLY,
            ],
        ),
        row(
            "VIRTIO_BLK_S_UNSUPP",
            "5.2.6, 5.2.6.2",
            &["errors::every_error_has_a_status", UNSUPPORTED, SEGMENTS],
        ),
        row(
            "DEVICE_NEEDS_RESET: no whole header",
            "2.1.2, 5.2.6",
            &["abuse::a_request_without_a_whole_header"],
        ),
        row(
            "DEVICE_NEEDS_RESET: no status byte",
            "2.1.2, 5.2.6",
            &["abuse::a_request_without_a_status_byte"],
        ),
        row("werror, rerror: report", "QEMU", &["errors::report_tells_the_guest_and_the_monitor"]),
        row("werror, rerror: ignore", "QEMU", &["errors::ignore_tells_the_guest_that_all_is_well"]),
        row(
            "werror, rerror: stop",
            "QEMU",
            &[
                "errors::stopped_requests_are_tried_again_in_order_when_the_machine_goes_on",
                "errors::a_reset_forgets_parked_requests",
                "errors::the_drivers_own_mistakes_are_always_reported",
            ],
        ),
        row("werror: enospc", "QEMU", &["errors::enospc_stops_for_want_of_space_only"]),
    ],
};
