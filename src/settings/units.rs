//! Values with units: durations, sizes, rates. A bare number is refused, since nobody remembers its unit.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Node, Value};

const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);

impl Value for Duration {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = quoted(node, "a duration such as \"2s\", \"500ms\" or \"1m30s\"")?;
        match duration(&text) {
            Some(duration) if duration.is_zero() => node.problem(format!("{} must be longer than zero", node.path())),
            Some(duration) if duration > DURATION_MAX => node.problem(format!("{} must be at most 365d", node.path())),
            Some(duration) => Some(duration),
            None => node.problem(format!(
                "{}: \"{text}\" is not a duration; write a whole number with ms, s, m, h or d, such as \"2s\" or \"1m30s\"",
                node.path()
            )),
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest)?;
        let part = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3_600)?),
            "d" => Duration::from_secs(number.checked_mul(86_400)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// A number of bytes, written with its unit (`"64KiB"`, `"16MiB"`, `"10MB"`, `"512B"`).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// For sizes that this program holds in memory at once.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Value for ByteSize {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = quoted(node, "a size such as \"64KiB\" or \"16MiB\"")?;
        match size(&text) {
            Some(0) => node.problem(format!("{} must be larger than zero", node.path())),
            Some(bytes) => Some(Self(bytes)),
            None => node.problem(format!(
                "{}: \"{text}\" is not a size; write a whole number with B, KiB, MiB, GiB, kB, MB or GB, such as \"16MiB\"",
                node.path()
            )),
        }
    }
}

fn size(text: &str) -> Option<u64> {
    let (number, unit, after) = number_and_unit(text)?;
    let factor = match unit {
        "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    if !after.is_empty() {
        return None;
    }
    number.checked_mul(factor)
}

/// So many events in a second, a minute or an hour (`"200/s"`, `"10/m"`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    pub count: NonZeroU32,
    pub per: Duration,
}

impl Rate {
    /// `None` when `count` is zero.
    pub fn per_second(count: u32) -> Option<Self> {
        Some(Self { count: NonZeroU32::new(count)?, per: Duration::from_secs(1) })
    }
}

impl Value for Rate {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = quoted(node, "a rate such as \"200/s\" or \"10/m\"")?;
        match rate(&text) {
            Some(rate) => Some(rate),
            None => node.problem(format!(
                "{}: \"{text}\" is not a rate; write a whole number of at least 1 and /s, /m or /h, such as \"200/s\"",
                node.path()
            )),
        }
    }
}

fn rate(text: &str) -> Option<Rate> {
    let (count, unit) = text.split_once('/')?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    if !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Rate { count: count.parse().ok()?, per: Duration::from_secs(seconds) })
}

fn quoted(node: &Node<'_>, form: &str) -> Option<String> {
    if node.value().as_str().is_none() {
        return node.problem(format!("{} must be {form}, in quotes and with its unit", node.path()));
    }
    node.text()
}

fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let letters = text[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
    let (number, rest) = text.split_at(digits);
    let (unit, after) = rest.split_at(letters);
    Some((number.parse().ok()?, unit, after))
}
