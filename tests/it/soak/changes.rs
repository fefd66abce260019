//! Clients that change keys all the time, and know what was acknowledged.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::Door;
use super::judge::Life;
use crate::crash::client::Line;
use crate::crash::keys::Keys;
use crate::exhaustion::pass;
use crate::harness::Dice;

const CHANGERS: usize = 2;
const BETWEEN_CHANGES: Duration = Duration::from_millis(400);
const BETWEEN_USES: Duration = Duration::from_millis(100);

/// They end with the life.
pub struct Changes {
    life: Arc<Life>,
    threads: Vec<JoinHandle<()>>,
}

impl Changes {
    pub fn start(life: &Arc<Life>, keys: &Arc<Keys>, dice: &mut Dice) -> Self {
        let mut threads = Vec::new();
        for number in 0..=CHANGERS {
            let (life, keys, dice) = (Arc::clone(life), Arc::clone(keys), Dice::new(dice.next()));
            threads.push(std::thread::spawn(move || match number {
                CHANGERS => use_keys(&life, &keys, dice),
                _ => change_keys(&life, &keys, dice),
            }));
        }
        Self { life: Arc::clone(life), threads }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.life.ends();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.life.judge.blame("a change was answered as none may be; see above".to_owned());
            }
        }
    }
}

pub fn line(door: &Door) -> Line {
    Line::to_faulty(door.address, door.tls.as_ref())
}

fn change_keys(life: &Life, keys: &Keys, mut dice: Dice) {
    let mut line = line(&life.door);
    while !life.is_ending() {
        let (was_well, before) = (life.is_store_well(), keys.acknowledged());
        match keys.change_one(&mut line, &mut dice) {
            true if keys.acknowledged() > before => {
                life.count("changes");
            }
            // Of a key that is gone, or without a key to change.
            true => {}
            false if was_well && life.is_store_well() => life.blame("a change was not made with the store well"),
            false => life.count("changes not made"),
        }
        pass(BETWEEN_CHANGES);
    }
}

fn use_keys(life: &Life, keys: &Keys, mut dice: Dice) {
    let mut line = line(&life.door);
    while !life.is_ending() {
        let was_well = life.is_store_well();
        let is_answered = keys.use_one(&mut line, &mut dice);
        // A key that is not in memory cannot be looked up on a bad disk.
        if !is_answered && was_well && life.is_store_well() {
            life.blame("a key was not looked up with the store well");
        }
        pass(BETWEEN_USES);
    }
}
