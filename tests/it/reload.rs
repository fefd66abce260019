//! A new configuration for a gate that runs: what it changes, what it leaves alone, and that it costs nothing.

mod everything;
mod files;

use std::time::Instant;

use crate::harness::{
    Backend, Caller, DEADLINE, Installation, Load, Pace, Process, Served, ServiceManager, Setup, Wire, check,
    check_problem,
};

const QUERY: &str = "/api/v1/query";

/// How often the gate is made to reload under load; `PORTCULLIS_RELOADS` sets another number.
const RELOADS: usize = 200;

/// A gate that reloads when it is told to, and says when it is done.
struct Reloaded {
    installation: Installation,
    manager: ServiceManager,
    served: Served,
    root: Caller,
}

impl Reloaded {
    #[track_caller]
    fn start(change: impl FnOnce(Setup) -> Setup) -> Self {
        let installation = Installation::with(change);
        let secret = installation.init();
        let manager = ServiceManager::start();
        let served = installation.serve_under(&manager);
        manager.wait_for("READY=1");
        let root = served.caller(&secret);
        Self { installation, manager, served, root }
    }

    /// Rewrites the file and reloads it. `Err`: why it was not taken.
    #[track_caller]
    fn reload(&mut self, change: impl FnOnce(Setup) -> Setup) -> Result<(), String> {
        self.installation.rewrite(change);
        self.hang_up()
    }

    #[track_caller]
    fn hang_up(&mut self) -> Result<(), String> {
        let (failures, known) = (self.failures(), self.served.process.stderr().len());
        self.served.process.signal("HUP");
        self.manager.wait_for("RELOADING=1");
        let status = self.manager.wait_for("READY=1");
        if self.failures() == failures {
            assert!(status.contains("configuration reloaded"), "{status}");
            return Ok(());
        }
        assert!(status.contains("not reloaded"), "{status}");
        Err(self.served.process.wait_for_after(known, |line| line.contains("not reloaded")))
    }

    fn failures(&self) -> String {
        self.metric("portcullis_config_reloads_total{result=\"failure\"}")
    }

    #[track_caller]
    fn metric(&self, sample: &str) -> String {
        let text = self.served.ops_get("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{sample} is not in\n{text}")).to_owned()
    }
}

#[test]
fn new_limits_reach_keys_that_are_in_use_and_nobody_gets_a_fresh_burst() {
    let limited = |setup: Setup, key: &str| setup.option("limits", &format!("key = {key}"));
    let mut gate = Reloaded::start(|setup| setup);
    let reader = gate.root.create(&["monitor:read"]);
    for _ in 0..10 {
        check(&reader.get(QUERY), 200);
    }

    gate.reload(|setup| limited(setup, r#"{ rate = "1/h", burst = 2 }"#)).expect("a good file");
    check(&reader.get(QUERY), 200);
    check(&reader.get(QUERY), 200);
    check_problem(&reader.get(QUERY), 429, "rate_limited");

    gate.reload(|setup| limited(setup, r#"{ rate = "1/h", burst = 2 }"#).option("requests", "limit_status = 503"))
        .expect("a good file");
    check(&reader.get(QUERY), 503);

    gate.reload(|setup| setup).expect("a good file");
    for _ in 0..10 {
        check(&reader.get(QUERY), 200);
    }
}

#[test]
fn requests_in_flight_count_under_a_new_limit_of_concurrency() {
    let at_once = |setup: Setup, count: u32| setup.option("limits", &format!("key = {{ concurrency = {count} }}"));
    let mut gate = Reloaded::start(|setup| at_once(setup, 3));
    let reader = gate.root.create(&["monitor:read"]);
    gate.installation.upstream().hold();
    let mut held: Vec<Wire> = (0..2).map(|_| Wire::connect(gate.served.public)).collect();
    for wire in &mut held {
        wire.send(reader.render("GET", QUERY, &[], b""));
    }
    gate.installation.upstream().wait_for_requests(2);

    gate.reload(|setup| at_once(setup, 2)).expect("a good file");
    check_problem(&reader.get(QUERY), 429, "concurrency_limited");

    gate.installation.upstream().release();
    for wire in &mut held {
        check(&wire.read_response(), 200);
    }
    check(&reader.get(QUERY), 200);
}

#[test]
fn limits_of_routes_and_of_client_addresses_go_on_over_a_reload() {
    let dear = |setup: Setup| {
        setup
            .route("GET /dear", r#"{ require = "public", rate = "1/h", burst = 1 }"#)
            .option("limits", r#"failures = { rate = "1/h", burst = 2 }"#)
    };
    let mut gate = Reloaded::start(dear);
    let stranger = gate.served.caller("pcl_nonsense");
    check(&stranger.get("/dear"), 200);
    check(&stranger.get("/dear"), 429);
    check(&stranger.get(QUERY), 401);
    check(&stranger.get(QUERY), 401);
    check_problem(&stranger.get(QUERY), 429, "too_many_failures");

    gate.reload(|setup| dear(setup).route("GET /new", r#""public""#)).expect("a good file");

    check(&stranger.get("/new"), 200);
    check(&stranger.get("/dear"), 429);
    check(&stranger.get(QUERY), 429);

    gate.reload(|setup| setup.option("limits", r#"failures = { rate = "off" }"#)).expect("a good file");
    check(&stranger.get(QUERY), 401);
}

#[test]
fn an_upstream_that_stays_the_same_keeps_its_connections() {
    let mut gate = Reloaded::start(|setup| setup);
    check(&gate.root.get("/open/x"), 200);

    gate.reload(|setup| setup.route("GET /new", r#""authenticated""#)).expect("a good file");
    check(&gate.root.get("/new"), 200);
    assert_eq!(gate.installation.upstream().connections(), 1);

    gate.reload(|setup| setup.upstream("idle_max = 7")).expect("a good file");
    check(&gate.root.get("/open/x"), 200);
    assert_eq!(gate.installation.upstream().connections(), 2);
    gate.installation.upstream().wait_for_closed(1);
}

#[test]
fn a_request_that_has_begun_keeps_the_configuration_that_it_began_with() {
    let mut gate = Reloaded::start(|setup| setup);
    gate.installation.upstream().hold();
    let mut wire = Wire::connect(gate.served.public);
    wire.send(gate.root.render("GET", "/open/slow", &[], b""));
    gate.installation.upstream().wait_for_requests(1);

    gate.reload(|setup| setup.no_routes()).expect("a good file");
    gate.installation.upstream().release();

    check(&wire.read_response(), 200);
    check(&gate.root.get("/open/slow"), 404);
}

#[test]
fn new_connections_have_the_new_deadlines_and_the_new_room() {
    let mut gate = Reloaded::start(|setup| setup);
    let mut idle = Wire::connect(gate.served.public);
    idle.send(gate.root.keep_alive().render("GET", "/open/x", &[], b""));
    check(&idle.read_response(), 200);

    gate.reload(|setup| setup.option("client", r#"idle_timeout = "50ms""#).option("client", "connections_max = 1"))
        .expect("a good file");

    let queued = || gate.metric("portcullis_connections_queued_total");
    let mut waiting = Wire::connect(gate.served.public);
    waiting.send(gate.root.keep_alive().render("GET", "/open/y", &[], b""));
    let deadline = Instant::now() + DEADLINE;
    while queued() == "0" {
        assert!(Instant::now() < deadline, "there is room for one");
    }
    idle.send(gate.root.render("GET", "/open/x", &[], b""));
    check(&idle.read_response(), 200);
    check(&waiting.read_response(), 200);
    waiting.check_closed();

    gate.reload(|setup| setup).expect("a good file");
    let kept: Vec<Caller> = (0..3).map(|_| gate.root.keep_alive()).collect();
    for caller in &kept {
        check(&caller.get("/open/x"), 200);
    }
}

#[test]
fn the_log_changes_its_level_its_format_and_what_it_says_of_requests() {
    let mut gate = Reloaded::start(|setup| setup);
    check(&gate.root.get("/open/unseen"), 200);

    gate.reload(|setup| setup.option("log", "access = true").option("log", r#"format = "text""#)).expect("a good file");
    check(&gate.root.get("/open/seen"), 200);
    gate.served.process.wait_for(|line| line.contains("access: request") && !line.starts_with('{'));

    gate.reload(|setup| setup.option("log", r#"level = "error""#)).expect("a good file");
    gate.served.process.signal("TERM");
    let exit = gate.served.process.wait();
    let access = exit.stderr.lines().filter(|line| line.contains("/open/{*rest}"));
    assert_eq!(access.count(), 1, "{exit:?}");
    assert!(!exit.stderr.contains("draining") && !exit.stderr.contains("stopped"), "{exit:?}");
}

#[test]
fn the_key_api_moves_to_another_path_and_another_listener() {
    let mut gate = Reloaded::start(|setup| setup);
    let operator = Caller::new(gate.served.ops, Some(gate.root.secret()));
    check(&gate.root.get("/api/keys"), 200);
    check(&operator.get("/api/keys"), 404);

    gate.reload(|setup| setup.option("admin", r#"path = "/manage""#).option("admin", r#"listeners = ["ops"]"#))
        .expect("a good file");

    check(&gate.root.get("/manage"), 404);
    check(&operator.get("/manage"), 200);
    check(&operator.get("/open/x"), 404);
    assert_eq!(gate.installation.upstream().requests().len(), 0);
}

#[test]
fn every_option_that_needs_a_restart_is_named_and_nothing_changes() {
    let mut gate = Reloaded::start(|setup| setup);
    let told = gate
        .reload(|setup| {
            setup
                .option("listen", "workers = 2")
                .option("listen", r#"ops = "127.0.0.1:1""#)
                .option("store", r#"cache = "1MiB""#)
                .option("keys", "keys_cached_max = 7")
                .option("limits", r#"key = { rate = "1/h" }"#)
                .route("GET /new", r#""authenticated""#)
        })
        .expect_err("what cannot change");
    for option in ["listen.ops, listen.workers, store.cache, keys.keys_cached_max cannot change", "restart it"] {
        assert!(told.contains(option), "{told}");
    }
    check(&gate.root.get("/new"), 404);
    for _ in 0..3 {
        check(&gate.root.get("/open/x"), 200);
    }
    assert_eq!(gate.metric("portcullis_config_last_reload_successful"), "0");

    gate.reload(|setup| setup.route("GET /new", r#""authenticated""#)).expect("a good file");
    check(&gate.root.get("/new"), 200);
    assert_eq!(gate.metric("portcullis_config_last_reload_successful"), "1");
}

#[test]
fn a_new_root_key_is_taken_from_its_file_and_a_deleted_one_is_not_brought_back() {
    let keygen = || Process::run(&["keygen"]).stdout.trim_end().to_owned();
    let (first, second) = (keygen(), keygen());
    let with_file = |setup: Setup| setup.option("keys", r#"root_key_file = "root.key""#);
    let mut gate = Reloaded::start(|setup| setup);
    let file = gate.installation.folder().join("root.key");
    let told = gate.reload(with_file).expect_err("there is no such file");
    assert!(told.contains("root.key"), "{told}");

    std::fs::write(&file, &first).expect("writable");
    gate.hang_up().expect("a good file");
    let root = gate.served.caller(&first);
    check(&root.get("/api/keys/self"), 200);
    check(&gate.root.delete(root.id()), 204);
    gate.reload(|setup| with_file(setup).route("GET /new", r#""public""#)).expect("a good file");
    check(&root.get("/api/keys/self"), 401);

    std::fs::write(&file, &second).expect("writable");
    gate.hang_up().expect("a good file");
    check(&gate.served.caller(&second).get("/api/keys/self"), 200);
    check(&root.get("/api/keys/self"), 401);
}

#[test]
fn a_watched_file_is_read_again_when_it_changes_or_one_that_it_names_does() {
    let watched = |setup: Setup, realm: &str| {
        setup.option("reload", r#"watch = "20ms""#).option("credentials", &format!("realm = '{realm}'"))
    };
    let mut gate = Reloaded::start(|setup| watched(setup, "first"));
    let realm = |gate: &Reloaded| {
        let challenge = gate.served.anonymous().get(QUERY);
        challenge.header("www-authenticate").expect("a challenge").to_owned()
    };
    assert!(realm(&gate).contains("first"));

    let named = gate.installation.folder().join("realm");
    std::fs::write(&named, "second").expect("writable");
    gate.installation.rewrite(|setup| watched(setup, "${file:realm}"));
    gate.manager.wait_for("RELOADING=1");
    gate.manager.wait_for("READY=1");
    assert!(realm(&gate).contains("second"));

    // As editors and Kubernetes do it: another file takes the name.
    let next = gate.installation.folder().join("next");
    std::fs::write(&next, "third").expect("writable");
    std::fs::rename(&next, &named).expect("the same folder");
    gate.manager.wait_for("RELOADING=1");
    gate.manager.wait_for("READY=1");
    assert!(realm(&gate).contains("third"));

    gate.installation.rewrite(|setup| watched(setup, "${file:nosuch}"));
    gate.manager.wait_for("RELOADING=1");
    gate.manager.wait_for("READY=1");
    assert!(realm(&gate).contains("third"));
    std::fs::write(gate.installation.folder().join("nosuch"), "fourth").expect("writable");
    gate.manager.wait_for("RELOADING=1");
    gate.manager.wait_for("READY=1");
    assert!(realm(&gate).contains("fourth"));
    let told = gate.served.process.stderr().iter().filter(|line| line.contains("not reloaded")).count();
    assert_eq!(told, 1, "a file that stays as it is is tried once");
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Holding {
    descriptors: usize,
    threads: usize,
    resident_kib: usize,
}

impl Holding {
    fn of(served: &Served) -> Self {
        let pid = served.process.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let number = |name: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(name));
            rest.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).expect("a number")
        };
        // Told by the gate itself: nobody but a superuser can look into it.
        let page = served.ops_get("/metrics").text();
        let descriptors = page.lines().find_map(|line| line.strip_prefix("process_open_fds ")?.parse().ok());
        let descriptors = descriptors.expect("the sample");
        Self { descriptors, threads: number("Threads:"), resident_kib: number("VmRSS:") }
    }
}

/// Configuration number `number`: each has a route of its own, and others of what can change.
fn variant(setup: Setup, number: usize, backend: &str) -> Setup {
    let setup = setup
        .upstream_url(backend)
        .route(&format!("GET /variant-{number}/{{*rest}}"), r#""authenticated""#)
        .upstream(&format!("idle_max = {}", 10 + number % 3))
        .option("client", &format!("connections_max = {}", 100 + number % 7))
        .option("client", &format!("idle_timeout = \"{}s\"", 60 + number % 2))
        .option("limits", &format!("key = {{ rate = \"1000000/s\", concurrency = {} }}", 1_000 + number % 5))
        .option("requests", &format!("timeout = \"{}s\"", 100 + number % 11));
    // Every fifth is not to be taken, for one of several reasons.
    match number % 20 {
        4 => setup.option("listen", "workers = 7"),
        9 => setup.route("GET nonsense", r#""public""#),
        14 => setup.option("credentials", "realm = '${file:nosuch}'"),
        19 => setup.option("requests", "nonsense = = 1"),
        _ => setup,
    }
}

#[test]
fn many_reloads_under_load_fail_no_request_and_leave_nothing_behind() {
    let reloads = std::env::var("PORTCULLIS_RELOADS").map_or(RELOADS, |count| count.parse().expect("a number"));
    let backend = Backend::start();
    let mut gate = Reloaded::start(|setup| variant(setup, 0, &backend.url()));
    let reader = gate.root.create(&["monitor:read"]);
    let pace = Pace { kept: 8, fresh: 2, pausing: 0, per_second: 500 };
    let load = Load::start(gate.served.public, "/open/x", &reader.authorization(), pace);
    let mut before = None;
    let (mut taken, mut refused) = (0, 0);
    for number in 1..=reloads {
        match gate.reload(|setup| variant(setup, number, &backend.url())) {
            Ok(()) => taken += 1,
            Err(_) => refused += 1,
        }
        // Once everything has been allocated for the first time.
        if number == reloads / 4 {
            before = Some(Holding::of(&gate.served));
        }
    }
    let (before, after) = (before.expect("enough reloads"), Holding::of(&gate.served));
    let tally = load.stop();
    println!("{taken} reloads taken, {refused} refused, {tally:?}, {before:?}, {after:?}");
    assert_eq!((tally.failed, refused), (0, reloads / 5), "{tally:?}");
    assert!(tally.answered > 100, "{tally:?}");
    assert_eq!(gate.metric("portcullis_config_reloads_total{result=\"success\"}"), taken.to_string());
    assert_eq!(gate.metric("portcullis_config_reloads_total{result=\"failure\"}"), refused.to_string());
    assert!(after.descriptors <= before.descriptors + 3 * (pace.kept + pace.fresh), "{before:?} {after:?}");
    assert!(after.threads <= before.threads + 4, "{before:?} {after:?}");
    assert!(after.resident_kib <= before.resident_kib + 8 * 1_024, "{before:?} {after:?}");
    let page = gate.served.ops_get("/metrics").text();
    let variants: Vec<&str> = page.lines().filter(|line| line.contains("status_class=\"2xx\"")).collect();
    let of_variants = variants.iter().filter(|line| line.contains("/variant-")).count();
    assert_eq!(of_variants, 1, "{variants:#?}");
    gate.served.process.signal("TERM");
    assert_eq!(gate.served.process.wait().code, Some(0));
}

#[test]
fn the_service_manager_is_told_of_a_reload_with_the_time_of_its_beginning() {
    let gate = Reloaded::start(|setup| setup);
    gate.served.process.signal("HUP");
    let begun = gate.manager.next();
    let lines: Vec<&str> = begun.lines().collect();
    assert_eq!(lines[0], "RELOADING=1", "{begun}");
    let moment: u64 =
        lines[1].strip_prefix("MONOTONIC_USEC=").and_then(|usec| usec.parse().ok()).expect("microseconds");
    assert!(moment > 0);
    assert!(gate.manager.next().starts_with("READY=1\nSTATUS=serving on 127.0.0.1:"));
}
