//! What the store holds after `kill -9`: at random moments under changes from several clients, and during start-up.
//!
//! A store lives through many rounds, so that the database's snapshots, its garbage collection and segments that are used
//! again are met too. After each kill everything is compared: what was acknowledged is there, anything else whole or absent.

pub mod client;
pub mod keys;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::crash::client::Line;
use crate::crash::keys::Keys;
use crate::harness::{Dice, Installation, Process, Served, check};

/// How many kills; `PORTCULLIS_KILLS=10000` for the long run, `PORTCULLIS_SEED` for the seed of an earlier one. CI makes 100.
const KILLS: usize = 40;
/// How many stores live through them at the same time.
const STORES: usize = 4;
/// One kill in so many comes while the program starts.
const START_ONE_IN: usize = 10;
/// The latest moment of such a kill: a start takes about 30 ms.
const START: Duration = Duration::from_millis(50);
/// How many clients change keys at the same time.
const WRITERS: usize = 3;
/// Filled, cleaned and used again sooner than the segments of new stores.
const SHORT_SEGMENT_BYTES: usize = 64 * 1024;

fn kills() -> usize {
    std::env::var("PORTCULLIS_KILLS").map_or(KILLS, |count| count.parse().expect("a number"))
}

#[test]
fn every_acknowledged_change_is_there_after_each_kill() {
    let kills = kills();
    let seed = Dice::seed_from("PORTCULLIS_SEED");
    println!("PORTCULLIS_SEED={seed}");
    std::thread::scope(|scope| {
        // Every second one of short segments. Most of the time of each is waiting for the disk.
        let live = |store: u64| {
            let segment_bytes = (store % 2 == 1).then_some(SHORT_SEGMENT_BYTES);
            scope.spawn(move || live_through(kills.div_ceil(STORES), segment_bytes, Dice::new(seed + store)))
        };
        let stores: Vec<_> = (0..).take(STORES).map(live).collect();
        for store in stores {
            println!("{}", store.join().expect("nothing is lost"));
        }
    });
}

#[test]
fn a_first_start_that_was_killed_can_be_made_again() {
    let mut dice = Dice::new(Dice::seed_from("PORTCULLIS_SEED"));
    for _ in 0..kills() / 20 {
        kill_init(&mut dice);
        kill_first_start(&mut dice);
    }
}

/// One store through so many kills. Says what it has seen.
fn live_through(kills: usize, segment_bytes: Option<usize>, mut dice: Dice) -> String {
    let installation = Installation::with(|setup| {
        let setup = setup
            .option("store", "changes_max = 20")
            .option("keys", r#"last_used_flush = "3ms""#)
            .option("limits", r#"failures = { rate = "1000000/s", burst = 1000000 }"#);
        keys::TEAMS.iter().fold(setup, |setup, team| setup.option("scopes", &format!("{team:?} = \"\"")))
    });
    let data = installation.folder().join("data");
    if let Some(bytes) = segment_bytes {
        sled::Config::new().path(&data).segment_size(bytes).open().expect("an empty store");
    }
    let keys = Keys::new(&installation.init());
    let mut at_start = 0;
    for _ in 0..kills {
        if dice.once_in(START_ONE_IN) {
            at_start += 1;
            kill_start(&installation, &mut dice);
            continue;
        }
        let served = installation.serve();
        keys.compare(Line::to(served.public), &mut dice);
        installation.upstream().forget();
        kill_under_changes(served, &keys, &mut dice);
    }
    let served = installation.serve();
    keys.compare(Line::to(served.public), &mut dice);
    let bytes = std::fs::metadata(data.join("db")).expect("the store's file").len();
    format!("{kills} kills, {at_start} of them at start; {}, lost 0; {bytes} bytes", keys.told())
}

/// Kills a gate a moment after the clients have had some changes acknowledged, none of them at best.
fn kill_under_changes(served: Served, keys: &Keys, dice: &mut Dice) {
    let (acknowledged, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (wanted, delay) = (dice.below(24), Duration::from_micros(dice.next() % 3_000));
    let address = served.public;
    let (sender, changed) = channel();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            let (mut dice, sender, acknowledged, stop) = (Dice::new(dice.next()), sender.clone(), &acknowledged, &stop);
            scope.spawn(move || {
                let mut line = Line::to(address);
                while !stop.load(Ordering::Relaxed) && keys.change_one(&mut line, &mut dice) {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    let _ = sender.send(());
                }
            });
        }
        let mut dice = Dice::new(dice.next());
        let stop = &stop;
        scope.spawn(move || {
            let mut line = Line::to(address);
            while !stop.load(Ordering::Relaxed) && keys.use_one(&mut line, &mut dice) {}
        });
        drop(sender);
        while acknowledged.load(Ordering::Relaxed) < wanted {
            changed.recv().expect("a gate that runs acknowledges changes");
        }
        wait_beside(&changed, delay);
        served.process.signal("KILL");
        let exit = served.process.wait();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(exit.code, None, "a gate ended by itself: {exit:?}");
    });
}

/// Lets time pass while changes go on.
fn wait_beside(changed: &std::sync::mpsc::Receiver<()>, delay: Duration) {
    let begun = std::time::Instant::now();
    while let Some(left) = delay.checked_sub(begun.elapsed()) {
        if let Err(RecvTimeoutError::Disconnected) = changed.recv_timeout(left) {
            return;
        }
    }
}

/// Starts the program and kills it before it is up, or about then.
fn killed_at_start(command: Command, dice: &mut Dice) -> crate::harness::Exit {
    let process = Process::spawn(command);
    let (_open, never) = channel::<()>();
    let delay = Duration::from_micros(dice.next() % u64::try_from(START.as_micros()).expect("short"));
    let _ = never.recv_timeout(delay);
    process.signal("KILL");
    process.wait()
}

fn command(installation: &Installation, name: &str) -> Command {
    let program = installation.program(name);
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]);
    command
}

fn kill_start(installation: &Installation, dice: &mut Dice) {
    let exit = killed_at_start(command(installation, "serve"), dice);
    assert_eq!(exit.code, None, "a gate did not start: {exit:?}");
}

/// After an `init` that was killed, the next makes the store, or there is one whose key was printed or never seen.
fn kill_init(dice: &mut Dice) {
    let installation = Installation::new();
    let killed = killed_at_start(command(&installation, "init"), dice);
    let again = Process::run(&installation.arguments("init"));
    let printed = if again.code == Some(0) { again.stdout } else { killed.stdout };
    if again.code != Some(0) {
        assert!(again.stderr.contains("has keys already (1)"), "{}", again.stderr);
    }
    let served = installation.serve();
    if !printed.is_empty() {
        check(&served.caller(printed.trim_end()).get("/api/keys/self"), 200);
    }
}

fn kill_first_start(dice: &mut Dice) {
    let secret = Process::run(&["keygen"]).stdout.trim_end().to_owned();
    let installation = Installation::with(|setup| setup.option("keys", r#"root_key_file = "root.key""#));
    std::fs::write(installation.folder().join("root.key"), &secret).expect("writable");
    for _ in 0..2 {
        kill_start(&installation, dice);
    }
    let served = installation.serve();
    assert_eq!(check(&served.caller(&secret).get("/api/keys"), 200).json()["total_count"], 1);
}
