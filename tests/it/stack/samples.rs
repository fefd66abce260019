//! Samples: where they come from, and where they are found again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::harness::Caller;

use super::PATIENCE;

pub(super) type Series = BTreeMap<String, String>;
/// Milliseconds at which each series has a sample.
pub(super) type Samples = BTreeMap<Series, BTreeSet<i64>>;

pub(super) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn series(labels: &serde_json::Value) -> Series {
    let labels = labels.as_object().expect("labels");
    labels.iter().map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned())).collect()
}

pub(super) fn samples_of_prometheus(address: SocketAddr) -> Samples {
    let query = "/api/v1/query?query=%7Bjob%3D~%22.%2B%22%7D%5B1h%5D";
    let answer = Caller::new(address, None).get(query).json();
    let all = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let moments = |values: &serde_json::Value| {
        let moment = |sample: &serde_json::Value| (sample[0].as_f64().expect("seconds") * 1_000.0).round() as i64;
        values.as_array().expect("samples").iter().map(moment).collect()
    };
    all.iter().map(|one| (series(&one["metric"]), moments(&one["values"]))).collect()
}

pub(super) fn samples_of_victoria_metrics(address: SocketAddr) -> Samples {
    let exported = Caller::new(address, None).get("/api/v1/export?match%5B%5D=%7Bjob%21%3D%22%22%7D").text();
    let mut samples = Samples::new();
    for one in exported.lines().map(json) {
        let moments = one["timestamps"].as_array().expect("timestamps").iter().filter_map(serde_json::Value::as_i64);
        samples.entry(series(&one["metric"])).or_default().extend(moments);
    }
    samples
}

pub(super) fn missing_samples(kept: &Samples, there: &Samples) -> Vec<(Series, i64)> {
    let none = BTreeSet::new();
    let missing = kept.iter().flat_map(|(series, moments)| {
        let found = there.get(series).unwrap_or(&none);
        moments.difference(found).map(|moment| (series.clone(), *moment))
    });
    missing.collect()
}

/// A target that counts its scrapes, by path, and shows the count: each sample of it is another one.
pub(super) struct Exporter {
    pub(super) address: SocketAddr,
    counts: Arc<(Mutex<BTreeMap<String, u64>>, Condvar)>,
}

impl Exporter {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let exporter = Self { address: listener.local_addr().expect("an address"), counts: Arc::default() };
        let counts = Arc::clone(&exporter.counts);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = Arc::clone(&counts);
                std::thread::spawn(move || drop(show_counts(stream, &counts)));
            }
        });
        exporter
    }

    pub(super) fn scrapes(&self, agent: &str) -> u64 {
        self.counts.0.lock().expect("whole").get(agent).copied().unwrap_or(0)
    }

    /// Waits until both agents have scraped so often from now on.
    #[track_caller]
    pub(super) fn wait_for_more(&self, count: u64) {
        let wanted = ["prometheus", "vmagent"].map(|agent| (agent, self.scrapes(agent) + count));
        let counts = self.counts.0.lock().expect("whole");
        let is_short = |counts: &mut BTreeMap<String, u64>| {
            wanted.iter().any(|(agent, wanted)| counts.get(*agent).is_none_or(|count| count < wanted))
        };
        let waited = self.counts.1.wait_timeout_while(counts, PATIENCE, is_short).expect("whole");
        assert!(!waited.1.timed_out(), "an agent does not scrape: {:?}, wanted {wanted:?}", waited.0);
    }
}

fn show_counts(stream: TcpStream, counts: &(Mutex<BTreeMap<String, u64>>, Condvar)) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(request) = lines.next().transpose()? {
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let agent = request.split([' ', '/']).nth(2).unwrap_or_default().to_owned();
        let mut known = counts.0.lock().expect("whole");
        let count = known.entry(agent).or_default();
        *count += 1;
        let body = format!("# TYPE stack_ticks counter\nstack_ticks {count}\n");
        drop(known);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
        (&stream).write_all((head + &body).as_bytes())?;
        counts.1.notify_all();
    }
    Ok(())
}
