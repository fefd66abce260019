//! `explain`: its verdicts are those of the gate, and its reasons name the lines.

use crate::harness::*;

use super::run_on;

/// A closed line, a host's line and a path credential beside the harness's own routes.
fn installation() -> Installation {
    Installation::with(|setup| {
        setup
            .route("GET api.test/api/v1/hosted", "\"issue:read\"")
            .route("GET /p/{credential}/{monitor}", "\"telemetry:write\"")
            .route("GET /slash/{name}", "{ require = \"monitor:read\", allow_encoded_slash = true }")
    })
}

const REQUESTS: [&str; 42] = [
    "GET /api/v1/query",
    "HEAD /api/v1/query",
    "GET /api/v1/query?query=/../x",
    "POST /api/v1/query",
    "DELETE /api/v1/query",
    "POST /api/v1/write",
    "GET /api/v1/write",
    "GET /api",
    "GET /api/",
    "POST /api/other",
    "GET /api/v1/admin",
    "PATCH /api/v1/admin/x",
    "GET /open/x",
    "GET /public/x",
    "PUT /public/x",
    "GET /closed/x",
    "GET /nowhere",
    "GET /api/v1/query/../admin",
    "GET /api//v1",
    "GET /api/v1%2Fadmin",
    "GET /slash/a%2Fb",
    "GET /api/v1/x;y",
    "GET /nowhere;y",
    "GET /api/v1/hosted",
    "GET /api/keys",
    "GET /api/keys/self",
    "PATCH /api/keys/self",
    "PUT /api/keys",
    "GET /api/keys/pcl_000000000000/x",
    "DELETE /api/keys/",
    "GET /public/x?a=b c",
    "GET /public/x?a=b HTTP/1.1",
    "GET /public/x?a=\u{7f}",
    "GET /public/x?a=b#c",
    "GET /public/x?a=\"b\"",
    "GET /public/é",
    "GET http://gate.test/public/x",
    "OPTIONS *",
    "CONNECT /public/x",
    "CONNECT gate.test:80",
    "TRACE /public/x",
    "AMETHODOFMORETHANTHIRTYTWOLETTERS /public/x",
];

#[test]
fn its_verdicts_are_those_of_a_running_gate() {
    let installation = installation();
    let root = installation.init();
    let served = installation.serve();
    let reader = served.caller(&root).create(&["monitor:read", "key:read"]);
    let telemetry = served.caller(&root).create_from(&serde_json::json!({"name": "t", "kind": "telemetry"}));
    let callers: [(&Caller, &[&str]); 3] = [
        (&served.anonymous(), &[]),
        (&reader, &["--scopes", "monitor:read,key:read"]),
        (&telemetry, &["--kind", "telemetry"]),
    ];
    for request in REQUESTS {
        for (caller, options) in callers {
            let (method, target) = request.split_once(' ').expect("a method and a target");
            let explained = explain(&installation, request, options);
            let answer = caller.request(method, target, &[], b"");
            assert_eq!(explained.unwrap_or(200), answer.status, "{request} {options:?}: {answer:?}");
        }
    }
}

#[test]
fn hosts_and_long_targets_are_judged_as_a_running_gate_does() {
    let installation = Installation::with(|setup| {
        setup.option("client", "target_bytes_max = \"64B\"").option("requests", "hosts = [\"gate.test\", \"[::1]\"]")
    });
    installation.init();
    let served = installation.serve();
    let check_host = |target: &str, host: &str, status: u16| {
        let request = format!("GET {target}");
        let explained = explain(&installation, &request, &["--host", host]).unwrap_or(200);
        let answer = served.anonymous().request("GET", target, &[("Host", host)], b"");
        assert_eq!((explained, answer.status), (status, status), "{target} {host:?}");
    };
    for host in ["gate.test", "GATE.test:8080", "[::1]:80", "[::1]"] {
        check_host("/public/x", host, 200);
    }
    for host in ["", "a b/c", "gate.test:", "gate.test:99999", "[::1", "a..b", "gate.test/"] {
        check_host("/public/x", host, 400);
    }
    check_host("/public/x", "other.test", 421);
    check_host(&format!("/public/{}", "x".repeat(56)), "gate.test", 200);
    check_host(&format!("/public/{}", "x".repeat(57)), "gate.test", 414);
}

/// The status that `explain` foretells; `None` when it says that the request is admitted.
#[track_caller]
fn explain(installation: &Installation, request: &str, options: &[&str]) -> Option<u16> {
    let mut arguments = installation.arguments("explain");
    arguments.push(request.to_owned());
    arguments.extend(options.iter().map(|option| (*option).to_owned()));
    let exit = Process::run(&arguments);
    let line = exit.stdout.lines().find_map(|line| line.strip_prefix("status")).unwrap_or_else(|| panic!("{exit:?}"));
    let status = line.trim().split(' ').next().and_then(|status| status.parse().ok());
    assert_eq!(exit.code, Some(if status.is_none() { 0 } else { 1 }), "{exit:?}");
    status
}

#[test]
fn the_line_the_reason_and_the_verdict_are_told() {
    let installation = installation();

    let admitted = run_on(&installation, "explain", &["POST /api/v1/write", "--kind", "telemetry"], 0).stdout;
    let refused = run_on(&installation, "explain", &["GET /api/v1/query", "--scopes", "issue:read"], 1).stdout;

    let url = format!("http://{}", installation.upstream().address());
    let expected = format!(
        "\
request   POST /api/v1/write
caller    a key with telemetry:write
line      POST /api/v1/write
needs     telemetry:write
key from  basic, bearer
limits    timeout 5m, body 64MiB
why       no other line matches
verdict   admitted to main ({url})
status    what the upstream answers
"
    );
    assert_eq!(admitted, expected);
    let expected = "\
why       the most specific line that matches, before GET /api/{*rest}
verdict   refused (scope_missing): The key needs all of these scopes: monitor:read.
status    403 Forbidden
";
    assert!(refused.ends_with(expected), "{refused}");
}

#[test]
fn a_method_that_the_path_lacks_is_told_with_those_it_has_and_the_broader_line() {
    let installation = installation();

    let text = run_on(&installation, "explain", &["GET /api/v1/write", "--scopes", "*"], 1).stdout;

    assert!(text.contains("the most specific path takes POST alone"), "{text}");
    assert!(text.contains("does not step in: GET /api/{*rest}"), "{text}");
    assert!(text.contains("status   405 Method Not Allowed"), "{text}");
}

#[test]
fn a_host_chooses_its_own_lines() {
    let installation = installation();
    let request = ["GET /api/v1/hosted", "--scopes", "issue:read"];

    let elsewhere = run_on(&installation, "explain", &request, 1).stdout;
    let hosted = run_on(&installation, "explain", &[&request[..], &["--host", "API.test"]].concat(), 0).stdout;

    assert!(elsewhere.contains("line      GET /api/{*rest}"), "{elsewhere}");
    assert!(hosted.contains("line      GET api.test/api/v1/hosted"), "{hosted}");
}

#[test]
fn a_host_that_is_not_served_is_refused_and_a_served_one_is_supposed() {
    let installation = Installation::with(|setup| setup.option("requests", "hosts = [\"gate.test\"]"));

    run_on(&installation, "explain", &["GET /public/x"], 0);
    let other = run_on(&installation, "explain", &["GET /public/x", "--host", "evil.test"], 1).stdout;

    assert!(other.contains("status   421 Misdirected Request"), "{other}");
}

#[test]
fn the_key_of_a_path_is_told_to_come_from_there() {
    let text = run_on(&installation(), "explain", &["GET /p/KEY/nightly", "--kind", "telemetry"], 0).stdout;

    assert!(text.contains("key from  the {credential} segment of the path"), "{text}");
}

#[test]
fn a_scope_that_no_key_can_hold_is_a_wrong_command_line() {
    let exit = run_on(&installation(), "explain", &["GET /", "--scopes", "monitor:reed"], 2);

    assert!(exit.stderr.contains("did you mean monitor:read?"), "{exit:?}");
}

#[test]
fn the_target_and_the_fields_that_the_upstream_would_get_are_told() {
    let installation = Installation::with(|setup| {
        setup.upstream("set_headers = { X-Tenant = \"t-{key.name}\" }").upstream("remove_headers = [\"Cookie\"]").route(
            "GET /prom/{credential}/{*rest}",
            "{ require = \"authenticated\", strip_prefix = \"/prom\", add_prefix = \"/x\", host = \"a.test\", \
                 set_response_headers = { X-Key = \"{key.id}\" } }",
        )
    });

    let text = run_on(&installation, "explain", &["GET /prom/KEY/a%20b?c=d", "--scopes", "*"], 0).stdout;
    let plain = run_on(&installation, "explain", &["GET /api/v1/query", "--scopes", "*"], 0).stdout;

    let expected = "\
target    /x/{key.id}/a%20b?c=d
changes   Host is a.test
          x-tenant is t-{key.name}
          cookie is dropped
          the response's x-key is {key.id}
verdict";
    assert!(text.contains(expected), "{text}");
    assert!(!plain.contains("target"), "{plain}");
}

#[test]
fn lines_of_several_hosts_are_judged_as_a_running_gate_does() {
    let installation = Installation::with(|setup| {
        setup
            .option("requests", "hosts = [\"*.test\", \"d.example\"]")
            .route("GET a.test,b.test/h", "\"public\"")
            .route("GET *.c.test/h", "\"public\"")
    });
    installation.init();
    let served = installation.serve();
    for (host, status) in [
        ("a.test", 200),
        ("B.test", 200),
        ("x.c.test", 200),
        ("x.y.c.test", 200),
        ("c.test", 401),
        ("d.example", 401),
        ("e.example", 421),
    ] {
        let explained = explain(&installation, "GET /h", &["--host", host]).unwrap_or(200);
        let answer = served.anonymous().request("GET", "/h", &[("Host", host)], b"");
        assert_eq!((explained, answer.status), (status, status), "{host}");
    }
}
