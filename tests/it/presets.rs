//! Who may do what under each preset in `config/`, endpoint by endpoint of the product.

use std::collections::BTreeSet;
use std::path::Path as FilePath;

use portcullis::clock::Timestamp;
use portcullis::config::Config;
use portcullis::key::{ALL, Digest, KeyName, KeyRecord, Kind, Scope, ScopeSet};
use portcullis::policy::{Deny, authorize};
use portcullis::route::{Found, Path};

#[test]
fn prometheus_preset_guards_every_endpoint() {
    check("prometheus", include_str!("presets/prometheus.txt"));
}

#[test]
fn victoriametrics_preset_guards_every_endpoint() {
    check("victoriametrics", include_str!("presets/victoriametrics.txt"));
}

#[test]
fn loki_preset_guards_every_endpoint() {
    check("loki", include_str!("presets/loki.txt"));
}

#[test]
fn mimir_preset_guards_every_endpoint() {
    check("mimir", include_str!("presets/mimir.txt"));
}

#[test]
fn pushgateway_preset_guards_every_endpoint() {
    check("pushgateway", include_str!("presets/pushgateway.txt"));
}

#[test]
fn alertmanager_preset_guards_every_endpoint() {
    check("alertmanager", include_str!("presets/alertmanager.txt"));
}

#[test]
fn cronitor_preset_guards_every_endpoint() {
    check("cronitor", include_str!("presets/cronitor.txt"));
}

#[test]
fn what_may_take_long_may_answer_late() {
    for product in ["alertmanager", "cronitor", "loki", "mimir", "prometheus", "pushgateway", "victoriametrics"] {
        let config = config(product);
        for (pattern, line) in config.routes.lines().filter(|(_, line)| line.settings.timeout > config.requests.timeout)
        {
            let settings = &line.settings;
            assert!(settings.response_timeout >= settings.timeout, "{product}: {pattern}: {settings:?}");
        }
    }
}

#[test]
fn the_event_stream_of_prometheus_may_be_silent() {
    let config = config("prometheus");
    let is_stream = |pattern: &str| pattern == "GET /api/v1/notifications/live";
    let (_, line) = config.routes.lines().find(|(pattern, _)| is_stream(&pattern.to_string())).expect("its line");
    assert_eq!((line.settings.timeout, line.settings.body_timeout), (None, None));
}

#[test]
fn telemetry_key_can_do_nothing_but_ping() {
    let preset = Preset::load("cronitor");
    let key = key(Kind::Telemetry, Kind::Telemetry.fixed_scopes().unwrap());
    for (need, request) in requests(include_str!("presets/cronitor.txt")).filter(|(need, _)| need.contains(':')) {
        let expected = if need == "telemetry:write" { "admitted" } else { "403" };
        assert_eq!(preset.verdict(&request, Some(&key)), expected, "{request}");
    }
}

#[test]
fn sdk_key_can_do_all_that_the_python_client_does() {
    let preset = Preset::load("cronitor");
    let key = key(Kind::SdkIntegration, Kind::SdkIntegration.fixed_scopes().unwrap());
    for request in [
        "GET /api/monitors",
        "GET /api/monitors.yaml",
        "PUT /api/monitors",
        "PUT /api/monitors.yaml",
        "GET /api/monitors/nightly-backup",
        "DELETE /api/monitors/nightly-backup",
        "GET /api/monitors/nightly-backup/pause/24",
        "GET /p/pcl_0123456789AB/nightly-backup",
    ] {
        assert_eq!(preset.verdict(request, Some(&key)), "admitted", "{request}");
    }
    assert_eq!(preset.verdict("GET /api/issues", Some(&key)), "403");
}

#[test]
fn ping_reads_its_key_from_the_path() {
    let preset = Preset::load("cronitor");
    for raw in ["/p/KEY/job", "/p/KEY/job/complete", "/ping/KEY/job", "/ping/KEY/job/fail"] {
        let path = Path::parse(raw).unwrap();
        let Found::Line { credential, .. } = preset.config.routes.find(None, &path, "GET") else { panic!("{raw}") };
        assert_eq!(&raw[credential.unwrap()], "KEY");
    }
}

struct Preset {
    config: Config,
    lines_met: std::cell::RefCell<BTreeSet<String>>,
}

fn config(name: &str) -> Config {
    let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("config").join(format!("{name}.toml"));
    Config::load(&path).unwrap_or_else(|problems| panic!("{problems}"))
}

impl Preset {
    fn load(name: &str) -> Self {
        Self { config: config(name), lines_met: Default::default() }
    }

    /// What a caller with this key (or none) gets.
    fn verdict(&self, request: &str, key: Option<&KeyRecord>) -> &'static str {
        let (method, raw) = request.split_once(' ').unwrap();
        let path = Path::parse(raw).unwrap();
        match self.config.routes.find(None, &path, method) {
            Found::Line { line, pattern, .. } => {
                self.lines_met.borrow_mut().insert(pattern.to_string());
                let opted_in = line.settings.allow_encoded_slash || !path.has_encoded_slash();
                match authorize(&line.settings.requirement, key) {
                    _ if !opted_in => "400",
                    Ok(_) => "admitted",
                    Err(Deny::KeyMissing) => "401",
                    Err(Deny::ScopeMissing { .. }) => "403",
                    Err(other) => panic!("{request}: {other}"),
                }
            }
            Found::MethodNotAllowed { .. } => "405",
            Found::Nothing => "404",
        }
    }

    /// Every scope that a key can have here but `*`.
    fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.config.scopes.iter().map(|(scope, _)| scope.clone()).filter(|scope| scope.as_str() != ALL)
    }
}

fn key(kind: Kind, scopes: ScopeSet) -> KeyRecord {
    KeyRecord {
        id: "pcl_0123456789AB".parse().unwrap(),
        digest: Digest::from_bytes([0; 32]),
        name: KeyName::parse("caller").unwrap(),
        kind,
        scopes,
        created: Timestamp::from_unix(0),
        updated: Timestamp::from_unix(0),
        created_revision: 1,
        revision: 1,
    }
}

/// The rows of a table, `NEED METHOD[,METHOD] PATH` each, one by one for each method: what it needs, and the request.
fn requests(table: &'static str) -> impl Iterator<Item = (&'static str, String)> {
    table.lines().flat_map(|row| {
        let mut columns = row.split_whitespace();
        let [need, methods, path] = [(); 3].map(|()| columns.next().unwrap_or_else(|| panic!("row {row}")));
        methods.split(',').map(move |method| (need, format!("{method} {path}")))
    })
}

/// Walks a table. NEED is the scope that admits alone, while all others together do not; or `public`; or the status
/// that everybody gets. No line of the preset may go untried.
#[track_caller]
fn check(name: &str, table: &'static str) {
    let preset = Preset::load(name);
    let only = |wanted: &str| ScopeSet::new(preset.scopes().filter(|scope| scope.as_str() == wanted));
    let without = |wanted: &str| ScopeSet::new(preset.scopes().filter(|scope| scope.as_str() != wanted));
    for (need, request) in requests(table) {
        let with_only = key(Kind::Custom, only(need));
        let with_others = key(Kind::Custom, without(need));
        let (admitted, refused, stranger) = match need {
            "public" => ("admitted", "admitted", "admitted"),
            "400" | "404" | "405" => (need, need, need),
            _ => ("admitted", "403", "401"),
        };
        assert_eq!(preset.verdict(&request, Some(&with_only)), admitted, "{name}: {request} with {need} alone");
        assert_eq!(preset.verdict(&request, Some(&with_others)), refused, "{name}: {request} with all but {need}");
        assert_eq!(preset.verdict(&request, None), stranger, "{name}: {request} without a key");
    }
    let met = preset.lines_met.borrow();
    let untried: Vec<String> = preset.config.routes.lines().map(|(pattern, _)| pattern.to_string()).collect();
    let untried: Vec<&String> = untried.iter().filter(|line| !met.contains(*line)).collect();
    assert!(untried.is_empty(), "{name}: lines without a row: {untried:#?}");
}
