//! The families of TLS. Keeps no numbers.

use prometheus::proto::MetricFamily;

use crate::metrics::labels::{Listener, TlsFailure};
use crate::metrics::samples::{count, counter, gauge, level};
use crate::metrics::{Metrics, TlsFiles};

/// Of handshakes, and of the files that TLS is made of on both sides.
pub(super) fn families(metrics: &Metrics) -> [MetricFamily; 5] {
    let hot = &metrics.hot;
    let failures = TlsFailure::EVERY
        .iter()
        .map(|reason| count(&[("reason", reason.as_str())], hot.sum(|hot| &hot.tls_failures[*reason as usize])));
    let tls = metrics.tls();
    let with_tls =
        Listener::EVERY.iter().filter_map(|listener| Some((listener.as_str(), tls[*listener as usize].as_ref()?)));
    let listeners: Vec<(&str, &TlsFiles)> = with_tls.collect();
    let expiries = listeners.iter().flat_map(|(listener, files)| {
        let expiry = |(file, at): &(String, i64)| level(&[("listener", listener), ("certificate", file)], *at as f64);
        files.certificates.iter().map(expiry)
    });
    let failed = listeners.iter().map(|(listener, files)| count(&[("listener", listener)], files.failures));
    let current = listeners
        .iter()
        .map(|(listener, files)| level(&[("listener", listener)], f64::from(u8::from(!files.has_failed))));
    let shown = metrics.upstream_certificates();
    let shown = shown.iter().map(|shown| {
        let labels = [("upstream", shown.upstream.as_str()), ("certificate", shown.file.as_str())];
        level(&labels, shown.expiry.unix() as f64)
    });
    [
        counter(
            "portcullis_tls_handshake_failures_total",
            "TLS handshakes with clients that failed, by why.",
            failures,
        ),
        gauge(
            "portcullis_tls_certificate_expiry_timestamp_seconds",
            "When a certificate in use expires; when its file is loaded.",
            expiries,
        ),
        counter(
            "portcullis_tls_reload_failures_total",
            "Changed TLS files of a listener that could not be used, when each was read.",
            failed,
        ),
        gauge(
            "portcullis_tls_last_reload_successful",
            "Whether a listener's TLS files are in use as they were last read: 0 while older ones are.",
            current,
        ),
        gauge(
            "portcullis_upstream_certificate_expiry_timestamp_seconds",
            "When the certificate that an upstream is shown expires; when its file is loaded.",
            shown,
        ),
    ]
}
