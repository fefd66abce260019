//! Clients of every kind, good, bad and slow, all on one thread, for one life of the gate.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::BodyExt;
use portcullis::key::KeySecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::{Answer, Client, Version, nothing, rest, text, zeros};
use super::judge::Life;
use crate::crash::keys::{Keys, PASSING};
use crate::exhaustion::bad_keys::with_id;
use crate::harness::{GATE, basic, secrets};

const KEPT: Duration = Duration::from_millis(250);
const FRESH: Duration = Duration::from_millis(700);
const TRANSFERS: Duration = Duration::from_millis(900);
const REVOCATIONS: Duration = Duration::from_millis(1_200);
const STRANGERS: Duration = Duration::from_millis(150);
const FAULTS: Duration = Duration::from_millis(300);
const DRIPS: Duration = Duration::from_secs(1);
/// Of each kind.
const SLOW_CLIENTS: usize = 4;
/// How long an event may take that comes twice a second.
const EVENT_MAX: Duration = Duration::from_secs(10);
/// How many events a stream is followed for, of those that do not last.
const EVENTS: usize = 20;
/// Until a stream has ended whose key is gone.
const CUT_MAX: Duration = Duration::from_secs(3);
/// Until an upstream that is well is used as such.
const WELL_AFTER: Duration = Duration::from_secs(2);
const UPLOAD_BYTES: u64 = 200_000;
const DOWNLOAD_BYTES: u64 = 300_000;

/// Ends when dropped.
pub struct Traffic {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Who sends the requests.
pub struct Cast {
    pub root: String,
    pub good: Vec<String>,
    pub keys: Arc<Keys>,
}

impl Traffic {
    pub fn start(life: &Arc<Life>, cast: Cast) -> Self {
        let (stop, stopped) = oneshot::channel();
        let life = Arc::clone(life);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut clients = all(&life, &cast);
                tokio::select! {
                    _ = stopped => {}
                    ended = clients.join_next() => life.judge.blame(format!("a client ended: {ended:?}")),
                }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop = None;
        self.thread
            .take()
            .into_iter()
            .for_each(|thread| thread.join().expect("clients tell the judge what goes wrong"));
    }
}

fn all(life: &Arc<Life>, cast: &Cast) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    let [one, two, three] = &cast.good[..] else { panic!("three good keys") };
    let client = |version, secret: &str| Client::new(&life.door, version, Some(secret));
    let shared = || Arc::clone(life);
    for version in [Version::Http1, Version::Http2] {
        clients.spawn(ask_again(shared(), client(version, one), KEPT, Manner::Kept));
        clients.spawn(ask_again(shared(), client(version, two), FRESH, Manner::Fresh));
        clients.spawn(transfer(shared(), client(version, three)));
        clients.spawn(follow(shared(), client(version, one), usize::MAX));
        clients.spawn(follow(shared(), client(version, two), EVENTS));
        clients.spawn(revoke(shared(), client(version, &cast.root), Arc::clone(&cast.keys)));
        clients.spawn(try_bad_keys(shared(), version, three.clone()));
        clients.spawn(ask_moody(shared(), client(version, one)));
    }
    clients.spawn(ask_void(shared(), client(Version::Http1, two)));
    for slow in slow_clients(life, three) {
        for _ in 0..SLOW_CLIENTS {
            clients.spawn(dawdle(shared(), slow.clone()));
        }
    }
    clients
}

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Fresh,
    Kept,
}

/// A good client: three requests at the same time where the protocol allows that.
async fn ask_again(life: Arc<Life>, mut client: Client, every: Duration, manner: Manner) {
    for number in 0_u64.. {
        let path = |which| format!("/well/echo/{number}-{which}");
        let (mut second, mut third) = (client.twin(), client.twin());
        let ask = async |client: Option<&mut Client>, path: String| {
            let Some(client) = client else { return };
            match client.get(&path).await {
                Ok(answer) if answer.status == 200 && answer.body == path => life.count("good requests"),
                other => life.blame(format!("a good request got {other:?}")),
            }
        };
        tokio::join!(ask(Some(&mut client), path(1)), ask(second.as_mut(), path(2)), ask(third.as_mut(), path(3)));
        if manner == Manner::Fresh {
            client.leave();
        }
        rest(every).await;
    }
}

async fn transfer(life: Arc<Life>, mut client: Client) {
    loop {
        match client.ask("POST", "/tank/put", || zeros(UPLOAD_BYTES)).await {
            Ok(answer) if answer.status == 200 && answer.body.len() == 2 => life.count("uploads"),
            other => life.blame(format!("an upload got {other:?}")),
        }
        rest(TRANSFERS).await;
        match client.get(&format!("/tank/give/{DOWNLOAD_BYTES}")).await {
            Ok(answer) if answer.status == 200 && answer.body.len() as u64 == DOWNLOAD_BYTES => life.count("downloads"),
            Ok(answer) => life.blame(format!("a download got {} and {} bytes", answer.status, answer.body.len())),
            Err(failure) => life.blame(failure),
        }
        rest(TRANSFERS).await;
    }
}

/// Takes so many events of a stream, then leaves it for another one.
async fn follow(life: Arc<Life>, mut client: Client, events: usize) {
    loop {
        match client.open("GET", "/well/events", nothing).await {
            Ok(response) if response.status() == 200 => {
                let mut body = response.into_body();
                for _ in 0..events {
                    match timeout(EVENT_MAX, body.frame()).await {
                        Ok(Some(Ok(_))) => life.count("events"),
                        other => {
                            life.blame(format!("a stream under a good key got {other:?}"));
                            break;
                        }
                    }
                }
            }
            other => life.blame(format!("a stream got {other:?}")),
        }
        rest(FRESH).await;
    }
}

/// Makes a key, uses it, deletes it, and uses it then.
async fn revoke(life: Arc<Life>, mut admin: Client, keys: Arc<Keys>) {
    loop {
        rest(REVOCATIONS).await;
        let was_well = life.is_store_well();
        let outcome = revoke_one(&life, &mut admin, &keys).await;
        match outcome {
            Ok(()) => life.count("revocations"),
            Err(Unusual::Fault(what)) => life.blame(what),
            Err(Unusual::Unavailable) if was_well && life.is_store_well() => {
                life.blame("503 to a call of the key API or an unknown key with the store well");
            }
            Err(Unusual::Unavailable) => life.count("revocations that a bad disk kept from being made"),
        }
    }
}

enum Unusual {
    Fault(String),
    Unavailable,
}

/// The answer if it has this status.
fn expect(what: &str, answer: Result<Answer, String>, status: u16) -> Result<Answer, Unusual> {
    match answer {
        Ok(answer) if answer.status == status => Ok(answer),
        Ok(answer) if answer.status == 503 => Err(Unusual::Unavailable),
        other => Err(Unusual::Fault(format!("{what} got {other:?}"))),
    }
}

async fn revoke_one(life: &Life, admin: &mut Client, keys: &Keys) -> Result<(), Unusual> {
    let body = format!(r#"{{"name": "{PASSING}", "kind": "custom", "scopes": ["monitor:read"]}}"#);
    let made = expect("a creation", admin.ask("POST", "/api/keys", || text(body.clone())).await, 201)?;
    let made: serde_json::Value = serde_json::from_slice(&made.body).expect("a key");
    let secret = made["key"].as_str().expect("a key").to_owned();
    secrets::issued(&secret);
    let door = life.door.from(4);
    let mut users = [Version::Http1, Version::Http2].map(|version| Client::new(&door, version, Some(&secret)));
    let mut streams = Vec::new();
    for user in &mut users {
        expect("a new key", user.get("/well/echo/new").await, 200)?;
        let mut streaming = Client::new(&door, user.version(), Some(&secret));
        match streaming.open("GET", "/well/events", nothing).await {
            Ok(response) if response.status() == 200 => streams.push(response.into_body()),
            Ok(response) if response.status() == 503 => return Err(Unusual::Unavailable),
            other => return Err(Unusual::Fault(format!("a stream under a new key got {other:?}"))),
        }
    }
    let path = format!("/api/keys/{}", &secret[..16]);
    expect("a deletion", admin.ask("DELETE", &path, nothing).await, 204)?;
    keys.is_gone(&secret);
    for user in &mut users {
        // On the connection that it had, and on another one.
        for _ in 0..2 {
            expect("a deleted key", user.get("/well/echo/gone").await, 401)?;
            user.leave();
        }
    }
    for stream in streams {
        match timeout(CUT_MAX, stream.collect()).await {
            Ok(Err(_)) => {}
            Ok(Ok(_)) => return Err(Unusual::Fault("a cut stream ended as if it were whole".to_owned())),
            Err(_) => return Err(Unusual::Fault("a stream goes on under a deleted key".to_owned())),
        }
    }
    Ok(())
}

/// Keys that are nobody's, from an address of their own, which is then limited.
async fn try_bad_keys(life: Arc<Life>, version: Version, known: String) {
    for number in 0_u64.. {
        let key = match number % 3 {
            0 => format!("pcl_{number:012}_{number:038}"),
            1 => KeySecret::generate().expect("randomness").expose().to_owned(),
            _ => with_id(&known[..16]),
        };
        let mut client = Client::new(&life.door.from(2), version, Some(&key));
        for _ in 0..5 {
            match client.get("/well/echo/bad").await {
                Ok(answer) if answer.status == 401 => life.count("bad keys refused"),
                Ok(answer) if answer.status == 429 => life.count("bad keys limited"),
                Ok(answer) if answer.status == 503 && !life.is_store_well() => {}
                other => life.blame(format!("a bad key got {other:?}")),
            }
            rest(STRANGERS).await;
        }
    }
}

/// The upstream whose moods change: what it cuts is never delivered as whole, and all is well when it is.
async fn ask_moody(life: Arc<Life>, mut client: Client) {
    for number in 0_u64.. {
        let path = format!("/moody/{number}");
        let was_well = life.is_upstream_well_for(WELL_AFTER);
        let answer = client.get(&path).await;
        let is_well = was_well && life.is_upstream_well_for(WELL_AFTER);
        match answer {
            Ok(answer) if answer.status == 200 && answer.body == path => life.count("moody upstream: good answers"),
            Ok(answer) if !is_well && matches!(answer.status, 502..=504) => life.count("moody upstream: 502 to 504"),
            Err(_) if !is_well => life.count("moody upstream: cut"),
            other => life.blame(format!("through an upstream with moods, well {is_well}: {other:?}")),
        }
        rest(FAULTS).await;
    }
}

/// An upstream that is not there.
async fn ask_void(life: Arc<Life>, mut client: Client) {
    loop {
        match client.get("/void/x").await {
            Ok(answer) if matches!(answer.status, 502 | 503) => life.count("refused connections told"),
            other => life.blame(format!("an upstream that is not there: {other:?}")),
        }
        rest(FAULTS * 3).await;
    }
}

/// What a slow client says, and what it says again and again then; nothing: it reads a byte each time.
type Slow = (Vec<u8>, Vec<u8>);

fn slow_clients(life: &Life, secret: &str) -> Vec<Slow> {
    if let Some(tls) = &life.door.tls {
        let hello = tls.hello(GATE);
        return vec![(hello[..20].to_vec(), hello[20..21].to_vec()), (hello, Vec::new())];
    }
    let known = format!("Host: {GATE}\r\nAuthorization: {}\r\n", basic(secret));
    vec![
        (format!("GET /well/echo/x HTTP/1.1\r\nHost: {GATE}\r\n").into_bytes(), b"A: b\r\n".to_vec()),
        (format!("POST /tank/put HTTP/1.1\r\n{known}Content-Length: 100000\r\n\r\n").into_bytes(), b"x".to_vec()),
        (format!("GET /tank/give/10000000 HTTP/1.1\r\n{known}\r\n").into_bytes(), Vec::new()),
    ]
}

async fn dawdle(life: Arc<Life>, slow: Slow) {
    loop {
        // Until the gate has had enough.
        let _ = dawdle_once(&life, &slow).await;
        life.count("slow connections");
        rest(DRIPS).await;
    }
}

async fn dawdle_once(life: &Life, (opening, drop): &Slow) -> std::io::Result<()> {
    let mut stream = life.door.from(3).narrow().await?;
    stream.write_all(opening).await?;
    loop {
        rest(DRIPS).await;
        if drop.is_empty() {
            if stream.read(&mut [0]).await? == 0 {
                return Ok(());
            }
            continue;
        }
        stream.write_all(drop).await?;
        if let Ok(read) = timeout(Duration::from_millis(1), stream.read(&mut [0; 512])).await
            && read? == 0
        {
            return Ok(());
        }
    }
}
