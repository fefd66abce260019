//! Files that nobody should have written: each is refused whole, with its line, and nothing is written.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::process::Command;

use serde_json::{Value, json};

use super::{Installation, file, fresh, header, lines, many, of_type, populated, read, sealed, store, text};

/// How large a file is imported within little memory; `PORTCULLIS_IMPORT_MIB=1024` sets another size.
const MIB: usize = 4;
const MEMORY_KIB: usize = 256 << 10;

fn replaced(line: &Value, field: &str, value: Value) -> Value {
    let mut line = line.clone();
    line[field] = value;
    line
}

fn without(line: &Value, field: &str) -> Value {
    let mut line = line.clone();
    line.as_object_mut().expect("an object").remove(field);
    line
}

/// What is in the file, and parts of what is said of it.
fn cases() -> Vec<(Vec<u8>, [&'static str; 2])> {
    let (head, key, other) = (header(1), fresh(&["monitor:read"]).1, fresh(&["issue:read"]).1);
    let whole = sealed(&[head.clone(), key.clone()]);
    let of_head = |field: &str, value: Value| sealed(&[replaced(&head, field, value), key.clone()]).into_bytes();
    let of_key = |field: &str, value: Value| sealed(&[head.clone(), replaced(&key, field, value)]).into_bytes();
    let of = |lines: &[Value]| sealed(lines).into_bytes();
    let text = |text: String| text.into_bytes();
    let change = json!({"type": "change", "revision": 5, "at": "2025-01-01T00:00:00Z", "actor": "operator",
        "address": null, "key": key["id"], "before": null, "after": null});
    let fixed = replaced(&replaced(&key, "kind", "telemetry".into()), "scopes", json!(["telemetry:write", "*"]));
    let secret = fresh(&[]).0;
    vec![
        (of_head("version", 2.into()), ["line 1: ", "newer portcullis (format 2"]),
        (of_head("version", 0.into()), ["line 1: ", "no format 0"]),
        (of_head("format", "other".into()), ["line 1: ", "not the first line"]),
        (of_head("content", "other".into()), ["line 1: ", "content"]),
        (of_head("created", "yesterday".into()), ["line 1: ", "created"]),
        (of_head("extra", 1.into()), ["line 1: ", "unknown field, extra"]),
        (of_head("keys", 2.into()), ["line 3: ", "numbers of lines"]),
        (of_head("keys", 0.into()), ["line 2: ", "one key more"]),
        (of_head("keys", 5_000_000.into()), ["line 1: ", "keys.keys_max"]),
        (of_head("revision", 1.into()), ["line 2: ", "revisions"]),
        (of_key("extra", 1.into()), ["line 2: ", "unknown field, extra"]),
        (of(&[head.clone(), without(&key, "sha256")]), ["line 2: ", "missing field `sha256`"]),
        (of_key("sha256", "ABCD".into()), ["line 2: ", "64 digits"]),
        (of_key("sha256", "G".repeat(64).into()), ["line 2: ", "64 digits"]),
        (of_key("id", "pcl_short".into()), ["line 2: ", "id is not"]),
        (of_key("kind", "root".into()), ["line 2: ", "kind"]),
        (of_key("scopes", json!([])), ["line 2: ", "at least one"]),
        (of_key("scopes", json!(["A b"])), ["line 2: ", "scopes"]),
        (of_key("scopes", json!("*")), ["line 2: ", "wrong type"]),
        (of_key("name", "".into()), ["line 2: ", "name"]),
        (of_key("name", "a\nb".into()), ["line 2: ", "name"]),
        (of_key("name", secret.into()), ["line 2: ", "name"]),
        (of_key("updated", "2025-13-01T00:00:00Z".into()), ["line 2: ", "updated"]),
        (of_key("last_used", 7.into()), ["line 2: ", "wrong type"]),
        (of_key("type", "root".into()), ["line 2: ", "unknown type"]),
        (of(&[head.clone(), fixed]), ["line 2: ", "telemetry:write and no others"]),
        (of(&[header(2), key.clone(), key.clone()]), ["line 3: ", "on line 2 already"]),
        (of(&[head.clone(), head.clone(), key.clone()]), ["line 2: ", "second header"]),
        (of(&[key.clone(), other.clone()]), ["line 1: ", "not the first line"]),
        (of(&[head.clone(), change.clone(), key.clone()]), ["line 2: ", "before or after"]),
        (text(whole.clone() + "\n"), ["line 4: ", "after the end"]),
        (text(whole.clone() + &whole), ["line 4: ", "after the end"]),
        (text(whole.replace("a key", "b key")), ["line 3: ", "damaged or edited"]),
        (text(whole.replace('\n', "\r\n")), ["line 3: ", "damaged or edited"]),
        (text(whole.replacen("\"name\":", "\"name\":\"x\",\"name\":", 1)), ["line 2: ", "duplicate field `name`"]),
        (text(whole[..whole.len() - 1].to_owned()), ["line 3: ", "cut off"]),
        (text(whole[..whole.rfind("{\"").unwrap()].to_owned()), ["line 3: ", "cut off"]),
        (text(whole[..40].to_owned()), ["line 1: ", "cut off"]),
        (Vec::new(), ["line 1: ", "empty"]),
        (text("\n".to_owned()), ["line 1: ", "not the first line"]),
        (text(format!("\u{feff}{whole}")), ["line 1: ", "not the first line"]),
        (vec![0x1f, 0x8b, 8, 0, 0, b'\n'], ["line 1: ", "not UTF-8"]),
        ([whole.as_bytes(), b"\xff\n"].concat(), ["line 4: ", "not UTF-8 at byte 1"]),
        (vec![b'x'; 2 << 20], ["line 1: ", "longer than"]),
        (text("[".repeat(100_000) + "\n"), ["line 1: ", "not the first line"]),
        (text(format!("{head}\n{}\n", "[".repeat(100_000))), ["line 2: ", "wrong type"]),
        (text(format!("{head}\n{{\"type\":\"key\",\"id\":{}\n", "[".repeat(100_000))), ["line 2: ", "JSON"]),
    ]
}

#[test]
fn a_hostile_file_is_refused_with_its_line_and_nothing_is_written() {
    let installation = Installation::new();
    for (content, parts) in cases() {
        let path = file(&installation, "keys", &content);

        let refused = store(&installation, "import", &[text(&path)], 1);

        let shown = String::from_utf8_lossy(&content[..content.len().min(400)]).into_owned();
        assert!(parts.iter().all(|part| refused.stderr.contains(part)), "{parts:?}: {refused:?} for {shown}");
        assert!(refused.stdout.is_empty() && refused.stderr.len() < 1_000, "{refused:?}");
        assert!(!installation.folder().join("data").exists(), "something was written for {shown}");
    }
}

#[test]
fn a_hostile_backup_is_refused_and_nothing_is_written() {
    let (installation, _) = populated();
    let backup = installation.folder().join("backup");
    store(&installation, "backup", &["--output", text(&backup)], 0);
    let mut whole = lines(&read(&backup));
    whole.pop();
    let first_change = whole.iter().position(|line| line["type"] == "change").expect("a log");
    let changed = |at: usize, field: &str, value: Value| {
        let mut lines = whole.clone();
        lines[at][field] = value;
        lines
    };
    let mut keys_last = whole.clone();
    let key = keys_last.remove(1);
    keys_last.push(key);
    let cases = [
        (changed(first_change, "actor", "nobody".into()), "actor"),
        (changed(first_change, "address", "localhost".into()), "address"),
        (changed(first_change, "revision", 5.into()), "not in order"),
        (changed(first_change, "after", json!({"name": "x", "kind": "telemetry", "scopes": ["*"]})), "no others"),
        (changed(first_change, "before", json!({"name": "x"})), "missing field `kind`"),
        (changed(1, "revision", 1_000.into()), "revisions"),
        (keys_last, "behind the changes"),
    ];
    let new = Installation::new();
    for (lines, part) in cases {
        let path = file(&new, "backup", sealed(&lines));
        let refused = store(&new, "restore", &[text(&path)], 1);
        assert!(refused.stderr.contains("line ") && refused.stderr.contains(part), "{part}: {refused:?}");
        assert!(!new.folder().join("data").exists(), "{part}");
    }
    assert_eq!(of_type(&whole, "key").len(), 5);
}

#[test]
fn what_stands_in_a_wrong_file_is_not_repeated() {
    let installation = Installation::new();
    let (secret, line) = fresh(&["monitor:read"]);
    let quoted = format!("{secret:?}");
    let (head, whole) = (header(1), sealed(&[header(1), line.clone()]));
    let contents = [
        format!("{secret}\n"),
        format!("{quoted}\n"),
        format!("{{{quoted}:1}}\n"),
        format!("{head}\n{quoted}\n"),
        format!("{head}\n{{\"type\":{quoted}}}\n"),
        sealed(&[head.clone(), replaced(&line, &secret, 1.into())]),
        whole.replace("\"created_revision\":7", &format!("\"created_revision\":{quoted}")),
    ]
    .into_iter()
    .chain(
        ["id", "name", "kind", "created", "sha256", "last_used"]
            .map(|field| sealed(&[head.clone(), replaced(&line, field, secret.clone().into())])),
    )
    .chain([sealed(&[head.clone(), replaced(&line, "scopes", json!([secret]))])]);
    for content in contents {
        let path = file(&installation, "keys", &content);
        let refused = store(&installation, "import", &[text(&path)], 1);
        assert!(!refused.stderr.contains(&secret[17..]), "{refused:?} for {content}");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let installation = Installation::new();
    for path in ["/dev/zero", text(installation.folder())] {
        let refused = store(&installation, "import", &[path], 1);
        assert!(refused.stderr.contains("is not a file"), "{refused:?}");
    }
    let refused = store(&installation, "restore", &["/nonexistent"], 1);
    assert!(refused.stderr.contains("cannot read /nonexistent"), "{refused:?}");
}

#[test]
fn a_huge_file_is_checked_within_little_memory() {
    let mib = std::env::var("PORTCULLIS_IMPORT_MIB").map_or(MIB, |text| text.parse().expect("a number"));
    let installation = Installation::new();
    let path = installation.folder().join("keys");
    let scopes: Vec<String> = (0..2_000).map(|number| format!("team:{number:058}")).collect();
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let size = format!("{}\n", fresh(&scopes).1).len();
    let count = (mib << 20).div_ceil(size);
    {
        let mut writer = BufWriter::new(File::create(&path).expect("writable"));
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for number in 0..=count {
            let line = if number == 0 { header(count) } else { fresh(&scopes).1 };
            let line = format!("{line}\n");
            context.update(line.as_bytes());
            writer.write_all(line.as_bytes()).expect("room");
        }
        let sum: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let end = json!({"type": "end", "keys": count, "changes": 0, "sha256": sum});
        writeln!(writer, "{end}").and_then(|()| writer.flush()).expect("room");
    }
    for (more, code, part) in [
        (&["--dry-run", "--undeclared-scopes", "keep"][..], 0, format!("created {count}, ")),
        (&[][..], 1, format!("and {} more", count - 20)),
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v {MEMORY_KIB} && exec \"$@\""), "sh"]);
        command.arg(env!("CARGO_BIN_EXE_portcullis"));
        command.args(super::arguments(&installation, "import", &[text(&path)])).args(more);

        let output = command.output().expect("a shell");

        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(&part) && said.len() < 20_000, "{said}");
    }
}

#[test]
fn an_import_that_fails_half_way_through_the_checks_leaves_the_store_as_it_was() {
    let (installation, _) = populated();
    let before = store(&installation, "export", &[], 0).stdout;
    let mut keys = lines(&many(600));
    keys.pop();
    keys[600]["name"] = "".into();
    let path = file(&installation, "keys", sealed(&keys));

    store(&installation, "import", &[text(&path)], 1);

    let rest = |text: &str| text.lines().skip(1).take(5).map(str::to_owned).collect::<Vec<_>>();
    let after = store(&installation, "export", &[], 0).stdout;
    assert_eq!((rest(&before), before.lines().count()), (rest(&after), after.lines().count()));
}
