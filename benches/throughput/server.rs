//! A DingTalk that costs next to nothing: documented answers of success, at once or after a fixed time.
//!
//! Separate from the sandbox because that one checks, remembers and counts as DingTalk does, which costs more than a worker
//! does. This one reads of a request what its answer needs, and refuses nothing.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A running server; it ends with the process.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    delay_ms: AtomicU64,
    calls: AtomicU64,
    cards: AtomicU64,
    recipients: AtomicU64,
    /// When the card for the user of each number was asked for.
    arrivals: Mutex<Option<HashMap<u64, Instant>>>,
}

/// What was asked for since the last [`Server::reset`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    pub(crate) cards: u64,
    pub(crate) recipients: u64,
}

impl Server {
    /// On a port of its own, in a thread of its own.
    pub(crate) fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let seen = Arc::new(Seen::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = seen.clone();
        std::thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || runtime.block_on(accept(listener, shared)))?;
        Ok(Self { url, seen })
    }

    /// Counts from nought, and answers after `delay`.
    pub(crate) fn reset(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.seen.delay_ms.store(delay, Ordering::Relaxed);
        for count in [&self.seen.calls, &self.seen.cards, &self.seen.recipients] {
            count.store(0, Ordering::Relaxed);
        }
        *self.arrivals() = None;
    }

    /// Notes from now on when each user's card is asked for.
    pub(crate) fn note_arrivals(&self) {
        *self.arrivals() = Some(HashMap::new());
    }

    /// What was noted.
    pub(crate) fn take_arrivals(&self) -> HashMap<u64, Instant> {
        self.arrivals().take().unwrap_or_default()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            calls: self.seen.calls.load(Ordering::Relaxed),
            cards: self.seen.cards.load(Ordering::Relaxed),
            recipients: self.seen.recipients.load(Ordering::Relaxed),
        }
    }

    fn arrivals(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u64, Instant>>> {
        self.seen.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: std::net::TcpListener, seen: Arc<Seen>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    while let Ok((stream, _)) = listener.accept().await {
        let seen = seen.clone();
        // A client that goes away ends its connection; that is no failure.
        tokio::spawn(async move {
            let _gone = serve(stream, &seen).await;
        });
    }
}

async fn serve(mut stream: TcpStream, seen: &Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer: Vec<u8> = Vec::with_capacity(4096);
    loop {
        let (head, whole) = loop {
            if let Some(ends) = ends(&buffer) {
                break ends;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let body = answer(seen, &buffer[..head], &buffer[head..whole]);
        buffer.drain(..whole);
        let delay = seen.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let length = body.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Where the head of the first request ends, and where its body does, once all of it is there.
fn ends(buffer: &[u8]) -> Option<(usize, usize)> {
    let head = buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).ok()?;
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let whole = head + length.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    (buffer.len() >= whole).then_some((head, whole))
}

/// The body of a success (`dingtalk-api.md` 2.2, 3, 5.1).
fn answer(seen: &Seen, head: &[u8], body: &[u8]) -> String {
    seen.calls.fetch_add(1, Ordering::Relaxed);
    let path = head.split(|b| *b == b' ').nth(1).unwrap_or_default();
    let body = std::str::from_utf8(body).unwrap_or_default();
    match path {
        b"/v1.0/oauth2/accessToken" => r#"{"accessToken":"5f3a0c9d7be14c","expireIn":7200}"#.to_owned(),
        path if path.starts_with(b"/topapi/v2/user/getbymobile") => {
            let mobile = text_of(body, "mobile");
            format!(r#"{{"errcode":0,"errmsg":"ok","request_id":"16a","result":{{"userid":"u{mobile}"}}}}"#)
        }
        _ => created(seen, body),
    }
}

fn created(seen: &Seen, body: &str) -> String {
    let spaces = text_of(body, "openSpaceId").trim_start_matches("dtv1.card//");
    let mut results = String::new();
    for id in spaces.split(';').filter_map(|space| space.strip_prefix("IM_ROBOT.")) {
        if let Some(arrivals) = &mut *seen.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
            && let Some(number) = id.strip_prefix('u').and_then(|n| n.parse().ok())
        {
            arrivals.insert(number, Instant::now());
        }
        seen.recipients.fetch_add(1, Ordering::Relaxed);
        if !results.is_empty() {
            results.push(',');
        }
        results += r#"{"spaceType":"IM_ROBOT","spaceId":""#;
        results += id;
        results += r#"","success":true,"carrierId":"4v+AzQ","errorMsg":""}"#;
    }
    seen.cards.fetch_add(1, Ordering::Relaxed);
    let card = text_of(body, "outTrackId");
    format!(r#"{{"success":true,"result":{{"outTrackId":"{card}","deliverResults":[{results}]}}}}"#)
}

/// A field's text; all that is read here is written without escapes and spaces.
fn text_of<'a>(body: &'a str, field: &str) -> &'a str {
    let value = body.split_once(field).and_then(|(_, rest)| rest.strip_prefix("\":\""));
    value.and_then(|value| value.split('"').next()).unwrap_or_default()
}
