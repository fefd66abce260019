//! Tests of the ops pages.

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;

use super::{Readiness, answer};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;

fn ask(method: &str, target: &str, readiness: &Readiness) -> Response<Full<Bytes>> {
    let metrics = Metrics::new(1, Clock::manual(Timestamp::from_unix(0)));
    let request = Request::builder().method(method).uri(target).body(()).unwrap();
    answer(&request, &metrics, readiness)
}

fn body(response: Response<Full<Bytes>>) -> String {
    // A full body is there at once: one poll collects it.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let collected = runtime.block_on(response.into_body().collect()).unwrap();
    String::from_utf8(collected.to_bytes().to_vec()).unwrap()
}

#[track_caller]
fn check(method: &str, target: &str, status: u16, begin: &str) {
    let response = ask(method, target, &Readiness::default());
    assert_eq!(response.status(), status);
    let text = body(response);
    assert!(text.starts_with(begin), "{text}");
}

#[test]
fn only_the_three_pages_are_there() {
    check("GET", "/metrics", 200, "# HELP portcullis_");
    check("GET", "/metrics?format=x", 200, "# HELP portcullis_");
    check("GET", "/-/healthy", 200, "healthy\n");
    check("GET", "/", 404, "not found");
    check("GET", "/metrics/", 404, "not found");
    check("GET", "/-/ready/../healthy", 404, "not found");
    check("POST", "/elsewhere", 404, "not found");
    check("POST", "/metrics", 405, "only GET and HEAD");
    check("OPTIONS", "/-/ready", 405, "only GET and HEAD");
}

#[test]
fn refused_method_is_told_which_are_allowed() {
    let response = ask("DELETE", "/-/healthy", &Readiness::default());

    assert_eq!(response.headers()[ALLOW], "GET, HEAD");
}

#[test]
fn head_has_the_length_of_get_and_no_body() {
    let response = ask("HEAD", "/-/healthy", &Readiness::default());

    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[CONTENT_LENGTH], "8");
    assert_eq!(response.body().size_hint().exact(), Some(0));
}

#[test]
fn metrics_are_declared_as_the_text_format() {
    let response = ask("GET", "/metrics", &Readiness::default());

    assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
}

#[test]
fn gate_is_ready_from_the_last_part_until_the_drain() {
    let readiness = Readiness::default();
    let status_and_text = || {
        let response = ask("GET", "/-/ready", &readiness);
        (response.status().as_u16(), body(response))
    };
    let not_ready = "not ready: the store is not open, the listeners are not bound\n";
    assert_eq!(status_and_text(), (503, not_ready.to_owned()));

    readiness.store_opened();
    assert_eq!(status_and_text(), (503, "not ready: the listeners are not bound\n".to_owned()));

    readiness.listeners_bound();
    assert_eq!(status_and_text(), (200, "ready\n".to_owned()));

    readiness.draining();
    assert_eq!(status_and_text(), (503, "not ready: shutting down\n".to_owned()));
}
