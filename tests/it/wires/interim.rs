//! Interim responses of upstreams on every wire.

use super::QUERY;
use crate::harness::{Cell, Exchange, Reply, Says, check, on_every_wire};

const HINTS: &[(&str, &str)] = &[("link", "</style.css>; rel=preload"), ("link", "</next>")];

fn asked(cell: &Cell) -> Exchange {
    cell.client(&cell.gate.key(&["monitor:read"])).stream(QUERY, &[])
}

fn fields(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn interim_response_reaches_the_client_before_the_final_one_is_there() {
    on_every_wire(
        |setup| setup,
        |cell| {
            cell.says(Says::status(200).interim(102, &[]).interim(103, HINTS).hold().body("done"));
            let mut exchange = asked(cell);
            assert_eq!(exchange.interim(), (102, Vec::new()));
            assert_eq!(exchange.interim(), (103, fields(HINTS)));
            cell.release();
            assert_eq!(exchange.head().status, 200);
            assert_eq!(exchange.rest().body, b"done");
        },
    );
}

#[test]
fn interim_response_comes_before_the_final_one_that_follows_at_once() {
    on_every_wire(
        |setup| setup,
        |cell| {
            for _ in 0..20 {
                cell.says(Says::status(200).interim(103, HINTS).body("done"));
                let mut exchange = asked(cell);
                assert_eq!(exchange.interim(), (103, fields(HINTS)));
                assert_eq!(exchange.head().status, 200);
                assert_eq!(exchange.rest().body, b"done");
            }
        },
    );
}

#[test]
fn interim_response_says_nothing_that_the_final_one_might_not() {
    on_every_wire(
        |setup| setup.upstream("remove_response_headers = [\"X-Backend\"]"),
        |cell| {
            let said = [("x-backend", "db1"), ("x-portcullis-key-name", "root"), ("x-kept", "1")];
            cell.says(Says::status(200).interim(100, &[]).interim(103, &said).body("done"));
            let mut exchange = asked(cell);
            assert_eq!(exchange.interim(), (103, fields(&[("x-kept", "1")])));
            assert_eq!(exchange.head().status, 200);
        },
    );
}

#[test]
fn refused_request_after_one_with_an_interim_response_gets_its_own_answer_alone() {
    on_every_wire(
        |setup| setup,
        |cell| {
            let mut client = cell.client(&cell.gate.key(&["monitor:read"]));
            for _ in 0..10 {
                cell.says(Says::status(200).interim(103, HINTS).body("done"));
                assert_eq!(check(&client.get(QUERY), 200).body, b"done");
                check(&client.request("POST", "/api/v1/write", &[], b"x"), 403);
            }
        },
    );
}

/// The client of a connection that is behind with its reading gets whole messages in their order, whatever is left out.
#[test]
fn interim_responses_never_stand_within_another_response() {
    let gate = crate::harness::Gate::start();
    let key = gate.key(&["monitor:read"]).keep_alive();
    let (hints, body) = ("HTTP/1.1 103 x\r\nlink: </a>\r\n\r\n", "b".repeat(1 << 20));
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    gate.upstream().reply_always(Reply::bytes(hints).then(&head).then(&body));
    let mut wire = gate.raw();
    let rounds = 40;
    wire.send(key.render("GET", QUERY, &[], b"").repeat(rounds));
    let mut finals = 0;
    while finals < rounds {
        let answer = wire.read_response();
        match answer.status {
            103 => assert_eq!(answer.header("link"), Some("</a>")),
            _ => {
                assert_eq!(check(&answer, 200).body.len(), body.len());
                assert!(answer.body.iter().all(|byte| *byte == b'b'), "something stands in the body");
                finals += 1;
            }
        }
    }
}
