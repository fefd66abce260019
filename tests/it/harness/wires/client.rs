//! A client of a cell: the same calls whatever the wire.

use h2::RecvStream;

use super::{Cell, trailers_of};
use crate::harness::{Answer, Caller, H2Call, H2Client, Wire};

/// Sends requests on one connection, opened again when the gate has closed it.
pub struct Client<'c> {
    cell: &'c Cell,
    caller: Caller,
    connection: Option<Connection>,
}

enum Connection {
    H1(Wire),
    H2(H2Client),
}

/// A request with whatever has been sent and read of it.
pub struct Exchange {
    wire: Side,
    method: String,
    head: Option<Answer>,
}

enum Side {
    H1(Wire),
    H2(H2Call, Option<RecvStream>),
}

/// The end of a response.
#[derive(Debug)]
pub struct Rest {
    pub body: Vec<u8>,
    /// `None`: the response was cut, and the client can tell.
    pub trailers: Option<Vec<(String, String)>>,
}

impl<'c> Client<'c> {
    pub(super) fn new(cell: &'c Cell, caller: Caller) -> Self {
        Self { cell, caller, connection: None }
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Answer {
        self.request("GET", target, &[], b"")
    }

    /// Sends a request whose body has a known length. Names of fields are in lower case.
    #[track_caller]
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        if self.cell.front.is_http2() {
            return self.request_over_http2(method, target, headers, body);
        }
        let bytes = self.caller.render(method, target, headers, body);
        let cell = self.cell;
        let Connection::H1(wire) = self.connection.get_or_insert_with(|| Connection::H1(cell.wire())) else {
            unreachable!("one wire a cell")
        };
        wire.send(bytes);
        let mut answer = wire.read_response_to(method);
        while answer.status < 200 {
            answer = wire.read_response_to(method);
        }
        if answer.says_close() || !answer.complete {
            self.connection = None;
        }
        answer
    }

    #[track_caller]
    fn request_over_http2(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let length = body.len().to_string();
        let mut fields = headers.to_vec();
        if !body.is_empty() || matches!(method, "PATCH" | "POST" | "PUT") {
            fields.push(("content-length", &length));
        }
        let mut call = self.open(method, target, &fields, body.is_empty());
        if !body.is_empty() {
            call.send(body).finish();
        }
        call.answer().unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    #[track_caller]
    fn open(&mut self, method: &str, target: &str, headers: &[(&str, &str)], is_whole: bool) -> H2Call {
        let authorization = self.caller.is_known().then(|| self.caller.authorization());
        let mut fields = headers.to_vec();
        let is_given = headers.iter().any(|(name, _)| *name == "authorization");
        fields.extend(authorization.as_deref().filter(|_| !is_given).map(|value| ("authorization", value)));
        let cell = self.cell;
        let Connection::H2(client) = self.connection.get_or_insert_with(|| Connection::H2(cell.http2())) else {
            unreachable!("one wire a cell")
        };
        client.open(method, target, &fields, is_whole)
    }

    /// Begins a request with a body of unknown length. Over HTTP/1.1 it gets a connection of its own.
    #[track_caller]
    pub fn begin(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Exchange {
        let wire = if self.cell.front.is_http2() {
            Side::H2(self.open(method, target, headers, false), None)
        } else {
            let mut wire = self.cell.wire();
            let chunked = [headers, &[("transfer-encoding", "chunked")]].concat();
            wire.send(self.caller.render(method, target, &chunked, b""));
            Side::H1(wire)
        };
        Exchange { wire, method: method.to_owned(), head: None }
    }

    /// Gets a target whose response is read piece by piece.
    #[track_caller]
    pub fn stream(&mut self, target: &str, headers: &[(&str, &str)]) -> Exchange {
        let wire = if self.cell.front.is_http2() {
            Side::H2(self.open("GET", target, headers, true), None)
        } else {
            let mut wire = self.cell.wire();
            wire.send(self.caller.render("GET", target, headers, b""));
            Side::H1(wire)
        };
        Exchange { wire, method: "GET".to_owned(), head: None }
    }
}

impl Exchange {
    /// Sends a piece of the body.
    pub fn send(&mut self, bytes: &[u8]) -> &mut Self {
        match &mut self.wire {
            Side::H1(wire) => drop(wire.send([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())),
            Side::H2(call, _) => drop(call.send(bytes)),
        }
        self
    }

    /// Ends the body.
    pub fn finish(&mut self) -> &mut Self {
        match &mut self.wire {
            Side::H1(wire) => drop(wire.send("0\r\n\r\n")),
            Side::H2(call, _) => drop(call.finish()),
        }
        self
    }

    /// Ends the body with trailers.
    pub fn finish_with(&mut self, trailers: &[(&'static str, &str)]) -> &mut Self {
        match &mut self.wire {
            Side::H1(wire) => {
                let lines: String = trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                wire.send(format!("0\r\n{lines}\r\n"));
            }
            Side::H2(call, _) => drop(call.finish_with(trailers)),
        }
        self
    }

    /// Reads an interim response. Names are in lower case.
    #[track_caller]
    pub fn interim(&mut self) -> (u16, Vec<(String, String)>) {
        match &mut self.wire {
            Side::H1(wire) => {
                let Answer { status, mut headers, .. } = wire.read_head();
                headers.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
                (status, headers)
            }
            Side::H2(call, _) => call.interim(),
        }
    }

    /// Reads the response's head. Panics when there is none.
    #[track_caller]
    pub fn head(&mut self) -> &Answer {
        let head = match &mut self.wire {
            Side::H1(wire) => wire.read_head(),
            Side::H2(call, body) => {
                let (head, stream) = call.head().expect("a head");
                *body = Some(stream);
                head
            }
        };
        self.head.insert(head)
    }

    /// Reads one piece of the body, which the upstream has sent as one.
    #[track_caller]
    pub fn read_piece(&mut self, piece: &str) {
        match &mut self.wire {
            Side::H1(wire) => {
                wire.read_until(piece.as_bytes());
                assert_eq!(wire.read_exactly(2), b"\r\n");
            }
            Side::H2(call, body) => {
                let came = call.piece(body.as_mut().expect("after the head")).expect("a piece");
                assert_eq!(String::from_utf8_lossy(&came), piece);
            }
        }
    }

    /// Reads the response to its end, whatever that is.
    #[track_caller]
    pub fn rest(&mut self) -> Rest {
        if self.head.is_none() {
            self.head();
        }
        let head = self.head.as_mut().expect("read above");
        match &mut self.wire {
            Side::H1(wire) => {
                head.raw.clear();
                wire.read_rest(head, &self.method);
                let trailers = head.complete.then(|| trailers_of(&[b"\r\n", &head.raw[..]].concat()));
                Rest { body: std::mem::take(&mut head.body), trailers }
            }
            Side::H2(call, body) => {
                let (body, trailers) = call.rest(body.as_mut().expect("after the head"));
                Rest { body, trailers }
            }
        }
    }
}
