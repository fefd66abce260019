//! Calls of the key API, of any method, path, headers and body: an answer is one of those that the API has, nothing
//! changes without a success, and no key comes to hold what its maker does not.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use libfuzzer_sys::fuzz_target;
use portcullis::admin::{Admin, Call, Settings};
use portcullis::clock::Clock;
use portcullis::http::{Challenge, RequestId};
use portcullis::key::{KeyName, Kind, Scope, ScopeCatalog, ScopeSet};
use portcullis::keyring::{self, Draft, Holder, Keyring};
use portcullis::metrics::Metrics;
use portcullis::store::{Actor, MemoryStore};
use portcullis_fuzz::Choices;

const METHODS: [&str; 8] = ["POST", "PUT", "PATCH", "DELETE", "GET", "HEAD", "OPTIONS", "post"];
const TYPES: [&str; 4] = ["application/json", "application/json; charset=utf-8", "text/plain", ""];
const HEADERS: [(&str, &str); 7] = [
    ("if-match", "*"),
    ("if-match", "\"1\", \"2\", \"3\""),
    ("if-match", "W/\"1\""),
    ("origin", "https://evil.test"),
    ("sec-fetch-site", "same-origin"),
    ("content-encoding", "gzip"),
    ("content-type", "application/json"),
];
const QUERIES: [&str; 6] =
    ["", "?page=1", "?page=0", "?page_size=1&pageSize=2", "?page=18446744073709551615&page_size=1000", "?page=-1"];
/// Pieces of bodies, so that valid ones are near.
const PIECES: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"name\":\"n\"",
    "\"kind\":\"custom\"",
    "\"kind\":\"telemetry\"",
    "\"scopes\":",
    "\"scopes\":[\"*\"]",
    "\"scopes\":[\"monitor:read\"]",
    "\"monitor:read\"",
    "\"key:write\"",
    "\"*\"",
    "null",
    "true",
    "1e999",
    "-0",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "\"id\":\"x\"",
    "\"Name\":\"n\"",
    "\"name\":null",
    "\"scopes\":[]",
    "\"scopes\":null",
    "\"kind\":1",
    " ",
    "\u{feff}",
    "NaN",
];

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let rig = Rig::start().await;
        let mut choices = Choices(bytes);
        for _ in 0..6 {
            if choices.is_over() {
                break;
            }
            rig.call(&mut choices).await;
        }
        rig.keyring.close().await;
    });
});

struct Rig {
    keyring: Arc<Keyring>,
    admin: Admin,
    /// Of all, of some, of one scope.
    callers: Vec<(Arc<Holder>, String)>,
}

fn set(scopes: &[&str]) -> ScopeSet {
    ScopeSet::new(scopes.iter().map(|scope| Scope::parse(scope).expect("a scope")))
}

/// A key's id and what it is.
type Keys = BTreeMap<String, (ScopeSet, String)>;

impl Rig {
    async fn start() -> Self {
        let store = Arc::new(MemoryStore::default());
        let metrics = Metrics::new(1, Clock::System);
        let handle = tokio::runtime::Handle::current();
        let keyring =
            Keyring::open(store, &keyring::Settings::default(), Clock::System, metrics, handle).expect("it opens");
        let admin = Admin::new(&Settings::default(), ScopeCatalog::default(), Arc::clone(&keyring), Vec::new());
        let mut callers = Vec::new();
        for scopes in [&["*"][..], &["key:read", "key:write", "monitor:read"], &["monitor:read"]] {
            let name = KeyName::parse("caller").expect("a name");
            let draft = Draft { name, kind: Kind::Custom, scopes: Some(set(scopes)) };
            let (secret, _) = keyring.create(Actor::OPERATOR, draft).await.expect("the operator may");
            let holder = keyring.holder(&secret).await.expect("it can be read").expect("it is there");
            callers.push((holder, secret.expose().to_owned()));
        }
        Self { keyring, admin, callers }
    }

    async fn keys(&self) -> Keys {
        let (views, _) = self.keyring.list(0, 1_000).await.expect("they can be read");
        let entry = |view: &keyring::KeyView| {
            let shown =
                format!("{:?}", (&view.record.name, view.record.kind, view.record.updated, view.record.revision));
            (view.record.id.to_string(), (view.record.scopes.clone(), shown))
        };
        views.iter().map(entry).collect()
    }

    async fn call(&self, choices: &mut Choices<'_>) {
        let (caller, _) = &self.callers[choices.below(3)];
        let method = choices.one_of(&METHODS);
        let mut request = Request::builder().method(method).uri(self.uri(choices)).header("host", "gate.test");
        let media_type = TYPES[[0, 0, 0, 0, 0, 1, 2, 3][choices.below(8)]];
        if !media_type.is_empty() {
            request = request.header("content-type", media_type);
        }
        if let Some((name, value)) = HEADERS.get(usize::from(choices.byte())) {
            request = request.header(*name, *value);
        }
        let Ok(request) = request.body(()) else { return };
        let (parts, ()) = request.into_parts();
        let body = body(choices);
        let before = self.keys().await;
        let held = before.get(&caller.record().id.to_string()).map(|(scopes, _)| scopes.clone());
        let call = Call { parts, body: body.clone(), caller: Arc::clone(caller), address: [127, 0, 0, 1].into() };
        let answer = match self.admin.answer(call).await {
            Ok(answer) => answer,
            Err(refusal) => refusal.into_response(RequestId::new(), &Challenge::basic("test")),
        };
        let after = self.keys().await;
        self.check(method, &answer);
        check_changes(method, answer.status().as_u16(), held.as_ref(), &before, &after);
    }

    /// Of the collection, of a key that there is, of the caller, or of none.
    fn uri(&self, choices: &mut Choices<'_>) -> String {
        let (holder, secret) = &self.callers[choices.below(3)];
        let id = holder.record().id;
        let name = match choices.below(10) {
            0..4 => return format!("/api/keys{}", choices.one_of(&QUERIES)),
            4 => id.to_string(),
            5 => id.masked(),
            6 => secret.clone(),
            7 => "self".to_owned(),
            8 => id.to_string()[..usize::from(choices.byte() % 17)].to_owned(),
            _ => String::from_utf8_lossy(choices.bytes()).into_owned(),
        };
        format!("/api/keys/{name}")
    }

    fn check(&self, method: &str, answer: &Response<Bytes>) {
        let status = answer.status().as_u16();
        let allowed = [200, 201, 204, 400, 401, 403, 404, 405, 409, 412, 415];
        assert!(allowed.contains(&status), "{method}: {answer:?}");
        let text = String::from_utf8(answer.body().to_vec()).expect("text");
        assert!(!self.callers.iter().any(|(_, secret)| text.contains(secret)), "no secret is repeated: {text}");
        if text.is_empty() {
            assert!(status == 204 || method == "HEAD", "{method}: {answer:?}");
            return;
        }
        let body: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let wanted = if status >= 400 { "application/problem+json" } else { "application/json" };
        assert_eq!(answer.headers()["content-type"], wanted);
        if status >= 400 {
            assert_eq!(body["status"], status, "{text}");
            assert!(body["code"].is_string() && body["title"].is_string() && body["detail"].is_string(), "{text}");
        }
        assert!(text.len() < 64 << 10);
    }
}

fn body(choices: &mut Choices<'_>) -> Bytes {
    let mut body = Vec::new();
    for _ in 0..choices.below(24) {
        match choices.byte() {
            piece @ 0..0xf0 => body.extend_from_slice(PIECES[usize::from(piece) % PIECES.len()].as_bytes()),
            _ => body.extend_from_slice(choices.bytes()),
        }
    }
    body.into()
}

fn check_changes(method: &str, status: u16, held: Option<&ScopeSet>, before: &Keys, after: &Keys) {
    let changed: Vec<_> = after.iter().filter(|(id, key)| before.get(*id) != Some(key)).collect();
    let gone = before.keys().filter(|id| !after.contains_key(*id)).count();
    match (method, status) {
        ("POST", 201) => assert!(changed.len() == 1 && gone == 0),
        ("PUT" | "PATCH", 200) => assert!(changed.len() <= 1 && gone == 0),
        ("DELETE", 204) => assert!(changed.is_empty() && gone == 1),
        _ => assert!(changed.is_empty() && gone == 0, "{method} {status}"),
    }
    for (id, (scopes, _)) in changed {
        let held = held.expect("a caller that is gone changes nothing");
        assert!(scopes.missing_from(held).is_empty(), "{id} holds {scopes:?}, its maker {held:?}");
    }
}
