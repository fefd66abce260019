//! Real clients over every wire. Each test says SKIPPED when its program is not installed.

use std::process::Command;

use crate::harness::{Back, Caller, Cell, Front, Process, Says, is_installed, on_every_wire};
use crate::real_clients::{has_module, python};

/// What curl is told to speak, and what it says that it has spoken.
fn version(front: Front) -> (&'static str, &'static str) {
    match front {
        Front::H1 | Front::H1Tls => ("--http1.1", "1.1"),
        Front::H2Tls => ("--http2", "2"),
        Front::H2c => ("--http2-prior-knowledge", "2"),
    }
}

#[test]
fn curl_is_served_and_refused_over_every_wire() {
    if !is_installed("curl") {
        return;
    }
    on_every_wire(
        |setup| setup,
        |cell| {
            let (reader, pinger) = (cell.gate.key(&["monitor:read"]), cell.gate.telemetry_key());
            let (flag, version) = version(cell.front);
            let file = cell.gate.folder().join("body");
            std::fs::write(&file, vec![b'x'; 3 << 20]).expect("writable");
            let data = format!("@{}", file.display());
            let curl = |caller: &Caller, arguments: &[&str], path: &str| {
                let mut command = Command::new("curl");
                command.args(["-sS", "--noproxy", "*", "--ipv4", flag, "-o", "/dev/null", "--cacert"]);
                command.arg(cell.authority.file()).arg("-u").arg(format!("{}:", caller.secret()));
                command.args(["-w", "%{http_version} %{http_code} %{size_download}"]).args(arguments);
                command.arg(cell.url(path));
                let exit = Process::spawn(command).wait();
                assert_eq!(exit.code, Some(0), "{arguments:?}: {exit:?}");
                exit.stdout.trim().to_owned()
            };
            let told = |status: u16, bytes: usize| format!("{version} {status} {bytes}");
            assert_eq!(curl(&reader, &[], "/api/v1/query?a=%20b"), told(200, 0));
            assert_eq!(cell.last().target, "/api/v1/query?a=%20b");
            assert_eq!(curl(&reader, &["-I"], "/api/v1/query"), told(200, 0));
            assert_eq!(curl(&pinger, &["-I"], "/api/v1/query"), told(403, 0));
            assert_eq!(curl(&pinger, &["--data-binary", &data], "/api/v1/write"), told(200, 3 << 20));
            assert!(cell.last().body == vec![b'x'; 3 << 20]);
            // Without a body: over HTTP/2, curl 7.88 fails on an answer that comes before it has sent all of one (its
            // error 92), though RFC 9113 §8.1 provides for that.
            let refused = curl(&reader, &["-X", "POST"], "/api/v1/write");
            assert!(refused.starts_with(&format!("{version} 403 ")), "{refused}");
            let unknown = ["-H", "Transfer-Encoding: chunked", "--data-binary", &data];
            assert_eq!(curl(&pinger, &unknown, "/api/v1/write"), told(200, 3 << 20));
            assert_eq!(cell.requests().len(), 4);
        },
    );
}

#[test]
fn h2load_gets_nothing_but_2xx_over_every_wire() {
    if !is_installed("h2load") {
        return;
    }
    on_every_wire(
        |setup| setup,
        |cell| {
            let reader = cell.gate.key(&["monitor:read"]);
            let scheme = if cell.front.is_tls() { "https" } else { "http" };
            let mut command = Command::new("h2load");
            // Over HTTP/1.1 it takes only one request at a time.
            let at_once = if cell.front.is_http2() { &["-m", "10"][..] } else { &["--h1", "-m", "1"] };
            command.args(["-n", "300", "-c", "3"]).args(at_once);
            command.arg("-H").arg(format!("authorization: {}", reader.authorization()));
            command.arg(format!("{scheme}://{}/api/v1/query?load", cell.gate.public()));
            let exit = Process::spawn(command).wait();
            assert_eq!(exit.code, Some(0), "{exit:?}");
            assert!(exit.stdout.contains("300 succeeded, 0 failed, 0 errored, 0 timeout"), "{}", exit.stdout);
            assert!(exit.stdout.contains("status codes: 300 2xx, 0 3xx, 0 4xx, 0 5xx"), "{}", exit.stdout);
            let requests = cell.requests();
            assert_eq!(requests.iter().filter(|request| request.target == "/api/v1/query?load").count(), 300);
            super::check_wire(cell);
        },
    );
}

/// What becomes of one span that an OTLP exporter is given, with what it has logged.
#[track_caller]
fn export(cell: &Cell, module: &str, exporter: &str) -> String {
    let ca = cell.authority.file();
    python(&format!(
        "import logging, os, sys\n\
         for name in list(os.environ):\n    if name.lower().endswith(('_proxy', '_ca_bundle')): del os.environ[name]\n\
         os.environ['NO_PROXY'] = '*'\n\
         logging.basicConfig(stream=sys.stdout)\n\
         from opentelemetry.sdk.trace import TracerProvider\n\
         from opentelemetry.exporter.otlp.proto.{module}.trace_exporter import OTLPSpanExporter\n\
         ca = {ca:?}\n\
         exporter = {exporter}\n\
         span = TracerProvider().get_tracer('wires').start_span('span-of-the-matrix')\n\
         span.end()\n\
         print('result', exporter.export([span]).name)\n\
         exporter.shutdown()\n"
    ))
}

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[test]
fn an_otlp_exporter_over_grpc_is_served_and_told_why_it_is_refused() {
    if !has_module("opentelemetry.exporter.otlp.proto.grpc", None) {
        return;
    }
    for front in [Front::H2c, Front::H2Tls] {
        let cell =
            Cell::start(front, Back::H2, |setup| setup.route(&format!("POST {GRPC_PATH}"), r#""telemetry:write""#));
        let (writer, reader) = (cell.gate.telemetry_key(), cell.gate.key(&["monitor:read"]));
        let export = |authorization: &str| {
            let credentials = match front {
                Front::H2Tls => "credentials=__import__('grpc').ssl_channel_credentials(open(ca, 'rb').read())",
                _ => "insecure=True",
            };
            let (url, headers) = (cell.url(""), format!("(('authorization', '{authorization}'),)"));
            let exporter = format!("OTLPSpanExporter(endpoint='{url}', headers={headers}, timeout=20, {credentials})");
            export(&cell, "grpc", &exporter)
        };
        let says = Says::status(200).header("content-type", "application/grpc").piece(b"\0\0\0\0\0");
        cell.says(says.trailers(&[("grpc-status", "0")]));

        assert_eq!(export(&writer.authorization()), "result SUCCESS", "{front:?}");

        let got = cell.last();
        assert_eq!((got.target.as_str(), got.header_values("te")), (GRPC_PATH, vec!["trailers"]));
        assert_eq!(got.header_values("x-portcullis-key-id"), [writer.id()]);
        assert!(String::from_utf8_lossy(&got.body).contains("span-of-the-matrix"), "{got:?}");
        for (authorization, status) in
            [(reader.authorization(), "PERMISSION_DENIED"), ("Bearer junk".to_owned(), "UNAUTHENTICATED")]
        {
            let told = export(&authorization);
            assert!(told.contains(status) && told.ends_with("result FAILURE"), "{front:?}: {told}");
        }
        assert_eq!(cell.requests().len(), 1);
    }
}

#[test]
fn an_otlp_exporter_over_http_is_served_and_refused() {
    if !has_module("opentelemetry.exporter.otlp.proto.http", None) {
        return;
    }
    for front in [Front::H1, Front::H1Tls] {
        let cell = Cell::start(front, Back::H1, |setup| setup.route("POST /v1/traces", r#""telemetry:write""#));
        let (writer, reader) = (cell.gate.telemetry_key(), cell.gate.key(&["monitor:read"]));
        let export = |caller: &Caller| {
            let (url, authorization) = (cell.url("/v1/traces"), caller.authorization());
            let headers = format!("{{'authorization': '{authorization}'}}");
            let certificate = if front.is_tls() { "certificate_file=ca" } else { "" };
            export(
                &cell,
                "http",
                &format!("OTLPSpanExporter(endpoint='{url}', headers={headers}, timeout=20, {certificate})"),
            )
        };
        cell.says(Says::status(200).header("content-type", "application/x-protobuf"));

        assert_eq!(export(&writer), "result SUCCESS", "{front:?}");

        let got = cell.last();
        assert_eq!((got.method.as_str(), got.target.as_str()), ("POST", "/v1/traces"));
        assert_eq!(got.header_values("content-type"), ["application/x-protobuf"]);
        assert!(String::from_utf8_lossy(&got.body).contains("span-of-the-matrix"), "{got:?}");
        for (caller, status) in [(&reader, "403"), (&cell.gate.caller("junk"), "401")] {
            let told = export(caller);
            assert!(told.contains(status) && told.ends_with("result FAILURE"), "{front:?}: {told}");
        }
        assert_eq!(cell.requests().len(), 1);
    }
}
