//! Who is let through: the ladder of refusals, the forms in which a key is presented, and what a refusal tells.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Answer, Caller, Gate, Setup, basic, check, check_problem};

/// A key's text of the right shape and checksum that no store has ever held.
fn unknown_key() -> String {
    portcullis::key::KeySecret::generate().expect("randomness").expose().to_owned()
}

/// A key with the id of another, and a secret of its own.
fn with_id_of(key: &str) -> String {
    let index = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        b'A'..=b'Z' => byte - b'A' + 10,
        _ => byte - b'a' + 36,
    };
    let mut indexes: Vec<u8> = key.bytes().skip(4).take(12).map(index).collect();
    indexes.extend([0; 52]);
    // The random bytes that spell the id come first.
    let mut fill = |bytes: &mut [u8]| {
        bytes.copy_from_slice(&indexes);
        Some(())
    };
    let made = portcullis::key::KeySecret::generate_from(&mut fill).expect("enough bytes").expose().to_owned();
    assert_eq!(made[..16], key[..16]);
    made
}

fn encoded(pair: &str) -> String {
    STANDARD.encode(pair)
}

/// Sends an Authorization value to a path that any valid key may read.
#[track_caller]
fn present(gate: &Gate, authorization: &str) -> Answer {
    gate.anonymous().request("GET", "/open/x", &[("Authorization", authorization)], b"")
}

// The ladder, each step against those that come after it.

#[test]
fn broken_framing_is_refused_before_the_path_is_read() {
    let gate = Gate::start();
    let answer = gate.root().request("GET", "/../x", &[("Content-Length", "5, 5")], b"");
    check_problem(&answer, 400, "content_length_invalid");
    assert!(answer.says_close());
}

#[test]
fn an_ambiguous_path_is_refused_before_the_key_is_read() {
    let gate = Gate::start();
    check_problem(&gate.anonymous().get("/api/../x"), 400, "malformed_path");
    check_problem(&gate.caller("junk").get("//api/v1/query"), 400, "malformed_path");
}

#[test]
fn a_blocked_address_is_refused_before_its_key_is_read() {
    let gate = Gate::with(|setup| setup.option("limits", r#"failures = { rate = "1/h", burst = 1 }"#));
    let reader = gate.key(&["monitor:read"]);
    for _ in 0..2 {
        gate.caller(&unknown_key()).get("/open/x");
    }
    check_problem(&reader.get("/api/v1/query"), 429, "too_many_failures");
    check_problem(&reader.get("/api/../x"), 400, "malformed_path");
    assert!(gate.upstream().requests().is_empty());
}

#[test]
fn a_missing_key_is_told_before_an_unknown_route() {
    let gate = Gate::start();
    let known = gate.anonymous().get("/api/v1/query");
    let unknown = gate.anonymous().get("/no/such/path");
    check_problem(&known, 401, "unauthenticated");
    assert_same_but_for_date_and_id(&known, &unknown);
}

#[test]
fn an_unknown_route_is_told_to_a_valid_key_alone() {
    let gate = Gate::start();
    check_problem(&gate.key(&["issue:read"]).get("/no/such/path"), 404, "route_unknown");
    check_problem(&gate.caller(&unknown_key()).get("/no/such/path"), 401, "unauthenticated");
}

#[test]
fn a_wrong_method_is_told_to_a_valid_key_with_those_that_are_right() {
    let gate = Gate::start();
    let answer = gate.key(&["issue:read"]).request("PATCH", "/api/v1/query", &[], b"");
    check_problem(&answer, 405, "method_not_allowed");
    let mut allowed: Vec<&str> = answer.header("allow").expect("Allow").split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    check(&gate.anonymous().request("PATCH", "/api/v1/query", &[], b""), 401);
}

#[test]
fn a_wrong_method_never_falls_through_to_a_broader_path() {
    let gate = Gate::with(|setup| setup.route("ANY /{*rest}", r#""authenticated""#));
    let key = gate.key(&["monitor:read"]);
    check(&key.request("DELETE", "/api/v1/query", &[], b""), 405);
    check(&key.request("DELETE", "/elsewhere", &[], b""), 200);
}

#[test]
fn a_missing_scope_is_told_before_a_limit() {
    let gate = Gate::with(|setup| setup.option("limits", r#"key = { rate = "1/h", burst = 1 }"#));
    let key = gate.key(&["issue:read"]);
    for _ in 0..3 {
        check_problem(&key.get("/api/v1/query"), 403, "scope_missing");
    }
}

#[test]
fn options_comes_with_nothing() {
    let gate = Gate::start();
    check(&gate.root().request("OPTIONS", "/api/v1/query", &[], b""), 405);
    check(&gate.anonymous().request("OPTIONS", "/api/v1/query", &[], b""), 401);
    assert!(gate.upstream().requests().is_empty());
}

// Requirements.

#[test]
fn a_route_that_needs_a_scope_names_it_in_its_refusal() {
    let gate = Gate::start();
    let answer = gate.telemetry_key().get("/api/v1/query");
    check_problem(&answer, 403, "scope_missing");
    assert_eq!(answer.json()["required_scopes"], serde_json::json!(["monitor:read"]));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("www-authenticate").is_none());
    assert!(gate.upstream().requests().is_empty());
}

fn any_and_all(setup: Setup) -> Setup {
    setup
        .route("GET /any", r#"{ any = ["monitor:read", "issue:read"] }"#)
        .route("GET /all", r#"{ all = ["monitor:read", "issue:read"] }"#)
}

#[test]
fn any_is_satisfied_by_one_scope_and_all_by_nothing_less_than_all() {
    let gate = Gate::with(any_and_all);
    let (one, other) = (gate.key(&["monitor:read"]), gate.key(&["issue:read"]));
    let (both, neither) = (gate.key(&["monitor:read", "issue:read"]), gate.key(&["issue:write"]));
    for (key, any, all) in [(&one, 200, 403), (&other, 200, 403), (&both, 200, 200), (&neither, 403, 403)] {
        check(&key.get("/any"), any);
        check(&key.get("/all"), all);
    }
    let refusal = neither.get("/any").json();
    assert_eq!(refusal["required_scopes"], serde_json::json!(["monitor:read", "issue:read"]));
}

#[test]
fn the_star_holds_every_scope() {
    let gate = Gate::with(any_and_all);
    for path in ["/any", "/all", "/api/v1/query", "/api/v1/admin/x", "/open/x"] {
        check(&gate.root().get(path), 200);
    }
}

#[test]
fn a_public_route_needs_no_key_and_heeds_none() {
    let gate = Gate::start();
    check(&gate.anonymous().get("/public/x"), 200);
    check(&gate.caller(&unknown_key()).get("/public/x"), 200);
    assert!(gate.upstream().requests().iter().all(|request| !request.has("authorization")));
}

#[test]
fn an_authenticated_route_takes_any_valid_key_and_no_other() {
    let gate = Gate::start();
    check(&gate.telemetry_key().get("/open/x"), 200);
    check(&gate.anonymous().get("/open/x"), 401);
    check(&gate.caller(&unknown_key()).get("/open/x"), 401);
}

#[test]
fn a_denied_route_is_closed_to_the_holder_of_everything() {
    let gate = Gate::start();
    check_problem(&gate.root().get("/closed/x"), 403, "route_closed");
    check(&gate.root().get("/closed"), 403);
    check(&gate.anonymous().get("/closed/x"), 401);
    assert!(gate.upstream().requests().is_empty());
}

#[test]
fn the_most_specific_path_decides() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    check(&reader.get("/api/v1/anything"), 200);
    check_problem(&reader.get("/api/v1/admin/x"), 403, "scope_missing");
    check_problem(&reader.get("/api/v1/admin"), 403, "scope_missing");
    check_problem(&reader.get("/api/v1/admin/"), 403, "scope_missing");
    check(&reader.get("/api/v1/administrator"), 200);
}

#[test]
fn head_is_allowed_where_get_is_and_under_the_same_scope() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let answer = reader.head("/api/v1/query");
    check(&answer, 200);
    assert!(answer.body.is_empty());
    assert_eq!(gate.upstream().last().method, "HEAD");
    check(&gate.telemetry_key().head("/api/v1/query"), 403);
    check(&gate.anonymous().head("/api/v1/query"), 401);
}

#[test]
fn a_line_with_a_host_answers_for_that_host_alone() {
    let gate = Gate::with(|setup| setup.route("GET tenant.test/api/v1/query", r#""issue:read""#));
    let key = gate.key(&["issue:read"]);
    let to = |host: &str| key.request("GET", "/api/v1/query", &[("Host", host)], b"").status;
    assert_eq!((to("tenant.test"), to("TENANT.test:8080"), to("other.test")), (200, 200, 403));
}

// Forms of a credential.

#[test]
fn the_user_name_is_the_key_whatever_the_password() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    for pair in [format!("{}:", key.secret()), format!("{}:pw", key.secret()), format!("{}:a:b", key.secret())] {
        check(&present(&gate, &format!("Basic {}", encoded(&pair))), 200);
    }
}

#[test]
fn the_password_is_the_key_when_the_user_name_is_none() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    for pair in [format!(":{}", key.secret()), format!("grafana:{}", key.secret())] {
        check(&present(&gate, &format!("Basic {}", encoded(&pair))), 200);
    }
}

#[test]
fn the_user_name_decides_when_both_halves_are_keys() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let pair = format!("{}:{}", unknown_key(), key.secret());
    check(&present(&gate, &format!("Basic {}", encoded(&pair))), 401);
}

#[test]
fn the_scheme_is_read_in_any_case() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let pair = encoded(&format!("{}:", key.secret()));
    for scheme in ["Basic", "basic", "BASIC", "bAsIc"] {
        check(&present(&gate, &format!("{scheme} {pair}")), 200);
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        check(&present(&gate, &format!("{scheme} {}", key.secret())), 200);
    }
}

#[test]
fn blanks_around_a_header_value_are_no_part_of_it() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    check(&present(&gate, &format!("  {} \t", key.authorization())), 200);
}

#[test]
fn two_authorization_lines_are_refused_even_when_they_are_equal() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let lines = [("Authorization", key.authorization()), ("Authorization", key.authorization())];
    let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
    check(&gate.anonymous().request("GET", "/open/x", &lines, b""), 401);
}

#[test]
fn a_key_in_the_url_a_cookie_or_the_body_is_none() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let secret = key.secret();
    let anonymous = gate.anonymous();
    for parameter in ["api_key", "key", "access_token", "apikey"] {
        check(&anonymous.get(&format!("/open/x?{parameter}={secret}")), 401);
    }
    check(&anonymous.request("GET", "/open/x", &[("Cookie", &format!("key={secret}"))], b""), 401);
    check(&anonymous.request("GET", "/open/x", &[("X-Api-Key", secret)], b""), 401);
    check(&anonymous.request("GET", "/open/x", &[("Proxy-Authorization", &basic(secret))], b""), 401);
    check(&anonymous.request("POST", "/api/v1/query", &[], secret.as_bytes()), 401);
    assert!(gate.upstream().requests().is_empty());
}

#[test]
fn a_configured_header_carries_the_key_and_is_not_forwarded() {
    let gate = Gate::with(|setup| setup.option("credentials", r#"from = ["basic", "header:X-Api-Key"]"#));
    let key = gate.key(&["monitor:read"]);
    check(&gate.anonymous().request("GET", "/open/x", &[("x-api-key", key.secret())], b""), 200);
    assert!(!gate.upstream().last().text().contains(key.secret()));
    check(&present(&gate, &format!("Bearer {}", key.secret())), 401);
    check(&gate.anonymous().request("GET", "/open/x", &[("X-Api-Key", "junk")], b""), 401);
}

#[test]
fn two_different_keys_are_a_bad_request_and_the_same_one_twice_is_not() {
    let gate = Gate::with(|setup| setup.option("credentials", r#"from = ["basic", "header:X-Api-Key"]"#));
    let (key, other) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
    check_problem(
        &key.request("GET", "/open/x", &[("X-Api-Key", other.secret())], b""),
        400,
        "credentials_conflicting",
    );
    check(&key.request("GET", "/open/x", &[("X-Api-Key", key.secret())], b""), 200);
    assert_eq!(gate.upstream().requests().len(), 1);
}

fn ping_route(setup: Setup) -> Setup {
    setup.route("GET,POST /ping/{credential}/{monitor}", r#""telemetry:write""#)
}

#[test]
fn a_credential_segment_decides_alone() {
    let gate = Gate::with(ping_route);
    let (pinger, reader) = (gate.telemetry_key(), gate.key(&["monitor:read"]));
    let ping = format!("/ping/{}/backup?state=run", pinger.secret());
    check(&gate.anonymous().get(&ping), 200);
    check(&reader.get(&ping), 200);
    check(&gate.caller("junk").get(&ping), 200);
    check(&pinger.get("/ping/junk/backup"), 401);
    check(&pinger.get(&format!("/ping/{}/backup", pinger.id())), 401);
    check(&pinger.get(&format!("/ping/{}/backup", reader.secret())), 403);
    assert_eq!(gate.upstream().requests().len(), 3);
}

#[test]
fn a_route_may_name_sources_of_its_own_and_a_query_parameter() {
    let gate = Gate::with(|setup| {
        setup
            .route("GET /hook", r#"{ require = "authenticated", credential_query = "token" }"#)
            .route("GET /bearer-only", r#"{ require = "authenticated", sources = ["bearer"] }"#)
    });
    let key = gate.key(&["monitor:read"]);
    check(&gate.anonymous().get(&format!("/hook?a=1&token={}&b=%20", key.secret())), 200);
    assert_eq!(gate.upstream().last().target, "/hook?a=1&b=%20");
    check(&gate.anonymous().get("/hook?token=junk"), 401);
    check(&key.get("/bearer-only"), 401);
    let bearer = format!("Bearer {}", key.secret());
    check(&gate.anonymous().request("GET", "/bearer-only", &[("Authorization", &bearer)], b""), 200);
}

// What a refusal tells.

#[track_caller]
fn assert_same_but_for_date_and_id(one: &Answer, other: &Answer) {
    let plain = |answer: &Answer| {
        let id = answer.json()["request_id"].as_str().expect("a request id").to_owned();
        let date = answer.header("date").unwrap_or_default().to_owned();
        let text = String::from_utf8(answer.raw.clone()).expect("UTF-8");
        text.replace(&id, "ID").replace(&date, "DATE")
    };
    assert_eq!(plain(one), plain(other));
}

#[test]
fn unknown_deleted_malformed_and_missing_keys_look_alike() {
    let gate = Gate::start();
    let (deleted, known) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
    check(&deleted.get("/api/v1/query"), 200);
    check(&gate.root().delete(deleted.id()), 204);
    let answers = [
        deleted.get("/api/v1/query"),
        gate.caller(&unknown_key()).get("/api/v1/query"),
        gate.caller(&with_id_of(known.secret())).get("/api/v1/query"),
        gate.caller("junk").get("/api/v1/query"),
        gate.anonymous().get("/api/v1/query"),
        gate.anonymous().get("/no/such/path"),
        gate.anonymous().get("/api/keys"),
    ];
    for answer in &answers {
        check_problem(answer, 401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), Some(r#"Basic realm="portcullis", charset="UTF-8""#));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_same_but_for_date_and_id(&answers[0], answer);
    }
    assert_eq!(gate.upstream().requests().len(), 1);
}

#[test]
fn every_refusal_is_a_problem_document_that_names_nothing_inside() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let address = gate.upstream().address().to_string();
    gate.upstream().answer_with("nonsense\r\n\r\n");
    let answers = [
        (reader.get("/api/v1/query"), 502),
        (reader.get("/%zz"), 400),
        (reader.get("/nosuch"), 404),
        (reader.request("PUT", "/api/v1/query", &[], b""), 405),
        (reader.get("/api/v1/admin/x"), 403),
        (gate.anonymous().get("/api/v1/query"), 401),
    ];
    for (answer, status) in &answers {
        let code = answer.json()["code"].as_str().expect("a code").to_owned();
        check_problem(answer, *status, &code);
        assert!(answer.header("server").is_none(), "{answer:?}");
        let text = answer.text();
        for inside in [address.as_str(), "src/", "hyper", "panicked", env!("CARGO_PKG_VERSION")] {
            assert!(!text.contains(inside), "{inside} in {text}");
        }
    }
}

#[test]
fn a_refusal_to_head_has_no_body() {
    let gate = Gate::start();
    let caller = gate.anonymous().keep_alive();
    for _ in 0..2 {
        let answer = caller.head("/api/v1/query");
        check(&answer, 401);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
}

#[test]
fn a_host_that_is_not_served_is_misdirected() {
    let gate = Gate::with(|setup| setup.option("requests", r#"hosts = ["served.test"]"#));
    let root = gate.root();
    let to = |host: &str| root.request("GET", "/open/x", &[("Host", host)], b"");
    check(&to("served.test"), 200);
    check(&to("Served.Test:8080"), 200);
    check_problem(&to("evil.test"), 421, "host_refused");
}

// Changes of a key hold from the next request on.

#[test]
fn a_deleted_key_is_refused_on_the_next_request_of_an_open_connection() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read"]);
    let kept = key.keep_alive();
    for _ in 0..200 {
        check(&kept.get("/api/v1/query"), 200);
    }
    check(&gate.root().delete(key.id()), 204);
    for _ in 0..50 {
        check(&kept.get("/api/v1/query"), 401);
    }
    assert_eq!(gate.upstream().requests().len(), 200);
}

#[test]
fn a_narrowed_key_loses_its_scope_at_once() {
    let gate = Gate::start();
    let key = gate.key(&["monitor:read", "issue:read"]);
    let kept = key.keep_alive();
    check(&kept.get("/api/v1/query"), 200);
    let path = format!("/api/keys/{}", key.id());
    check(&gate.root().put(&path, r#"{"scopes": ["issue:read"]}"#), 200);
    check(&kept.get("/api/v1/query"), 403);
    check(&gate.root().put(&path, r#"{"scopes": ["monitor:read"]}"#), 200);
    check(&kept.get("/api/v1/query"), 200);
}

#[test]
fn a_key_works_from_the_moment_that_its_creation_is_answered() {
    let gate = Gate::start();
    let root = gate.root().keep_alive();
    for _ in 0..50 {
        check(&root.create(&["monitor:read"]).get("/api/v1/query"), 200);
    }
}

#[test]
fn keys_are_not_managed_through_a_broad_route_of_the_table() {
    let gate = Gate::with(|setup| setup.route("ANY /{*rest}", r#""public""#));
    check(&gate.anonymous().get("/api/keys"), 401);
    check(&gate.key(&["monitor:read"]).get("/api/keys"), 403);
    check(&gate.root().get("/api/keys"), 200);
    for path in ["/api/keys/", "/api/keys/x/y"] {
        let answer = Caller::get(&gate.root(), path);
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    assert!(gate.upstream().requests().is_empty());
}

#[test]
fn different_keys_in_the_header_and_in_the_query_are_400() {
    let gate = Gate::with(|setup| {
        setup.route("GET /either", r#"{ require = "authenticated", credential_query = "api_key" }"#)
    });
    let (first, second) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
    let with = |key: &Caller| format!("/either?api_key={}", key.secret());
    check_problem(&first.get(&with(&second)), 400, "credentials_conflicting");
    check(&first.get(&with(&first)), 200);
    check(&gate.anonymous().get(&with(&second)), 200);
}

#[test]
fn another_spelling_of_an_ipv6_host_does_not_slip_past_its_line() {
    let gate = Gate::with(|setup| setup.route("GET [::1]/by-host", "\"deny\"").route("GET /by-host", "\"public\""));
    let at =
        |host: &str| gate.raw().send(format!("GET /by-host HTTP/1.1\r\nHost: {host}\r\n\r\n")).read_response().status;
    assert_eq!([at("elsewhere"), at("[::1]"), at("[0:0:0:0:0:0:0:1]"), at("[::0001]")], [200, 401, 400, 400]);
}

#[test]
fn each_request_is_counted_as_admitted_or_as_refused_but_never_as_both() {
    let gate = Gate::with(|setup| setup.option("requests", r#"max_body = "1KiB""#));
    let key = gate.key(&["telemetry:write"]);
    let before = gate.metric("portcullis_admissions_total{outcome=\"admitted\"}");
    check_problem(&key.post("/api/v1/write", &"x".repeat(2_000)), 413, "body_too_large");
    check_problem(&key.get("/api/keys"), 403, "scope_missing");
    let now = |sample: &str| gate.metric(sample);
    assert_eq!(now("portcullis_admissions_total{outcome=\"admitted\"}"), before + 2.0);
    assert_eq!(now("portcullis_admissions_total{outcome=\"body_too_large\"}"), 0.0);
    assert_eq!(now("portcullis_admissions_total{outcome=\"scope_missing\"}"), 0.0);
    assert_eq!(now("portcullis_refusals_after_admission_total{reason=\"body_too_large\"}"), 1.0);
    assert_eq!(now("portcullis_refusals_after_admission_total{reason=\"scope_missing\"}"), 1.0);
}
