//! What a route changes on the way to its upstream and back: path, header fields, Host; and which hosts it is for.

use crate::harness::{Caller, Gate, Recorded, Reply, Setup, Upstream, check, check_problem};

/// Asserts which target the upstream gets for a path.
#[track_caller]
fn check_target(gate: &Gate, path: &str, expected: &str) {
    gate.upstream().forget();
    check(&gate.root().get(path), 200);
    assert_eq!(gate.upstream().last().target, expected, "{path}");
}

/// The request that the upstream gets for these fields.
#[track_caller]
fn sent(gate: &Gate, caller: &Caller, path: &str, headers: &[(&str, &str)]) -> Recorded {
    gate.upstream().forget();
    check(&caller.request("GET", path, headers, b""), 200);
    gate.upstream().last()
}

fn with_route(line: &str, options: &str) -> Gate {
    Gate::with(|setup| setup.no_routes().route(line, options))
}

// Paths.

#[test]
fn a_prefix_is_cut_off_as_a_whole() {
    let gate = with_route("ANY /prom/{*rest}", r#"{ require = "authenticated", strip_prefix = "/prom" }"#);
    check_target(&gate, "/prom/api/v1/query", "/api/v1/query");
    check_target(&gate, "/prom/api/v1/query/", "/api/v1/query/");
    check_target(&gate, "/prom/prom/x", "/prom/x");
    check_target(&gate, "/prom/", "/");
    check_target(&gate, "/prom", "/");
    check_target(&gate, "/prom?query=up", "/?query=up");
    check_problem(&gate.root().get("/promx/api"), 404, "route_unknown");
}

#[test]
fn a_prefix_is_put_in_front() {
    let gate = Gate::with(|setup| {
        let options = r#"{ require = "authenticated", add_prefix = "/a/b" }"#;
        setup.no_routes().route("GET /x/{*rest}", options).route("GET /", options)
    });
    check_target(&gate, "/x/y", "/a/b/x/y");
    check_target(&gate, "/x", "/a/b/x");
    check_target(&gate, "/x/", "/a/b/x/");
    check_target(&gate, "/", "/a/b/");
}

#[test]
fn the_rest_of_a_target_keeps_its_bytes() {
    let options = r#"{ require = "authenticated", strip_prefix = "/p/q", add_prefix = "/r", allow_encoded_slash = true,
        allow_semicolon = true }"#
        .replace('\n', " ");
    let gate = with_route("GET /p/q/{*rest}", &options);
    check_target(&gate, "/p/q/a%20b/%c3%A9/c%2Fd;e@f?g=/p/q/../%zz&%2e", "/r/a%20b/%c3%A9/c%2Fd;e@f?g=/p/q/../%zz&%2e");
    check_target(&gate, "/p/q", "/r");
    check_target(&gate, "/p/q/", "/r/");
}

#[test]
fn what_is_refused_in_a_path_is_refused_before_and_behind_a_prefix() {
    let gate = with_route("GET /p/{*rest}", r#"{ require = "authenticated", strip_prefix = "/p", add_prefix = "/r" }"#);
    for path in ["/p/../x", "/p//x", "/p/%2e%2e/x", "/p/..%2fx", "/p/a;b", "/p/a%2Fb", "/p%2Fx", "/%70/x", "/p/%252e"] {
        assert_eq!(gate.root().get(path).status, 400, "{path}");
    }
    assert_eq!(gate.upstream().requests().len(), 0);
}

#[test]
fn a_prefix_and_the_keys_segment_are_changed_together() {
    let gate = Gate::with(|setup| {
        let options = |more: &str| {
            format!(r#"{{ require = "authenticated", strip_prefix = "/p", add_prefix = "/long/er"{more} }}"#)
        };
        setup
            .no_routes()
            .route("GET /p/{credential}/x", &options(""))
            .route("GET /p/q/{credential}", &options(r#", credential_segment = "keep""#))
            .route("GET /p/r", &options(r#", credential_query = "key""#))
    });
    gate.upstream().sees_credentials();
    let key = gate.key(&["monitor:read"]);
    let target = |path: String| {
        gate.upstream().forget();
        check(&gate.anonymous().get(&path), 200);
        gate.upstream().last().target
    };

    assert_eq!(target(format!("/p/{}/x?a=b", key.secret())), format!("/long/er/{}/x?a=b", key.id()));
    assert_eq!(target(format!("/p/q/{}", key.secret())), format!("/long/er/q/{}", key.secret()));
    assert_eq!(target(format!("/p/r?a=b&key={}&c", key.secret())), "/long/er/r?a=b&c");
}

#[test]
fn a_target_that_a_prefix_makes_too_long_is_refused() {
    let gate = Gate::with(|setup| {
        let options = format!(r#"{{ require = "authenticated", add_prefix = "/{}" }}"#, "p".repeat(200));
        let setup =
            setup.option("client", "target_bytes_max = \"64KiB\"").option("client", "header_bytes_max = \"128KiB\"");
        setup.no_routes().route("GET /{*rest}", &options)
    });
    check_problem(&gate.root().get(&format!("/{}", "x".repeat(65_400))), 414, "target_too_long");
    check(&gate.root().get(&format!("/{}", "x".repeat(65_000))), 200);
}

#[test]
fn an_upstreams_prefix_holds_for_its_lines_unless_they_say_otherwise() {
    let gate = Gate::with(|setup| {
        setup
            .no_routes()
            .upstream(r#"strip_prefix = "/prom""#)
            .upstream(r#"add_prefix = "/all""#)
            .route("GET /prom/x", r#""authenticated""#)
            .route("GET /prom/y", r#"{ require = "authenticated", add_prefix = "/own" }"#)
            .route("GET /z", r#"{ require = "authenticated", strip_prefix = "off", add_prefix = "off" }"#)
    });
    check_target(&gate, "/prom/x", "/all/x");
    check_target(&gate, "/prom/y", "/own/y");
    check_target(&gate, "/z", "/z");
}

// Header fields.

#[test]
fn fields_are_set_from_key_path_request_and_client() {
    let gate = with_route(
        "GET /t/{tenant}/{*rest}",
        r#"{ require = "authenticated", set_headers = { "X-Id" = "{key.id}", "X-Name" = "<{key.name}>", "X-Kind" = "{key.kind}", "X-Scopes" = "{key.scopes}", "X-Tenant" = "{path.tenant}", "X-Rest" = "/{path.rest}", "X-Client" = "{client.ip}", "X-Text" = "{{a}} b" } }"#,
    );
    let body = serde_json::json!({"name": "é {key.id}", "kind": "custom", "scopes": ["monitor:read", "issue:read"]});
    let key = gate.root().create_from(&body);
    let request = sent(&gate, &key, "/t/a%40b/c%20d/", &[]);
    for (name, value) in [
        ("x-id", key.id()),
        ("x-name", "<%C3%A9 {key.id}>"),
        ("x-kind", "custom"),
        ("x-scopes", request.header("x-portcullis-scopes").expect("scopes")),
        ("x-tenant", "a@b"),
        ("x-rest", "/c%20d/"),
        ("x-client", "127.0.0.1"),
        ("x-text", "{a} b"),
    ] {
        assert_eq!(request.header_values(name), [value], "{name}");
    }
    assert_eq!(request.target, "/t/a%40b/c%20d/");
}

/// Catalogue R02: every way to bring one's own value along.
const SPELLINGS: [&[(&str, &str)]; 10] = [
    &[("X-Scope-OrgID", "evil")],
    &[("X-Scope-OrgID", "evil"), ("x-scope-orgid", "evil2")],
    &[("X-SCOPE-ORGID", "evil|acme")],
    &[("X-Scope-OrgID", "acme, evil")],
    &[("X_Scope_OrgID", "evil")],
    &[("X.Scope.OrgID", "evil")],
    &[("x-scope_orgid", "evil"), ("x_scope-orgid", "evil")],
    &[("Connection", "x-scope-orgid"), ("X-Scope-OrgID", "evil")],
    &[("Connection", "close, X-Scope-OrgID"), ("Connection", "X_Scope_OrgID")],
    &[("X-Scope-OrgID", "")],
];

#[test]
fn a_field_that_is_set_is_never_the_clients() {
    let gate = with_route(
        "GET /x",
        r#"{ require = "authenticated", set_headers = { "X-Scope-OrgID" = "acme" }, remove_headers = ["Cookie"] }"#,
    );
    for spelling in SPELLINGS {
        let request = sent(&gate, &gate.root(), "/x", spelling);
        assert_eq!(request.header_values("x-scope-orgid"), ["acme"], "{spelling:?}");
        assert!(!request.text().contains("evil"), "{request:?}");
    }
}

#[test]
fn a_field_that_is_removed_is_gone_in_every_spelling() {
    let gate = with_route("GET /x", r#"{ require = "public", remove_headers = ["X-Scope-OrgID", "Cookie"] }"#);
    for spelling in SPELLINGS {
        let request = sent(&gate, &gate.anonymous(), "/x", spelling);
        assert!(!request.text().contains("evil") && !request.text().to_lowercase().contains("orgid"), "{request:?}");
    }
    let request = sent(&gate, &gate.anonymous(), "/x", &[("Cookie", "a=b"), ("Cookie", "c=d"), ("X-Other", "stays")]);
    assert!(!request.has("cookie") && request.header("x-other") == Some("stays"), "{request:?}");
}

#[test]
fn a_tenant_is_bound_to_a_key_in_front_of_loki_and_mimir() {
    let calls = [("loki", "logs:read", "/loki/api/v1/labels"), ("mimir", "metrics:read", "/prometheus/api/v1/labels")];
    for (preset, scope, path) in calls {
        let gate =
            Gate::with(|setup| setup.preset(preset).upstream(r#"set_headers = { "X-Scope-OrgID" = "{key.name}" }"#));
        let named = |name: &str| {
            gate.root().create_from(&serde_json::json!({"name": name, "kind": "custom", "scopes": [scope]}))
        };
        let (acme, other) = (named("acme"), named("other"));
        for spelling in SPELLINGS {
            let request = sent(&gate, &acme, path, spelling);
            assert_eq!(request.header_values("x-scope-orgid"), ["acme"], "{preset} {spelling:?}");
            assert!(!request.text().contains("evil"), "{request:?}");
        }
        // R06: the same path, another key.
        assert_eq!(sent(&gate, &other, path, &[]).header("x-scope-orgid"), Some("other"));
        assert_eq!(sent(&gate, &acme, path, &[]).header("x-scope-orgid"), Some("acme"));
        let request = sent(&gate, &gate.anonymous(), "/ready", &[("X-Scope-OrgID", "evil"), ("X_Scope_OrgID", "evil")]);
        assert!(!request.text().to_lowercase().contains("orgid"), "{request:?}");
    }
}

#[test]
fn a_lines_own_fields_join_those_of_its_upstream() {
    let gate = Gate::with(|setup| {
        setup
            .no_routes()
            .upstream(r#"set_headers = { "X-A" = "upstream", "X-B" = "upstream" }"#)
            .upstream(r#"remove_headers = ["X-C", "X-D"]"#)
            .route("GET /plain", r#""authenticated""#)
            .route("GET /own", r#"{ require = "authenticated", set_headers = { "x-b" = "own", "X_C" = "own" }, remove_headers = ["x-a"] }"#)
    });
    let fields = [("X-A", "evil"), ("X-B", "evil"), ("X-C", "evil"), ("X-D", "evil")];

    let plain = sent(&gate, &gate.root(), "/plain", &fields);
    let own = sent(&gate, &gate.root(), "/own", &fields);

    let values =
        |request: &Recorded| ["x-a", "x-b", "x-c", "x_c", "x-d"].map(|name| request.header(name).map(str::to_owned));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(values(&plain), [some("upstream"), some("upstream"), None, None, None]);
    assert_eq!(values(&own), [None, some("own"), None, some("own"), None]);
}

#[test]
fn a_request_has_one_id_for_upstream_and_client() {
    let gate = with_route(
        "GET,POST /x",
        r#"{ require = "authenticated", set_headers = { "X-Request-Id" = "{request.id}" } }"#,
    );
    gate.upstream().reply(Reply::default().close());

    let answer = gate.root().request("POST", "/x", &[("X-Request-Id", "evil")], b"");

    check_problem(&answer, 502, "upstream_unreachable");
    let request = gate.upstream().last();
    assert_eq!(request.header_values("x-request-id"), [answer.json()["request_id"].as_str().expect("an id")]);
    let another = sent(&gate, &gate.root(), "/x", &[]);
    assert_ne!(another.header("x-request-id"), request.header("x-request-id"));
}

#[test]
fn a_clients_own_request_id_passes_where_no_line_sets_one() {
    let gate = Gate::start();
    let request = sent(&gate, &gate.root(), "/open/x", &[("X-Request-Id", "abc")]);
    assert_eq!(request.header_values("x-request-id"), ["abc"]);
}

#[test]
fn fields_of_responses_are_set_and_removed() {
    let gate = with_route(
        "GET /x",
        r#"{ require = "authenticated", set_response_headers = { "X-Key" = "{key.id}", "Cache-Control" = "no-store" }, remove_response_headers = ["Server"] }"#,
    );
    gate.upstream().answer_with(
        "HTTP/1.1 200 OK\r\nServer: loki\r\nserver: 2\r\nCache-Control: public\r\nX_Key: evil\r\nETag: 1\r\nContent-Length: 0\r\n\r\n",
    );
    let key = gate.key(&["monitor:read"]);

    let answer = key.get("/x");

    assert_eq!(answer.header_values("x-key"), [key.id()]);
    assert_eq!(answer.header_values("cache-control"), ["no-store"]);
    assert_eq!(answer.header_values("etag"), ["1"]);
    assert!(answer.header("server").is_none() && answer.header("x_key").is_none(), "{answer:?}");
}

// Host.

#[test]
fn the_host_is_kept_or_the_upstreams_or_a_name() {
    let gate = Gate::with(|setup| {
        let route = |setup: Setup, path: &str, host: &str| {
            setup.route(&format!("GET {path}"), &format!(r#"{{ require = "authenticated", host = "{host}" }}"#))
        };
        let setup = setup.no_routes().upstream(r#"host = "named.test:81""#).route("GET /default", r#""authenticated""#);
        [("/keep", "keep"), ("/upstream", "upstream"), ("/name", "Other.test")]
            .into_iter()
            .fold(setup, |setup, (path, host)| route(setup, path, host))
    });
    let upstream = gate.upstream().address().to_string();
    for (path, host) in
        [("/default", "named.test:81"), ("/keep", "gate.test"), ("/upstream", &*upstream), ("/name", "Other.test")]
    {
        let request = sent(&gate, &gate.root(), path, &[]);
        assert_eq!(request.header_values("host"), [host], "{path}");
        assert_eq!(request.header_values("x-forwarded-host"), ["gate.test"], "{path}");
    }
}

#[test]
fn each_target_of_an_upstream_gets_its_own_host() {
    let targets = [Upstream::start(), Upstream::start()];
    let gate = Gate::with(|setup| {
        let urls: Vec<String> = targets.iter().map(|target| format!("\"http://{}\"", target.address())).collect();
        setup
            .option("upstream.two", &format!("url = [{}]", urls.join(", ")))
            .option("upstream.two", r#"host = "upstream""#)
            .option("upstream.two.routes", r#""GET /two" = "public""#)
    });
    for _ in 0..200 {
        check(&gate.anonymous().get("/two"), 200);
        if targets.iter().all(|target| !target.requests().is_empty()) {
            break;
        }
    }
    for target in &targets {
        let hosts: Vec<String> =
            target.requests().iter().map(|request| request.header_values("host").join(", ")).collect();
        assert!(!hosts.is_empty() && hosts.iter().all(|host| *host == target.address().to_string()), "{hosts:?}");
    }
}

// Which hosts a line is for.

#[test]
fn a_line_answers_for_each_of_its_hosts_and_for_no_other() {
    let gate = with_route("GET a.test,b.test,*.c.test/x", r#""authenticated""#);
    let status = |host: &str| gate.root().request("GET", "/x", &[("Host", host)], b"").status;
    for host in ["a.test", "B.Test", "a.test:8080", "a.test.", "x.c.test", "x.y.c.test:1"] {
        assert_eq!(status(host), 200, "{host}");
    }
    for host in ["c.test", "d.test", "a.test.evil.test", "xa.test", "127.0.0.1", "xc.test"] {
        assert_eq!(status(host), 404, "{host}");
    }
}

#[test]
fn upstreams_are_chosen_by_host_and_tenants_do_not_mix() {
    let other = Upstream::start();
    let gate = Gate::with(|setup| {
        setup
            .no_routes()
            .upstream(r#"hosts = ["a.test"]"#)
            .upstream(r#"set_headers = { "X-Scope-OrgID" = "a" }"#)
            .route("GET /x", r#""authenticated""#)
            .route("GET c.test/x", r#""authenticated""#)
            .option("upstream.other", &format!("url = \"http://{}\"", other.address()))
            .option("upstream.other", r#"hosts = ["b.test", "*.b.test"]"#)
            .option("upstream.other", r#"set_headers = { "X-Scope-OrgID" = "b" }"#)
            .option("upstream.other.routes", r#""GET /x" = "authenticated""#)
    });
    let key = gate.key(&["monitor:read"]);
    for (host, tenant, upstream) in [
        ("a.test", "a", gate.upstream()),
        ("b.test", "b", &other),
        ("a.test", "a", gate.upstream()),
        ("x.b.test", "b", &other),
        ("c.test", "a", gate.upstream()),
    ] {
        let before = (gate.upstream().requests().len(), other.requests().len());
        check(&key.request("GET", "/x", &[("Host", host)], b""), 200);
        assert_eq!(upstream.last().header_values("x-scope-orgid"), [tenant], "{host}");
        assert_eq!(gate.upstream().requests().len() + other.requests().len(), before.0 + before.1 + 1, "{host}");
    }
    assert_eq!(key.request("GET", "/x", &[("Host", "d.test")], b"").status, 404);
}

#[test]
fn hosts_below_a_name_are_served_where_the_list_says_so() {
    let gate = Gate::with(|setup| setup.option("requests", r#"hosts = ["*.gate.test"]"#));
    let answer = |host: &str| gate.anonymous().request("GET", "/public/x", &[("Host", host)], b"");
    check(&answer("a.gate.test"), 200);
    check_problem(&answer("gate.test"), 421, "host_refused");
    check_problem(&answer("evil.test"), 421, "host_refused");
}
