//! The control runtime: one thread for key API calls, the ops listener, flushes and signals.

use std::thread::JoinHandle;

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Store reads that run at a time: they block, so each takes a thread.
const BLOCKING_THREADS_MAX: usize = 32;

/// A running control thread.
pub(super) struct Control {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Control {
    pub(super) fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("blocking")
            .build()
            .context("cannot start the control runtime")?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                // A dropped sender ends it as well as a sent message.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(std::time::Duration::from_secs(5));
            })
            .context("cannot start the control thread")?;
        Ok(Self { handle, stop, thread })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for `future` from a thread that is no runtime's.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.handle.block_on(future)
    }

    pub(super) fn stop(self) {
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the control thread panicked");
        }
    }
}
