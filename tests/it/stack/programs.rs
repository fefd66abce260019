//! The programs of the stack and the gate among them: how each is told of the others.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::harness::{Authority, GATE, Served, Setup, TlsClient};

use super::samples::Exporter;

/// How the parts of the stack reach the gate.
pub(super) struct Front {
    /// `None`: in clear text. Else with whatever protocol the two sides agree on.
    tls: Option<(Authority, TlsClient)>,
}

impl Front {
    pub(super) fn clear() -> Self {
        Self { tls: None }
    }

    pub(super) fn tls() -> Self {
        let authority = Authority::new("Stack CA");
        let client = TlsClient::trusting(&authority);
        Self { tls: Some((authority, client)) }
    }

    pub(super) fn client(&self) -> Option<&TlsClient> {
        self.tls.as_ref().map(|(_, client)| client)
    }

    /// The gate's options, with a new certificate each time.
    pub(super) fn configured(&self, setup: Setup) -> Setup {
        match &self.tls {
            None => setup,
            Some((authority, client)) => setup.tls(&authority.server("gate", &[GATE, "127.0.0.1"]), client),
        }
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// What a client's configuration of Prometheus' kind says of it.
    pub(super) fn yaml(&self) -> String {
        match &self.tls {
            None => "tls_config: {}".to_owned(),
            Some((authority, _)) => format!("tls_config: {{ ca_file: {} }}", authority.file().display()),
        }
    }

    /// The option of a program of VictoriaMetrics' kind.
    fn option(&self, prefix: &str) -> Option<String> {
        let (authority, _) = self.tls.as_ref()?;
        Some(format!("-{prefix}.tlsCAFile={}", authority.file().display()))
    }
}

/// What the gate stands in front of.
#[derive(Clone)]
pub(super) struct Places {
    pub(super) database: SocketAddr,
    pub(super) pushgateway: SocketAddr,
    pub(super) alertmanager: SocketAddr,
}

pub(super) fn configured(setup: Setup, places: &Places) -> Setup {
    setup
        .option("listen", "workers = 2")
        .option("scopes", r#""metrics:read" = "Query and scrape""#)
        .option("scopes", r#""metrics:write" = "Push samples""#)
        .option("scopes", r#""alerts:read" = "See alerts""#)
        .option("scopes", r#""alerts:write" = "Post alerts and silences""#)
        .option("requests", "limit_status = 503")
        .option("log", "access = true")
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

pub(super) fn victoria_metrics(address: SocketAddr, folder: &str) -> Command {
    let options = ["-retentionPeriod=1".to_owned(), "-search.latencyOffset=0s".to_owned()];
    let place = [format!("-httpListenAddr={address}"), format!("-storageDataPath={folder}")];
    command("victoria-metrics", options.into_iter().chain(place))
}

pub(super) fn prometheus(
    address: SocketAddr,
    folder: &Path,
    front: &Front,
    exporter: &Exporter,
    served: &Served,
) -> Command {
    let config = format!(
        r#"
global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s }}
rule_files: [prometheus.rules]
remote_write:
  - url: {scheme}://{host}/api/v1/write
    {tls}
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
    {tls}
    honor_labels: true
    scrape_interval: 2s
    scrape_timeout: 2s
    basic_auth: {{ username: prometheus, password_file: scrape.key }}
    static_configs: [{{ targets: ["{host}"] }}]
alerting:
  alertmanagers:
    - scheme: {scheme}
      {tls}
      basic_auth: {{ username: prometheus, password_file: alerts.key }}
      static_configs: [{{ targets: ["{host}"] }}]
"#,
        scheme = front.scheme(),
        host = served.public,
        tls = front.yaml(),
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

pub(super) fn vmagent(
    address: SocketAddr,
    folder: &Path,
    front: &Front,
    exporter: &Exporter,
    served: &Served,
) -> Command {
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
            format!("-remoteWrite.url={}://{}/api/v1/write", front.scheme(), served.public),
            "-remoteWrite.basicAuth.username=vmagent".to_owned(),
            format!("-remoteWrite.basicAuth.passwordFile={}", at("vmagent.key")),
            format!("-remoteWrite.tmpDataPath={}", at("vmagent")),
            "-remoteWrite.flushInterval=200ms".to_owned(),
        ]
        .into_iter()
        .chain(front.option("remoteWrite")),
    )
}

pub(super) fn vmalert(address: SocketAddr, folder: &Path, front: &Front, served: &Served) -> Command {
    let gate = format!("{}://{}", front.scheme(), served.public);
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
        ]
        .into_iter()
        .chain(front.option("datasource"))
        .chain(front.option("notifier")),
    )
}

fn rules(alert: &str) -> String {
    format!("groups:\n  - name: stack\n    rules:\n      - alert: {alert}\n        expr: max(stack_ticks) > 0\n")
}

pub(super) fn command(program: &str, arguments: impl IntoIterator<Item = String>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

pub(super) fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("writable");
}
