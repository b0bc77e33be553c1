//! virtio-rng.

use spindle_tests::coverage::{Group, Page, row};

/// The page.
pub const PAGE: Page = Page {
    name: "virtio-rng",
    title: "virtio-rng",
    specification: "virtio 1.2",
    tests: &["devices/tests/virtio"],
    groups: &[Group {
        title: "Entropy device",
        prefix: "",
        items: None,
        rows: &[
            row("device type", "5.4.1", &["rng::buffers_are_filled"]),
            row(
                "no configuration",
                "5.4.4",
                &["rng::there_is_no_configuration_where_there_is_nothing_to_configure"],
            ),
            row(
                "requestq",
                "5.4.2, 5.4.6",
                &[
                    "rng::buffers_are_filled",
                    "independent::its_random_number_driver_gets_random_numbers",
                ],
            ),
            row("at least one byte, less than asked", "5.4.6.2", &["rng::the_rate_is_limited"]),
            row(
                "reset while it waits",
                "2.1.1",
                &["rng::a_wait_for_the_next_period_does_not_hold_up_a_reset"],
            ),
            row(
                "DEVICE_NEEDS_RESET: a buffer that is no memory",
                "2.1.2",
                &["rng::what_is_no_ram_breaks_the_ring"],
            ),
        ],
    }],
};
