//! The commands as a user types them: what they print where, and how they end.

mod explain;
mod keys;

use std::net::TcpListener;
use std::process::{Command, Stdio};

use portcullis::key::KeySecret;

use crate::harness::*;

/// Runs the program with these arguments and asserts the exit code.
#[track_caller]
fn run(arguments: &[&str], code: i32) -> Exit {
    let exit = Process::run(arguments);
    assert_eq!(exit.code, Some(code), "{arguments:?}: {exit:?}");
    exit
}

/// Runs a command on an installation's configuration and asserts the exit code.
#[track_caller]
fn run_on(installation: &Installation, command: &str, more: &[&str], code: i32) -> Exit {
    let mut arguments = installation.arguments(command);
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    let exit = Process::run(&arguments);
    assert_eq!(exit.code, Some(code), "{arguments:?}: {exit:?}");
    exit
}

/// An address that nothing listens on.
fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

fn fresh_key() -> String {
    KeySecret::generate().expect("randomness").expose().to_owned()
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let help = run(&["--help"], 0).stdout;

    for command in
        ["serve", "demo", "init", "keygen", "check", "routes", "explain", "keys", "healthcheck", "completions", "store"]
    {
        assert!(help.contains(&format!("\n  {command}")), "no {command}: {help}");
        let own = run(&[command, "--help"], 0).stdout;
        assert!(own.contains("Example"), "{own}");
    }
    assert!(help.contains("Exit codes:\n  0  "), "{help}");
}

#[test]
fn version_is_that_of_the_package() {
    let version = run(&["--version"], 0).stdout;

    assert_eq!(version, format!("portcullis {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    run(&["nonsense"], 2);
    run(&["serve"], 2);
    run(&["explain", "--config", "x.toml", "no-method"], 2);
}

#[test]
fn keygen_prints_a_key_and_nothing_else() {
    let first = run(&["keygen"], 0);
    let second = run(&["keygen"], 0);

    assert!(KeySecret::parse(first.stdout.trim_end().as_bytes()).is_ok(), "{first:?}");
    assert_eq!(first.stderr, "");
    assert_ne!(first.stdout, second.stdout);
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(run(&["completions", shell], 0).stdout.contains("healthcheck"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);

    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["completions", "bash"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("the program runs");

    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn init_prints_the_root_key_alone_and_serve_takes_it() {
    let installation = Installation::new();

    let exit = run_on(&installation, "init", &[], 0);

    let key = exit.stdout.strip_suffix('\n').expect("a line");
    assert!(KeySecret::parse(key.as_bytes()).is_ok(), "{exit:?}");
    assert!(!exit.stderr.is_empty() && !exit.stderr.contains(key), "{exit:?}");
    let served = installation.serve();
    let own = served.caller(key).get("/api/keys/self");
    check(&own, 200);
    assert_eq!((own.json()["name"].as_str(), own.json()["scopes"][0].as_str()), (Some("root"), Some("*")));
}

#[test]
fn init_leaves_a_store_with_keys_alone() {
    let installation = Installation::new();
    let key = installation.init();

    let again = run_on(&installation, "init", &[], 1);

    assert_eq!(again.stdout, "");
    assert!(again.stderr.contains("has keys already (1)"), "{again:?}");
    check(&installation.serve().caller(&key).get("/api/keys"), 200);
}

#[test]
fn init_whose_key_nobody_could_read_is_an_error() {
    let installation = Installation::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");

    for (stdout, reason) in [(Stdio::from(writer), "Broken pipe"), (Stdio::from(full), "No space left")] {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(installation.arguments("init"))
            .stdout(stdout)
            .stderr(Stdio::piped())
            .output()
            .expect("the program runs");

        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("could not be printed") && stderr.contains(reason), "{stderr}");
        // As the message says.
        std::fs::remove_dir_all(installation.folder().join("data")).expect("a store");
    }
}

#[test]
fn check_counts_what_it_read_and_warns_of_what_is_open() {
    let installation = Installation::new();

    let exit = run_on(&installation, "check", &[], 0);

    let path = installation.config();
    assert_eq!(exit.stdout, format!("{}: ok (1 upstream, 7 routes)\n", path.display()));
    assert_eq!(exit.stderr, "warning: public, so that no key is needed: GET,POST /public/{*rest}\n");
}

#[test]
fn check_warns_of_listeners_on_the_network_and_of_no_routes() {
    let setup = |setup: Setup| {
        setup.no_routes().option("listen", "public = \"0.0.0.0:8080\"").option("listen", "ops = \"0.0.0.0:9900\"")
    };
    let installation = Installation::with(setup);

    let exit = run_on(&installation, "check", &[], 0);

    assert!(exit.stdout.ends_with(": ok (1 upstream, 0 routes)\n"), "{exit:?}");
    for part in ["no routes", "listen.public is 0.0.0.0:8080", "listen.ops is 0.0.0.0:9900"] {
        assert!(exit.stderr.contains(part), "no {part}: {exit:?}");
    }
}

#[test]
fn every_command_tells_all_problems_of_a_configuration_with_their_places() {
    let installation = Installation::with(|setup| {
        setup.option("listen", "backlogg = 1").option("requests", "timeout = 5").route("GET /x", "\"monitor:reed\"")
    });

    for (command, more) in [("check", vec![]), ("serve", vec![]), ("routes", vec![]), ("explain", vec!["GET /"])] {
        let exit = run_on(&installation, command, &more, 1);

        assert_eq!(exit.stdout, "", "{exit:?}");
        let place = format!("{}:", installation.config().display());
        assert_eq!(exit.stderr.lines().filter(|line| line.starts_with(&place)).count(), 3, "{exit:?}");
        for part in ["did you mean backlog?", "requests.timeout must be", "did you mean \"monitor:read\"?"] {
            assert!(exit.stderr.contains(part), "no {part}: {exit:?}");
        }
    }
}

#[test]
fn a_configuration_that_is_not_there_is_told_with_its_cause() {
    let exit = run(&["check", "--config", "/nonexistent/gate.toml"], 1);

    assert_eq!(exit.stderr, "error: cannot read /nonexistent/gate.toml: No such file or directory (os error 2)\n");
}

#[test]
fn routes_shows_each_line_with_what_it_inherits() {
    let installation = Installation::with(|setup| {
        setup
            .no_routes()
            .option("requests", "timeout = \"90s\"")
            .option("limits", "key = { rate = \"200/s\", burst = 400, concurrency = 64 }")
            .route("GET,POST /api/v1/query", "\"monitor:read\"")
            .route("POST /a", "{ all = [\"issue:read\", \"monitor:read\"], rate = \"1/s\", limit_status = 503 }")
    });

    let table = run_on(&installation, "routes", &[], 0).stdout;

    let expected = "\
ROUTE                   NEEDS                            UPSTREAM              LIMITS
GET,POST /api/v1/query  monitor:read                     main                  timeout 1m30s, body 64MiB
POST /a                 all of monitor:read, issue:read  main                  timeout 1m30s, body 64MiB, rate 1/s, 503 beyond a rate
ANY /api/keys/{*rest}   key:read, key:write              the key API (public)

Each key: rate 200/s burst 400, concurrency 64
";
    assert_eq!(table, expected);
}

#[test]
fn routes_as_json_holds_every_line() {
    let installation = Installation::new();

    let text = run_on(&installation, "routes", &["--json"], 0).stdout;

    let table: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(table["routes"].as_array().map(Vec::len), Some(7));
    assert_eq!(table["routes"][0]["route"], "GET /api/{*rest}");
    let url = installation.upstream().url();
    assert_eq!(table["routes"][0]["urls"], serde_json::json!([url]));
    assert_eq!(table["routes"][0]["requirement"]["all"][0], "monitor:read");
    assert_eq!(table["key_api"]["path"], "/api/keys");
}

#[test]
fn routes_tells_hosts_and_rewrites() {
    let installation = Installation::with(|setup| {
        setup
            .no_routes()
            .upstream("hosts = [\"b.test\", \"a.test\"]")
            .upstream("set_headers = { X-Tenant = \"{key.name}\" }")
            .route("GET /x", "\"monitor:read\"")
            .route("GET c.test/p/x", "{ require = \"public\", strip_prefix = \"/p\", host = \"upstream\" }")
    });

    let text = run_on(&installation, "routes", &["--json"], 0).stdout;
    let table = run_on(&installation, "routes", &[], 0).stdout;

    assert!(table.contains("GET a.test,b.test/x ") && table.contains("GET c.test/p/x "), "{table}");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let (own, public) = (&json["routes"][0], &json["routes"][1]);
    assert_eq!(own["set_headers"], serde_json::json!({"x-tenant": "{key.name}"}), "{text}");
    assert_eq!((&own["strip_prefix"], &own["host"]), (&serde_json::Value::Null, &"keep".into()));
    assert_eq!(public["remove_headers"], serde_json::json!(["x-tenant"]), "{text}");
    assert_eq!((&public["strip_prefix"], &public["host"]), (&"/p".into(), &"upstream".into()));
}

#[test]
fn healthcheck_says_healthy_of_a_running_gate() {
    let gate = Gate::start();

    let exit = run(&["healthcheck", "--url", &format!("http://{}/-/healthy", gate.ops())], 0);

    assert_eq!(exit.stdout, "healthy\n");
}

#[test]
fn healthcheck_takes_the_address_of_a_configuration() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let installation =
        Installation::with(|setup| setup.option("listen", &format!("ops = \"0.0.0.0:{}\"", free.port())));
    run_on(&installation, "healthcheck", &[], 1);
    installation.init();
    let _served = installation.serve();

    run_on(&installation, "healthcheck", &[], 0);
}

#[test]
fn healthcheck_ends_with_1_and_one_line_when_nothing_healthy_answers() {
    let sick = Upstream::start();
    sick.answer_with("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");

    let unreachable = run(&["healthcheck", "--url", &dead_url()], 1);
    let unhealthy = run(&["healthcheck", "--url", &format!("http://{}", sick.address())], 1);

    for (exit, part) in [(unreachable, "cannot connect"), (unhealthy, "503 Service Unavailable")] {
        assert!(exit.stdout.starts_with("unhealthy: ") && exit.stdout.contains(part), "{exit:?}");
        assert_eq!((exit.stdout.lines().count(), exit.stderr.as_str()), (1, ""));
    }
}
