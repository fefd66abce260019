//! What the service manager is told: sd_notify(3). Does nothing where there is none.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::runtime::Handle;

/// On top of what a stop may take by its configuration: for the store and the ops listener.
const STOP_MARGIN: Duration = Duration::from_secs(30);

pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again; to be followed by [`ready`], however that ends.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "cannot read the monotonic clock"),
    }
}

/// The end has begun and takes `longest` at most.
pub(super) fn stopping(longest: Duration) {
    let longest = u32::try_from((longest + STOP_MARGIN).as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(longest), NotifyState::Status("draining")]);
}

/// Says that the control runtime is alive for as long as it is, if the service manager wants to know.
pub(super) fn start_watchdog(control: &Handle) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    control.spawn(async move {
        loop {
            notify(&[NotifyState::Watchdog]);
            tokio::time::sleep(limit / 2).await;
        }
    });
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
