//! Everything at once, for as long as is asked for: good keys over both versions of HTTP, uploads, downloads, streams,
//! strangers, slow clients, changes and revocations of keys, reloads, upstreams and a disk that fail, `kill -9`.
//!
//! Nothing acknowledged may be lost, no request of a good key may fail while its upstream is well, no revoked key may be
//! admitted, no secret may be found in logs, metrics, files and upstreams, and what the gate takes of the machine has to
//! stay as it is. It is a light load: what it looks for takes time, not pressure.
//!
//! `PORTCULLIS_SOAK=3600` sets for how many seconds it goes on, `PORTCULLIS_SEED` the seed of an earlier run.

mod backend;
mod changes;
mod client;
mod gauges;
mod judge;
mod traffic;

use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::{Backend, Mood};
use changes::Changes;
use client::Door;
use gauges::Gauges;
use judge::{Judge, Life};
use traffic::{Cast, Traffic};

use crate::crash::keys::{Keys, TEAMS};
use crate::exhaustion::pass;
use crate::harness::{
    Authority, Dice, GATE, Installation, Pair, Process, Served, Setup, Tank, TlsClient, Tongue, Vacant, secrets,
};
use crate::store_faults::disk::limit_files;

const SHORT: Duration = Duration::from_secs(5);
/// From here on there are long lives and short ones.
const LONG: Duration = Duration::from_secs(300);
/// A life of this length shows what grows: what is made once, for the first fault and the first request of each kind, is
/// there after a third of it.
const FLAT_FROM: Duration = Duration::from_secs(480);
/// Between two looks at what the gate takes.
const LOOK: Duration = Duration::from_millis(500);
/// Between two things that happen to the gate.
const STEP_MAX: Duration = Duration::from_secs(5);
/// What the upstream with the moods does in turn.
const MOODS: [Mood; 8] =
    [Mood::Well, Mood::Hangs, Mood::Well, Mood::Resets, Mood::Well, Mood::Cuts, Mood::Well, Mood::Babbles];
/// The good keys, by what they are used for.
const GOOD_KEYS: usize = 3;
/// The name of the gate's certificate in its authority's folder.
const CERTIFICATE: &str = "gate";

/// All that outlives the gate.
struct World {
    installation: Installation,
    authority: Authority,
    tls: TlsClient,
    well: Backend,
    moody: Backend,
    tank: Tank,
    void: Vacant,
    keys: Arc<Keys>,
    root: String,
    good: Vec<String>,
    judge: Arc<Judge>,
}

/// How the configuration is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Look {
    Plain,
    Secure,
    /// Not to be taken.
    Wrong,
}

#[test]
fn a_mixed_load_with_faults_loses_nothing_fails_nobody_and_leaves_nothing_behind() {
    let time = std::env::var("PORTCULLIS_SOAK")
        .map_or(SHORT, |seconds| Duration::from_secs(seconds.parse().expect("a number of seconds")));
    let seed = Dice::seed_from("PORTCULLIS_SEED");
    println!("PORTCULLIS_SEED={seed}");
    let mut dice = Dice::new(seed);
    let world = World::new();
    for (number, length) in lives(time).into_iter().enumerate() {
        world.live(number, length, &mut dice);
    }
    world.end(&mut dice);
}

/// How long the gate lives before each kill.
fn lives(time: Duration) -> Vec<Duration> {
    if time < LONG {
        return vec![time / 2; 2];
    }
    let short = vec![time / 60; 6];
    [&short[..], &[time * 2 / 5], &short, &[time * 2 / 5]].concat()
}

impl World {
    fn new() -> Self {
        let authority = Authority::new("soak");
        authority.server(CERTIFICATE, &[GATE]);
        let mut world = Self {
            installation: Installation::new(),
            tls: TlsClient::trusting(&authority),
            authority,
            well: Backend::start(),
            moody: Backend::start(),
            tank: Tank::start(Tongue::Http2),
            void: Vacant::new(),
            keys: Arc::new(Keys::new("")),
            root: String::new(),
            good: Vec::new(),
            judge: Arc::default(),
        };
        world.configure(0, Look::Plain);
        world.root = world.installation.init();
        let served = world.installation.serve();
        let root = served.caller(&world.root);
        world.good = (0..GOOD_KEYS).map(|_| root.create(&["monitor:read"]).secret().to_owned()).collect();
        world.keys = Arc::new(Keys::beside(&world.root, &world.good));
        world
    }

    /// Writes configuration number `number`.
    fn configure(&self, number: usize, look: Look) {
        let file = |ending| self.authority.folder().join(CERTIFICATE).with_extension(ending);
        let pair = Pair { cert: file("pem"), key: file("key") };
        self.installation.rewrite(|setup| {
            let setup = self.upstreams(setup);
            let setup = setup
                .option("listen", "workers = 2")
                .option("log", r#"level = "debug""#)
                .option("log", "access = true")
                .option("store", "changes_max = 1000")
                .option("store.backup", r#"directory = "backups""#)
                .option("store.backup", r#"every = "1m""#)
                .option("limits", &format!("key = {{ rate = \"{}/s\" }}", 1_000_000 + number))
                .route(&format!("GET /variant-{}/{{*rest}}", number % 7), r#""authenticated""#);
            let setup = TEAMS.iter().fold(setup, |setup, team| setup.option("scopes", &format!("{team:?} = \"\"")));
            match look {
                Look::Plain => setup,
                Look::Secure => setup.option("tls.public", &format!("certificates = [{}]", pair.toml())),
                Look::Wrong => setup.upstream(r#"set_headers = { x-a = "{nosuch}" }"#),
            }
        });
    }

    fn upstreams(&self, setup: Setup) -> Setup {
        let upstream = |setup: Setup, name: &str, url: &str| {
            let section = format!("upstream.{name}");
            let setup = setup.option(&section, &format!("url = {url:?}"));
            setup.option(&format!("{section}.routes"), &format!(r#""ANY /{name}/{{*rest}}" = "authenticated""#))
        };
        let setup = setup
            .upstream_url(&self.well.url())
            .route("GET /well/{*rest}", r#""authenticated""#)
            .route("GET /well/events", r#"{ require = "authenticated", timeout = "off", body_timeout = "off" }"#);
        let setup = upstream(setup, "tank", &self.tank.url()).option("upstream.tank", r#"protocol = "http2""#);
        let setup = upstream(setup, "moody", &self.moody.url()).option("upstream.moody", r#"response_timeout = "1s""#);
        upstream(setup, "void", &self.void.url())
    }

    /// One life of the gate, which `kill -9` ends.
    fn live(&self, number: usize, length: Duration, dice: &mut Dice) {
        let look = if number % 2 == 1 { Look::Secure } else { Look::Plain };
        self.configure(number, look);
        let mut served = self.installation.serve();
        let door = Door::new(served.public, (look == Look::Secure).then_some(&self.tls));
        self.keys.compare(changes::line(&door), dice);
        let life = Arc::new(Life::new(door, &self.judge));
        let cast = Cast { root: self.root.clone(), good: self.good.clone(), keys: Arc::clone(&self.keys) };
        let traffic = Traffic::start(&life, cast);
        let changes = Changes::start(&life, &self.keys, dice);
        let mut gauges = Gauges::new(&served);
        self.moody.turn(Mood::Well);

        self.pass_life(&mut served, &life, &mut gauges, look, length);

        life.ends();
        served.process.signal("KILL");
        drop((traffic, changes));
        let exit = served.process.wait();
        assert_eq!(exit.code, None, "a gate ended by itself: {exit:?}");
        secrets::check("the log", &exit.stderr);
        println!("life {number}, {look:?}: {}", gauges.told());
        if length >= FLAT_FROM {
            gauges.check_flat(&self.judge);
        }
        self.judge.hear(&exit.stderr.lines().map(str::to_owned).collect::<Vec<_>>());
        self.judge.explain();
    }

    /// Lets time pass, and things happen in it.
    fn pass_life(&self, served: &mut Served, life: &Life, gauges: &mut Gauges, look: Look, length: Duration) {
        let step = (length / 9).min(STEP_MAX);
        let (begun, mut steps) = (Instant::now(), 0);
        let mut before = String::new();
        while begun.elapsed() < length {
            pass(LOOK.min(step));
            gauges.look(served, life);
            // Twice each: a key may be in the audit trail before its caller has it.
            let logged = served.process.take_stderr();
            self.judge.add("lines of log", logged.len());
            self.judge.hear(&logged);
            let logged = logged.join("\n");
            secrets::check("the log", [before, logged.clone()].concat());
            before = logged;
            if begun.elapsed() > step * (steps + 1) {
                steps += 1;
                self.turn(steps as usize, served, life, look);
                life.check_healed();
            }
        }
    }

    /// What happens at every step.
    fn turn(&self, step: usize, served: &Served, life: &Life, look: Look) {
        let mood = MOODS[step % MOODS.len()];
        life.upstream_turns(false);
        self.moody.turn(mood);
        life.upstream_turns(mood == Mood::Well);
        if step.is_multiple_of(2) {
            if look == Look::Secure && step.is_multiple_of(6) {
                self.authority.server(CERTIFICATE, &[GATE]);
            }
            self.configure(step, if step % 10 == 8 { Look::Wrong } else { look });
            served.process.signal("HUP");
            self.judge.count("reloads");
        }
        match step % 8 {
            3 => {
                life.store_fails();
                limit_files(&served.process, "1024");
                self.judge.count("store faults");
            }
            4 => {
                limit_files(&served.process, "unlimited");
                life.store_may_heal();
            }
            _ => {}
        }
    }

    /// The last start, and an end in order.
    fn end(self, dice: &mut Dice) {
        self.configure(0, Look::Plain);
        let served = self.installation.serve();
        self.keys.compare(changes::line(&Door::new(served.public, None)), dice);
        served.process.signal("TERM");
        let exit = served.process.wait();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        let verified = Process::run(&[&["store".to_owned()][..], &self.installation.arguments("verify")].concat());
        assert_eq!(verified.code, Some(0), "{verified:?}");
        println!("{}; {}", self.judge.told(), self.keys.told());
        self.judge.verdict();
        for what in ["good requests", "uploads", "downloads", "events", "changes", "revocations", "bad keys refused"] {
            assert!(self.judge.counted(what) > 0, "there were no {what}");
        }
    }
}
