//! Programs that people really put behind or before a gate. Each test says SKIPPED when its program is not installed.

use std::process::{Command, Stdio};

use crate::harness::{Caller, Gate, Process, Reply, Service, check, is_installed};

/// Whether a Python module of exactly this version can be imported. Says so when it cannot, and fails where it must be
/// there.
#[track_caller]
pub(crate) fn has_module(module: &str, version: Option<&str>) -> bool {
    let check = match version {
        Some(version) => {
            format!("import {module}, importlib.metadata as m; assert m.version('{module}') == '{version}'")
        }
        None => format!("import {module}"),
    };
    let status = Command::new("python3").args(["-c", &check]).stderr(Stdio::null()).status();
    let there = status.is_ok_and(|status| status.success());
    if !there {
        assert!(std::env::var_os("PORTCULLIS_CI").is_none(), "python3 has no {module}");
        println!("SKIPPED: python3 with {module} {} is not installed", version.unwrap_or_default());
    }
    there
}

/// Runs a command to its end; returns its output when it succeeded.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let exit = Process::spawn(command).wait();
    assert_eq!(exit.code, Some(0), "{program} {arguments:?}: {exit:?}");
    exit.stdout.trim_end().to_owned()
}

#[track_caller]
pub(crate) fn python(script: &str) -> String {
    run("python3", &["-c", script])
}

#[test]
fn curl_reads_writes_and_is_refused() {
    if !is_installed("curl") {
        return;
    }
    let gate = Gate::start();
    let (reader, pinger) = (gate.key(&["monitor:read"]), gate.telemetry_key());
    let url = |path: &str| format!("http://{}{path}", gate.public());
    let status = |arguments: &[&str]| {
        let mut all = vec!["-sS", "-o", "/dev/null", "-w", "%{http_code}"];
        all.extend_from_slice(arguments);
        run("curl", &all)
    };
    let user = |caller: &Caller| format!("{}:", caller.secret());
    assert_eq!(status(&["-u", &user(&reader), &url("/api/v1/query?query=up")]), "200");
    assert_eq!(status(&["-u", &user(&pinger), &url("/api/v1/query?query=up")]), "403");
    assert_eq!(status(&[&url("/api/v1/query?query=up")]), "401");
    assert_eq!(status(&["-I", "-u", &user(&reader), &url("/api/v1/query")]), "200");
    let bearer = format!("Authorization: Bearer {}", reader.secret());
    assert_eq!(status(&["-H", &bearer, &url("/api/v1/query")]), "200");
    let file = gate.folder().join("body");
    std::fs::write(&file, vec![b'x'; 3 << 20]).expect("writable");
    let data = format!("@{}", file.display());
    assert_eq!(status(&["-u", &user(&pinger), "--data-binary", &data, &url("/api/v1/write")]), "200");
    assert_eq!(gate.upstream().last().body.len(), 3 << 20);
    assert_eq!(status(&["-u", &user(&reader), "--data-binary", &data, &url("/api/v1/write")]), "403");
    let chunked =
        ["-H", "Transfer-Encoding: chunked", "-u", &user(&pinger), "--data-binary", &data, &url("/api/v1/write")];
    assert_eq!(status(&chunked), "200");
}

#[test]
fn curl_uses_the_key_api_as_the_specification_writes_it() {
    if !is_installed("curl") {
        return;
    }
    let gate = Gate::start();
    let (root, url) = (gate.root(), format!("http://{}/api/keys", gate.public()));
    let user = format!("{}:", root.secret());
    let json =
        |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or_else(|_| panic!("not JSON: {text}"));
    let data = r#"{ "name": "CI/CD Pipeline", "kind": "custom", "scopes": ["monitor:read", "monitor:write", "telemetry:write"] }"#;
    let header = ["--header", "Content-Type: application/json"];
    let created =
        json(&run("curl", &["-sS", "--user", &user, header[0], header[1], "--request", "POST", "--data", data, &url]));
    let secret = created["key"].as_str().expect("the full key").to_owned();
    assert_eq!(json(&run("curl", &["-sS", &url, "-u", &user]))["total_count"], 2);
    let one = format!("{url}/{}", &secret[..16]);
    assert_eq!(json(&run("curl", &["-sS", &one, "-u", &user]))["name"], "CI/CD Pipeline");
    let data = r#"{ "name": "Updated Key Name", "scopes": ["monitor:read", "telemetry:write"] }"#;
    let updated =
        json(&run("curl", &["-sS", "--user", &user, header[0], header[1], "--request", "PUT", "--data", data, &one]));
    assert_eq!(updated["scopes"], serde_json::json!(["monitor:read", "telemetry:write"]));
    assert_eq!(run("curl", &["-sS", "-w", "%{http_code}", "--request", "DELETE", &one, "-u", &user]), "204");
    check(&gate.caller(&secret).get("/open/x"), 401);
}

/// Points the unmodified client at the gate with this key, and runs a script with it.
#[track_caller]
fn cronitor(gate: &Gate, key: &str, script: &str) -> String {
    let public = gate.public();
    python(&format!(
        "import cronitor\nfrom cronitor import Monitor\ncronitor.api_key = '{key}'\n\
         api = 'http://{public}/api/monitors'\n\
         Monitor._monitor_api_url = classmethod(lambda cls, key=None: api + ('/' + key if key else ''))\n\
         Monitor._ping_api_url = lambda self: 'http://{public}/p/{{}}/{{}}'.format(self.api_key, self.key)\n{script}\n"
    ))
}

#[test]
fn the_unmodified_cronitor_client_pings_and_manages_monitors() {
    if !has_module("cronitor", Some("4.9.0")) {
        return;
    }
    let gate = Gate::with(|setup| setup.preset("cronitor"));
    let (pinger, sdk) =
        (gate.telemetry_key(), gate.root().create_from(&serde_json::json!({"name": "sdk", "kind": "sdk_integration"})));
    cronitor(&gate, pinger.secret(), "Monitor('heartbeat').ping(state='run', message='a b', metrics={'count': 1})");
    let ping = gate.upstream().last();
    assert!(ping.target.starts_with(&format!("/p/{}/heartbeat?", pinger.id())), "{ping:?}");
    assert!(!ping.text().contains(&pinger.secret()[17..]), "{ping:?}");

    let body = r#"{"monitors": [{"key": "nightly", "name": "nightly", "type": "job"}]}"#;
    gate.upstream().answer_with(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let made =
        cronitor(&gate, sdk.secret(), "print(Monitor.put(key='nightly', type='job', schedule='0 0 * * *').data.key)");
    assert_eq!(made, "nightly");
    let put = gate.upstream().last();
    assert_eq!((put.method.as_str(), put.target.as_str()), ("PUT", "/api/monitors"));
    assert!(!put.has("authorization") && put.header("x-portcullis-key-id") == Some(sdk.id()), "{put:?}");

    let seen = gate.upstream().requests().len();
    let refused = "try:\n    Monitor.put(key='nightly', type='job')\n    print('made')\nexcept Exception as error:\n    print('refused')";
    assert_eq!(cronitor(&gate, pinger.secret(), refused), "refused");
    assert_eq!(gate.upstream().requests().len(), seen);
}

#[test]
fn debians_prometheus_is_queried_by_promtool_through_the_gate() {
    if !is_installed("prometheus") || !is_installed("promtool") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("prometheus.yml"), "global: {}\n").expect("writable");
    let prometheus = Service::start("/-/ready", |address| {
        let mut command = Command::new("prometheus");
        command.current_dir(folder.path()).args([
            "--config.file=prometheus.yml".to_owned(),
            "--storage.tsdb.path=data".to_owned(),
            format!("--web.listen-address={address}"),
        ]);
        command
    });
    let url = format!("http://{}", prometheus.address);
    let gate = Gate::with(|setup| setup.preset("prometheus").upstream_url(&url));
    let (reader, writer) = (gate.key(&["metrics:read"]), gate.key(&["metrics:write"]));
    let query = |caller: &Caller| {
        let mut command = Command::new("promtool");
        command.args(["query", "instant"]).args(promtool_target(&gate, caller)).arg("vector(42)");
        Process::spawn(command).wait()
    };
    let answered = query(&reader);
    assert_eq!(answered.code, Some(0), "{answered:?}");
    assert!(answered.stdout.contains("=> 42"), "{answered:?}");
    let refused = query(&writer);
    assert_ne!(refused.code, Some(0), "{refused:?}");
}

/// Where promtool finds the gate and the key: in a file if this version takes one (from 2.45 on), else in the URL.
fn promtool_target(gate: &Gate, caller: &Caller) -> Vec<String> {
    let help = Command::new("promtool").args(["query", "--help"]).output().expect("promtool runs");
    let help = String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).into_owned();
    if !help.contains("--http.config.file") {
        println!("this promtool has no --http.config.file: the key goes in the URL");
        return vec![format!("http://{}:@{}", caller.secret(), gate.public())];
    }
    let config = gate.folder().join("http.yml");
    let text = format!("basic_auth:\n  username: {}\n  password: ''\n", caller.secret());
    std::fs::write(&config, text).expect("writable");
    vec![format!("--http.config.file={}", config.display()), format!("http://{}", gate.public())]
}

#[test]
fn debians_pushgateway_is_pushed_to_by_prometheus_client_through_the_gate() {
    if !is_installed("prometheus-pushgateway") || !has_module("prometheus_client", None) {
        return;
    }
    let pushgateway = Service::start("/-/ready", |address| {
        let mut command = Command::new("prometheus-pushgateway");
        command.arg(format!("--web.listen-address={address}"));
        command
    });
    let url = format!("http://{}", pushgateway.address);
    let gate = Gate::with(|setup| setup.preset("pushgateway").upstream_url(&url));
    let (pusher, reader) = (gate.key(&["metrics:write"]), gate.key(&["metrics:read"]));
    let push = |caller: &Caller| {
        let (public, key) = (gate.public(), caller.secret());
        python(&format!(
            "from prometheus_client import CollectorRegistry, Gauge, push_to_gateway\n\
             from prometheus_client.exposition import basic_auth_handler\n\
             registry = CollectorRegistry()\n\
             Gauge('pushed_value', 'A value', registry=registry).set(42)\n\
             handler = lambda **a: basic_auth_handler(**a, username='{key}', password='')\n\
             try:\n    push_to_gateway('{public}', job='night ly', grouping_key={{'path': '/a/b'}}, registry=registry, handler=handler)\n    print('pushed')\n\
             except Exception as error:\n    print(error)\n"
        ))
    };
    assert_eq!(push(&pusher), "pushed");
    assert!(push(&reader).contains("403"));
    let metrics = reader.get("/metrics").text();
    assert!(metrics.lines().any(|line| line.starts_with("pushed_value{") && line.ends_with(" 42")), "{metrics}");
}

#[test]
fn an_http_library_that_keeps_connections_is_served() {
    if !is_installed("python3") {
        return;
    }
    let gate = Gate::start();
    let reader = gate.key(&["monitor:read"]);
    gate.upstream().reply_always(Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    let address = gate.public();
    let script = format!(
        "import http.client\nc = http.client.HTTPConnection('{address}')\n\
         for _ in range(3):\n    c.request('GET', '/api/v1/query', headers={{'Authorization': '{}'}})\n    r = c.getresponse()\n    print(r.status, r.read().decode())\n",
        reader.authorization()
    );
    assert_eq!(python(&script), "200 ok\n200 ok\n200 ok");
    assert_eq!(gate.upstream().connections(), 1);
}
