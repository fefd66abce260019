//! Programs of other people, as Debian packages them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::DEADLINE;
use super::caller::Caller;
use super::process::Process;

/// Whether a program starts. Says so when it does not, and fails where all of them must be there.
#[track_caller]
pub fn is_installed(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let installed = version.is_ok();
    if !installed {
        assert!(std::env::var_os("PORTCULLIS_CI").is_none(), "{program} is not installed");
        println!("SKIPPED: {program} is not installed");
    }
    installed
}

/// A service program on a port of its own, ended when dropped.
pub struct Service {
    pub process: Process,
    pub address: SocketAddr,
}

impl Service {
    /// Starts a service that listens where it is told to, on a port that was free a moment ago, until `ready` answers
    /// 200.
    #[track_caller]
    pub fn start(ready: &str, command: impl Fn(SocketAddr) -> Command) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        Self::start_at(address, ready, command)
    }

    /// The same at an address that is known to be free.
    #[track_caller]
    pub fn start_at(address: SocketAddr, ready: &str, command: impl Fn(SocketAddr) -> Command) -> Self {
        let process = Process::spawn(command(address));
        let deadline = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "the service is not ready: {process:?}");
            if TcpStream::connect(address).is_ok() && Caller::new(address, None).get(ready).status == 200 {
                return Self { process, address };
            }
        }
    }
}
