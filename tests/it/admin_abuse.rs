//! The key API abused from outside: every method on every shape of path with bodies of every kind. Each answer is one that
//! the API documents, nothing changes without a success, and a plain reading of the rules foretells what is accepted.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::harness::{Answer, Caller, Gate, check, check_problem};

const METHODS: [&str; 11] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "post", "TRACE", "DELETE2"];
const JSON: (&str, &str) = ("Content-Type", "application/json");
const DOCUMENTED: [u16; 12] = [200, 201, 204, 400, 401, 403, 404, 405, 409, 412, 413, 415];

/// A gate, its callers, and the key that is abused.
struct Rig {
    gate: Gate,
    root: Caller,
    callers: Vec<Caller>,
    target: Caller,
}

type Headers<'h> = &'h [(&'h str, &'h str)];

/// Each key by its id, as the listing shows it without the time of its last use.
type Listing = BTreeMap<String, Value>;

impl Rig {
    fn start() -> Self {
        let gate = Gate::with(|setup| setup.route("ANY /{*rest}", r#""public""#));
        let root = gate.root().keep_alive();
        let manager = gate.key(&["key:read", "key:write", "monitor:read"]).keep_alive();
        let callers = vec![gate.root().keep_alive(), manager, gate.key(&["monitor:read"]), gate.anonymous()];
        let target = gate.key(&["monitor:read"]);
        Self { gate, root, callers, target }
    }

    fn listing(&self) -> Listing {
        let listing = check(&self.root.get("/api/keys?page_size=1000"), 200).json();
        let keys = listing["data"].as_array().expect("keys").clone();
        let entry = |mut key: Value| {
            key.as_object_mut().expect("a key").remove("last_used");
            (key["id"].as_str().expect("an id").to_owned(), key)
        };
        keys.into_iter().map(entry).collect()
    }

    /// Makes one call, and judges its answer and what became of the keys.
    #[track_caller]
    fn call(&self, caller: &Caller, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let before = self.listing();
        let answer = caller.request(method, path, headers, body);
        let what = || format!("{method} {path} {headers:?} {}: {answer:?}", body[..body.len().min(200)].escape_ascii());
        assert!(DOCUMENTED.contains(&answer.status), "{}", what());
        assert!(answer.complete && answer.raw.len() < 64 << 10, "{}", what());
        if answer.status >= 400 && method != "HEAD" {
            let problem = answer.json();
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", what());
            assert_eq!(problem["status"], answer.status, "{}", what());
            for member in ["type", "title", "detail", "code", "request_id"] {
                assert!(problem[member].is_string(), "{member}: {}", what());
            }
        }
        assert_eq!(answer.header("allow").is_some(), answer.status == 405, "{}", what());
        assert_eq!(answer.header("www-authenticate").is_some(), answer.status == 401, "{}", what());
        assert_eq!(answer.header("location").is_some(), answer.status == 201, "{}", what());
        let secrets = [&self.root, &self.callers[1], &self.callers[2], &self.target].map(Caller::secret);
        let raw = String::from_utf8_lossy(&answer.raw).into_owned();
        assert!(!secrets.iter().any(|secret| raw.contains(secret)), "{}", what());
        self.check_change(&before, method, &answer, &what);
        answer
    }

    #[track_caller]
    fn check_change(&self, before: &Listing, method: &str, answer: &Answer, what: &dyn Fn() -> String) {
        let after = self.listing();
        let changed = after.iter().filter(|(id, key)| before.get(*id) != Some(key)).count();
        let gone = before.keys().filter(|id| !after.contains_key(*id)).count();
        match (method, answer.status) {
            ("POST", 201) => assert_eq!((changed, gone), (1, 0), "{}", what()),
            ("PUT" | "PATCH", 200) => assert!(changed <= 1 && gone == 0, "{}", what()),
            ("DELETE", 204) => assert_eq!((changed, gone), (0, 1), "{}", what()),
            _ => assert_eq!((changed, gone), (0, 0), "{}", what()),
        }
    }
}

/// What a key's path can look like, and what it must not be taken for.
fn paths(target: &Caller) -> Vec<String> {
    let (id, secret) = (target.id(), target.secret());
    let unknown = portcullis::key::KeySecret::generate().expect("randomness").expose().to_owned();
    let mut paths: Vec<String> = [
        "",
        "?page=1",
        "?page=0",
        "?page=1&page=2",
        "?%00",
        "?page_size=1e3",
        "/",
        "//x",
        ";x",
        "/self",
        "/self/",
        "/self?x=y",
        "/.",
        "/%2e%2e/metrics",
        "/..%2f..%2fmetrics",
        "/x/y",
        "/%00",
        "/%",
        "/null",
        "/0",
        "/-1",
        "/*",
        "/'%20or%201=1",
    ]
    .iter()
    .map(|rest| format!("/api/keys{rest}"))
    .collect();
    let names = [
        id.to_owned(),
        format!("{id}..."),
        secret.to_owned(),
        format!("{id}.."),
        id[..15].to_owned(),
        unknown[..16].to_owned(),
        unknown,
        id.to_uppercase(),
        "a".repeat(4_000),
    ];
    paths.extend(names.iter().map(|name| format!("/api/keys/{name}")));
    paths
}

#[test]
fn every_method_on_every_path_has_a_documented_answer() {
    let rig = Rig::start();
    let bodies: [(Headers<'_>, &[u8]); 3] =
        [(&[], b""), (&[JSON], b"{}"), (&[("Content-Type", "text/plain"), ("If-Match", "\"0\"")], b"\xff\0")];
    let everybody = &rig.callers;
    let paths = paths(&rig.target);
    // Whoever may do all, with every body; the others with one each.
    for path in &paths {
        for (number, method) in METHODS.into_iter().enumerate() {
            let is_own_end = method == "DELETE" && path.contains("/self");
            let is_end_of_target = method == "DELETE" && path.contains(rig.target.id());
            if is_own_end || is_end_of_target {
                continue;
            }
            let (headers, body) = bodies[number % 3];
            rig.call(&everybody[number % everybody.len()], method, path, headers, body);
        }
    }
    assert_eq!(rig.gate.upstream().requests().len(), 0, "below the mount nothing is anybody else's");
    check(&rig.root.delete(rig.target.id()), 204);
}

/// A body that would do, in every way that it can be spoilt.
fn spoilt(valid: &Value) -> Vec<Vec<u8>> {
    let text = valid.to_string();
    let object = valid.as_object().expect("an object");
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    let wrong = [
        json!(null),
        json!(true),
        json!(7),
        json!(-0.5),
        json!([]),
        json!({}),
        json!(""),
        json!([null]),
        json!([[]]),
        json!({"a": "b"}),
        json!("x".repeat(300)),
        json!(["monitor:read", 1]),
        json!("\u{0}"),
        json!(["*", "*", "nonsense"]),
    ];
    for name in object.keys() {
        for value in &wrong {
            let mut spoilt = object.clone();
            spoilt.insert(name.clone(), value.clone());
            bodies.push(Value::Object(spoilt).to_string().into_bytes());
        }
        for other in
            [name.to_uppercase(), format!("{name}\u{0}"), format!(" {name}"), format!("{name}s"), String::new()]
        {
            let mut spoilt = object.clone();
            let value = spoilt.remove(name).expect("it was there");
            spoilt.insert(other, value);
            bodies.push(Value::Object(spoilt).to_string().into_bytes());
        }
        // Twice, the second as harmless or as wide as can be.
        for value in [object[name].clone(), json!(["*"])] {
            bodies.push(format!("{},{:?}:{value}}}", &text[..text.len() - 1], name).into_bytes());
            bodies.push(format!("{{{:?}:{value},{}", name, &text[1..]).into_bytes());
        }
    }
    let whole = [
        format!("{text}x"),
        format!("{text}{text}"),
        format!("{text}\0"),
        format!("\u{feff}{text}"),
        format!("[{text}]"),
        format!("{},\"__proto__\":{{\"scopes\":[\"*\"]}}}}", &text[..text.len() - 1]),
        format!("{},\"x\":{}}}", &text[..text.len() - 1], "[".repeat(30_000)),
        format!("{},\"x\":{}1{}}}", &text[..text.len() - 1], "{\"x\":".repeat(100), "}".repeat(100)),
        format!("{},\"x\":{}}}", &text[..text.len() - 1], "9".repeat(20_000)),
        text.replacen(':', ":NaN,", 1),
        text.replacen(':', ":1e999,", 1),
        text.replace("\"n\"", "\"\\ud800\""),
        text.replace("\"n\"", "\"\\ud800\\u0041\""),
        text.replace("\"n\"", "'n'"),
        text.replace("\"n\"", "\"a\tb\""),
        text.replace('"', ""),
        text.replace('}', ",}"),
        text.replace('{', "{/* */"),
        format!("{}{text}", " ".repeat(65_537)),
    ];
    bodies.extend(whole.map(String::into_bytes));
    bodies.extend((0..text.len()).step_by(3).map(|end| text.as_bytes()[..end].to_vec()));
    bodies.push(text.encode_utf16().flat_map(u16::to_le_bytes).collect());
    bodies.push(text.replace("\"n\"", "\"?\"").bytes().map(|byte| if byte == b'?' { 0xff } else { byte }).collect());
    bodies
}

#[test]
fn a_spoilt_body_changes_nothing() {
    let rig = Rig::start();
    let create = json!({"name": "n", "kind": "custom", "scopes": ["monitor:read"]});
    let item = format!("/api/keys/{}", rig.target.id());
    for (number, body) in spoilt(&create).iter().enumerate() {
        let answer = rig.call(&rig.root, "POST", "/api/keys", &[JSON], body);
        assert!(matches!(answer.status, 400 | 413), "{} {answer:?}", body[..body.len().min(200)].escape_ascii());
        let method = ["PUT", "PATCH"][number % 2];
        let answer = rig.call(&rig.root, method, &item, &[JSON], body);
        // An update may leave a field out, and of these some leave one out.
        assert!(
            matches!(answer.status, 400 | 413),
            "{method} {} {answer:?}",
            body[..body.len().min(200)].escape_ascii()
        );
    }
    let types = [
        "",
        "text/json",
        "application/json;",
        "application/json; charset=utf-16",
        "application/merge-patch+json",
        "*/*",
    ];
    for media_type in types {
        let text = create.to_string();
        let answer = rig.call(&rig.root, "POST", "/api/keys", &[("Content-Type", media_type)], text.as_bytes());
        check_problem(&answer, 415, "unsupported_media_type");
    }
}

// What a plain reading of the rules foretells

const DECLARED: [&str; 8] =
    ["monitor:read", "monitor:write", "telemetry:write", "issue:read", "issue:write", "key:read", "key:write", "*"];

fn value() -> impl Strategy<Value = Value> {
    let names = prop_oneof![Just("n"), Just(" n "), Just(""), Just("  "), Just("a\nb"), Just("ü"), Just("\u{202e}x")];
    let scope = prop::sample::select([&DECLARED[..], &["monitor:telemetry", "nonsense", "Monitor:read", ""]].concat());
    prop_oneof![
        4 => names.prop_map(Value::from),
        4 => prop::collection::vec(scope, 0..4).prop_map(Value::from),
        3 => prop::sample::select(vec!["custom", "telemetry", "sdk_integration", "Custom", "other"]).prop_map(Value::from),
        1 => prop::sample::select(vec![json!(null), json!(1), json!({}), json!([1]), json!("x".repeat(256))]),
    ]
}

fn members() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let right = (
        prop::sample::select(vec![json!("n"), json!("  trimmed ")]),
        prop::sample::select(vec!["custom", "telemetry", "sdk_integration"]),
        prop::option::weighted(0.7, prop::collection::vec(prop::sample::select(DECLARED[..5].to_vec()), 1..3)),
    )
        .prop_map(|(name, kind, scopes)| {
            let mut members = vec![("name", name), ("kind", json!(kind))];
            members.extend(scopes.map(|scopes| ("scopes", json!(scopes))));
            members
        });
    let name =
        prop::sample::select(vec!["name", "name", "kind", "kind", "scopes", "scopes", "Name", "id", "updated", "x"]);
    let noise = prop::collection::vec((name, value()), 0..2);
    (right, noise, 0..4_usize).prop_map(|(mut members, noise, left_out)| {
        if left_out < members.len() && !noise.is_empty() {
            members.remove(left_out);
        }
        members.extend(noise);
        members
    })
}

fn body_of(members: &[(&str, Value)]) -> String {
    let members: Vec<String> = members.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// Of a body: the one value that it has for each field; `None` when it may not say what it says.
fn plain_reading<'b>(members: &'b [(&str, Value)], ignored: &[&str]) -> Option<BTreeMap<&'b str, &'b Value>> {
    let mut fields = BTreeMap::new();
    for (name, value) in members {
        if !["name", "kind", "scopes"].contains(name) && !ignored.contains(name) {
            return None;
        }
        if fields.insert(*name, value).is_some() {
            return None;
        }
    }
    let name = |value: &Value| {
        let name = value.as_str().map(str::trim);
        name.is_some_and(|name| (1..=255).contains(&name.chars().count()) && !name.contains(char::is_control))
    };
    let kind = |value: &Value| matches!(value.as_str(), Some("custom" | "telemetry" | "sdk_integration"));
    let are_well = fields.get("name").is_none_or(|value| name(value))
        && fields.get("kind").is_none_or(|value| kind(value))
        && fields.get("scopes").is_none_or(|value| scopes_of(value).is_some());
    are_well.then_some(fields)
}

fn scopes_of(value: &Value) -> Option<BTreeSet<&str>> {
    let array = value.as_array().filter(|array| !array.is_empty())?;
    let read = |scope: &'_ Value| match scope.as_str()? {
        "monitor:telemetry" => Some("telemetry:write"),
        scope => DECLARED.into_iter().find(|declared| *declared == scope),
    };
    array.iter().map(read).collect()
}

fn fixed_scopes(kind: &str) -> Option<BTreeSet<&'static str>> {
    match kind {
        "telemetry" => Some(BTreeSet::from(["telemetry:write"])),
        "sdk_integration" => Some(BTreeSet::from(["monitor:read", "monitor:write", "telemetry:write"])),
        _ => None,
    }
}

/// The scopes of the key that a create makes; `None`: it makes none.
fn created<'b>(members: &'b [(&str, Value)]) -> Option<BTreeSet<&'b str>> {
    let fields = plain_reading(members, &[])?;
    fields.get("name")?;
    let asked = fields.get("scopes").map(|value| scopes_of(value).expect("read before"));
    match fixed_scopes(fields.get("kind")?.as_str()?) {
        Some(fixed) => asked.is_none_or(|asked| asked == fixed).then_some(fixed),
        None => asked,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_create_is_made_exactly_when_a_plain_reading_of_the_rules_says_so(
        bodies in prop::collection::vec(members(), 30),
    ) {
        let gate = Gate::start();
        let root = gate.root().keep_alive();
        for members in &bodies {
            let body = body_of(members);
            let answer = root.post("/api/keys", &body);
            let wanted = created(members);
            prop_assert_eq!(answer.status, if wanted.is_some() { 201 } else { 400 }, "{}: {:?}", body, answer);
            if let Some(wanted) = wanted {
                let key = answer.json();
                prop_assert_eq!(scopes_of(&key["scopes"]), Some(wanted), "{}", body);
            }
        }
    }

    #[test]
    fn an_update_changes_exactly_the_fields_that_it_names(bodies in prop::collection::vec(members(), 30), is_fixed: bool) {
        let gate = Gate::start();
        let root = gate.root().keep_alive();
        let target = if is_fixed { gate.telemetry_key() } else { gate.key(&["monitor:read"]) };
        let path = format!("/api/keys/{}", target.id());
        for members in &bodies {
            let before = check(&root.get(&path), 200).json();
            let body = body_of(members);
            let answer = root.put(&path, &body);
            let fields = plain_reading(members, &["key", "id", "immutable", "last_used", "created", "updated"]);
            let is_kind = |fields: &BTreeMap<&str, &Value>| fields.get("kind").is_none_or(|kind| **kind == before["kind"]);
            let wanted = match &fields {
                Some(fields) if is_kind(fields) => match asked(fields) {
                    Some(scopes) if is_fixed && scopes != sorted(&before["scopes"]) => 409,
                    _ => 200,
                },
                _ => 400,
            };
            prop_assert_eq!(answer.status, wanted, "{}: {:?}", body, answer);
            let after = check(&root.get(&path), 200).json();
            let fields = fields.filter(|_| wanted == 200).unwrap_or_default();
            let name = fields.get("name").map_or(before["name"].clone(), |name| json!(name.as_str().expect("text").trim()));
            let scopes = asked(&fields).unwrap_or_else(|| sorted(&before["scopes"]));
            prop_assert_eq!((&after["name"], sorted(&after["scopes"])), (&name, scopes), "{}", body);
            for same in ["id", "key", "kind", "immutable", "created"] {
                prop_assert_eq!(&after[same], &before[same], "{}", body);
            }
        }
    }

    /// Pages are cut from the list as it is: in order of creation, new keys last. So nothing shows twice, and without a
    /// deletion nothing that was there is missed.
    #[test]
    fn paging_while_keys_come_and_go_shows_nothing_twice(
        size in 1..5_usize,
        between in prop::collection::vec((0..3_u8, any::<Index>()), 8),
    ) {
        let gate = Gate::start();
        let root = gate.root().keep_alive();
        let mut present: Vec<String> = (0..7).map(|_| root.create(&["monitor:read"]).id().to_owned()).collect();
        let original = present.clone();
        let (mut seen, mut has_deleted) = (Vec::new(), false);
        for page in 1.. {
            let listing = check(&root.get(&format!("/api/keys?page={page}&page_size={size}")), 200).json();
            let ids = listing["data"].as_array().expect("keys").iter().map(|key| key["id"].as_str().expect("an id").to_owned());
            let ids: Vec<String> = ids.collect();
            prop_assert!(ids.len() <= size && listing["total_count"] == present.len() + 1);
            if ids.is_empty() {
                break;
            }
            seen.extend(ids);
            match between.get(page - 1) {
                Some((0, _)) => present.push(root.create(&["issue:read"]).id().to_owned()),
                Some((1, index)) if !present.is_empty() => {
                    let id = present.remove(index.index(present.len()));
                    check(&root.delete(&id), 204);
                    has_deleted = true;
                }
                _ => {}
            }
        }
        let distinct: BTreeSet<&String> = seen.iter().collect();
        prop_assert_eq!(distinct.len(), seen.len(), "{:?}", seen);
        prop_assert!(has_deleted || original.iter().all(|id| distinct.contains(id)));
    }

    /// However deep, and whatever they try: a family never comes to hold what its first key did not.
    #[test]
    fn no_descendant_of_a_key_holds_a_scope_that_the_key_lacks(
        ancestor in prop::sample::subsequence(DECLARED[..5].to_vec(), 0..4),
        attempts in prop::collection::vec((any::<Index>(), any::<Index>(), prop::sample::subsequence(DECLARED.to_vec(), 1..4)), 25),
    ) {
        let gate = Gate::start();
        let held: BTreeSet<&str> = ancestor.into_iter().chain(["key:read", "key:write"]).collect();
        let mut family = vec![gate.key(&held.iter().copied().collect::<Vec<_>>())];
        for (by, target, scopes) in &attempts {
            let by = by.index(family.len());
            let body = json!({"name": "n", "kind": "custom", "scopes": scopes});
            let answer = family[by].post("/api/keys", &body.to_string());
            if answer.status == 201 {
                family.push(gate.caller(answer.json()["key"].as_str().expect("a key")));
            }
            let target = target.index(family.len());
            if target > 0 {
                let _ = family[by].put(&format!("/api/keys/{}", family[target].id()), &json!({ "scopes": scopes }).to_string());
            }
        }
        for key in &family {
            let shown = check(&gate.root().get(&format!("/api/keys/{}", key.id())), 200).json();
            let scopes = scopes_of(&shown["scopes"]).expect("scopes");
            prop_assert!(scopes.is_subset(&held), "{:?} from {:?}", scopes, held);
        }
    }
}

fn asked<'v>(fields: &BTreeMap<&str, &'v Value>) -> Option<BTreeSet<&'v str>> {
    fields.get("scopes").map(|value| sorted(value))
}

fn sorted(scopes: &Value) -> BTreeSet<&str> {
    scopes_of(scopes).expect("declared scopes")
}

#[test]
fn of_an_update_and_a_deletion_at_once_the_key_is_gone_after_both() {
    let gate = Gate::start();
    for _ in 0..8 {
        let target = gate.key(&["monitor:read"]);
        let path = format!("/api/keys/{}", target.id());
        let (put, delete) = std::thread::scope(|scope| {
            let put = scope.spawn(|| gate.root().put(&path, r#"{"name":"renamed"}"#).status);
            let delete = scope.spawn(|| gate.root().delete(target.id()).status);
            (put.join().expect("no panic"), delete.join().expect("no panic"))
        });
        assert_eq!(delete, 204);
        assert!(matches!(put, 200 | 404), "{put}");
        check_problem(&gate.root().get(&path), 404, "key_not_found");
        check(&target.get("/api/v1/query"), 401);
    }
}

#[test]
fn of_two_updates_at_once_one_comes_last_and_whole() {
    let gate = Gate::start();
    let root = gate.root();
    let path = format!("/api/keys/{}", gate.key(&["monitor:read"]).id());
    let bodies = [
        json!({"name": "one", "scopes": ["issue:read"]}),
        json!({"name": "two", "scopes": ["monitor:write", "issue:write"]}),
    ];
    for _ in 0..8 {
        let before = check(&root.get(&path), 200).json();
        std::thread::scope(|scope| {
            let put = |body: &Value| {
                let (caller, path, body) = (gate.root(), path.clone(), body.to_string());
                scope.spawn(move || check(&caller.put(&path, &body), 200).status)
            };
            let both: Vec<_> = bodies.iter().map(put).collect();
            assert!(both.into_iter().all(|one| one.join().is_ok()));
        });
        let after = check(&root.get(&path), 200).json();
        assert!(
            bodies
                .iter()
                .any(|body| body["name"] == after["name"] && sorted(&body["scopes"]) == sorted(&after["scopes"]))
        );
        assert!(after["updated"].as_str() >= before["updated"].as_str());
    }
}
