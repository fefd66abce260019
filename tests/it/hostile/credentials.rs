//! Part C: credentials that are written otherwise than the two ways in which they are read.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use super::rig::Outcome::{Closed, Passed, Refused};
use super::rig::{Outcome, Rig, Row, byte, bytes};

/// Lines of a request to `/api/v1/query` that present what is not, or just is, a key.
pub(crate) fn lines(rig: &Rig) -> Vec<Row> {
    let mut rows: Vec<Row> = values(rig.kread.secret(), rig.kread.id())
        .into_iter()
        .map(|(id, value, outcome)| Row::new(id, format!("<H>Authorization: {value}¶"), outcome))
        .collect();
    let basic = rig.kread.authorization();
    let mut row =
        |id, text: &str, outcome| rows.push(Row::new(id, format!("<H>{}", text.replace("KEY", &basic)), outcome));
    row("C29", "Authorization: KEY¶Authorization: KEY¶", Refused(401));
    row("C29", "Authorization: KEY¶authorization: Basic eDo=¶", Refused(401));
    row("C29", "Authorization: Basic eDo=¶AUTHORIZATION: KEY¶", Refused(401));
    row("C29", "Authorization:¶Authorization: KEY¶", Refused(401));
    row("C29", "Authorization: KEY, KEY¶", Refused(401));
    for name in [
        "Proxy-Authorization",
        "X-Authorization",
        "Authorization-X",
        "Authorization_",
        "X-Api-Key",
        "Cookie",
        "WWW-Authenticate",
    ] {
        row("C28", &format!("{name}: KEY¶"), Refused(401));
    }
    rows
}

/// The same by each byte where there is one blank, or where the value begins and ends.
pub(crate) fn blanks(rig: &Rig) -> Vec<Row> {
    let basic = rig.kread.authorization();
    let pair = &basic["Basic ".len()..];
    let mut rows = Vec::new();
    for value in bytes() {
        let is_blank = matches!(value, b' ' | b'\t');
        let of = |otherwise| if value.is_ascii_control() && !is_blank { Closed(400) } else { otherwise };
        let mut row = |text: String, outcome| rows.push(Row::new("C04", format!("<H>Authorization:{text}¶"), outcome));
        row(format!("Basic{}{pair}", byte(value)), of(if value == b' ' { Passed } else { Refused(401) }));
        row(format!("Basic {}{pair}", byte(value)), of(Refused(401)));
        row(format!("Basic {pair}{}", byte(value)), of(if is_blank { Passed } else { Refused(401) }));
        row(format!("{}Basic {pair}", byte(value)), of(if is_blank { Passed } else { Refused(401) }));
    }
    rows
}

fn values(secret: &str, id: &str) -> Vec<(&'static str, String, Outcome)> {
    let pair = STANDARD.encode(format!("{secret}:"));
    let unpadded = pair.trim_end_matches('=');
    assert_ne!(unpadded, pair, "the rig's pair needs padding");
    let of = |text: &str| format!("Basic {}", STANDARD.encode(text));
    let other = |at: usize| {
        let swapped = if secret.as_bytes()[at] == b'0' { "1" } else { "0" };
        format!("{}{swapped}{}", &secret[..at], &secret[at + 1..])
    };
    let mut values: Vec<(&'static str, String, Outcome)> = Vec::new();
    let mut put = |id, value: String, outcome| values.push((id, value, outcome));
    for scheme in ["Basic", "basic", "BASIC", "bAsIc"] {
        put("C03", format!("{scheme} {pair}"), Passed);
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        put("C03", format!("{scheme} {secret}"), Passed);
    }
    for value in ["Basic", "Basic ", "Basic =", "Basic ====", "Basic Og==", "Basic OjpBOg==", "Bearer", "Bearer ", ""] {
        put("C05", value.to_owned(), Refused(401));
    }
    for value in
        [unpadded.to_owned(), format!("{pair}="), format!("{pair}===="), format!("={pair}"), format!("{unpadded}.")]
    {
        put("C06", format!("Basic {value}"), Refused(401));
    }
    put("C08", format!("Basic {}", URL_SAFE.encode(format!("~~~:{secret}"))), Refused(401));
    put("C08", of(&format!("~~~:{secret}")), Passed);
    put("C10", of(secret), Refused(401));
    put("C11", of(&format!("{secret}:pw")), Passed);
    put("C11", of(&format!("{secret}:a:b")), Passed);
    put("C12", of(&format!(":{secret}")), Passed);
    put("C12", of(&format!("agent:{secret}")), Passed);
    put("C12", of(&format!("a:b:{secret}")), Refused(401));
    // What fails its checksum is no key, and so the user name of somebody.
    put("C12", of(&format!("{}:{secret}", other(40))), Passed);
    for control in ["\0", "\n", "\r", "\t", "\x1b", "\x7f"] {
        for pair in [
            format!("{secret}:{control}"),
            format!("{secret}{control}:"),
            format!("{control}{secret}:"),
            format!(":{secret}{control}"),
            format!(":{control}{secret}"),
            format!("a{control}:{secret}"),
            format!("{secret}:a{control}"),
        ] {
            put("C15", of(&pair), Refused(401));
        }
    }
    put("C16", format!("Basic {}", STANDARD.encode(b"\xff\xfe:")), Refused(401));
    put("C16", of("abcé:"), Refused(401));
    for pair in [
        format!(" {secret}:"),
        format!("{secret} :"),
        format!(": {secret}"),
        secret.to_uppercase() + ":",
        secret.to_lowercase() + ":",
    ] {
        put("C17", of(&pair), Refused(401));
    }
    put("C19", of(&format!("{secret}:{}", "x".repeat(1_100))), Refused(401));
    for value in [
        secret.to_owned(),
        pair.clone(),
        format!("Token {secret}"),
        format!("Digest username=\"{secret}\""),
        format!("Key {secret}"),
    ] {
        put("C24", value, Refused(401));
    }
    for value in [
        format!(" {secret}"),
        pair.clone(),
        format!("{secret},"),
        format!("{secret} {secret}"),
        format!("\"{secret}\""),
        format!("{secret}:"),
    ] {
        put("C24", format!("Bearer {value}"), Refused(401));
    }
    for text in [format!("{id}...:"), format!("{id}:"), format!(":{id}..."), format!("{id}_:")] {
        put("C32", of(&text), Refused(401));
    }
    put("C32", format!("Bearer {id}..."), Refused(401));
    // The store has this id; no other secret opens it.
    for at in [4, 15, 16, 17, 30, 48, 49, 54] {
        put("C31", of(&format!("{}:", other(at))), Refused(401));
    }
    for length in [0, 1, 16, 17, 54] {
        put("C31", of(&format!("{}:", &secret[..length])), Refused(401));
    }
    put("C31", of(&format!("{secret}0:")), Refused(401));
    values
}
