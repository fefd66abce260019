//! What the demonstration prints: addresses, and command lines to paste.

use std::fmt::Write;
use std::net::SocketAddr;

/// One thing to try.
struct Step {
    about: &'static str,
    command: String,
}

/// The guide. Command lines are indented, nothing else is; each works in sh, bash and zsh, after those before it.
pub(super) fn text(public: SocketAddr, ops: SocketAddr, root: &str) -> String {
    let mut text = format!(
        "\
portcullis demo
  the gate      http://{public}
  behind it     a small sample of a metrics backend
  its metrics   http://{ops}/metrics
  its root key  {root}

Paste these lines into another shell, one after the other.
"
    );
    for (number, Step { about, command }) in steps(public, ops, root).into_iter().enumerate() {
        let _ = write!(text, "\n{}. {about}\n\n    {command}\n", number + 1);
    }
    text.push_str("\nCtrl-C ends the demonstration and removes its keys. Changes of keys are logged below.\n");
    text
}

fn steps(public: SocketAddr, ops: SocketAddr, root: &str) -> Vec<Step> {
    let gate = format!("http://{public}");
    let step = |about, command| Step { about, command };
    vec![
        step(
            "Create a key that may only send telemetry. This answer alone shows it, so keep it in KEY.",
            format!(
                "KEY=$(curl -s -u {root}: -H 'Content-Type: application/json' \
                 -d '{{\"name\": \"agent\", \"kind\": \"telemetry\"}}' {gate}/api/keys \
                 | sed 's/.*\"key\": *\"\\([^\"]*\\)\".*/\\1/'); echo \"$KEY\""
            ),
        ),
        step(
            "It lacks the scope to read: 403 Forbidden, and the upstream sees nothing.",
            format!("curl -i -u \"$KEY:\" '{gate}/api/v1/query?query=up'; echo"),
        ),
        step(
            "It has the scope to write: 204 No Content. The upstream is told who writes, and tells us.",
            format!("curl -i -u \"$KEY:\" -d 'up 1' {gate}/api/v1/write"),
        ),
        step(
            "The root key holds every scope, so it may read: 200 OK.",
            format!("curl -i -u {root}: '{gate}/api/v1/query?query=up'; echo"),
        ),
        step("List the keys: 200 OK. No secret is shown.", format!("curl -i -u {root}: {gate}/api/keys; echo")),
        step(
            "Revoke the key: 204 No Content.",
            format!("curl -i -u {root}: -X DELETE \"{gate}/api/keys/${{KEY%_*}}\""),
        ),
        step(
            "It is refused at once: 401 Unauthorized.",
            format!("curl -i -u \"$KEY:\" -d 'up 1' {gate}/api/v1/write; echo"),
        ),
        step(
            "See what the gate counted.",
            format!("curl -s http://{ops}/metrics | grep '^portcullis_admissions_total' | grep -v ' 0$'"),
        ),
    ]
}
