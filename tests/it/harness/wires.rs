//! Every way that a request may take: four wires to the gate and two from there to the upstream, each pair a cell.
//!
//! A test is written once, against what the wires have in common, and [`on_every_wire`] runs it in all eight cells.

mod client;
mod says;

use super::gate::Gate;
use super::h2::H2Client;
use super::h2_upstream::{H2Recorded, H2Reply, H2Upstream};
use super::setup::Setup;
use super::tls::{Authority, GATE, TlsClient};
use super::upstream::Recorded;
use super::wire::Wire;
use super::{Caller, raw_h2::RawH2};

pub use client::{Client, Exchange};
pub use says::Says;

/// How clients reach the gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Front {
    H1,
    H1Tls,
    H2Tls,
    /// HTTP/2 by prior knowledge.
    H2c,
}

/// How the gate reaches the upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Back {
    H1,
    H2,
}

impl Front {
    pub const EVERY: [Self; 4] = [Self::H1, Self::H1Tls, Self::H2Tls, Self::H2c];

    pub fn is_tls(self) -> bool {
        matches!(self, Self::H1Tls | Self::H2Tls)
    }

    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2Tls | Self::H2c)
    }
}

impl Back {
    pub const EVERY: [Self; 2] = [Self::H1, Self::H2];
}

/// A gate with an upstream, and the wires on both sides of it.
pub struct Cell {
    pub front: Front,
    pub back: Back,
    pub gate: Gate,
    /// In place of the gate's own recording upstream.
    upstream: Option<H2Upstream>,
    pub authority: Authority,
    pub tls: TlsClient,
}

/// Runs a test in all cells side by side. Its failures carry the cell's name as that of their thread.
#[track_caller]
pub fn on_every_wire(change: impl Fn(Setup) -> Setup + Sync, test: impl Fn(&Cell) + Sync) {
    let (change, test) = (&change, &test);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let cells = Front::EVERY.into_iter().flat_map(|front| Back::EVERY.map(|back| (front, back)));
        let running: Vec<_> = cells
            .map(|(front, back)| {
                let name = format!("{front:?} to {back:?}");
                let thread = std::thread::Builder::new().name(name.clone());
                let run = move || test(&Cell::start(front, back, change));
                (name, thread.spawn_scoped(scope, run).expect("a thread"))
            })
            .collect();
        running.into_iter().filter_map(|(name, run)| run.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "failed: {failed:?}");
}

impl Cell {
    #[track_caller]
    pub fn start(front: Front, back: Back, change: impl FnOnce(Setup) -> Setup) -> Self {
        let authority = Authority::new("Wires CA");
        let tls = TlsClient::trusting(&authority);
        let upstream = (back == Back::H2).then(H2Upstream::start);
        // As the other one does: a request is whole before it is answered.
        upstream.iter().for_each(|upstream| upstream.reply_always(H2Reply::echo_whole()));
        let gate = Gate::with(|mut setup| {
            if front.is_tls() {
                setup = setup.tls(&authority.server("gate", &[GATE, "localhost"]), &tls);
            }
            if let Some(upstream) = &upstream {
                setup = setup.upstream_url(&format!("http://{}", upstream.address())).upstream(r#"protocol = "http2""#);
            }
            change(setup)
        });
        Self { front, back, gate, upstream, authority, tls }
    }

    /// A client with this caller's key.
    pub fn client(&self, caller: &Caller) -> Client<'_> {
        Client::new(self, caller.keep_alive())
    }

    /// A client without a key.
    pub fn stranger(&self) -> Client<'_> {
        self.client(&self.gate.anonymous())
    }

    /// A connection down to the byte, over HTTP/1.1.
    #[track_caller]
    pub fn wire(&self) -> Wire {
        match self.front {
            Front::H1 => self.gate.raw(),
            Front::H1Tls => self.tls.connect(self.gate.public(), GATE),
            Front::H2Tls | Front::H2c => panic!("{:?} is not HTTP/1.1", self.front),
        }
    }

    /// A connection down to the frame, over HTTP/2.
    #[track_caller]
    pub fn frames(&self) -> RawH2 {
        match self.front {
            Front::H2Tls => RawH2::over_tls(self.gate.public(), &self.tls),
            Front::H2c => RawH2::connect(self.gate.public()),
            Front::H1 | Front::H1Tls => panic!("{:?} is not HTTP/2", self.front),
        }
    }

    #[track_caller]
    fn http2(&self) -> H2Client {
        match self.front {
            Front::H2Tls => H2Client::over_tls(self.gate.public(), &self.tls),
            _ => H2Client::connect(self.gate.public()),
        }
    }

    /// Where a program of another kind finds the gate.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.front.is_tls() { "https" } else { "http" };
        format!("{scheme}://localhost:{}{path}", self.gate.public().port())
    }

    /// What the upstream does with the next request; later ones queue behind. Else it echoes.
    pub fn says(&self, says: Says) {
        match &self.upstream {
            Some(upstream) => upstream.reply(says.over_http2()),
            None => self.gate.upstream().reply(says.over_http1()),
        }
    }

    /// Lets everything that is held go on.
    pub fn release(&self) {
        self.gate.upstream().release();
        self.upstream.iter().for_each(H2Upstream::release);
    }

    /// Every request that has arrived whole at the upstream, in order.
    pub fn requests(&self) -> Vec<Got> {
        match &self.upstream {
            Some(upstream) => upstream.requests().into_iter().map(Got::from).collect(),
            None => self.gate.upstream().requests().into_iter().map(Got::from).collect(),
        }
    }

    /// The request that arrived last. Panics when there was none.
    #[track_caller]
    pub fn last(&self) -> Got {
        self.requests().pop().expect("the upstream has seen a request")
    }

    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) {
        match &self.upstream {
            Some(upstream) => upstream.wait_for_requests(count),
            None => self.gate.upstream().wait_for_requests(count),
        }
    }

    pub fn forget(&self) {
        self.gate.upstream().forget();
        self.upstream.iter().for_each(H2Upstream::forget);
    }

    /// Asserts that no part of a request has reached the upstream since it forgot.
    #[track_caller]
    pub fn check_untouched(&self) {
        let raw = self.gate.upstream().raw();
        assert!(raw.is_empty(), "the upstream saw {:?}", String::from_utf8_lossy(&raw));
        let begun = self.upstream.as_ref().map_or(0, H2Upstream::begun);
        assert_eq!(begun, 0, "the upstream saw {:?}", self.requests());
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.release();
    }
}

/// A request as the upstream got it, in the words of both versions.
#[derive(Clone, Debug)]
pub struct Got {
    pub method: String,
    pub target: String,
    /// `Host`, or `:authority`.
    pub host: Option<String>,
    /// Names in lower case, without `host`.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Got {
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.header_values(name).is_empty()
    }

    /// Whether a text is anywhere in it but in its body.
    pub fn mentions(&self, text: &str) -> bool {
        let fields = self.headers.iter().chain(&self.trailers);
        self.target.contains(text) || fields.clone().any(|(name, value)| name.contains(text) || value.contains(text))
    }
}

impl From<Recorded> for Got {
    fn from(recorded: Recorded) -> Self {
        let trailers = if recorded.has("transfer-encoding") { trailers_of(&recorded.raw) } else { Vec::new() };
        let host = recorded.header("host").map(str::to_owned);
        let Recorded { method, target, mut headers, body, .. } = recorded;
        headers.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        headers.retain(|(name, _)| name != "host");
        Self { method, target, host, headers, body, trailers }
    }
}

impl From<H2Recorded> for Got {
    fn from(recorded: H2Recorded) -> Self {
        let H2Recorded { method, target, authority: host, headers, body, trailers, .. } = recorded;
        Self { method, target, host, headers, body, trailers }
    }
}

/// The trailers at the end of a chunked message.
fn trailers_of(raw: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(raw).into_owned();
    let section = text.rsplit_once("\r\n0\r\n").map_or("", |(_, section)| section);
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    section.split("\r\n").filter_map(field).collect()
}
