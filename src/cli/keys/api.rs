//! The calls of the key API, and its refusals as errors for people.

use std::fmt;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::cli::client::{Address, Answer, Client, Patience, Question};
use crate::cli::output::escaped;
use crate::key::KeySecret;
use crate::tls::{self, ClientSettings};

const PATH: &str = "/api/keys";
const PAGE_SIZE: usize = 1_000;
/// More keys than a gate holds.
const PAGES_MAX: usize = 10_000;
const PATIENCE: Patience =
    Patience { connect: std::time::Duration::from_secs(5), answer: std::time::Duration::from_secs(60) };

/// The key API of one gate, called with one key.
pub(super) struct Api {
    client: Client,
    path: String,
    authorization: HeaderValue,
}

#[derive(Serialize)]
pub(super) struct Draft<'d> {
    pub(super) name: &'d str,
    pub(super) kind: &'d str,
    /// None given: left to the kind.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(super) scopes: &'d [String],
}

#[derive(Serialize)]
pub(super) struct Change<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scopes: Option<&'c [String]>,
}

#[derive(Deserialize)]
struct Page {
    total_count: usize,
    data: Vec<Value>,
}

/// What the gate says no with.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    problem: Problem,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
    request_id: String,
    errors: Vec<FieldError>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    field: String,
    message: String,
}

impl Api {
    pub(super) fn new(address: Address, trust: &ClientSettings, secret: &KeySecret) -> anyhow::Result<Self> {
        let path = if address.path().is_empty() { PATH } else { address.path() }.to_owned();
        let credentials = Zeroizing::new(format!("{}:", secret.expose()));
        let encoded = Zeroizing::new(format!("Basic {}", STANDARD.encode(credentials.as_bytes())));
        let mut authorization = HeaderValue::try_from(encoded.as_str())?;
        authorization.set_sensitive(true);
        let client = Client::new(address, PATIENCE, || tls::Client::new(trust)).context("cannot start a client")?;
        Ok(Self { client, path, authorization })
    }

    /// All keys, page by page.
    pub(super) fn list(&mut self) -> anyhow::Result<Vec<Value>> {
        let mut keys: Vec<Value> = Vec::new();
        for number in 1..=PAGES_MAX {
            let target = format!("{}?page={number}&page_size={PAGE_SIZE}", self.path);
            let Page { total_count, data } = self.call(Method::GET, &target, None)?;
            let got = data.len();
            keys.extend(data);
            if got == 0 || keys.len() >= total_count {
                break;
            }
        }
        Ok(keys)
    }

    pub(super) fn get(&mut self, key: &str) -> anyhow::Result<Value> {
        let target = self.item(key);
        self.call(Method::GET, &target, None)
    }

    pub(super) fn create(&mut self, draft: &Draft<'_>) -> anyhow::Result<Value> {
        let target = self.path.clone();
        self.call(Method::POST, &target, Some(serde_json::to_vec(draft)?))
    }

    pub(super) fn update(&mut self, key: &str, change: &Change<'_>) -> anyhow::Result<Value> {
        let target = self.item(key);
        self.call(Method::PUT, &target, Some(serde_json::to_vec(change)?))
    }

    pub(super) fn delete(&mut self, key: &str) -> anyhow::Result<()> {
        let target = self.item(key);
        self.ask(Method::DELETE, &target, None).map(drop)
    }

    fn item(&self, key: &str) -> String {
        format!("{}/{key}", self.path)
    }

    fn call<T: for<'de> Deserialize<'de>>(
        &mut self,
        method: Method,
        target: &str,
        json: Option<Vec<u8>>,
    ) -> anyhow::Result<T> {
        let answer = self.ask(method, target, json)?;
        serde_json::from_slice(&answer.body)
            .with_context(|| format!("{} answers with no key API", self.client.address()))
    }

    fn ask(&mut self, method: Method, target: &str, json: Option<Vec<u8>>) -> anyhow::Result<Answer> {
        let question = Question { method, target, authorization: Some(&self.authorization), json };
        let answer = self.client.ask(question);
        let answer = answer.with_context(|| format!("no answer from {}", self.client.address()))?;
        if !answer.status.is_success() {
            let problem = serde_json::from_slice(&answer.body).unwrap_or_default();
            return Err(Refused { status: answer.status, problem }.into());
        }
        Ok(answer)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { code, detail, request_id, errors } = &self.problem;
        write!(f, "{}", self.status)?;
        if code.is_empty() {
            return f.write_str(", with no reason that a portcullis gives: is this the key API?");
        }
        write!(f, " ({}): {}", escaped(code), escaped(detail))?;
        for FieldError { field, message } in errors {
            write!(f, "\n  {}: {}", escaped(field), escaped(message))?;
        }
        write!(f, "\n  request {}", escaped(request_id))
    }
}

impl std::error::Error for Refused {}
