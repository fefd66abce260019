//! The search for secrets: everything that the rig sees of a gate, for every key that any gate of this process has issued.
//!
//! Whatever makes a key tells [`issued`]; whatever reads something that a gate has said, sent or written calls [`check`].
//! A key is looked for by its 32 random characters alone, which says enough to be the key: as they are, in base64 at each
//! of the three alignments (so with any user name, colon or password around them), in hex, with every character escaped
//! as in URLs, and as a list of numbers, which is how a derived `Debug` shows bytes. Failures name the place and the form,
//! and show what is around the secret, never the secret.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis::key::{KEY_BYTES, KeySecret};
use portcullis::log;

/// Where the random characters of a key lie.
const RANDOM: std::ops::Range<usize> = 17..49;
/// Text is looked at in windows of so many bytes…
const WINDOW: usize = 16;
/// …at every so many bytes. A needle that is at least as long as both together has a window there, wherever it lies.
const STRIDE: usize = 8;
const FILTER_BITS: usize = 1 << 20;
/// How many pieces of the log are kept to be searched again: a key is in the audit trail before its caller has it.
const PIECES_MAX: usize = 4;

/// Every key issued in this process.
static ISSUED: LazyLock<RwLock<Secrets>> = LazyLock::new(RwLock::default);
/// What the gates in this process log, at the most talkative level.
static LOG: LazyLock<Paper> = LazyLock::new(Paper::default);

/// Remembers a key that a gate has issued, or was given by its operator.
pub fn issued(text: &str) {
    if KeySecret::parse(text.as_bytes()).is_ok() {
        ISSUED.write().unwrap_or_else(PoisonError::into_inner).issue(text);
    }
}

/// Remembers every key in what a command prints whose job it is to print one, or in the answer to a creation.
pub fn issued_in(text: &str) {
    text.match_indices("pcl_").filter_map(|(at, _)| text.get(at..at + KEY_BYTES)).for_each(issued);
}

/// Fails when a key that was issued is in `seen`, in any form.
#[track_caller]
pub fn check(place: &str, seen: impl AsRef<[u8]>) {
    let found = find(seen.as_ref());
    // A test that fails already must not fail twice: that would end the process.
    if let (Some(found), false) = (found, std::thread::panicking()) {
        panic!("a secret was found in {place}: {found}");
    }
}

/// Fails when a key that was issued is in any file of this folder, but for files that hold a key and nothing else: what
/// a user has put there for the gate to read.
#[track_caller]
pub fn check_files(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() {
            check_files(&path);
        } else if kind.is_file()
            && let Ok(bytes) = std::fs::read(&path)
            && KeySecret::parse(bytes.trim_ascii()).is_err()
        {
            check(&format!("the file {}", path.display()), bytes);
        }
    }
}

/// Remembers the keys in the files of a folder that hold a key and nothing else.
pub fn issued_by_files(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        // Neither a pipe nor a device, which may not end.
        if entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(text) = std::fs::read_to_string(entry.path())
        {
            issued(text.trim());
        }
    }
}

/// The first key that is in `seen`, and its form.
pub fn find(seen: &[u8]) -> Option<Found> {
    ISSUED.read().unwrap_or_else(PoisonError::into_inner).find(seen)
}

/// Begins to note what the gates in this process log, and what they panic with. Once is enough.
pub fn watch() {
    static WATCHING: LazyLock<log::Control> = LazyLock::new(|| {
        let settings = log::Settings { format: log::Format::Json, level: log::Level::Debug, access: true };
        let (control, flush) = log::init_with(&settings, Pen).expect("no other subscriber");
        // Ends with the process.
        std::mem::forget(flush);
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // What a test says when it fails is not the gate's.
            if panic.location().is_some_and(|place| !place.file().starts_with("tests/")) {
                LOG.pieces().write(panic.to_string().as_bytes());
            }
            usual(panic);
        }));
        control
    });
    LazyLock::force(&WATCHING);
}

/// Fails when a key is in what was logged in this process lately.
#[track_caller]
pub fn check_log() {
    let mut pieces = LOG.pieces();
    let found = pieces.iter().find_map(find);
    pieces.turn();
    drop(pieces);
    if let (Some(found), false) = (found, std::thread::panicking()) {
        panic!("a secret was found in the log of this process: {found}");
    }
}

/// Whether anything was logged that matches, lately.
pub fn log_has(matches: impl Fn(&str) -> bool) -> bool {
    LOG.pieces().iter().any(|piece| matches(&String::from_utf8_lossy(piece)))
}

/// Keys, in all the forms that they are looked for in.
#[derive(Default)]
pub struct Secrets {
    needles: Vec<Needle>,
    /// Each window of each needle: which, and how far from its start.
    windows: HashMap<[u8; WINDOW], Vec<(usize, usize)>>,
    /// Says of most windows that they are none of these.
    filter: Vec<u64>,
}

struct Needle {
    form: &'static str,
    bytes: Vec<u8>,
}

/// Where a key was found, in what form, and what is around it.
#[derive(Debug)]
pub struct Found {
    pub form: &'static str,
    pub at: usize,
    around: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.form, self.at, self.around)
    }
}

impl Secrets {
    pub fn issue(&mut self, key: &str) {
        let random = &key.as_bytes()[RANDOM];
        let forms: Vec<_> = forms_of(random).collect();
        if self.needles.iter().any(|needle| needle.bytes == forms[0].1) {
            return;
        }
        self.filter.resize(FILTER_BITS / 64, 0);
        for (form, bytes) in forms {
            for start in 0..STRIDE {
                let window = *bytes[start..].first_chunk().expect("needles are long");
                let bit = bit_of(&window);
                self.filter[bit / 64] |= 1 << (bit % 64);
                self.windows.entry(window).or_default().push((self.needles.len(), start));
            }
            self.needles.push(Needle { form, bytes });
        }
    }

    pub fn find(&self, seen: &[u8]) -> Option<Found> {
        if self.needles.is_empty() {
            return None;
        }
        (0..seen.len().saturating_sub(WINDOW - 1)).step_by(STRIDE).find_map(|at| self.find_at(seen, at))
    }

    fn find_at(&self, seen: &[u8], at: usize) -> Option<Found> {
        let window = seen[at..].first_chunk()?;
        let bit = bit_of(window);
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return None;
        }
        self.windows.get(window)?.iter().find_map(|(needle, start)| {
            let (needle, start) = (&self.needles[*needle], at.checked_sub(*start)?);
            let end = start + needle.bytes.len();
            (seen.get(start..end)? == needle.bytes).then(|| {
                let before = String::from_utf8_lossy(&seen[start.saturating_sub(200)..start]).into_owned();
                let after = String::from_utf8_lossy(&seen[end..seen.len().min(end + 200)]).into_owned();
                Found { form: needle.form, at: start, around: format!("{before}[SECRET]{after}") }
            })
        })
    }
}

fn bit_of(window: &[u8; WINDOW]) -> usize {
    let [low, high] = [&window[..8], &window[8..]].map(|half| u64::from_le_bytes(half.try_into().expect("eight")));
    let mixed = (low ^ high.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % FILTER_BITS
}

/// The plain form first.
fn forms_of(random: &[u8]) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let joined = |separator: &str, write: fn(&u8) -> String| {
        let each: Vec<String> = random.iter().map(write).collect();
        each.join(separator).into_bytes()
    };
    let aligned = [0, 1, 2].map(|shift| {
        let encoded = STANDARD.encode([&b"___"[..shift], random, b"___"].concat());
        // Only what no neighbour has a part in.
        let start = (shift * 4).div_ceil(3);
        let end = (shift + random.len()) * 4 / 3;
        ("base64", encoded.as_bytes()[start..end].to_vec())
    });
    [
        ("plain text", random.to_vec()),
        ("hex", joined("", |byte| format!("{byte:02x}"))),
        ("hex", joined("", |byte| format!("{byte:02X}"))),
        ("percent-encoding", joined("", |byte| format!("%{byte:02x}"))),
        ("percent-encoding", joined("", |byte| format!("%{byte:02X}"))),
        ("a list of bytes", joined(", ", u8::to_string)),
    ]
    .into_iter()
    .chain(aligned)
}

/// What was logged: the present piece, and some before it.
#[derive(Default)]
struct Paper(Mutex<Pieces>);

#[derive(Default)]
struct Pieces(VecDeque<Vec<u8>>);

impl Paper {
    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pieces {
    fn write(&mut self, bytes: &[u8]) {
        if self.0.is_empty() {
            self.turn();
        }
        self.0[0].extend_from_slice(bytes);
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    fn turn(&mut self) {
        self.0.push_front(Vec::new());
        self.0.truncate(PIECES_MAX);
    }
}

/// Where the log of this process goes.
struct Pen;

impl Write for Pen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.pieces().write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
