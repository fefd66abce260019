//! The tasks of one connection's streams: each with its own timer, all of them ended with the connection.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tracing::error;

use super::ledger::SharedLedger;
use crate::metrics::Metrics;
use crate::server::connection::{ALARM_OFF, poll_alarm};
use crate::server::watch::{Phase, Watch};

/// Owns the tasks: dropped, it ends them.
#[derive(Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    pub(super) fn spawner(&self, ledger: SharedLedger, metrics: Arc<Metrics>) -> Spawner {
        Spawner { tasks: Arc::downgrade(&self.0), ledger, metrics }
    }

    /// Clears away what has ended. Returns whether any task is left; the caller is woken when one ends.
    pub(super) fn poll_running(&self, cx: &mut Context<'_>) -> bool {
        let mut tasks = lock(&self.0);
        while let Poll::Ready(Some(ended)) = tasks.poll_join_next(cx) {
            if let Err(panic) = ended {
                error!(%panic, "stream task failed");
            }
        }
        !tasks.is_empty()
    }
}

fn lock(tasks: &Mutex<JoinSet<()>>) -> MutexGuard<'_, JoinSet<()>> {
    // Held within the connection's own polls, which call nothing of ours meanwhile.
    tasks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What hyper starts a stream's task with. Does not keep the tasks alive.
#[derive(Clone)]
pub(super) struct Spawner {
    tasks: Weak<Mutex<JoinSet<()>>>,
    ledger: SharedLedger,
    metrics: Arc<Metrics>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, stream: F) {
        // hyper starts the task of each request right after it has made it.
        let watch = self.ledger.lock().take_starting();
        let (Some(tasks), Some(watch)) = (self.tasks.upgrade(), watch) else { return };
        let open = Open::new(Arc::clone(&self.metrics));
        // Room is made for it once, and not at each step on its way.
        let stream = Box::pin(stream);
        lock(&tasks).spawn(async move {
            run(stream, &watch).await;
            drop(open);
        });
    }
}

/// Runs a stream to its end: that of its response, of its client's interest, or of the patience with its client.
async fn run(mut stream: Pin<Box<impl Future<Output = ()>>>, watch: &Watch) {
    // No clock is read, and nothing is set, as long as nothing is waited for.
    let mut alarm = pin!(tokio::time::sleep_until(Instant::from_std(watch.epoch()) + ALARM_OFF));
    std::future::poll_fn(|cx| {
        watch.set_task(cx.waker());
        poll_stream(stream.as_mut(), alarm.as_mut(), watch, cx)
    })
    .await;
}

fn poll_stream(
    mut stream: Pin<&mut impl Future<Output = ()>>,
    mut alarm: Pin<&mut Sleep>,
    watch: &Watch,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        // Whoever still waits says so again when it is polled.
        watch.clear(Phase::Request);
        // Not even its handler has an answer to a body that stopped arriving; and what is severed ends here while the
        // client takes nothing.
        if stream.as_mut().poll(cx).is_ready() || watch.has_body_expired() || watch.is_severed() {
            return Poll::Ready(());
        }
        ready!(poll_alarm(alarm.as_mut(), cx, watch, None));
    }
}

/// Counts a stream as open while it lives, also when its task panics or is ended.
struct Open(Arc<Metrics>);

impl Open {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.http2_stream_opened();
        Self(metrics)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.http2_stream_closed();
    }
}
