//! What clients know of the keys that they change: what was acknowledged, and what may have happened.

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::client::{Line, Told};
use crate::harness::Dice;

/// What the routes of the rig ask for: the scope, and a request that needs it.
const DOORS: [(&str, &str, &str); 3] = [
    ("monitor:read", "GET", "/api/v1/query"),
    ("monitor:write", "POST", "/api/v1/admin/x"),
    ("telemetry:write", "POST", "/api/v1/write"),
];
/// Scopes that make a record long, so that the database's file fills.
pub static TEAMS: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..4).map(|number| format!("team:{number:02}{}", "x".repeat(50))).collect());
/// Fewer keys than this are added to, more than this are not.
const KEYS: std::ops::Range<usize> = 8..28;
/// Of how many deleted keys each comparison makes sure that they are refused.
const DELETED_TRIED: usize = 24;
/// What keys are called that others make and delete. One that is left over is deleted.
pub const PASSING: &str = "passing";

/// What a change of a key can change.
#[derive(Clone, Debug, PartialEq)]
struct Value {
    name: String,
    scopes: Vec<String>,
}

/// What clients know of one key.
#[derive(Debug)]
struct Known {
    secret: String,
    /// The newest that was acknowledged.
    acknowledged: (u64, Value),
    /// What was asked for and not answered.
    open: Vec<Value>,
    deletion: Deletion,
    updated: String,
}

/// One that was acknowledged is the end of what is known.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deletion {
    AskedFor,
    None,
}

#[derive(Default)]
struct All {
    /// By id.
    keys: BTreeMap<String, Known>,
    /// Keys that were asked for and not answered, by name.
    asked_for: HashMap<String, Value>,
    /// The texts of keys that are gone, the newest last.
    gone: Vec<String>,
    names: u64,
    changes: usize,
    /// Changes that were not answered: those that had happened, and those that had not.
    open: (usize, usize),
    uses: usize,
}

pub struct Keys {
    root: String,
    /// The ids of keys that these clients do not touch.
    others: Vec<String>,
    all: Mutex<All>,
}

impl Keys {
    pub fn new(root: &str) -> Self {
        Self::beside(root, &[])
    }

    /// The keys of a gate that has these others.
    pub fn beside(root: &str, others: &[String]) -> Self {
        let others = others.iter().map(|secret| &secret[..16]).chain([root.get(..16).unwrap_or_default()]);
        Self { root: root.to_owned(), others: others.map(str::to_owned).collect(), all: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn told(&self) -> String {
        let All { keys, changes, open: (happened, absent), uses, .. } = &*self.all();
        let keys = keys.len();
        format!(
            "{changes} changes acknowledged, {happened} others whole, {absent} absent, {uses} uses, {keys} keys left"
        )
    }

    /// How many changes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.all().changes
    }

    /// Makes one change of any kind, of any key; `false` once the gate is gone.
    pub fn change_one(&self, line: &mut Line, dice: &mut Dice) -> bool {
        let count = self.all().keys.len();
        match dice.below(10) {
            _ if count < KEYS.start => self.create(line, dice),
            0..=2 if count < KEYS.end => self.create(line, dice),
            0..=3 => self.delete(line, dice),
            4..=6 => self.update(line, dice, |before, dice| Value { name: before.name, scopes: some_scopes(dice) }),
            _ => self.update(line, dice, |before, dice| Value { name: format!("renamed {}", dice.next()), ..before }),
        }
    }

    /// Uses a key, so that the time of its last use is written; `false` once the gate is gone.
    pub fn use_one(&self, line: &mut Line, dice: &mut Dice) -> bool {
        let Some(id) = self.any(dice) else { return true };
        let secret = self.all().keys.get(&id).map(|key| key.secret.clone());
        let Some(secret) = secret else { return true };
        let answered = line.call(&secret, "GET", "/open/x", "", "").is_some();
        self.all().uses += usize::from(answered);
        answered
    }

    /// A key of others whose deletion was acknowledged.
    pub fn is_gone(&self, secret: &str) {
        self.all().gone.push(secret.to_owned());
    }

    fn any(&self, dice: &mut Dice) -> Option<String> {
        let all = self.all();
        (!all.keys.is_empty()).then(|| all.keys.keys().nth(dice.below(all.keys.len())).expect("there is one").clone())
    }

    fn create(&self, line: &mut Line, dice: &mut Dice) -> bool {
        let scopes = some_scopes(dice);
        let value = {
            let mut all = self.all();
            all.names += 1;
            let value = Value { name: format!("key {}", all.names), scopes };
            all.asked_for.insert(value.name.clone(), value.clone());
            value
        };
        let body = serde_json::json!({"name": value.name, "kind": "custom", "scopes": value.scopes}).to_string();
        let Some(told) = line.call(&self.root, "POST", "/api/keys", "", &body) else { return false };
        assert_eq!(told.status, 201, "{told:?}");
        let secret = told.body["key"].as_str().expect("a key").to_owned();
        let mut all = self.all();
        all.asked_for.remove(&value.name);
        all.changes += 1;
        let acknowledged = (told.revision.expect("an ETag"), value);
        let known = Known { secret, acknowledged, open: Vec::new(), deletion: Deletion::None, updated: String::new() };
        all.keys.insert(known.secret[..16].to_owned(), known);
        true
    }

    fn update(&self, line: &mut Line, dice: &mut Dice, change: impl Fn(Value, &mut Dice) -> Value) -> bool {
        let Some(id) = self.any(dice) else { return true };
        let (value, revision) = {
            let mut all = self.all();
            let Some(key) = all.keys.get_mut(&id) else { return true };
            let (revision, before) = key.acknowledged.clone();
            let value = change(before, dice);
            key.open.push(value.clone());
            (value, revision)
        };
        let condition = if dice.once_in(4) { format!("If-Match: \"{revision}\"\r\n") } else { String::new() };
        let method = if dice.once_in(2) { "PUT" } else { "PATCH" };
        let body = serde_json::json!({"name": value.name, "scopes": value.scopes}).to_string();
        let told = line.call(&self.root, method, &format!("/api/keys/{id}"), &condition, &body);
        let Some(told) = told else { return false };
        let mut all = self.all();
        all.changes += usize::from(told.status == 200);
        let Some(key) = all.keys.get_mut(&id) else {
            assert!(matches!(told.status, 200 | 404 | 412), "{told:?}");
            return true;
        };
        let at = key.open.iter().position(|open| *open == value).expect("it was asked for");
        key.open.remove(at);
        match told.status {
            200 => {
                let revision = told.revision.expect("an ETag");
                if revision > key.acknowledged.0 {
                    key.acknowledged = (revision, value);
                }
            }
            404 => assert_ne!(key.deletion, Deletion::None, "a key is gone that nobody deleted: {told:?}"),
            412 => assert!(!condition.is_empty(), "{told:?}"),
            _ => panic!("{told:?}"),
        }
        true
    }

    fn delete(&self, line: &mut Line, dice: &mut Dice) -> bool {
        let Some(id) = self.any(dice) else { return true };
        let secret = {
            let mut all = self.all();
            let Some(key) = all.keys.get_mut(&id) else { return true };
            key.deletion = Deletion::AskedFor;
            key.secret.clone()
        };
        // Every key may delete itself.
        let (caller, path) = if dice.once_in(2) {
            (&self.root, format!("/api/keys/{id}"))
        } else {
            (&secret, "/api/keys/self".to_owned())
        };
        let Some(told) = line.call(caller, "DELETE", &path, "", "") else { return false };
        assert!(matches!(told.status, 204 | 401 | 404), "{told:?}");
        let mut all = self.all();
        all.changes += usize::from(told.status == 204);
        // Whoever was first: it is gone now.
        if let Some(key) = all.keys.remove(&id) {
            all.gone.push(key.secret);
        }
        true
    }

    /// Compares what a gate that has just started shows with what was acknowledged and what may have happened.
    pub fn compare(&self, mut line: Line, dice: &mut Dice) {
        let mut call = |secret: &str, method: &str, path: &str| -> Told {
            line.call(secret, method, path, "", "").expect("a gate that runs answers")
        };
        let listed = call(&self.root, "GET", "/api/keys?page_size=1000");
        let listed: Vec<String> =
            listed.body["data"].as_array().expect("a list").iter().map(|item| text(&item["id"])).collect();
        let mut all = self.all();
        let known: Vec<String> = all.keys.keys().cloned().collect();
        for id in known.iter().filter(|id| !listed.contains(id)) {
            let key = all.keys.remove(id).expect("it is known");
            assert_ne!(key.deletion, Deletion::None, "LOST: {key:?}");
            all.open.0 += usize::from(key.deletion == Deletion::AskedFor);
            all.gone.push(key.secret);
        }
        for id in listed.iter().filter(|id| !self.others.contains(id)) {
            let told = call(&self.root, "GET", &format!("/api/keys/{id}"));
            assert_eq!(told.status, 200, "{told:?}");
            if text(&told.body["name"]) == PASSING || !all.found(id, &told) {
                assert_eq!(call(&self.root, "DELETE", &format!("/api/keys/{id}")).status, 204);
            }
        }
        let never = all.asked_for.len();
        all.open.1 += never;
        all.asked_for.clear();
        for key in all.keys.values() {
            let (scope, method, path) = DOORS[dice.below(DOORS.len())];
            let status = if key.acknowledged.1.scopes.iter().any(|held| held == scope) { 200 } else { 403 };
            assert_eq!(call(&key.secret, method, path).status, status, "{path} with {key:?}");
        }
        let tried = all.gone.len().saturating_sub(DELETED_TRIED);
        all.gone.drain(..tried);
        for secret in &all.gone {
            assert_eq!(call(secret, "GET", "/open/x").status, 401, "a deleted key is admitted");
        }
    }
}

impl All {
    /// Takes in what a key is now; `false` when it is one whose text nobody was told.
    fn found(&mut self, id: &str, told: &Told) -> bool {
        let scopes = told.body["scopes"].as_array().expect("scopes").iter().map(text).collect();
        let value = Value { name: text(&told.body["name"]), scopes };
        let revision = told.revision.expect("an ETag");
        let Some(key) = self.keys.get_mut(id) else {
            let asked_for = self.asked_for.remove(&value.name);
            assert_eq!(asked_for.as_ref(), Some(&value), "a key that nobody asked for, or that was deleted: {id}");
            self.open.0 += 1;
            return false;
        };
        let (newest, acknowledged) = &key.acknowledged;
        assert!(revision >= *newest, "LOST: revision {revision} of {key:?}");
        if revision == *newest {
            assert_eq!(value, *acknowledged, "LOST: {key:?}");
        } else {
            assert!(key.open.contains(&value), "a mix: {value:?} at {revision} of {key:?}");
            self.open.0 += 1;
        }
        let open = key.open.len() + usize::from(key.deletion == Deletion::AskedFor);
        self.open.1 += open - usize::from(revision != *newest);
        let updated = text(&told.body["updated"]);
        assert!(updated >= key.updated, "{updated} after {key:?}");
        (key.acknowledged, key.updated) = ((revision, value), updated);
        key.open.clear();
        key.deletion = Deletion::None;
        true
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// In the order in which the API shows them.
fn some_scopes(dice: &mut Dice) -> Vec<String> {
    let mut scopes: Vec<String> =
        DOORS.iter().filter(|_| dice.once_in(2)).map(|(scope, ..)| (*scope).to_owned()).collect();
    let teams = if dice.once_in(3) { TEAMS.len() } else { 1 };
    scopes.extend_from_slice(&TEAMS[..teams]);
    scopes
}
