//! Reads of the store on behalf of requests: few at once, one at a time for a key, and none that waits for ever.
//!
//! Knows nothing of secrets or of who may read.
//!
//! Invariant: what is handed out was on disk: a record is held back until the directory has its revision.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::known::Known;
use super::{KeyView, Settings, Unavailable, measured};
use crate::key::KeyId;
use crate::log::Occasionally;
use crate::metrics::{Metrics, StoreOperation};
use crate::store::{Store, StoreError};

/// Reads that may block at once. A store that hangs keeps so many threads, and no more.
const READS_AT_ONCE: usize = 16;

type Landed = Result<Option<Arc<KeyView>>, Unavailable>;

pub(super) struct Reader {
    store: Arc<dyn Store>,
    known: Arc<Known>,
    metrics: Arc<Metrics>,
    control: Handle,
    settings: watch::Receiver<Settings>,
    reads: Arc<Semaphore>,
    /// The look-ups that are under way: an entry lasts as long as its read, and only ids that exist are looked up.
    flights: Mutex<HashMap<KeyId, watch::Receiver<Option<Landed>>>>,
}

impl Reader {
    pub(super) fn new(
        store: Arc<dyn Store>,
        known: Arc<Known>,
        metrics: Arc<Metrics>,
        control: Handle,
        settings: watch::Receiver<Settings>,
    ) -> Self {
        let reads = Arc::new(Semaphore::new(READS_AT_ONCE));
        Self { store, known, metrics, control, settings, reads, flights: Mutex::default() }
    }

    /// Reads one key, together with everybody else who wants it at this time.
    pub(super) async fn view(self: &Arc<Self>, id: KeyId) -> Landed {
        let mut flight = self.join_flight(id);
        match flight.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or(Err(Unavailable)),
            Err(_runtime_ended) => Err(Unavailable),
        }
    }

    fn join_flight(self: &Arc<Self>, id: KeyId) -> watch::Receiver<Option<Landed>> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&id) {
            return flight.clone();
        }
        let (landing, flight) = watch::channel(None);
        flights.insert(id, flight.clone());
        drop(flights);
        let reader = Arc::clone(self);
        // A task of its own: it outlives the request that wanted it first, for those who wait with it.
        self.control.spawn(async move {
            let read = reader.bounded(vec![id]).await;
            reader.flights().remove(&id);
            landing.send_replace(Some(read.map(|views| views.into_iter().flatten().next().map(Arc::new))));
        });
        flight
    }

    /// Reads several keys, in their order; those that are gone are left out.
    pub(super) async fn views(self: &Arc<Self>, ids: Vec<KeyId>) -> Result<Vec<KeyView>, Unavailable> {
        let reader = Arc::clone(self);
        let read = self.control.spawn(async move { reader.bounded(ids).await });
        let views = read.await.map_err(|_runtime_ended| Unavailable)??;
        Ok(views.into_iter().flatten().collect())
    }

    async fn bounded(&self, ids: Vec<KeyId>) -> Result<Vec<Option<KeyView>>, Unavailable> {
        let lookup_timeout = self.settings.borrow().lookup_timeout;
        let read = timeout(lookup_timeout, self.settled(&ids)).await;
        read.unwrap_or_else(|_elapsed| {
            static LATE: Occasionally = Occasionally::new();
            if let Some(suppressed) = LATE.due(Instant::now()) {
                tracing::warn!(timeout = ?lookup_timeout, suppressed, "store did not answer in time");
            }
            Err(Unavailable)
        })
    }

    async fn settled(&self, ids: &[KeyId]) -> Result<Vec<Option<KeyView>>, Unavailable> {
        let mut changes = self.known.changes();
        let mut settled = vec![None; ids.len()];
        let mut unsettled: Vec<usize> = (0..ids.len()).collect();
        loop {
            // Before the read: a change that comes to be known after it must end the wait below.
            changes.borrow_and_update();
            let views = self.read(unsettled.iter().map(|place| ids[*place]).collect()).await?;
            let places = std::mem::take(&mut unsettled);
            {
                let directory = self.known.directory();
                for (place, view) in places.into_iter().zip(views) {
                    if directory.revision(&ids[place]) == view.as_ref().map(|view| view.record.revision) {
                        settled[place] = view;
                    } else {
                        unsettled.push(place);
                    }
                }
            }
            if unsettled.is_empty() {
                return Ok(settled);
            }
            changes.changed().await.map_err(|_closed| Unavailable)?;
        }
    }

    async fn read(&self, ids: Vec<KeyId>) -> Result<Vec<Option<KeyView>>, Unavailable> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|_closed| Unavailable)?;
        let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.metrics));
        let read = self.control.spawn_blocking(move || {
            let _until_read = permit;
            let view = |id: &KeyId| measured(&metrics, StoreOperation::KeyRead, || read_view(&*store, id));
            ids.iter().map(view).collect::<Result<Vec<_>, StoreError>>()
        });
        match read.await {
            Ok(Ok(views)) => Ok(views),
            Ok(Err(error)) => {
                super::tell_unread(&error);
                Err(Unavailable)
            }
            Err(_runtime_ended) => Err(Unavailable),
        }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<KeyId, watch::Receiver<Option<Landed>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn read_view(store: &dyn Store, id: &KeyId) -> Result<Option<KeyView>, StoreError> {
    let Some(record) = store.record(id)? else { return Ok(None) };
    let last_used = store.last_used(id)?;
    Ok(Some(KeyView { record, last_used }))
}
