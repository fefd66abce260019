//! Clients that hold on to a connection for as long as they can, beside one that does not.
//!
//! `PORTCULLIS_SLOW_CLIENTS=2000@20` sets how many of each kind there are and for how many seconds; the good client's
//! response times are held to their bound then, too.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, interval_at, timeout};

use super::{MIB, Rig, narrow, pass};
use crate::harness::raw_h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE, block, frame, head,
};
use crate::harness::{
    Authority, Caller, DEADLINE, GATE, H2Load, H2Pace, Load, Pace, Process, Setup, Tally, Tank, TlsClient, Tongue,
    is_installed,
};

/// How many of a kind, and for how long.
const SHORT: (usize, Duration) = (200, Duration::from_millis(400));
const WARM_UP: Duration = Duration::from_millis(50);
const PACE: Pace = Pace { kept: 3, fresh: 1, pausing: 0, per_second: 200 };
const H2_PACE: H2Pace = H2Pace { connections: 4, streams: 2, per_second: 200 };
const PATH: &str = "/open/x";
/// Between two bytes of a slow client in a short run.
const DRIP: Duration = Duration::from_millis(200);
/// The same where response times are told: the shortest that slowhttptest knows. Two thousand clients that send five
/// times as often are no slow clients but ten thousand packets a second.
const TOLD_DRIP: Duration = Duration::from_secs(1);
const NICEST: i32 = 19;
static LAST_CORE: LazyLock<String> =
    LazyLock::new(|| (std::thread::available_parallelism().map_or(1, usize::from) - 1).to_string());
/// Over HTTP/2, of each client.
const STREAMS: u32 = 1;
const MEMORY_MAX: u64 = 64 * MIB;
/// What may be held for one client that takes nothing of a large response: what it has of it in each of two buffers.
const UNREAD_MAX: u64 = 160 * 1_024;

/// What a slow client says, and what it does then until the gate is done with it.
#[derive(Clone)]
struct Slow {
    opening: Vec<u8>,
    then: Then,
    drip: Duration,
}

#[derive(Clone)]
enum Then {
    /// Sends this again and again.
    Drip(Vec<u8>),
    /// Reads a byte again and again.
    Sip,
    Wait,
}

impl Slow {
    fn new(opening: impl Into<Vec<u8>>, then: Then) -> Self {
        Self { opening: opening.into(), then, drip: if wanted().2 { TOLD_DRIP } else { DRIP } }
    }

    fn dripping(opening: impl Into<Vec<u8>>, drop: impl Into<Vec<u8>>) -> Self {
        Self::new(opening, Then::Drip(drop.into()))
    }

    fn sipping(opening: impl Into<Vec<u8>>) -> Self {
        Self::new(opening, Then::Sip)
    }

    fn waiting(opening: impl Into<Vec<u8>>) -> Self {
        Self::new(opening, Then::Wait)
    }

    /// One connection to its end.
    async fn talk(&self, address: SocketAddr, begun: &AtomicU64) -> std::io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(1_024)?;
        let mut stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&self.opening).await?;
        begun.fetch_add(1, Ordering::SeqCst);
        let mut turns = interval(self.drip);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match &self.then {
                Then::Drip(drop) => match timeout(self.drip, stream.read(&mut [0; 512])).await {
                    Err(_) => stream.write_all(drop).await?,
                    Ok(Ok(count)) if count > 0 => {}
                    Ok(ended) => return ended.map(|_| ()),
                },
                Then::Sip => {
                    turns.tick().await;
                    if stream.read(&mut [0]).await? == 0 {
                        return Ok(());
                    }
                }
                Then::Wait => return read_to_end(&mut stream).await,
            }
        }
    }
}

async fn read_to_end(stream: &mut TcpStream) -> std::io::Result<()> {
    while stream.read(&mut [0; 512]).await? > 0 {}
    Ok(())
}

/// So many slow clients, each of which comes again when it is cut off. Gone when dropped.
struct Crowd {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    connections: Arc<AtomicU64>,
}

impl Crowd {
    fn start(address: SocketAddr, slow: &Slow, count: usize) -> Self {
        let (stop, stopped) = oneshot::channel();
        let connections = Arc::new(AtomicU64::new(0));
        let (slow, counter) = (slow.clone(), Arc::clone(&connections));
        let thread = std::thread::spawn(move || {
            if wanted().2 {
                // Its part of this machine is to be that of others.
                rustix::process::setpriority_process(None, NICEST).expect("a thread may always step back");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for number in 0..count {
                    // Not in step: two thousand drops in the same moment would be a flood.
                    let begins = Instant::now()
                        + slow.drip * u32::try_from(number).expect("a few") / u32::try_from(count).expect("a few");
                    clients.spawn(come_again(begins, address, slow.clone(), Arc::clone(&counter)));
                }
                let _ = stopped.await;
            });
        });
        Self { stop: Some(stop), thread: Some(thread), connections }
    }
}

impl Crowd {
    /// Waits until so many have come.
    #[track_caller]
    fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.connections.load(Ordering::SeqCst) < count as u64 {
            assert!(Instant::now() < deadline, "slow clients do not come");
            pass(Duration::from_millis(20));
        }
    }
}

async fn come_again(begins: Instant, address: SocketAddr, slow: Slow, connections: Arc<AtomicU64>) {
    let mut turns = interval_at(begins.into(), slow.drip);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let _ = slow.talk(address, &connections).await;
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop = None;
        self.thread.take().into_iter().for_each(|thread| thread.join().expect("slow clients count no failure"));
    }
}

/// How many of a kind, for how long, and whether that is long enough to tell response times.
fn wanted() -> (usize, Duration, bool) {
    let Ok(text) = std::env::var("PORTCULLIS_SLOW_CLIENTS") else { return (SHORT.0, SHORT.1, false) };
    let numbers = text.split_once('@');
    let (count, seconds) = numbers
        .and_then(|(count, seconds)| Some((count.parse().ok()?, seconds.parse().ok()?)))
        .expect("CLIENTS@SECONDS");
    (count, Duration::from_secs(seconds), true)
}

/// The program before a [`Tank`], and a good client's ways.
pub(super) struct Street {
    pub(super) rig: Rig,
    pub(super) good: Caller,
    /// How the good client comes; `None`: in clear text.
    tls: Option<TlsClient>,
    memory_max: u64,
    upstream: String,
}

/// Response times of the good client of which 99 in a hundred are shorter.
pub(super) struct Waits {
    alone: Duration,
    beside: Duration,
}

impl Waits {
    /// Asserts that they are at most twice as long beside others, where there are enough to tell.
    #[track_caller]
    pub(super) fn check(&self, what: &str) {
        assert!(
            !wanted().2 || self.beside <= self.alone * 2,
            "{what}: p99 {:?} alone, {:?} beside",
            self.alone,
            self.beside
        );
    }
}

impl Street {
    #[track_caller]
    pub(super) fn new() -> Self {
        Self::with(|setup| setup, None)
    }

    #[track_caller]
    fn with(change: impl FnOnce(Setup) -> Setup, tls: Option<TlsClient>) -> Self {
        let tank = Tank::start(Tongue::Http1);
        // What is told is told of the program as it ships.
        let workers = if wanted().2 { "workers = \"auto\"" } else { "workers = 1" };
        let rig = Rig::with(|setup| change(setup.option("listen", workers).upstream_url(&tank.url())));
        let good = rig.served.caller(&rig.root);
        Self { rig, good, tls, memory_max: MEMORY_MAX, upstream: tank.url() }
    }

    /// For so many large responses that are not taken.
    fn unread(self, count: usize) -> Self {
        Self { memory_max: MEMORY_MAX.max(count as u64 * UNREAD_MAX), ..self }
    }

    /// What the good client sees in so much time.
    fn load(&self, time: Duration) -> Tally {
        let (address, authorization) = (self.rig.served.public, self.good.authorization());
        match &self.tls {
            None => {
                let load = Load::start(address, PATH, &authorization, PACE);
                pass(time);
                load.stop()
            }
            Some(tls) => {
                let load = H2Load::start(address, tls, PATH, &authorization, H2_PACE);
                pass(time);
                load.stop()
            }
        }
    }

    /// The good client beside slow ones: no error, little memory, and where it can be told, no long wait.
    #[track_caller]
    fn check(&self, what: &str, slow: &Slow) {
        let (count, time, _) = wanted();
        let begin = || {
            let crowd = Crowd::start(self.rig.served.public, slow, count);
            crowd.wait_for(count);
            crowd
        };
        let waits = self.check_beside(what, time, begin, |crowd| {
            format!("{count} clients, {} connections", crowd.connections.load(Ordering::SeqCst))
        });
        waits.check(what);
    }

    /// The good client alone for so much time, then beside what begins now for as long: no error and little memory.
    #[track_caller]
    pub(super) fn check_beside<C>(
        &self,
        what: &str,
        time: Duration,
        begin: impl FnOnce() -> C,
        end: impl FnOnce(C) -> String,
    ) -> Waits {
        let probe = &self.rig.probe;
        // Where response times are not told, one short load is enough to have everything in memory.
        let alone = if wanted().2 { self.load(time) } else { self.load(WARM_UP) };
        let before = probe.memory();
        probe.forget_peak();
        let crowd = begin();
        let cpu = probe.cpu();
        let beside = self.load(time);
        let (cpu, descriptors) = (probe.cpu() - cpu, probe.descriptors());
        let told = end(crowd);
        let grown = probe.peak().saturating_sub(before);
        let (p99, p99_beside) = (alone.percentile(99), beside.percentile(99));
        println!(
            "{what}: {told}; {} requests, p99 {p99:?} alone, {p99_beside:?} beside; {} KiB more of {} KiB; \
             {descriptors} descriptors; {cpu:?} of {:?}",
            beside.answered,
            grown / 1_024,
            before / 1_024,
            beside.took
        );
        assert_eq!((alone.failed, beside.failed), (0, 0), "{what}: {alone:?} {beside:?}");
        assert!(beside.answered > 0, "{what}: nobody was served");
        assert!(grown < self.memory_max, "{what}: {grown} bytes more");
        Waits { alone: p99, beside: p99_beside }
    }
}

/// nginx before the same upstream.
struct Nginx {
    address: SocketAddr,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Nginx {
    #[track_caller]
    fn start(upstream: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let at = folder.path().display();
        let upstream = upstream.strip_prefix("http://").expect("a URL");
        let config = format!(
            "daemon off; pid {at}/pid; error_log {at}/error.log; worker_processes auto; worker_rlimit_nofile 16384; \
             events {{ worker_connections 8192; }} \
             http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; \
             upstream tank {{ server {upstream}; keepalive 64; }} \
             server {{ listen {address} backlog=4096; location / {{ proxy_pass http://tank; proxy_http_version 1.1; \
             proxy_set_header Connection \"\"; proxy_request_buffering off; proxy_max_temp_file_size 0; }} }} }}"
        );
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, config).expect("a configuration");
        let mut command = Command::new("nginx");
        command.arg("-e").arg(folder.path().join("error.log")).arg("-c").arg(path);
        let nginx = Self { address, _process: Process::spawn(command), _folder: folder };
        let deadline = Instant::now() + DEADLINE;
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            pass(Duration::from_millis(20));
        }
        nginx
    }

    /// What a good client of nginx sees beside the same.
    #[track_caller]
    fn beside(&self, what: &str, time: Duration, crowd: Process) -> Duration {
        let load = Load::start(self.address, PATH, "none", PACE);
        pass(time);
        let seen = load.stop();
        crowd.wait();
        assert_eq!(seen.failed, 0, "{what}: {seen:?}");
        println!("{what}: p99 {:?} beside it at nginx", seen.percentile(99));
        seen.percentile(99)
    }
}

fn post(street: &Street, length: &str) -> Vec<u8> {
    street.good.render("POST", "/api/v1/write", &[length.split_once(": ").expect("a field")], b"")
}

#[test]
fn good_client_is_served_beside_slow_heads() {
    let street = Street::new();
    street.check("slow heads", &Slow::dripping("GET /open/x HTTP/1.1\r\nHost: gate.test\r\n", "X-a: b\r\n"));
}

#[test]
fn good_client_is_served_beside_slow_bodies() {
    let street = Street::new();
    street.check("slow bodies", &Slow::dripping(post(&street, "Content-Length: 1000000"), "x"));
    street.check("slow chunks", &Slow::dripping(post(&street, "Transfer-Encoding: chunked"), "1\r\nx\r\n"));
}

#[test]
fn good_client_is_served_beside_slow_readers() {
    let street = Street::new();
    let request = street.good.render("GET", "/open/give/10000000", &[], b"");
    street.check("slow reading", &Slow::sipping(request));
    let ranges: Vec<String> = (0..1_000).map(|end| format!("5-{end}")).collect();
    let request =
        street.good.render("GET", "/open/give/1000000", &[("Range", &format!("bytes=0-,{}", ranges.join(",")))], b"");
    street.check("many ranges", &Slow::sipping(request));
}

#[test]
fn good_client_is_served_beside_clients_that_say_nothing() {
    let street = Street::new();
    street.check("silence", &Slow::waiting(""));
    street.check("half a preface", &Slow::dripping(&PREFACE[..3], ""));
}

#[test]
fn good_client_is_served_beside_pipelines_that_nobody_reads() {
    let street = Street::new();
    let requests = Caller::new(street.rig.served.public, None).keep_alive().render("GET", "/open/x", &[], b"");
    street.check("unread pipelines", &Slow::sipping(requests.repeat(1_000)));
}

/// The frames of a client that begins with these.
fn h2(settings: &[u8], frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, settings), &frame(SETTINGS, 1, 0, &[]), &frames.concat()].concat()
}

#[test]
fn good_client_is_served_beside_slow_http2() {
    let street = Street::new();
    let authorization = street.good.authorization();
    let known = |method, path| [&head(method, path)[..], &[("authorization", &authorization)]].concat();
    let half_head = frame(HEADERS, END_STREAM, 1, &block(&head("GET", "/open/x")));
    street.check(
        "slow header blocks",
        &Slow::dripping(h2(&[], &[half_head]), frame(CONTINUATION, 0, 1, &block(&[("x", "y")]))),
    );
    let request = block(&known("POST", "/api/v1/write"));
    let posts: Vec<Vec<u8>> = (0..STREAMS).map(|at| frame(HEADERS, END_HEADERS, at * 2 + 1, &request)).collect();
    street.check("slow DATA", &Slow::dripping(h2(&[], &posts), frame(DATA, 0, 1, b"x")));
    let street = street.unread(wanted().0);
    let request = block(&known("GET", "/open/give/10000000"));
    let gets: Vec<Vec<u8>> =
        (0..STREAMS).map(|at| frame(HEADERS, END_HEADERS | END_STREAM, at * 2 + 1, &request)).collect();
    let shut = [0, 4, 0, 0, 0, 0];
    street.check("closed windows", &Slow::waiting(h2(&shut, &gets)));
    let drop = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
    street.check("windows of a byte", &Slow::dripping(h2(&shut, &gets), drop));
}

#[test]
fn good_client_is_served_beside_handshakes_that_stall() {
    let authority = Authority::new("test authority");
    let certificate = authority.server("gate", &[GATE]);
    let client = TlsClient::trusting(&authority);
    let option = format!("certificates = [{}]", certificate.toml());
    let street = Street::with(|setup| setup.option("tls.public", &option), Some(client.clone()));
    let mut hello = Vec::new();
    let name = ServerName::try_from(GATE).expect("a name");
    let mut connection = ClientConnection::new(client.config(), name).expect("a client");
    connection.write_tls(&mut hello).expect("room");
    street.check("hellos in drops", &Slow::dripping(&hello[..20], &hello[20..21]));
    street.check("handshakes half done", &Slow::waiting(hello));
}

/// The modes of slowhttptest, at routes that need no key, since it has none.
#[test]
fn good_client_is_served_beside_slowhttptest() {
    if !is_installed("slowhttptest") || !is_installed("taskset") {
        return;
    }
    let street = Street::new();
    let (count, time, is_told) = wanted();
    // slowhttptest sends for all its connections in one moment: each time is a burst of two thousand packets, so they are
    // as far apart as it has them by itself. Likewise its connections, which would be a flood of their own.
    let (rate, pause) = if is_told { (count / 10, "10") } else { (count, "1") };
    let modes: [(&str, &[&str]); 4] = [
        ("-H", &["-i", pause]),
        ("-B", &["-i", pause, "-s", "8192"]),
        ("-R", &["-a", "10", "-b", "3000"]),
        ("-X", &["-w", "512", "-y", "1024", "-n", "1", "-z", "32", "-k", "3"]),
    ];
    let nginx = is_told.then(|| Nginx::start(&street.upstream));
    let mut slower_than_nginx = Vec::new();
    for (mode, options) in modes {
        let attack = |address: SocketAddr| {
            // It keeps most of a core busy, and is to have one that nobody has to share with it.
            let mut command = Command::new("taskset");
            command.args(["-c", &LAST_CORE, "nice", "-n", &NICEST.to_string(), "slowhttptest"]);
            command.args([mode, "-v", "1", "-p", "5", "-c", &count.to_string(), "-r", &rate.to_string()]);
            command.args(["-l", &time.as_secs().max(1).to_string(), "-u"]);
            command.arg(format!("http://{address}/public/give/1000000")).args(options);
            Process::spawn(command)
        };
        let what = format!("slowhttptest {mode}");
        let waits = street.check_beside(
            &what,
            time,
            || attack(street.rig.served.public),
            |process| {
                let exit = process.wait();
                assert!(exit.code.is_some(), "{exit:?}");
                format!("{count} clients")
            },
        );
        if let Some(nginx) = &nginx {
            // The attack takes more of this machine than the gate does: what nobody can help is what nginx sees of it.
            let at_nginx = nginx.beside(&what, time, attack(nginx.address));
            if waits.beside > at_nginx {
                slower_than_nginx.push((what, waits));
            }
        }
    }
    slower_than_nginx.iter().for_each(|(what, waits)| waits.check(what));
}

/// Bytes that the kernel holds of what was written to this client.
#[track_caller]
fn queued_for(client: &std::net::TcpStream) -> u64 {
    let end = |address: std::io::Result<SocketAddr>| format!(":{:04X}", address.expect("it is connected").port());
    let (client, gate) = (end(client.local_addr()), end(client.peer_addr()));
    let connections = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells");
    let queues = connections.lines().find_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let is_it = columns.next()?.ends_with(&gate) && columns.next()?.ends_with(&client);
        is_it.then(|| columns.nth(1))?
    });
    let (sent, _) = queues.and_then(|queues| queues.split_once(':')).expect("the gate's end of the connection");
    u64::from_str_radix(sent, 16).expect("a number")
}

#[test]
fn kernel_holds_no_whole_send_buffer_for_a_client_that_reads_nothing() {
    let street = Street::new();
    let mut client = narrow(street.rig.served.public);
    client.write_all(&street.good.render("GET", "/open/give/10000000", &[], b"")).expect("room");
    // It has all that it will get when nothing has come for as long as others took to be served many times.
    let (mut queued, mut unchanged) = (0, 0);
    while queued == 0 || unchanged < 50 {
        assert_eq!(street.good.get(PATH).status, 200);
        let now = queued_for(&client);
        unchanged = if now == queued { unchanged + 1 } else { 0 };
        queued = now;
    }
    assert!(queued < 384 * 1_024, "{queued} bytes wait for one client");
}
