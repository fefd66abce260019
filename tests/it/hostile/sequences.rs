//! More than one request on a connection, and what must not become one.

use super::rig::Rig;
use crate::harness::{Back, Front, Gate, Reply, check};

#[test]
fn an_opt_in_for_encoded_slashes_grants_nothing_that_another_line_guards() {
    let gate = Gate::with(|setup| {
        let wide = r#"{ require = "monitor:read", allow_encoded_slash = true, allow_semicolon = true }"#;
        setup
            .route("GET /api/{*rest}", wide)
            .route("GET /rules/{namespace}", r#"{ require = "monitor:read", allow_encoded_slash = true }"#)
    });
    let reader = gate.key(&["monitor:read"]);
    for target in
        ["/api/v1%2fadmin/x", "/api/v1%2Fadmin%2Fx", "/api/v1;a/admin/x", "/api/v1/admin;x/y", "/api/v1/admin%3b"]
    {
        let answer = reader.get(target);
        assert!((400..500).contains(&answer.status), "{target}: {answer:?}");
    }
    for target in ["/api/..%2fv1/x", "/api/a%2f%2e%2e/x", "/api/..;/x", "/api/a%2f%2fb", "/api/%2f"] {
        assert_eq!(reader.get(target).status, 400, "{target}");
    }
    assert!(gate.upstream().raw().is_empty());
    for target in ["/rules/team%2fa", "/api/series/a%2Fb", "/api/series;x=1/a"] {
        check(&reader.get(target), 200);
        assert_eq!(gate.upstream().last().target, target);
    }
    check(&reader.get("/rules/team;a"), 400);
}

#[test]
fn what_follows_a_malformed_request_in_a_pipeline_is_never_served() {
    let rig = Rig::over(Front::H1, Back::H1);
    let (good, bad) = ("GET /api/v1/query HTTP/1.1¶<H><kread>¶", "GET /api/v1/query HTTP/1.1¶<H><kread>X : y¶¶");
    let mut wire = rig.cell.gate.raw();
    wire.send(rig.bytes(&format!("{good}{bad}{good}{good}")));
    check(&wire.read_response(), 200);
    let refusal = wire.read_response();
    check(&refusal, 400);
    assert!(refusal.says_close());
    wire.check_closed();
    assert_eq!(rig.cell.gate.upstream().requests().len(), 1);
    rig.check_canary(None);
}

#[test]
fn a_long_pipeline_of_strangers_is_refused_one_by_one() {
    let rig = Rig::over(Front::H1, Back::H1);
    let mut wire = rig.cell.gate.raw();
    wire.send(rig.bytes(&"GET /api/v1/query HTTP/1.1¶<H>¶".repeat(1_000)));
    for _ in 0..1_000 {
        let answer = wire.read_response();
        check(&answer, 401);
        if answer.says_close() {
            break;
        }
    }
    assert!(rig.cell.gate.upstream().raw().is_empty());
    rig.check_canary(None);
}

#[test]
fn a_request_inside_a_chunk_stays_a_body() {
    let rig = Rig::over(Front::H1, Back::H1);
    let inner = "DELETE /api/keys/x HTTP/1.1\r\nHost: t\r\n\r\n";
    let body = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let mut wire = rig.cell.gate.raw();
    wire.send(rig.bytes("<W>Transfer-Encoding: chunked¶¶")).send(&body);
    check(&wire.read_response(), 200);
    assert_eq!(rig.cell.gate.upstream().last().body, inner.as_bytes());
    rig.check_canary(Some(&mut wire));
}

#[test]
fn bytes_after_an_upgrade_request_are_the_next_request() {
    let rig = Rig::over(Front::H1, Back::H1);
    rig.cell
        .gate
        .upstream()
        .reply(Reply::bytes("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"));
    let mut wire = rig.cell.gate.raw();
    wire.send(
        rig.bytes("GET /api/v1/query HTTP/1.1¶<H><kread>Connection: upgrade¶Upgrade: x¶¶RAW BYTES FOR THE TUNNEL¶¶"),
    );
    check(&wire.read_response(), 502);
    let raw = String::from_utf8_lossy(&rig.cell.gate.upstream().raw()).into_owned();
    assert!(!raw.contains("TUNNEL"), "{raw}");
    rig.check_canary(None);
}

#[test]
fn a_thousand_half_connections_leave_no_trace() {
    let rig = Rig::over(Front::H1, Back::H1);
    for round in 0..1_000 {
        let mut wire = rig.cell.gate.raw();
        if round % 2 == 0 {
            wire.send("GET /api/v1/que");
        }
    }
    rig.check_canary(None);
}
