//! What others see of the keyring, over stores that can be held, counted and broken.

mod ceiling;
mod changes;
mod faults;
mod growth;
mod harness;
mod last_used;
mod look_up;
mod memo;
mod snapshot;
