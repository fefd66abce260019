//! Tests of the program as a user meets it: a file a capability, all over sockets, all in one binary.

mod harness;

mod admin;
mod admission;
mod behind_proxy;
mod cli;
mod config;
mod demo;
mod forwarding;
mod hostile;
mod http2;
mod http2_abuse;
mod http2_options;
mod layout;
mod lifecycle;
mod limits;
mod long_running;
mod operations;
mod presets;
mod process;
mod readme;
mod real_clients;
mod reload;
mod revocation;
mod rewrites;
mod secrets;
mod security;
mod spec;
mod stack;
mod tls;
mod trailers;
mod upgrade;
mod upstream_wires;
mod upstreams;
mod wires;
