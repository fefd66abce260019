//! `seal`: the SHA-256 of all that follows its line, so that a file that has lost or garbled a line is refused.
//!
//! A line less makes a file as good as any other: nothing else tells that a `deny`, or a narrower line, is gone from above
//! what a broader line allows. A seal tells slips, copies that stopped half-way and files read while they were written; it
//! does not stop whoever may write the file, who can write a seal too.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};

use crate::settings::Section;

pub(super) const NAME: &str = "seal";

/// Reports a seal that is not that of the file, or that does not cover all of it.
pub(super) fn check(section: &mut Section<'_>) {
    let Some(node) = section.node(NAME).filter(|node| !node.is_off()) else { return };
    let Some(seal) = node.text() else { return };
    let (before, after) = node.around();
    if !before.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#')) {
        node.problem::<()>("seal covers what follows it; write it before all other lines");
    }
    let own = seal_of(after);
    if seal != own {
        node.problem::<()>(format!(
            "seal is not that of the lines below it, so some of them were lost or changed; \
             if they all are as they should be, write seal = \"{own}\""
        ));
    }
}

/// What `tail -n +N FILE | sha256sum` says.
fn seal_of(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::seal_of;

    #[test]
    fn a_seal_is_what_sha256sum_says() {
        assert_eq!(seal_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
