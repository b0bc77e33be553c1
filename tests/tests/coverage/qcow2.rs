//! qcow2: the header, what its tables say, and what is refused.

use spindle_tests::coverage::{Group, Items, Page, row};

const HEADER_RS: &str = "block/src/qcow2/header.rs";
const SIZES: &str = "golden::every_cluster_size_version_and_compression";
const MADE: &str = "making::created_images_are_sound_and_empty_for_qemu";
const NAMES: &str = "making::impossible_images_are_refused_and_backing_files_are_named";
const ENCRYPTED: &str = "encrypted::images_are_read_and_written_by_both";
const REFUSED: &str = "hostile::features_that_are_not_known_are_refused_by_name";
const DAMAGE: &str = "hostile::damaged_tables_do_no_harm";
const PARSES: &str = "hostile::any_bytes_parse_or_are_refused";
const KEPT: &str = "hostile::compatible_bits_are_kept_and_autoclear_bits_cleared";
const GUESTS: &str = "making::snapshots_and_bitmaps_are_not_harmed";
const GROWS: &str = "making::disks_grow_and_what_they_gain_is_zero";
const REBUILT: &str = "making::an_image_that_was_not_closed_is_rebuilt";
const SNAPSHOTS: &str = "tests/snapshots::snapshots_hold_what_the_disk_held";
const WIDTHS: &str = "widths::images_with_refcounts_of_every_width";
const VM_STATE: &str = "tests/snapshots::machine_state_stays_with_its_snapshot";
const TOO_LITTLE: &str = "tests/snapshots::a_snapshot_table_that_says_too_little_is_written_again";
const DATA_FILE: &str = "data_file::every_cluster_is_where_it_is_on_the_disk";
const GROWS_BESIDE: &str = "data_file::disks_grow_and_shrink_with_their_data_files";
const SUBCLUSTERS: &str = "tests/subclusters::a_write_gives_a_place_to_what_it_touches_alone";
const FIELDS: &str = "tests/header::every_impossible_field_is_refused_by_name";

/// The page.
pub const PAGE: Page = Page {
    name: "qcow2",
    title: "qcow2 images",
    specification: "QEMU's `docs/interop/qcow2.txt`",
    tests: &["block/src/qcow2"],
    groups: &[HEADER, INCOMPATIBLE, OTHER_BITS, EXTENSIONS, ENTRIES, ERRORS, RULES],
};

const HEADER: Group = Group {
    title: "Header fields",
    prefix: "",
    items: None,
    rows: &[
        row("magic", "Header", &[REFUSED, PARSES]),
        row("version", "Header", &[SIZES, MADE, FIELDS]),
        row("backing_file_offset", "Header", &[NAMES, PARSES, FIELDS]),
        row("backing_file_size", "Header", &[NAMES, PARSES, FIELDS]),
        row("cluster_bits", "Header", &[SIZES, MADE, FIELDS]),
        row("size", "Header", &[MADE, GROWS, FIELDS]),
        row("crypt_method", "Header", &[REFUSED, ENCRYPTED]),
        row("l1_size", "Header", &[GROWS, FIELDS]),
        row("l1_table_offset", "Header", &[GROWS, DAMAGE, FIELDS]),
        row(
            "refcount_table_offset",
            "Header",
            &[DAMAGE, FIELDS, "crash_tests/mod::refcount_tables_that_outgrow_their_place"],
        ),
        row(
            "refcount_table_clusters",
            "Header",
            &[DAMAGE, FIELDS, "crash_tests/mod::refcount_tables_that_outgrow_their_place"],
        ),
        row("nb_snapshots", "Header", &[SNAPSHOTS, GUESTS, FIELDS]),
        row("size of the VM state", "Snapshots", &[VM_STATE]),
        row("extra data of a snapshot", "Snapshots", &[TOO_LITTLE]),
        row("snapshots_offset", "Header", &[SNAPSHOTS, GUESTS, FIELDS]),
        row("incompatible_features", "Header", &[REFUSED]),
        row("compatible_features", "Header", &[KEPT]),
        row("autoclear_features", "Header", &[KEPT]),
        row("refcount_order", "Header", &[WIDTHS, REFUSED, FIELDS]),
        row("header_length", "Header", &[PARSES, FIELDS]),
        row("compression_type", "Additional fields", &[SIZES, NAMES, FIELDS]),
    ],
};

const INCOMPATIBLE: Group = Group {
    title: "Incompatible feature bits",
    prefix: "",
    items: Some(Items { file: HEADER_RS, container: "mod incompatible", except: &[], short: &[] }),
    rows: &[
        row("dirty", "Header, bit 0", &[REBUILT, "mutations::dirty_bit_first"]),
        row(
            "corrupt",
            "Header, bit 1",
            &[REFUSED, "hostile::a_write_through_a_lying_entry_is_refused_and_remembered"],
        ),
        row("data_file", "Header, bit 2", &[DATA_FILE, "data_file::random_histories", REFUSED]),
        row("compression", "Header, bit 3", &[SIZES, FIELDS]),
        row(
            "extended_l2",
            "Header, bit 4",
            &[SUBCLUSTERS, "histories::clusters_of_subclusters", REFUSED],
        ),
        row("any other", "Header (refused)", &[REFUSED]),
    ],
};

const OTHER_BITS: Group = Group {
    title: "Compatible and autoclear feature bits",
    prefix: "",
    items: None,
    rows: &[
        row(
            "lazy refcounts",
            "Header, compatible bit 0",
            &[
                "crash_tests/mod::lazy_refcounts",
                "histories::version_2_lazy_refcounts_and_a_tiny_cache",
            ],
        ),
        row("bitmaps", "Header, autoclear bit 0", &[GUESTS]),
        row("raw external data", "Header, autoclear bit 1", &[DATA_FILE, GROWS_BESIDE]),
        row("any other compatible bit", "Header (kept)", &[KEPT]),
        row("any other autoclear bit", "Header (cleared)", &[KEPT]),
    ],
};

const EXTENSIONS: Group = Group {
    title: "Header extensions",
    prefix: "EXT_",
    items: None,
    rows: &[
        row("end of the list", "Header extensions", &[PARSES]),
        row("backing file format name", "Header extensions", &[NAMES]),
        row(
            "external data file name",
            "Header extensions",
            &["backing::the_data_files_name_changes"],
        ),
        row("feature name table", "Feature name table", &[REFUSED]),
        row(
            "full disk encryption header pointer",
            "Full disk encryption header pointer",
            &[ENCRYPTED, "encrypted::hostile_encryption_headers_are_refused"],
        ),
        row(
            "bitmaps",
            "Bitmaps extension",
            &[
                "tests/bitmaps::what_is_written_is_recorded",
                "tests/bitmaps::a_bitmap_that_was_left_in_use_says_nothing",
                "crash_tests/bitmaps::what_has_changed_is_dirty",
                GUESTS,
            ],
        ),
    ],
};

const ENTRIES: Group = Group {
    title: "What an L2 entry may be",
    prefix: "",
    items: Some(Items {
        file: "block/src/qcow2/layout.rs",
        container: "enum Entry",
        except: &[],
        short: &[],
    }),
    rows: &[
        row(
            "unallocated",
            "Cluster mapping",
            &[
                "golden::chains_with_zero_clusters_and_short_backing_files",
                "histories::backing_chains",
            ],
        ),
        row(
            "zero",
            "Cluster mapping, bit 0",
            &[
                "golden::chains_with_zero_clusters_and_short_backing_files",
                "histories::every_cluster_size",
            ],
        ),
        row(
            "data",
            "Cluster mapping",
            &[SIZES, "histories::every_cluster_size", "crash_tests/mod::a_snapshot_is_not_harmed"],
        ),
        row(
            "compressed",
            "Cluster mapping, bit 62",
            &[
                SIZES,
                "histories::compressed_images_are_written_over",
                "crash_tests/mod::compressed_clusters",
            ],
        ),
        row("bad", "reserved bits", &[DAMAGE, "tests/subclusters::impossible_bitmaps_are_found"]),
        row(
            "subclusters",
            "Extended L2 Entries",
            &[
                SUBCLUSTERS,
                "tests/subclusters::what_a_snapshot_shares_moves_as_far_as_it_is_there",
                "crash_tests/mod::clusters_of_subclusters",
            ],
        ),
    ],
};

const ERRORS: Group = Group {
    title: "Why a header is refused",
    prefix: "",
    items: Some(Items { file: HEADER_RS, container: "enum HeaderError", except: &[], short: &[] }),
    rows: &[
        row("magic", "Header", &[REFUSED]),
        row("version", "Header", &[FIELDS]),
        row("features", "Header", &[REFUSED]),
        row("encrypted", "Header", &[REFUSED]),
        row("field", "Header", &[FIELDS]),
    ],
};

const RULES: Group = Group {
    title: "Rules that keep an image whole",
    prefix: "",
    items: Some(Items {
        file: "block/src/qcow2/mutation.rs",
        container: "enum Rule",
        except: &[],
        short: &[],
    }),
    rows: &[
        row("sync_before_l2", "writeback.rs", &["mutations::sync_before_l2"]),
        row("sync_before_reftable", "writeback.rs", &["mutations::sync_before_reftable"]),
        row("refcounts_before_l2", "writeback.rs", &["mutations::refcounts_before_l2"]),
        row("data_before_mapping", "write.rs", &["mutations::data_before_mapping"]),
        row("limbo_until_durable", "limbo.rs", &["mutations::limbo_until_durable"]),
        row("limbo_until_unpinned", "limbo.rs", &["mutations::limbo_until_unpinned"]),
        row("dirty_bit_first", "Header, bit 0", &["mutations::dirty_bit_first"]),
        row("cluster_lock", "write.rs", &["mutations::cluster_lock"]),
        row("fill_recycled", "write.rs", &["mutations::fill_recycled"]),
        row("fill_tables", "tables.rs", &["mutations::fill_tables"]),
        row("flush_syncs", "writeback.rs", &["mutations::flush_syncs"]),
        row("copy_shared", "Cluster mapping, bit 63", &["mutations::copy_shared"]),
        row("snapshot_order", "writeback.rs", &["mutations::snapshot_order"]),
        row("durable_leaf", "map.rs", &["mutations::durable_leaf"]),
        row("snapshot_dirty_bit", "snapshot/mod.rs", &["mutations::snapshot_dirty_bit"]),
        row("snapshot_refs_first", "snapshot/mod.rs", &["mutations::snapshot_refs_first"]),
        row("shared_flags_first", "snapshot/mod.rs", &["mutations::shared_flags_first"]),
        row("snapshot_table_first", "snapshot/mod.rs", &["mutations::snapshot_table_first"]),
        row("snapshot_gone_first", "snapshot/mod.rs", &["mutations::snapshot_gone_first"]),
        row("header_in_one_sector", "replace.rs", &["mutations::header_in_one_sector"]),
        row("bitmap_before_data", "bitmap/record.rs", &["mutations::bitmap_before_data"]),
        row("bitmap_refs_first", "bitmap/store.rs", &["mutations::bitmap_refs_first"]),
        row("bitmap_tables_first", "bitmap/store.rs", &["mutations::bitmap_tables_first"]),
        row("bitmap_gone_first", "bitmap/mod.rs", &["mutations::bitmap_gone_first"]),
        row("data_file_before_l2", "data.rs", &["mutations::data_file_before_l2"]),
        row("fill_subclusters", "subclusters.rs", &["mutations::fill_subclusters"]),
    ],
};
