//! The configuration file: what it may say, what it must not, and how problems are told.

mod losses;
mod shipped;

use std::path::{Path as FilePath, PathBuf};

use portcullis::config::Config;
use portcullis::settings::{Problems, Source};

/// A file that is right; tests put their own lines in place of some of these.
const SOUND: &str = r#"
[scopes]
"metrics:read" = "Query series"
[upstream.tsdb]
url = "http://127.0.0.1:9090"
[upstream.tsdb.routes]
"GET /api/v1/query" = "metrics:read"
"#;

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(&Source { path: PathBuf::from("gate.toml"), text: text.to_owned() })
}

#[track_caller]
fn accept(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Asserts that the file is refused with exactly these problems: line, column and a part of the message.
#[track_caller]
fn refuse(text: &str, expected: &[(usize, usize, &str)]) {
    let problems = parse(text).err().unwrap_or_else(|| panic!("accepted:\n{text}"));
    let told: Vec<_> = problems.iter().map(|problem| (problem.line, problem.column)).collect();
    let places: Vec<_> = expected.iter().map(|(line, column, _)| (*line, *column)).collect();
    assert_eq!(told, places, "{problems}");
    for (problem, (_, _, message)) in problems.iter().zip(expected) {
        assert!(problem.message.contains(message), "not \"{message}\": {problems}");
    }
}

/// Asserts that one option, alone in its section, is refused with this message.
#[track_caller]
fn refuse_option(section: &str, line: &str, message: &str) {
    let problems = parse(&format!("[{section}]\n{line}\n")).err().unwrap_or_else(|| panic!("accepted: {line}"));
    let told: Vec<_> = problems.iter().collect();
    assert!(told.len() == 1 && told[0].line == 2 && told[0].message.contains(message), "{problems}");
}

/// Asserts that one route is refused with this message.
#[track_caller]
fn refuse_route(line: &str, message: &str) {
    let text = format!("{SOUND}{line}\n");
    let problems = parse(&text).err().unwrap_or_else(|| panic!("accepted: {line}"));
    let told: Vec<_> = problems.iter().collect();
    let place = text.lines().count();
    assert!(told.len() == 1 && told[0].line == place && told[0].message.contains(message), "{problems}");
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = r#"[listen]
public = "0.0.0.0"
opps = "127.0.0.1:9900"
[client]
idle_timeout = 75
[upstream.tsdb]
[upstream.tsdb.routes]
"GET /api/v1/query" = "metrics:read"
"GET api" = "public"
"#;
    refuse(
        text,
        &[
            (2, 10, "listen.public must be ADDRESS:PORT"),
            (3, 1, "unknown option listen.opps; did you mean ops?"),
            (5, 16, "client.idle_timeout must be a duration"),
            (6, 1, "upstream.tsdb has no url"),
            (8, 23, "scope \"metrics:read\" is not declared"),
            (9, 1, "route \"GET api\": write a method, a blank and a path"),
        ],
    );
}

#[test]
fn a_problem_is_shown_under_its_line_and_marked() {
    let problems = parse("[store]\ncache = \"16 MB\" # é\n").expect_err("a size with a blank");
    let expected = "gate.toml:2:9: store.cache: \"16 MB\" is not a size; write a whole number with B, KiB, MiB, GiB, \
                    kB, MB or GB, such as \"16MiB\"\n  2 | cache = \"16 MB\" # é\n    |         ^\n1 problem";
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn a_file_that_is_not_toml_is_refused_where_it_breaks() {
    refuse("[listen]\npublic = \"0.0.0.0:8080\n", &[(2, 23, "expected `\"`")]);
    refuse("[listen\n", &[(1, 8, "")]);
}

#[test]
fn a_key_given_twice_is_refused() {
    refuse("[store]\npath = \"a\"\npath = \"b\"\n", &[(3, 1, "duplicate key")]);
    refuse("[store]\npath = \"a\"\n[store]\ncache = \"1MiB\"\n", &[(3, 2, "duplicate key")]);
    let route = "\"GET /api/v1/query\" = \"public\"\n";
    refuse(&format!("{SOUND}{route}"), &[(8, 1, "duplicate key")]);
}

#[test]
fn an_unknown_option_is_told_with_the_nearest_known_one() {
    refuse_option("store", "paht = \"data\"", "unknown option store.paht; did you mean path?");
    refuse_option("limits.key", "brust = 3", "unknown option limits.key.brust; did you mean burst?");
    refuse_option("log", "xyz = 1", "unknown option log.xyz; known here: format, level, access");
    let problems = parse("xyz = 1\n").expect_err("no such section").to_string();
    let known = problems.split("known here: ").nth(1).and_then(|rest| rest.lines().next()).expect("a list");
    let mut names: Vec<&str> = known.split(", ").collect();
    let told = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), told, "{known}");
    refuse("[lissten]\n", &[(1, 2, "unknown option lissten; did you mean listen?")]);
    refuse_route("\"GET /a\" = { require = \"public\", timout = \"1s\" }", "did you mean timeout?");
}

#[test]
fn a_value_without_its_unit_is_refused() {
    refuse_option("client", "idle_timeout = 75", "must be a duration such as \"2s\"");
    refuse_option("client", "idle_timeout = \"75\"", "\"75\" is not a duration");
    refuse_option("store", "cache = 16000000", "must be a size such as \"64KiB\"");
    refuse_option("store", "cache = \"16000000\"", "\"16000000\" is not a size");
    refuse_option("limits.key", "rate = 200", "must be a rate such as \"200/s\"");
    refuse_option("limits.key", "rate = \"200\"", "\"200\" is not a rate");
}

#[test]
fn a_value_with_a_wrong_unit_or_out_of_range_is_refused() {
    for wrong in ["10 minutes", "1.5s", "-1s", "1S", "1s 2", "s", "", "99999999999999999999s", "1m30"] {
        refuse_option("client", &format!("idle_timeout = \"{wrong}\""), "is not a duration");
    }
    refuse_option("client", "idle_timeout = \"0s\"", "must be longer than zero");
    refuse_option("client", "idle_timeout = \"366d\"", "must be at most 365d");
    for wrong in ["16mb", "16 MiB", "-1MiB", "1.5MiB", "MiB", "16MiB16", "99999999999GiB"] {
        refuse_option("store", &format!("cache = \"{wrong}\""), "is not a size");
    }
    refuse_option("store", "cache = \"0B\"", "must be larger than zero");
    for wrong in ["0/s", "-1/s", "+1/s", "1/d", "1 /s", "1/", "/s", "5000000000/s"] {
        refuse_option("limits.key", &format!("rate = \"{wrong}\""), "is not a rate");
    }
    for wrong in ["0", "-1", "1.5", "4294967296", "\"1\"", "true"] {
        refuse_option("client", &format!("headers_max = {wrong}"), "must be a whole number from 1 to 4294967295");
    }
    refuse_option("requests", "limit_status = 404", "must be 429 or 503");
    refuse_option("log", "access = \"yes\"", "must be true or false");
    refuse_option("log", "format = \"xml\"", "must be one of text, json");
}

#[test]
fn placeholders_are_filled_in() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("realm"), "from a file\r\n").expect("writable");
    let realm = |line: &str| {
        let text = format!("[credentials]\nrealm = {line}\n");
        let config = Config::parse(&Source { path: folder.path().join("gate.toml"), text });
        config.unwrap_or_else(|problems| panic!("{problems}")).credentials.realm.as_str().to_owned()
    };
    let path = std::env::var("PATH").expect("PATH is set");

    assert_eq!(realm("'${env:PATH}'"), path);
    assert_eq!(realm("'<${file:realm}>'"), "<from a file>");
    assert_eq!(realm("'${file:realm} and ${env:PATH}'"), format!("from a file and {path}"));
    assert_eq!(realm("'$${env:PATH} costs $5'"), "${env:PATH} costs $5");
}

#[test]
fn a_placeholder_that_cannot_be_filled_in_is_refused() {
    refuse_option("credentials", "realm = '${env:PORTCULLIS_TEST_UNSET}'", "PORTCULLIS_TEST_UNSET is not set");
    refuse_option("credentials", "realm = '${file:no/such/file}'", "no/such/file: No such file");
    refuse_option("credentials", "realm = '${vault:a}'", "unknown placeholder ${vault:a}; known: ${env:NAME}");
    refuse_option("credentials", "realm = '${env:PATH'", "${ is not closed by }");
}

#[test]
fn paths_start_at_the_folder_of_the_file() {
    let path = |text: &str| {
        let source = Source { path: PathBuf::from("/etc/portcullis/gate.toml"), text: text.to_owned() };
        Config::parse(&source).unwrap_or_else(|problems| panic!("{problems}")).store.path
    };

    assert_eq!(path("[store]\npath = \"keys\""), FilePath::new("/etc/portcullis/keys"));
    assert_eq!(path("[store]\npath = \"/srv/keys\""), FilePath::new("/srv/keys"));
    assert_eq!(path(""), FilePath::new("/etc/portcullis/data"));
}

#[test]
fn a_route_says_whether_one_or_all_of_its_scopes_are_needed() {
    refuse_route("\"GET /a\" = [\"metrics:read\"]", "write { any = [...] } or { all = [...] }");
    refuse_route("\"GET /a\" = { any = [\"*\"], all = [\"*\"] }", "give one of any, all and require");
    refuse_route("\"GET /a\" = { timeout = \"1s\" }", "add any = [...], all = [...] or require = \"...\"");
    refuse_route("\"GET /a\" = { any = [] }", "an empty list of scopes");
    refuse_route("\"GET /a\" = { all = \"metrics:read\" }", "must be an array");
    refuse_route("\"GET /a\" = { require = [\"metrics:read\"] }", "a route needs a scope such as");
    refuse_route("\"GET /a\" = true", "a route needs a scope such as");
    refuse_route("\"GET /a\" = \"\"", "is not declared");
}

#[test]
fn an_undeclared_scope_is_refused_with_the_nearest_declared_one() {
    refuse_route("\"GET /a\" = \"metrics:raed\"", "did you mean \"metrics:read\"?");
    refuse_route("\"GET /a\" = \"pubic\"", "did you mean \"public\"?");
    refuse_route("\"GET /a\" = { any = [\"monitor:raed\", \"*\"] }", "did you mean \"monitor:read\"?");
    refuse_route("\"GET /a\" = \"Traces\"", "add it to [scopes]");
}

#[test]
fn a_scope_is_declared_once_and_well_formed() {
    refuse_option("scopes", "\"monitor:read\" = \"Mine\"", "is already declared");
    refuse_option("scopes", "\"monitor:telemetry\" = \"An alias\"", "is already declared");
    refuse_option("scopes", "\"*\" = \"All\"", "is already declared");
    refuse_option("scopes", "\"Metrics\" = \"Upper case\"", "cannot be declared");
    refuse_option("scopes", "\"metrics read\" = \"A blank\"", "cannot be declared");
    refuse_option("scopes", "\"metrics:read\" = 1", "must be a string");
}

#[test]
fn the_alias_of_a_scope_is_that_scope() {
    let of = |scope: &str| {
        let config = accept(&format!("{SOUND}\"GET /a\" = \"{scope}\"\n"));
        config.routes.lines().last().map(|(_, route)| route.settings.requirement.clone())
    };
    assert_eq!(of("monitor:telemetry"), of("telemetry:write"));
}

#[test]
fn two_lines_for_the_same_requests_are_refused_and_both_are_named() {
    refuse(
        &format!("{SOUND}\"POST,GET /api/v1/{{name}}\" = \"public\"\n\"GET /api/v1/{{other}}\" = \"deny\"\n"),
        &[(9, 1, "\"GET /api/v1/{other}\" claims GET requests that \"GET,POST /api/v1/{name}\" in line 8 has")],
    );
    let elsewhere = "[upstream.other]\nurl = \"http://127.0.0.1:9091\"\n[upstream.other.routes]\n\
                     \"GET /api/v1/query\" = \"public\"\n";
    refuse(&format!("{SOUND}{elsewhere}"), &[(11, 1, "that \"GET /api/v1/query\" in line 7 has")]);
}

#[test]
fn a_route_that_the_key_api_would_hide_is_refused() {
    refuse_route("\"GET /api/keys\" = \"public\"", "/api/keys is the key API's own path");
    refuse_route("\"ANY /api/keys/{*rest}\" = \"deny\"", "/api/keys is the key API's own path");
    accept(&format!("{SOUND}\"GET /api/{{*rest}}\" = \"metrics:read\"\n"));
    accept(&format!("{SOUND}\"GET /api/keysafe\" = \"metrics:read\"\n"));
    accept(&format!("[admin]\nlisteners = [\"ops\"]\n{SOUND}\"GET /api/keys\" = \"metrics:read\"\n"));
    accept(&format!("[admin]\npath = \"/-/keys\"\n{SOUND}\"GET /api/keys\" = \"metrics:read\"\n"));
}

#[test]
fn an_upstream_url_is_scheme_host_and_port() {
    let with = |url: &str| SOUND.replace("http://127.0.0.1:9090", url);
    for (wrong, message) in [
        ("127.0.0.1:9090", "must start with http://, https:// or unix:/"),
        ("file:///etc/passwd", "is not a URL such as"),
        ("ftp://127.0.0.1", "must start with http://"),
        ("unix:run/app.sock", "is written with its whole path"),
        ("unix:/", "is written with its whole path"),
        ("unix:", "is written with its whole path"),
        ("http://127.0.0.1:9090/api", "has no path, query or fragment"),
        ("http://127.0.0.1:9090?a=b", "has no path, query or fragment"),
        ("http://127.0.0.1:9090/?", "has no path, query or fragment"),
        ("http://127.0.0.1:9090/#a", "has no path, query or fragment"),
        ("http://user:password@127.0.0.1:9090", "with a user or password is refused"),
        ("http://127.0.0.1:0", "port 0 cannot be connected to"),
        ("http://127.0.0.1:65536", ""),
        ("http://127.0.0.1:", ""),
        ("http://:9090", ""),
        ("http://", ""),
        ("", ""),
    ] {
        refuse(&with(wrong), &[(5, 7, message)]);
    }
    refuse(&with(&format!("unix:/{}", "x".repeat(107))), &[(5, 7, "at most 107 bytes")]);
    for right in [
        "http://127.0.0.1",
        "http://127.0.0.1/",
        "http://[::1]:9090",
        "http://tsdb.internal:9090",
        "https://tsdb.internal",
        "https://[::1]:9090",
        "unix:/run/app.sock",
    ] {
        accept(&with(right));
    }
}

#[test]
fn an_upstream_has_1_to_64_targets_and_none_twice() {
    let with = |urls: &str| SOUND.replace("\"http://127.0.0.1:9090\"", urls);
    let many = |count: u16| {
        let urls: Vec<String> = (0..count).map(|number| format!("\"http://tsdb-{number}.internal\"")).collect();
        with(&format!("[{}]", urls.join(", ")))
    };
    accept(&with("[\"http://127.0.0.1:9090\"]"));
    accept(&with("[\"http://127.0.0.1:9090\", \"http://127.0.0.1:9091\"]"));
    accept(&many(64));
    for wrong in [many(65), with("[]")] {
        refuse(&wrong, &[(5, 7, "must hold 1 to 64 URLs")]);
    }
    let message = "http://127.0.0.1:80 is in the list twice";
    refuse(&with("[\"http://127.0.0.1\", \"http://127.0.0.1:80/\"]"), &[(5, 28, message)]);
    let message = "a URL here has no path, query or fragment";
    refuse(&with("[\"http://a/b\", \"http://c/d\"]"), &[(5, 8, message), (5, 22, message)]);
}

#[test]
fn options_of_upstreams_that_nothing_comes_of_are_refused() {
    let with = |lines: &str| SOUND.replace("[upstream.tsdb.routes]", &format!("{lines}\n[upstream.tsdb.routes]"));
    accept(&with("concurrency = 1\nqueue = \"off\""));
    refuse(&with("queue = 7"), &[(6, 9, "upstream.tsdb.queue has no effect without a limit")]);
    refuse(&with("queue_timeout = \"7s\""), &[(6, 17, "upstream.tsdb.queue_timeout has no effect")]);
    refuse(&with("health.interval = \"7s\""), &[(6, 1, "upstream.tsdb.health has no effect without a path")]);
    let eject = "eject = { failures = \"off\", statuses = [502] }";
    refuse(&with(eject), &[(6, 9, "upstream.tsdb.eject has no effect with failures = \"off\"")]);
    let retry = "retry = { attempts = 1, budget = 7 }";
    refuse(&with(retry), &[(6, 9, "upstream.tsdb.retry.budget has no effect with attempts = 1")]);
    accept(&with("health = { path = \"/-/ready\", expect = [204, \"3xx\"] }"));
    refuse(&with("health.path = \"ready\""), &[(6, 15, "must be a path such as")]);
    for wrong in ["99", "600", "\"6xx\"", "true"] {
        refuse(&with(&format!("eject.statuses = [{wrong}]")), &[(6, 19, "must hold statuses such as 503")]);
    }
    for wrong in ["0", "101", "\"20\""] {
        refuse(&with(&format!("retry.budget = {wrong}")), &[(6, 16, "must be a whole number of percent")]);
    }
    refuse(&with("balance = \"random\""), &[(6, 11, "\"least_requests\" or \"first_available\"")]);
}

#[test]
fn options_of_a_wire_that_is_not_spoken_are_refused() {
    let with = |url: &str, lines: &str| SOUND.replace("\"http://127.0.0.1:9090\"", url) + lines;
    let tls = "[upstream.tsdb.tls]\nserver_name = \"tsdb.internal\"\n";
    let http2 = "[upstream.tsdb.http2]\nstreams_max = 10\n";
    let (http, https) = ("\"http://127.0.0.1:9090\"", "\"https://127.0.0.1:9090\"");
    refuse(&with(http, tls), &[(8, 1, "upstream.tsdb.tls has no effect on http://127.0.0.1:9090; write https://")]);
    refuse(&with("\"unix:/run/app.sock\"", tls), &[(8, 1, "has no effect on unix:/run/app.sock")]);
    refuse(&with(http, http2), &[(8, 1, "HTTP/1.1 is spoken to http://127.0.0.1:9090; add protocol = \"http2\"")]);
    let spoken = |url: &str, protocol: &str| with(&format!("{url}\nprotocol = {protocol:?}"), http2);
    refuse(&spoken(https, "http1"), &[(9, 1, "upstream.tsdb.http2 has no effect")]);
    accept(&spoken(http, "http2"));
    accept(&spoken(https, "auto"));
    let limits = |line: &str| with(http, &format!("[upstream.tsdb.http2]\n{line}\n"));
    refuse(&spoken(http, "h2").replace(http2, ""), &[(6, 12, "must be \"auto\", \"http1\" or \"http2\"")]);
    refuse(&limits("stream_window = \"1KiB\""), &[(9, 17, "must be from 64KiB")]);
    refuse(&limits("stream_window = \"2GiB\""), &[(9, 17, "less than 2GiB")]);
    refuse(&limits("streams_max = 0"), &[(9, 15, "must be a whole number from 1")]);
}

#[test]
fn files_that_an_upstreams_tls_cannot_use_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("gate.toml");
    for (lines, message) in [
        ("ca = \"ca.pem\"", format!("cannot read {}", folder.path().join("ca.pem").display())),
        ("cert = \"gate.toml\"", "cert is set and key is not".to_owned()),
        ("ca = \"gate.toml\"", "gate.toml holds no certificate".to_owned()),
    ] {
        let url = SOUND.replace("http://127.0.0.1:9090", "https://127.0.0.1:9090");
        std::fs::write(&file, format!("{url}[upstream.tsdb.tls]\n{lines}\n")).expect("writable");
        let problems = Config::load_with_files(&file).expect_err("refused").to_string();
        assert!(problems.contains(":8:1: upstream.tsdb.tls: ") && problems.contains(&message), "{problems}");
    }
}

#[test]
fn an_upstream_that_is_the_gate_itself_is_refused() {
    let listening = |listen: &str, url: &str| {
        let text = SOUND.trim_start().replace("\"http://127.0.0.1:9090\"", &format!("[\"{url}\"]"));
        format!("[listen]\n{listen}\n{text}")
    };
    for (listen, url) in [
        ("public = \"0.0.0.0:9090\"", "http://127.0.0.1:9090"),
        ("public = \"0.0.0.0:9090\"", "http://localhost:9090"),
        ("public = \"[::]:9090\"", "http://[::1]:9090"),
        ("public = \"10.0.0.1:9090\"", "http://10.0.0.1:9090"),
        ("ops = \"127.0.0.1:9090\"", "http://127.0.0.1:9090"),
        ("public = \"0.0.0.0:9090\"", "http://LocalHost:9090"),
        ("public = \"0.0.0.0:9090\"", "http://127.1.2.3:9090"),
        ("public = \"0.0.0.0:9090\"", "http://0.0.0.0:9090"),
        ("public = \"127.0.0.1:9090\"", "http://0.0.0.0:9090"),
        ("public = \"127.0.0.1:9090\"", "http://[::ffff:127.0.0.1]:9090"),
        ("public = \"[::1]:9090\"", "http://LOCALHOST:9090"),
        ("public = \"[::1]:9090\"", "http://[::]:9090"),
        ("public = \"[::]:9090\"", "http://127.0.0.1:9090"),
        ("public = \"127.0.0.1:9090\"", "http://127.0.0.1:9091\", \"http://127.0.0.1:9090"),
    ] {
        let problems = parse(&listening(listen, url)).err().unwrap_or_else(|| panic!("accepted: {listen}, {url}"));
        assert!(problems.to_string().contains("upstream.tsdb is this gate's own listener"), "{problems}");
    }
    accept(&listening("public = \"10.0.0.1:9090\"", "http://127.0.0.1:9090"));
    accept(&listening("public = \"127.0.0.1:9091\"", "http://127.0.0.1:9090"));
    accept(&listening("public = \"127.0.0.1:9090\"", "http://127.0.0.2:9090"));
    accept(&listening("public = \"0.0.0.0:9090\"", "http://[::1]:9090"));
    accept(&listening("public = \"127.0.0.1:9090\"", "http://[::]:9090"));
}

#[test]
fn two_listeners_on_one_address_are_refused() {
    let problems = parse("[listen]\npublic = \"127.0.0.1:9900\"\n").expect_err("ops is there");
    assert!(problems.to_string().contains("listen.public and listen.ops are both 127.0.0.1:9900"), "{problems}");
    accept("[listen]\npublic = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\n");
}

#[test]
fn two_listeners_of_which_one_includes_the_other_are_refused() {
    for (public, ops) in [
        ("0.0.0.0:8080", "127.0.0.1:8080"),
        ("127.0.0.1:8080", "0.0.0.0:8080"),
        ("[::]:8080", "[::1]:8080"),
        ("[::]:8080", "0.0.0.0:8080"),
        ("127.0.0.1:8080", "[::]:8080"),
    ] {
        refuse(&format!("[listen]\npublic = \"{public}\"\nops = \"{ops}\"\n"), &[(1, 1, "one includes the other")]);
    }
    accept("[listen]\npublic = \"0.0.0.0:8080\"\nops = \"[::1]:8080\"\n");
    accept("[listen]\npublic = \"10.0.0.1:8080\"\nops = \"127.0.0.1:8080\"\n");
    accept("[listen]\npublic = \"0.0.0.0:0\"\nops = \"127.0.0.1:0\"\n");
}

#[test]
fn a_scope_named_like_a_word_of_routes_is_refused() {
    for word in ["authenticated", "deny", "public"] {
        refuse_option("scopes", &format!("\"{word}\" = \"Mine\""), "routes write this word for something else");
    }
    accept("[scopes]\n\"public:read\" = \"Mine\"\n");
}

#[test]
fn a_burst_without_a_rate_is_refused() {
    refuse_option("limits.key", "burst = 3", "limits.key.burst has no effect without a rate");
    refuse("[limits.key]\nrate = \"off\"\nburst = 3\n", &[(3, 9, "limits.key.burst has no effect")]);
    refuse_route("\"GET /a\" = { require = \"deny\", burst = 3 }", "burst has no effect without a rate");
    refuse_option("limits.key", "rate = 3\nburst = 3", "limits.key.rate must be a rate");
    accept("[limits.key]\nburst = \"off\"\n");
    accept("[limits]\nkey = { burst = 3, rate = \"1/s\" }\n");
}

#[test]
fn no_place_for_a_key_is_refused() {
    refuse_option("credentials", "from = []", "credentials.from is empty");
}

#[test]
fn places_of_keys_that_a_route_does_not_look_at_are_refused() {
    for option in ["sources = [\"bearer\"]", "credential_query = \"token\""] {
        let route = |path: &str, require: &str| format!("\"GET {path}\" = {{ require = \"{require}\", {option} }}");
        refuse_route(&route("/p/{credential}", "authenticated"), "the {credential} segment alone is read");
        refuse_route(&route("/a", "public"), "a public route reads no key");
        accept(&format!("{SOUND}{}\n", route("/a", "deny")));
    }
    accept(&format!("{SOUND}\"GET /a\" = {{ require = \"public\", credential_query = \"off\" }}\n"));
}

#[test]
fn a_route_for_a_host_that_is_not_served_is_refused() {
    let with = |hosts: &str, route: &str| format!("[requests]\nhosts = {hosts}\n{SOUND}\"{route}\" = \"deny\"\n");
    refuse(
        &with("[\"a.test\"]", "GET b.test/a"),
        &[(10, 1, "route \"GET b.test/a\" can never match: requests.hosts does not list b.test")],
    );
    accept(&with("[\"A.test\", \"b.test\"]", "GET B.test/a"));
    accept(&with("[]", "GET b.test/a"));
    accept(&with("[\"a.test\"]", "GET /a"));
}

#[test]
fn a_key_api_over_a_page_of_the_ops_listener_is_refused() {
    for path in ["/metrics", "/metrics/keys", "/-", "/-/healthy", "/-/ready", "/-/keys"] {
        let admin = |listeners: &str| format!("[admin]\npath = \"{path}\"\nlisteners = {listeners}\n");
        refuse(&admin("[\"public\", \"ops\"]"), &[(2, 8, "overlap on the ops listener")]);
        accept(&admin("[\"public\"]"));
    }
    accept("[admin]\npath = \"/metricskeys\"\nlisteners = [\"ops\"]\n");
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_where_it_breaks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("gate.toml");
    std::fs::write(&path, b"[credentials]\nrealm = \"\xc3\xa9\xe9\"\n").expect("writable");

    let error = Config::load(&path).expect_err("Latin-1").to_string();

    assert!(error.starts_with(&format!("{}:2:11: byte 0xe9 is not UTF-8", path.display())), "{error}");
}

#[test]
fn a_file_without_routes_admits_nothing() {
    let config = accept("");
    assert_eq!(config.routes.lines().len(), 0);
    assert!(config.upstreams.is_empty());
}

#[test]
fn a_credential_segment_that_nothing_would_read_is_refused() {
    refuse_route(r#""GET /p/{credential}/x" = "public""#, "the upstream would see it");
    refuse_route(r#""GET /p/x" = { require = "deny", credential_segment = "keep" }"#, "has no {credential} segment");
}

#[test]
fn a_rewrite_that_could_not_be_meant_is_refused() {
    refuse_route(
        "\"GET /x\" = { require = \"public\", strip_prefix = \"/prom\" }",
        "route \"GET /x\": its path does not start with /prom, so strip_prefix cannot cut that off",
    );
    refuse_route("\"GET /{a}/x\" = { require = \"public\", strip_prefix = \"/a\" }", "does not start with /a");
    refuse_route("\"GET /ab\" = { require = \"public\", strip_prefix = \"/a\" }", "does not start with /a");
    for prefix in ["/", "a", "/a/", "//a", "/a/../b", "/a%20b", "/a b", "/a;b"] {
        let line = |option: &str| format!("\"GET /a/b\" = {{ require = \"public\", {option} = \"{prefix}\" }}");
        refuse_route(&line("strip_prefix"), "is not a plain path; write one such as \"/prometheus\"");
        refuse_route(&line("add_prefix"), "is not a plain path; write one such as \"/prometheus\"");
    }
    for host in ["", "a/b", "http://a", "a b", "a:0", "*.a"] {
        let line = format!("\"GET /x\" = {{ require = \"public\", host = \"{host}\" }}");
        refuse_route(&line, "host must be \"keep\", \"upstream\" or a name");
    }
}

#[test]
fn a_header_that_is_the_gates_own_cannot_be_set_or_removed() {
    for (name, reason) in [
        ("Host", "is written by the option host"),
        ("Content-Length", "frames the message"),
        ("Transfer-Encoding", "frames the message"),
        ("Connection", "frames the message"),
        ("Upgrade", "frames the message"),
        ("TE", "frames the message"),
        ("X-Portcullis-Key-Id", "says which key a request has"),
        ("x_portcullis_scopes", "says which key a request has"),
        ("Content_Length", "frames the message"),
        ("X-HTTP-Method-Override", "another method or path"),
        ("X-Original-URL", "another method or path"),
        ("X.Rewrite.URL", "another method or path"),
        ("Expect", "another method or path"),
        ("X Y", "is not a header name"),
        ("", "is not a header name"),
    ] {
        let line = |options: &str| format!("\"GET /x\" = {{ require = \"metrics:read\", {options} }}");
        refuse_route(&line(&format!("set_headers = {{ \"{name}\" = \"1\" }}")), reason);
        refuse_route(&line(&format!("remove_headers = [\"{name}\"]")), reason);
    }
    for name in ["Content-Length", "X-Portcullis-Kind", "Trailer"] {
        let line = format!("\"GET /x\" = {{ require = \"metrics:read\", remove_response_headers = [\"{name}\"] }}");
        assert!(parse(&format!("{SOUND}{line}\n")).is_err(), "{name}");
    }
    let set = |fields: &str| format!("\"GET /x\" = {{ require = \"metrics:read\", set_headers = {{ {fields} }} }}");
    refuse_route(&set("\"X-A\" = \"1\", \"x_a\" = \"2\""), "x_a is set twice, in two spellings; keep one");
    let both = "\"GET /x\" = { require = \"public\", set_headers = { \"X-A\" = \"1\" }, remove_headers = [\"X.A\"] }";
    refuse_route(both, "X.A is set here too");
}

#[test]
fn a_template_that_cannot_be_filled_in_is_refused() {
    let line = |value: &str, needs: &str| {
        format!("\"GET /{{name}}/x\" = {{ require = \"{needs}\", set_headers = {{ \"X-A\" = \"{value}\" }} }}")
    };
    for (value, message) in [
        ("{key}", "{key} is not known; known: {key.id}"),
        ("{key.secret}", "{key.secret} is not known"),
        ("{path.name", "write {{ or }} for the character itself"),
        ("a}", "write {{ or }} for the character itself"),
        ("{path.credential}", "{path.credential} is the key itself; write {key.id}"),
        ("{path.other}", "the path has no {other} segment"),
        ("é", "cannot stand in a header"),
        ("a\\nb", "cannot stand in a header"),
        (" a", "a blank at the start or end"),
    ] {
        refuse_route(&line(value, "authenticated"), message);
    }
    refuse_route(&line("{key.id}", "public"), "a public route knows no key, so x-a cannot be \"{key.id}\"");
    accept(&format!("{SOUND}{}\n", line("{path.name}-{request.id}-{client.ip}-{{}}", "public")));
}

#[test]
fn what_an_upstream_changes_has_to_fit_each_of_its_lines() {
    let with = |option: &str| SOUND.replace("[upstream.tsdb.routes]", &format!("{option}\n[upstream.tsdb.routes]"));
    refuse(&with("strip_prefix = \"/prom\""), &[(8, 1, "its path does not start with /prom")]);
    refuse(&with("set_headers = { X-A = \"{path.tenant}\" }"), &[(8, 1, "the path has no {tenant} segment")]);
    refuse(&with("set_headers = { Host = \"a\" }"), &[(6, 17, "Host is written by the option host")]);
    refuse(&with("hosts = [\"a.test\", \"b.test:80\"]"), &[(6, 20, "\"b.test:80\" is not a host name")]);
    accept(&with("set_headers = { X-A = \"{key.id}\" }").replace("= \"metrics:read\"", "= \"public\""));
}

#[test]
fn a_host_that_no_request_can_have_is_refused_in_a_line() {
    for hosts in ["a.test,", ",a.test", "a.test:80", "*", "*.", "a.*.test", "a.test,a.test"] {
        let line = format!("\"GET {hosts}/x\" = \"public\"");
        assert!(parse(&format!("{SOUND}{line}\n")).is_err(), "{hosts}");
    }
    let served = |hosts: &str, line: &str| format!("[requests]\nhosts = [{hosts}]\n{SOUND}{line}\n");
    let places = [(10, 1, "requests.hosts does not list b.test")];
    refuse(&served("\"a.test\"", "\"GET a.test,b.test/x\" = \"public\""), &places);
    accept(&served("\"*.test\"", "\"GET a.test,b.test/x\" = \"public\""));
    accept(&served("\"a.test\"", "\"GET *.test/x\" = \"public\""));
    refuse_route(
        "\"GET a.test,b.test/x\" = \"public\"\n\"GET c.test,b.test/x\" = \"public\"",
        "route \"GET b.test,c.test/x\" claims GET requests that \"GET a.test,b.test/x\" in line 8 has; keep one",
    );
}

#[test]
fn an_upgrade_that_nothing_would_begin_is_refused() {
    let line = r#""POST /p/x" = { require = "authenticated", upgrade = true }"#;
    refuse_route(line, "upgrade has no effect without GET");
}
