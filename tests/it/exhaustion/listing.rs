//! The listing among very many keys: a page costs what it holds, wherever it lies.
//!
//! `PORTCULLIS_STORE_KEYS=100000` sets how many there are; the times are held to their bound then, too.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::harness::{Installation, check};
use crate::store_faults::disk::fill;

const KEYS: u64 = 1_000;
const PAGE_SIZE: u64 = 50;
const TURNS: usize = 20;
const P99_MAX: Duration = Duration::from_millis(50);

/// Catalogue I15.
#[test]
fn a_page_of_very_many_keys_is_there_at_once_wherever_it_lies() {
    let wanted = std::env::var("PORTCULLIS_STORE_KEYS").ok();
    let keys = wanted.as_ref().map_or(KEYS, |count| count.parse().expect("a number"));
    let installation = Installation::new();
    let root = installation.init();
    fill(&installation, keys);
    let served = installation.serve();
    let caller = served.caller(&root).keep_alive();
    let total = keys + 1;
    let last = total.div_ceil(PAGE_SIZE);
    let mut seen = BTreeSet::new();
    let mut turns = Vec::new();
    for page in [1, last / 2, last - 1, last] {
        for _ in 0..TURNS {
            let begun = Instant::now();
            let answer = caller.get(&format!("/api/keys?page={page}&page_size={PAGE_SIZE}"));
            turns.push(begun.elapsed());
            let listed = check(&answer, 200).json();
            assert_eq!((&listed["total_count"], &listed["page"]), (&total.into(), &page.into()));
            let ids = listed["data"].as_array().expect("rows").iter().map(|row| row["id"].as_str().expect("an id"));
            let count = ids.map(|id| seen.insert(id.to_owned())).count() as u64;
            assert_eq!(count, PAGE_SIZE.min(total - (page - 1) * PAGE_SIZE), "page {page}");
        }
    }
    assert_eq!(seen.len() as u64, 3 * PAGE_SIZE + total - (last - 1) * PAGE_SIZE, "no key is on two pages");
    turns.sort_unstable();
    let p99 = turns[turns.len() * 99 / 100];
    println!("{keys} keys: a page within {:?} at the median, {p99:?} at p99", turns[turns.len() / 2]);
    if wanted.is_some() {
        assert!(p99 < P99_MAX, "{p99:?} of {keys} keys");
    }
}
