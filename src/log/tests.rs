//! Tests of log lines.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::format::FormatChoice;
use super::{Access, Audit, Control, Format, Level, Occasionally, Settings, lines, subscriber};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyName, KeyRecord, KeySecret, Kind};
use crate::metrics::AuditOperation;
use crate::settings::{Reading, Source};

const HOSTILE: &str = "a\nb\r\u{1b}[2J\u{7}\u{0}\u{85}\u{202e}\u{2028}\u{feff}\"\\{}%n${jndi:x}é";

/// Keeps what is written, for after the log has ended.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `events` log under these settings, line by line.
fn logged(settings: &Settings, events: impl FnOnce()) -> Vec<String> {
    logged_under(settings, |_| events())
}

/// As [`logged`], for events that come with changes of the log.
fn logged_under(settings: &Settings, events: impl FnOnce(&Control)) -> Vec<String> {
    // Another thread's test may meet one of these events while no subscriber is there, and tracing would remember for
    // all threads that nobody wants it. One that wants everything, and does nothing with it, keeps that from happening.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    let paper = Paper::default();
    let format = FormatChoice::new(settings.format);
    let (lines, flush) = lines::start(format.clone(), paper.clone()).unwrap();
    let written = lines.written();
    let (subscriber, filter) = subscriber(settings, format.clone(), lines);
    let control = Control { filter, format, written };
    tracing::subscriber::with_default(subscriber, || events(&control));
    drop(flush);
    let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
    text.split_terminator('\n').map(str::to_owned).collect()
}

fn settings(format: Format) -> Settings {
    Settings { format, ..Settings::default() }
}

fn text() -> FormatChoice {
    FormatChoice::new(Format::Text)
}

fn key() -> KeyId {
    "pcl_0123456789AB".parse().unwrap()
}

fn access(method: &str) -> Access<'_> {
    Access {
        request_id: &"r1",
        client: [192, 0, 2, 1].into(),
        method,
        protocol: http::Version::HTTP_2,
        route: "GET /api/{id}",
        status: 200,
        key: Some(key()),
        tls_subject: None,
        bytes: 12,
        received: None,
        complete: true,
        cut: None,
        in_gate: Duration::from_micros(34),
        at_upstream: Some(Duration::from_micros(56)),
    }
}

fn record(name: &str) -> KeyRecord {
    let secret = KeySecret::generate().unwrap();
    let created = Timestamp::from_unix(1_700_000_000);
    KeyRecord {
        id: key(),
        digest: secret.digest(),
        name: KeyName::parse(name).unwrap(),
        kind: Kind::Telemetry,
        scopes: Kind::Telemetry.fixed_scopes().unwrap(),
        created,
        updated: created,
        created_revision: 1,
        revision: 7,
    }
}

fn audit(after: &KeyRecord) -> Audit<'_> {
    Audit {
        actor: &"pcl_BA9876543210",
        operation: AuditOperation::Create,
        key: key(),
        before: None,
        after: Some(after),
        client: Some([192, 0, 2, 1].into()),
        revision: 7,
    }
}

fn is_plain(line: &str) -> bool {
    !line.chars().any(|c| c.is_control() || matches!(c, '\u{202e}' | '\u{2028}' | '\u{feff}'))
}

#[test]
fn hostile_field_stays_on_one_line_of_valid_json_and_reads_back() {
    let lines = logged(&settings(Format::Json), || {
        info!(target: "portcullis", name = HOSTILE, shown = %HOSTILE, "{HOSTILE}");
    });

    assert_eq!(lines.len(), 1);
    assert!(is_plain(&lines[0]), "{}", lines[0]);
    let event: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!([&event["name"], &event["shown"]], [HOSTILE, HOSTILE]);
    assert_eq!(event["level"], "INFO");
}

#[test]
fn hostile_field_stays_on_one_line_of_text_with_nothing_unprintable() {
    let lines = logged(&settings(Format::Text), || {
        info!(target: "portcullis", name = HOSTILE, shown = %HOSTILE, "{HOSTILE}");
    });

    assert_eq!(lines.len(), 1);
    assert!(is_plain(&lines[0]), "{}", lines[0]);
    assert!(lines[0].contains("\\u{202e}") && lines[0].contains('é'), "{}", lines[0]);
}

#[test]
fn access_line_has_its_fields_and_numbers_are_numbers() {
    let settings = Settings { access: true, ..settings(Format::Json) };
    let lines = logged(&settings, || {
        access("GET").log();
        Access { key: None, at_upstream: None, ..access("GET") }.log();
    });

    let event: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(event["target"], "access");
    assert_eq!(event["request_id"], "r1");
    assert_eq!(event["client.address"], "192.0.2.1");
    let texts = ["method", "protocol", "route"].map(|name| event[name].as_str().unwrap());
    assert_eq!(texts, ["GET", "HTTP/2.0", "GET /api/{id}"]);
    assert_eq!(event["key.id"], "pcl_0123456789AB");
    let numbers = ["status", "bytes", "gate_us", "upstream_us"].map(|name| event[name].as_u64().unwrap());
    assert_eq!(numbers, [200, 12, 34, 56]);
    let event: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
    assert!(event.get("key.id").is_none() && event.get("upstream_us").is_none());
}

#[test]
fn method_of_a_hostile_client_is_cut() {
    let settings = Settings { access: true, ..settings(Format::Text) };
    let lines = logged(&settings, || access(&"X".repeat(60_000)).log());

    assert!(lines[0].len() < 500, "{}", lines[0].len());
}

#[test]
fn access_log_is_off_unless_asked_for() {
    let lines = logged(&settings(Format::Text), || {
        access("GET").log();
    });

    assert_eq!(lines, Vec::<String>::new());
}

#[test]
fn audit_line_is_written_at_every_level() {
    let settings = Settings { level: Level::Error, ..settings(Format::Json) };
    let lines = logged(&settings, || audit(&record("a \"b\"")).log());

    let event: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!([&event["target"], &event["operation"]], ["audit", "create"]);
    assert_eq!([&event["actor"], &event["key.id"]], ["pcl_BA9876543210", "pcl_0123456789AB"]);
    assert_eq!([&event["name.after"], &event["scopes.after"]], ["a \"b\"", "telemetry:write"]);
    assert_eq!([event.get("name.before"), event.get("scopes.before")], [None, None]);
    assert_eq!(event["client.address"], "192.0.2.1");
    assert_eq!(event["revision"], 7);
}

#[test]
fn level_holds_for_this_program_and_libraries_stay_at_warnings() {
    let settings = Settings { level: Level::Debug, ..settings(Format::Text) };
    let lines = logged(&settings, || {
        debug!(target: "portcullis::proxy", "ours");
        debug!(target: "hyper", "authorization: secret");
        warn!(target: "hyper", "theirs");
    });

    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains("ours") && lines[1].contains("theirs"));
}

/// Takes nothing until it is told to, as a pipe that nobody reads.
struct Stuck {
    entered: Sender<()>,
    release: Receiver<()>,
    paper: Paper,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        // Ends when the test drops its side.
        let _ = self.release.recv();
        self.paper.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn stuck_reader_holds_up_nobody_and_costs_bounded_memory() {
    let (entered, is_entered) = channel();
    let (released, release) = channel();
    let paper = Paper::default();
    let (lines, flush) =
        lines::start(FormatChoice::new(Format::Text), Stuck { entered, release, paper: paper.clone() }).unwrap();

    tracing::subscriber::with_default(subscriber(&Settings::default(), text(), lines).0, || {
        error!(target: "portcullis", "first");
        is_entered.recv().unwrap();
        (0..3_000).for_each(|_| error!(target: "portcullis", "{}", "x".repeat(1_000)));
    });
    drop(released);
    drop(flush);

    let written = paper.0.lock().unwrap().len();
    assert!(written > 1_000_000 && written <= lines::PENDING_BYTES_MAX + 1_000, "{written}");
}

/// As stderr whose reader is gone.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

#[test]
fn broken_stderr_stops_nothing() {
    let (lines, flush) = lines::start(FormatChoice::new(Format::Json), Broken).unwrap();

    tracing::subscriber::with_default(subscriber(&Settings::default(), text(), lines).0, || {
        (0..10).for_each(|_| error!(target: "portcullis", "unheard"));
    });

    drop(flush);
}

#[test]
fn repeated_warning_is_due_once_a_second_and_counts_the_others() {
    let occasionally = Occasionally::new();
    let start = Instant::now();
    assert_eq!(occasionally.due(start), Some(0));
    assert_eq!(occasionally.due(start), None);
    assert_eq!(occasionally.due(start + Duration::from_millis(999)), None);

    assert_eq!(occasionally.due(start + Duration::from_secs(1)), Some(2));
    assert_eq!(occasionally.due(start + Duration::from_secs(9)), Some(0));
}

#[test]
fn level_access_and_format_change_from_one_line_to_the_next() {
    let quiet = Settings { level: Level::Error, ..Settings::default() };
    let lines = logged_under(&quiet, |control| {
        info!(target: "portcullis", "unheard");
        access("GET").log();
        control.reconfigure(&Settings { format: Format::Json, level: Level::Debug, access: true });
        debug!(target: "portcullis", "heard");
        access("GET").log();
        control.reconfigure(&quiet);
        access("GET").log();
        error!(target: "portcullis", "text again");
    });

    assert_eq!(lines.len(), 3, "{lines:#?}");
    for line in &lines[..2] {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
    assert!(lines[2].ends_with("ERROR portcullis: text again"), "{}", lines[2]);
}

#[test]
fn what_was_logged_is_written_after_a_flush_and_the_log_goes_on() {
    let paper = Paper::default();
    let (lines, flush) = lines::start(text(), paper.clone()).unwrap();
    let written = lines.written();
    let (subscriber, filter) = subscriber(&Settings::default(), text(), lines);
    let control = Control { filter, format: text(), written };
    tracing::subscriber::with_default(subscriber, || {
        for round in 1..=3 {
            error!(target: "portcullis", round, "logged");
            control.flush();
            assert_eq!(paper.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count(), round);
        }
    });
    drop(flush);
}

#[test]
fn settings_name_their_choices() {
    let read = |text: &str| {
        let source = Source { path: PathBuf::from("test.toml"), text: text.to_owned() };
        let reading = Reading::new(&source);
        let settings = reading.document::<Settings>();
        reading.finish().map(|()| settings).map_err(|problems| problems.to_string())
    };

    let chosen = Settings { format: Format::Json, level: Level::Warn, access: true };
    assert_eq!(read("format = \"json\"\nlevel = \"warn\"\naccess = true").unwrap(), Some(chosen));
    let problems = read("level = \"trace\"").unwrap_err();
    assert!(problems.contains("level must be one of error, warn, info, debug"), "{problems}");
}
