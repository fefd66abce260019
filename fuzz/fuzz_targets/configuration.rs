//! A configuration file of any text: it is read or refused, never half; a problem is at a place in the file; and what it
//! says of itself is the same at each reading.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::config::Config;
use portcullis::settings::{Problems, Source};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Placeholders read whatever file they name: that is their job, and nothing to let loose here.
    if text.contains("${file") {
        return;
    }
    let source = Source { path: "/nowhere/portcullis.toml".into(), text: text.to_owned() };
    match Config::parse(&source) {
        Ok(config) => check_config(&config, &source),
        Err(problems) => check_places(&problems, text),
    }
});

fn check_config(config: &Config, source: &Source) {
    let again = Config::parse(source).expect("read once");
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
    for (pattern, line) in config.routes.lines() {
        assert!(line.upstream < config.upstreams.len(), "{pattern} leads somewhere");
    }
}

fn check_places(problems: &Problems, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    assert!(problems.iter().count() > 0);
    for problem in problems.iter() {
        assert!((1..=lines.len() + 1).contains(&problem.line), "{problem:?}");
        let line = lines.get(problem.line - 1).copied().unwrap_or_default();
        assert_eq!(problem.shown, line);
        // Behind the last character too, and behind a CR that `lines` takes off.
        assert!((1..=line.chars().count() + 2).contains(&problem.column), "{problem:?}");
        assert!(!problem.message.is_empty());
    }
    let _ = problems.to_string();
}
