//! Templates and what they are filled with, and targets before and after.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::settings::PathPrefix;
use super::template::{Template, TemplateError, Values};
use crate::http::RequestId;
use crate::proxy::target::{Changes, checked};
use crate::route::{Path, Pattern};

fn filled(template: &str, pattern: &str, path: &str) -> Option<String> {
    let pattern = Pattern::parse(pattern).expect("a pattern");
    let mut values = Values {
        identity: None,
        pattern: &pattern,
        path: Path::parse(path).expect("a path"),
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        request_id: &mut None,
    };
    let value = Template::parse(template).expect("a template").fill(&mut values)?;
    Some(value.to_str().expect("visible ASCII").to_owned())
}

#[track_caller]
fn check(template: &str, path: &str, expected: &str) {
    assert_eq!(filled(template, "GET /t/{tenant}/{*rest}", path).as_deref(), Some(expected), "{template} {path}");
}

#[test]
fn names_are_filled_in_and_doubled_braces_are_braces() {
    check("", "/t/a/b", "");
    check("plain text; q=1", "/t/a/b", "plain text; q=1");
    check("{path.tenant}", "/t/acme/b", "acme");
    check("<{path.tenant}|{client.ip}>", "/t/acme/b", "<acme|127.0.0.1>");
    check("{{{path.tenant}}}", "/t/acme/b", "{acme}");
    check("{{key.id}}", "/t/acme/b", "{key.id}");
    check("{path.rest}", "/t/acme/b/c/", "b/c/");
    check("[{path.rest}]", "/t/acme", "[]");
}

#[test]
fn a_parameter_is_spelled_in_one_way_and_separates_nothing() {
    check("{path.tenant}", "/t/a%40b/", "a@b");
    check("{path.tenant}", "/t/a@b/", "a@b");
    check("{path.tenant}", "/t/a%7cb/", "a%7Cb");
    check("{path.tenant}", "/t/%20a%22/", "%20a%22");
    check("{path.tenant}", "/t/%c3%a9/", "%C3%A9");
    check("{path.rest}", "/t/a/b%2Fc/d", "b%2Fc/d");
}

#[test]
fn a_request_keeps_the_id_that_it_has() {
    let pattern = Pattern::parse("GET /x").expect("a pattern");
    let mut request_id = None;
    let mut fill = |template: &str| {
        let path = Path::parse("/x").expect("a path");
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut values = Values { identity: None, pattern: &pattern, path, client, request_id: &mut request_id };
        Template::parse(template).expect("a template").fill(&mut values).expect("a value")
    };
    assert_eq!(fill("{request.id}"), fill("{request.id}"));
    let id: Option<RequestId> = request_id;
    assert!(id.is_some());
}

#[test]
fn a_value_that_needs_a_key_is_never_made_without_one() {
    for template in ["{key.id}", "x {key.name}", "{key.kind}", "{key.scopes}"] {
        assert!(Template::parse(template).expect("a template").needs_key(), "{template}");
        assert_eq!(filled(template, "GET /x", "/x"), None, "{template}");
    }
    assert_eq!(filled("{path.other}", "GET /{name}", "/x"), None);
}

#[test]
fn a_text_that_is_no_template_is_refused() {
    use TemplateError::*;
    let check = |text: &str, expected: TemplateError| assert_eq!(Template::parse(text), Err(expected), "{text}");
    let text = str::to_owned;
    for unbalanced in ["{", "}", "a{b", "a}b", "{key.id", "key.id}", "{{}", "{key.id}}"] {
        check(unbalanced, Unbalanced);
    }
    for unknown in ["", "key", "key.secret", "path.", "KEY.ID", " key.id", "env:HOME"] {
        check(&format!("{{{unknown}}}"), Unknown(text(unknown)));
    }
    check("{path.credential}", Credential);
    check(" x", Blank);
    check("x ", Blank);
    check("a\nb", Character('\n'));
    check("a\tb", Character('\t'));
    check("é{key.id}", Character('é'));
}

#[test]
fn a_template_is_shown_as_it_is_written() {
    for text in ["", "a b", "{{x}}", "t-{path.a}-{key.id}", "{request.id}", "{{{{{client.ip}}}}}"] {
        assert_eq!(Template::parse(text).expect("a template").to_string(), text);
    }
}

#[test]
fn a_prefix_is_whole_plain_segments() {
    for (text, segments) in [("/a", 1), ("/a/b", 2), ("/a@b/c:d", 2), ("/.x/y..", 2)] {
        assert_eq!(PathPrefix::parse(text).map(|prefix| prefix.segments()), Some(segments), "{text}");
    }
    for text in
        ["", "/", "a", "/a/", "//a", "/a//b", "/..", "/a/./b", "/a%20b", "/a;b", "/a b", "/é", "/a?b", "/a#b", "/{x}"]
    {
        assert_eq!(PathPrefix::parse(text), None, "{text}");
    }
}

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9._~@:=,!$&'()*+-]{1,6}".prop_filter("no dot segment", |text| text != "." && text != ".."),
        prop::sample::select(vec!["a%20b", "%C3%A9", "a%2Fb", "x;y", "%7C", "%40", "..."]).prop_map(str::to_owned),
    ]
}

fn path() -> impl Strategy<Value = Vec<String>> {
    (prop::collection::vec(segment(), 0..6), any::<bool>()).prop_map(|(mut segments, slash)| {
        if slash || segments.is_empty() {
            segments.push(String::new());
        }
        segments
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_target_has_one_reading_and_the_segments_that_are_meant(
        path in path(),
        strip_segments in 0_usize..3,
        added in prop::collection::vec("[a-z]{1,4}", 0..3),
        query in prop::option::of("[a-z/.%?;=&]{0,12}"),
    ) {
        prop_assume!(strip_segments < path.len() || (strip_segments == path.len() && !path[path.len() - 1].is_empty()));
        let raw = format!("/{}", path.join("/"));
        let add: String = added.iter().map(|segment| format!("/{segment}")).collect();
        let before = Path::parse(&raw).expect("made of legal segments");
        let changes = Changes { strip_segments, add: &add, credential: None, drop_parameter: None };

        let target = changes.apply(&before, query.as_deref());

        let mut expected: Vec<String> = added.iter().cloned().chain(path[strip_segments..].iter().cloned()).collect();
        if expected.is_empty() {
            expected.push(String::new());
        }
        let expected = format!("/{}", expected.join("/"));
        let (path, rest) = target.split_at(target.find('?').unwrap_or(target.len()));
        prop_assert_eq!(path, &expected);
        prop_assert_eq!(rest, query.as_ref().map_or(String::new(), |query| format!("?{query}")));
        let after = Path::parse(path);
        prop_assert!(after.is_ok(), "{} {:?}", path, after);
        let uri = checked(target.clone(), &before);
        prop_assert!(uri.is_some_and(|uri| uri.to_string() == target), "{}", target);
    }

    #[test]
    fn a_key_is_replaced_wherever_its_segment_lies(
        path in prop::collection::vec(segment(), 2..6),
        at in 0_usize..6,
        strip_segments in 0_usize..3,
    ) {
        let at = at % path.len();
        let strip_segments = strip_segments.min(at);
        let raw = format!("/{}", path.join("/"));
        let before = Path::parse(&raw).expect("made of legal segments");
        let start = before.segment_start(at);
        let credential = Some((start..start + path[at].len(), "ID"));
        let changes = Changes { strip_segments, add: "/p", credential, drop_parameter: None };

        let mut expected = path.clone();
        expected[at] = "ID".to_owned();
        prop_assert_eq!(changes.apply(&before, None), format!("/p/{}", expected[strip_segments..].join("/")));
    }

    #[test]
    fn no_text_upsets_the_template(text in "\\PC{0,40}", braces in "[{}a-z.]{0,24}") {
        for text in [text, braces] {
            if let Ok(template) = Template::parse(&text) {
                prop_assert_eq!(Template::parse(&template.to_string()), Ok(template));
            }
        }
    }
}

#[test]
fn a_target_with_a_second_reading_or_new_doubts_is_not_sent() {
    let before = Path::parse("/a/b").expect("a path");
    for target in ["", "x", "//x", "/a/../b", "/a%2Fb", "/a;b", "/a b", "/%zz"] {
        assert_eq!(checked(target.to_owned(), &before), None, "{target}");
    }
    let doubtful = Path::parse("/a%2Fb;c").expect("a path");
    assert!(checked("/p/a%2Fb;c?x=/../".to_owned(), &doubtful).is_some());
}
