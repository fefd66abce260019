//! Too much of anything.

use super::rig::Outcome::{Aborted, Closed, Passed, Refused};
use super::rig::{Outcome, Row};

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |id, text: String, outcome: Outcome| rows.push(Row::new(id, text, outcome));
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1¶<H><kread>{fields}¶");
    let path = |bytes: usize| format!("/api/{}", "a".repeat(bytes - 5));
    let fields = |count: usize| (0..count).map(|at| format!("X-{at}: {at}¶")).collect::<String>();
    // The target's limit is 8 KiB.
    row("A38", get(&path(8_192), ""), Passed);
    for bytes in [8_193, 16_384, 65_535, 65_536] {
        row("A38", get(&path(bytes), ""), Closed(414));
    }
    row("A38", get(&format!("/api/v1/query?{}", "a".repeat(9_000)), ""), Closed(414));
    row("A39", get(&format!("/api{}", "/a".repeat(2_000)), ""), Passed);
    for bytes in [33, 1_024, 65_536] {
        row("B12", format!("{} /api/v1/query HTTP/1.1¶<H><kread>¶", "M".repeat(bytes)), Closed(400));
    }
    let presented = |value: &str| format!("GET /api/v1/query HTTP/1.1¶<H>Authorization: {value}¶¶");
    row("C19", presented(&format!("Basic {}", "A".repeat(8_000))), Refused(401));
    row("C19", presented(&format!("Bearer {}", "A".repeat(8_000))), Refused(401));
    row("C19", presented(&format!("Basic {}", "A".repeat(65_536))), Closed(431));
    // 100 fields, Host and Authorization among them, and 32 KiB.
    row("D28", get("/api/v1/query", &fields(98)), Passed);
    row("D28", get("/api/v1/query", &fields(99)), Closed(431));
    row("D28", get("/api/v1/query", &fields(5_000)), Closed(431));
    row("D28", get("/api/v1/query", &format!("X-A: {}¶", "a".repeat(65_536))), Closed(431));
    row("D28", get("/api/v1/query", &format!("X-A: {}¶", "a".repeat(16_384)).repeat(3)), Closed(431));
    row("D28", get("/api/v1/query", &format!("{}: a¶", "x".repeat(257))), Closed(400));
    row("D28", get("/api/v1/query", &format!("Cookie: {}¶", "a=b; ".repeat(20_000))), Closed(431));
    let chunked = |body: &str| format!("<W>Transfer-Encoding: chunked¶¶{body}");
    row("E20", chunked(&format!("{}5¶hello¶0¶¶", "0".repeat(1 << 20))), Aborted);
    row("E22", chunked(&format!("5;{}¶hello¶0¶¶", "a".repeat(17_000))), Aborted);
    row("E22", chunked(&format!("1;{}¶x¶", "a".repeat(1_000)).repeat(100)), Aborted);
    row("E22", chunked(&format!("{}0¶¶", format!("1;{}¶x¶", "a".repeat(100)).repeat(100))), Passed);
    row("E22", chunked(&format!("{}0¶¶", format!("1;{}¶x¶", "a".repeat(100)).repeat(500))), Aborted);
    row("F12", chunked(&format!("5¶hello¶0¶{}¶", "X-A: b¶".repeat(10_000))), Aborted);
    row("F12", chunked(&format!("5¶hello¶0¶X-A: {}¶¶", "b".repeat(1 << 20))), Aborted);
    rows
}
