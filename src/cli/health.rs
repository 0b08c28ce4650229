//! `dingcard health`: whether the worker of this machine is ready, as an exit code.
//!
//! Separate from `check`, which tries what a worker needs: this one asks a running worker what it says of itself, and is
//! small enough to be asked every few seconds by Docker, where an image holds no shell and no curl. It speaks plain HTTP
//! to loopback and knows no TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::Uri;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::say;
use crate::config::Config;

/// For the whole question: less than the image's HEALTHCHECK waits, so that the reason is told and not cut off.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer is a few hundred bytes; a server that sends more is none of ours.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to ask, instead of /readyz at `http.listen`; any 2xx is ready.
    #[arg(long, value_name = "URL", value_parser = plain_http)]
    url: Option<Uri>,
}

/// The body of `/readyz`, as far as it is needed here.
#[derive(Deserialize)]
struct Readiness {
    reasons: Vec<String>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let url = match args.url {
        Some(url) => url,
        None => format!("http://{}/readyz", reachable(config.http.listen)).parse()?,
    };
    let answer = tokio::time::timeout(PATIENCE, get(&url)).await;
    let (status, body) = answer
        .unwrap_or_else(|_| bail!("no answer within {PATIENCE:?}"))
        .with_context(|| format!("{url}: nobody to ask"))?;
    if (200..300).contains(&status) {
        return Ok(say("ready")?);
    }
    match serde_json::from_str(&body) {
        Ok(Readiness { reasons }) => bail!("not ready: {}", reasons.join("; ")),
        Err(_) => bail!("{url}: not ready: HTTP status {status}"),
    }
}

/// Where a server that listens on `listen` is to be asked from its own machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn plain_http(url: &str) -> Result<Uri, String> {
    let url: Uri = url.parse().map_err(|e| format!("{e}"))?;
    match (url.scheme_str(), url.host()) {
        (Some("http"), Some(_)) => Ok(url),
        _ => Err("an http:// URL is needed".to_owned()),
    }
}

/// Status and body. HTTP/1.0, because its answers come whole: no chunks, and the body ends with the connection.
async fn get(url: &Uri) -> anyhow::Result<(u16, String)> {
    let host = url.host().unwrap_or_default();
    let address = format!("{host}:{}", url.port_u16().unwrap_or(80));
    let mut stream = TcpStream::connect(&address).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5)?.parse().ok());
    Ok((status.context("its answer is not HTTP")?, body.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_every_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::1]:9464"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn what_is_no_plain_http_url_is_wrong_usage() {
        plain_http("http://[::1]:9464/readyz").unwrap();
        for url in ["https://127.0.0.1/", "127.0.0.1:9464", "/readyz", "http://"] {
            plain_http(url).unwrap_err();
        }
    }
}
