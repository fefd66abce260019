//! A client with a key, or without one.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::answer::Answer;
use super::tls::{GATE, TlsClient};
use super::wire::Wire;

/// Sends well-formed requests, each on a connection of its own unless [`Caller::keep_alive`] is used.
pub struct Caller {
    address: SocketAddr,
    secret: Option<String>,
    kept: Option<Mutex<Option<Wire>>>,
    tls: Option<TlsClient>,
}

/// The value of an Authorization header that presents `key` as the specification does: as user name, no password.
pub fn basic(key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{key}:")))
}

impl Caller {
    pub fn new(address: SocketAddr, secret: Option<&str>) -> Self {
        Self { address, secret: secret.map(str::to_owned), kept: None, tls: None }
    }

    /// The same caller over TLS, and those that it makes.
    pub fn over(mut self, tls: Option<&TlsClient>) -> Self {
        self.tls = tls.cloned();
        self
    }

    /// The same caller, all its requests on one connection (re-opened when the gate has closed it).
    pub fn keep_alive(&self) -> Self {
        Self { address: self.address, secret: self.secret.clone(), kept: Some(Mutex::new(None)), tls: self.tls.clone() }
    }

    /// The key's public id: what paths of the admin API name it by.
    pub fn id(&self) -> &str {
        &self.secret()[..16]
    }

    /// The key's full text. Panics for an anonymous caller.
    pub fn secret(&self) -> &str {
        self.secret.as_deref().expect("an anonymous caller has no key")
    }

    /// Whether it has a key to present.
    pub fn is_known(&self) -> bool {
        self.secret.is_some()
    }

    /// The value of this caller's Authorization header.
    pub fn authorization(&self) -> String {
        basic(self.secret())
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn head(&self, path: &str) -> Answer {
        self.request("HEAD", path, &[], b"")
    }

    /// Posts a JSON body.
    #[track_caller]
    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path, &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// Puts a JSON body.
    #[track_caller]
    pub fn put(&self, path: &str, body: &str) -> Answer {
        self.request("PUT", path, &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// Deletes a key by its id through the admin API.
    #[track_caller]
    pub fn delete(&self, key: &str) -> Answer {
        self.request("DELETE", &format!("/api/keys/{key}"), &[], b"")
    }

    /// Creates a custom key through the admin API and hands back its caller.
    #[track_caller]
    pub fn create(&self, scopes: &[&str]) -> Caller {
        let body = serde_json::json!({"name": "test key", "kind": "custom", "scopes": scopes});
        self.create_from(&body)
    }

    /// Creates a key from a whole request body and hands back its caller.
    #[track_caller]
    pub fn create_from(&self, body: &serde_json::Value) -> Caller {
        let answer = self.post("/api/keys", &body.to_string());
        assert_eq!(answer.status, 201, "{answer:?}");
        let secret = answer.json()["key"].as_str().expect("the new key's text").to_owned();
        Caller::new(self.address, Some(&secret)).over(self.tls.as_ref())
    }

    /// Sends one request: the key as Basic user name unless the caller is anonymous or `headers` has an Authorization,
    /// `Host` unless given, `Content-Length` when there is a body or the method usually has one.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let request = self.render(method, path, headers, body);
        let Some(kept) = &self.kept else {
            let mut wire = self.connect();
            wire.send(&request);
            return final_response(&mut wire, method);
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let wire = kept.get_or_insert_with(|| self.connect());
        wire.send(&request);
        let answer = final_response(wire, method);
        if answer.says_close() || !answer.complete {
            *kept = None;
        }
        answer
    }

    #[track_caller]
    fn connect(&self) -> Wire {
        match &self.tls {
            Some(tls) => tls.connect(self.address, GATE),
            None => Wire::connect(self.address),
        }
    }

    /// The bytes that [`Caller::request`] would send.
    pub fn render(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let given = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !given("host") {
            head += "Host: gate.test\r\n";
        }
        if let Some(secret) = self.secret.as_deref().filter(|_| !given("authorization")) {
            head += &format!("Authorization: {}\r\n", basic(secret));
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let usual = matches!(method, "POST" | "PUT" | "PATCH");
        if !given("content-length") && !given("transfer-encoding") && (usual || !body.is_empty()) {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        if self.kept.is_none() && !given("connection") {
            head += "Connection: close\r\n";
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }
}

#[track_caller]
fn final_response(wire: &mut Wire, method: &str) -> Answer {
    loop {
        let answer = wire.read_response_to(method);
        if answer.status >= 200 {
            return answer;
        }
    }
}
