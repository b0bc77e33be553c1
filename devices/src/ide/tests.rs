//! Descriptor tables, without a channel.
