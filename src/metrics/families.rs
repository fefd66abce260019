//! What a scrape shows: every family with its name and help, summed over the shards.
//!
//! A family's name is written here and below and nowhere else.

mod store;
mod tls;

use std::sync::Weak;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, Metric, MetricFamily};

use super::handles::{STATUS_CLASSES, UPSTREAM_BOUNDS};
use super::labels::{
    AuditOperation, ConnectionRefusal, Cut, Http2Cut, LimitKind, Outcome, Protocol, ProxyHeaderFailure, Retry,
    UpstreamFailure,
};
use super::process::Process;
use super::samples::{count, counter, float, gauge, histogram, level, signed, spread};
use super::targets::TargetMetrics;
use super::{LOCAL_BOUNDS, Metrics};
use crate::key::Kind;

/// Collects the families of a [`Metrics`], for as long as it lives.
pub(super) struct Scrape {
    metrics: Weak<Metrics>,
    descriptions: Vec<Desc>,
}

impl Scrape {
    /// # Errors
    /// When a family's name or help is not a legal one.
    pub(super) fn new(metrics: &Metrics, handle: Weak<Metrics>) -> Result<Self, prometheus::Error> {
        let describe = |family: &MetricFamily| {
            Desc::new(family.name().to_owned(), family.help().to_owned(), Vec::new(), Default::default())
        };
        let descriptions = families(metrics).iter().map(describe).collect::<Result<_, _>>()?;
        Ok(Self { metrics: handle, descriptions })
    }
}

impl Collector for Scrape {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.metrics.upgrade().map(|metrics| families(&metrics)).unwrap_or_default()
    }
}

fn families(metrics: &Metrics) -> Vec<MetricFamily> {
    let mut families = requests(metrics);
    families.extend(connections(metrics));
    families.extend(tls::families(metrics));
    families.extend(keyring(metrics));
    families.extend(upstreams(metrics));
    families.extend(targets(metrics));
    families.extend(life(metrics));
    families.extend(Process::read().map(process).unwrap_or_default());
    families
}

fn requests(metrics: &Metrics) -> Vec<MetricFamily> {
    let hot = &metrics.hot;
    let routes = metrics.handles.routes();
    let requests = routes.iter().flat_map(|((route, upstream), handle)| {
        let sample = move |(class, name): (usize, &'static str)| {
            let labels = [("route", route.as_str()), ("upstream", upstream.as_str()), ("status_class", name)];
            count(&labels, handle.requests(class))
        };
        STATUS_CLASSES.into_iter().enumerate().map(sample)
    });
    let admissions = Outcome::EVERY
        .iter()
        .map(|outcome| count(&[("outcome", outcome.as_str())], hot.sum(|hot| hot.admissions.of(*outcome))));
    let is_refusal = |outcome: &&Outcome| !matches!(outcome, Outcome::Admitted | Outcome::AdmittedPublic);
    let refusals_later = Outcome::EVERY
        .iter()
        .filter(is_refusal)
        .map(|outcome| count(&[("reason", outcome.as_str())], hot.sum(|hot| hot.refusals_later.of(*outcome))));
    let limited = LimitKind::EVERY
        .iter()
        .map(|limit| count(&[("limit", limit.as_str())], hot.sum(|hot| &hot.limited[*limit as usize])));
    vec![
        counter(
            "portcullis_requests_total",
            "Requests answered, when the response ends, fails or is refused.",
            requests,
        ),
        counter("portcullis_admissions_total", "Requests decided on, when each is admitted or refused.", admissions),
        counter(
            "portcullis_refusals_after_admission_total",
            "Requests that were admitted and then refused or failed: by the key API, the upstream or a deadline.",
            refusals_later,
        ),
        counter("portcullis_limited_total", "Requests that a limiter refused.", limited),
        gauge(
            "portcullis_requests_in_flight",
            "Requests whose head was read and whose response has not ended.",
            [level(&[], signed(hot.sum(|hot| &hot.in_flight)))],
        ),
        histogram(
            "portcullis_gate_duration_seconds",
            "Time that a request spent in the gate, not counting the wait for its client or upstream; at its end.",
            [spread(&[], &LOCAL_BOUNDS, &hot.histogram(|hot| &hot.gate))],
        ),
    ]
}

fn connections(metrics: &Metrics) -> Vec<MetricFamily> {
    let hot = &metrics.hot;
    let accepted = hot.sum(|hot| &hot.connections_accepted);
    let open = accepted.wrapping_sub(hot.sum(|hot| &hot.connections_closed));
    let unproxied = ProxyHeaderFailure::EVERY.iter().map(|failure| {
        count(&[("reason", failure.as_str())], hot.sum(|hot| &hot.proxy_header_failures[*failure as usize]))
    });
    let by_protocol = Protocol::EVERY.iter().map(|protocol| {
        let connections = hot.sum(|hot| &hot.connections_by_protocol[*protocol as usize]);
        count(&[("protocol", protocol.as_str())], connections)
    });
    let refused = ConnectionRefusal::EVERY.iter().map(|refusal| {
        count(&[("reason", refusal.as_str())], hot.sum(|hot| &hot.connections_refused[*refusal as usize]))
    });
    let cuts = Http2Cut::EVERY
        .iter()
        .map(|cut| count(&[("reason", cut.as_str())], hot.sum(|hot| &hot.http2_cuts[*cut as usize])));
    let streams = hot.sum(|hot| &hot.http2_streams_opened).wrapping_sub(hot.sum(|hot| &hot.http2_streams_closed));
    vec![
        gauge("portcullis_connections", "Connections that are open, on both listeners.", [level(&[], signed(open))]),
        counter(
            "portcullis_connections_total",
            "Connections on both listeners, when each is accepted.",
            [count(&[], accepted)],
        ),
        counter(
            "portcullis_connections_queued_total",
            "Client connections that had to wait for room, because as many as allowed were open.",
            [count(&[], hot.sum(|hot| &hot.connections_queued))],
        ),
        counter(
            "portcullis_connections_refused_total",
            "Client connections that were closed at once, by why: address_full is client.connections_per_address_max.",
            refused,
        ),
        counter(
            "portcullis_connections_by_protocol_total",
            "Connections on both listeners, by what they speak; when that is known.",
            by_protocol,
        ),
        gauge(
            "portcullis_http2_streams",
            "Requests over HTTP/2 whose response is not yet handed over.",
            [level(&[], signed(streams))],
        ),
        counter(
            "portcullis_http2_connections_cut_total",
            "HTTP/2 connections that their client's own doing ended, by what it did.",
            cuts,
        ),
        counter(
            "portcullis_proxy_protocol_refusals_total",
            "Connections that were refused because they did not begin with a PROXY header of a trusted proxy, by why.",
            unproxied,
        ),
    ]
}

fn keyring(metrics: &Metrics) -> Vec<MetricFamily> {
    let hot = &metrics.hot;
    let lookups = [
        count(&[("result", "hit")], hot.sum(|hot| &hot.cache_hits)),
        count(&[("result", "miss")], hot.sum(|hot| &hot.cache_misses)),
    ];
    let keys = Kind::EVERY
        .map(|kind| level(&[("kind", kind.as_str())], float(metrics.cold.keys[kind as usize].load(Ordering::Relaxed))));
    let audited = AuditOperation::EVERY.iter().map(|operation| {
        let changes = metrics.cold.audited[*operation as usize].load(Ordering::Relaxed);
        count(&[("operation", operation.as_str())], changes)
    });
    let backlog = metrics.cold.last_used_backlog.load(Ordering::Relaxed);
    let flushed = metrics.cold.last_used_flushed.load(Ordering::Relaxed);
    let age = metrics.clock.now().unix().saturating_sub(flushed);
    let cuts = Cut::EVERY.iter().map(|cut| {
        let ended = metrics.cold.cuts[*cut as usize].load(Ordering::Relaxed);
        count(&[("reason", cut.as_str())], ended)
    });
    let mut families = vec![
        counter(
            "portcullis_requests_cut_total",
            "Running requests that were ended since their key admits them no more, when each is.",
            cuts,
        ),
        counter("portcullis_key_cache_lookups_total", "Keys looked for in memory, by what was found.", lookups),
        gauge("portcullis_keys", "Keys in the store, by kind; after each change.", keys),
        counter("portcullis_audit_changes_total", "Changes of keys, when each is durable.", audited),
        gauge("portcullis_last_used_backlog", "Keys whose last use is not yet written.", [level(&[], float(backlog))]),
        gauge(
            "portcullis_last_used_flush_age_seconds",
            "Time since the last uses were last written, or since the start; falls with each flush.",
            [level(&[], age.max(0) as f64)],
        ),
    ];
    families.extend(store::families(metrics));
    families
}

fn upstreams(metrics: &Metrics) -> [MetricFamily; 4] {
    let upstreams = metrics.handles.upstreams();
    let waits =
        upstreams.iter().map(|(name, handle)| spread(&[("upstream", name)], &UPSTREAM_BOUNDS, &handle.waited()));
    let failures = upstreams.iter().flat_map(|(name, handle)| {
        UpstreamFailure::EVERY
            .iter()
            .map(move |failure| count(&[("upstream", name), ("kind", failure.as_str())], handle.failures(*failure)))
    });
    let retries = upstreams.iter().flat_map(|(name, handle)| {
        Retry::EVERY
            .iter()
            .map(move |retry| count(&[("upstream", name), ("outcome", retry.as_str())], handle.retries(*retry)))
    });
    let queued = upstreams.iter().map(|(name, handle)| level(&[("upstream", name)], signed(handle.queued())));
    [
        histogram(
            "portcullis_upstream_duration_seconds",
            "Time from a request's forwarding to the head of its upstream's response; when that has come.",
            waits,
        ),
        counter("portcullis_upstream_failures_total", "Requests that an upstream failed, by how.", failures),
        counter(
            "portcullis_upstream_retries_total",
            "Attempts to send a request once more, by how each ended; or was not made, for want of budget.",
            retries,
        ),
        gauge("portcullis_upstream_queue_length", "Requests that wait for upstream.NAME.concurrency.", queued),
    ]
}

fn targets(metrics: &Metrics) -> [MetricFamily; 7] {
    let targets = metrics.targets.all();
    let of_each = |sample: fn(&TargetMetrics) -> f64| {
        targets.iter().map(move |((upstream, target), handle)| {
            level(&[("upstream", upstream), ("target", target)], sample(handle))
        })
    };
    let counted = |number: fn(&TargetMetrics) -> u64| {
        targets.iter().map(move |((upstream, target), handle)| {
            count(&[("upstream", upstream), ("target", target)], number(handle))
        })
    };
    let responses = targets.iter().flat_map(|((upstream, target), handle)| {
        STATUS_CLASSES.into_iter().enumerate().skip(1).map(move |(class, name)| {
            let labels = [("upstream", upstream.as_str()), ("target", target.as_str()), ("status_class", name)];
            count(&labels, handle.responses(class))
        })
    });
    let failures = targets.iter().flat_map(|((upstream, target), handle)| {
        UpstreamFailure::EVERY.iter().filter(|failure| failure.is_of_target()).map(move |failure| {
            let labels = [("upstream", upstream.as_str()), ("target", target.as_str()), ("kind", failure.as_str())];
            count(&labels, handle.failures(*failure))
        })
    });
    [
        counter(
            "portcullis_target_requests_total",
            "Attempts to send a request to a target, when each begins.",
            counted(TargetMetrics::requests),
        ),
        counter(
            "portcullis_target_responses_total",
            "Responses of a target, when the head of each has come.",
            responses,
        ),
        counter("portcullis_target_failures_total", "Attempts that a target failed, by how.", failures),
        counter(
            "portcullis_target_ejections_total",
            "How often a target was left out because requests to it failed.",
            counted(TargetMetrics::ejections),
        ),
        gauge(
            "portcullis_target_requests_in_flight",
            "Requests that a target was given and whose response has not ended.",
            of_each(|target| signed(target.in_flight())),
        ),
        gauge(
            "portcullis_target_healthy",
            "Whether a target passes its health checks; 1 without checks.",
            of_each(|target| f64::from(u8::from(target.is_healthy()))),
        ),
        gauge(
            "portcullis_target_ejected",
            "Whether a target is left out because requests to it failed, or on trial after that.",
            of_each(|target| f64::from(u8::from(target.is_ejected()))),
        ),
    ]
}

fn life(metrics: &Metrics) -> [MetricFamily; 4] {
    let cold = &metrics.cold;
    let reloads = [
        count(&[("result", "failure")], cold.reloads_failed.load(Ordering::Relaxed)),
        count(&[("result", "success")], cold.reloads_succeeded.load(Ordering::Relaxed)),
    ];
    let loaded = cold.config_loaded.load(Ordering::Relaxed);
    let failed = cold.reload_failed_last.load(Ordering::Relaxed);
    [
        counter("portcullis_config_reloads_total", "Reloads of the configuration, by how each ended.", reloads),
        gauge(
            "portcullis_config_last_reload_successful",
            "Whether the last reload was taken over; 0: the file is not what is in use. 1 before the first reload.",
            [level(&[], if failed { 0.0 } else { 1.0 })],
        ),
        gauge(
            "portcullis_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was loaded, at the start or by a reload.",
            [level(&[], loaded as f64)],
        ),
        gauge(
            "portcullis_build_info",
            "Always 1; its labels say what is running.",
            [level(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)],
        ),
    ]
}

fn process(process: Process) -> Vec<MetricFamily> {
    let mut cpu = Metric::default();
    let mut spent = proto::Counter::default();
    spent.set_value(process.cpu_seconds);
    cpu.set_counter(spent);
    vec![
        counter("process_cpu_seconds_total", "User and system CPU time spent, as it is spent.", [cpu]),
        gauge("process_max_fds", "How many file descriptors may be open.", [level(&[], process.max_fds)]),
        gauge("process_open_fds", "File descriptors that are open.", [level(&[], process.open_fds)]),
        gauge("process_resident_memory_bytes", "Resident memory size.", [level(&[], process.resident_bytes)]),
        gauge(
            "process_start_time_seconds",
            "When the process was started, since the Unix epoch.",
            [level(&[], process.start_time_seconds)],
        ),
        gauge("process_threads", "Threads of the operating system that run.", [level(&[], process.threads)]),
        gauge("process_virtual_memory_bytes", "Virtual memory size.", [level(&[], process.virtual_bytes)]),
    ]
}
