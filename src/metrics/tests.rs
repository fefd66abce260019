//! Tests of the metric families.

use std::sync::Arc;
use std::time::Duration;

use super::{AuditOperation, LOCAL, LimitKind, Metrics, NO_ROUTE, Outcome, StoreOperation, UpstreamFailure};
use crate::clock::{Clock, Timestamp};
use crate::key::Kind;

fn clock() -> Clock {
    Clock::manual(Timestamp::from_unix(1_700_000_000))
}

fn metrics() -> Arc<Metrics> {
    Metrics::new(2, clock())
}

/// The page's lines of one family, help and type included.
fn family(metrics: &Metrics, name: &str) -> String {
    let page = metrics.encode();
    let belongs = |line: &&str| {
        let line = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
    };
    page.lines().filter(belongs).map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn check(metrics: &Metrics, sample: &str) {
    let page = metrics.encode();
    assert!(page.lines().any(|line| line == sample), "{sample} is not in\n{page}");
}

#[test]
fn requests_count_by_route_upstream_and_status_class() {
    let metrics = metrics();
    let route = metrics.route("GET /api/{id}", "tsdb");
    route.finished(200);
    metrics.route("GET /api/{id}", "tsdb").finished(204);
    let unmatched = metrics.route(NO_ROUTE, LOCAL);
    unmatched.finished(404);

    let expected = "\
# HELP portcullis_requests_total Requests answered, when the response ends, fails or is refused.
# TYPE portcullis_requests_total counter
portcullis_requests_total{route=\"(none)\",upstream=\"(local)\",status_class=\"1xx\"} 0
portcullis_requests_total{route=\"(none)\",upstream=\"(local)\",status_class=\"2xx\"} 0
portcullis_requests_total{route=\"(none)\",upstream=\"(local)\",status_class=\"3xx\"} 0
portcullis_requests_total{route=\"(none)\",upstream=\"(local)\",status_class=\"4xx\"} 1
portcullis_requests_total{route=\"(none)\",upstream=\"(local)\",status_class=\"5xx\"} 0
portcullis_requests_total{route=\"(none)\",upstream=\"(local)\",status_class=\"none\"} 0
portcullis_requests_total{route=\"GET /api/{id}\",upstream=\"tsdb\",status_class=\"1xx\"} 0
portcullis_requests_total{route=\"GET /api/{id}\",upstream=\"tsdb\",status_class=\"2xx\"} 2
portcullis_requests_total{route=\"GET /api/{id}\",upstream=\"tsdb\",status_class=\"3xx\"} 0
portcullis_requests_total{route=\"GET /api/{id}\",upstream=\"tsdb\",status_class=\"4xx\"} 0
portcullis_requests_total{route=\"GET /api/{id}\",upstream=\"tsdb\",status_class=\"5xx\"} 0
portcullis_requests_total{route=\"GET /api/{id}\",upstream=\"tsdb\",status_class=\"none\"} 0
";
    assert_eq!(family(&metrics, "portcullis_requests_total"), expected);
}

#[test]
fn status_that_has_no_class_counts_in_the_nearest_and_none_as_none() {
    let metrics = metrics();
    let route = metrics.route("r", "u");
    [0, 99, 600, u16::MAX].into_iter().for_each(|status| route.finished(status));

    check(&metrics, "portcullis_requests_total{route=\"r\",upstream=\"u\",status_class=\"none\"} 2");
    check(&metrics, "portcullis_requests_total{route=\"r\",upstream=\"u\",status_class=\"5xx\"} 2");
}

#[test]
fn observation_falls_into_each_bucket_that_is_not_below_it() {
    let metrics = metrics();
    metrics.request_started();
    metrics.request_finished(Duration::from_micros(25));
    metrics.request_started();
    metrics.request_finished(Duration::from_secs(60));

    check(&metrics, "portcullis_gate_duration_seconds_bucket{le=\"0.00001\"} 0");
    check(&metrics, "portcullis_gate_duration_seconds_bucket{le=\"0.000025\"} 1");
    check(&metrics, "portcullis_gate_duration_seconds_bucket{le=\"10\"} 1");
    check(&metrics, "portcullis_gate_duration_seconds_bucket{le=\"+Inf\"} 2");
    check(&metrics, "portcullis_gate_duration_seconds_sum 60.000025");
    check(&metrics, "portcullis_gate_duration_seconds_count 2");
}

#[test]
fn every_value_of_a_closed_label_shows_from_the_start() {
    let page = metrics().encode();

    for outcome in Outcome::EVERY {
        assert!(page.contains(&format!("portcullis_admissions_total{{outcome=\"{}\"}} 0\n", outcome.as_str())));
    }
    for limit in LimitKind::EVERY {
        assert!(page.contains(&format!("portcullis_limited_total{{limit=\"{}\"}} 0\n", limit.as_str())));
    }
}

#[test]
fn each_event_moves_its_own_sample() {
    let metrics = metrics();
    metrics.admission(Outcome::ScopeMissing);
    metrics.limited(LimitKind::KeyRate);
    metrics.cache_hit();
    metrics.cache_miss();
    metrics.connection_opened();
    metrics.connection_queued();
    metrics.request_started();
    metrics.set_keys(Kind::Telemetry, 3);
    metrics.set_last_used_backlog(7);
    metrics.audited(AuditOperation::Delete);
    metrics.store_operation(StoreOperation::ChangeCommit, Duration::from_millis(2), &Err::<(), _>(()));
    let upstream = metrics.upstream("tsdb");
    upstream.failed(UpstreamFailure::ConnectTimeout);
    upstream.answered(Duration::from_millis(3));

    for sample in [
        "portcullis_admissions_total{outcome=\"scope_missing\"} 1",
        "portcullis_limited_total{limit=\"key_rate\"} 1",
        "portcullis_key_cache_lookups_total{result=\"hit\"} 1",
        "portcullis_key_cache_lookups_total{result=\"miss\"} 1",
        "portcullis_connections 1",
        "portcullis_connections_total 1",
        "portcullis_connections_queued_total 1",
        "portcullis_requests_in_flight 1",
        "portcullis_keys{kind=\"telemetry\"} 3",
        "portcullis_last_used_backlog 7",
        "portcullis_audit_changes_total{operation=\"delete\"} 1",
        "portcullis_store_operation_duration_seconds_count{operation=\"change_commit\"} 1",
        "portcullis_store_operation_errors_total{operation=\"change_commit\"} 1",
        "portcullis_upstream_failures_total{upstream=\"tsdb\",kind=\"connect_timeout\"} 1",
        "portcullis_upstream_duration_seconds_bucket{upstream=\"tsdb\",le=\"0.0025\"} 0",
        "portcullis_upstream_duration_seconds_bucket{upstream=\"tsdb\",le=\"0.005\"} 1",
    ] {
        check(&metrics, sample);
    }
}

#[test]
fn ages_and_moments_follow_the_clock() {
    let clock = clock();
    let metrics = Metrics::new(1, clock.clone());
    clock.advance(40);
    check(&metrics, "portcullis_last_used_flush_age_seconds 40");
    metrics.last_used_flushed(clock.now());
    clock.advance(2);
    metrics.reload(&Ok::<_, ()>(()));
    clock.advance(1);
    metrics.reload(&Err::<(), _>(()));

    check(&metrics, "portcullis_last_used_flush_age_seconds 3");
    check(&metrics, "portcullis_config_last_reload_success_timestamp_seconds 1700000042");
    check(&metrics, "portcullis_config_reloads_total{result=\"success\"} 1");
    check(&metrics, "portcullis_config_reloads_total{result=\"failure\"} 1");
}

#[test]
fn numbers_of_all_workers_add_up_wherever_an_end_is_seen() {
    let metrics = metrics();
    let route = metrics.route("r", "u");

    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (metrics, route) = (&metrics, &route);
            scope.spawn(move || {
                super::enter_worker(worker);
                for _ in 0..1_000 {
                    metrics.connection_opened();
                    metrics.request_started();
                    metrics.admission(Outcome::Admitted);
                    route.finished(200);
                }
            });
        }
    });
    for _ in 0..4_000 {
        metrics.request_finished(Duration::ZERO);
        metrics.connection_closed();
    }

    check(&metrics, "portcullis_admissions_total{outcome=\"admitted\"} 4000");
    check(&metrics, "portcullis_requests_total{route=\"r\",upstream=\"u\",status_class=\"2xx\"} 4000");
    check(&metrics, "portcullis_requests_in_flight 0");
    check(&metrics, "portcullis_connections 0");
}

#[test]
fn hostile_label_stays_inside_its_quotes() {
    let metrics = metrics();
    let route = metrics.route("\"} 1\nfake_metric 1\\", "u");
    route.finished(200);

    check(&metrics, r#"portcullis_requests_total{route="\"} 1\nfake_metric 1\\",upstream="u",status_class="2xx"} 1"#);
}

#[test]
fn labels_beyond_the_bound_share_one_handle() {
    let metrics = metrics();
    let upstreams: Vec<_> = (0..1_100).map(|upstream| metrics.upstream(&format!("u{upstream}"))).collect();
    upstreams.iter().for_each(|upstream| upstream.failed(UpstreamFailure::Reset));
    metrics.upstream("u7").failed(UpstreamFailure::Reset);

    check(&metrics, "portcullis_upstream_failures_total{upstream=\"(other)\",kind=\"reset\"} 100");
    check(&metrics, "portcullis_upstream_failures_total{upstream=\"u7\",kind=\"reset\"} 2");
}

#[test]
fn series_that_nobody_holds_any_more_are_gone_and_make_room() {
    let metrics = metrics();
    let kept = metrics.route("kept", "u");
    kept.finished(200);
    for round in 0..100 {
        let upstreams: Vec<_> = (0..900).map(|upstream| metrics.upstream(&format!("{round}-{upstream}"))).collect();
        upstreams.iter().for_each(|upstream| upstream.failed(UpstreamFailure::Reset));
        metrics.route(&format!("{round}"), "u").finished(200);
    }

    let page = metrics.encode();

    assert_eq!(page.lines().filter(|line| line.starts_with("portcullis_upstream_failures_total{")).count(), 0);
    let routes: Vec<&str> = page.lines().filter(|line| line.starts_with("portcullis_requests_total{")).collect();
    assert!(!routes.is_empty() && routes.iter().all(|line| line.contains("route=\"kept\"")), "{routes:#?}");
    check(&metrics, "portcullis_requests_total{route=\"kept\",upstream=\"u\",status_class=\"2xx\"} 1");
}

#[test]
fn every_family_has_a_legal_name_and_help() {
    let metrics = metrics();
    let (route, upstream) = (metrics.route("r", "u"), metrics.upstream("u"));
    route.finished(200);
    upstream.failed(UpstreamFailure::Reset);
    let page = metrics.encode();

    let typed: Vec<(&str, &str)> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for (name, kind) in &typed {
        assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
        assert_eq!(*kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(name.starts_with("portcullis_") || name.starts_with("process_"), "{name}");
    }
    assert!(typed.len() > 20);
}

#[test]
fn build_and_process_show() {
    let page = metrics().encode();

    assert!(page.contains(&format!("portcullis_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))));
    for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds", "threads"] {
        let sample = page.lines().find_map(|line| line.strip_prefix(&format!("process_{name} ")));
        assert!(sample.is_some_and(|value| value.parse::<f64>().unwrap() >= 0.0), "process_{name}: {sample:?}");
    }
}
