//! portcullis: an authenticating reverse proxy with an API for the keys that it admits.
//!
//! # From above
//!
//! A request comes in on the public listener, on one of several worker threads (`server`). Its framing is
//! judged byte by byte as it is read; over HTTP/2 a guard counts its frames before hyper sees them, and the request is
//! judged by the same rules (`http::framing`). `proxy` then reads it top to bottom: path and route (`route`), the key it carries (`credential`),
//! who holds that key (`keyring`), whether the scopes do (`policy`) and the limits allow (`limit`), and forwards it
//! (`upstream`), streaming both ways while the key still admits it. Calls of the key API (`admin`) take the same way in
//! and end on the control runtime, where the store's writer, metrics and health (`ops`) live too.
//!
//! # Code map, in reading order
//!
//! A module imports only modules above it; a test holds that.
//!
//! | module | owns | look here to change |
//! |---|---|---|
//! | [`clock`] | wall time as a value | how times are written |
//! | [`settings`] | options with units and positions | a unit, a placeholder, the look of a configuration error |
//! | [`key`] | texts, kinds, scopes, records of keys | the key format, a built-in scope, a kind, a field of records |
//! | [`route`] | canonical paths, patterns, hosts, the table | which target is refused, which line wins |
//! | [`credential`] | the key that a request carries | a new place to carry a key (and `http::headers` drops it there) |
//! | [`policy`] | who may do what | a requirement, the ceiling on grants |
//! | [`metrics`] | every metric family | a metric, a label |
//! | [`log`] | the subscriber, access and audit lines | a field of a log line |
//! | [`reload`] | whether the configuration's files have changed | how a change is noticed |
//! | [`limit`] | rates, concurrency, failed authentications | a limiter |
//! | [`store`] | durable records and the change log, as text too | the record's encoding, the format of backups, how a fault is got over, another engine |
//! | [`keyring`] | store + cache + `last_used` | look-ups, mutations, revocation |
//! | [`http`] | framing, headers, whom proxies speak for, refusals | a header rule, a refusal's status or text |
//! | [`tls`] | certificates, keys, handshakes | what is verified, how files are read |
//! | [`server`] | sockets, PROXY headers, HTTP/1 and HTTP/2 connections, deadlines, drain | a client deadline, how connections end |
//! | [`ops`] | `/metrics` and health | what readiness means |
//! | [`upstream`] | targets of backends and the connections to them | balancing, retries, checks, pooling, upstream deadlines, what is spoken |
//! | [`admin`] | the key API | a call, a field, a validation |
//! | [`proxy`] | the way of a request, rewrites | the order of the steps, an option of routes, a template |
//! | [`config`] | the file, composed of all options | the shape of the file, route lines |
//! | [`app`] | wiring, reload, shutdown | what starts and ends when |
//! | [`cli`] | the commands | a command, its output |
//!
//! # Invariants
//!
//! 1. What is matched is what is forwarded: an ambiguous target is refused, never repaired.
//! 2. Nothing is forwarded without a [`policy::Permit`]; no key is made or changed without a [`policy::Grant`].
//! 3. A key's text exists on the way in and once on the way out; no log, metric, error, store or upstream sees it.
//! 4. Once a deletion is answered, the key admits nothing: not from the cache, not by a look-up that began before. What
//!    runs under it ends within a second.
//! 5. A change is answered after it is on disk, and seen by nobody before.
//! 6. No request waits for a `last_used` write, a metric, a log line or another key's look-up.
//! 7. A fault of ours is 5xx, never 401 or 403.
//! 8. Everything that grows has a bound.
//!
//! # Where a change goes
//!
//! An option is one field in its module's `settings!` block and one use. A new refusal is a variant of
//! [`http::Refusal`] and a label in `metrics::labels`; the compiler then names its status, code, text and outcome as
//! missing. A new step of admission goes into `proxy::admit`, in the order in which refusals win. A new call of the key
//! API goes into `admin`, its effect into `keyring`. A new field of keys goes through [`key::KeyRecord`],
//! `store::record` (with a new version, and a reader for rows of the old one, which `store::upgrade` brings to the new
//! one; a store of the old one goes into `tests/it/stores`) and `store::portable::line` (likewise), `keyring`'s drafts and
//! changes, `admin`'s bodies and views, and `cli::keys`. A new metric is a cell in `metrics::cells`, a family in
//! `metrics::families` and a recording method (`metrics::families::tls` for those of certificates). A new product
//! preset is a file in `config/` and a table in `tests/it/presets.rs`.
//!
//! A limit on floods of HTTP/2 from clients is in `server::http2` (`settings` for its value, `ledger` for what counts
//! frames, `Limits` for what hyper counts), one on upstreams in `upstream::http2`. The versions of TLS that are offered
//! to clients come from `tls::settings` and `tls::material`, those to upstreams from `tls::client`. A template variable
//! goes into `proxy::rewrite::template`. Which failed request is sent again is `upstream::retry`'s to say, what counts
//! against a target `upstream::standing`'s. Under a key that admits it no more, `proxy::running` ends a request; its
//! client sees what `proxy::body` makes of that, or `proxy::tunnel`.

#![forbid(unsafe_code)]

/// A thread of its own gives memory back that nobody uses, so that what a busy minute took does not stay. What it is told
/// is in `.cargo/config.toml`.
///
/// Here and not in `main`, so that benches and tests have what ships. Fuzz targets keep the system's, which sanitizers
/// replace.
#[cfg(not(fuzzing))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub mod clock;
pub mod settings;

pub mod key;
pub mod route;

pub mod credential;
pub mod policy;

pub mod metrics;

pub mod log;
pub mod reload;

pub mod limit;
pub mod store;

pub mod keyring;

pub mod http;
pub mod tls;

pub mod server;

pub mod ops;
pub mod upstream;

pub mod admin;
pub mod proxy;

pub mod config;

pub mod app;

pub mod cli;
