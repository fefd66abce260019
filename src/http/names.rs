//! Sets of field names that are asked for with every field of every message.
//!
//! Knows no rules: what is in a set, and what that means, is said where it is used.

/// Names that nearly no field has: most others differ in their length or first letter, which is asked first.
pub(super) struct Names {
    names: &'static [&'static str],
    /// A bit for each length.
    lengths: u64,
    /// A bit for each first letter.
    initials: u32,
}

impl Names {
    /// Lower-case names of 1 to 63 bytes.
    pub(super) const fn new(names: &'static [&'static str]) -> Self {
        let mut lengths = 0_u64;
        let mut initials = 0_u32;
        let mut at = 0;
        while at < names.len() {
            lengths |= 1_u64 << names[at].len();
            initials |= 1_u32 << (names[at].as_bytes()[0] & 0x1f);
            at += 1;
        }
        Self { names, lengths, initials }
    }

    pub(super) fn contain(&self, name: &str) -> bool {
        let Some(initial) = name.as_bytes().first() else { return false };
        let has_initial = (self.initials >> (initial & 0x1f)) & 1 == 1;
        let has_length = name.len() < 64 && (self.lengths >> name.len()) & 1 == 1;
        has_initial && has_length && self.names.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_contain_themselves_and_nothing_else() {
        const LIST: [&str; 4] = ["te", "trailer", "upgrade", "x-real-ip"];
        static NAMES: Names = Names::new(&LIST);
        for name in LIST {
            assert!(NAMES.contain(name), "{name}");
        }
        let long = "t".repeat(64 + 2);
        for name in ["", "t", "tf", "ue", "trailex", "uprails", "u-real-ip", "x-real-ipx", &long] {
            assert!(!NAMES.contain(name), "{name}");
        }
    }
}
