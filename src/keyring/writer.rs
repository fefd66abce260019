//! Every change of a key, one after the other, in a thread of its own.
//!
//! Knows nothing of HTTP. Blocking; others hand it jobs.
//!
//! Invariants: each decision is made on the records as they are at that moment, the caller's own included; a record's
//! scopes come out of a `Grant`; a change is known to nobody before it is on disk, and to all before it is acknowledged.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::known::Known;
use super::reader::read_view;
use super::snapshot::{Pictures, Snapshot};
use super::{ChangeError, Changes, Draft, KeyView, Settings, measured};
use crate::clock::Clock;
use crate::key::{ALL, Digest, KEY_WRITE, KeyId, KeyName, KeyRecord, KeyReference, KeySecret, Kind, ScopeSet};
use crate::log;
use crate::metrics::{AuditOperation, Metrics, StoreOperation};
use crate::policy::{self, Grant, Requirement};
use crate::store::portable::Ported;
use crate::store::{Actor, Change, Operation, Store, StoreError, Who};

/// How often a fresh id may turn out to be taken. Once is a wonder; more is a broken source of randomness.
const FRESH_IDS_MAX: usize = 8;
const ROOT: &str = "root";

pub(super) type Job = Box<dyn FnOnce(&mut Writer) + Send>;
/// Where new keys come from. `None`: the operating system has no randomness.
pub(super) type Generate = Box<dyn FnMut() -> Option<KeySecret> + Send>;

pub(super) struct Writer {
    pub(super) store: Arc<dyn Store>,
    pub(super) known: Arc<Known>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: watch::Receiver<Settings>,
    /// The revision of the last change, if that is known.
    pub(super) revision: u64,
    /// Not after a change that may or may not have been made.
    pub(super) is_revision_known: bool,
    pub(super) generate: Generate,
    /// The changes that may or may not have been made, by their keys. Bounded: without a known revision there is no other.
    pub(super) unsettled: HashMap<KeyId, Change>,
    pub(super) pictures: Pictures,
}

/// The key that a change is for. With a digest it is that key only if the digest is the key's own.
pub(super) struct Target {
    id: KeyId,
    digest: Option<Digest>,
}

impl From<&KeyReference> for Target {
    fn from(reference: &KeyReference) -> Self {
        let digest = match reference {
            KeyReference::Id(_) => None,
            KeyReference::Secret(secret) => Some(secret.digest()),
        };
        Self { id: reference.id(), digest }
    }
}

impl Target {
    pub(super) fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn is(&self, record: &KeyRecord) -> bool {
        self.id == record.id && self.digest.is_none_or(|digest| digest.matches(&record.digest))
    }
}

impl Writer {
    pub(super) fn create(&mut self, actor: Actor, draft: &Draft) -> Result<(KeySecret, KeyView), ChangeError> {
        let held = self.held_by_manager(actor)?;
        let grant = policy::grant(&held, draft.wanted_scopes()?).map_err(ChangeError::Denied)?;
        for _ in 0..FRESH_IDS_MAX {
            let secret = (self.generate)().ok_or(ChangeError::Unavailable)?;
            if self.known.directory().contains(&secret.id()) {
                continue;
            }
            match self.insert(actor, (secret.id(), secret.digest()), &draft.name, draft.kind, &grant) {
                Err(ChangeError::Taken) => {}
                made => return made.map(|view| (secret, view)),
            }
        }
        Err(ChangeError::Unavailable)
    }

    pub(super) fn update(
        &mut self,
        actor: Actor,
        target: &Target,
        changes: &Changes,
        if_match: Option<u64>,
    ) -> Result<KeyView, ChangeError> {
        let held = self.held_by_manager(actor)?;
        let KeyView { record, last_used } = self.target(target, &held, if_match)?;
        let grant = policy::grant(&held, changes.wanted_scopes(&record)?).map_err(ChangeError::Denied)?;
        let to = self.changed(&record, changes.name.as_ref().unwrap_or(&record.name), &grant);
        if to.name == record.name && to.scopes == record.scopes {
            return Ok(KeyView { record, last_used });
        }
        if !to.manages_keys() {
            self.spare_last_manager(&record)?;
        }
        self.commit(actor, Operation::Update { from: record, to: to.clone() })?;
        Ok(KeyView { record: to, last_used })
    }

    pub(super) fn delete(
        &mut self,
        actor: Actor,
        target: &Target,
        if_match: Option<u64>,
    ) -> Result<KeyView, ChangeError> {
        // Every key may delete itself, whatever its scopes.
        let held = if actor.who == Who::Key(target.id) { self.held_by(actor)? } else { self.held_by_manager(actor)? };
        let view = self.target(target, &held, if_match)?;
        self.spare_last_manager(&view.record)?;
        self.commit(actor, Operation::Delete(view.record.clone()))?;
        Ok(view)
    }

    /// Makes sure that the operator's key is there and holds all scopes.
    pub(super) fn ensure_root(&mut self, id: KeyId, digest: Digest) -> Result<KeyView, ChangeError> {
        let grant = policy::operator_grant();
        let Some(view) = self.read(&id)? else {
            let name = KeyName::parse(ROOT).expect("a short word is a name");
            return self.insert(Actor::OPERATOR, (id, digest), &name, Kind::Custom, &grant);
        };
        let KeyView { record, last_used } = view;
        if !record.digest.matches(&digest) || record.kind != Kind::Custom {
            return Err(ChangeError::Taken);
        }
        if record.scopes.holds_all() {
            return Ok(KeyView { record, last_used });
        }
        let to = self.changed(&record, &record.name, &grant);
        self.commit(Actor::OPERATOR, Operation::Update { from: record, to: to.clone() })?;
        Ok(KeyView { record: to, last_used })
    }

    /// All keys as they are now: nothing is changed meanwhile.
    pub(super) fn snapshot(&mut self) -> Result<Snapshot, ChangeError> {
        if !self.is_settled() {
            return Err(ChangeError::Unavailable);
        }
        let directory = self.known.directory();
        let ids = directory.page(0, directory.len());
        drop(directory);
        let snapshot = self.pictures.take(self.revision, ids, &self.store, &self.known);
        snapshot.map_err(|error| {
            super::tell_unread(&error);
            ChangeError::Unavailable
        })
    }

    fn insert(
        &mut self,
        actor: Actor,
        (id, digest): (KeyId, Digest),
        name: &KeyName,
        kind: Kind,
        grant: &Grant,
    ) -> Result<KeyView, ChangeError> {
        let keys_max = usize::try_from(self.settings.borrow().keys_max.get()).unwrap_or(usize::MAX);
        if self.known.directory().len() >= keys_max {
            return Err(ChangeError::Full);
        }
        let (now, revision) = (self.clock.now(), self.revision + 1);
        let record = KeyRecord {
            id,
            digest,
            name: name.clone(),
            kind,
            scopes: grant.scopes().clone(),
            created: now,
            updated: now,
            created_revision: revision,
            revision,
        };
        self.commit(actor, Operation::Create(record.clone()))?;
        Ok(KeyView { record, last_used: None })
    }

    fn changed(&self, record: &KeyRecord, name: &KeyName, grant: &Grant) -> KeyRecord {
        KeyRecord {
            name: name.clone(),
            scopes: grant.scopes().clone(),
            // The clock may have been set back since.
            updated: self.clock.now().max(record.updated),
            revision: self.revision + 1,
            ..record.clone()
        }
    }

    /// The target as it is now, if the caller may act on it.
    fn target(&self, target: &Target, held: &ScopeSet, if_match: Option<u64>) -> Result<KeyView, ChangeError> {
        let view = self.read(&target.id)?.ok_or(ChangeError::NotFound)?;
        if !target.is(&view.record) {
            return Err(ChangeError::NotFound);
        }
        policy::grant(held, view.record.scopes.clone()).map_err(ChangeError::Denied)?;
        if if_match.is_some_and(|revision| revision != view.record.revision) {
            return Err(ChangeError::Stale);
        }
        Ok(view)
    }

    /// What a caller holds that may manage keys, as its record is now.
    fn held_by_manager(&self, actor: Actor) -> Result<ScopeSet, ChangeError> {
        if let Who::Key(id) = actor.who {
            let caller = self.read(&id)?.ok_or(ChangeError::ActorGone)?.record;
            let required = Requirement::AllOf(ScopeSet::of(&[KEY_WRITE]));
            policy::authorize(&required, Some(&caller)).map_err(ChangeError::Denied)?;
        }
        self.held_by(actor)
    }

    fn held_by(&self, actor: Actor) -> Result<ScopeSet, ChangeError> {
        match actor.who {
            Who::Key(id) => Ok(self.read(&id)?.ok_or(ChangeError::ActorGone)?.record.scopes),
            Who::Operator => Ok(ScopeSet::of(&[ALL])),
        }
    }

    fn spare_last_manager(&self, record: &KeyRecord) -> Result<(), ChangeError> {
        if record.manages_keys() && self.known.directory().managers() == 1 {
            return Err(ChangeError::LastAdminKey);
        }
        Ok(())
    }

    fn read(&self, id: &KeyId) -> Result<Option<KeyView>, ChangeError> {
        if self.unsettled.contains_key(id) {
            return Err(ChangeError::Unavailable);
        }
        if !self.known.directory().contains(id) {
            return Ok(None);
        }
        let read = measured(&self.metrics, StoreOperation::KeyRead, || read_view(&*self.store, id));
        let view = read.map_err(|error| {
            super::tell_unread(&error);
            ChangeError::Unavailable
        })?;
        // An older record that has come back must not be built upon: it may have more scopes than the key was left with.
        if view.as_ref().map(|view| view.record.revision) != self.known.directory().revision(id) {
            super::tell_foreign(id);
            return Err(ChangeError::Unavailable);
        }
        Ok(view)
    }

    fn commit(&mut self, actor: Actor, operation: Operation) -> Result<(), ChangeError> {
        if !self.is_settled() {
            return Err(ChangeError::Unavailable);
        }
        let id = operation.key();
        // Before the store has it: whoever reads the key from there afterwards finds here how it was.
        let before = || {
            let record = operation.before()?.clone();
            let view = KeyView { record, last_used: self.store.last_used(&id).ok().flatten() };
            Some(Ported { last_used: self.known.last_used(&view), record: view.record })
        };
        self.pictures.keep(&id, before);
        let (revision, at, expiry) = (self.revision + 1, self.clock.now(), self.pictures.expiry());
        let change = Change { revision, at, actor, operation, expiry };
        // Before it can be made: what becomes of it when this thread panics is uncertain too.
        self.unsettled.insert(id, change.clone());
        let committed = measured(&self.metrics, StoreOperation::ChangeCommit, || self.store.commit(&change));
        let Err(error) = committed else {
            self.made(&change);
            return Ok(());
        };
        tracing::error!(?error, key.id = %id, "change was not acknowledged");
        if matches!(error, StoreError::Uncertain(_)) {
            self.doubt();
            return Err(ChangeError::Unavailable);
        }
        self.unsettled.remove(&id);
        match self.store.revision() {
            Ok(revision) => self.revision = revision,
            Err(_) => self.is_revision_known = false,
        }
        match (error, &change.operation) {
            (StoreError::Conflict, Operation::Create(_)) => Err(ChangeError::Taken),
            _ => Err(ChangeError::Unavailable),
        }
    }

    /// The change is on disk.
    fn made(&mut self, change: &Change) {
        self.revision = change.revision;
        let id = change.operation.key();
        self.known.publish(&id, change.operation.after());
        self.unsettled.remove(&id);
        self.audit(change);
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_revision_known && self.unsettled.is_empty()
    }

    /// Takes what was begun and not ended for uncertain. Until it is settled, whoever asks for those keys is told that the
    /// store is unavailable: what the database has in memory may be gone after the next start.
    pub(super) fn doubt(&mut self) {
        self.is_revision_known = false;
        for (id, change) in &self.unsettled {
            let made = change.operation.before().is_none().then(|| change.operation.after()).flatten();
            self.known.distrust(id, made.map(|record| record.digest.tag()));
        }
    }

    /// Makes known what became of uncertain changes, once everything that the store holds is on disk.
    pub(super) fn settle(&mut self) {
        if self.is_settled() || self.store.flush().is_err() {
            return;
        }
        let Ok(revision) = self.store.revision() else { return };
        for (id, change) in self.unsettled.clone() {
            let Ok(record) = self.store.record(&id) else { continue };
            let revision_of = |record: Option<&KeyRecord>| record.map(|record| record.revision);
            let was_made =
                revision >= change.revision && revision_of(record.as_ref()) == revision_of(change.operation.after());
            // Neither as it was to be nor as it was acknowledged: an older record may have more scopes than the key was left
            // with, and a lost one is no deletion.
            if !was_made && revision_of(record.as_ref()) != self.known.directory().revision(&id) {
                super::tell_foreign(&id);
                continue;
            }
            tracing::warn!(key.id = %id, revision = change.revision, was_made, "uncertain change settled");
            self.known.publish(&id, record.as_ref());
            if was_made {
                self.audit(&change);
            }
            self.unsettled.remove(&id);
        }
        if self.unsettled.is_empty() {
            self.known.trust();
        }
        (self.revision, self.is_revision_known) = (revision, true);
    }

    fn audit(&self, change: &Change) {
        let operation = match change.operation {
            Operation::Create(_) => AuditOperation::Create,
            Operation::Delete(_) => AuditOperation::Delete,
            Operation::Update { .. } => AuditOperation::Update,
        };
        self.metrics.audited(operation);
        log::Audit {
            actor: &change.actor.who,
            operation,
            key: change.operation.key(),
            before: change.operation.before(),
            after: change.operation.after(),
            client: change.actor.address,
            revision: change.revision,
        }
        .log();
    }
}

impl Draft {
    fn wanted_scopes(&self) -> Result<ScopeSet, ChangeError> {
        match (self.kind.fixed_scopes(), &self.scopes) {
            (None, Some(wanted)) if !wanted.is_empty() => Ok(wanted.clone()),
            (None, _) => Err(ChangeError::ScopesRequired),
            (Some(fixed), Some(wanted)) if *wanted != fixed => Err(ChangeError::FixedScopes { fixed }),
            (Some(fixed), _) => Ok(fixed),
        }
    }
}

impl Changes {
    fn wanted_scopes(&self, record: &KeyRecord) -> Result<ScopeSet, ChangeError> {
        match &self.scopes {
            None => Ok(record.scopes.clone()),
            Some(wanted) if *wanted == record.scopes => Ok(wanted.clone()),
            Some(_) if record.kind.is_immutable() => Err(ChangeError::ImmutableScopes),
            Some(wanted) if wanted.is_empty() => Err(ChangeError::ScopesRequired),
            Some(wanted) => Ok(wanted.clone()),
        }
    }
}
