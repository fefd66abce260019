//! The data plane's threads: each with its own runtime, listener and handler, so that nothing is shared between cores.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tracing::error;

use super::exchange::Handler;
use super::listener::Listeners;
use super::serve::{Context, serve};
use crate::metrics;

/// Threads of name look-ups, which are all that blocks in a worker.
const BLOCKING_THREADS: usize = 4;

/// Running worker threads.
#[derive(Debug)]
pub struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    /// Waits until all have drained. Blocking.
    pub fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                error!("worker thread failed");
            }
        }
    }
}

/// Starts one worker thread for each of `listeners`. `make_handler` is called in each, inside its runtime, with the
/// worker's index from 0.
///
/// # Errors
/// When the operating system gives no thread or no epoll instance. Workers that were started by then go on until the
/// drain.
pub fn run_workers<H, F>(listeners: Listeners, context: &Context, make_handler: F) -> io::Result<Workers>
where
    H: Handler,
    F: Fn(usize) -> H + Send + Sync + 'static,
{
    let make_handler = Arc::new(make_handler);
    let mut threads = Vec::new();
    for (index, listener) in listeners.sockets.into_iter().enumerate() {
        let (context, make_handler) = (context.clone(), Arc::clone(&make_handler));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            // Shard 0 belongs to the control threads.
            metrics::enter_worker(index + 1);
            let served = runtime.block_on(async { serve(listener, make_handler(index), context).await });
            if let Err(error) = served {
                error!(%error, "worker cannot serve");
            }
            // Not waiting for look-ups that nobody waits for any more.
            runtime.shutdown_background();
        })?;
        threads.push(thread);
    }
    Ok(Workers(threads))
}
