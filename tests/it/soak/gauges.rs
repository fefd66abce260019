//! What the gate takes of the machine over one of its lives.

use std::time::{Duration, Instant};

use super::judge::{Judge, Life};
use crate::exhaustion::MIB;
use crate::harness::{Probe, Served};

/// At no time more than this.
const MEMORY_MAX: u64 = 192 * MIB;
const DESCRIPTORS_MAX: usize = 400;
const THREADS_MAX: u64 = 64;
/// From the second quarter to the last one, no more than this more.
const MEMORY_GROWN_MAX: u64 = 2 * MIB;
const DESCRIPTORS_GROWN_MAX: usize = 16;
const THREADS_GROWN_MAX: u64 = 4;
const SERIES_GROWN_MAX: usize = 8;

pub struct Gauges {
    probe: Probe,
    begun: Instant,
    looks: Vec<Look>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Duration,
    memory: u64,
    descriptors: usize,
    threads: u64,
    series: usize,
    cpu: Duration,
}

impl Gauges {
    pub fn new(served: &Served) -> Self {
        Self { probe: Probe::of(served.process.pid()), begun: Instant::now(), looks: Vec::new() }
    }

    pub fn look(&mut self, served: &Served, life: &Life) {
        // Searched for secrets, as all answers are.
        let page = served.ops_get("/metrics").text();
        let look = Look {
            at: self.begun.elapsed(),
            memory: self.probe.memory(),
            descriptors: self.probe.descriptors(),
            threads: self.probe.threads(),
            series: page.lines().filter(|line| !line.starts_with('#')).count(),
            cpu: self.probe.cpu(),
        };
        if look.memory > MEMORY_MAX || look.descriptors > DESCRIPTORS_MAX || look.threads > THREADS_MAX {
            life.judge.blame(format!("too much: {look:?}"));
        }
        if page.contains("\nportcullis_store_up 1\n") {
            life.store_is_up();
        }
        self.looks.push(look);
    }

    /// The middle of each, over a part of the life given in percent.
    fn middle(&self, percent: std::ops::Range<usize>) -> Look {
        let count = self.looks.len();
        let looks = &self.looks[count * percent.start / 100..count * percent.end / 100];
        fn median<T: Ord + Copy>(looks: &[Look], of: impl Fn(&Look) -> T) -> T {
            let mut values: Vec<T> = looks.iter().map(of).collect();
            values.sort_unstable();
            values[values.len() / 2]
        }
        Look {
            at: median(looks, |look| look.at),
            memory: median(looks, |look| look.memory),
            descriptors: median(looks, |look| look.descriptors),
            threads: median(looks, |look| look.threads),
            series: median(looks, |look| look.series),
            cpu: median(looks, |look| look.cpu),
        }
    }

    /// The least that was in memory over a part of the life: the store writes into a buffer of 4 MiB, which fills over
    /// minutes and is let go when it is full. What leaks stays.
    fn least_memory(&self, percent: std::ops::Range<usize>) -> u64 {
        let count = self.looks.len();
        let looks = &self.looks[count * percent.start / 100..count * percent.end / 100];
        looks.iter().map(|look| look.memory).min().unwrap_or_default()
    }

    /// What is taken after the warm-up is taken at the end.
    pub fn check_flat(&self, judge: &Judge) {
        let (early, late) = (self.middle(25..50), self.middle(75..100));
        let grown = self.least_memory(75..100).saturating_sub(self.least_memory(25..50));
        let is_flat = grown <= MEMORY_GROWN_MAX
            && late.descriptors <= early.descriptors + DESCRIPTORS_GROWN_MAX
            && late.threads <= early.threads + THREADS_GROWN_MAX
            && late.series <= early.series + SERIES_GROWN_MAX;
        if !is_flat {
            judge.blame(format!("it grows, memory by {grown} bytes: {early:?} {late:?}"));
        }
    }

    pub fn told(&self) -> String {
        let [first, .., last] = &self.looks[..] else { return "too short to tell".to_owned() };
        if self.looks.len() < 10 {
            return "too short to tell".to_owned();
        }
        let (early, late) = (self.middle(25..50), self.middle(75..100));
        let kib = |look: Look| look.memory / 1_024;
        let minutes = (late.at - early.at).as_secs_f64() / 60.0;
        #[allow(clippy::cast_precision_loss, reason = "to be read by people")]
        let slope = (kib(late) as f64 - kib(early) as f64) / minutes;
        let cpu = 100.0 * (last.cpu - first.cpu).as_secs_f64() / (last.at - first.at).as_secs_f64();
        let course: Vec<String> =
            (0..10).map(|tenth| (self.least_memory(tenth * 10..tenth * 10 + 10) / 1_024).to_string()).collect();
        format!(
            "{:.0?}; {} to {} KiB ({slope:+.1} KiB a minute; the least of each tenth {}), {} to {} descriptors, {} to {} threads, \
             {} to {} series; {cpu:.1} % of a processor",
            last.at,
            kib(early),
            kib(late),
            course.join(" "),
            early.descriptors,
            late.descriptors,
            early.threads,
            late.threads,
            early.series,
            late.series,
        )
    }
}
