//! What a service manager does for a gate: it passes sockets, and is notified.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::DEADLINE;

/// Receives what a process says through sd_notify.
pub struct ServiceManager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl ServiceManager {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("read timeout");
        Self { socket, folder }
    }

    /// Where to notify.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// The next notification.
    #[track_caller]
    pub fn next(&self) -> String {
        let mut buffer = [0; 4_096];
        let length = self.socket.recv(&mut buffer).expect("a notification in time");
        String::from_utf8(buffer[..length].to_vec()).expect("text")
    }

    /// Waits for a notification with this line.
    #[track_caller]
    pub fn wait_for(&self, line: &str) -> String {
        loop {
            let notification = self.next();
            if notification.lines().any(|seen| seen == line) {
                return notification;
            }
        }
    }
}

/// A command that runs `program` with these sockets passed to it as sd_listen_fds(3) has it: one, or two.
pub fn passing(program: &[String], sockets: &[(&str, &dyn AsFd)]) -> Command {
    // A child's descriptors are given by std for 0 to 2 only. From there a shell moves them to where they belong, and
    // knows the process id, which stays the same. The program's own stdout goes where stderr goes.
    let script = match sockets.len() {
        1 => "exec 3<&0 0</dev/null",
        2 => "exec 3<&0 0</dev/null 4<&1 1>&2",
        other => panic!("{other} sockets"),
    };
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    let exports = format!("export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}", names.len(), names.join(":"));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{script}; {exports}; exec \"$0\" \"$@\"")]).args(program);
    let passed = |socket: &dyn AsFd| Stdio::from(socket.as_fd().try_clone_to_owned().expect("a descriptor"));
    command.stdin(passed(sockets[0].1)).stdout(Stdio::piped());
    if let Some((_, second)) = sockets.get(1) {
        command.stdout(passed(second));
    }
    command
}
