//! HTTP as this gate speaks it.
pub mod framing;
