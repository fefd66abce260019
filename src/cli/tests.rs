//! What is printed of texts that others chose, and of settings.

use std::time::Duration;

use crate::settings::{ByteSize, Rate};

use super::client::Address;
use super::{output, show};

#[test]
fn characters_that_act_on_terminals_are_escaped() {
    #[track_caller]
    fn check(text: &str, shown: &str) {
        assert_eq!(output::escaped(text), shown);
    }
    check("Pipeline «käse» 鍵", "Pipeline «käse» 鍵");
    check("a\u{1b}[31mb", "a\\u{1b}[31mb");
    check("a\r\n\tb", "a\\u{d}\\u{a}\\u{9}b");
    check("a\u{9b}1mb\u{7f}", "a\\u{9b}1mb\\u{7f}");
    check("abc\u{202e}def\u{2066}", "abc\\u{202e}def\\u{2066}");
}

#[test]
fn json_for_people_is_the_same_json_without_characters_that_act_on_terminals() {
    let value = serde_json::json!({ "name": "a\u{1b}\u{9b}\u{202e}\u{7f}\"\n", "scopes": ["b"] });

    let text = output::json(&value);

    assert!(text.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{text:?}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).ok(), Some(value));
}

#[test]
fn columns_are_as_wide_as_their_widest_cell() {
    let rows =
        [["pcl_1".to_owned(), "käse".to_owned(), "x".to_owned()], ["p".to_owned(), "n".to_owned(), String::new()]];

    let table = output::table(["ID", "NAME", "SCOPES"], &rows);

    assert_eq!(table, "ID     NAME  SCOPES\npcl_1  käse  x\np      n");
}

#[test]
fn a_field_of_several_lines_goes_on_below_itself() {
    let text = output::fields(&[("why", "one\ntwo".to_owned()), ("status", "200".to_owned())]);

    assert_eq!(text, "why     one\n        two\nstatus  200");
}

#[test]
fn settings_are_shown_as_the_file_would_write_them() {
    #[track_caller]
    fn check(shown: &str, expected: &str) {
        assert_eq!(shown, expected);
    }
    check(&show::duration(Duration::from_secs(300)), "5m");
    check(&show::duration(Duration::from_millis(90_500)), "1m30s500ms");
    check(&show::duration(Duration::from_secs(86_400)), "1d");
    check(&show::size(ByteSize::mib(64)), "64MiB");
    check(&show::size(ByteSize(1_000)), "1000B");
    check(&Rate::per_second(200).map(show::rate).unwrap_or_default(), "200/s");
}

#[test]
fn addresses_of_gates_hold_no_secret() {
    #[track_caller]
    fn check(text: &str, expected: Result<(&str, &str), &str>) {
        match (Address::parse(text), expected) {
            (Ok(address), Ok((origin, path))) => {
                assert_eq!((address.to_string().as_str(), address.path()), (origin, path), "{text}");
            }
            (Err(message), Err(part)) => {
                assert!(message.contains(part) && !message.contains("pcl_"), "{text}: {message}");
            }
            (got, expected) => panic!("{text}: {got:?}, not {expected:?}"),
        }
    }
    check("http://127.0.0.1:8080", Ok(("http://127.0.0.1:8080", "")));
    check("http://gate.example/", Ok(("http://gate.example", "")));
    check("http://[::1]:80/admin/keys/", Ok(("http://[::1]:80", "/admin/keys")));
    check("https://gate.example/keys", Ok(("https://gate.example", "/keys")));
    check("ftp://gate.example", Err("such as http://"));
    check("http://pcl_abc:@gate.example", Err("does not belong in the URL"));
    check("http://gate.example/?key=pcl_abc", Err("query"));
    check("gate.example:8080", Err("such as http://"));
    check("/api/keys", Err("such as http://"));
    check("", Err("such as http://"));
}
