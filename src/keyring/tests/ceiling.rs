//! The ceiling against a naive model: whatever keys do to keys, none gets more than whoever gave it had.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::harness::{Ring, by, custom, of_kind, scopes};
use crate::key::{KeyId, KeyReference, Kind};
use crate::keyring::{ChangeError, Changes};
use crate::policy::Deny;

const SCOPES: [&str; 8] =
    ["monitor:read", "monitor:write", "telemetry:write", "issue:read", "key:read", "key:write", "team:x", "*"];

type Names = BTreeSet<&'static str>;

/// Keys are meant by their number in order of creation, deleted ones included, modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    Create { actor: usize, kind: Kind, wanted: Vec<&'static str> },
    Delete { actor: usize, target: usize },
    Update { actor: usize, target: usize, wanted: Option<Vec<&'static str>> },
}

#[derive(Debug, PartialEq)]
enum Verdict {
    ActorGone,
    Done,
    Exceeds(Names),
    Immutable,
    LastAdmin,
    NotFound,
    NotManager,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some_scopes = || subsequence(SCOPES.to_vec(), 1..=5);
    let kind = prop_oneof![4 => Just(Kind::Custom), 1 => Just(Kind::SdkIntegration), 1 => Just(Kind::Telemetry)];
    // Few numbers at first, so that the same keys meet often.
    let number = || 0..12_usize;
    let step = prop_oneof![
        3 => (number(), kind, some_scopes()).prop_map(|(actor, kind, wanted)| Step::Create { actor, kind, wanted }),
        1 => (number(), number()).prop_map(|(actor, target)| Step::Delete { actor, target }),
        3 => (number(), number(), proptest::option::of(some_scopes()))
            .prop_map(|(actor, target, wanted)| Step::Update { actor, target, wanted }),
    ];
    proptest::collection::vec(step, 1..40)
}

#[derive(Default)]
struct Model {
    /// Every key that was ever made.
    made: Vec<KeyId>,
    alive: BTreeMap<KeyId, (Kind, Names)>,
}

impl Model {
    fn number(&self, number: usize) -> KeyId {
        self.made[number % self.made.len()]
    }

    fn manager(&self, actor: KeyId) -> Result<&Names, Verdict> {
        let (_, held) = self.alive.get(&actor).ok_or(Verdict::ActorGone)?;
        if covers(held, &Names::from(["key:write"])) { Ok(held) } else { Err(Verdict::NotManager) }
    }

    fn managers(&self) -> usize {
        self.alive.values().filter(|(_, held)| covers(held, &Names::from(["key:write"]))).count()
    }

    fn create(&self, actor: KeyId, wanted: &Names) -> Result<(), Verdict> {
        within(self.manager(actor)?, wanted)
    }

    fn update(&self, actor: KeyId, target: KeyId, wanted: Option<&Names>) -> Result<(), Verdict> {
        let held = self.manager(actor)?;
        let (kind, present) = self.alive.get(&target).ok_or(Verdict::NotFound)?;
        within(held, present)?;
        let wanted = wanted.unwrap_or(present);
        if *kind != Kind::Custom && wanted != present {
            return Err(Verdict::Immutable);
        }
        within(held, wanted)?;
        self.keeps_a_manager(present, wanted)
    }

    fn delete(&self, actor: KeyId, target: KeyId) -> Result<(), Verdict> {
        let held =
            if actor == target { &self.alive.get(&actor).ok_or(Verdict::ActorGone)?.1 } else { self.manager(actor)? };
        let (_, present) = self.alive.get(&target).ok_or(Verdict::NotFound)?;
        within(held, present)?;
        self.keeps_a_manager(present, &Names::new())
    }

    fn keeps_a_manager(&self, before: &Names, after: &Names) -> Result<(), Verdict> {
        let manages = |names: &Names| covers(names, &Names::from(["key:write"]));
        if manages(before) && !manages(after) && self.managers() == 1 { Err(Verdict::LastAdmin) } else { Ok(()) }
    }
}

fn covers(held: &Names, wanted: &Names) -> bool {
    held.contains("*") || wanted.is_subset(held)
}

fn within(held: &Names, wanted: &Names) -> Result<(), Verdict> {
    if covers(held, wanted) { Ok(()) } else { Err(Verdict::Exceeds(wanted.difference(held).copied().collect())) }
}

fn verdict<T>(result: &Result<T, ChangeError>) -> Verdict {
    match result {
        Ok(_) => Verdict::Done,
        Err(ChangeError::ActorGone) => Verdict::ActorGone,
        Err(ChangeError::Denied(Deny::ScopeMissing { .. })) => Verdict::NotManager,
        Err(ChangeError::Denied(Deny::ScopesExceedGrantor { excess })) => {
            let known = |name: &str| SCOPES.into_iter().find(|known| *known == name).unwrap();
            Verdict::Exceeds(excess.names().into_iter().map(known).collect())
        }
        Err(ChangeError::ImmutableScopes) => Verdict::Immutable,
        Err(ChangeError::LastAdminKey) => Verdict::LastAdmin,
        Err(ChangeError::NotFound) => Verdict::NotFound,
        Err(error) => panic!("{error:?}"),
    }
}

fn expected(result: Result<(), Verdict>) -> Verdict {
    result.err().unwrap_or(Verdict::Done)
}

async fn take(ring: &Ring, model: &mut Model, step: Step) {
    match step {
        Step::Create { actor, kind, wanted } => {
            let actor = model.number(actor);
            let draft = if kind == Kind::Custom { custom(&wanted) } else { of_kind(kind, None) };
            let wanted: Names = match kind {
                Kind::Custom => wanted.into_iter().collect(),
                Kind::SdkIntegration => Names::from(["monitor:read", "monitor:write", "telemetry:write"]),
                Kind::Telemetry => Names::from(["telemetry:write"]),
            };
            let result = ring.keyring.create(by(actor), draft).await;
            assert_eq!(verdict(&result), expected(model.create(actor, &wanted)));
            if let Ok((secret, _)) = result {
                model.made.push(secret.id());
                model.alive.insert(secret.id(), (kind, wanted));
            }
        }
        Step::Update { actor, target, wanted } => {
            let (actor, target) = (model.number(actor), model.number(target));
            let changes = Changes { name: None, scopes: wanted.as_deref().map(scopes) };
            let wanted: Option<Names> = wanted.map(|names| names.into_iter().collect());
            let result = ring.keyring.update(by(actor), KeyReference::Id(target), changes, None).await;
            assert_eq!(verdict(&result), expected(model.update(actor, target, wanted.as_ref())));
            if let (Ok(_), Some(wanted)) = (result, wanted) {
                model.alive.get_mut(&target).unwrap().1 = wanted;
            }
        }
        Step::Delete { actor, target } => {
            let (actor, target) = (model.number(actor), model.number(target));
            let result = ring.keyring.delete(by(actor), KeyReference::Id(target), None).await;
            assert_eq!(verdict(&result), expected(model.delete(actor, target)));
            if result.is_ok() {
                model.alive.remove(&target);
            }
        }
    }
}

/// What the keyring holds is what the model holds, and some key can still manage keys.
async fn agree(ring: &Ring, model: &Model) {
    let (views, total) = ring.keyring.list(0, usize::MAX).await.unwrap();
    assert_eq!(total, model.alive.len());
    for view in views {
        let names: Names = model.alive[&view.record.id].1.clone();
        assert_eq!(view.record.scopes, scopes(&names.into_iter().collect::<Vec<_>>()));
    }
    assert!(model.managers() > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_changes_gives_a_key_more_than_its_grantor_had(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ring = Ring::start().await;
            let root = ring.root.id();
            let mut model = Model { made: vec![root], alive: BTreeMap::from([(root, (Kind::Custom, Names::from(["*"])))]) };
            for step in steps {
                take(&ring, &mut model, step).await;
            }
            agree(&ring, &model).await;
        });
    }
}
