//! Limits: of a key, of a route, of an address that keeps failing; and what a client is told when it is beyond one.

use crate::harness::{Answer, Caller, Gate, check, check_problem};

const QUERY: &str = "/api/v1/query";

fn unknown_key() -> String {
    portcullis::key::KeySecret::generate().expect("randomness").expose().to_owned()
}

/// Asserts a limit's refusal: the status, the code, and a wait of at least one second.
#[track_caller]
fn check_limited(answer: &Answer, status: u16, code: &str) {
    check_problem(answer, status, code);
    let wait: u64 = answer.header("retry-after").expect("Retry-After").parse().expect("whole seconds");
    assert!(wait >= 1, "{answer:?}");
}

#[test]
fn nothing_is_limited_unless_a_limit_is_set() {
    let gate = Gate::start();
    let kept = gate.key(&["monitor:read"]).keep_alive();
    for _ in 0..500 {
        check(&kept.get(QUERY), 200);
    }
}

#[test]
fn a_key_beyond_its_burst_is_told_to_wait() {
    let gate = Gate::with(|setup| setup.option("limits", r#"key = { rate = "1/h", burst = 3 }"#));
    let reader = gate.key(&["monitor:read"]);
    for _ in 0..3 {
        check(&reader.get(QUERY), 200);
    }
    let answer = reader.get(QUERY);
    check_limited(&answer, 429, "rate_limited");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(gate.upstream().requests().len(), 3);
}

#[test]
fn each_key_has_a_limit_of_its_own() {
    let gate = Gate::with(|setup| setup.option("limits", r#"key = { rate = "1/h", burst = 2 }"#));
    // The root key makes one key only: its own limit counts too.
    let (one, other) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
    for key in [&one, &other] {
        check(&key.get(QUERY), 200);
        check(&key.get(QUERY), 200);
        check(&key.get(QUERY), 429);
    }
}

#[test]
fn a_changed_key_does_not_get_a_new_burst() {
    let gate = Gate::with(|setup| setup.option("limits", r#"key = { rate = "1/h", burst = 4 }"#));
    let reader = gate.key(&["monitor:read"]);
    for _ in 0..4 {
        check(&reader.get(QUERY), 200);
    }
    check(&reader.get(QUERY), 429);
    check(&gate.root().put(&format!("/api/keys/{}", reader.id()), r#"{"name": "renamed"}"#), 200);
    check(&reader.get(QUERY), 429);
}

#[test]
fn calls_of_the_key_api_count_against_the_key_too() {
    let gate = Gate::with(|setup| setup.option("limits", r#"key = { rate = "1/h", burst = 2 }"#));
    let root = gate.root();
    check(&root.get("/api/keys"), 200);
    check(&root.get("/api/keys"), 200);
    check_limited(&root.get("/api/keys"), 429, "rate_limited");
}

#[test]
fn a_route_has_one_rate_for_all_keys() {
    let gate =
        Gate::with(|setup| setup.route("GET /dear", r#"{ require = "authenticated", rate = "1/h", burst = 2 }"#));
    let (one, other) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
    check(&one.get("/dear"), 200);
    check(&other.get("/dear"), 200);
    check_limited(&one.get("/dear"), 429, "route_rate_limited");
    check_limited(&other.get("/dear"), 429, "route_rate_limited");
    check(&one.get(QUERY), 200);
}

#[test]
fn a_public_route_can_have_a_rate() {
    let gate = Gate::with(|setup| setup.route("GET /open-door", r#"{ require = "public", rate = "1/h", burst = 1 }"#));
    check(&gate.anonymous().get("/open-door"), 200);
    check_limited(&gate.anonymous().get("/open-door"), 429, "route_rate_limited");
}

#[test]
fn a_route_chooses_503_for_agents_that_drop_data_on_429() {
    let gate = Gate::with(|setup| {
        let needs = r#"{ require = "telemetry:write", rate = "1/h", burst = 1, limit_status = 503 }"#;
        setup.route("POST /push", needs).option("limits", r#"key = { rate = "1/h", burst = 3 }"#)
    });
    let (agent, other) = (gate.telemetry_key(), gate.key(&["telemetry:write"]));
    check(&agent.post("/push", "x"), 200);
    check_limited(&agent.post("/push", "x"), 503, "route_rate_limited");
    check_limited(&other.post("/push", "x"), 503, "route_rate_limited");
    for _ in 0..2 {
        agent.post("/push", "x");
    }
    check_limited(&agent.post("/push", "x"), 503, "rate_limited");
}

#[test]
fn the_strictest_limit_wins() {
    let gate = Gate::with(|setup| {
        setup
            .option("limits", r#"key = { rate = "1/h", burst = 2 }"#)
            .route("GET /wide", r#"{ require = "authenticated", rate = "1/h", burst = 100 }"#)
            .route("GET /narrow", r#"{ require = "authenticated", rate = "1/h", burst = 1 }"#)
    });
    let key = gate.key(&["monitor:read"]);
    check(&key.get("/narrow"), 200);
    check_limited(&key.get("/narrow"), 429, "route_rate_limited");
    let key = gate.key(&["monitor:read"]);
    check(&key.get("/wide"), 200);
    check(&key.get("/wide"), 200);
    check_limited(&key.get("/wide"), 429, "rate_limited");
}

#[test]
fn a_key_runs_so_many_requests_at_a_time_and_no_more() {
    let gate = Gate::with(|setup| setup.option("limits", r#"key = { concurrency = 2 }"#));
    let (reader, other) = (gate.key(&["monitor:read"]), gate.key(&["monitor:read"]));
    gate.upstream().hold();
    let mut running: Vec<_> = (0..2)
        .map(|_| {
            let mut wire = gate.raw();
            wire.send(reader.render("GET", QUERY, &[], b""));
            wire
        })
        .collect();
    gate.upstream().wait_for_requests(2);
    check_limited(&reader.get(QUERY), 429, "concurrency_limited");
    gate.upstream().release();
    for wire in &mut running {
        check(&wire.read_response(), 200);
    }
    check(&other.get(QUERY), 200);
    check(&reader.get(QUERY), 200);
}

#[test]
fn a_client_that_leaves_gives_its_place_back() {
    let gate = Gate::with(|setup| setup.option("limits", r#"key = { concurrency = 1 }"#));
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().hold();
    let mut wire = gate.raw();
    wire.send(reader.render("GET", QUERY, &[], b""));
    gate.upstream().wait_for_requests(1);
    drop(wire);
    gate.upstream().wait_for_closed(1);
    gate.upstream().release();
    check(&reader.get(QUERY), 200);
}

/// A gate that lets an address fail twice, then blocks it for a long time.
fn strict_gate() -> Gate {
    Gate::with(|setup| setup.option("limits", r#"failures = { rate = "1/h", burst = 2 }"#))
}

/// Fails until the address is blocked.
#[track_caller]
fn block(gate: &Gate) {
    let statuses: Vec<u16> = (0..4).map(|_| gate.caller(&unknown_key()).get("/open/x").status).collect();
    assert!(statuses.starts_with(&[401, 401]) && statuses.ends_with(&[429]), "{statuses:?}");
}

#[test]
fn an_address_that_keeps_failing_is_blocked_with_whatever_key() {
    let gate = strict_gate();
    let reader = gate.key(&["monitor:read"]);
    block(&gate);
    check_limited(&reader.get(QUERY), 429, "too_many_failures");
    check_limited(&gate.root().get("/api/keys"), 429, "too_many_failures");
    check_limited(&gate.anonymous().get("/no/such/path"), 429, "too_many_failures");
    assert!(gate.upstream().requests().is_empty());
}

#[test]
fn a_blocked_address_costs_no_look_up() {
    let gate = strict_gate();
    block(&gate);
    let misses = |gate: &Gate| {
        gate.ops_get("/metrics")
            .text()
            .lines()
            .filter(|line| line.contains("cache"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = misses(&gate);
    assert!(!before.is_empty());
    for _ in 0..20 {
        check(&gate.caller(&unknown_key()).get("/open/x"), 429);
    }
    assert_eq!(misses(&gate), before);
}

#[test]
fn junk_counts_as_a_failure_and_a_missing_key_does_not() {
    let gate = strict_gate();
    for _ in 0..10 {
        check(&gate.anonymous().get("/open/x"), 401);
    }
    let statuses: Vec<u16> = (0..4).map(|_| gate.caller("junk").get("/open/x").status).collect();
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
}

#[test]
fn a_missing_scope_or_route_is_no_failed_authentication() {
    let gate = strict_gate();
    let key = gate.key(&["issue:read"]);
    for _ in 0..10 {
        check(&key.get(QUERY), 403);
        check(&key.get("/no/such/path"), 404);
    }
}

#[test]
fn public_routes_stay_open_to_a_blocked_address() {
    let gate = strict_gate();
    block(&gate);
    check(&gate.anonymous().get("/public/x"), 200);
}

#[test]
fn behind_a_trusted_proxy_it_is_the_client_that_is_blocked() {
    let gate = Gate::with(|setup| {
        setup
            .option("limits", r#"failures = { rate = "1/h", burst = 2 }"#)
            .option("forwarding", r#"trusted_proxies = ["127.0.0.1"]"#)
    });
    let reader = gate.key(&["monitor:read"]);
    let from =
        |caller: &Caller, client: &str| caller.request("GET", "/open/x", &[("X-Forwarded-For", client)], b"").status;
    for _ in 0..4 {
        from(&gate.caller(&unknown_key()), "203.0.113.7");
        from(&gate.caller(&unknown_key()), "2001:db8:1:2::7");
    }
    assert_eq!(from(&reader, "203.0.113.7"), 429);
    assert_eq!(from(&reader, "203.0.113.8"), 200);
    assert_eq!(from(&reader, "2001:db8:1:2:ffff::1"), 429, "an IPv6 client is its /64");
    assert_eq!(from(&reader, "2001:db8:1:3::7"), 200);
    assert_eq!(from(&reader, "9.9.9.9, 203.0.113.7"), 429, "the last untrusted hop counts");
}

#[test]
fn a_client_cannot_lend_its_failures_to_another_address() {
    let gate = strict_gate();
    for client in 1..=4 {
        let claimed = format!("203.0.113.{client}");
        gate.caller(&unknown_key()).request("GET", "/open/x", &[("X-Forwarded-For", &claimed)], b"");
    }
    check(&gate.anonymous().get("/open/x"), 429);
}
