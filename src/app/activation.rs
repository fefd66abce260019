//! Listening sockets that whoever started this process passed to it, as systemd does: sd_listen_fds(3).
//!
//! They are listening before the process starts and after it has ended, so a restart refuses no connection.

use std::net::TcpListener;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;

/// The names under which sockets are passed, and the order of those without a name.
const NAMES: [&str; 2] = ["public", "ops"];

/// Sockets to use in place of binding addresses.
#[derive(Debug, Default)]
pub struct Inherited {
    pub public: Option<TcpListener>,
    pub ops: Option<TcpListener>,
}

impl Inherited {
    /// Takes over what was passed, and the variables of the environment that told of it. To be called once, before any
    /// thread is started.
    ///
    /// # Errors
    /// When a socket was passed that is of no use here: it would take connections that nobody serves.
    pub fn from_environment() -> anyhow::Result<Self> {
        let mut inherited = Self::default();
        let variable = |name: &str| std::env::var(name).ok();
        // Passed to another process, which this one was started by.
        if variable("LISTEN_PID") != Some(std::process::id().to_string()) {
            return Ok(inherited);
        }
        let Some(count) = variable("LISTEN_FDS") else { return Ok(inherited) };
        let count: usize = count.parse().context("LISTEN_FDS is not a number")?;
        if count > NAMES.len() {
            bail!("{count} sockets were passed to this process, and it has two listeners: public and ops");
        }
        let names = names(variable("LISTEN_FDNAMES").as_deref(), count)?;
        let mut sockets = ListenFd::from_env();
        for (index, name) in names.into_iter().enumerate() {
            let socket = sockets.take_tcp_listener(index).with_context(|| format!("the {name} socket passed"))?;
            let place = if name == NAMES[0] { &mut inherited.public } else { &mut inherited.ops };
            if std::mem::replace(place, socket).is_some() {
                bail!("two sockets named {name} were passed to this process; one is its listener");
            }
        }
        Ok(inherited)
    }
}

fn names(given: Option<&str>, count: usize) -> anyhow::Result<Vec<&'static str>> {
    let Some(given) = given else { return Ok(NAMES[..count].to_vec()) };
    let known = |name: &str| match NAMES.into_iter().find(|known| *known == name) {
        Some(known) => Ok(known),
        None => {
            bail!("a socket named \"{name}\" was passed to this process; name it public or ops (FileDescriptorName=)")
        }
    };
    let names: Vec<_> = given.split(':').take(count).map(known).collect::<Result<_, _>>()?;
    if names.len() < count {
        bail!("LISTEN_FDNAMES has fewer names than LISTEN_FDS has sockets");
    }
    Ok(names)
}
