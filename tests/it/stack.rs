//! A day in the life of a monitoring stack whose parts talk to each other through the gate, all of Debian's packages.
//!
//! Prometheus and vmagent write into VictoriaMetrics, the Pushgateway is pushed to and scraped, Prometheus and vmalert
//! alert, amtool looks on. Meanwhile the configuration is reloaded, keys are rotated, VictoriaMetrics goes away and comes
//! back, and the gate is restarted. At the end no sample is missing.

mod programs;
mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{Caller, Installation, Process, Served, Service, Setup, check, is_installed};

use programs::{Front, Places, command, configured, prometheus, victoria_metrics, vmagent, vmalert, write};
use samples::{Exporter, Series, json, missing_samples, samples_of_prometheus, samples_of_victoria_metrics};

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

#[test]
fn a_monitoring_stack_loses_no_sample_while_everything_around_it_changes() {
    live_a_day(Front::clear());
}

#[test]
fn a_monitoring_stack_loses_no_sample_over_tls_while_everything_around_it_changes() {
    live_a_day(Front::tls());
}

fn live_a_day(front: Front) {
    if !PROGRAMS.into_iter().all(is_installed) {
        return;
    }
    let mut stack = Stack::start(front);
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
    stack.check_protocols();
    stack.check_alerts();
    stack.check_pushes();
    stack.check_samples();
}

/// Everything, in the order in which it is ended.
struct Stack {
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
    front: Front,
    folder: TempDir,
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
        let installation = Installation::with(|setup| front.configured(configured(setup, &places)));
        let secret = installation.init();
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let served = installation.serve_passing(&[("public", &socket)]);
        let root = served.caller(&secret).over(front.client());
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
        let prometheus =
            Service::start("/-/ready", |address| prometheus(address, folder.path(), &front, &exporter, &served));
        let agents = vec![
            Service::start("/health", |address| vmagent(address, folder.path(), &front, &exporter, &served)),
            Service::start("/health", |address| vmalert(address, folder.path(), &front, &served)),
        ];
        Self {
            front,
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
            self.configured(setup).option("limits", r#"key = { rate = "1000/s" }"#).option("client", "headers_max = 99")
        });
        self.served.process.signal("HUP");
        self.served.process.wait_for(|line| line.contains("configuration reloaded"));
        std::fs::write(&path, format!("{good}nonsense = = 1\n")).expect("writable");
        self.served.process.signal("HUP");
        self.served.process.wait_for(|line| line.contains("not reloaded"));
        self.installation.rewrite(|setup| self.configured(setup));
    }

    fn configured(&self, setup: Setup) -> Setup {
        self.front.configured(configured(setup, &self.places))
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

    /// What amtool prints, through the gate.
    fn amtool(&self, arguments: &[&str]) -> String {
        let http = format!(
            "basic_auth:\n  username: amtool\n  password_file: {}\n{}\n",
            self.folder.path().join("amtool.key").display(),
            self.front.yaml()
        );
        write(self.folder.path(), "amtool.yml", &http);
        let mut command = Command::new("amtool");
        command.arg(format!("--alertmanager.url={}://{}", self.front.scheme(), self.served.public));
        command.arg(format!("--http.config.file={}", self.folder.path().join("amtool.yml").display()));
        command.args(arguments);
        let exit = Process::spawn(command).wait();
        assert_eq!(exit.code, Some(0), "amtool {arguments:?}: {exit:?}");
        exit.stdout
    }

    /// Both alerts have come through the gate, and amtool sees them through it.
    fn check_alerts(&self) {
        let names = || {
            let alerts: serde_json::Value =
                serde_json::from_str(&self.amtool(&["alert", "query", "-o", "json"])).expect("JSON");
            let alerts = alerts.as_array().expect("a list").clone();
            let name = |alert: &serde_json::Value| Some(alert["labels"]["alertname"].as_str()?.to_owned());
            alerts.iter().filter_map(name).collect::<BTreeSet<String>>()
        };
        let expected = BTreeSet::from(["FromPrometheus".to_owned(), "FromVmalert".to_owned()]);
        until("both alerts are there", || names() == expected);
        let silence = self.amtool(&["silence", "add", "--comment=night", "--duration=1h", "alertname=FromVmalert"]);
        let silenced = || self.amtool(&["silence", "query", "-q"]).trim() == silence.trim();
        until("the silence is there", silenced);
        let direct = Caller::new(self.alertmanager.address, None).get("/api/v2/silences").text();
        assert!(direct.contains(silence.trim()), "{direct}");
    }

    /// What was pushed last through the gate is what Prometheus has scraped through it.
    fn check_pushes(&self) {
        let pushed = self.pushed.to_string();
        until("the last push is scraped", || {
            let answer = Caller::new(self.prometheus.address, None).get("/api/v1/query?query=stack_pushes").json();
            answer["data"]["result"][0]["value"][1] == pushed.as_str()
        });
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

    /// Over TLS HTTP/2 is negotiated, by Prometheus for both of its directions (vmagent and vmalert do not ask for it) and
    /// by amtool, which has not been run yet. In clear text nobody speaks it.
    fn check_protocols(&mut self) {
        let expected = if self.front.client().is_some() { "HTTP/2.0" } else { "HTTP/1.1" };
        for file in ["prometheus.key", "scrape.key"] {
            let key = std::fs::read_to_string(self.folder.path().join(file)).expect("readable");
            let id = format!("\"key.id\":\"{}\"", &key[..16]);
            // What the test itself pushes with the key is no agent's.
            let of_key = |line: &str| line.contains(&id) && !line.contains("\"method\":\"PUT\"");
            let line = self.served.process.wait_for(of_key);
            assert_eq!(json(&line)["protocol"], expected, "{file}: {line}");
        }
        let metrics = || self.served.ops_get("/metrics").text();
        let over_http2 = || {
            let metrics = metrics();
            let sample = "portcullis_connections_by_protocol_total{protocol=\"http2\"} ";
            let value = metrics.lines().find_map(|line| line.strip_prefix(sample)).map(str::parse::<f64>);
            value.expect("the sample").expect("a number")
        };
        let before = over_http2();
        assert_eq!(before > 0.0, self.front.client().is_some(), "{before} connections of HTTP/2");
        self.amtool(&["alert", "query"]);
        assert_eq!(over_http2() > before, self.front.client().is_some(), "amtool");
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
