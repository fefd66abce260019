//! What an operator sees: metrics, health, access log and audit; and that none of it shows a secret.

use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{
    Caller, DEADLINE, FaultyStore, Gate, H2Client, Installation, Process, Reply, Served, Wire, check, check_problem,
};

const QUERY: &str = "/api/v1/query";

/// The families that dashboards and alerts are built on.
const FAMILIES: &[&str] = &[
    "portcullis_admissions_total",
    "portcullis_audit_changes_total",
    "portcullis_build_info",
    "portcullis_config_last_reload_success_timestamp_seconds",
    "portcullis_config_last_reload_successful",
    "portcullis_config_reloads_total",
    "portcullis_connections",
    "portcullis_connections_queued_total",
    "portcullis_connections_total",
    "portcullis_gate_duration_seconds",
    "portcullis_key_cache_lookups_total",
    "portcullis_keys",
    "portcullis_last_used_backlog",
    "portcullis_last_used_flush_age_seconds",
    "portcullis_limited_total",
    "portcullis_requests_cut_total",
    "portcullis_requests_in_flight",
    "portcullis_requests_total",
    "portcullis_store_operation_duration_seconds",
    "portcullis_store_operation_errors_total",
    "portcullis_target_ejected",
    "portcullis_target_ejections_total",
    "portcullis_target_failures_total",
    "portcullis_target_healthy",
    "portcullis_target_requests_in_flight",
    "portcullis_target_requests_total",
    "portcullis_target_responses_total",
    "portcullis_tls_handshake_failures_total",
    "portcullis_upstream_duration_seconds",
    "portcullis_upstream_failures_total",
    "portcullis_upstream_queue_length",
    "portcullis_upstream_retries_total",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];

fn admissions(gate: &Gate, outcome: &str) -> f64 {
    gate.metric(&format!("portcullis_admissions_total{{outcome=\"{outcome}\"}}"))
}

/// Every form in which a secret could slip into a text.
fn forms_of(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned(), secret[17..].to_owned()];
    for pair in [format!("{secret}:"), format!("{secret}:pw"), format!(":{secret}"), secret.to_owned()] {
        forms.push(STANDARD.encode(pair).trim_end_matches('=').to_owned());
    }
    forms
}

#[track_caller]
fn check_tells_no_secret(text: &str, secrets: &[&str]) {
    for form in secrets.iter().flat_map(|secret| forms_of(secret)) {
        assert!(!text.contains(&form), "a secret ({form}) is in:\n{text}");
    }
}

#[test]
fn every_family_is_there_from_the_start() {
    let gate = Gate::start();
    let text = gate.ops_get("/metrics").text();
    for family in FAMILIES {
        assert!(text.contains(&format!("# TYPE {family} ")), "{family} is missing in:\n{text}");
        assert!(text.contains(&format!("# HELP {family} ")), "{family} has no help");
    }
}

#[test]
fn requests_are_counted_by_route_upstream_and_status_class() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let sample = |class: &str| {
        let text = gate.ops_get("/metrics").text();
        let route = text.lines().find(|line| {
            line.starts_with("portcullis_requests_total{")
                && line.contains("/api/v1/query\"")
                && line.contains(&format!("status_class=\"{class}\""))
                && line.contains("upstream=\"main\"")
        });
        let value = route.unwrap_or_else(|| panic!("no sample of {class} in:\n{text}"));
        value.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    for _ in 0..3 {
        check(&reader.get(&format!("{QUERY}?secret=query")), 200);
    }
    gate.upstream().answer_with("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    check(&reader.get(QUERY), 404);
    gate.upstream().answer_with("nonsense\r\n\r\n");
    check(&reader.get(QUERY), 502);
    assert_eq!((sample("2xx"), sample("4xx"), sample("5xx")), (3.0, 1.0, 1.0));
}

#[test]
fn each_refusal_is_counted_under_its_own_outcome() {
    let gate =
        Gate::with(|setup| setup.route("GET /dear", r#"{ require = "authenticated", rate = "1/h", burst = 1 }"#));
    let reader = gate.key(&["monitor:read"]);
    let admitted = admissions(&gate, "admitted");
    let steps: [(&str, &dyn Fn()); 11] = [
        ("admitted", &|| drop(reader.get(QUERY))),
        ("admitted_public", &|| drop(gate.anonymous().get("/public/x"))),
        ("malformed_request", &|| drop(reader.request("GET", QUERY, &[("Content-Length", "1, 1")], b""))),
        ("malformed_path", &|| drop(reader.get("//"))),
        ("credentials_missing", &|| drop(gate.anonymous().get(QUERY))),
        ("credentials_malformed", &|| drop(gate.caller("junk").get(QUERY))),
        ("key_unknown", &|| {
            drop(gate.caller(portcullis::key::KeySecret::generate().expect("random").expose()).get(QUERY))
        }),
        ("route_unknown", &|| drop(reader.get("/nosuch"))),
        ("method_not_allowed", &|| drop(reader.request("PUT", QUERY, &[], b""))),
        ("scope_missing", &|| drop(reader.get("/api/v1/admin/x"))),
        ("route_closed", &|| drop(reader.get("/closed/x"))),
    ];
    for (outcome, step) in steps {
        let before = admissions(&gate, outcome);
        step();
        assert_eq!(admissions(&gate, outcome) - before, 1.0, "{outcome}");
    }
    reader.get("/dear");
    reader.get("/dear");
    assert_eq!(admissions(&gate, "route_rate_limited"), 1.0);
    assert_eq!(gate.metric("portcullis_limited_total{limit=\"route_rate\"}"), 1.0);
    assert_eq!(admissions(&gate, "admitted") - admitted, 2.0);
}

#[test]
fn cache_hits_keys_and_changes_are_counted() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    gate.telemetry_key();
    let hits = gate.metric("portcullis_key_cache_lookups_total{result=\"hit\"}");
    for _ in 0..5 {
        check(&reader.get(QUERY), 200);
    }
    assert!(gate.metric("portcullis_key_cache_lookups_total{result=\"hit\"}") >= hits + 4.0);
    assert_eq!(gate.metric("portcullis_keys{kind=\"telemetry\"}"), 1.0);
    assert_eq!(gate.metric("portcullis_keys{kind=\"custom\"}"), 2.0);
    let created = gate.metric("portcullis_audit_changes_total{operation=\"create\"}");
    check(&gate.root().delete(reader.id()), 204);
    assert!(created >= 2.0);
    assert_eq!(gate.metric("portcullis_audit_changes_total{operation=\"delete\"}"), 1.0);
    assert_eq!(gate.metric("portcullis_keys{kind=\"custom\"}"), 1.0);
}

#[test]
fn requests_in_flight_and_connections_rise_and_fall() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().hold();
    let mut wire = gate.raw();
    wire.send(reader.keep_alive().render("GET", QUERY, &[], b""));
    gate.upstream().wait_for_requests(1);
    gate.wait_for_metric("portcullis_requests_in_flight", 1.0);
    assert!(gate.metric("portcullis_connections") >= 1.0);
    gate.upstream().release();
    check(&wire.read_response(), 200);
    gate.wait_for_metric("portcullis_requests_in_flight", 0.0);
}

#[test]
fn upstream_failures_are_counted_by_kind() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    let failures = |kind: &str| {
        let text = gate.ops_get("/metrics").text();
        let line = text.lines().find(|line| {
            line.starts_with("portcullis_upstream_failures_total{") && line.contains(&format!("kind=\"{kind}\""))
        });
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_else(|| panic!("{kind}:\n{text}"))
    };
    gate.upstream().answer_with("nonsense\r\n\r\n");
    reader.get(QUERY);
    gate.upstream().reply(Reply::default().close());
    reader.post(QUERY, "{}");
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut").close());
    reader.get(QUERY);
    assert_eq!((failures("invalid_response"), failures("reset"), failures("body_cut")), (1.0, 1.0, 1.0));
}

#[test]
fn no_metric_holds_a_secret_a_path_or_what_a_client_chose() {
    let gate = Gate::with(|setup| setup.route("GET /p/{credential}/{monitor}", r#""telemetry:write""#));
    let body = serde_json::json!({"name": "\"} 1 fake_metric 1", "kind": "telemetry"});
    let key = gate.root().create_from(&body);
    let chosen = [("User-Agent", "client-agent"), ("Host", "client-host.test")];
    gate.anonymous().request("GET", &format!("/p/{}/client-monitor?client-query", key.secret()), &chosen, b"");
    gate.anonymous().request("CLIENTMETHOD", "/client-path", &chosen, b"");
    key.request("CLIENTMETHOD", QUERY, &chosen, b"");
    let root = gate.root();
    let text = gate.ops_get("/metrics").text();
    check_tells_no_secret(&text, &[key.secret(), root.secret()]);
    let lower = text.to_ascii_lowercase();
    for word in ["client-", "clientmethod", "fake_metric", key.id()] {
        assert!(!lower.contains(&word.to_ascii_lowercase()), "{word} in:\n{text}");
    }
}

#[test]
fn promtool_finds_nothing_to_say() {
    if Command::new("promtool").arg("--version").output().is_err() {
        println!("SKIPPED: promtool is not installed");
        return;
    }
    let gate = Gate::start();
    gate.key(&["monitor:read"]).get(QUERY);
    let path = gate.folder().join("metrics.txt");
    std::fs::write(&path, gate.ops_get("/metrics").body).expect("writable");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("promtool check metrics --extended < {}", path.display()));
    let exit = Process::spawn(command).wait();
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{exit:?}");
}

#[test]
fn metrics_say_what_they_are() {
    let gate = Gate::start();
    let answer = gate.ops_get("/metrics");
    check(&answer, 200);
    assert!(
        answer.header("content-type").is_some_and(|text| text.starts_with("text/plain; version=0.0.4")),
        "{answer:?}"
    );
}

#[test]
fn a_running_gate_is_healthy_and_ready() {
    let gate = Gate::start();
    check(&gate.ops_get("/-/healthy"), 200);
    check(&gate.ops_get("/-/ready"), 200);
    check(&gate.ops_get("/"), 404);
    check(&Caller::new(gate.ops(), None).post("/-/ready", ""), 405);
    check(&Caller::new(gate.ops(), None).head("/-/healthy"), 200);
}

#[test]
fn readiness_does_not_depend_on_the_upstream() {
    let gate = Gate::with(|setup| setup.upstream_url("http://127.0.0.1:9"));
    check(&gate.ops_get("/-/ready"), 200);
}

#[test]
fn the_ops_listener_serves_no_route_and_the_public_one_no_metrics() {
    let gate = Gate::with(|setup| setup.route("GET /metrics", r#""public""#));
    check(&gate.anonymous().get("/metrics"), 200);
    assert_eq!(gate.upstream().last().target, "/metrics");
    check(&gate.ops_get("/public/x"), 404);
    check(&gate.ops_get("/api/keys"), 404);
    assert_eq!(gate.upstream().requests().len(), 1);
}

#[test]
fn the_ops_listener_is_as_strict_about_framing() {
    let gate = Gate::start();
    let answer = Caller::new(gate.ops(), None).request("GET", "/metrics", &[("Content-Length", "1, 1")], b"");
    check(&answer, 400);
    assert!(answer.says_close());
}

// A store that is ill.

#[test]
fn a_store_fault_is_503_for_what_needs_the_store_and_nothing_for_what_memory_knows() {
    let store = FaultyStore::new();
    let gate = Gate::with(|setup| setup.store(store.clone()));
    let known = gate.key(&["monitor:read"]);
    check(&known.get(QUERY), 200);
    store.fail();
    for _ in 0..10 {
        check(&known.get(QUERY), 200);
        check(&known.get("/api/v1/admin/x"), 403);
        check(&gate.anonymous().get(QUERY), 401);
    }
    let body = r#"{"name": "x", "kind": "telemetry"}"#;
    let refused = gate.root().post("/api/keys", body);
    check_problem(&refused, 503, "store_unavailable");
    assert!(refused.header("retry-after").is_some());
    check_problem(&gate.root().delete(known.id()), 503, "store_unavailable");
    let stranger = gate.caller(portcullis::key::KeySecret::generate().expect("random").expose()).get(QUERY);
    assert!([401, 503].contains(&stranger.status), "{stranger:?}");
    check(&gate.ops_get("/-/healthy"), 200);
    check(&gate.ops_get("/metrics"), 200);
    store.recover();
    check(&known.get(QUERY), 200);
    check(&gate.root().post("/api/keys", body), 201);
    check(&gate.root().delete(known.id()), 204);
    check(&known.get(QUERY), 401);
}

#[test]
fn a_slow_change_of_a_key_slows_no_request() {
    let store = FaultyStore::new();
    let gate = Gate::with(|setup| setup.store(store.clone()));
    let known = gate.key(&["monitor:read"]);
    check(&known.get(QUERY), 200);
    store.stall();
    let mut slow = gate.raw();
    slow.send(gate.root().render(
        "POST",
        "/api/keys",
        &[("Content-Type", "application/json")],
        br#"{"name": "x", "kind": "telemetry"}"#,
    ));
    let kept = known.keep_alive();
    for _ in 0..100 {
        check(&kept.get(QUERY), 200);
    }
    check(&gate.ops_get("/-/healthy"), 200);
    assert!(!slow.stirs_within(std::time::Duration::from_millis(50)));
    store.recover();
    check(&slow.read_response(), 201);
}

// The log of the real program.

fn served(installation: &Installation) -> (Served, Caller) {
    let root = installation.init();
    let served = installation.serve();
    let root = served.caller(&root);
    (served, root)
}

/// Ends the gate and returns everything that it logged, each line checked to be JSON.
#[track_caller]
fn logged(served: Served) -> (String, Vec<serde_json::Value>) {
    served.process.signal("TERM");
    let exit = served.process.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_eq!(exit.stdout, "", "nothing belongs on stdout");
    let events =
        exit.stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")));
    let events = events.collect();
    (exit.stderr, events)
}

fn with_field<'e>(events: &'e [serde_json::Value], target: &str) -> Vec<&'e serde_json::Value> {
    events.iter().filter(|event| event["target"] == target).collect()
}

#[test]
fn each_change_of_a_key_leaves_a_line_that_says_who_what_and_from_where() {
    let installation = Installation::new();
    let (served, root) = served(&installation);
    let key = root.create(&["monitor:read"]);
    check(&root.put(&format!("/api/keys/{}", key.id()), r#"{"name": "renamed\u00e9", "scopes": ["issue:read"]}"#), 200);
    check(&root.delete(key.id()), 204);
    check(&root.delete(key.id()), 404);
    let (text, events) = logged(served);
    let audit: Vec<_> =
        events.iter().filter(|event| event["operation"].is_string() && event["key.id"] == key.id()).collect();
    let operations: Vec<&str> = audit.iter().filter_map(|event| event["operation"].as_str()).collect();
    assert_eq!(operations, ["create", "update", "delete"], "{text}");
    for event in &audit {
        assert_eq!((&event["actor"], &event["client.address"]), (&root.id().into(), &"127.0.0.1".into()), "{event}");
    }
    let update = audit[1].to_string();
    assert!(["renamed", "monitor:read", "issue:read"].iter().all(|word| update.contains(word)), "{update}");
    check_tells_no_secret(&text, &[root.secret(), key.secret()]);
}

#[test]
fn audit_lines_are_written_at_every_log_level() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let installation = Installation::with(|setup| {
        setup.option("log", r#"level = "error""#).option("listen", &format!("public = \"{address}\""))
    });
    let root = Caller::new(address, Some(&installation.init()));
    // At this level nothing says that the gate listens.
    let process = Process::start(&installation.arguments("serve"));
    let deadline = Instant::now() + DEADLINE;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "the gate does not listen");
    }
    let key = root.create(&["monitor:read"]);
    process.signal("TERM");
    let exit = process.wait();
    assert!(exit.stderr.contains(key.id()) && exit.stderr.lines().count() == 1, "{exit:?}");
}

#[test]
fn the_access_log_names_route_status_and_key_and_is_off_by_default() {
    let installation = Installation::with(|setup| setup.option("log", "access = true"));
    let (served, root) = served(&installation);
    let key = root.create(&["monitor:read"]);
    check(&key.get(&format!("{QUERY}?secret=in-the-query")), 200);
    check(&key.get("/api/v1/admin/hidden-path"), 403);
    let refused = served.anonymous().get(QUERY);
    let request_id = refused.json()["request_id"].as_str().expect("an id").to_owned();
    let (text, events) = logged(served);
    let access = with_field(&events, "access");
    let line = |status: u64| {
        access.iter().find(|event| event["status"] == status).unwrap_or_else(|| panic!("{status}: {text}"))
    };
    let ok = line(200);
    assert!(ok["route"].as_str().is_some_and(|route| route.contains("/api/v1/query")), "{ok}");
    assert_eq!((&ok["method"], &ok["key.id"]), (&"GET".into(), &key.id().into()), "{ok}");
    assert!(line(403)["route"].as_str().is_some_and(|route| route.contains("/api/v1/admin/{*rest}")));
    assert_eq!(line(401)["request_id"], request_id.as_str());
    assert!(!text.contains("in-the-query") && !text.contains("hidden-path"), "{text}");

    let quiet = Installation::new();
    let (served, root) = self::served(&quiet);
    check(&root.get("/open/x"), 200);
    let (text, events) = logged(served);
    assert!(with_field(&events, "access").is_empty(), "{text}");
}

#[test]
fn answer_to_head_is_complete_in_the_access_log() {
    let installation = Installation::with(|setup| setup.option("log", "access = true"));
    let (served, root) = served(&installation);
    let own = format!("/api/keys/{}", root.id());
    check(&served.anonymous().head(QUERY), 401);
    check(&root.head(&own), 200);
    check(&root.head("/open/x"), 200);
    let client = H2Client::connect(served.public);
    let authorization = root.authorization();
    let authorized = [("authorization", authorization.as_str())];
    check(&client.request("HEAD", QUERY, &[], b""), 401);
    check(&client.request("HEAD", &own, &authorized, b""), 200);
    check(&client.request("HEAD", "/open/x", &authorized, b""), 200);
    drop(client);
    let (text, events) = logged(served);
    let of_head: Vec<_> = with_field(&events, "access").into_iter().filter(|event| event["method"] == "HEAD").collect();
    assert_eq!(of_head.len(), 6, "{text}");
    for line in of_head {
        assert_eq!((&line["complete"], &line["bytes"]), (&true.into(), &0.into()), "{line}");
    }
}

#[test]
fn no_log_line_at_any_level_shows_a_secret() {
    let installation = Installation::with(|setup| {
        setup
            .option("log", "access = true")
            .option("log", r#"level = "debug""#)
            .option("credentials", r#"from = ["basic", "bearer", "header:X-Api-Key"]"#)
            .route("GET /p/{credential}/{monitor}", r#""telemetry:write""#)
            .route("GET /hook", r#"{ require = "authenticated", credential_query = "token" }"#)
    });
    let (served, root) = served(&installation);
    let (key, deleted) = (root.create(&["telemetry:write"]), root.create(&["monitor:read"]));
    root.delete(deleted.id());
    root.delete(deleted.secret());
    let anonymous = served.anonymous();
    for caller in [&key, &deleted, &root] {
        let secret = caller.secret();
        caller.get(QUERY);
        caller.get("//bad//path");
        anonymous.get(&format!("/p/{secret}/x"));
        anonymous.get(&format!("/hook?token={secret}"));
        anonymous.get(&format!("/nosuch/{secret}?key={secret}"));
        anonymous.get(&format!("/%zz/{secret}"));
        anonymous.request("GET", QUERY, &[("Authorization", &format!("Bearer {secret}"))], b"");
        anonymous.request("GET", QUERY, &[("Authorization", &format!("Basic  {secret}"))], b"");
        anonymous.request("GET", QUERY, &[("Authorization", secret), ("X-Api-Key", secret)], b"");
        anonymous.request("GET", QUERY, &[("Content-Length", secret)], b"");
        anonymous.request(secret, QUERY, &[], b"");
        root.get(&format!("/api/keys/{secret}"));
        root.post("/api/keys", &format!("{{\"name\": \"{secret}\", \"kind\": \"nonsense\"}}"));
        root.post("/api/keys", &format!("{{\"{secret}\": 1}}"));
    }
    installation.upstream().answer_with("nonsense\r\n\r\n");
    root.get("/open/x");
    let (text, _) = logged(served);
    check_tells_no_secret(&text, &[root.secret(), key.secret(), deleted.secret()]);
}

#[test]
fn hostile_text_stays_on_one_line_of_the_log() {
    let installation = Installation::with(|setup| setup.option("log", "access = true"));
    let (served, root) = served(&installation);
    let body = serde_json::json!({"name": "\u{202e}\u{1f512} \"quoted\" \\ {} %s ${jndi:x}", "kind": "telemetry"});
    root.create_from(&body);
    served.anonymous().request("G\"ET", QUERY, &[], b"");
    served.anonymous().request("GET", QUERY, &[("User-Agent", "\"}{\\ \u{202e}")], b"");
    let (text, events) = logged(served);
    assert!(!text.contains('\u{202e}'), "{text}");
    assert!(events.len() > 2);
}

/// What breaks lines, moves the cursor, turns the direction of writing, ends a JSON string, or is a command to somebody.
const HOSTILE: [&str; 12] = [
    "\u{1b}[2J\u{1b}]0;title\u{7}",
    "a\rb",
    "\u{9b}31m",
    "\u{202e}\u{2066}\u{200b}\u{feff}",
    "\u{2028}\u{2029}\u{85}",
    "\"} ] , {",
    "\\ \\n \\u0000",
    "%s%n%x",
    "${jndi:ldap://127.0.0.1/a} ${env:PATH} {{7*7}}",
    "%0d%0aINFO forged",
    "'; DROP TABLE keys; --",
    "\u{7f}\u{80}\u{9f}",
];

#[test]
fn nothing_that_a_client_chooses_breaks_a_line_of_the_log() {
    for format in ["json", "text"] {
        let installation =
            Installation::with(|setup| setup.option("log", "access = true").option("log", r#"level = "debug""#));
        let (served, root) = served(&installation);
        installation.rewrite(|setup| {
            setup
                .option("log", "access = true")
                .option("log", r#"level = "debug""#)
                .option("log", &format!("format = {format:?}"))
        });
        let mut served = served;
        served.process.signal("HUP");
        served.process.wait_for(|line| line.contains("configuration reloaded"));
        let before = served.process.stderr().len();
        let mut calls = 0;
        for hostile in HOSTILE {
            let body = serde_json::json!({"name": format!("a{hostile}b"), "kind": "telemetry"}).to_string();
            root.post("/api/keys", &body);
            for bytes in [
                format!("GET /open/{hostile} HTTP/1.1\r\nHost: t\r\n\r\n"),
                format!("GET /open/x?{hostile} HTTP/1.1\r\nHost: t\r\n\r\n"),
                format!("G{hostile}T /open/x HTTP/1.1\r\nHost: t\r\n\r\n"),
                format!("GET /open/x HTTP/1.1\r\nHost: {hostile}\r\n\r\n"),
                format!("GET /open/x HTTP/1.1\r\nHost: t\r\nUser-Agent: {hostile}\r\n\r\n"),
                format!("GET /open/x HTTP/1.1\r\nHost: t\r\nX{hostile}: y\r\n\r\n"),
                format!("GET /open/x HTTP/1.1\r\nHost: t\r\nAuthorization: {hostile}\r\n\r\n"),
                format!(
                    "GET /open/x HTTP/1.1\r\nHost: t\r\nX-Request-Id: {hostile}\r\nX-Forwarded-For: {hostile}\r\n\r\n"
                ),
            ] {
                let mut wire = Wire::connect(served.public);
                wire.send(bytes).finish_sending();
                wire.read_to_end();
                calls += 1;
            }
        }
        served.process.signal("TERM");
        let exit = served.process.wait();
        assert_eq!(exit.code, Some(0));
        let lines: Vec<&str> = exit.stderr.lines().skip(before).collect();
        assert!(lines.len() >= calls, "{} lines of {calls} calls", lines.len());
        for line in lines {
            let deceives = |c: char| {
                c.is_control()
                    || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
            };
            assert!(!line.chars().any(deceives), "{line:?}");
            match format {
                "json" => assert!(
                    serde_json::from_str::<serde_json::Value>(line).is_ok_and(|event| event.is_object()),
                    "{line}"
                ),
                // A time, and a level: nothing begins a line but an event.
                _ => assert!(line.starts_with("20") && line.as_bytes()[10] == b'T' && line.contains("Z "), "{line}"),
            }
        }
    }
}
