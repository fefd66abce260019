//! Room for connections, shared by accept loops; how much there is can change.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for connections. Clones share it.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Room>);

#[derive(Debug)]
struct Room {
    free: Arc<Semaphore>,
    connections_max: Mutex<NonZeroU32>,
    /// Places that are taken, and gone as soon as they are given back: there are to be fewer.
    owed: AtomicUsize,
}

impl Slots {
    pub fn new(connections_max: NonZeroU32) -> Self {
        let free = Arc::new(Semaphore::new(connections_max.get() as usize));
        Self(Arc::new(Room { free, connections_max: Mutex::new(connections_max), owed: AtomicUsize::new(0) }))
    }

    /// Makes more or less room. Connections that there is no room for any more go on to their end.
    pub fn resize(&self, connections_max: NonZeroU32) {
        let mut present = self.0.connections_max.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, new) = (present.get() as usize, connections_max.get() as usize);
        *present = connections_max;
        if new > old {
            // What is still owed need not go after all.
            let kept = (0..new - old).take_while(|_| self.0.pay()).count();
            self.0.free.add_permits(new - old - kept);
        } else {
            let forgotten = self.0.free.forget_permits(old - new);
            // A place that is given back just now is free in spite of it, until the next one is.
            self.0.owed.fetch_add(old - new - forgotten, Ordering::Relaxed);
        }
    }

    pub(super) fn try_enter(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.0.free).try_acquire_owned().ok()?;
        Some(Slot { permit: Some(permit), room: Arc::clone(&self.0) })
    }

    /// Waits for room.
    pub(super) async fn enter(&self) -> Option<Slot> {
        // Never closed.
        let permit = Arc::clone(&self.0.free).acquire_owned().await.ok()?;
        Some(Slot { permit: Some(permit), room: Arc::clone(&self.0) })
    }
}

impl Room {
    /// Whether a place was owed.
    fn pay(&self) -> bool {
        let one_less = |owed: usize| owed.checked_sub(1);
        self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    room: Arc<Room>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.room.pay()
        {
            permit.forget();
        }
    }
}
