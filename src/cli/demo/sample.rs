//! A sample upstream that looks like a metrics backend, and tells which identity it was told.
//!
//! Listens on the loopback address alone. Has no authentication, as the services that a gate stands before.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::clock::Clock;

const IDENTITY_PREFIX: &str = "x-portcullis-";
const SAW: &str = "x-sample-upstream-saw";
/// Before it accepts again when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A sample upstream that is bound.
pub(super) struct Sample {
    listener: TcpListener,
    address: SocketAddr,
}

impl Sample {
    pub(super) async fn bind() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves for as long as the runtime runs.
    pub(super) async fn serve(self) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let serving = http1::Builder::new().timer(TokioTimer::new()).serve_connection(
                TokioIo::new(stream),
                service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) }),
            );
            tokio::spawn(async move {
                // A gate that went away is no news here.
                let _ = serving.await;
            });
        }
    }
}

async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, mut body) = request.into_parts();
    // Read to its end, so that the gate can use the connection again.
    while let Some(Ok(_)) = body.frame().await {}
    match (&parts.method, parts.uri.path()) {
        (&Method::GET | &Method::HEAD, "/-/healthy") => text(StatusCode::OK, "text/plain", "healthy\n".to_owned()),
        (&Method::GET | &Method::HEAD | &Method::POST, "/api/v1/query") => {
            text(StatusCode::OK, "application/json", format!("{:#}", query_result(&parts.headers)))
        }
        (&Method::POST, "/api/v1/write") => written(&parts.headers),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "the sample upstream has no such path\n".to_owned()),
    }
}

fn query_result(headers: &HeaderMap) -> Value {
    let now = Clock::System.now().unix();
    let up = json!({ "metric": { "__name__": "up", "job": "demo" }, "value": [now, "1"] });
    json!({
        "status": "success",
        "data": { "resultType": "vector", "result": [up] },
        "upstream_saw": identity(headers),
    })
}

fn written(headers: &HeaderMap) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(saw) = HeaderValue::try_from(identity(headers).to_string()) {
        response.headers_mut().insert(SAW, saw);
    }
    response
}

/// The identity that the gate vouches for, as it arrived.
fn identity(headers: &HeaderMap) -> Value {
    let told = headers.iter().filter(|(name, _)| name.as_str().starts_with(IDENTITY_PREFIX));
    let told = told.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()));
    Value::Object(told.collect::<Map<String, Value>>())
}

fn text(status: StatusCode, media_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
