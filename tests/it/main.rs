//! dingcard against real parts: a private RabbitMQ, the sandbox, and workers, all through the public commands.
//!
//! One binary, so that the broker is started once. Every test has a namespace and a sandbox of its own; a test that hurts
//! the broker starts one for itself. Tests wait for events, never for a time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]
#![allow(unreachable_pub, reason = "a test binary has no callers")]
#![allow(clippy::float_cmp, reason = "counters are whole numbers")]

mod broker;
mod broker_life;
mod check;
mod commands;
mod dead;
mod delivery;
mod error_rows;
mod failures;
mod http;
mod process;
mod producers;
mod redis;
mod redis_server;
mod reload;
mod results;
mod send;
mod stand;
mod systemd;
