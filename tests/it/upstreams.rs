//! Upstreams with several targets: who gets a request, what becomes of it when a target fails, and who has to wait.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    Caller, DEADLINE, Gate, Installation, Reply, Setup, Upstream, Vacant, Wire, check, check_problem,
};

const QUERY: &str = "/api/v1/query";
const READY: &str = "/-/ready";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

fn gate(targets: &[&Upstream], change: impl FnOnce(Setup) -> Setup) -> Gate {
    Gate::with(|setup| change(setup.targets(targets.iter().copied())))
}

/// The sample of a target's family, as the metrics name it.
fn of_target(family: &str, target: &Upstream) -> String {
    format!("portcullis_target_{family}{{upstream=\"main\",target=\"{}\"}}", target.url())
}

fn retries(gate: &Gate, outcome: &str) -> f64 {
    gate.metric(&format!("portcullis_upstream_retries_total{{upstream=\"main\",outcome=\"{outcome}\"}}"))
}

const QUEUE: &str = "portcullis_upstream_queue_length{upstream=\"main\"}";

/// A GET whose response is not waited for.
fn begin(gate: &Gate, reader: &Caller, target: &str) -> Wire {
    let mut wire = gate.raw();
    wire.send(reader.render("GET", target, &[], b""));
    wire
}

#[track_caller]
fn check_all(wires: &mut [Wire], status: u16) {
    for wire in wires {
        check(&wire.read_response(), status);
    }
}

#[track_caller]
fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::yield_now();
    }
}

// Who gets a request.

#[test]
fn requests_are_spread_over_all_targets() {
    let targets = [Upstream::start(), Upstream::start(), Upstream::start()];
    let gate = gate(&targets.each_ref(), |setup| setup);
    let reader = gate.key(&["monitor:read"]).keep_alive();
    for _ in 0..60 {
        check(&reader.get(QUERY), 200);
    }
    let seen = targets.each_ref().map(|target| target.requests().len());
    assert_eq!(seen.iter().sum::<usize>(), 60);
    // A third each, within what chance does not do once in a million runs.
    assert!(seen.iter().all(|seen| *seen >= 3), "{seen:?}");
    for (target, seen) in targets.iter().zip(seen) {
        assert_eq!(gate.metric(&of_target("requests_total", target)), seen as f64);
    }
}

#[test]
fn a_request_goes_to_the_target_that_has_fewer_in_flight() {
    let targets = [Upstream::start(), Upstream::start()];
    targets.iter().for_each(Upstream::hold);
    let gate = gate(&targets.each_ref(), |setup| setup);
    let reader = gate.key(&["monitor:read"]);
    let arrived = || targets.iter().map(|target| target.requests().len()).sum::<usize>();
    let mut wires = Vec::new();
    for count in 1..=10 {
        wires.push(begin(&gate, &reader, QUERY));
        wait_until(|| arrived() == count);
    }
    for target in &targets {
        assert_eq!(target.requests().len(), 5);
        gate.wait_for_metric(&of_target("requests_in_flight", target), 5.0);
        target.release();
    }
    check_all(&mut wires, 200);
    for target in &targets {
        gate.wait_for_metric(&of_target("requests_in_flight", target), 0.0);
    }
}

#[test]
fn the_first_available_target_gets_all_requests() {
    let targets = [Upstream::start(), Upstream::start()];
    let gate = gate(&targets.each_ref(), |setup| setup.upstream(r#"balance = "first_available""#));
    let reader = gate.key(&["monitor:read"]);
    for _ in 0..10 {
        check(&reader.get(QUERY), 200);
    }
    assert_eq!((targets[0].requests().len(), targets[1].requests().len()), (10, 0));
}

#[test]
fn a_request_names_the_host_that_its_client_named_at_every_target() {
    let targets = [Upstream::start(), Upstream::start()];
    let gate = gate(&targets.each_ref(), |setup| setup.upstream(r#"balance = "first_available""#));
    targets[0].reply(Reply::default().reset());
    check(&gate.key(&["monitor:read"]).get(QUERY), 200);
    assert_eq!(targets[1].last().header("host"), targets[0].last().header("host"));
}

// Requests that are sent once more.

/// A gate whose first target is not there.
fn half_dead(dead: &Vacant, up: &Upstream) -> Gate {
    Gate::with(|setup| {
        setup
            .upstream_urls([dead.url(), up.url()])
            .upstream(r#"balance = "first_available""#)
            .upstream(r#"eject.failures = "off""#)
    })
}

#[test]
fn a_request_that_no_target_took_goes_to_another_one_whatever_its_method() {
    let (dead, up) = (Vacant::new(), Upstream::start());
    let gate = half_dead(&dead, &up);
    let reader = gate.key(&["monitor:read"]);
    let body = "x".repeat(100_000);
    for _ in 0..30 {
        assert_eq!(check(&reader.post(QUERY, &body), 200).text(), body);
    }
    assert_eq!(up.requests().len(), 30);
    assert_eq!(retries(&gate, "answered"), 30.0);
}

#[test]
fn a_get_that_was_reset_before_its_response_is_sent_once_more() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]).keep_alive();
    check(&reader.get(QUERY), 200);
    // On a pooled connection, as an upstream does that gives up an idle one just then.
    gate.upstream().reply(Reply::default().close());
    check(&reader.get(QUERY), 200);
    gate.upstream().reply(Reply::default().reset());
    check(&reader.get("/api/v1/query?once=more"), 200);
    assert_eq!(gate.upstream().requests().len(), 5);
    assert_eq!(gate.upstream().requests()[3].raw, gate.upstream().requests()[4].raw);
    assert_eq!(retries(&gate, "answered"), 2.0);
}

#[test]
fn a_request_that_may_have_been_acted_on_is_never_sent_twice() {
    let gate = Gate::with(|setup| setup.route("ANY /thing", r#""monitor:read""#));
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().reply_always(Reply::default().reset());
    for (method, body) in [("POST", ""), ("POST", "body"), ("PATCH", "body"), ("PUT", "body"), ("DELETE", "body")] {
        gate.upstream().forget();
        check_problem(&reader.request(method, "/thing", &[], body.as_bytes()), 502, "upstream_unreachable");
        assert_eq!(gate.upstream().requests().len(), 1, "{method} {body:?}");
    }
    for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
        gate.upstream().forget();
        check(&reader.request(method, "/thing", &[], b""), 502);
        assert_eq!(gate.upstream().requests().len(), 2, "{method}");
    }
}

#[test]
fn a_request_is_not_repeated_once_a_byte_of_its_response_came() {
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    for begun in ["H", "HTTP/1.1 200 OK\r\nContent-", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        gate.upstream().forget();
        gate.upstream().reply(Reply::bytes(begun).close());
        check_problem(&reader.get(QUERY), 502, "upstream_invalid");
        assert_eq!(gate.upstream().requests().len(), 1, "{begun:?}");
    }
}

#[test]
fn a_reset_request_is_repeated_at_another_target() {
    let targets = [Upstream::start(), Upstream::start()];
    let gate = gate(&targets.each_ref(), |setup| setup.upstream(r#"balance = "first_available""#));
    targets[0].reply_always(Reply::default().reset());
    let reader = gate.key(&["monitor:read"]);
    for _ in 0..3 {
        check(&reader.get(QUERY), 200);
    }
    assert_eq!((targets[0].requests().len(), targets[1].requests().len()), (3, 3));
}

#[test]
fn nothing_is_repeated_where_one_attempt_is_allowed() {
    let (dead, up) = (Vacant::new(), Upstream::start());
    let gate = Gate::with(|setup| {
        setup
            .upstream_urls([dead.url(), up.url()])
            .upstream(r#"balance = "first_available""#)
            .upstream("retry.attempts = 1")
    });
    check_problem(&gate.key(&["monitor:read"]).get(QUERY), 502, "upstream_unreachable");
    assert_eq!(up.requests().len(), 0);
}

#[test]
fn an_upstream_in_trouble_is_asked_little_more_than_its_requests() {
    let gate = Gate::start();
    gate.upstream().reply_always(Reply::default().reset());
    let reader = gate.key(&["monitor:read"]).keep_alive();
    for _ in 0..100 {
        check(&reader.get(QUERY), 502);
    }
    let asked = gate.upstream().requests().len();
    // Ten that were saved, and a fifth of all.
    assert!((111..=130).contains(&asked), "{asked}");
    assert_eq!(retries(&gate, "failed"), (asked - 100) as f64);
    assert_eq!(retries(&gate, "over_budget"), (200 - asked) as f64);
}

// Active checks.

/// Options for checks that come to their verdict soon.
fn checked(setup: Setup) -> Setup {
    setup.upstream(
        r#"health = { path = "/-/ready", interval = "10ms", timeout = "10s", healthy_after = 2, unhealthy_after = 2 }"#,
    )
}

#[test]
fn a_target_that_fails_its_checks_gets_no_requests_until_it_passes_them_again() {
    let targets = [Upstream::start(), Upstream::start()];
    let gate = gate(&targets.each_ref(), checked);
    let reader = gate.key(&["monitor:read"]).keep_alive();
    let healthy = of_target("healthy", &targets[1]);
    assert_eq!(gate.metric(&healthy), 1.0);

    targets[1].reply_on(READY, Reply::bytes(UNAVAILABLE));
    gate.wait_for_metric(&healthy, 0.0);
    let before = targets[1].requests_for(QUERY);
    for _ in 0..20 {
        check(&reader.get(QUERY), 200);
    }
    assert_eq!((targets[0].requests_for(QUERY), targets[1].requests_for(QUERY) - before), (20, 0));

    targets[1].reply_on(READY, Reply::bytes(OK));
    gate.wait_for_metric(&healthy, 1.0);
    for _ in 0..20 {
        check(&reader.get(QUERY), 200);
    }
    assert!(targets[1].requests_for(QUERY) > before);
}

#[test]
fn while_no_target_passes_its_checks_requests_fail_at_once() {
    let gate = Gate::with(checked);
    gate.upstream().reply_on(READY, Reply::bytes(UNAVAILABLE));
    gate.wait_for_metric(&of_target("healthy", gate.upstream()), 0.0);
    let answer = gate.key(&["monitor:read"]).get(QUERY);
    check_problem(&answer, 503, "upstream_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(gate.upstream().requests_for(QUERY), 0);
}

#[test]
fn a_check_that_gets_no_answer_fails() {
    let gate = Gate::with(|setup| {
        setup.upstream(r#"health = { path = "/-/ready", interval = "10ms", timeout = "10ms", unhealthy_after = 1 }"#)
    });
    gate.upstream().reply_on(READY, Reply::default().hold());
    gate.wait_for_metric(&of_target("healthy", gate.upstream()), 0.0);
}

#[test]
fn a_check_passes_by_the_statuses_that_are_expected() {
    let gate = Gate::with(|setup| {
        setup.upstream(
            r#"health = { path = "/-/ready?full=1", interval = "10ms", unhealthy_after = 1, expect = [429] }"#,
        )
    });
    gate.wait_for_metric(&of_target("healthy", gate.upstream()), 0.0);
    gate.upstream().reply_on(READY, Reply::bytes("HTTP/1.1 429 Busy\r\nContent-Length: 0\r\n\r\n"));
    gate.wait_for_metric(&of_target("healthy", gate.upstream()), 1.0);
    assert_eq!(gate.upstream().last().target, "/-/ready?full=1");
    assert_eq!(gate.upstream().last().header("host"), Some(gate.upstream().address().to_string().as_str()));
}

// Targets that fail their requests.

#[test]
fn a_target_that_fails_its_requests_is_left_out() {
    let targets = [Upstream::start(), Upstream::start()];
    let gate =
        gate(&targets.each_ref(), |setup| setup.upstream(r#"eject = { failures = 2, time = "1h", time_max = "1h" }"#));
    targets[1].reply_always(Reply::default().reset());
    let reader = gate.key(&["monitor:read"]).keep_alive();
    let ejected = of_target("ejected", &targets[1]);
    wait_until(|| {
        check(&reader.get(QUERY), 200);
        gate.metric(&ejected) == 1.0
    });
    assert_eq!(targets[1].requests().len(), 2);
    for _ in 0..20 {
        check(&reader.post(QUERY, "{}"), 200);
    }
    assert_eq!(targets[1].requests().len(), 2);
    assert_eq!(gate.metric(&of_target("ejections_total", &targets[1])), 1.0);
}

#[test]
fn a_target_that_was_left_out_comes_back_once_a_request_to_it_succeeds() {
    let targets = [Upstream::start(), Upstream::start()];
    let gate = gate(&targets.each_ref(), |setup| {
        setup.upstream(r#"eject = { failures = 1, time = "10ms", time_max = "20ms" }"#)
    });
    targets[1].reply_always(Reply::default().reset());
    let reader = gate.key(&["monitor:read"]).keep_alive();
    let ejections = of_target("ejections_total", &targets[1]);
    wait_until(|| {
        check(&reader.get(QUERY), 200);
        gate.metric(&ejections) >= 3.0
    });
    targets[1].reply_always(Reply::echo());
    let ejected = of_target("ejected", &targets[1]);
    wait_until(|| {
        check(&reader.get(QUERY), 200);
        gate.metric(&ejected) == 0.0
    });
    let before = targets[1].requests().len();
    wait_until(|| {
        check(&reader.post(QUERY, "{}"), 200);
        targets[1].requests().len() > before
    });
}

#[test]
fn a_target_that_does_not_answer_in_time_is_left_out() {
    let targets = [Upstream::start(), Upstream::start()];
    let gate = gate(&targets.each_ref(), |setup| {
        setup
            .upstream(r#"balance = "first_available""#)
            .upstream(r#"response_timeout = "500ms""#)
            .upstream(r#"eject = { failures = 2, time = "1h", time_max = "1h" }"#)
    });
    targets[0].hold();
    let reader = gate.key(&["monitor:read"]);
    check_problem(&reader.post(QUERY, "{}"), 504, "upstream_timeout");
    check_problem(&reader.get(QUERY), 504, "upstream_timeout");
    check(&reader.get(QUERY), 200);
    assert_eq!(targets[0].requests().len(), 2);
}

#[test]
fn statuses_that_are_listed_count_as_failures_and_are_passed_on() {
    let targets = [Upstream::start(), Upstream::start()];
    let gate = gate(&targets.each_ref(), |setup| {
        setup
            .upstream(r#"balance = "first_available""#)
            .upstream(r#"eject = { failures = 2, time = "1h", time_max = "1h", statuses = [503] }"#)
    });
    targets[0].reply_always(Reply::bytes(UNAVAILABLE));
    let reader = gate.key(&["monitor:read"]);
    let statuses: Vec<u16> = (0..4).map(|_| reader.get(QUERY).status).collect();
    assert_eq!(statuses, [503, 503, 200, 200]);
}

#[test]
fn the_last_target_that_takes_connections_is_never_left_out() {
    let (dead, up) = (Vacant::new(), Upstream::start());
    up.reply_always(Reply::default().reset());
    let gate = Gate::with(|setup| {
        setup
            .upstream_urls([dead.url(), up.url()])
            .upstream(r#"eject = { failures = 1, time = "1h", time_max = "1h" }"#)
    });
    let reader = gate.key(&["monitor:read"]);
    for _ in 0..10 {
        check_problem(&reader.post(QUERY, "{}"), 502, "upstream_unreachable");
    }
    assert!(up.requests().len() >= 9, "{}", up.requests().len());
}

#[test]
fn an_only_target_that_takes_connections_is_never_left_out() {
    let gate = Gate::with(|setup| setup.upstream("eject.failures = 1"));
    gate.upstream().reply_always(Reply::default().reset());
    let reader = gate.key(&["monitor:read"]);
    for _ in 0..5 {
        check_problem(&reader.post(QUERY, "{}"), 502, "upstream_unreachable");
    }
    assert_eq!(gate.upstream().requests().len(), 5);
    assert_eq!(gate.metric(&of_target("ejections_total", gate.upstream())), 0.0);
}

#[test]
fn a_client_that_breaks_off_its_uploads_says_nothing_against_a_target() {
    let targets = [Upstream::start(), Upstream::start()];
    let gate = gate(&targets.each_ref(), |setup| setup.upstream("eject.failures = 1"));
    let reader = gate.key(&["monitor:read"]);
    for _ in 0..6 {
        let mut wire = gate.raw();
        wire.send(reader.render("POST", QUERY, &[("Transfer-Encoding", "chunked")], b"4\r\nhalf\r\n"));
        wait_until(|| targets.iter().any(|target| target.raw().ends_with(b"half\r\n")));
        wire.send("nonsense\r\n");
        check_problem(&wire.read_response(), 400, "body_broken");
        targets.iter().for_each(Upstream::forget);
    }
    for target in &targets {
        assert_eq!(gate.metric(&of_target("ejections_total", target)), 0.0);
        let resets =
            format!("portcullis_target_failures_total{{upstream=\"main\",target=\"{}\",kind=\"reset\"}}", target.url());
        assert_eq!(gate.metric(&resets), 0.0);
    }
}

/// The first request that gets through to an upstream, which holds it.
#[track_caller]
fn begin_trial(gate: &Gate, reader: &Caller, up: &Upstream) -> Wire {
    let deadline = Instant::now() + DEADLINE;
    let mut wire = begin(gate, reader, QUERY);
    while up.requests().is_empty() {
        assert!(Instant::now() < deadline, "every request is refused");
        if wire.stirs_within(Duration::from_millis(1)) {
            check_problem(&wire.read_response(), 503, "upstream_unavailable");
            wire = begin(gate, reader, QUERY);
        }
    }
    wire
}

#[test]
fn when_nothing_takes_connections_requests_fail_at_once_until_one_of_them_gets_through() {
    let vacant = Vacant::new();
    let gate = Gate::with(|setup| {
        setup.upstream_url(&vacant.url()).upstream(r#"eject = { failures = 2, time = "200ms", time_max = "200ms" }"#)
    });
    let reader = gate.key(&["monitor:read"]);
    check_problem(&reader.get(QUERY), 502, "upstream_unreachable");
    check_problem(&reader.get(QUERY), 502, "upstream_unreachable");
    let answer = reader.get(QUERY);
    check_problem(&answer, 503, "upstream_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));

    let up = vacant.occupy();
    up.hold();
    let mut trial = begin_trial(&gate, &reader, &up);
    // It may be a long poll: that it is there is all that the others wait for.
    let mut other = begin(&gate, &reader, QUERY);
    up.wait_for_requests(2);
    up.release();
    check_all(std::slice::from_mut(&mut other), 200);
    check(&trial.read_response(), 200);
    check(&reader.get(QUERY), 200);
    assert_eq!(gate.metric(&of_target("ejected", &up)), 0.0);
}

#[test]
fn a_trial_whose_client_leaves_gives_way_to_the_next() {
    let vacant = Vacant::new();
    let gate = Gate::with(|setup| {
        setup.upstream_url(&vacant.url()).upstream(r#"eject = { failures = 1, time = "1ms", time_max = "1ms" }"#)
    });
    let reader = gate.key(&["monitor:read"]);
    check_problem(&reader.get(QUERY), 502, "upstream_unreachable");
    let up = vacant.occupy();
    up.hold();
    let trial = begin_trial(&gate, &reader, &up);
    drop(trial);
    up.wait_for_closed(1);
    up.release();
    wait_until(|| reader.get(QUERY).status == 200);
}

// A limit on the requests at a time.

#[test]
fn one_request_more_than_may_run_is_503_at_once() {
    let gate = Gate::with(|setup| setup.upstream("concurrency = 2").upstream(r#"queue = "off""#));
    let reader = gate.key(&["monitor:read"]);
    // A request takes its place up to the last byte of its response.
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").hold().then("k"));
    let mut first = begin(&gate, &reader, QUERY);
    check(&first.read_head(), 200);
    gate.upstream().hold();
    let mut second = begin(&gate, &reader, QUERY);
    gate.upstream().wait_for_requests(2);
    let answer = reader.get(QUERY);
    check_problem(&answer, 503, "upstream_busy");
    assert_eq!(answer.header("retry-after"), Some("1"));
    gate.upstream().release();
    assert_eq!(first.read_exactly(2), b"ok");
    check(&second.read_response(), 200);
    check(&reader.get(QUERY), 200);
    assert_eq!(gate.upstream().requests().len(), 3);
}

#[test]
fn requests_beyond_the_limit_wait_their_turn_in_order() {
    let gate =
        Gate::with(|setup| setup.upstream("concurrency = 1").upstream("queue = 3").upstream(r#"queue_timeout = "1h""#));
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().hold();
    let mut wires = Vec::new();
    for number in 0..4 {
        wires.push(begin(&gate, &reader, &format!("/api/v1/query?{number}")));
        gate.upstream().wait_for_requests(1);
        gate.wait_for_metric(QUEUE, f64::from(number));
    }
    check_problem(&reader.get(QUERY), 503, "upstream_busy");
    gate.upstream().release();
    check_all(&mut wires, 200);
    let order: Vec<String> = gate.upstream().requests().into_iter().map(|request| request.target).collect();
    assert_eq!(order, [0, 1, 2, 3].map(|number| format!("/api/v1/query?{number}")));
    gate.wait_for_metric(QUEUE, 0.0);
}

#[test]
fn a_request_that_waits_too_long_for_its_turn_is_503() {
    let gate = Gate::with(|setup| setup.upstream("concurrency = 1").upstream(r#"queue_timeout = "50ms""#));
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().hold();
    let mut first = begin(&gate, &reader, QUERY);
    gate.upstream().wait_for_requests(1);
    check_problem(&reader.get(QUERY), 503, "upstream_busy");
    gate.upstream().release();
    check(&first.read_response(), 200);
    let failures = |kind| format!("portcullis_upstream_failures_total{{upstream=\"main\",kind=\"{kind}\"}}");
    assert_eq!(gate.metric(&failures("queue_timeout")), 1.0);
}

#[test]
fn the_wait_for_a_turn_is_no_time_that_the_upstream_owes() {
    let gate = Gate::with(|setup| {
        let setup = setup.upstream("concurrency = 1").upstream(r#"queue_timeout = "1m""#);
        setup.upstream(r#"response_timeout = "300ms""#)
    });
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().reply(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").hold().then("hello"));
    let mut first = begin(&gate, &reader, QUERY);
    check(&first.read_head(), 200);
    let mut second = begin(&gate, &reader, QUERY);
    gate.wait_for_metric("portcullis_upstream_queue_length{upstream=\"main\"}", 1.0);
    assert!(!second.stirs_within(Duration::from_millis(900)), "given up in the queue");
    gate.upstream().release();
    check(&second.read_response(), 200);
}

#[test]
fn a_client_that_leaves_the_queue_makes_room_and_its_request_is_never_sent() {
    let gate =
        Gate::with(|setup| setup.upstream("concurrency = 1").upstream("queue = 1").upstream(r#"queue_timeout = "1h""#));
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().hold();
    let mut first = begin(&gate, &reader, "/api/v1/query?first");
    gate.upstream().wait_for_requests(1);
    let leaving = begin(&gate, &reader, "/api/v1/query?leaving");
    gate.wait_for_metric(QUEUE, 1.0);
    drop(leaving);
    gate.wait_for_metric(QUEUE, 0.0);
    let mut last = begin(&gate, &reader, "/api/v1/query?last");
    gate.wait_for_metric(QUEUE, 1.0);
    gate.upstream().release();
    check(&first.read_response(), 200);
    check(&last.read_response(), 200);
    let seen: Vec<String> = gate.upstream().requests().into_iter().map(|request| request.target).collect();
    assert_eq!(seen, ["/api/v1/query?first", "/api/v1/query?last"]);
}

#[test]
fn the_places_of_an_upstream_are_shared_by_all_workers() {
    let gate = Gate::with(|setup| {
        setup.option("listen", "workers = 3").upstream("concurrency = 2").upstream(r#"queue_timeout = "1h""#)
    });
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().hold();
    let mut wires: Vec<Wire> = (0..12).map(|_| begin(&gate, &reader, QUERY)).collect();
    gate.wait_for_metric(QUEUE, 10.0);
    gate.upstream().wait_for_requests(2);
    assert_eq!(gate.upstream().requests().len(), 2);
    gate.upstream().release();
    check_all(&mut wires, 200);
    assert_eq!(gate.upstream().requests().len(), 12);
}

// Names.

#[test]
fn a_name_is_looked_up_and_each_of_its_addresses_is_tried() {
    // Machines differ in whether this name means 127.0.0.1, ::1 or both; the upstream listens on one of them.
    let up = Upstream::start();
    let gate = Gate::with(|setup| setup.upstream_url(&format!("http://localhost:{}", up.address().port())));
    check(&gate.key(&["monitor:read"]).get(QUERY), 200);
}

#[test]
fn a_name_whose_address_changes_is_followed_and_one_that_is_lost_is_kept() {
    let unshared = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).output();
    if !unshared.is_ok_and(|unshared| unshared.status.success()) {
        println!("SKIPPED: mount namespaces cannot be made here");
        return;
    }
    let old = Upstream::start_at("127.0.0.2:0".parse().expect("an address"));
    let new = Upstream::start_at(SocketAddr::new([127, 0, 0, 3].into(), old.address().port()));
    let installation = Installation::with(|setup| {
        let url = format!("http://tsdb.test:{}", old.address().port());
        setup.upstream_url(&url).upstream(r#"resolve_interval = "10ms""#)
    });
    let root = installation.init();
    let hosts = installation.folder().join("hosts");
    let name = |text: &str| std::fs::write(&hosts, text).expect("writable");
    name("127.0.0.2 tsdb.test\n");
    let served = installation.serve_with_hosts(&hosts);
    let caller = served.caller(&root);
    check(&caller.get(QUERY), 200);
    assert_eq!((old.requests().len(), new.requests().len()), (1, 0));

    // The old one goes on to listen, and its connection is pooled.
    name("127.0.0.3 tsdb.test\n");
    wait_until(|| check(&caller.get(QUERY), 200).complete && !new.requests().is_empty());
    let before = old.requests().len();
    name("127.0.0.3 other.test\n");
    for _ in 0..5 {
        check(&caller.get(QUERY), 200);
    }
    assert_eq!(old.requests().len(), before);
}

// Reloads.

#[test]
fn a_reload_keeps_an_unchanged_upstream_with_its_connections() {
    let mut gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    check(&reader.get(QUERY), 200);
    gate.reload(|setup| setup.route("GET /other", r#""public""#));
    check(&gate.anonymous().get("/other"), 200);
    assert_eq!(gate.upstream().connections(), 1);
}

#[test]
fn a_reload_sends_no_request_to_a_target_that_was_found_dead() {
    let targets = [Upstream::start(), Upstream::start()];
    let mut gate = gate(&targets.each_ref(), checked);
    let reader = gate.key(&["monitor:read"]).keep_alive();
    targets[1].reply_on(READY, Reply::bytes(UNAVAILABLE));
    gate.wait_for_metric(&of_target("healthy", &targets[1]), 0.0);
    let before = targets[1].requests_for(QUERY);
    gate.reload(|setup| setup.upstream(r#"health = { path = "/-/ready", unhealthy_after = 1000000 }"#));
    assert_eq!(gate.metric(&of_target("healthy", &targets[1])), 0.0);
    for _ in 0..20 {
        check(&reader.get(QUERY), 200);
    }
    assert_eq!(targets[1].requests_for(QUERY), before);

    // Without checks there is nobody to find it well again.
    gate.reload(|setup| setup.upstream("health = {}"));
    wait_until(|| {
        check(&reader.get(QUERY), 200);
        targets[1].requests_for(QUERY) > before
    });
}

#[test]
fn a_request_keeps_its_place_over_a_reload() {
    let mut gate = Gate::with(|setup| setup.upstream("concurrency = 1").upstream(r#"queue = "off""#));
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().hold();
    let mut running = begin(&gate, &reader, QUERY);
    gate.upstream().wait_for_requests(1);
    gate.reload(|setup| setup.upstream("idle_max = 7"));
    check_problem(&reader.get(QUERY), 503, "upstream_busy");
    gate.upstream().release();
    check(&running.read_response(), 200);
    check(&reader.get(QUERY), 200);
}

#[test]
fn a_target_that_a_reload_removes_is_checked_no_more_and_has_no_metrics() {
    let targets = [Upstream::start(), Upstream::start()];
    let mut gate = gate(&targets.each_ref(), checked);
    // A request that is still under way keeps none of that.
    targets.iter().for_each(|target| target.reply_on(QUERY, Reply::default().hold().then(OK)));
    let reader = gate.key(&["monitor:read"]);
    let mut running = begin(&gate, &reader, QUERY);
    wait_until(|| targets.iter().any(|target| target.requests_for(QUERY) == 1));
    targets.iter().for_each(|target| target.wait_for_requests(3));
    gate.reload(|setup| setup.targets([&targets[0]]));
    let (stays, gone) = (targets[0].requests().len(), targets[1].requests().len());
    targets[0].wait_for_requests(stays + 20);
    // One may have been under way.
    assert!(targets[1].requests().len() <= gone + 1);
    targets.iter().for_each(Upstream::release);
    check(&running.read_response(), 200);
    drop(running);
    wait_until(|| !gate.ops_get("/metrics").text().contains(&targets[1].url()));
    let metrics = gate.ops_get("/metrics").text();
    assert!(metrics.contains(&targets[0].url()), "{metrics}");
}

#[test]
fn reloads_leave_no_checks_behind() {
    let (changed, unchanged) = (Upstream::start(), Upstream::start());
    let other = format!(r#"url = "{}""#, unchanged.url());
    let mut gate = gate(&[&changed], |setup| {
        let health = r#"health = { path = "/-/ready", interval = "10ms" }"#;
        checked(setup).option("upstream.other", &other).option("upstream.other", health)
    });
    for number in 1..=100 {
        gate.reload(|setup| setup.upstream(&format!("idle_max = {number}")));
    }
    let (of_changed, of_unchanged) = (changed.requests().len(), unchanged.requests().len());
    unchanged.wait_for_requests(of_unchanged + 20);
    let checks = changed.requests().len() - of_changed;
    // A check for each reload would make two thousand.
    assert!(checks < 500, "{checks}");
}
