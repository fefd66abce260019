//! Which part of the listing a query asks for. Refuses what it cannot read; never clamps.

use std::ops::RangeInclusive;

use crate::http::{FieldError, Refusal};

const PAGE_SIZE_DEFAULT: u64 = 50;
const PAGE_SIZES: RangeInclusive<u64> = 1..=1_000;
const PAGES: RangeInclusive<u64> = 1..=u64::MAX;

/// A page of the listing, counted from 1.
pub struct Page {
    pub number: u64,
    pub size: u64,
}

impl Page {
    /// Reads `page` and `page_size` (alias `pageSize`) out of a query; parameters of other names are not ours to judge.
    ///
    /// # Errors
    /// [`Refusal::InvalidQuery`] naming every parameter that is repeated, not a whole number, or out of range.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let query = query.unwrap_or_default();
        let mut errors = Vec::new();
        let number = parameter(query, &["page"], PAGES, &mut errors).unwrap_or(1);
        let size = parameter(query, &["page_size", "pageSize"], PAGE_SIZES, &mut errors).unwrap_or(PAGE_SIZE_DEFAULT);
        if !errors.is_empty() {
            return Err(Refusal::InvalidQuery { errors });
        }
        Ok(Self { number, size })
    }

    /// How many keys come before this page. Saturates: such a page lies past any end.
    pub fn offset(&self) -> usize {
        usize::try_from((self.number - 1).saturating_mul(self.size)).unwrap_or(usize::MAX)
    }

    pub fn limit(&self) -> usize {
        usize::try_from(self.size).expect("a page size is at most 1000: checked in Page::parse")
    }
}

/// The number that one of `names` has; `None` when it is absent, or wrong and reported.
fn parameter(query: &str, names: &[&str], range: RangeInclusive<u64>, errors: &mut Vec<FieldError>) -> Option<u64> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut given = pairs.filter(|(name, _)| names.contains(name));
    let (name, text) = given.next()?;
    if given.next().is_some() {
        errors.push(error(name, "repeated", "is given more than once".to_owned()));
        return None;
    }
    // `u64::from_str` would take a plus sign too.
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    if !number.is_some_and(|number| range.contains(&number)) {
        let bound = if range == PAGES { "of at least 1".to_owned() } else { format!("from 1 to {}", range.end()) };
        errors.push(error(name, "out_of_range", format!("must be a whole number {bound}")));
        return None;
    }
    number
}

fn error(field: &str, code: &'static str, message: String) -> FieldError {
    FieldError { field: field.to_owned(), code, message }
}
