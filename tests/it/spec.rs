//! The specification's own examples: each `curl` line as it is printed there, but for host, keys and ids, through the
//! real `curl`; and each sentence of it that promises something.

use std::process::Command;

use serde_json::{Value, json};

use super::harness::{Caller, Gate, check, check_problem};

/// The attributes that the specification lists.
const ATTRIBUTES: [&str; 8] = ["key", "name", "kind", "scopes", "immutable", "last_used", "created", "updated"];

const CREATE_QUICK_START: &str = r#"curl --user EXISTING_API_KEY: \
    --header "Content-Type: application/json" \
    --request POST \
    --data '{
        "name": "CI/CD Pipeline",
        "kind": "custom",
        "scopes": ["monitor:read", "monitor:write", "telemetry:write"]
    }' \
    https://cronitor.io/api/keys"#;
const CREATE_TELEMETRY: &str = r#"curl --user API_KEY: \
    --header "Content-Type: application/json" \
    --request POST \
    --data '{
        "name": "Production Telemetry",
        "kind": "telemetry"
    }' \
    https://cronitor.io/api/keys"#;
const CREATE_CUSTOM: &str = r#"curl --user API_KEY: \
    --header "Content-Type: application/json" \
    --request POST \
    --data '{
        "name": "Read-Only Dashboard",
        "kind": "custom",
        "scopes": ["monitor:read", "issue:read"]
    }' \
    https://cronitor.io/api/keys"#;
const LIST: &str = "curl https://cronitor.io/api/keys -u API_KEY:";
const GET: &str = "curl https://cronitor.io/api/keys/abc123def456 -u API_KEY:";
const UPDATE: &str = r#"curl --user API_KEY: \
    --header "Content-Type: application/json" \
    --request PUT \
    --data '{
        "name": "Updated Key Name",
        "scopes": ["monitor:read", "telemetry:write"]
    }' \
    https://cronitor.io/api/keys/abc123def456"#;
const DELETE: &str = "curl --request DELETE https://cronitor.io/api/keys/old_key_123 -u API_KEY:";

/// A shell with `curl` in front of one gate.
struct Shell {
    gate: Gate,
    /// Holds the `.curlrc` that makes `curl` print the status and headers too.
    home: tempfile::TempDir,
}

struct Printed {
    status: u16,
    body: String,
}

impl Printed {
    #[track_caller]
    fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Shell {
    /// `None`, and a word about it, where there is no `curl`.
    fn start() -> Option<Self> {
        if Command::new("curl").arg("--version").output().is_err() {
            eprintln!("skipped: curl is not installed");
            return None;
        }
        let home = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(home.path().join(".curlrc"), "include\nsilent\nshow-error\nnoproxy = *\nmax-time = 20\n")
            .expect("a file in it");
        Some(Self { gate: Gate::start(), home })
    }

    /// Runs a line of the specification with this gate's host, the root key, and `key` in the place of its key ids.
    #[track_caller]
    fn run(&self, line: &str, key: &str) -> Printed {
        let line = line
            .replace("https://cronitor.io", &format!("http://{}", self.gate.public()))
            .replace("EXISTING_API_KEY", self.gate.root().secret())
            .replace("API_KEY", self.gate.root().secret())
            .replace("abc123def456", key)
            .replace("old_key_123", key);
        let output = Command::new("sh")
            .args(["-c", &line])
            .env("CURL_HOME", self.home.path())
            .env("HOME", self.home.path())
            .output()
            .expect("sh runs");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        let (head, body) = printed.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {printed}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Printed { status: status.unwrap_or_else(|| panic!("no status: {head}")), body: body.to_owned() }
    }
}

/// Asserts that a key has every attribute of the specification in its type, `id` besides, and nothing else.
#[track_caller]
fn check_attributes(key: &Value) {
    let object = key.as_object().unwrap_or_else(|| panic!("not an object: {key}"));
    let mut wanted: Vec<&str> = ATTRIBUTES.to_vec();
    wanted.push("id");
    wanted.sort_unstable();
    let mut given: Vec<&str> = object.keys().map(String::as_str).collect();
    given.sort_unstable();
    assert_eq!(given, wanted);
    for text in ["key", "id", "name", "kind"] {
        assert!(key[text].is_string(), "{text}: {key}");
    }
    assert!(key["immutable"].is_boolean(), "{key}");
    assert!(key["scopes"].as_array().is_some_and(|scopes| scopes.iter().all(Value::is_string)), "{key}");
    assert!(key["last_used"].is_null() || is_time(&key["last_used"]), "{key}");
    assert!(is_time(&key["created"]) && is_time(&key["updated"]), "{key}");
}

/// Whether a value looks as the specification's times do: `2023-12-01T14:30:00Z`.
fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        let digits = text.replace(|character: char| character.is_ascii_digit(), "0");
        digits == "0000-00-00T00:00:00Z"
    })
}

#[test]
fn quick_start_creates_a_custom_key() {
    let Some(shell) = Shell::start() else { return };

    let key = shell.run(CREATE_QUICK_START, "").json(201);

    check_attributes(&key);
    assert_eq!(key["name"], "CI/CD Pipeline");
    assert_eq!(key["kind"], "custom");
    assert_eq!(key["scopes"], json!(["monitor:read", "monitor:write", "telemetry:write"]));
    assert_eq!(key["immutable"], false);
    assert_eq!(key["last_used"], Value::Null);
}

#[test]
fn example_creates_a_telemetry_only_key() {
    let Some(shell) = Shell::start() else { return };

    let key = shell.run(CREATE_TELEMETRY, "").json(201);

    check_attributes(&key);
    assert_eq!((&key["name"], &key["kind"]), (&json!("Production Telemetry"), &json!("telemetry")));
    assert_eq!((&key["scopes"], &key["immutable"]), (&json!(["telemetry:write"]), &json!(true)));
}

#[test]
fn example_creates_a_custom_key_with_specific_scopes() {
    let Some(shell) = Shell::start() else { return };

    let key = shell.run(CREATE_CUSTOM, "").json(201);

    check_attributes(&key);
    assert_eq!((&key["name"], &key["kind"]), (&json!("Read-Only Dashboard"), &json!("custom")));
    assert_eq!(key["scopes"], json!(["monitor:read", "issue:read"]));
}

#[test]
fn example_lists_all_keys_masked() {
    let Some(shell) = Shell::start() else { return };
    let telemetry = shell.gate.telemetry_key();
    shell.gate.key(&["monitor:read"]);

    let listing = shell.run(LIST, "").json(200);

    assert_eq!((&listing["page"], &listing["page_size"], &listing["total_count"]), (&json!(1), &json!(50), &json!(3)));
    assert_eq!(listing.as_object().map(serde_json::Map::len), Some(4));
    let keys = listing["data"].as_array().expect("a list");
    keys.iter().for_each(check_attributes);
    assert!(keys.iter().all(|key| key["key"].as_str().is_some_and(|text| text.ends_with("..."))), "{listing}");
    assert_eq!(keys[1]["key"], format!("{}...", telemetry.id()));
    assert_eq!((&keys[1]["scopes"], &keys[1]["immutable"]), (&json!(["telemetry:write"]), &json!(true)));
}

#[test]
fn example_gets_one_key() {
    let Some(shell) = Shell::start() else { return };
    let created = shell.run(CREATE_QUICK_START, "").json(201);
    let id = created["id"].as_str().expect("an id");

    // What listings show works as it is shown, and so does the text that the creation gave.
    for name in [id, &format!("{id}..."), created["key"].as_str().expect("a key")] {
        let key = shell.run(GET, name).json(200);
        check_attributes(&key);
        assert_eq!(key["key"], format!("{id}..."));
        assert_eq!(key["name"], "CI/CD Pipeline");
        assert_eq!(key["scopes"], created["scopes"]);
    }
}

#[test]
fn example_updates_name_and_scopes() {
    let Some(shell) = Shell::start() else { return };
    let created = shell.run(CREATE_QUICK_START, "").json(201);
    let id = created["id"].as_str().expect("an id");

    let updated = shell.run(UPDATE, id).json(200);

    check_attributes(&updated);
    assert_eq!(updated["name"], "Updated Key Name");
    assert_eq!(updated["scopes"], json!(["monitor:read", "telemetry:write"]));
    assert_eq!(shell.run(GET, id).json(200), updated);
}

#[test]
fn example_deletes_a_key_with_204() {
    let Some(shell) = Shell::start() else { return };
    let key = shell.gate.telemetry_key();

    let printed = shell.run(DELETE, key.id());

    assert_eq!((printed.status, printed.body.as_str()), (204, ""));
    assert_eq!(shell.run(GET, key.id()).status, 404);
}

#[test]
fn request_body_of_the_specification_creates_the_key_that_it_shows() {
    let gate = Gate::start();
    let body = r#"{
  "name": "Deployment Script",
  "kind": "custom",
  "scopes": ["monitor:read", "monitor:write"]
}"#;

    let key = check(&gate.root().post("/api/keys", body), 201).json();

    check_attributes(&key);
    assert_eq!(key["name"], "Deployment Script");
    assert_eq!(key["scopes"], json!(["monitor:read", "monitor:write"]));
    assert_eq!((&key["immutable"], &key["last_used"]), (&json!(false), &Value::Null));
}

#[test]
fn request_body_of_the_specification_updates_the_key() {
    let gate = Gate::start();
    let body = r#"{
  "name": "CI/CD Pipeline (Production)",
  "scopes": ["monitor:read", "monitor:write", "telemetry:write", "issue:read"]
}"#;
    let key = gate.key(&["monitor:read"]);

    let updated = check(&gate.root().put(&format!("/api/keys/{}", key.id()), body), 200).json();

    assert_eq!(updated["name"], "CI/CD Pipeline (Production)");
    assert_eq!(updated["scopes"], json!(["monitor:read", "monitor:write", "telemetry:write", "issue:read"]));
}

#[test]
fn object_of_the_specifications_answer_can_be_put_back() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let body = r#"{
  "key": "abc123def456...",
  "name": "CI/CD Pipeline",
  "kind": "custom",
  "scopes": ["monitor:read", "monitor:write", "telemetry:write"],
  "immutable": false,
  "last_used": "2023-12-01T14:30:00Z",
  "created": "2023-06-15T10:00:00Z",
  "updated": "2023-06-15T10:00:00Z"
}"#;

    let updated = check(&gate.root().put(&format!("/api/keys/{}", key.id()), body), 200).json();

    assert_eq!(updated["key"], format!("{}...", key.id()));
    assert_eq!(updated["name"], "CI/CD Pipeline");
    assert_ne!(updated["created"], "2023-06-15T10:00:00Z");
}

#[test]
fn managing_keys_requires_an_existing_key_with_permissions() {
    let gate = Gate::start();
    check_problem(&gate.anonymous().get("/api/keys"), 401, "unauthenticated");
    check_problem(&gate.telemetry_key().get("/api/keys"), 403, "scope_missing");
    check(&gate.key(&["key:read"]).get("/api/keys"), 200);
}

#[test]
fn you_cannot_create_keys_with_more_permissions_than_your_current_key_has() {
    let gate = Gate::start();
    let caller = gate.key(&["key:write", "monitor:read"]);
    let body = json!({"name": "n", "kind": "custom", "scopes": ["monitor:read", "monitor:write"]});
    check_problem(&caller.post("/api/keys", &body.to_string()), 403, "scope_exceeds_caller");
}

#[test]
fn you_cannot_add_scopes_that_exceed_your_current_keys_permissions() {
    let gate = Gate::start();
    let caller = gate.key(&["key:write", "monitor:read"]);
    let target = gate.key(&["monitor:read"]);
    let answer = caller.put(&format!("/api/keys/{}", target.id()), r#"{"scopes":["monitor:read","issue:read"]}"#);
    check_problem(&answer, 403, "scope_exceeds_caller");
}

#[test]
fn every_available_scope_can_be_granted() {
    let gate = Gate::start();
    for scope in ["monitor:read", "monitor:write", "telemetry:write", "issue:read", "issue:write"] {
        let key: Caller = gate.key(&[scope]);
        assert_eq!(check(&key.get("/api/keys/self"), 200).json()["scopes"], json!([scope]));
    }
}

#[test]
fn immutable_keys_can_be_renamed_but_their_scopes_cannot_be_changed() {
    let gate = Gate::start();
    for kind in ["telemetry", "sdk_integration"] {
        let key = gate.root().create_from(&json!({"name": "n", "kind": kind}));
        let path = format!("/api/keys/{}", key.id());
        check_problem(&gate.root().put(&path, r#"{"scopes":["issue:read"]}"#), 409, "immutable_scopes");
        assert_eq!(check(&gate.root().put(&path, r#"{"name":"m"}"#), 200).json()["name"], "m");
    }
}

#[test]
fn deleting_a_key_immediately_revokes_all_access() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]).keep_alive();
    check(&key.get("/api/v1/query"), 200);
    check(&gate.root().delete(key.id()), 204);
    check_problem(&key.get("/api/v1/query"), 401, "unauthenticated");
    assert_eq!(gate.upstream().requests().len(), 1);
}

#[test]
fn last_used_tells_when_the_key_last_made_a_request() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let last_used = || gate.root().get(&format!("/api/keys/{}", key.id())).json()["last_used"].clone();
    assert_eq!(last_used(), Value::Null);

    check(&key.get("/api/v1/query"), 200);

    assert!(is_time(&last_used()));
}
