//! What a path, a pattern and a table answer, as tables of cases.

mod naive;
mod slow;

use super::*;

#[track_caller]
fn check_path(raw: &str, expected: Result<(), PathError>) {
    assert_eq!(Path::parse(raw).map(|path| assert_eq!(path.raw(), raw)), expected, "{raw}");
}

#[test]
fn ordinary_path_is_read_as_it_is() {
    for raw in [
        "/",
        "/api/v1/query",
        "/api/v1/query/",
        "/API/V1",
        "/api/v1/query.",
        "/.well-known/x..y/...",
        "/metrics/job/a@b:c=d~e_f-g",
        "/metrics/job@base64/c29tZS9qb2I=",
        "/metrics/job/a%20b/instance/%C3%A9%e2%82%ac%F0%9F%98%80",
        "/a!$&'()*+,b",
        "/a%3Fb%23c%5B%5D%22%3C%3E%5E%60%7B%7C%7D",
        "/%40%3A%3D%26",
    ] {
        check_path(raw, Ok(()));
        let path = Path::parse(raw).unwrap();
        assert!(!path.has_encoded_slash() && !path.has_semicolon(), "{raw}");
    }
}

#[test]
fn hostile_path_is_refused() {
    use PathError::*;
    let refused = |error: PathError, paths: &[&str]| paths.iter().for_each(|raw| check_path(raw, Err(error)));
    refused(NotAbsolute, &["", "x", "api/v1/query", "*", "*/x", "?x", "http://t/api", "t:80", "%2Fapi", "\\x"]);
    refused(
        DotSegment,
        &[
            "/..",
            "/.",
            "/./x",
            "/api/v1/query/../admin/x",
            "/api/../api/v1/admin/x",
            "/x/..",
            "/open/..%2fapi/v1/admin/x",
            "/open/..%2F",
            "/api/keys/..%2f..%2fmetrics",
            "/a%2F.%2Fb",
            "/a%2F..",
            "/a/..;/b",
            "/a/.;x=1/b",
            "/a/..%3Bx/b",
        ],
    );
    refused(
        EmptySegment,
        &[
            "//",
            "///",
            "//api/v1/admin/x",
            "/api//v1/admin/x",
            "/api/v1/admin//",
            "/x//",
            "/a/%2Fb",
            "/%2Fa",
            "/a%2F%2Fb",
            "/a%2F/b",
            "/;/a",
            "/a/;x=1/b",
        ],
    );
    refused(EncodedDot, &["/api/v1/query/%2e%2e/admin/x", "/%2E", "/.%2e/x", "/a%2Eb"]);
    refused(EncodedBackslash, &["/a%5cb", "/..%5C..%5Cx"]);
    refused(EncodedPercent, &["/%25", "/%252e%252e/", "/a%252Fb"]);
    refused(EncodedUnreserved, &["/api/v1/%61dmin/x", "/%41", "/%7A", "/%30", "/%2d", "/%5F", "/%7e"]);
    refused(ControlCharacter, &["/admin%00x", "/%00", "/a%09", "/a%0d%0aX:1", "/%1f", "/%7F", "/%c2%80", "/%C2%85"]);
    refused(BadEscape, &["/%", "/%g1", "/%1", "/x%", "/%%41", "/%+1", "/%1 ", "/% 1"]);
    refused(
        NotText,
        &[
            "/%c0%ae%c0%ae/",
            "/%c0%af",
            "/%e0%80%af",
            "/%ff",
            "/%80",
            "/%ed%a0%80",
            "/%f4%90%80%80",
            "/%c3",
            "/%c3x",
            "/%c3%28",
            "/%e2%82/%ac",
        ],
    );
    refused(
        IllegalCharacter,
        &[
            "/a b", "/a\\b", "/a\"b", "/<", "/>", "/^", "/`", "/{x}", "/|", "/a#b", "/a?b", "/[::1]", "/é", "/a\u{7f}",
            "/\0", "/a\tb", "/a\r\nb",
        ],
    );
}

#[test]
fn encoded_slash_and_semicolon_are_flagged() {
    let flags = |raw: &str| Path::parse(raw).map(|path| (path.has_encoded_slash(), path.has_semicolon()));
    for raw in ["/api/v1%2fadmin/x", "/api%2Fv1/admin/x", "/a%2F"] {
        assert_eq!(flags(raw), Ok((true, false)), "{raw}");
    }
    for raw in ["/a;b", "/api/v1/%3badmin", "/a/b%3B", "/a/;"] {
        assert_eq!(flags(raw), Ok((false, true)), "{raw}");
    }
    assert_eq!(flags("/a%2Fb;c"), Ok((true, true)));
}

fn pattern(line: &str) -> Pattern {
    Pattern::parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn pattern_is_shown_in_canonical_form() {
    for (line, shown) in [
        ("GET /", "GET /"),
        ("GET /x/", "GET /x/"),
        ("POST,GET /api/v1/query", "GET,POST /api/v1/query"),
        ("ZAP,DELETE,MKCOL,HEAD /x", "HEAD,DELETE,MKCOL,ZAP /x"),
        ("ANY API.Example.COM/{*rest}", "ANY api.example.com/{*rest}"),
        ("GET [0:0::1]/{a}/{_b2}/", "GET [::1]/{a}/{_b2}/"),
        ("GET b.example,*.B.example,a.example,[::1]/x", "GET [::1],a.example,b.example,*.b.example/x"),
        ("  GET   /métrique/a b@c  ", "GET /métrique/a b@c"),
        ("GET /p/{credential}/{monitor}", "GET /p/{credential}/{monitor}"),
    ] {
        assert_eq!(pattern(line).to_string(), shown);
        assert_eq!(pattern(shown), pattern(line));
    }
}

#[test]
fn pattern_that_cannot_match_is_refused() {
    use PatternError::*;
    let check = |line: &str, expected: PatternError| assert_eq!(Pattern::parse(line), Err(expected), "{line}");
    let text = str::to_owned;
    for line in ["", "GET", "/x", "GET,POST", "GET x", "GET api.example.com", "GET *"] {
        check(line, NoPath);
    }
    check("get /x", Method(text("get")));
    check("GET, POST /x", Method(text("")));
    check("GET,,POST /x", Method(text("")));
    check("G(T /x", Method(text("G(T")));
    check("* /x", Method(text("*")));
    check("GET,ANY /x", AnyAmongOthers);
    check("ANY,GET /x", AnyAmongOthers);
    check("CONNECT /x", MethodForbidden(text("CONNECT")));
    check("GET,TRACE /x", MethodForbidden(text("TRACE")));
    check("GET,POST,GET /x", MethodRepeated(text("GET")));
    check("GET a.example:80/x", Host(text("a.example:80")));
    check("GET POST /x", Host(text("POST ")));
    check("GET a..b/x", Host(text("a..b")));
    check("GET */x", Host(text("*")));
    check("GET *./x", Host(text("*.")));
    check("GET a.*.example/x", Host(text("a.*.example")));
    check("GET *.*.example/x", Host(text("*.*.example")));
    check("GET *.[::1]/x", Host(text("*.[::1]")));
    check("GET a.example,/x", Host(text("")));
    check("GET a.example, b.example/x", Host(text(" b.example")));
    check("GET a.example,b.example,A.example/x", HostRepeated(text("a.example")));
    let hosts: Vec<String> = (0..65).map(|number| format!("h{number}")).collect();
    check(&format!("GET {}/x", hosts.join(",")), TooManyHosts);
    check("GET [::g]/x", Host(text("[::g]")));
    check("GET http://a/x", Host(text("http:")));
    check("GET /a//b", EmptySegment);
    check("GET //", EmptySegment);
    check("GET /a/../b", DotSegment);
    check("GET /.", DotSegment);
    check("GET /a?b=c", LiteralCharacter(text("a?b=c"), '?'));
    check("GET /a%20b", LiteralCharacter(text("a%20b"), '%'));
    check("GET /a#b", LiteralCharacter(text("a#b"), '#'));
    check("GET /a;b", LiteralCharacter(text("a;b"), ';'));
    check("GET /a\\b", LiteralCharacter(text("a\\b"), '\\'));
    check("GET /a\tb", LiteralCharacter(text("a\tb"), '\t'));
    check("GET /x/*", Wildcard(text("*")));
    check("GET /x/**", Wildcard(text("**")));
    check("GET /x/:id", Wildcard(text(":id")));
    for segment in ["{}", "{*}", "{A}", "{1a}", "{a-b}", "{a", "a}", "x{a}", "{a}x", "{a}{b}", "{rest*}", "{**a}"] {
        check(&format!("GET /x/{segment}"), Parameter(text(segment)));
    }
    check("GET /{a}/{a}", ParameterRepeated(text("a")));
    check("GET /{a}/{*a}", ParameterRepeated(text("a")));
    check("GET /{credential}/{credential}", ParameterRepeated(text("credential")));
    check("GET /x/{*credential}", CredentialRest);
    check("GET /{*rest}/x", RestNotLast(text("rest")));
    check("GET /{*rest}/", RestNotLast(text("rest")));
    check(&format!("GET /{}", "a".repeat(256)), SegmentTooLong);
    check(&format!("GET {}", "/a".repeat(65)), TooManySegments);
}

#[test]
fn pattern_may_be_as_large_as_the_bounds_say() {
    let hosts: Vec<String> = (0..64).map(|number| format!("h{number}")).collect();
    let lines =
        [format!("GET {}/x", hosts.join(",")), format!("GET /{}", "a".repeat(255)), format!("GET {}", "/a".repeat(64))];
    for line in lines {
        let target = format!("/{}", line.split_once('/').unwrap().1);
        let table = Table::build(vec![(pattern(&line), ())]).unwrap();
        let found = table.find(Some("h63"), &Path::parse(&target).unwrap(), "GET");
        assert!(matches!(found, Found::Line { .. }), "{line}");
    }
}

#[test]
fn pattern_takes_the_methods_that_it_lists_and_any_takes_all() {
    for (line, takes) in [("GET /x", [true, false]), ("GET,POST /x", [true, true]), ("ANY /x", [true, true])] {
        assert_eq!(["GET", "POST"].map(|method| pattern(line).takes(method)), takes, "{line}");
    }
}

#[test]
fn pattern_is_within_a_prefix_only_as_a_whole() {
    for (line, within) in [
        ("GET /api/keys", true),
        ("GET /api/keys/", true),
        ("ANY /api/keys/{*rest}", true),
        ("PUT a.example/api/keys/{id}/x", true),
        ("GET /api/keysets", false),
        ("GET /api/{x}", false),
        ("GET /api/{*rest}", false),
        ("GET /api", false),
        ("GET /{*rest}", false),
    ] {
        assert_eq!(pattern(line).is_within("/api/keys"), within, "{line}");
        assert_eq!(pattern(line).is_within("/api/keys/"), within, "{line}");
    }
    assert!(pattern("GET /x").is_within("/"));
}

fn table<'l>(lines: &[&'l str]) -> Table<&'l str> {
    Table::build(lines.iter().map(|line| (pattern(line), *line)).collect()).unwrap()
}

/// `target` is `METHOD /path`, or `METHOD host/path`; `expected` is the line found, `405 ALLOW`, or `404`.
#[track_caller]
fn check(table: &Table<&str>, target: &str, expected: &str) {
    let (method, target) = target.split_once(' ').unwrap();
    let (host, path) = target.split_at(target.find('/').unwrap());
    let host = Some(host).filter(|host| !host.is_empty());
    let answer = match table.find(host, &Path::parse(path).unwrap(), method) {
        Found::Line { line, .. } => (*line).to_owned(),
        Found::MethodNotAllowed { allow } => format!("405 {allow}"),
        Found::Nothing => "404".to_owned(),
    };
    assert_eq!(answer, expected, "{method} {target}");
}

#[test]
fn most_specific_path_wins() {
    let table = table(&[
        "GET /{*rest}",
        "GET /api/{*rest}",
        "GET /api/v1/{name}",
        "GET /api/v1/query",
        "GET /api/v1/query/{*rest}",
        "GET /api/{version}/query/exact",
        "GET /api/v1/admin/{*rest}",
        "GET /a/{x}/c/d",
        "GET /a/b/{y}/e",
        "GET /slash/",
        "GET /",
    ]);
    for (target, expected) in [
        ("GET /", "GET /"),
        ("GET /x", "GET /{*rest}"),
        ("GET /api", "GET /api/{*rest}"),
        ("GET /api/", "GET /api/{*rest}"),
        ("GET /api/v1", "GET /api/{*rest}"),
        ("GET /api/v1/", "GET /api/{*rest}"),
        ("GET /api/v1/query", "GET /api/v1/query"),
        ("GET /api/v1/query/", "GET /api/v1/query/{*rest}"),
        ("GET /api/v1/query/a/b", "GET /api/v1/query/{*rest}"),
        ("GET /api/v1/query/exact", "GET /api/v1/query/{*rest}"),
        ("GET /api/v2/query/exact", "GET /api/{version}/query/exact"),
        ("GET /api/v1/querys", "GET /api/v1/{name}"),
        ("GET /api/v1/Query", "GET /api/v1/{name}"),
        ("GET /api/v1/query.", "GET /api/v1/{name}"),
        ("GET /api/v1/query%20", "GET /api/v1/{name}"),
        ("GET /API/v1/query", "GET /{*rest}"),
        ("GET /api/v1/admin", "GET /api/v1/admin/{*rest}"),
        ("GET /api/v1/admin/", "GET /api/v1/admin/{*rest}"),
        ("GET /api/v1/admin/x", "GET /api/v1/admin/{*rest}"),
        ("GET /api/v1/administrator", "GET /api/v1/{name}"),
        ("GET /a/b/c/e", "GET /a/b/{y}/e"),
        ("GET /a/b/c/d", "GET /a/{x}/c/d"),
        ("GET /a/b/c/f", "GET /{*rest}"),
        ("GET /slash/", "GET /slash/"),
        ("GET /slash", "GET /{*rest}"),
    ] {
        check(&table, target, expected);
    }
}

#[test]
fn exact_line_does_not_cover_a_trailing_slash() {
    let table = table(&["GET /x", "GET /y/{a}", "GET /z/"]);
    check(&table, "GET /x/", "404");
    check(&table, "GET /y/", "404");
    check(&table, "GET /y/1/", "404");
    check(&table, "GET /z", "404");
    check(&table, "GET /", "404");
}

#[test]
fn literal_is_matched_decoded() {
    let table = table(&["GET /a b@c", "GET /é/{x}", "GET /deep/{*rest}"]);
    check(&table, "GET /a%20b@c", "GET /a b@c");
    check(&table, "GET /a%20b%40c", "GET /a b@c");
    check(&table, "GET /%c3%A9/%2A", "GET /é/{x}");
    check(&table, &format!("GET /{}", "%20".repeat(300)), "404");
}

#[test]
fn path_decides_before_the_method() {
    let table = table(&[
        "GET,POST /q",
        "ANY /{*rest}",
        "GET /h",
        "HEAD /h",
        "POST /any",
        "ANY /any",
        "PURGE /cache",
        "OPTIONS /o",
        "GET /get",
        "ANY /get",
    ]);
    for (target, expected) in [
        ("GET /q", "GET,POST /q"),
        ("HEAD /q", "GET,POST /q"),
        ("DELETE /q", "405 GET, HEAD, POST"),
        ("OPTIONS /q", "405 GET, HEAD, POST"),
        ("FOO /q", "405 GET, HEAD, POST"),
        ("get /q", "405 GET, HEAD, POST"),
        ("HEAD /h", "HEAD /h"),
        ("GET /h", "GET /h"),
        ("POST /any", "POST /any"),
        ("GET /any", "ANY /any"),
        ("FOO /any", "ANY /any"),
        ("post /any", "405 GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("TRACE /any", "405 GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("CONNECT /any", "405 GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("PURGE /cache", "PURGE /cache"),
        ("HEAD /cache", "405 PURGE"),
        ("GET /o", "405 OPTIONS"),
        ("HEAD /get", "GET /get"),
        ("PUT /get", "ANY /get"),
        ("PUT /elsewhere", "ANY /{*rest}"),
    ] {
        check(&table, target, expected);
    }
}

#[test]
fn lines_of_the_host_answer_alone() {
    let table = table(&[
        "GET a.example/x",
        "POST /x",
        "GET b.example/{*rest}",
        "ANY /{*rest}",
        "GET [::1]/x",
        "GET only.example/api/secret",
        "GET /api/{name}",
    ]);
    for (target, expected) in [
        ("GET a.example/x", "GET a.example/x"),
        ("GET A.Example/x", "GET a.example/x"),
        ("GET a.example./x", "GET a.example/x"),
        ("POST a.example/x", "405 GET, HEAD"),
        ("POST c.example/x", "POST /x"),
        ("POST /x", "POST /x"),
        ("GET /x", "405 POST"),
        ("GET [::1]/x", "GET [::1]/x"),
        ("GET b.example/y", "GET b.example/{*rest}"),
        ("POST b.example/y", "405 GET, HEAD"),
        ("POST b.example/x", "POST /x"),
        ("GET c.example/y", "ANY /{*rest}"),
        ("GET only.example/api/secret", "GET only.example/api/secret"),
        ("GET c.example/api/secret", "GET /api/{name}"),
    ] {
        check(&table, target, expected);
    }
}

#[test]
fn table_asks_for_the_host_only_where_a_line_names_one() {
    for (lines, names) in
        [(&["GET /x", "GET /y"][..], false), (&["GET a.example/x"], true), (&["GET /x", "GET a.example/x"], true)]
    {
        assert_eq!(table(lines).names_hosts(), names, "{lines:?}");
    }
}

#[test]
fn a_line_answers_for_each_of_its_hosts() {
    let table = table(&[
        "GET a.example,b.example/x",
        "GET *.example/x",
        "GET *.deep.example,top/x",
        "POST c.deep.example/x",
        "PUT /x",
    ]);
    for (target, expected) in [
        ("GET a.example/x", "GET a.example,b.example/x"),
        ("GET B.example/x", "GET a.example,b.example/x"),
        ("GET c.example/x", "GET *.example/x"),
        ("GET C.D.Example./x", "GET *.example/x"),
        ("GET deep.example/x", "GET *.example/x"),
        ("GET a.deep.example/x", "GET *.deep.example,top/x"),
        ("GET a.b.deep.example/x", "GET *.deep.example,top/x"),
        ("GET c.deep.example/x", "405 POST"),
        ("GET top/x", "GET *.deep.example,top/x"),
        ("GET example/x", "405 PUT"),
        ("GET notexample/x", "405 PUT"),
        ("GET a.example.evil/x", "405 PUT"),
        ("PUT a.example/x", "405 GET, HEAD"),
        ("PUT /x", "PUT /x"),
    ] {
        check(&table, target, expected);
    }
}

#[test]
fn a_host_covers_itself_and_a_wildcard_what_is_below_its_name() {
    let host = |text: &str| Host::parse(text).unwrap();
    for text in ["a-b.example", "a_b.example", "*.a-b", "0"] {
        assert_eq!(host(text).to_string(), text);
    }
    for (pattern, name, covers) in [
        ("a.example", "A.example.", true),
        ("a.example", "b.a.example", false),
        ("*.example", "a.example", true),
        ("*.example", "B.A.Example.", true),
        ("*.example", "example", false),
        ("*.example", ".example", false),
        ("*.example", "aexample", false),
        ("*.example", "a.example.net", false),
        ("[::1]", "[::1]", true),
    ] {
        assert_eq!(host(pattern).covers(name), covers, "{pattern} {name}");
        assert!(host(pattern).covers(&host(pattern).example()));
    }
    for (one, other, overlap) in [
        ("*.example", "a.example", true),
        ("*.example", "*.a.example", true),
        ("*.example", "*.example", true),
        ("*.example", "example", false),
        ("*.b.example", "*.a.example", false),
        ("a.example", "b.example", false),
    ] {
        assert_eq!(host(one).overlaps(&host(other)), overlap, "{one} {other}");
        assert_eq!(host(other).overlaps(&host(one)), overlap, "{other} {one}");
    }
}

#[test]
fn a_parameter_is_what_stands_for_it_in_the_raw_path() {
    let pattern = pattern("GET /t/{tenant}/x/{*rest}");
    for (raw, tenant, rest) in
        [("/t/a%20b/x/y/z%2F", "a%20b", "y/z%2F"), ("/t/acme/x/", "acme", ""), ("/t/acme/x", "acme", "")]
    {
        let path = Path::parse(raw).unwrap();
        assert_eq!(pattern.parameter("tenant", &path), Some(tenant), "{raw}");
        assert_eq!(pattern.parameter("rest", &path), Some(rest), "{raw}");
        assert_eq!(pattern.parameter("x", &path), None, "{raw}");
    }
    assert!(pattern.has_parameter("rest") && !pattern.has_parameter("t"));
}

#[test]
fn encoded_slash_stays_inside_its_segment() {
    let table = table(&[
        "GET /rules/{namespace}/{group}",
        "GET /api/{*rest}",
        "GET /api/v1/admin/{*rest}",
        "GET /projects/{*rest}",
        "GET /rules/a/b/c",
    ]);
    check(&table, "GET /rules/a%2Fb/c", "GET /rules/{namespace}/{group}");
    check(&table, "GET /rules/a%2fb%2fc", "404");
    check(&table, "GET /projects/a%2Fb/files/c%2Fd", "GET /projects/{*rest}");
    check(&table, "GET /projects%2Fa", "404");
}

#[test]
fn broad_line_does_not_grant_what_an_upstream_may_read_as_a_guarded_path() {
    let table = table(&["GET /api/{*rest}", "GET /api/v1/admin/{*rest}", "GET /t/{name}", "GET /t/secret"]);
    for target in [
        "GET /api/v1%2fadmin/x",
        "GET /api%2Fv1/admin/x",
        "GET /api/v1%2Fadmin",
        "GET /api/v1;a=b/admin/x",
        "GET /api/v1/admin;x",
        "GET /api/v1/admin%3Bx",
        "GET /api/v1;/admin%2Fx",
        "GET /t/secret;a",
        "GET /t/;a",
    ] {
        check(&table, target, "404");
    }
    check(&table, "GET /api/v1/other;a=b/admin", "GET /api/{*rest}");
    check(&table, "GET /api/v1/admin/x;y", "GET /api/v1/admin/{*rest}");
    check(&table, "GET /t/open;a", "GET /t/{name}");
}

#[test]
fn credential_segment_is_located_in_the_raw_path() {
    let table = table(&["GET /p/{credential}/{monitor}", "POST /{a}/{b}", "GET /{credential}", "GET /c/{credential}"]);
    let located = |raw: &'static str, method: &str| match table.find(None, &Path::parse(raw).unwrap(), method) {
        Found::Line { credential, .. } => credential.map(|range| &raw[range]),
        other => panic!("{other:?}"),
    };
    assert_eq!(located("/p/KEY/mon%20itor", "GET"), Some("KEY"));
    assert_eq!(located("/p%40/x", "POST"), None);
    assert_eq!(located("/KEY", "GET"), Some("KEY"));
    assert_eq!(located("/c/a%20b", "GET"), Some("a%20b"));
}

#[track_caller]
fn check_conflicts(lines: &[&str], expected: &[(usize, usize)]) {
    let lines = lines.iter().map(|line| (pattern(line), ())).collect();
    let conflicts = Table::build(lines).err().unwrap_or_default();
    let pairs: Vec<(usize, usize)> = conflicts.iter().map(|conflict| (conflict.first, conflict.second)).collect();
    assert_eq!(pairs, expected, "{conflicts:?}");
}

#[test]
fn lines_for_the_same_requests_conflict() {
    check_conflicts(&["GET /a/{x}", "GET /b", "GET /a/{y}"], &[(0, 2)]);
    check_conflicts(&["GET,POST /a", "POST,PUT /a", "PUT /a"], &[(0, 1), (1, 2)]);
    check_conflicts(&["ANY /a", "ANY /a"], &[(0, 1)]);
    check_conflicts(&["GET /a/{*x}", "GET /a/{*y}"], &[(0, 1)]);
    check_conflicts(&["GET h.example/a", "GET H.example/a"], &[(0, 1)]);
    check_conflicts(&["GET h.example,i.example/a", "GET i.example,j.example/a", "GET j.example/a"], &[(0, 1), (1, 2)]);
    check_conflicts(&["GET h.example,i.example/a", "GET i.example,h.example/a"], &[(0, 1)]);
    check_conflicts(&["GET *.example/a", "GET *.Example/a"], &[(0, 1)]);
    check_conflicts(&["GET *.example/a", "GET h.example/a", "GET *.h.example/a"], &[]);
    check_conflicts(&["GET /a", "HEAD /a", "ANY /a"], &[]);
    check_conflicts(&["GET h.example/a", "GET /a", "GET i.example/a"], &[]);
    check_conflicts(&["GET /a", "GET /a/", "GET /a/{*x}", "GET /a/{x}"], &[]);
}

#[test]
fn empty_table_finds_nothing() {
    check(&Table::default(), "GET /", "404");
}

#[test]
fn line_that_no_path_is_left_for_conflicts() {
    check_conflicts(&["GET /a/{*rest}", "GET /a", "GET /a/", "GET /a/{x}/{*y}"], &[(3, 0)]);
    check_conflicts(&["GET /", "ANY /{x}/{*y}", "GET,POST /{*rest}"], &[(1, 2)]);
    check_conflicts(&["GET /", "GET /{x}", "GET /{x}/", "GET /{x}/{y}/{*z}", "GET /{*rest}"], &[(3, 4)]);
    check_conflicts(&["GET h.example/{*rest}", "GET /", "GET /{x}/{*y}"], &[(2, 0)]);
    check_conflicts(&["GET /{*rest}", "GET h.example/", "GET /{x}/{*y}"], &[]);
    check_conflicts(&["GET *.h.example/{*rest}", "GET /", "GET /{x}/{*y}"], &[(2, 0)]);
    check_conflicts(&["GET a.h.example/{*rest}", "GET *.h.example/", "GET /{x}/{*y}"], &[(2, 0)]);
    check_conflicts(&["GET *.b.h/{*rest}", "GET *.h/", "GET *.b.h/{x}/{*y}"], &[(2, 0)]);
    check_conflicts(&["GET *.h/{*rest}", "GET *.b.h/", "GET *.h/{x}/{*y}"], &[]);
    check_conflicts(&["GET h,i/{*rest}", "GET /", "GET h/{x}/{*y}"], &[(2, 0)]);
    check_conflicts(&["GET /a/{*rest}", "GET /a", "GET /a/{x}/{*y}"], &[]);
}
