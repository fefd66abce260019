//! What a program does to the files of a folder and what it says to others, call by call, as strace saw it.
//!
//! Knows the text that strace writes with `-f -y -xx`, and nothing of what the files mean.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every call that changes a file or tells somebody something. One that is not here would make a recording incomplete,
/// which `Disk::check_is_like` notices.
const CALLS: &str = "openat,creat,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,ftruncate,truncate,rename,\
     renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,fallocate,copy_file_range";

/// A call that has succeeded.
#[derive(Clone, Debug)]
pub struct FileCall {
    /// The line of the trace on which it began.
    pub began: usize,
    /// The line on which it had ended.
    pub ended: usize,
    pub effect: Effect,
}

#[derive(Clone, Debug)]
pub enum Effect {
    /// A file was opened, and made unless it was there.
    Create {
        path: PathBuf,
    },
    /// Bytes of one file went into another.
    Copy {
        from: PathBuf,
        from_at: usize,
        path: PathBuf,
        at: usize,
        length: usize,
    },
    MakeDirectory {
        path: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Resize {
        path: PathBuf,
        length: usize,
    },
    /// Bytes for a socket, a pipe, a terminal: whoever reads them has been told.
    Say {
        bytes: Vec<u8>,
    },
    /// A file or directory was brought to disk.
    Sync {
        path: PathBuf,
    },
    Write {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
}

/// The command that runs a program and records its calls in `trace`.
pub fn traced(program: &[String], trace: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "--seccomp-bpf", "-y", "-xx", "-s", "16777216"]);
    command.arg(format!("-etrace={CALLS}")).arg("-o").arg(trace).args(program);
    command
}

/// Reads what was recorded of the files in and below `folder`, in the order in which the calls began.
#[track_caller]
pub fn read_trace(trace: &Path, folder: &Path) -> Vec<FileCall> {
    let mut reader = Reader { folder, unfinished: HashMap::new(), positions: HashMap::new(), calls: Vec::new() };
    let mut lines = BufReader::with_capacity(1 << 20, std::fs::File::open(trace).expect("a trace"));
    let mut line = Vec::new();
    for number in 0.. {
        line.clear();
        if lines.read_until(b'\n', &mut line).expect("a readable trace") == 0 {
            break;
        }
        reader.read(number, std::str::from_utf8(&line).expect("a trace in ASCII").trim_end());
    }
    reader.calls.sort_by_key(|call| call.began);
    reader.calls
}

struct Reader<'f> {
    folder: &'f Path,
    /// By thread: where its call began, and the text so far.
    unfinished: HashMap<String, (usize, String)>,
    /// Where the next plain write to a descriptor goes.
    positions: HashMap<u32, usize>,
    calls: Vec<FileCall>,
}

impl Reader<'_> {
    fn read(&mut self, number: usize, line: &str) {
        let (thread, text) = line.split_once(' ').expect("a thread before each call");
        let text = text.trim_start();
        if text.starts_with("+++") || text.starts_with("---") {
            return;
        }
        if let Some(begun) = text.strip_suffix("<unfinished ...>") {
            self.unfinished.insert(thread.to_owned(), (number, begun.to_owned()));
        } else if let Some(rest) = text.strip_prefix("<... ") {
            let (began, begun) = self.unfinished.remove(thread).expect("the beginning of a resumed call");
            let rest = rest.split_once("resumed>").expect("a resumed call").1;
            self.call(began, number, &(begun + rest));
        } else {
            self.call(number, number, text);
        }
    }

    fn call(&mut self, began: usize, ended: usize, text: &str) {
        let (name, rest) = text.split_once('(').unwrap_or_else(|| panic!("not a call: {text:.200}"));
        let (arguments, result) =
            rest.rsplit_once(" = ").unwrap_or_else(|| panic!("a call without result: {text:.200}"));
        let digits = result.split(|other: char| !other.is_ascii_digit()).next().unwrap_or_default();
        // A failed call (-1) and one that never returned (?) have no digits in front.
        let effects = match digits.parse::<usize>() {
            Ok(returned) => self.effects(name, arguments, result, returned),
            Err(_) if result.starts_with('?') && name == "pwrite64" => self.unreturned(arguments),
            Err(_) => return,
        };
        self.calls.extend(effects.into_iter().map(|effect| FileCall { began, ended, effect }));
    }

    /// A write that was under way when its process ended has happened if the file shows it.
    fn unreturned(&mut self, arguments: &str) -> Vec<Effect> {
        let length = arguments.rsplit(", ").nth(1).and_then(|length| length.parse().ok());
        let effects = length.map(|length| self.written("pwrite64", arguments, length)).unwrap_or_default();
        let is_shown = |effect: &Effect| match effect {
            Effect::Write { path, at, bytes } => {
                std::fs::read(path).is_ok_and(|file| file.get(*at..at + bytes.len()) == Some(bytes.as_slice()))
            }
            _ => false,
        };
        effects.into_iter().filter(is_shown).collect()
    }

    fn effects(&mut self, name: &str, arguments: &str, result: &str, returned: usize) -> Vec<Effect> {
        let strings = || strings(arguments).map(|text| PathBuf::from(String::from_utf8(text).expect("UTF-8")));
        let ours = |path: &PathBuf| path.starts_with(self.folder);
        let path = || strings().next().filter(|path| ours(path));
        match name {
            "copy_file_range" => return self.copied(arguments, returned),
            "openat" => return self.opened(arguments, result, returned),
            "write" | "writev" | "sendto" | "sendmsg" | "pwrite64" => return self.written(name, arguments, returned),
            "unlink" | "rmdir" => path().map(|path| Effect::Remove { path }),
            // A name in a directory that is open, or a whole path, which takes the directory's place.
            "unlinkat" => {
                let directory = described(arguments).1.unwrap_or_default();
                let path = directory.join(strings().next().expect("a name"));
                Some(path).filter(ours).map(|path| Effect::Remove { path })
            }
            "mkdir" | "mkdirat" => path().map(|path| Effect::MakeDirectory { path }),
            "rename" | "renameat" | "renameat2" => path().map(|from| {
                let to = strings().nth(1).expect("a new name");
                Effect::Rename { from, to }
            }),
            "fsync" | "fdatasync" => described(arguments).1.filter(ours).map(|path| Effect::Sync { path }),
            "ftruncate" => {
                described(arguments).1.filter(ours).map(|path| Effect::Resize { path, length: last_number(arguments) })
            }
            other => {
                let touched =
                    strings().any(|path| ours(&path)) || described(arguments).1.is_some_and(|path| ours(&path));
                assert!(!touched, "{other} changes a file in a way that is not understood here");
                None
            }
        }
        .into_iter()
        .collect()
    }

    fn copied(&mut self, arguments: &str, length: usize) -> Vec<Effect> {
        let mut parts = arguments.split(", ");
        let (from, start) = described(parts.next().expect("a descriptor"));
        assert_eq!(parts.next(), Some("NULL"), "copying from a place is not understood here");
        let (to, path) = described(parts.next().expect("a descriptor"));
        assert_eq!(parts.next(), Some("NULL"), "copying to a place is not understood here");
        let mut moved = |descriptor| {
            let position = self.positions.entry(descriptor).or_default();
            *position += length;
            *position - length
        };
        let (from_at, at) = (moved(from), moved(to));
        let (Some(from), Some(path)) = (start, path) else { panic!("a copy of what is no file: {arguments}") };
        if length == 0 || !path.starts_with(self.folder) {
            return Vec::new();
        }
        assert!(from.starts_with(self.folder), "a copy of what is not recorded: {}", from.display());
        vec![Effect::Copy { from, from_at, path, at, length }]
    }

    fn opened(&mut self, arguments: &str, result: &str, descriptor: usize) -> Vec<Effect> {
        self.positions.insert(u32::try_from(descriptor).expect("a descriptor"), 0);
        let Some(path) = described(result).1.filter(|path| path.starts_with(self.folder)) else { return Vec::new() };
        assert!(!arguments.contains("O_APPEND"), "appending is not understood here");
        let mut effects = Vec::new();
        if arguments.contains("O_CREAT") {
            effects.push(Effect::Create { path: path.clone() });
        }
        if arguments.contains("O_TRUNC") {
            effects.push(Effect::Resize { path, length: 0 });
        }
        effects
    }

    fn written(&mut self, name: &str, arguments: &str, count: usize) -> Vec<Effect> {
        let (descriptor, path) = described(arguments);
        let Some(path) = path.filter(|path| path.is_absolute()) else {
            let mut bytes: Vec<u8> = strings(arguments).flatten().collect();
            bytes.truncate(count);
            return vec![Effect::Say { bytes }];
        };
        let at = if name == "pwrite64" {
            last_number(arguments)
        } else {
            let position = self.positions.entry(descriptor).or_default();
            *position += count;
            *position - count
        };
        if !path.starts_with(self.folder) {
            return Vec::new();
        }
        let mut bytes: Vec<u8> = strings(arguments).flatten().collect();
        assert!(bytes.len() >= count, "a cut string in the trace of {}", path.display());
        bytes.truncate(count);
        vec![Effect::Write { path, at, bytes }]
    }
}

/// The descriptor that a text begins with, and what strace says that it is: a path unless it is a socket or the like.
fn described(text: &str) -> (u32, Option<PathBuf>) {
    let Some((number, rest)) = text.split_once('<') else { return (u32::MAX, None) };
    let Some((escaped, _)) = rest.split_once('>') else { return (u32::MAX, None) };
    let path = String::from_utf8(decoded(escaped)).expect("UTF-8");
    (number.parse().unwrap_or(u32::MAX), Some(PathBuf::from(path)))
}

/// What is between quotes. All of it is escaped, so a quote is never part of it.
fn strings(text: &str) -> impl Iterator<Item = Vec<u8>> {
    text.split('"').skip(1).step_by(2).map(decoded)
}

fn decoded(escaped: &str) -> Vec<u8> {
    let digit = |byte: u8| if byte.is_ascii_digit() { byte - b'0' } else { byte - b'a' + 10 };
    let mut bytes = Vec::with_capacity(escaped.len() / 4);
    for escape in escaped.as_bytes().chunks_exact(4) {
        assert!(escape.starts_with(b"\\x"), "{escaped:.80}");
        bytes.push(digit(escape[2]) << 4 | digit(escape[3]));
    }
    bytes
}

fn last_number(arguments: &str) -> usize {
    let (_, last) = arguments.rsplit_once(", ").expect("a last argument");
    last.trim().trim_end_matches(')').trim_end().parse().unwrap_or_else(|_| panic!("no number at the end: {last}"))
}
