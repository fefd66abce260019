//! How many connections each client address has.
//!
//! Looked at when a connection begins and when it ends, never between. Invariant: an address without a connection is not
//! remembered, so there are never more of them than connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limit::Address;

/// The connections of each address, over all workers. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<Mutex<HashMap<Address, u32>>>);

impl Addresses {
    /// Counts a connection of this address until what is returned is dropped. `None`: it has `max` already.
    pub(super) fn enter(&self, address: IpAddr, max: Option<NonZeroU32>) -> Option<Place> {
        let address = Address::of(address);
        let mut counts = self.counts();
        let count = counts.entry(address).or_default();
        // One that is at its maximum has a connection, so the entry is no new one.
        if max.is_some_and(|max| *count >= max.get()) {
            return None;
        }
        *count += 1;
        Some(Place { addresses: self.clone(), address })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Address, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, address: Address) {
        let mut counts = self.counts();
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

/// One connection of an address.
#[derive(Debug)]
pub(super) struct Place {
    addresses: Addresses,
    address: Address,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.addresses.leave(self.address);
    }
}
