//! A day in the life of a monitoring stack whose parts talk to each other through the gate, all of Debian's packages.
//!
//! Prometheus and vmagent write into VictoriaMetrics, the Pushgateway is pushed to and scraped, Prometheus and vmalert
//! alert, amtool looks on. Meanwhile the configuration is reloaded, keys are rotated, VictoriaMetrics goes away and comes
//! back, and the gate is restarted. At the end no sample is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{Caller, Installation, Process, Served, Service, Setup, check, is_installed};

const PROGRAMS: [&str; 7] = [
    "prometheus",
    "victoria-metrics",
    "vmagent",
    "vmalert",
    "prometheus-pushgateway",
    "prometheus-alertmanager",
    "amtool",
];

/// How long any step may take: these are big programs, and the machine is small.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the parts of the stack reach the gate.
#[derive(Clone, Copy)]
struct Front {
    scheme: &'static str,
}

#[test]
fn a_monitoring_stack_loses_no_sample_while_everything_around_it_changes() {
    if !PROGRAMS.into_iter().all(is_installed) {
        return;
    }
    let mut stack = Stack::start(Front { scheme: "http" });
    stack.live_on();
    stack.reload_well_and_badly();
    stack.live_on();
    stack.rotate_keys();
    stack.live_on();
    stack.lose_and_regain_the_database();
    stack.live_on();
    for _ in 0..2 {
        stack.restart_the_gate();
        stack.live_on();
    }
    stack.check_alerts();
    stack.check_samples();
}

/// Everything, from the inside out. Dropped in this order.
struct Stack {
    folder: TempDir,
    agents: Vec<Service>,
    prometheus: Service,
    served: Served,
    /// The gate's, which outlives each of its processes.
    socket: TcpListener,
    installation: Installation,
    root: Caller,
    places: Places,
    alertmanager: Service,
    _pushgateway: Service,
    database: Service,
    exporter: Exporter,
    /// The keys that write samples, by the file that holds them.
    writers: BTreeMap<&'static str, Caller>,
    pushed: u64,
}

/// What the gate stands in front of.
#[derive(Clone)]
struct Places {
    database: SocketAddr,
    pushgateway: SocketAddr,
    alertmanager: SocketAddr,
}

impl Stack {
    fn start(front: Front) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let exporter = Exporter::start();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let database = Service::start("/health", |address| victoria_metrics(address, &at("database")));
        let pushgateway = Service::start("/-/ready", |address| {
            command("prometheus-pushgateway", [format!("--web.listen-address={address}")])
        });
        let alertmanager = Service::start("/-/ready", |address| {
            write(folder.path(), "alertmanager.yml", "route: { receiver: none }\nreceivers: [{ name: none }]\n");
            command(
                "prometheus-alertmanager",
                [
                    format!("--config.file={}", at("alertmanager.yml")),
                    format!("--storage.path={}", at("alertmanager")),
                    format!("--web.listen-address={address}"),
                    "--cluster.listen-address=".to_owned(),
                ],
            )
        });
        let places =
            Places { database: database.address, pushgateway: pushgateway.address, alertmanager: alertmanager.address };
        let installation = Installation::with(|setup| configured(setup, &places));
        let secret = installation.init();
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let served = installation.serve_passing(&[("public", &socket)]);
        let root = served.caller(&secret);
        let mut writers = BTreeMap::new();
        for (file, scopes) in [
            ("prometheus.key", &["metrics:write"][..]),
            ("vmagent.key", &["metrics:write"]),
            ("vmalert.key", &["metrics:read", "alerts:write"]),
            ("scrape.key", &["metrics:read"]),
            ("alerts.key", &["alerts:write"]),
            ("amtool.key", &["alerts:read", "alerts:write"]),
        ] {
            let key = root.create(scopes);
            write(folder.path(), file, key.secret());
            if scopes == ["metrics:write"] {
                writers.insert(file, key);
            }
        }
        let gate = format!("{}://{}", front.scheme, served.public);
        let prometheus =
            Service::start("/-/ready", |address| prometheus(address, folder.path(), &gate, &exporter, &served));
        let agents = vec![
            Service::start("/health", |address| vmagent(address, folder.path(), &gate, &exporter)),
            Service::start("/health", |address| vmalert(address, folder.path(), &gate)),
        ];
        Self {
            folder,
            agents,
            prometheus,
            served,
            socket,
            installation,
            root,
            places,
            alertmanager,
            _pushgateway: pushgateway,
            database,
            exporter,
            writers,
            pushed: 0,
        }
    }

    /// Waits until both agents have scraped some more, and pushes a value meanwhile.
    fn live_on(&mut self) {
        self.pushed += 1;
        let pusher = &self.writers["prometheus.key"];
        let body = format!("stack_pushes {}\n", self.pushed);
        let pushed = pusher.request("PUT", "/metrics/job/batch/step/one", &[], body.as_bytes());
        assert!(matches!(pushed.status, 200 | 202), "{pushed:?}");
        self.exporter.wait_for_more(3);
    }

    fn reload_well_and_badly(&mut self) {
        let path = self.installation.config();
        let good = std::fs::read_to_string(&path).expect("readable");
        self.installation.rewrite(|setup| {
            configured(setup, &self.places)
                .option("limits", r#"key = { rate = "1000/s" }"#)
                .option("client", "headers_max = 99")
        });
        self.served.process.signal("HUP");
        self.served.process.wait_for(|line| line.contains("configuration reloaded"));
        std::fs::write(&path, format!("{good}nonsense = = 1\n")).expect("writable");
        self.served.process.signal("HUP");
        self.served.process.wait_for(|line| line.contains("not reloaded"));
        self.installation.rewrite(|setup| configured(setup, &self.places));
    }

    /// A new key for whoever writes samples; the old one is deleted once the new one is in use.
    fn rotate_keys(&mut self) {
        for (file, key) in &mut self.writers {
            let old = std::mem::replace(key, self.root.create(&["metrics:write"]));
            // Written whole or not at all, as a secret that is mounted is.
            write(self.folder.path(), "next.key", key.secret());
            std::fs::rename(self.folder.path().join("next.key"), self.folder.path().join(file)).expect("one folder");
            let path = format!("/api/keys/{}", key.id());
            until("the new key is used", || self.root.get(&path).json()["last_used"].is_string());
            self.exporter.wait_for_more(2);
            check(&self.root.delete(old.id()), 204);
            check(&old.post("/api/v1/write", ""), 401);
        }
    }

    fn lose_and_regain_the_database(&mut self) {
        let address = self.database.address;
        // It is not killed: what it has not yet written is lost then, which no gate in front of it can help.
        self.database.process.signal("TERM");
        until("the database is gone", || TcpStream::connect(address).is_err());
        self.exporter.wait_for_more(3);
        let folder = self.folder.path().join("database").display().to_string();
        self.database = Service::start_at(address, "/health", |address| victoria_metrics(address, &folder));
    }

    fn restart_the_gate(&mut self) {
        self.served.process.signal("TERM");
        self.served.process.wait_for(|line| line.contains("stopped"));
        self.served = self.installation.serve_passing(&[("public", &self.socket)]);
    }

    /// Both alerts have come through the gate, and amtool sees them through it.
    fn check_alerts(&self) {
        let http = format!(
            "basic_auth:\n  username: amtool\n  password_file: {}\n",
            self.folder.path().join("amtool.key").display()
        );
        write(self.folder.path(), "amtool.yml", &http);
        let amtool = |arguments: &[&str]| {
            let mut command = Command::new("amtool");
            command.arg(format!("--alertmanager.url=http://{}", self.served.public));
            command.arg(format!("--http.config.file={}", self.folder.path().join("amtool.yml").display()));
            command.args(arguments);
            let exit = Process::spawn(command).wait();
            assert_eq!(exit.code, Some(0), "amtool {arguments:?}: {exit:?}");
            exit.stdout
        };
        let names = || {
            let alerts: serde_json::Value =
                serde_json::from_str(&amtool(&["alert", "query", "-o", "json"])).expect("JSON");
            let alerts = alerts.as_array().expect("a list").clone();
            let name = |alert: &serde_json::Value| Some(alert["labels"]["alertname"].as_str()?.to_owned());
            alerts.iter().filter_map(name).collect::<BTreeSet<String>>()
        };
        let expected = BTreeSet::from(["FromPrometheus".to_owned(), "FromVmalert".to_owned()]);
        until("both alerts are there", || names() == expected);
        let silence = amtool(&["silence", "add", "--comment=night", "--duration=1h", "alertname=FromVmalert"]);
        let silenced = || amtool(&["silence", "query", "-q"]).trim() == silence.trim();
        until("the silence is there", silenced);
        let direct = Caller::new(self.alertmanager.address, None).get("/api/v2/silences").text();
        assert!(direct.contains(silence.trim()), "{direct}");
    }

    /// Every sample that Prometheus has is in the database, and what vmagent scraped without a gap is there without one.
    fn check_samples(&self) {
        let kept = samples_of_prometheus(self.prometheus.address);
        let count = kept.values().map(BTreeSet::len).sum::<usize>();
        let name = |series: &Series, name: &str| series.get("__name__").is_some_and(|is| is == name);
        let ticks = kept.iter().find(|(series, _)| name(series, "stack_ticks")).expect("the known series").1;
        assert!(ticks.len() > 20 && count > 1_000, "{} ticks, {count} samples", ticks.len());
        let mut missing = Vec::new();
        let is_complete = || {
            let there = samples_of_victoria_metrics(self.database.address);
            missing = missing_samples(&kept, &there);
            missing.is_empty()
        };
        let completed = becomes_true(is_complete);
        assert!(completed, "{} of {count} samples are missing: {:?}", missing.len(), &missing[..missing.len().min(10)]);
        println!("{} series, {count} samples, {} of the known series", kept.len(), ticks.len());
        self.check_ticks_of_vmagent();
        for (address, sample) in [
            (self.prometheus.address, "prometheus_remote_storage_samples_failed_total{"),
            (self.prometheus.address, "prometheus_remote_storage_samples_dropped_total{"),
            (self.agents[0].address, "vmagent_remotewrite_packets_dropped_total{"),
        ] {
            let page = Caller::new(address, None).get("/metrics").text();
            let dropped: Vec<&str> =
                page.lines().filter(|line| line.starts_with(sample) && !line.ends_with(" 0")).collect();
            assert!(dropped.is_empty(), "{dropped:?}");
        }
    }

    fn check_ticks_of_vmagent(&self) {
        let seen = self.exporter.scrapes("vmagent");
        let mut told = String::new();
        let is_complete = || {
            let query = "/api/v1/export?match%5B%5D=%7Bjob%3D%22ticks_of_vmagent%22%7D";
            let exported = Caller::new(self.database.address, None).get(query).text();
            let values = |name: &str| {
                let series = exported.lines().map(json).find(|series| series["metric"]["__name__"] == name);
                let values = series.map(|series| series["values"].as_array().expect("values").clone());
                values.unwrap_or_default().iter().filter_map(serde_json::Value::as_f64).collect::<Vec<f64>>()
            };
            let ticks: BTreeSet<u64> = values("stack_ticks").iter().map(|tick| *tick as u64).collect();
            let timed_out = values("up").iter().filter(|up| **up == 0.0).count() as u64;
            told = format!("{seen} scrapes, {timed_out} of them too late, ticks {ticks:?}");
            ticks.last() >= Some(&seen) && ticks.len() as u64 + timed_out >= *ticks.last().expect("some")
        };
        assert!(becomes_true(is_complete), "{told}");
    }
}

fn configured(setup: Setup, places: &Places) -> Setup {
    setup
        .option("listen", "workers = 2")
        .option("scopes", r#""metrics:read" = "Query and scrape""#)
        .option("scopes", r#""metrics:write" = "Push samples""#)
        .option("scopes", r#""alerts:read" = "See alerts""#)
        .option("scopes", r#""alerts:write" = "Post alerts and silences""#)
        .option("requests", "limit_status = 503")
        .no_routes()
        .upstream_url(&format!("http://{}", places.database))
        .route("POST /api/v1/write", r#""metrics:write""#)
        .route("GET,POST /api/v1/query", r#""metrics:read""#)
        .option("upstream.pushgateway", &format!("url = \"http://{}\"", places.pushgateway))
        .option("upstream.pushgateway.routes", r#""GET /metrics" = "metrics:read""#)
        .option("upstream.pushgateway.routes", r#""PUT,POST /metrics/job/{job}/{*labels}" = "metrics:write""#)
        .option("upstream.alertmanager", &format!("url = \"http://{}\"", places.alertmanager))
        .option("upstream.alertmanager.routes", r#""GET /api/v2/status" = "alerts:read""#)
        .option("upstream.alertmanager.routes", r#""GET /api/v2/alerts" = "alerts:read""#)
        .option("upstream.alertmanager.routes", r#""GET /api/v2/silences" = "alerts:read""#)
        .option("upstream.alertmanager.routes", r#""POST /api/v2/alerts" = "alerts:write""#)
        .option("upstream.alertmanager.routes", r#""POST /api/v2/silences" = "alerts:write""#)
}

fn victoria_metrics(address: SocketAddr, folder: &str) -> Command {
    let options = ["-retentionPeriod=1".to_owned(), "-search.latencyOffset=0s".to_owned()];
    let place = [format!("-httpListenAddr={address}"), format!("-storageDataPath={folder}")];
    command("victoria-metrics", options.into_iter().chain(place))
}

fn prometheus(address: SocketAddr, folder: &Path, gate: &str, exporter: &Exporter, served: &Served) -> Command {
    let (scheme, host) = gate.split_once("://").expect("a URL");
    let config = format!(
        r#"
global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s }}
rule_files: [prometheus.rules]
remote_write:
  - url: {gate}/api/v1/write
    basic_auth: {{ username: prometheus, password_file: prometheus.key }}
    queue_config: {{ max_shards: 1, batch_send_deadline: 200ms, min_backoff: 50ms, max_backoff: 500ms }}
scrape_configs:
  - job_name: ticks
    metrics_path: /prometheus
    static_configs: [{{ targets: ["{exporter}"] }}]
  - job_name: gate
    static_configs: [{{ targets: ["{ops}"] }}]
  - job_name: pushes
    scheme: {scheme}
    honor_labels: true
    scrape_interval: 2s
    scrape_timeout: 2s
    basic_auth: {{ username: prometheus, password_file: scrape.key }}
    static_configs: [{{ targets: ["{host}"] }}]
alerting:
  alertmanagers:
    - scheme: {scheme}
      basic_auth: {{ username: prometheus, password_file: alerts.key }}
      static_configs: [{{ targets: ["{host}"] }}]
"#,
        exporter = exporter.address,
        ops = served.ops,
    );
    write(folder, "prometheus.yml", &config);
    write(folder, "prometheus.rules", &rules("FromPrometheus"));
    let at = |name: &str| folder.join(name).display().to_string();
    command(
        "prometheus",
        [
            format!("--config.file={}", at("prometheus.yml")),
            format!("--storage.tsdb.path={}", at("prometheus")),
            format!("--web.listen-address={address}"),
        ],
    )
}

fn vmagent(address: SocketAddr, folder: &Path, gate: &str, exporter: &Exporter) -> Command {
    let config = format!(
        "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms }}\nscrape_configs:\n  - job_name: ticks_of_vmagent\n    \
         metrics_path: /vmagent\n    static_configs: [{{ targets: [\"{}\"] }}]\n",
        exporter.address
    );
    write(folder, "vmagent.yml", &config);
    let at = |name: &str| folder.join(name).display().to_string();
    command(
        "vmagent",
        [
            format!("-httpListenAddr={address}"),
            format!("-promscrape.config={}", at("vmagent.yml")),
            format!("-remoteWrite.url={gate}/api/v1/write"),
            "-remoteWrite.basicAuth.username=vmagent".to_owned(),
            format!("-remoteWrite.basicAuth.passwordFile={}", at("vmagent.key")),
            format!("-remoteWrite.tmpDataPath={}", at("vmagent")),
            "-remoteWrite.flushInterval=200ms".to_owned(),
        ],
    )
}

fn vmalert(address: SocketAddr, folder: &Path, gate: &str) -> Command {
    write(folder, "vmalert.rules", &rules("FromVmalert"));
    let at = |name: &str| folder.join(name).display().to_string();
    command(
        "vmalert",
        [
            format!("-httpListenAddr={address}"),
            format!("-rule={}", at("vmalert.rules")),
            "-evaluationInterval=1s".to_owned(),
            format!("-datasource.url={gate}"),
            "-datasource.basicAuth.username=vmalert".to_owned(),
            format!("-datasource.basicAuth.passwordFile={}", at("vmalert.key")),
            format!("-notifier.url={gate}"),
            "-notifier.basicAuth.username=vmalert".to_owned(),
            format!("-notifier.basicAuth.passwordFile={}", at("vmalert.key")),
        ],
    )
}

fn rules(alert: &str) -> String {
    format!("groups:\n  - name: stack\n    rules:\n      - alert: {alert}\n        expr: max(stack_ticks) > 0\n")
}

fn command(program: &str, arguments: impl IntoIterator<Item = String>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("writable");
}

/// Waits until something is true.
#[track_caller]
fn until(what: &str, is_true: impl FnMut() -> bool) {
    assert!(becomes_true(is_true), "it did not come to be that {what}");
}

fn becomes_true(mut is_true: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if is_true() {
            return true;
        }
    }
    false
}

type Series = BTreeMap<String, String>;
/// Milliseconds at which each series has a sample.
type Samples = BTreeMap<Series, BTreeSet<i64>>;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn series(labels: &serde_json::Value) -> Series {
    let labels = labels.as_object().expect("labels");
    labels.iter().map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned())).collect()
}

fn samples_of_prometheus(address: SocketAddr) -> Samples {
    let query = "/api/v1/query?query=%7Bjob%3D~%22.%2B%22%7D%5B1h%5D";
    let answer = Caller::new(address, None).get(query).json();
    let all = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let moments = |values: &serde_json::Value| {
        let moment = |sample: &serde_json::Value| (sample[0].as_f64().expect("seconds") * 1_000.0).round() as i64;
        values.as_array().expect("samples").iter().map(moment).collect()
    };
    all.iter().map(|one| (series(&one["metric"]), moments(&one["values"]))).collect()
}

fn samples_of_victoria_metrics(address: SocketAddr) -> Samples {
    let exported = Caller::new(address, None).get("/api/v1/export?match%5B%5D=%7Bjob%21%3D%22%22%7D").text();
    let mut samples = Samples::new();
    for one in exported.lines().map(json) {
        let moments = one["timestamps"].as_array().expect("timestamps").iter().filter_map(serde_json::Value::as_i64);
        samples.entry(series(&one["metric"])).or_default().extend(moments);
    }
    samples
}

fn missing_samples(kept: &Samples, there: &Samples) -> Vec<(Series, i64)> {
    let none = BTreeSet::new();
    let missing = kept.iter().flat_map(|(series, moments)| {
        let found = there.get(series).unwrap_or(&none);
        moments.difference(found).map(|moment| (series.clone(), *moment))
    });
    missing.collect()
}

/// A target that counts its scrapes, by path, and shows the count: each sample of it is another one.
struct Exporter {
    address: SocketAddr,
    counts: Arc<(Mutex<BTreeMap<String, u64>>, Condvar)>,
}

impl Exporter {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let exporter = Self { address: listener.local_addr().expect("an address"), counts: Arc::default() };
        let counts = Arc::clone(&exporter.counts);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = Arc::clone(&counts);
                std::thread::spawn(move || drop(show_counts(stream, &counts)));
            }
        });
        exporter
    }

    fn scrapes(&self, agent: &str) -> u64 {
        self.counts.0.lock().expect("whole").get(agent).copied().unwrap_or(0)
    }

    /// Waits until both agents have scraped so often from now on.
    #[track_caller]
    fn wait_for_more(&self, count: u64) {
        let wanted = ["prometheus", "vmagent"].map(|agent| (agent, self.scrapes(agent) + count));
        let counts = self.counts.0.lock().expect("whole");
        let is_short = |counts: &mut BTreeMap<String, u64>| {
            wanted.iter().any(|(agent, wanted)| counts.get(*agent).is_none_or(|count| count < wanted))
        };
        let waited = self.counts.1.wait_timeout_while(counts, PATIENCE, is_short).expect("whole");
        assert!(!waited.1.timed_out(), "an agent does not scrape: {:?}, wanted {wanted:?}", waited.0);
    }
}

fn show_counts(stream: TcpStream, counts: &(Mutex<BTreeMap<String, u64>>, Condvar)) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(request) = lines.next().transpose()? {
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let agent = request.split([' ', '/']).nth(2).unwrap_or_default().to_owned();
        let mut known = counts.0.lock().expect("whole");
        let count = known.entry(agent).or_default();
        *count += 1;
        let body = format!("# TYPE stack_ticks counter\nstack_ticks {count}\n");
        drop(known);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
        (&stream).write_all((head + &body).as_bytes())?;
        counts.1.notify_all();
    }
    Ok(())
}
