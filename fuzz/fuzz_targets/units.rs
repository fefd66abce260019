//! One option's text at a time: durations, sizes, rates, counts, addresses, networks and URLs mean what a plain reading
//! makes of them, or are refused.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use portcullis::config::Config;
use portcullis::settings::Source;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    // A value that ends its own string or line is the target `configuration`'s.
    if text.contains(|char: char| char.is_control() || "'$".contains(char)) {
        return;
    }
    match kind % 8 {
        0 => duration(text),
        1 => size(text),
        2 => rate(text),
        3 => count(text),
        4 => url(text),
        5 => drop(parsed(&format!("forwarding.trusted_proxies = ['{text}']"))),
        6 => drop(parsed(&format!("listen.public = '{text}'"))),
        _ => realm(text),
    }
});

fn parsed(text: &str) -> Option<Config> {
    Config::parse(&Source { path: "/nowhere/portcullis.toml".into(), text: text.to_owned() }).ok()
}

fn duration(text: &str) {
    let found = parsed(&format!("client.idle_timeout = '{text}'")).map(|config| config.client.idle_timeout);
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let mut total = 0_u128;
    let mut left = text;
    while !left.is_empty() {
        let Some((number, rest)) = leading_number(left) else { return assert_eq!(found, None, "{text:?}") };
        let letters = rest.len() - rest.trim_start_matches(|char: char| char.is_ascii_alphabetic()).len();
        let Some((_, factor)) = units.iter().find(|(unit, _)| *unit == &rest[..letters]) else {
            return assert_eq!(found, None, "{text:?}");
        };
        total = total.saturating_add(number.saturating_mul(*factor));
        left = &rest[letters..];
    }
    let is_in_range = (1..=365 * 86_400_000).contains(&total);
    let expected = is_in_range.then(|| Duration::from_millis(u64::try_from(total).expect("at most a year")));
    assert_eq!(found, expected, "{text:?}");
}

fn size(text: &str) {
    let found = parsed(&format!("requests.body_bytes_max = '{text}'")).is_some()
        || parsed(&format!("client.header_bytes_max = '{text}'")).is_some();
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let is_size = leading_number(text).is_some_and(|(number, unit)| {
        units.iter().any(|(known, factor)| *known == unit && number.saturating_mul(*factor) <= u128::from(u64::MAX))
    });
    assert!(is_size || !found, "{text:?}");
}

fn rate(text: &str) {
    let config = parsed(&format!("limits.key.rate = '{text}'"));
    let found = config.and_then(|config| config.limits.key.rate).map(|rate| (rate.count.get(), rate.per.as_secs()));
    let units = [("/s", 1), ("/m", 60), ("/h", 3_600)];
    let expected = leading_number(text).and_then(|(number, unit)| {
        let (_, seconds) = units.iter().find(|(known, _)| *known == unit)?;
        Some((u32::try_from(number).ok().filter(|count| *count > 0)?, *seconds))
    });
    assert_eq!(found, expected, "{text:?}");
}

fn count(text: &str) {
    // Not in quotes: TOML's own integers, which have underscores and other bases.
    if let Some(config) = parsed(&format!("keys.keys_max = {text} #")) {
        let digits = text.split('#').next().unwrap_or_default().trim().replace('_', "");
        let (radix, digits) = match digits.get(..2) {
            Some("0x") => (16, &digits[2..]),
            Some("0o") => (8, &digits[2..]),
            Some("0b") => (2, &digits[2..]),
            _ => (10, digits.strip_prefix('+').unwrap_or(&digits)),
        };
        assert_eq!(u32::from_str_radix(digits, radix).ok(), Some(config.keys.keys_max.get()), "{text:?}");
    }
}

fn url(text: &str) {
    let Some(config) = parsed(&format!("upstream.a.url = '{text}'")) else { return };
    for url in config.upstreams[0].urls.iter() {
        let scheme = text.to_ascii_lowercase();
        assert!(["http://", "https://", "unix:/"].iter().any(|known| scheme.starts_with(known)), "{text:?}");
        assert!(!url.authority().contains(['@', '/', '?', '#', ' ', '\\']), "{text:?} {}", url.authority());
        if let Some((host, port)) = url.target() {
            assert!(!host.is_empty() && port != 0, "{text:?}");
        }
    }
}

fn realm(text: &str) {
    if let Some(config) = parsed(&format!("credentials.realm = '{text}'")) {
        let realm = config.credentials.realm.as_str();
        assert!(realm == text && realm.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b"\"\\".contains(&byte)));
    }
}

/// A whole number and what follows it.
fn leading_number(text: &str) -> Option<(u128, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    // More digits than any unit has room for, zeroes in front aside.
    let number = text[..digits].parse::<u64>().ok()?;
    Some((u128::from(number), &text[digits..]))
}
