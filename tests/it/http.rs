//! Questions over plain HTTP to a server of this machine, and numbers out of a Prometheus page.
//!
//! Apart so that the tests look at the worker and the sandbox from outside, through none of the code under test. Only
//! what such a question needs: HTTP/1.0, loopback, text, no redirect, no TLS.

// Two programs share it, and neither uses all of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Status and body.
pub(crate) type Answer = io::Result<(u16, String)>;

/// `GET url`, of the form `http://127.0.0.1:8787/path`.
pub(crate) fn get(url: &str) -> Answer {
    ask("GET", url, "")
}

/// `PUT url` with a JSON body.
pub(crate) fn put(url: &str, body: &Value) -> Answer {
    ask("PUT", url, &body.to_string())
}

/// `DELETE url`.
pub(crate) fn delete(url: &str) -> Answer {
    ask("DELETE", url, "")
}

/// `GET url`, its body as JSON; anything but 200 and JSON is an error.
pub(crate) fn get_json(url: &str) -> io::Result<Value> {
    match get(url)? {
        (200, body) => serde_json::from_str(&body).map_err(|error| wrong(&format!("{url}: {error}"))),
        (status, body) => Err(wrong(&format!("{url}: {status} {body}"))),
    }
}

/// HTTP/1.0, because its answers come whole: no chunks, and the end of the body is the end of the connection.
fn ask(method: &str, url: &str, body: &str) -> Answer {
    let rest = url.strip_prefix("http://").ok_or_else(|| wrong(url))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address: SocketAddr = host.parse().map_err(|_| wrong(url))?;
    let path = if path.is_empty() { "/" } else { path };
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let length = body.len();
    // In one piece: a server that answers after the first would close on what it has not read.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| wrong(&answer))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| wrong(head))?, body.to_owned()))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// A port of 127.0.0.1 that is free: the preferred one if it is, else any.
pub(crate) fn free_port(preferred: Option<u16>) -> io::Result<u16> {
    let bind = |port| TcpListener::bind(("127.0.0.1", port));
    let listener = match preferred.map(bind) {
        Some(Ok(listener)) => listener,
        Some(Err(_)) | None => bind(0)?,
    };
    Ok(listener.local_addr()?.port())
}

/// The sum of the series of family `name` that carry all of `labels`; 0 if there is none.
pub(crate) fn metric(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted = |series: &Series| {
        let has = |(key, value): &(&str, &str)| series.labels.get(*key).is_some_and(|found| found == value);
        labels.iter().all(has)
    };
    series(page, name).iter().filter(|s| wanted(s)).map(|s| s.value).sum()
}

/// One line of a Prometheus page.
#[derive(Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// Every series of family `name` on a page in Prometheus' text format.
pub(crate) fn series(page: &str, name: &str) -> Vec<Series> {
    page.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter_map(|rest| {
            let (labels, value) = if let Some(rest) = rest.strip_prefix('{') {
                read_labels(rest)?
            } else {
                (BTreeMap::new(), rest.strip_prefix(' ')?)
            };
            let value = value.split_whitespace().next()?.parse().ok()?;
            Some(Series { labels, value })
        })
        .collect()
}

/// What stands between the braces, and what follows them.
fn read_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = read_quoted(after)?;
        labels.insert(key.to_owned(), value);
        rest = after;
    }
}

/// A label's value up to its closing quote, and what follows it.
fn read_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return text.get(at + 1..).map(|rest| (value, rest)),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            plain => value.push(plain),
        }
    }
    None
}

#[cfg(test)]
#[test]
fn a_metric_is_the_sum_of_the_series_that_carry_the_labels() {
    let page = "# HELP jobs_total x\n# TYPE jobs_total counter\njobs_total{app=\"a\",outcome=\"dead\"} 3\n\
        jobs_total{app=\"b\",outcome=\"dead\"} 4 1700000000\njobs_total{app=\"b, \\\"c\\\"\",outcome=\"delivered\"} 1e3\n\
        jobs_total_created 9\nup 1\n";
    let is = |found: f64, expected: f64| assert!((found - expected).abs() < f64::EPSILON, "{found} is not {expected}");
    is(metric(page, "jobs_total", &[]), 1007.0);
    is(metric(page, "jobs_total", &[("outcome", "dead")]), 7.0);
    is(metric(page, "jobs_total", &[("outcome", "dead"), ("app", "b")]), 4.0);
    is(metric(page, "jobs_total", &[("app", "b, \"c\"")]), 1000.0);
    is(metric(page, "jobs_total", &[("app", "nobody")]), 0.0);
    is(metric(page, "up", &[]), 1.0);
}

#[cfg(test)]
#[test]
#[allow(clippy::unwrap_used)]
fn an_answer_is_read_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        stream
            .write_all(b"HTTP/1.0 404 Not Found\r\nx: y\r\n\r\nno\r\n\r\nsuch")
            .unwrap();
        String::from_utf8_lossy(request.get(..length).unwrap()).into_owned()
    });
    let answer = get(&format!("http://{address}/a/b?c=d")).unwrap();
    assert_eq!(answer, (404, "no\r\n\r\nsuch".to_owned()));
    assert!(server.join().unwrap().starts_with("GET /a/b?c=d HTTP/1.0\r\n"));
}
