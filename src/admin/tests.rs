//! What sockets cannot show: options, and calls whose key or store changes under them. The rest is `tests/it/admin.rs`.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::runtime::Handle;

use super::{Admin, Call, ListenerName, Settings};
use crate::clock::Clock;
use crate::http::{Challenge, Refusal, RequestId};
use crate::key::{KeyName, KeyReference, Kind, ScopeCatalog, ScopeSet};
use crate::keyring::{self, Changes, Draft, Holder, Keyring};
use crate::metrics::Metrics;
use crate::settings::{Problems, Reading, Source};
use crate::store::{self, Actor, MemoryStore};

const CREATE: &str = r#"{"name":"n","kind":"custom","scopes":["monitor:read"]}"#;

#[track_caller]
fn settings(text: &str) -> Result<Settings, Problems> {
    let source = Source { path: "portcullis.toml".into(), text: text.to_owned() };
    let reading = Reading::new(&source);
    let settings = reading.document();
    reading.finish()?;
    Ok(settings.expect("no problem means that there are settings"))
}

#[test]
fn key_api_is_at_api_keys_on_the_public_listener_by_default() {
    let settings = settings("").expect("an empty table is valid");
    assert_eq!(settings, Settings::default());
    assert_eq!(settings.path.as_str(), "/api/keys");
    assert!(settings.is_on_public() && !settings.is_on_ops());
}

#[test]
fn listeners_are_public_ops_both_or_none() {
    let listeners = |text: &str| settings(text).map(|settings| settings.listeners).ok();
    assert_eq!(listeners(r#"listeners = ["public", "ops"]"#), Some(vec![ListenerName::Public, ListenerName::Ops]));
    assert_eq!(listeners("listeners = []"), Some(vec![]));
    assert_eq!(listeners(r#"listeners = ["private"]"#), None);
    assert_eq!(listeners(r#"listeners = "public""#), None);
}

#[test]
fn mount_is_a_plain_path() {
    for path in ["/keys", "/api/keys", "/-/keys", "/a.b/c_d~e/F9"] {
        let settings = settings(&format!("path = {path:?}")).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(settings.path.as_str(), path);
    }
    for path in
        ["", "/", "keys", "/keys/", "//keys", "/a//b", "/a/../b", "/./a", "/a b", "/a%20b", "/{x}", "/a?b", "/a;b"]
    {
        assert!(settings(&format!("path = {path:?}")).is_err(), "{path}");
    }
}

#[test]
fn mount_covers_itself_and_everything_below() {
    let mount = Settings::default().path;
    for path in ["/api/keys", "/api/keys/", "/api/keys/x", "/api/keys/x/y"] {
        assert!(mount.covers(path), "{path}");
    }
    for path in ["/", "/api", "/api/key", "/api/keysafe", "/API/keys", "/x/api/keys"] {
        assert!(!mount.covers(path), "{path}");
    }
}

/// The key API over a keyring in memory, called as the proxy calls it.
struct Rig {
    keyring: Arc<Keyring>,
    admin: Admin,
}

impl Rig {
    fn start() -> Self {
        let store = Arc::new(MemoryStore::new(store::Settings::default().changes_max));
        let settings = keyring::Settings::default();
        let keyring = Keyring::open(store, &settings, Clock::System, Metrics::new(1, Clock::System), Handle::current())
            .expect("an empty store opens");
        let admin = Admin::new(&Settings::default(), ScopeCatalog::default(), Arc::clone(&keyring), Vec::new());
        Self { keyring, admin }
    }

    async fn key(&self, scopes: &[&str]) -> Arc<Holder> {
        let name = KeyName::parse("n").expect("a name");
        let draft = Draft { name, kind: Kind::Custom, scopes: Some(ScopeSet::of(scopes)) };
        let (secret, _) = self.keyring.create(Actor::OPERATOR, draft).await.expect("the operator may");
        self.keyring.holder(&secret).await.expect("memory answers").expect("the key is there")
    }

    async fn call(&self, caller: &Arc<Holder>, method: &str, path: &str, body: &str) -> Response<Bytes> {
        let request = Request::builder().method(method).uri(path).header("Content-Type", "application/json");
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let body = Bytes::from(body.to_owned());
        let call = Call { parts, body, caller: Arc::clone(caller), address: [127, 0, 0, 1].into() };
        let refused = |refusal: Refusal| refusal.into_response(RequestId::new(), &Challenge::basic("test"));
        self.admin.answer(call).await.unwrap_or_else(refused)
    }
}

fn own(holder: &Holder) -> KeyReference {
    KeyReference::Id(holder.record().id)
}

#[tokio::test]
async fn caller_deleted_while_it_calls_changes_nothing() {
    let rig = Rig::start();
    let (caller, other) = (rig.key(&["*"]).await, rig.key(&["*"]).await);
    let path = format!("/api/keys/{}", other.record().id);
    rig.keyring.delete(Actor::OPERATOR, own(&caller), None).await.expect("the operator may");

    for (method, path, body) in
        [("POST", "/api/keys", CREATE), ("PUT", path.as_str(), r#"{"name":"m"}"#), ("DELETE", path.as_str(), "")]
    {
        let answer = rig.call(&caller, method, path, body).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method}");
    }
    assert_eq!(rig.call(&other, "GET", &path, "").await.status(), StatusCode::OK);
    assert_eq!(rig.keyring.keys(), 1);
}

#[tokio::test]
async fn caller_narrowed_while_it_calls_has_its_new_ceiling() {
    let rig = Rig::start();
    let (caller, _other) = (rig.key(&["*"]).await, rig.key(&["*"]).await);
    for (scopes, code) in [(["key:write"], "scope_exceeds_caller"), (["monitor:read"], "scope_missing")] {
        let changes = Changes { name: None, scopes: Some(ScopeSet::of(&scopes)) };
        rig.keyring.update(Actor::OPERATOR, own(&caller), changes, None).await.expect("the operator may");

        let answer = rig.call(&caller, "POST", "/api/keys", CREATE).await;

        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert!(String::from_utf8_lossy(answer.body()).contains(code), "{answer:?}");
    }
    assert_eq!(rig.keyring.keys(), 2);
}

#[tokio::test]
async fn a_path_beside_the_mount_is_no_call() {
    let rig = Rig::start();
    let caller = rig.key(&["*"]).await;
    for path in ["/api", "/api/keysafe", "/api/keys.", "/x/api/keys"] {
        for (method, body) in [("GET", ""), ("POST", CREATE)] {
            assert_eq!(rig.call(&caller, method, path, body).await.status(), StatusCode::NOT_FOUND, "{method} {path}");
        }
    }
    assert_eq!(rig.keyring.keys(), 1);
}

#[tokio::test]
async fn change_that_cannot_be_stored_is_503_with_retry_after() {
    let rig = Rig::start();
    let caller = rig.key(&["*"]).await;
    rig.keyring.close().await;

    let answer = rig.call(&caller, "POST", "/api/keys", CREATE).await;

    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
}
