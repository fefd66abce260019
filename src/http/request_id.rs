//! The name of one request, for its log lines and refusals: unique in practice, and telling nothing.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Sixteen hexadecimal digits. Made only for requests that are refused or logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestId(u64);

impl RequestId {
    /// A fresh id. The odd multiplier spreads a counter over all 64 bits, and the process's random start hides it.
    pub fn new() -> Self {
        static START: OnceLock<u64> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let start = *START.get_or_init(random_start);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(start.wrapping_add(count.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }
}

impl RequestId {
    pub(super) fn digits(self) -> [u8; 16] {
        let nibble = |place: usize| (self.0 >> (60 - 4 * place)) as usize & 0xf;
        std::array::from_fn(|place| b"0123456789abcdef"[nibble(place)])
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

fn random_start() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the ids start at zero: they name requests, they guard nothing.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.digits()).unwrap_or_default())
    }
}
