//! Templates and targets.
