//! The way of changes to the writer's thread: one after the other, a bounded number of them, none behind one that hangs.
//!
//! Knows nothing of what a change does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::writer::{Job, Writer};
use crate::log::Occasionally;
use crate::store::StoreError;

/// Changes that may wait for the writer; one more is refused.
pub(super) const CHANGES_QUEUED_MAX: usize = 256;
/// How often to look whether changes that are uncertain can be settled.
const SETTLE_EVERY: Duration = Duration::from_millis(250);

/// Hands jobs to the writer. Dropped with all its copies, it ends the writer's thread.
#[derive(Clone)]
pub(super) struct Jobs {
    queue: SyncSender<Job>,
    running: Arc<Running>,
}

/// Since when the present job runs.
#[derive(Default)]
struct Running(Mutex<Option<Instant>>);

pub(super) enum Queued {
    Refused,
    Waiting,
}

/// Starts the writer's thread.
///
/// # Errors
/// When there is none to be had.
pub(super) fn start(writer: Writer) -> Result<(Jobs, JoinHandle<()>), StoreError> {
    let (queue, jobs) = sync_channel(CHANGES_QUEUED_MAX);
    let running = Arc::<Running>::default();
    let noting = Arc::clone(&running);
    let run = move || run(writer, &jobs, &noting);
    let thread = std::thread::Builder::new().name("key-writer".to_owned()).spawn(run).map_err(StoreError::Thread)?;
    Ok((Jobs { queue, running }, thread))
}

impl Jobs {
    /// Refuses, and does not wait, when the queue is full, or behind a job that has run for so long: the caller can come
    /// again, the queue cannot grow.
    pub(super) fn send(&self, job: Job, runs_max: Duration) -> Queued {
        let hangs = self.running.since().is_some_and(|since| since.elapsed() > runs_max);
        if !hangs && self.queue.try_send(job).is_ok() {
            return Queued::Waiting;
        }
        static REFUSED: Occasionally = Occasionally::new();
        if let Some(suppressed) = REFUSED.due(Instant::now()) {
            tracing::warn!(hangs, suppressed, "change of a key refused: too many wait, or one before it does not end");
        }
        Queued::Refused
    }
}

impl Running {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(mut writer: Writer, jobs: &Receiver<Job>, running: &Running) {
    loop {
        let job = match next(&writer, jobs) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        *running.since() = Some(Instant::now());
        let work = || {
            writer.settle();
            if let Some(job) = job {
                job(&mut writer);
            }
        };
        // Its caller is told that the store is unavailable. What it had begun counts as uncertain.
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!("a change of a key panicked");
            writer.doubt();
        }
        *running.since() = None;
    }
}

fn next(writer: &Writer, jobs: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
    if writer.is_settled() {
        return jobs.recv().map_err(|_| RecvTimeoutError::Disconnected);
    }
    jobs.recv_timeout(SETTLE_EVERY)
}
