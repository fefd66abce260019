//! Tests of the limiters.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{Allowance, Bucket, Concurrency, FailureLimits, Failures, Quota, Settings};
use crate::settings::{Rate, Reading, Source};

const SECOND: Duration = Duration::from_secs(1);

fn rate(count: u32, per_seconds: u64) -> Rate {
    Rate { count: NonZeroU32::new(count).unwrap(), per: Duration::from_secs(per_seconds) }
}

fn nonzero(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn failures(burst: u32, addresses_max: u32) -> Failures {
    let limits = FailureLimits { rate: Some(rate(1, 1)), burst: nonzero(burst), addresses_max: nonzero(addresses_max) };
    Failures::new(&limits)
}

fn settings(text: &str) -> Result<Settings, String> {
    let source = Source { path: PathBuf::from("test.toml"), text: text.to_owned() };
    let reading = Reading::new(&source);
    let settings = reading.document::<Settings>();
    reading.finish().map_err(|problems| problems.to_string())?;
    settings.ok_or("nothing read".to_owned())
}

fn quota(rate: Rate, burst: u32) -> Quota {
    Quota::new(rate, nonzero(burst))
}

#[test]
fn bucket_gives_its_burst_and_then_its_rate() {
    let (bucket, quota) = (Bucket::default(), quota(rate(2, 1), 3));
    let start = Instant::now();
    (0..3).for_each(|_| bucket.take(&quota, start).unwrap());

    assert_eq!(bucket.take(&quota, start), Err(SECOND / 2));
    assert_eq!(bucket.take(&quota, start + SECOND / 4), Err(SECOND / 4));
    assert_eq!(bucket.take(&quota, start + SECOND / 2), Ok(()));
    assert_eq!(bucket.take(&quota, start + SECOND / 2), Err(SECOND / 2));
}

#[test]
fn bucket_never_holds_more_than_its_burst() {
    let (bucket, quota) = (Bucket::default(), quota(rate(100, 1), 2));
    let later = Instant::now() + 3_600 * SECOND;

    assert_eq!((0..10).filter(|_| bucket.take(&quota, later).is_ok()).count(), 2);
}

#[test]
fn bucket_takes_a_moment_before_its_own_making() {
    let before = Instant::now();
    let (bucket, quota) = (Bucket::default(), quota(rate(1, 1), 1));

    assert_eq!(bucket.take(&quota, before), Ok(()));
    assert!(bucket.take(&quota, before).is_err());
}

#[test]
fn bucket_survives_the_most_extreme_limits() {
    let start = Instant::now();
    for (count, per) in [(1, 3_600), (u32::MAX, 1), (u32::MAX, 3_600), (1, 1)] {
        for burst in [1, 2, u32::MAX] {
            let (bucket, quota) = (Bucket::default(), quota(rate(count, per), burst));
            for now in [start, start + 86_400 * 365 * SECOND, start] {
                let _ = bucket.take(&quota, now);
            }
        }
    }
}

#[test]
fn bucket_that_was_emptied_stays_empty_under_a_new_quota() {
    let (bucket, hourly, quick) = (Bucket::default(), quota(rate(1, 3_600), 4), quota(rate(10, 1), 2));
    let start = Instant::now();
    (0..4).for_each(|_| bucket.take(&hourly, start).unwrap());

    assert_eq!(bucket.take(&quick, start), Err(SECOND / 10));
    assert_eq!(bucket.take(&quick, start + SECOND / 10), Ok(()));
    assert!(bucket.take(&quick, start + SECOND / 10).is_err());
    assert!(bucket.take(&hourly, start + SECOND / 10).is_ok());
}

#[test]
fn threads_together_take_no_more_than_the_burst() {
    let (bucket, quota) = (Bucket::default(), quota(rate(1, 3_600), 1_000));
    let now = Instant::now();
    let taken = AtomicU32::new(0);

    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mine = (0..500).filter(|_| bucket.take(&quota, now).is_ok()).count();
                taken.fetch_add(u32::try_from(mine).unwrap(), Ordering::Relaxed);
            });
        }
    });

    assert_eq!(taken.into_inner(), 1_000);
}

#[test]
fn place_is_free_again_when_its_slot_is_dropped() {
    let concurrency = Concurrency::default();
    let first = concurrency.try_enter(nonzero(2)).unwrap();
    let _second = concurrency.try_enter(nonzero(2)).unwrap();
    assert!(concurrency.clone().try_enter(nonzero(2)).is_none());

    drop(first);

    assert!(concurrency.try_enter(nonzero(2)).is_some());
}

#[test]
fn places_that_are_taken_count_under_a_lower_maximum() {
    let concurrency = Concurrency::default();
    let slots: Vec<_> = (0..3).filter_map(|_| concurrency.try_enter(nonzero(3))).collect();

    assert!(concurrency.try_enter(nonzero(1)).is_none());
    assert!(concurrency.try_enter(nonzero(4)).is_some());
    drop(slots);
    assert!(concurrency.try_enter(nonzero(1)).is_some());
}

#[test]
fn threads_together_never_hold_more_slots_than_there_are() {
    let concurrency = Concurrency::default();
    let inside = AtomicU32::new(0);

    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let Some(_slot) = concurrency.try_enter(nonzero(2)) else { continue };
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });

    assert!(concurrency.try_enter(nonzero(2)).is_some());
}

#[test]
fn address_is_blocked_once_its_burst_is_used_up_and_until_the_next_failure_is_allowed() {
    let failures = failures(3, 100);
    let client = address("192.0.2.1");
    let now = Instant::now();
    failures.failed(client, now);
    failures.failed(client, now);
    assert_eq!(failures.blocked(client, now), None);

    failures.failed(client, now);

    assert_eq!(failures.blocked(client, now), Some(SECOND));
    assert_eq!(failures.blocked(address("192.0.2.2"), now), None);
    assert_eq!(failures.blocked(client, now + SECOND / 2), Some(SECOND / 2));
    assert_eq!(failures.blocked(client, now + SECOND), None);
}

#[test]
fn one_attempt_a_period_is_left_to_an_address_that_goes_on_failing() {
    let failures = failures(3, 100);
    let client = address("192.0.2.1");
    let start = Instant::now();

    let attempts = (0..100).filter(|tenth| {
        let now = start + *tenth * (SECOND / 10);
        let free = failures.blocked(client, now).is_none();
        if free {
            failures.failed(client, now);
        }
        free
    });

    assert_eq!(attempts.count(), 3 + 9);
}

#[test]
fn failures_that_were_under_way_do_not_lengthen_a_block() {
    let failures = failures(3, 100);
    let client = address("192.0.2.1");
    let now = Instant::now();

    (0..1_000).for_each(|_| failures.failed(client, now));

    assert_eq!(failures.blocked(client, now), Some(SECOND));
}

#[test]
fn ipv6_addresses_of_one_64_bit_prefix_are_one_client() {
    let failures = failures(2, 100);
    let now = Instant::now();
    failures.failed(address("2001:db8:0:1::1"), now);
    failures.failed(address("2001:db8:0:1:ffff::2"), now);

    assert!(failures.blocked(address("2001:db8:0:1::3"), now).is_some());
    assert!(failures.blocked(address("2001:db8:0:2::1"), now).is_none());
}

#[test]
fn ipv4_address_is_the_same_client_over_an_ipv6_socket() {
    let failures = failures(1, 100);
    let now = Instant::now();
    failures.failed(address("::ffff:192.0.2.1"), now);

    assert!(failures.blocked(address("192.0.2.1"), now).is_some());
    assert!(failures.blocked(address("::ffff:192.0.2.2"), now).is_none());
}

#[test]
fn walk_through_ipv6_prefixes_stays_within_the_bound_and_frees_no_blocked_address() {
    let failures = failures(2, 64);
    let attacker = address("192.0.2.1");
    let now = Instant::now();
    (0..2).for_each(|_| failures.failed(attacker, now));

    for step in 0..10_000_u32 {
        let [a, b, c, d] = step.to_be_bytes().map(u16::from);
        failures.failed(IpAddr::from([0x2001, (a << 8) | b, c, d, 0, 0, 0, 1]), now);
        assert!(failures.remembered() <= 64);
    }

    assert!(failures.blocked(attacker, now).is_some());
}

#[test]
fn addresses_whose_failures_wore_off_make_room() {
    let failures = failures(1, 1);
    let now = Instant::now();
    failures.failed(address("192.0.2.1"), now);

    failures.failed(address("192.0.2.2"), now + 2 * SECOND);

    assert_eq!(failures.remembered(), 1);
    assert!(failures.blocked(address("192.0.2.2"), now + 2 * SECOND).is_some());
}

#[test]
fn no_address_is_blocked_without_a_rate() {
    let failures = Failures::new(&FailureLimits { rate: None, ..FailureLimits::default() });
    let client = address("192.0.2.1");
    let now = Instant::now();

    (0..1_000).for_each(|_| failures.failed(client, now));

    assert_eq!(failures.blocked(client, now), None);
    assert_eq!(failures.remembered(), 0);
}

#[test]
fn address_stays_blocked_under_new_limits_for_no_longer_than_they_say() {
    let hourly = FailureLimits { rate: Some(rate(1, 3_600)), burst: nonzero(2), addresses_max: nonzero(100) };
    let failures = Failures::new(&hourly);
    let (client, other) = (address("192.0.2.1"), address("192.0.2.2"));
    let now = Instant::now();
    (0..2).for_each(|_| failures.failed(client, now));

    let quick = FailureLimits { rate: Some(rate(1, 1)), burst: nonzero(3), addresses_max: nonzero(1) };
    let successor = failures.succeeded_by(&quick, now);

    assert_eq!(successor.blocked(client, now), Some(SECOND));
    assert_eq!(successor.blocked(client, now + SECOND), None);
    assert_eq!(successor.blocked(other, now), None);
    let unlimited = failures.succeeded_by(&FailureLimits { rate: None, ..hourly }, now);
    assert_eq!((unlimited.blocked(client, now), unlimited.remembered()), (None, 0));
}

#[test]
fn failures_of_many_threads_count_together() {
    let failures = failures(1_000, 100);
    let client = address("192.0.2.1");
    let now = Instant::now();

    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..249).for_each(|_| failures.failed(client, now)));
        }
    });
    (0..3).for_each(|_| failures.failed(client, now));
    assert_eq!(failures.blocked(client, now), None);

    failures.failed(client, now);

    assert_eq!(failures.blocked(client, now), Some(SECOND));
}

#[test]
fn empty_section_means_the_defaults() {
    assert_eq!(settings("").unwrap(), Settings::default());
    assert_eq!(Settings::default().failures.rate, Some(rate(10, 1)));
    assert_eq!(Settings::default().key.allowance(), Allowance::default());
}

#[test]
fn burst_of_a_key_is_its_rate_unless_set() {
    let quota = settings("key = { rate = \"5/m\" }").unwrap().key.allowance().quota.unwrap();
    let (bucket, now) = (Bucket::default(), Instant::now() + SECOND);

    assert_eq!((0..10).filter(|_| bucket.take(&quota, now).is_ok()).count(), 5);
}

#[test]
fn limits_read_with_units_and_can_be_off() {
    let settings = settings(
        "key = { rate = \"200/s\", burst = 400, concurrency = 64 }\nfailures = { rate = \"off\", addresses_max = 10 }",
    )
    .unwrap();

    assert_eq!(settings.key.rate, Some(rate(200, 1)));
    assert_eq!((settings.key.burst, settings.key.concurrency), (Some(nonzero(400)), Some(nonzero(64))));
    assert_eq!((settings.failures.rate, settings.failures.addresses_max), (None, nonzero(10)));
}

#[test]
fn limits_out_of_range_are_problems_with_their_place() {
    let problems = settings("key = { rate = \"0/s\", burst = 0 }\nfailures = { bursts = 3 }").unwrap_err();

    assert!(problems.contains("test.toml:1:16: key.rate"), "{problems}");
    assert!(problems.contains("key.burst must be a whole number from 1"), "{problems}");
    assert!(problems.contains("did you mean burst?"), "{problems}");
}
