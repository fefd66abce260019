//! Real clients over every wire.
