//! What must not happen, and what has happened.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::client::Door;
use crate::harness::DEADLINE;

const FAULT_ENDS_WITHIN: Duration = Duration::from_secs(1);
/// How many faults are told; the others are counted.
const FAULTS_TOLD: usize = 10;

/// How many warnings of the gate are kept, to be told with the faults.
const WARNINGS_KEPT: usize = 60;

#[derive(Default)]
pub struct Judge {
    faults: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, usize>>,
    /// The last lines of the gate's log that are warnings or errors.
    warnings: Mutex<VecDeque<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Judge {
    pub fn blame(&self, what: String) {
        let at = Timestamp::now();
        println!("FAULT at {at}: {what}");
        locked(&self.faults).push(format!("{at}: {what}"));
    }

    /// Keeps what of the gate's log explains faults.
    pub fn hear(&self, logged: &[String]) {
        let mut warnings = locked(&self.warnings);
        let is_warning = |line: &&String| line.contains(r#""level":"WARN""#) || line.contains(r#""level":"ERROR""#);
        warnings.extend(logged.iter().filter(is_warning).cloned());
        let surplus = warnings.len().saturating_sub(WARNINGS_KEPT);
        warnings.drain(..surplus);
    }

    /// Tells the warnings before the faults, if there were any since the last time.
    pub fn explain(&self) {
        let (faults, mut warnings) = (locked(&self.faults), locked(&self.warnings));
        if !faults.is_empty() {
            warnings.iter().for_each(|line| println!("{line}"));
        }
        warnings.clear();
    }

    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&self, what: &'static str, count: usize) {
        *locked(&self.counts).entry(what).or_default() += count;
    }

    pub fn told(&self) -> String {
        let counts: Vec<String> = locked(&self.counts).iter().map(|(what, count)| format!("{count} {what}")).collect();
        counts.join(", ")
    }

    /// How often a thing has happened.
    pub fn counted(&self, what: &str) -> usize {
        locked(&self.counts).get(what).copied().unwrap_or_default()
    }

    #[track_caller]
    pub fn verdict(&self) {
        let faults = locked(&self.faults);
        assert!(faults.is_empty(), "{} faults: {:#?}", faults.len(), &faults[..faults.len().min(FAULTS_TOLD)]);
    }
}

/// One life of the gate, from its start to its kill.
pub struct Life {
    pub door: Door,
    pub judge: Arc<Judge>,
    is_ending: AtomicBool,
    store: Mutex<StoreHealth>,
    /// Since when the upstream with the moods is well.
    well_since: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy, PartialEq)]
enum StoreHealth {
    Failing,
    /// The fault has ended.
    Healing(Instant),
    Well,
}

impl Life {
    pub fn new(door: Door, judge: &Arc<Judge>) -> Self {
        Self {
            door,
            judge: Arc::clone(judge),
            is_ending: AtomicBool::new(false),
            store: Mutex::new(StoreHealth::Well),
            well_since: Mutex::default(),
        }
    }

    /// From now on nothing has to succeed.
    pub fn ends(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
    }

    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }

    pub fn count(&self, what: &'static str) {
        self.judge.count(what);
    }

    /// A fault, unless it is over with the gate anyway.
    pub fn blame(&self, what: impl Into<String>) {
        if !self.is_ending() {
            self.judge.blame(what.into());
        }
    }

    pub fn store_fails(&self) {
        *locked(&self.store) = StoreHealth::Failing;
    }

    pub fn store_may_heal(&self) {
        *locked(&self.store) = StoreHealth::Healing(Instant::now());
    }

    pub fn is_store_well(&self) -> bool {
        *locked(&self.store) == StoreHealth::Well
    }

    /// The gate says that its store works. Calls that met the fault may end a little after it.
    pub fn store_is_up(&self) {
        let mut store = locked(&self.store);
        if let StoreHealth::Healing(since) = *store
            && since.elapsed() >= FAULT_ENDS_WITHIN
        {
            *store = StoreHealth::Well;
        }
    }

    pub fn check_healed(&self) {
        if let StoreHealth::Healing(since) = *locked(&self.store)
            && since.elapsed() > DEADLINE
        {
            self.blame("the store does not heal");
        }
    }

    pub fn upstream_turns(&self, is_well: bool) {
        *locked(&self.well_since) = is_well.then(Instant::now);
    }

    /// Whether the upstream with the moods has been well for so long.
    pub fn is_upstream_well_for(&self, time: Duration) -> bool {
        locked(&self.well_since).is_some_and(|since| since.elapsed() >= time)
    }
}
