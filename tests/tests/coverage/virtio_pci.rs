//! The PCI transport and split rings.

use spindle_tests::coverage::{Group, Items, Page, row};

const SPEC: &str = "devices/src/virtio/spec.rs";

/// The page.
pub const PAGE: Page = Page {
    name: "virtio-pci",
    title: "virtio over PCI",
    specification: "virtio 1.2, and where marked PCI 3.0",
    tests: &["devices/tests/virtio"],
    groups: &[
        IDENTITY,
        CAPABILITIES,
        COMMON,
        STATUS,
        FEATURES,
        ISR,
        NOTIFY,
        WINDOW,
        MSIX,
        RING,
        ERRORS,
    ],
};

const IDENTITY: Group = Group {
    title: "The function",
    prefix: "",
    items: None,
    rows: &[
        row("vendor and device ID", "4.1.2", &["transport::the_function_says_what_it_is"]),
        row("revision and subsystem", "4.1.2.1", &["transport::the_function_says_what_it_is"]),
        row(
            "BAR: size, move, decode",
            "PCI 3.0 6.2.5.1",
            &["transport::bars_are_sized_moved_and_switched_off"],
        ),
        row(
            "bus master enable",
            "PCI 3.0 6.2.2",
            &[
                "transport::a_function_that_may_not_reach_memory_waits_until_it_may",
                "interrupts::bus_mastering_off_holds_messages_back",
            ],
        ),
        row(
            "interrupt pin, status, disable",
            "PCI 3.0 6.2.2, 6.2.4",
            &["interrupts::the_wire_goes_up_with_the_isr_and_down_when_it_is_read"],
        ),
        row(
            "function-level reset",
            "PCIe 2.0 6.6.2",
            &["lifecycle::a_function_level_reset_clears_configuration_space_too"],
        ),
    ],
};

const CAPABILITIES: Group = Group {
    title: "Vendor capabilities (`VIRTIO_PCI_CAP_…_CFG`)",
    prefix: "",
    items: Some(Items { file: SPEC, container: "mod cap", except: &[], short: &[] }),
    rows: &[
        row(
            "COMMON",
            "4.1.4.3",
            &["transport::structures_are_where_their_capabilities_say_and_do_not_overlap"],
        ),
        row(
            "NOTIFY",
            "4.1.4.4",
            &["transport::structures_are_where_their_capabilities_say_and_do_not_overlap"],
        ),
        row(
            "ISR",
            "4.1.4.5",
            &["transport::structures_are_where_their_capabilities_say_and_do_not_overlap"],
        ),
        row(
            "DEVICE",
            "4.1.4.6",
            &[
                "transport::structures_are_where_their_capabilities_say_and_do_not_overlap",
                "rng::there_is_no_configuration_where_there_is_nothing_to_configure",
            ],
        ),
        row("PCI", "4.1.4.9", &["transport::the_bar_is_reached_through_configuration_space"]),
    ],
};

const WIDTHS: &str = "transport::every_register_takes_every_width_at_every_alignment";
const SELECTED: &str = "transport::queue_registers_belong_to_the_selected_queue";
const ENABLED: &str = "transport::a_queue_that_is_enabled_stays_where_it_is";
const BACK: &str = "lifecycle::a_reset_puts_every_register_back";
const ONCE: &str = "transport::features_do_not_change_once_agreed";

const COMMON: Group = Group {
    title: "Common configuration",
    prefix: "",
    items: Some(Items { file: SPEC, container: "enum Common", except: &[], short: &[] }),
    rows: &[
        row("device_feature_select", "4.1.4.3", &[WIDTHS, ONCE, BACK]),
        row("device_feature", "4.1.4.3", &["transport::offers_follow_the_configuration", ONCE]),
        row("driver_feature_select", "4.1.4.3", &[WIDTHS, ONCE, BACK]),
        row("driver_feature", "4.1.4.3", &[WIDTHS, ONCE, BACK]),
        row(
            "config_vector",
            "4.1.4.3, 4.1.5.1.2",
            &[
                "interrupts::a_vector_that_does_not_exist_reads_back_as_none",
                "config::a_resize_is_seen_with_an_interrupt_and_a_new_generation",
                BACK,
            ],
        ),
        row(
            "num_queues",
            "4.1.4.3",
            &[WIDTHS, "transport::structures_are_where_their_capabilities_say_and_do_not_overlap"],
        ),
        row(
            "device_status",
            "4.1.4.3, 2.1",
            &[
                "transport::status_bits_are_only_added",
                "lifecycle::a_reset_under_load_ends_only_when_nothing_can_touch_memory_any_more",
                "lifecycle::writes_during_a_reset_are_ignored",
            ],
        ),
        row(
            "config_generation",
            "4.1.4.3, 2.5.1",
            &[WIDTHS, "config::a_resize_is_seen_with_an_interrupt_and_a_new_generation"],
        ),
        row("queue_select", "4.1.4.3", &[SELECTED]),
        row("queue_size", "4.1.4.3", &[SELECTED, ENABLED, BACK]),
        row(
            "queue_vector",
            "4.1.4.3, 4.1.5.1.2",
            &[
                "interrupts::a_vector_that_does_not_exist_reads_back_as_none",
                "interrupts::the_queues_vector_is_raised_once_a_pass",
                BACK,
            ],
        ),
        row("queue_enable", "4.1.4.3", &[SELECTED, ENABLED, BACK]),
        row(
            "queue_notify_off",
            "4.1.4.3, 4.1.4.4",
            &[WIDTHS, "transport::structures_are_where_their_capabilities_say_and_do_not_overlap"],
        ),
        row("queue_desc", "4.1.4.3", &[WIDTHS, SELECTED, ENABLED, BACK]),
        row("queue_driver", "4.1.4.3", &[WIDTHS, BACK]),
        row("queue_device", "4.1.4.3", &[WIDTHS, BACK]),
        row("queue_notify_data", "4.1.4.3 (without VIRTIO_F_NOTIF_CONFIG_DATA: 0)", &[WIDTHS]),
        row(
            "queue_reset",
            "4.1.4.3, 2.6.1",
            &[
                "lifecycle::one_queue_is_reset_while_the_other_works",
                "lifecycle::a_queue_reset_needs_its_feature",
                "lifecycle::a_device_reset_during_a_queue_reset_waits_for_the_queue_too",
            ],
        ),
    ],
};

const STATUS: Group = Group {
    title: "Device status",
    prefix: "",
    items: Some(Items {
        file: SPEC,
        container: "mod status",
        except: &["DRIVER_BITS"],
        short: &[],
    }),
    rows: &[
        row("ACKNOWLEDGE", "2.1", &["transport::status_bits_are_only_added"]),
        row("DRIVER", "2.1", &["transport::status_bits_are_only_added"]),
        row(
            "DRIVER_OK",
            "2.1, 3.1.1",
            &[
                "transport::nothing_is_served_before_driver_ok_and_what_waits_is_served_then",
                "transport::features_are_agreed_or_refused",
                "config::a_resize_before_driver_ok_interrupts_nobody",
            ],
        ),
        row("FEATURES_OK", "2.1, 3.1.1", &["transport::features_are_agreed_or_refused"]),
        row(
            "DEVICE_NEEDS_RESET",
            "2.1.2",
            &[
                "transport::status_bits_are_only_added",
                "abuse::a_chain_that_loops",
                "abuse::a_broken_queue_leaves_the_others_of_the_device_at_work",
            ],
        ),
        row("FAILED", "2.1", &["transport::status_bits_are_only_added"]),
    ],
};

const FEATURES: Group = Group {
    title: "Reserved feature bits (`VIRTIO_F_…`)",
    prefix: "",
    items: Some(Items { file: SPEC, container: "mod feature", except: &[], short: &[] }),
    rows: &[
        row(
            "RING_INDIRECT_DESC",
            "6, 2.7.5.3",
            &[
                "requests::what_was_written_is_read_back_with_every_combination_of_ring_features",
                "abuse::indirect_tables_inside_indirect_tables_and_other_broken_ones",
            ],
        ),
        row(
            "RING_EVENT_IDX",
            "6, 2.7.7, 2.7.10",
            &[
                "interrupts::event_index_and_flags_suppress_interrupts",
                "lifecycle::notifications_are_not_asked_for_while_serving",
            ],
        ),
        row("VERSION_1", "6", &["transport::features_are_agreed_or_refused"]),
        row(
            "RING_RESET",
            "6, 2.6.1",
            &[
                "lifecycle::one_queue_is_reset_while_the_other_works",
                "lifecycle::a_queue_reset_needs_its_feature",
            ],
        ),
    ],
};

const ISR: Group = Group {
    title: "ISR status",
    prefix: "",
    items: Some(Items { file: SPEC, container: "mod isr", except: &[], short: &[] }),
    rows: &[
        row(
            "queue",
            "4.1.4.5",
            &["interrupts::the_wire_goes_up_with_the_isr_and_down_when_it_is_read"],
        ),
        row(
            "config",
            "4.1.4.5",
            &["config::a_resize_is_seen_with_an_interrupt_and_a_new_generation"],
        ),
    ],
};

const NOTIFY: Group = Group {
    title: "Notifications",
    prefix: "",
    items: None,
    rows: &[
        row(
            "notify_off_multiplier",
            "4.1.4.4",
            &["transport::structures_are_where_their_capabilities_say_and_do_not_overlap"],
        ),
        row(
            "notification by eventfd",
            "4.1.5.2",
            &["transport::a_notification_rings_the_eventfd_and_traps_nothing"],
        ),
        row(
            "notification by register",
            "4.1.5.2",
            &["transport::a_notification_that_reaches_the_register_half_rings_too"],
        ),
    ],
};

const WINDOW: Group = Group {
    title: "PCI configuration access",
    prefix: "",
    items: None,
    rows: &[
        row("cap.bar", "4.1.4.9", &["transport::the_bar_is_reached_through_configuration_space"]),
        row(
            "cap.offset",
            "4.1.4.9",
            &["transport::the_bar_is_reached_through_configuration_space"],
        ),
        row(
            "cap.length",
            "4.1.4.9",
            &["transport::the_bar_is_reached_through_configuration_space"],
        ),
        row(
            "pci_cfg_data",
            "4.1.4.9",
            &["transport::the_bar_is_reached_through_configuration_space"],
        ),
    ],
};

const MSIX: Group = Group {
    title: "MSI-X",
    prefix: "",
    items: None,
    rows: &[
        row(
            "message control: table size",
            "PCI 3.0 6.8.2.3",
            &["transport::structures_are_where_their_capabilities_say_and_do_not_overlap"],
        ),
        row(
            "message control: enable",
            "PCI 3.0 6.8.2.3",
            &[
                "interrupts::the_queues_vector_is_raised_once_a_pass",
                "interrupts::the_wire_goes_up_with_the_isr_and_down_when_it_is_read",
            ],
        ),
        row(
            "message control: function mask",
            "PCI 3.0 6.8.2.3",
            &["interrupts::the_function_mask_holds_all_vectors_back"],
        ),
        row(
            "message address and data",
            "PCI 3.0 6.8.2.7, 6.8.2.8",
            &[
                "interrupts::every_table_byte_is_reached_at_every_width",
                "interrupts::a_masked_vector_waits_in_the_pending_bits",
            ],
        ),
        row(
            "vector control: mask",
            "PCI 3.0 6.8.2.9",
            &["interrupts::a_masked_vector_waits_in_the_pending_bits"],
        ),
        row(
            "pending bits",
            "PCI 3.0 6.8.2.10",
            &["interrupts::a_masked_vector_waits_in_the_pending_bits"],
        ),
    ],
};

const RING: Group = Group {
    title: "Split virtqueues",
    prefix: "",
    items: None,
    rows: &[
        row(
            "message framing",
            "2.7.4",
            &[
                "requests::header_data_and_status_may_be_cut_anywhere",
                "requests::a_header_and_its_data_may_share_a_descriptor",
            ],
        ),
        row(
            "descriptor table",
            "2.7.5",
            &["requests::data_may_lie_above_4_gib_and_across_its_own_pages", "soak::random_rings"],
        ),
        row(
            "available ring",
            "2.7.6",
            &["requests::what_was_written_is_read_back_with_every_combination_of_ring_features"],
        ),
        row(
            "VIRTQ_AVAIL_F_NO_INTERRUPT",
            "2.7.7",
            &["interrupts::event_index_and_flags_suppress_interrupts"],
        ),
        row(
            "used ring",
            "2.7.8",
            &[
                "interrupts::the_guest_sees_data_then_status_then_element_then_index_then_interrupt",
                "interrupts::many_completions_of_one_pass_move_the_index_once",
            ],
        ),
        row(
            "VIRTQ_USED_F_NO_NOTIFY",
            "2.7.10",
            &["lifecycle::notifications_are_not_asked_for_while_serving"],
        ),
    ],
};

const ERRORS: Group = Group {
    title: "What a driver must not do",
    prefix: "",
    items: None,
    rows: &[
        row(
            "a chain with a loop",
            "2.7.5.2",
            &["abuse::a_chain_that_loops", "abuse::a_chain_that_is_its_own_successor"],
        ),
        row("a next beyond the table", "2.7.5", &["abuse::a_chain_that_leaves_the_table"]),
        row("a head beyond the table", "2.7.6", &["abuse::a_head_that_is_no_descriptor"]),
        row(
            "an index that jumps or goes back",
            "2.7.6, 2.7.13",
            &["abuse::an_index_that_jumps", "abuse::an_index_that_goes_back"],
        ),
        row(
            "device-readable after device-writable",
            "2.7.4.2",
            &["abuse::what_the_device_reads_behind_what_it_writes"],
        ),
        row(
            "a descriptor in use made available",
            "2.7.13",
            &["abuse::a_descriptor_made_available_twice"],
        ),
        row(
            "a broken indirect table",
            "2.7.5.3.1",
            &[
                "abuse::indirect_tables_inside_indirect_tables_and_other_broken_ones",
                "abuse::an_indirect_table_longer_than_any_request",
            ],
        ),
        row(
            "addresses that are no memory",
            "2.7.5",
            &[
                "abuse::a_status_byte_or_header_outside_of_ram",
                "abuse::data_outside_of_ram_is_an_error_of_that_request",
                "abuse::lengths_beyond_all_memory",
            ],
        ),
        row(
            "rings that are misaligned or no memory",
            "2.7",
            &["abuse::rings_outside_of_ram_or_misaligned"],
        ),
        row("any registers in any order", "4.1", &["soak::random_register_programs"]),
    ],
};
