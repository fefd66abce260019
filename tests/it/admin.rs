//! The key API over sockets: every rule of the design's section 3, by the sentence that it states.

use std::collections::BTreeSet;

use portcullis::clock::{Clock, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::harness::{Answer, Caller, Gate, check, check_problem};

/// A key that no gate has made: its checksum is right, so that only a look-up can refuse it.
fn unknown_key() -> String {
    portcullis::key::KeySecret::generate().expect("randomness").expose().to_owned()
}

fn path_of(key: &str) -> String {
    format!("/api/keys/{key}")
}

/// What every successful answer of the key API has in common.
#[track_caller]
fn check_json(answer: &Answer, status: u16) -> Value {
    check(answer, status);
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
    answer.json()
}

/// Asserts a 400 `invalid_body` with exactly these wrong fields, in any order.
#[track_caller]
fn check_fields(answer: &Answer, wanted: &[(&str, &str)]) {
    check_problem(answer, 400, "invalid_body");
    assert_eq!(field_errors(answer), wanted.iter().copied().map(owned).collect(), "{answer:?}");
}

fn field_errors(answer: &Answer) -> BTreeSet<(String, String)> {
    let problem = answer.json();
    let errors = problem["errors"].as_array().cloned().unwrap_or_default();
    let text = |error: &Value, field: &str| error[field].as_str().unwrap_or_default().to_owned();
    assert!(errors.iter().all(|error| !text(error, "message").is_empty()), "{answer:?}");
    errors.iter().map(|error| (text(error, "field"), text(error, "code"))).collect()
}

fn owned((field, code): (&str, &str)) -> (String, String) {
    (field.to_owned(), code.to_owned())
}

fn custom(scopes: &[&str]) -> String {
    json!({"name": "n", "kind": "custom", "scopes": scopes}).to_string()
}

// GET /api/keys

#[test]
fn list_shows_every_key_masked_in_order_of_creation() {
    let gate = Gate::start();
    let keys: Vec<Caller> = (0..5).map(|_| gate.key(&["monitor:read"])).collect();

    let answer = gate.root().get("/api/keys");

    let listing = check_json(&answer, 200);
    let ids: Vec<&str> = listing["data"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
    let root = gate.root();
    let wanted: Vec<&str> = std::iter::once(root.id()).chain(keys.iter().map(Caller::id)).collect();
    assert_eq!(ids, wanted);
    assert_eq!(listing["total_count"], 6);
    for key in listing["data"].as_array().unwrap() {
        assert_eq!(key["key"], format!("{}...", key["id"].as_str().unwrap()));
    }
    assert!(keys.iter().all(|key| !answer.text().contains(key.secret())));
}

#[test]
fn list_gives_fifty_keys_a_page_unless_asked_otherwise() {
    let gate = Gate::start();
    let root = gate.root().keep_alive();
    for _ in 0..54 {
        root.create(&["monitor:read"]);
    }
    let page = |query: &str| {
        let listing = check_json(&root.get(&format!("/api/keys{query}")), 200);
        let count = listing["data"].as_array().unwrap().len();
        (listing["page"].clone(), listing["page_size"].clone(), listing["total_count"].clone(), count)
    };

    assert_eq!(page(""), (json!(1), json!(50), json!(55), 50));
    assert_eq!(page("?page=2"), (json!(2), json!(50), json!(55), 5));
    assert_eq!(page("?page=3&page_size=20"), (json!(3), json!(20), json!(55), 15));
    assert_eq!(page("?pageSize=1000"), (json!(1), json!(1000), json!(55), 55));
    assert_eq!(page("?search=x&page_size=1"), (json!(1), json!(1), json!(55), 1));
}

#[test]
fn list_past_the_end_is_empty() {
    let gate = Gate::start();
    for query in ["page=2", "page=1000000000", "page=18446744073709551615&page_size=1000"] {
        let listing = check_json(&gate.root().get(&format!("/api/keys?{query}")), 200);
        assert_eq!(listing["data"], json!([]), "{query}");
        assert_eq!(listing["total_count"], 1, "{query}");
    }
}

#[test]
fn page_parameters_are_refused_never_clamped() {
    let gate = Gate::start();
    let cases = [
        ("page=0", "page", "out_of_range"),
        ("page=-1", "page", "out_of_range"),
        ("page=%2B1", "page", "out_of_range"),
        ("page=+1", "page", "out_of_range"),
        ("page=1e9", "page", "out_of_range"),
        ("page=abc", "page", "out_of_range"),
        ("page=", "page", "out_of_range"),
        ("page", "page", "out_of_range"),
        ("page=18446744073709551616", "page", "out_of_range"),
        ("page=1&page=2", "page", "repeated"),
        ("page_size=0", "page_size", "out_of_range"),
        ("page_size=1001", "page_size", "out_of_range"),
        ("page_size=-1", "page_size", "out_of_range"),
        ("pageSize=1e9", "pageSize", "out_of_range"),
        ("page_size=1&pageSize=1", "page_size", "repeated"),
        ("pageSize=1&pageSize=1", "pageSize", "repeated"),
    ];
    for (query, field, code) in cases {
        let answer = gate.root().get(&format!("/api/keys?{query}"));
        check_problem(&answer, 400, "invalid_query");
        assert_eq!(field_errors(&answer), BTreeSet::from([owned((field, code))]), "{query}");
    }
    let both = gate.root().get("/api/keys?page=0&page_size=0");
    assert_eq!(field_errors(&both).len(), 2, "{both:?}");
    let message = |error: usize| both.json()["errors"][error]["message"].clone();
    assert_eq!(message(0), "must be a whole number of at least 1");
    assert_eq!(message(1), "must be a whole number from 1 to 1000");
}

#[test]
fn keys_deleted_while_a_client_pages_never_show_twice() {
    let gate = Gate::start();
    let root = gate.root();
    let keys: Vec<Caller> = (0..6).map(|_| root.create(&["monitor:read"])).collect();
    let ids = |page: u32| -> Vec<String> {
        let listing = check_json(&root.get(&format!("/api/keys?page={page}&page_size=3")), 200);
        listing["data"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };

    let first = ids(1);
    check(&root.delete(keys[0].id()), 204);
    let second = ids(2);

    assert!(first.iter().all(|id| !second.contains(id)));
}

// POST /api/keys

#[test]
fn create_answers_201_with_location_and_the_full_key() {
    let gate = Gate::start();

    let answer = gate.root().post("/api/keys", &custom(&["monitor:read"]));

    let key = check_json(&answer, 201);
    let id = key["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), Some(path_of(id).as_str()));
    assert!(answer.header("etag").is_some_and(|tag| tag.starts_with('"') && tag.ends_with('"')), "{answer:?}");
    let secret = key["key"].as_str().unwrap();
    assert!(secret.starts_with(id) && secret.len() > 48, "{answer:?}");
    assert_eq!(key["last_used"], Value::Null);
    assert_eq!(key["created"], key["updated"]);
    check(&gate.caller(secret).get("/api/v1/query"), 200);
}

#[test]
fn full_key_appears_in_the_answer_to_its_creation_alone() {
    let gate = Gate::start();
    let root = gate.root();
    let key = root.create(&["monitor:read", "key:read"]);

    let answers = [
        root.get("/api/keys"),
        root.get(&path_of(key.id())),
        root.get(&path_of(key.secret())),
        key.get("/api/keys/self"),
        root.put(&path_of(key.secret()), r#"{"name":"other"}"#),
        root.put(&path_of(key.secret()), r#"{"name":7}"#),
        root.request("DELETE", &path_of(key.secret()), &[], b""),
        root.get(&path_of(key.secret())),
    ];

    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 400, 204, 404]);
    for answer in &answers {
        assert!(!String::from_utf8_lossy(&answer.raw).contains(key.secret()), "{answer:?}");
    }
}

#[test]
fn fixed_kinds_have_their_own_scopes_and_are_immutable() {
    let gate = Gate::start();
    let cases = [
        ("telemetry", json!(["telemetry:write"])),
        ("sdk_integration", json!(["monitor:read", "monitor:write", "telemetry:write"])),
    ];
    for (kind, scopes) in cases {
        let silent = gate.root().post("/api/keys", &json!({"name": "n", "kind": kind}).to_string());
        let key = check_json(&silent, 201);
        assert_eq!((&key["scopes"], &key["immutable"], &key["kind"]), (&scopes, &json!(true), &json!(kind)));

        let equal = json!({"name": "n", "kind": kind, "scopes": scopes}).to_string();
        check_json(&gate.root().post("/api/keys", &equal), 201);

        let other = json!({"name": "n", "kind": kind, "scopes": ["*"]}).to_string();
        check_fields(&gate.root().post("/api/keys", &other), &[("scopes", "fixed_scopes")]);
    }
}

#[test]
fn custom_scopes_collapse_and_take_the_canonical_order() {
    let gate = Gate::start();
    let wanted = ["issue:read", "monitor:telemetry", "monitor:read", "issue:read", "telemetry:write"];

    let key = check_json(&gate.root().post("/api/keys", &custom(&wanted)), 201);

    assert_eq!(key["scopes"], json!(["monitor:read", "telemetry:write", "issue:read"]));
    assert_eq!(key["immutable"], json!(false));
}

#[test]
fn declared_scopes_can_be_granted_and_undeclared_ones_cannot() {
    let gate = Gate::with(|setup| setup.option("scopes", r#""metrics:read" = "Query series""#));

    check_json(&gate.root().post("/api/keys", &custom(&["metrics:read"])), 201);

    let answer = gate.root().post("/api/keys", &custom(&["metrics:raed", "monitor:read", "No Scope"]));
    check_fields(&answer, &[("scopes", "unknown_scope"), ("scopes", "invalid_scope")]);
    assert!(answer.text().contains("did you mean metrics:read?"), "{answer:?}");
}

#[test]
fn create_names_every_wrong_field_at_once() {
    let gate = Gate::start();
    let root = gate.root().keep_alive();
    let cases: [(&str, &[(&str, &str)]); 23] = [
        ("{}", &[("name", "required"), ("kind", "required")]),
        (r#"{"name":"n","kind":"custom"}"#, &[("scopes", "required")]),
        (r#"{"name":"n","kind":"custom","scopes":[]}"#, &[("scopes", "empty")]),
        (r#"{"name":"n","kind":"custom","scopes":null}"#, &[("scopes", "wrong_type")]),
        (r#"{"name":"n","kind":"telemetry","scopes":null}"#, &[("scopes", "wrong_type")]),
        (r#"{"name":"n","kind":"telemetry","scopes":[]}"#, &[("scopes", "empty")]),
        (r#"{"name":"n","kind":"custom","scopes":"monitor:read"}"#, &[("scopes", "wrong_type")]),
        (r#"{"name":"n","kind":"custom","scopes":[1]}"#, &[("scopes", "wrong_type")]),
        (r#"{"name":"n","kind":"telemetry","scopes":[1]}"#, &[("scopes", "wrong_type")]),
        (r#"{"name":"n","kind":"custom","scopes":["monitor:read",null]}"#, &[("scopes", "wrong_type")]),
        (r#"{"name":null,"kind":"telemetry"}"#, &[("name", "wrong_type")]),
        (r#"{"name":7,"kind":true}"#, &[("name", "wrong_type"), ("kind", "wrong_type")]),
        (r#"{"name":"  ","kind":"telemetry"}"#, &[("name", "invalid_name")]),
        (r#"{"name":"a\nb","kind":"telemetry"}"#, &[("name", "invalid_name")]),
        (r#"{"name":"n","kind":"Telemetry"}"#, &[("kind", "invalid_kind")]),
        (r#"{"name":"n","kind":"telemetry","color":"red"}"#, &[("color", "unknown_field")]),
        (r#"{"Name":"n","kind":"telemetry"}"#, &[("name", "required"), ("Name", "unknown_field")]),
        (r#"{"name":"n","kind":"telemetry","scopes\u0000":[]}"#, &[("scopes\0", "unknown_field")]),
        (r#"{"name":"a","name":"b","kind":"telemetry"}"#, &[("name", "duplicate_field")]),
        (r#"{"name":"a","na\u006de":"a","kind":"telemetry"}"#, &[("name", "duplicate_field")]),
        (r#"{"name":"n","kind":"telemetry","id":"x","key":"x"}"#, &[("id", "read_only"), ("key", "read_only")]),
        (
            r#"{"name":"n","kind":"telemetry","immutable":true,"last_used":null,"created":"x","updated":"x"}"#,
            &[
                ("immutable", "read_only"),
                ("last_used", "read_only"),
                ("created", "read_only"),
                ("updated", "read_only"),
            ],
        ),
        (
            r#"{"name":"","kind":"custom","scopes":["monitor:read"],"scopes":["*"],"x":1}"#,
            &[("name", "invalid_name"), ("scopes", "duplicate_field"), ("x", "unknown_field")],
        ),
    ];
    for (body, wanted) in cases {
        check_fields(&root.post("/api/keys", body), wanted);
    }
    assert_eq!(root.get("/api/keys").json()["total_count"], 1);
}

#[test]
fn create_refuses_what_is_not_one_json_object() {
    let gate = Gate::start();
    let deep = "[".repeat(40_000);
    for body in ["", "{", "[]", "null", "\"x\"", "{} {}", "{\"name\":\"\u{fffd}\"", "{'name':'n'}", deep.as_str()] {
        let answer = gate.root().post("/api/keys", body);
        check_problem(&answer, 400, "invalid_body");
    }
    let not_utf8 = b"{\"name\":\"\xff\",\"kind\":\"telemetry\"}";
    let answer = gate.root().request("POST", "/api/keys", &[("Content-Type", "application/json")], not_utf8);
    check_problem(&answer, 400, "invalid_body");
}

#[test]
fn answers_to_hostile_bodies_stay_small() {
    let gate = Gate::start();
    let members: Vec<String> = (0..4_000).map(|n| format!("\"x{n}\":0")).collect();
    let many = gate.root().post("/api/keys", &format!("{{{}}}", members.join(",")));
    check_problem(&many, 400, "invalid_body");
    assert!(many.body.len() < 8_192, "{} bytes", many.body.len());
    let told = |answer: &Answer| answer.json()["errors"].as_array().expect("a list").len();
    let few = gate.root().post("/api/keys", &format!("{{{}}}", members[..30].join(",")));
    assert_eq!((told(&few), told(&many)), (32, 32), "30 unknown members and two missing ones; the most that is told");
    let reported_at_once = json!({"name": "n", "kind": "custom", "scopes": vec!["no:such"; 33]}).to_string();
    assert_eq!(told(&gate.root().post("/api/keys", &reported_at_once)), 32);

    let long = gate.root().post("/api/keys", &json!({ "a".repeat(50_000): 1 }).to_string());
    check_problem(&long, 400, "invalid_body");
    assert!(long.body.len() < 1_024, "{} bytes", long.body.len());
}

#[test]
fn key_in_the_wrong_place_of_a_body_is_not_repeated() {
    let gate = Gate::start();
    let root = gate.root();
    let secret = root.secret();
    let bodies =
        [custom(&[secret]), json!({ secret: 1 }).to_string(), json!({"name": "n", "kind": secret}).to_string()];
    for body in bodies {
        let answer = root.post("/api/keys", &body);
        check_problem(&answer, 400, "invalid_body");
        assert!(!answer.text().contains(secret), "{answer:?}");
    }
}

#[test]
fn names_are_trimmed_and_have_1_to_255_characters() {
    let gate = Gate::start();
    let root = gate.root().keep_alive();
    let create = |name: &str| root.post("/api/keys", &json!({"name": name, "kind": "telemetry"}).to_string());

    assert_eq!(check_json(&create("  two words \t"), 201)["name"], "two words");
    assert_eq!(check_json(&create("two words"), 201)["name"], "two words");
    let longest = "ü".repeat(255);
    assert_eq!(check_json(&create(&longest), 201)["name"], longest.as_str());
    for name in ["", " ", "a\u{0}b", "a\u{7f}b", "a\u{85}b", "a\u{2028}b", &"ü".repeat(256)] {
        check_fields(&create(name), &[("name", "invalid_name")]);
    }
}

#[test]
fn bodies_that_are_not_plain_json_are_415() {
    let gate = Gate::start();
    let body = json!({"name": "n", "kind": "telemetry"}).to_string();
    let post = |headers: &[(&str, &str)]| gate.root().request("POST", "/api/keys", headers, body.as_bytes());

    let refused: [&[(&str, &str)]; 10] = [
        &[],
        &[("Content-Type", "")],
        &[("Content-Type", "text/plain")],
        &[("Content-Type", "application/x-www-form-urlencoded")],
        &[("Content-Type", "application/json; charset=latin1")],
        &[("Content-Type", "application/json; boundary=x")],
        &[("Content-Type", "application/json, text/plain")],
        &[("Content-Type", "application/json"), ("Content-Type", "application/json")],
        &[("Content-Type", "application/json"), ("Content-Encoding", "gzip")],
        &[("Content-Type", "application/json"), ("Content-Encoding", "identity, br")],
    ];
    for headers in refused {
        check_problem(&post(headers), 415, "unsupported_media_type");
    }
    check(&post(&[("Content-Type", "application/JSON; Charset=\"UTF-8\"")]), 201);
    check(&post(&[("Content-Type", "application/json;charset=utf-8"), ("Content-Encoding", "identity")]), 201);
}

#[test]
fn bodies_of_64_kib_are_read_and_larger_ones_are_413() {
    let gate = Gate::start();
    let sized = |bytes: usize| {
        let body = json!({"name": "n", "kind": "telemetry"}).to_string();
        let padding = " ".repeat(bytes - body.len());
        body + &padding
    };
    let key = gate.telemetry_key();

    check(&gate.root().post("/api/keys", &sized(65_536)), 201);

    check_problem(&gate.root().post("/api/keys", &sized(65_537)), 413, "body_too_large");
    check_problem(&gate.root().put(&path_of(key.id()), &sized(65_537)), 413, "body_too_large");
    let chunked = format!("{:x}\r\n{}\r\n0\r\n\r\n", 65_537, sized(65_537));
    let headers = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")];
    let answer = gate.root().request("POST", "/api/keys", &headers, chunked.as_bytes());
    check_problem(&answer, 413, "body_too_large");
}

#[test]
fn create_beyond_the_most_keys_is_409() {
    let gate = Gate::with(|setup| setup.option("keys", "keys_max = 2"));
    let key = gate.telemetry_key();

    let answer = gate.root().post("/api/keys", r#"{"name":"n","kind":"telemetry"}"#);

    check_problem(&answer, 409, "keys_full");
    check(&gate.root().put(&path_of(key.id()), r#"{"name":"renamed"}"#), 200);
    check(&gate.root().delete(key.id()), 204);
    gate.telemetry_key();
}

// GET /api/keys/:key

#[test]
fn key_is_named_by_id_masked_id_or_full_text_and_nothing_else() {
    let gate = Gate::start();
    let root = gate.root().keep_alive();
    let key = gate.key(&["monitor:read"]);
    let (id, secret) = (key.id(), key.secret());
    for name in [id.to_owned(), format!("{id}..."), secret.to_owned()] {
        let found = check_json(&root.get(&path_of(&name)), 200);
        assert_eq!((&found["id"], &found["key"]), (&json!(id), &json!(format!("{id}..."))));
    }

    let other = unknown_key();
    let mut strangers: Vec<String> =
        (1..secret.len()).filter(|end| *end != id.len()).map(|end| secret[..end].to_owned()).collect();
    strangers.extend([
        other.clone(),
        other[..16].to_owned(),
        // The right id, somebody else's secret; and the right key with a blank, an ellipsis, another case.
        format!("{id}{}", &other[16..]),
        format!("{secret}..."),
        format!("{id}.."),
        format!("{id}...."),
        format!("{id}%20"),
        id.to_ascii_uppercase(),
        id[4..].to_owned(),
        "1".to_owned(),
        "Self".to_owned(),
        "*".to_owned(),
    ]);
    let wanted = without_request_id(&root.get(&path_of(&other)));
    for name in strangers {
        let answer = root.get(&path_of(&name));
        check_problem(&answer, 404, "key_not_found");
        assert_eq!(without_request_id(&answer), wanted, "{name}");
    }
}

fn without_request_id(answer: &Answer) -> Value {
    let mut problem = answer.json();
    problem.as_object_mut().unwrap().remove("request_id");
    problem
}

#[test]
fn caller_without_the_scope_learns_nothing_about_keys() {
    let gate = Gate::start();
    let stranger = gate.key(&["monitor:read"]);
    let (known, unknown) = (gate.key(&["monitor:read"]), unknown_key());
    let body = br#"{"name":"n"}"#;
    for (method, needs) in [("GET", "key:read"), ("HEAD", "key:read"), ("PUT", "key:write"), ("DELETE", "key:write")] {
        for name in [known.id(), &unknown[..16], known.secret(), &unknown, "nonsense"] {
            let answer = stranger.request(method, &path_of(name), &[("Content-Type", "application/json")], body);
            check(&answer, 403);
            if method != "HEAD" {
                check_problem(&answer, 403, "scope_missing");
                assert_eq!(answer.json()["required_scopes"], json!([needs]), "{answer:?}");
            }
        }
    }
    check(&gate.root().get(&path_of(known.id())), 200);
}

#[test]
fn reading_needs_key_read_and_changing_needs_key_write() {
    let gate = Gate::start();
    let reader = gate.key(&["key:read", "telemetry:write"]);
    let writer = gate.key(&["key:write", "telemetry:write"]);
    let target = gate.telemetry_key();
    let rename = r#"{"name":"renamed"}"#;
    let create = r#"{"name":"n","kind":"telemetry"}"#;

    check(&reader.get("/api/keys"), 200);
    check(&reader.get(&path_of(target.id())), 200);
    check_problem(&reader.post("/api/keys", create), 403, "scope_missing");
    check_problem(&reader.put(&path_of(target.id()), rename), 403, "scope_missing");
    check_problem(&reader.delete(target.id()), 403, "scope_missing");

    check_problem(&writer.get("/api/keys"), 403, "scope_missing");
    check_problem(&writer.get(&path_of(target.id())), 403, "scope_missing");
    check(&writer.post("/api/keys", create), 201);
    check(&writer.put(&path_of(target.id()), rename), 200);
    check(&writer.delete(target.id()), 204);
}

#[test]
fn call_without_a_valid_key_is_401_with_a_challenge() {
    let gate = Gate::start();
    for caller in [gate.anonymous(), gate.caller(&unknown_key()), gate.caller("junk")] {
        for path in ["/api/keys", "/api/keys/self", "/api/keys/x/y", "/api/keys/"] {
            let answer = caller.get(path);
            check_problem(&answer, 401, "unauthenticated");
            assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Basic realm=")));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }
}

#[test]
fn head_answers_as_get_does_without_the_body() {
    let gate = Gate::start();
    let root = gate.root();
    for path in ["/api/keys".to_owned(), path_of(root.id()), path_of("self")] {
        let (head, get) = (root.head(&path), root.get(&path));
        check(&head, 200);
        assert!(head.body.is_empty());
        for name in ["content-type", "content-length", "etag", "cache-control"] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
    }
}

// PUT and PATCH /api/keys/:key

#[test]
fn update_changes_the_named_fields_and_no_other() {
    let gate = Gate::start();
    let root = gate.root();
    let key = gate.key(&["monitor:read"]);
    let path = path_of(key.id());

    let renamed = check_json(&root.put(&path, r#"{"name":" renamed "}"#), 200);
    assert_eq!((&renamed["name"], &renamed["scopes"]), (&json!("renamed"), &json!(["monitor:read"])));

    let body = br#"{"scopes":["issue:read","monitor:telemetry"]}"#;
    let patched = check_json(&root.request("PATCH", &path, &[("Content-Type", "application/json")], body), 200);
    assert_eq!((&patched["name"], &patched["scopes"]), (&json!("renamed"), &json!(["telemetry:write", "issue:read"])));

    assert_eq!(check_json(&root.get(&path), 200), patched);
    check_problem(&key.get("/api/v1/query"), 403, "scope_missing");
}

#[test]
fn update_ignores_read_only_fields_that_are_echoed_back() {
    let gate = Gate::start();
    let root = gate.root();
    for key in [gate.key(&["monitor:read"]), gate.telemetry_key()] {
        let path = path_of(key.id());
        let mut whole = check_json(&root.get(&path), 200);
        whole["name"] = json!("renamed");

        let answer = root.put(&path, &whole.to_string());

        assert_eq!(without(&check_json(&answer, 200), "updated"), without(&whole, "updated"));
    }
}

fn without(object: &Value, field: &str) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().remove(field);
    object
}

#[test]
fn update_refuses_wrong_fields_and_another_kind() {
    let gate = Gate::start();
    let root = gate.root().keep_alive();
    let key = gate.key(&["monitor:read"]);
    let before = check_json(&root.get(&path_of(key.id())), 200);
    let cases: [(&str, &[(&str, &str)]); 10] = [
        (r#"{"name":null}"#, &[("name", "wrong_type")]),
        (r#"{"scopes":null}"#, &[("scopes", "wrong_type")]),
        (r#"{"scopes":[]}"#, &[("scopes", "empty")]),
        (r#"{"scopes":["monitor:reed"]}"#, &[("scopes", "unknown_scope")]),
        (r#"{"name":""}"#, &[("name", "invalid_name")]),
        (r#"{"kind":"telemetry"}"#, &[("kind", "read_only")]),
        (r#"{"kind":"nonsense"}"#, &[("kind", "invalid_kind")]),
        (r#"{"color":"red","NAME":"x"}"#, &[("color", "unknown_field"), ("NAME", "unknown_field")]),
        (r#"{"id":"x","id":"x"}"#, &[("id", "duplicate_field")]),
        (r#"{"name":"a","name":"b"}"#, &[("name", "duplicate_field")]),
    ];
    for (body, wanted) in cases {
        check_fields(&root.put(&path_of(key.id()), body), wanted);
    }
    assert_eq!(check_json(&root.get(&path_of(key.id())), 200), before);
}

#[test]
fn empty_update_changes_nothing() {
    let (clock, gate) = clocked_gate();
    let root = gate.root();
    let key = gate.key(&["monitor:read"]);
    let before = root.get(&path_of(key.id()));
    clock.advance(60);

    let after = root.put(&path_of(key.id()), "{}");

    assert_eq!(check_json(&after, 200), before.json());
    assert_eq!(after.header("etag"), before.header("etag"));
}

#[test]
fn fixed_scopes_cannot_be_updated() {
    let gate = Gate::start();
    let root = gate.root();
    let path = path_of(gate.telemetry_key().id());

    check_problem(&root.put(&path, r#"{"scopes":["monitor:read"]}"#), 409, "immutable_scopes");
    check(&root.put(&path, r#"{"scopes":["telemetry:write"],"name":"renamed"}"#), 200);
    assert_eq!(root.get(&path).json()["name"], "renamed");
}

#[test]
fn update_moves_updated_and_use_does_not() {
    let (clock, gate) = clocked_gate();
    let root = gate.root();
    let key = gate.key(&["monitor:read"]);
    let path = path_of(key.id());
    let times = || {
        let key = check_json(&root.get(&path), 200);
        (key["created"].clone(), key["updated"].clone(), key["last_used"].clone())
    };
    assert_eq!(times(), (json!("2026-01-02T03:04:05Z"), json!("2026-01-02T03:04:05Z"), Value::Null));

    clock.advance(60);
    check(&key.get("/api/v1/query"), 200);
    assert_eq!(times(), (json!("2026-01-02T03:04:05Z"), json!("2026-01-02T03:04:05Z"), json!("2026-01-02T03:05:05Z")));

    clock.advance(60);
    check(&root.put(&path, r#"{"name":"renamed"}"#), 200);
    assert_eq!(times(), (json!("2026-01-02T03:04:05Z"), json!("2026-01-02T03:06:05Z"), json!("2026-01-02T03:05:05Z")));
}

fn clocked_gate() -> (Clock, Gate) {
    let start: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
    let clock = Clock::manual(start);
    let gate = Gate::with(|setup| setup.clock(&clock));
    (clock, gate)
}

// If-Match

#[test]
fn change_is_made_only_to_the_version_that_if_match_names() {
    let gate = Gate::start();
    let root = gate.root();
    let path = path_of(gate.key(&["monitor:read"]).id());
    let tag = |answer: &Answer| answer.header("etag").expect("an ETag").to_owned();
    let rename = |if_match: &str| {
        let headers = [("Content-Type", "application/json"), ("If-Match", if_match)];
        root.request("PUT", &path, &headers, json!({"name": format!("as of {if_match}")}).to_string().as_bytes())
    };
    let first = tag(&root.get(&path));

    let second = tag(check(&rename(&first), 200));
    assert_ne!(first, second);
    assert_eq!(tag(&root.get(&path)), second);
    for stale in [first.as_str(), "\"0\"", "", "garbage", second.trim_matches('"'), &format!("W/{second}")] {
        check_problem(&rename(stale), 412, "precondition_failed");
        let headers = [("If-Match", stale)];
        check_problem(&root.request("DELETE", &path, &headers, b""), 412, "precondition_failed");
    }
    let third = tag(check(&rename(&format!("{first}, {second}")), 200));
    check(&rename("*"), 200);
    assert_ne!(tag(&root.get(&path)), third);
    let latest = tag(&root.get(&path));
    check(&root.request("DELETE", &path, &[("If-Match", &latest)], b""), 204);
    check_problem(&rename("*"), 404, "key_not_found");
}

#[test]
fn of_simultaneous_changes_to_one_version_exactly_one_is_made() {
    let gate = Gate::start();
    let path = path_of(gate.key(&["monitor:read"]).id());
    let tag = gate.root().get(&path).header("etag").expect("an ETag").to_owned();

    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let change = |n: usize| {
            let (root, path, tag) = (gate.root(), path.clone(), tag.clone());
            scope.spawn(move || {
                let headers = [("Content-Type", "application/json"), ("If-Match", tag.as_str())];
                root.request("PUT", &path, &headers, format!("{{\"name\":\"{n}\"}}").as_bytes()).status
            })
        };
        let changes: Vec<_> = (0..8).map(change).collect();
        changes.into_iter().map(|change| change.join().expect("no panic")).collect()
    });

    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 7, "{statuses:?}");
}

// DELETE /api/keys/:key

#[test]
fn delete_answers_204_then_404_and_revokes_at_once() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let kept = key.keep_alive();
    check(&kept.get("/api/v1/query"), 200);

    let answer = gate.root().delete(key.id());

    check(&answer, 204);
    assert!(answer.body.is_empty() && answer.header("content-type").is_none(), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    check_problem(&kept.get("/api/v1/query"), 401, "unauthenticated");
    check_problem(&gate.root().delete(key.id()), 404, "key_not_found");
    check_problem(&gate.root().get(&path_of(key.id())), 404, "key_not_found");
    assert_eq!(gate.root().get("/api/keys").json()["total_count"], 1);
}

#[test]
fn body_of_get_and_delete_is_ignored() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    check(&gate.root().request("GET", &path_of(key.id()), &[], b"{\"name\":"), 200);
    check(&gate.root().request("DELETE", &path_of(key.id()), &[], b"{\"name\":"), 204);
}

// /api/keys/self

#[test]
fn every_key_can_read_and_revoke_itself() {
    let gate = Gate::start();
    for key in [gate.key(&["issue:read"]), gate.telemetry_key()] {
        let own = check_json(&key.get("/api/keys/self"), 200);
        assert_eq!((&own["id"], &own["key"]), (&json!(key.id()), &json!(format!("{}...", key.id()))));

        check(&key.delete("self"), 204);

        check_problem(&key.get("/api/keys/self"), 401, "unauthenticated");
        check_problem(&gate.root().get(&path_of(key.id())), 404, "key_not_found");
    }
}

#[test]
fn key_cannot_change_itself_as_self() {
    let gate = Gate::start();
    for method in ["PUT", "PATCH", "POST"] {
        let answer = gate.root().request(method, "/api/keys/self", &[("Content-Type", "application/json")], b"{}");
        check_problem(&answer, 405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD, DELETE"));
    }
}

// The ceiling

#[test]
fn create_beyond_the_callers_scopes_is_refused_naming_the_surplus() {
    let gate = Gate::start();
    let caller = gate.key(&["key:write", "monitor:read"]);

    let answer = caller.post("/api/keys", &custom(&["issue:write", "monitor:read", "monitor:write"]));
    check_problem(&answer, 403, "scope_exceeds_caller");
    assert_eq!(answer.json()["exceeding_scopes"], json!(["monitor:write", "issue:write"]));

    for kind in ["telemetry", "sdk_integration"] {
        let answer = caller.post("/api/keys", &json!({"name": "n", "kind": kind}).to_string());
        check_problem(&answer, 403, "scope_exceeds_caller");
    }
    check(&caller.post("/api/keys", &custom(&["monitor:read", "key:write"])), 201);
}

#[test]
fn only_a_holder_of_all_grants_all() {
    let gate = Gate::start();
    let everything =
        ["monitor:read", "monitor:write", "telemetry:write", "issue:read", "issue:write", "key:read", "key:write"];
    let caller = gate.key(&everything);

    let answer = caller.post("/api/keys", &custom(&["*"]));

    check_problem(&answer, 403, "scope_exceeds_caller");
    assert_eq!(answer.json()["exceeding_scopes"], json!(["*"]));
    check(&gate.root().post("/api/keys", &custom(&["*"])), 201);
}

#[test]
fn update_beyond_the_callers_scopes_is_refused_even_of_itself() {
    let gate = Gate::start();
    let caller = gate.key(&["key:read", "key:write", "monitor:read"]);
    let narrow = gate.key(&["monitor:read"]);
    for target in [narrow.id(), caller.id()] {
        let before = gate.root().get(&path_of(target)).json();
        let answer = caller.put(&path_of(target), r#"{"scopes":["monitor:read","issue:read"]}"#);
        check_problem(&answer, 403, "scope_exceeds_caller");
        assert_eq!(answer.json()["exceeding_scopes"], json!(["issue:read"]));
        assert_eq!(without(&gate.root().get(&path_of(target)).json(), "last_used"), without(&before, "last_used"));
    }
}

#[test]
fn key_wider_than_the_caller_cannot_be_touched_by_it() {
    let gate = Gate::start();
    let caller = gate.key(&["key:write", "monitor:read"]);
    let wider = gate.key(&["monitor:read", "issue:read"]);
    let attempts = [
        caller.put(&path_of(wider.id()), r#"{"name":"renamed"}"#),
        caller.put(&path_of(wider.id()), r#"{"scopes":["monitor:read"]}"#),
        caller.delete(wider.id()),
        caller.delete(&format!("{}...", wider.id())),
        caller.delete(wider.secret()),
    ];
    for answer in attempts {
        check_problem(&answer, 403, "scope_exceeds_caller");
        assert_eq!(answer.json()["exceeding_scopes"], json!(["issue:read"]));
    }
    check(&wider.get("/api/v1/query"), 200);
}

#[test]
fn last_key_that_manages_keys_cannot_be_deleted_or_stripped() {
    let gate = Gate::start();
    let root = gate.root();
    gate.key(&["key:read", "monitor:read"]);
    let attempts =
        [root.delete(root.id()), root.delete("self"), root.put(&path_of(root.id()), r#"{"scopes":["monitor:read"]}"#)];
    for answer in attempts {
        check_problem(&answer, 409, "last_admin_key");
    }

    let deputy = gate.key(&["key:write"]);
    check(&root.put(&path_of(root.id()), r#"{"scopes":["monitor:read"]}"#), 200);
    check_problem(&root.get("/api/keys"), 403, "scope_missing");
    check_problem(&deputy.delete("self"), 409, "last_admin_key");
}

// Paths and methods

#[test]
fn other_methods_are_405_with_allow() {
    let gate = Gate::start();
    let item = path_of(gate.key(&["monitor:read"]).id());
    let cases = [
        ("PUT", "/api/keys", "GET, HEAD, POST"),
        ("PATCH", "/api/keys", "GET, HEAD, POST"),
        ("DELETE", "/api/keys", "GET, HEAD, POST"),
        ("OPTIONS", "/api/keys", "GET, HEAD, POST"),
        ("FOO", "/api/keys", "GET, HEAD, POST"),
        ("get", "/api/keys", "GET, HEAD, POST"),
        ("POST", &item, "GET, HEAD, PUT, PATCH, DELETE"),
        ("OPTIONS", &item, "GET, HEAD, PUT, PATCH, DELETE"),
        ("OPTIONS", "/api/keys/self", "GET, HEAD, DELETE"),
    ];
    for (method, path, allow) in cases {
        let answer = gate.root().request(method, path, &[("Content-Type", "application/json")], b"{}");
        check_problem(&answer, 405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

#[test]
fn paths_below_the_mount_are_never_forwarded() {
    let gate = Gate::with(|setup| setup.route("ANY /{*rest}", r#""public""#));
    let root = gate.root();
    for path in ["/api/keys/", "/api/keys/self/", "/api/keys/x/y", "/api/keys/self/scopes"] {
        check_problem(&root.get(path), 404, "route_unknown");
    }
    for path in [
        "/api/keys//x",
        "//api/keys",
        "/api/keys/../keys",
        "/api/keys;x",
        "/api/keys/..%2f..%2fmetrics",
        "/api/keys/x%2fy",
        "/api/keys/x;y",
    ] {
        check(&root.get(path), 400);
    }
    check(&root.get("/api/keys"), 200);
    check(&gate.anonymous().get("/api/keys"), 401);
    assert_eq!(gate.upstream().requests().len(), 0);

    // Not below it: a route's, as any other path.
    check(&root.get("/api/keysafe"), 200);
    check(&root.get("/API/keys"), 200);
    assert_eq!(gate.upstream().requests().len(), 2);
}

#[test]
fn mount_and_listeners_are_the_configurations_choice() {
    let elsewhere = Gate::with(|setup| setup.option("admin", r#"path = "/-/keys""#));
    let created = elsewhere.root().post("/-/keys", &custom(&["monitor:read"]));
    let location = check(&created, 201).header("location").expect("a Location").to_owned();
    assert!(location.starts_with("/-/keys/pcl_"), "{location}");
    check(&elsewhere.root().get(&location), 200);

    let on_ops = Gate::with(|setup| setup.option("admin", r#"listeners = ["ops"]"#).no_routes());
    let secret = on_ops.root().secret().to_owned();
    check(&Caller::new(on_ops.ops(), Some(&secret)).get("/api/keys"), 200);
    check_problem(&Caller::new(on_ops.ops(), None).get("/api/keys"), 401, "unauthenticated");
    check_problem(&on_ops.root().get("/api/keys"), 404, "route_unknown");

    let off = Gate::with(|setup| setup.option("admin", "listeners = []").no_routes());
    check_problem(&off.root().get("/api/keys"), 404, "route_unknown");
    assert_ne!(Caller::new(off.ops(), Some(off.root().secret())).get("/api/keys").status, 200);
}

// Answers

#[test]
fn answers_are_json_whatever_the_client_accepts() {
    let gate = Gate::start();
    for accept in ["text/html", "application/xml", "*/*", "image/*;q=0"] {
        check_json(&gate.root().request("GET", "/api/keys", &[("Accept", accept)], b""), 200);
        let refused = gate.root().request("GET", "/api/keys/x", &[("Accept", accept)], b"");
        check_problem(&refused, 404, "key_not_found");
        assert_eq!(refused.header("cache-control"), Some("no-store"));
    }
}

#[test]
fn pages_of_other_sites_cannot_manage_keys() {
    // Names that a resolver leads elsewhere, or that anybody can make lead here, are none of the gate's.
    let gate = Gate::with(|setup| setup.option("requests", r#"hosts = ["gate.test", "*.gate.test", "127.0.0.1"]"#));
    let root = gate.root();
    let create = |headers: &[(&str, &str)]| {
        let all: Vec<_> = [("Content-Type", "application/json")].into_iter().chain(headers.iter().copied()).collect();
        root.request("POST", "/api/keys", &all, br#"{"name":"n","kind":"telemetry"}"#)
    };
    let refused: [&[(&str, &str)]; 11] = [
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "https://evil.test")],
        &[("Origin", "null")],
        &[("Origin", "http://gate.test:8080")],
        &[("Origin", "http://gate.test.evil.test")],
        &[("Origin", "http://gate.test"), ("Host", "gate.test:9999")],
        &[("Origin", "http://gate.test:443")],
        &[("Origin", "file://gate.test")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", "http://gate.test")],
    ];
    for headers in refused {
        check_problem(&create(headers), 403, "cross_site");
        check_problem(&root.request("GET", "/api/keys", headers, b""), 403, "cross_site");
        check_problem(&root.request("GET", "/api/keys/self", headers, b""), 403, "cross_site");
    }
    for method in ["PUT", "PATCH", "DELETE"] {
        let headers = [("Content-Type", "application/json"), ("Origin", "https://evil.test")];
        check_problem(&root.request(method, &path_of(root.id()), &headers, b"{}"), 403, "cross_site");
    }
    check_problem(&root.request("DELETE", "/api/keys/self", &[("Origin", "null")], b""), 403, "cross_site");
    assert_eq!(root.get("/api/keys").json()["total_count"], 1);

    let admitted: [&[(&str, &str)]; 7] = [
        &[("Sec-Fetch-Site", "same-origin")],
        &[("Sec-Fetch-Site", "none")],
        &[("Origin", "http://gate.test")],
        &[("Origin", "https://GATE.test"), ("Host", "gate.test")],
        &[("Origin", "http://gate.test:8080"), ("Host", "gate.test:8080")],
        &[("Origin", "http://a.gate.test"), ("Host", "a.gate.test")],
        &[("Origin", "http://127.0.0.1:8080"), ("Host", "127.0.0.1:8080")],
    ];
    for headers in admitted {
        check(&create(headers), 201);
        check(&root.request("GET", "/api/keys", headers, b""), 200);
    }
}

/// DNS rebinding: a page's owner makes its name lead to the gate, and its browser takes the two for one site.
#[test]
fn a_page_whose_name_was_made_to_lead_here_cannot_manage_keys() {
    let gate = Gate::with(|setup| setup.option("admin", r#"listeners = ["public", "ops"]"#));
    let root = gate.root();
    let at_ops = Caller::new(gate.ops(), Some(root.secret()));
    let answers = |origin: &str, host: &str| {
        let headers = [("Content-Type", "application/json"), ("Origin", origin), ("Host", host)];
        let body = br#"{"name":"n","kind":"telemetry"}"#;
        [&root, &at_ops].map(|caller| caller.request("POST", "/api/keys", &headers, body))
    };
    for (origin, host) in [
        ("http://evil.test", "evil.test"),
        ("http://evil.test:8080", "evil.test:8080"),
        ("http://127.0.0.1.evil.test", "127.0.0.1.evil.test"),
        ("http://localhost.evil.test", "localhost.evil.test"),
        ("http://evillocalhost", "evillocalhost"),
        ("http://evil.test.", "evil.test."),
        ("http://2130706433", "2130706433"),
        ("http://gate.test", "gate.test"),
    ] {
        for answer in answers(origin, host) {
            check_problem(&answer, 403, "cross_site");
        }
    }
    // What a certificate or nobody's resolver stands for.
    for (origin, host) in [
        ("https://gate.test", "gate.test"),
        ("https://gate.test:8443", "gate.test:8443"),
        ("http://localhost:8080", "localhost:8080"),
        ("http://app.localhost", "app.localhost"),
        ("http://127.0.0.1:9900", "127.0.0.1:9900"),
        ("http://[::1]:9900", "[::1]:9900"),
        ("http://192.0.2.7", "192.0.2.7"),
    ] {
        for answer in answers(origin, host) {
            check(&answer, 201);
        }
    }
    // Programs name no origin, and call the gate as they like.
    for host in ["gate.test", "gate.internal:8080", "127.0.0.1", "localhost"] {
        check(&root.request("GET", "/api/keys", &[("Host", host)], b""), 200);
        check(
            &at_ops.request(
                "POST",
                "/api/keys",
                &[("Host", host), ("Content-Type", "application/json")],
                br#"{"name":"n","kind":"telemetry"}"#,
            ),
            201,
        );
    }
}

/// What a page's form or `fetch` can send to another site without asking it first.
#[test]
fn a_body_that_a_form_can_send_makes_no_key() {
    let gate = Gate::start();
    let body = r#"{"name":"n","kind":"telemetry"}"#;
    for kind in [
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/json, text/plain",
        "",
    ] {
        let refused = gate.root().request("POST", "/api/keys", &[("Content-Type", kind)], body.as_bytes());
        check_problem(&refused, 415, "unsupported_media_type");
    }
    check_problem(&gate.root().request("POST", "/api/keys", &[], body.as_bytes()), 415, "unsupported_media_type");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    check_problem(
        &gate.root().request("POST", "/api/keys", &form, b"name=n&kind=telemetry"),
        415,
        "unsupported_media_type",
    );
    assert_eq!(gate.root().get("/api/keys").json()["total_count"], 1);
}

/// Asked before a request that a form cannot send: without the answer, a browser does not send it.
#[test]
fn no_other_site_is_told_that_it_may_call() {
    let gate = Gate::start();
    let fields = [("Origin", "https://evil.test"), ("Access-Control-Request-Method", "DELETE")];
    for caller in [gate.root(), gate.anonymous()] {
        let asked = caller.request("OPTIONS", "/api/keys", &fields, b"");
        assert!(asked.status >= 400, "{asked:?}");
        let read = caller.request("GET", "/api/keys", &fields[..1], b"");
        for answer in [asked, read] {
            assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("access-control-")), "{answer:?}");
        }
    }
}

#[test]
fn ids_tell_nothing_about_their_order() {
    let gate = Gate::start();
    let ids: BTreeSet<String> = (0..8).map(|_| gate.telemetry_key().id().to_owned()).collect();
    assert_eq!(ids.len(), 8);
    let starts: BTreeSet<&str> = ids.iter().map(|id| &id[4..8]).collect();
    assert!(starts.len() > 4, "{ids:?}");
}

// The ceiling, for all callers, targets and operations

const POOL: [&str; 9] = [
    "monitor:read",
    "monitor:write",
    "telemetry:write",
    "issue:read",
    "issue:write",
    "key:read",
    "key:write",
    "metrics:read",
    "*",
];
const FIXED: [(&str, &[&str]); 2] =
    [("telemetry", &["telemetry:write"]), ("sdk_integration", &["monitor:read", "monitor:write", "telemetry:write"])];

#[derive(Clone, Debug)]
enum Attempt {
    Create { scopes: BTreeSet<&'static str> },
    CreateFixed { kind: usize },
    Delete { target: Index },
    Rename { target: Index },
    Rescope { target: Index, scopes: BTreeSet<&'static str> },
}

fn scopes() -> impl Strategy<Value = BTreeSet<&'static str>> {
    // Managers and holders of all are drawn often: callers that can do nothing try nothing.
    let some = prop::sample::subsequence(POOL[..8].to_vec(), 1..=8);
    let managers = some.prop_flat_map(|scopes| (Just(scopes), prop::bool::weighted(0.6), prop::bool::weighted(0.1)));
    managers.prop_map(|(scopes, manages, holds_all)| {
        let mut scopes: BTreeSet<_> = scopes.into_iter().collect();
        scopes.extend(manages.then_some("key:write"));
        scopes.extend(holds_all.then_some("*"));
        scopes
    })
}

fn attempt() -> impl Strategy<Value = Attempt> {
    prop_oneof![
        4 => scopes().prop_map(|scopes| Attempt::Create { scopes }),
        1 => (0..FIXED.len()).prop_map(|kind| Attempt::CreateFixed { kind }),
        2 => any::<Index>().prop_map(|target| Attempt::Delete { target }),
        1 => any::<Index>().prop_map(|target| Attempt::Rename { target }),
        3 => (any::<Index>(), scopes()).prop_map(|(target, scopes)| Attempt::Rescope { target, scopes }),
    ]
}

/// A key as the model knows it.
struct Modelled {
    caller: Caller,
    scopes: BTreeSet<&'static str>,
    fixed: bool,
    deleted: bool,
}

impl Modelled {
    fn holds_all_of(&self, wanted: &BTreeSet<&str>) -> bool {
        self.scopes.contains("*") || wanted.is_subset(&self.scopes)
    }

    /// The status that this key gets for any change of keys, if it can make none.
    fn refused(&self) -> Option<u16> {
        let manages = self.scopes.contains("*") || self.scopes.contains("key:write");
        if self.deleted { Some(401) } else { (!manages).then_some(403) }
    }
}

/// A gate and what it should hold.
struct Model {
    gate: Gate,
    /// In order of creation; the first is the root key, which no attempt deletes or narrows: what is said of the last
    /// key that manages keys is another test's.
    keys: Vec<Modelled>,
}

impl Model {
    fn start() -> Self {
        let gate = Gate::with(|setup| setup.option("scopes", r#""metrics:read" = "Query series""#));
        let root = Modelled { caller: gate.root(), scopes: BTreeSet::from(["*"]), fixed: false, deleted: false };
        Self { gate, keys: vec![root] }
    }

    /// Makes one attempt; returns the status that the rules say, and the gate's answer. `None`: nothing to act on.
    fn act(&mut self, caller: usize, attempt: &Attempt) -> Option<(u16, Answer)> {
        Some(match attempt {
            Attempt::Create { scopes } => {
                let body = json!({"name": "n", "kind": "custom", "scopes": scopes});
                self.create(caller, &body, scopes.clone(), false)
            }
            Attempt::CreateFixed { kind } => {
                let (kind, scopes) = FIXED[*kind];
                let body = json!({"name": "n", "kind": kind});
                self.create(caller, &body, scopes.iter().copied().collect(), true)
            }
            Attempt::Delete { target } => {
                let target = self.target(*target)?;
                let wanted = self.status_of_change(caller, target, None, 204);
                let answer = self.keys[caller].caller.delete(self.keys[target].caller.id());
                self.keys[target].deleted |= answer.status == 204;
                (wanted, answer)
            }
            Attempt::Rename { target } => {
                let target = target.index(self.keys.len());
                let wanted = self.status_of_change(caller, target, None, 200);
                (wanted, self.put(caller, target, &json!({"name": "m"})))
            }
            Attempt::Rescope { target, scopes } => {
                let target = self.target(*target)?;
                let key = &self.keys[target];
                // Whoever may touch a key of a fixed kind is told that its scopes do not change, whatever was wanted.
                let wanted = if key.fixed && key.scopes != *scopes {
                    self.status_of_change(caller, target, None, 409)
                } else {
                    self.status_of_change(caller, target, Some(scopes), 200)
                };
                let answer = self.put(caller, target, &json!({ "scopes": scopes }));
                if answer.status == 200 {
                    self.keys[target].scopes = scopes.clone();
                }
                (wanted, answer)
            }
        })
    }

    /// Any key but the first.
    fn target(&self, target: Index) -> Option<usize> {
        let others = self.keys.len() - 1;
        (others > 0).then(|| 1 + target.index(others))
    }

    fn create(&mut self, caller: usize, body: &Value, scopes: BTreeSet<&'static str>, fixed: bool) -> (u16, Answer) {
        let by = &self.keys[caller];
        let within = if by.holds_all_of(&scopes) { 201 } else { 403 };
        let wanted = by.refused().unwrap_or(within);
        let answer = by.caller.post("/api/keys", &body.to_string());
        if answer.status == 201 {
            let caller = self.gate.caller(answer.json()["key"].as_str().expect("the new key's text"));
            self.keys.push(Modelled { caller, scopes, fixed, deleted: false });
        }
        (wanted, answer)
    }

    fn put(&self, caller: usize, target: usize, body: &Value) -> Answer {
        self.keys[caller].caller.put(&path_of(self.keys[target].caller.id()), &body.to_string())
    }

    fn status_of_change(&self, by: usize, target: usize, scopes: Option<&BTreeSet<&str>>, success: u16) -> u16 {
        let (by, target) = (&self.keys[by], &self.keys[target]);
        if let Some(refused) = by.refused() {
            return refused;
        }
        if target.deleted {
            return 404;
        }
        let within = by.holds_all_of(&target.scopes) && scopes.is_none_or(|scopes| by.holds_all_of(scopes));
        if within { success } else { 403 }
    }

    /// The scopes of every key that should be there.
    fn held(&self) -> Vec<BTreeSet<&str>> {
        self.keys.iter().filter(|key| !key.deleted).map(|key| key.scopes.clone()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_ever_makes_or_touches_a_key_beyond_their_own_scopes(
        attempts in prop::collection::vec((any::<Index>(), attempt()), 25)
    ) {
        let mut model = Model::start();
        for (caller, attempt) in &attempts {
            let caller = caller.index(model.keys.len());
            if let Some((wanted, answer)) = model.act(caller, attempt) {
                let by = &model.keys[caller].scopes;
                prop_assert_eq!(answer.status, wanted, "{:?} by {:?}: {:?}", attempt, by, answer);
            }
        }
        let listing = model.gate.root().get("/api/keys?page_size=1000").json();
        let held: Vec<BTreeSet<&str>> = listing["data"].as_array().unwrap().iter().map(scopes_of).collect();
        prop_assert_eq!(held, model.held());
    }
}

fn scopes_of(key: &Value) -> BTreeSet<&str> {
    key["scopes"].as_array().unwrap().iter().map(|scope| scope.as_str().unwrap()).collect()
}

#[test]
fn a_call_whose_body_came_after_the_keys_deletion_is_refused() {
    let gate = Gate::start();
    let reader = gate.key(&["key:read"]);
    let mut wire = gate.raw();
    let authorization = reader.authorization();
    wire.send(format!(
        "GET /api/keys HTTP/1.1\r\nHost: gate.test\r\nAuthorization: {authorization}\r\nContent-Length: 1\r\n\r\n"
    ));
    // Admitted by now: the call counts as in flight beside the one that asks.
    while gate.metric("portcullis_requests_in_flight") < 1.0 {}
    check(&gate.root().delete(reader.id()), 204);
    check_problem(&wire.send("x").read_response(), 401, "unauthenticated");
}

#[test]
fn a_key_pasted_as_a_name_is_refused_and_stored_nowhere() {
    let gate = Gate::start();
    let root = gate.root();
    let body = json!({"name": format!("mine: {}", root.secret()), "kind": "telemetry"}).to_string();
    let answer = root.post("/api/keys", &body);
    check_problem(&answer, 400, "invalid_body");
    assert!(!answer.text().contains(root.secret()));
}

#[test]
fn the_kind_of_a_key_above_the_caller_is_not_told() {
    let gate = Gate::start();
    let writer = gate.key(&["key:write"]);
    let path = format!("/api/keys/{}", gate.root().id());
    for kind in ["custom", "telemetry"] {
        check_problem(&writer.put(&path, &json!({"kind": kind}).to_string()), 403, "scope_exceeds_caller");
    }
}

#[test]
fn a_call_that_its_caller_may_not_make_is_refused_before_its_body_is_asked_for() {
    let gate = Gate::start();
    let reader = gate.key(&["key:read"]);
    let mut wire = gate.raw();
    wire.send(format!(
        "POST /api/keys HTTP/1.1\r\nHost: gate.test\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\nExpect: 100-continue\r\n\r\n",
        reader.authorization()
    ));
    check_problem(&wire.read_response(), 403, "scope_missing");
}

/// Catalogue M37.
#[test]
fn a_route_that_takes_everything_does_not_take_the_key_api() {
    let gate = Gate::with(|setup| setup.no_routes().route("ANY /{*rest}", r#""public""#));
    for target in ["/api/keys", "/api/keys/", "/api/keys/pcl_000000000000", "/api/keys/self", "/api/keys/a/b"] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = gate.anonymous().request(method, target, &[], b"");
            assert!((400..500).contains(&answer.status), "{method} {target}: {answer:?}");
        }
    }
    assert!(gate.upstream().raw().is_empty(), "a call of the key API was forwarded");
    check(&gate.anonymous().get("/api/keysx"), 200);
    check(&gate.root().get("/api/keys"), 200);
}
