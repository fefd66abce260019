//! Keeps what is in this process's memory from leaving it: no core dumps, no other process of the same user that looks in.
//!
//! Every command holds a key for a while. A superuser can still look, and swap is the operator's to encrypt.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// To be called before any key is read. Best effort: a sandbox that forbids these calls keeps nobody from working.
pub(super) fn keep_memory_private() {
    // The first is what counts; a handler that core dumps are piped to goes by the second.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}
