//! What the sandbox takes: so many cards, how fast, in how much memory, and whether the page still answers.
//!
//!     cargo run --release --example sandbox_load -- [CARDS] [KEEP]
//!
//! An example, so that `cargo test` builds it and never runs it; `tests/run` does. Speed is told as calls for each second
//! of the sandbox's own processor time, which is what one core does, whatever else the machine is busy with. It fails
//! where memory passes the bound that deploy/dingcard.toml promises or a list is wrong; times are only told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]
#![allow(clippy::cast_precision_loss, reason = "numbers for people")]

#[path = "../it/process.rs"]
mod process;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::process::{Process, value_of};

/// How long the sandbox may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes for each card that is kept, as the settings' comment says, and for the program itself.
const BYTES_EACH: u64 = 8 * 1024;
const BYTES_BASE: u64 = 64 * 1024 * 1024;
/// Requests that are written before their answers are read.
const BATCH: usize = 50;
const CONNECTIONS: usize = 4;

struct Sandbox {
    process: Process,
    address: String,
}

/// One connection that is kept open.
struct Line(BufReader<TcpStream>);

impl Line {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn write(&mut self, requests: &str) {
        self.0.get_mut().write_all(requests.as_bytes()).unwrap();
    }

    /// The body of the next answer, which must be a success.
    fn read(&mut self) -> Vec<u8> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "the sandbox hung up");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head.to_ascii_lowercase();
        let length = length
            .split_once("content-length: ")
            .unwrap()
            .1
            .lines()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        body
    }

    fn get(&mut self, path: &str) -> Value {
        self.write(&format!("GET {path} HTTP/1.1\r\nhost: s\r\n\r\n"));
        serde_json::from_slice(&self.read()).unwrap()
    }
}

impl Sandbox {
    fn start(program: &Path, keep: usize) -> Self {
        let keep = keep.to_string();
        let args = ["sandbox", "--listen", "127.0.0.1:0", "--keep", &keep];
        let unthrottled = [("DINGCARD_SANDBOX__RATE_PER_SECOND", "0")];
        let process = Process::start(program, &args, &unthrottled)
            .unwrap_or_else(|error| panic!("{}: {error}; cargo build --bin dingcard", program.display()));
        let line = process.wait_for_line("listening", PATIENCE).unwrap();
        let inbox = value_of(&line, "inbox").unwrap();
        let address = inbox.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { process, address }
    }

    /// Sends cards numbered from `first`, over a few connections at once.
    fn send(&self, token: &str, first: usize, count: usize, padding: usize) {
        std::thread::scope(|scope| {
            for n in 0..CONNECTIONS {
                scope.spawn(move || {
                    let mut line = Line::open(&self.address);
                    let mine: Vec<_> = (first..first + count).filter(|card| card % CONNECTIONS == n).collect();
                    for batch in mine.chunks(if padding > 0 { 1 } else { BATCH }) {
                        line.write(
                            &batch
                                .iter()
                                .map(|card| request(token, *card, padding))
                                .collect::<Vec<_>>()
                                .concat(),
                        );
                        for _ in batch {
                            line.read();
                        }
                    }
                });
            }
        });
    }

    /// Seconds of processor time so far (`proc_pid_stat(5)`, fields 14 and 15, in hundredths).
    fn processor(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11..13]
            .iter()
            .map(|ticks| ticks.parse::<f64>().unwrap() / 100.0)
            .sum()
    }

    /// Resident memory, now or at most, in bytes (`proc_pid_status(5)`).
    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// A createAndDeliver to one of a thousand users, as a worker sends it.
fn request(token: &str, card: usize, padding: usize) -> String {
    let body = json!({
        "cardTemplateId": "d7ca9b85-1a26-4c88-95eb-3a4d0a4a3a4c.schema",
        "outTrackId": format!("load-{card:038}"),
        "cardData": {"cardParamMap": {"pv": card.to_string(), "users": "1000", "comments": "500", "likes": "x".repeat(padding)}},
        "openSpaceId": format!("dtv1.card//IM_ROBOT.u1501234{}", 1000 + card % 1000),
        "imRobotOpenSpaceModel": {"supportForward": true},
        "imRobotOpenDeliverModel": {"spaceType": "IM_ROBOT"},
    });
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST /v1.0/card/instances/createAndDeliver HTTP/1.1\r\nhost: s\r\ncontent-type: application/json\r\n\
         x-acs-dingtalk-access-token: {token}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn main() {
    let number = |n: usize, absent| std::env::args().nth(n).map_or(absent, |text| text.parse().unwrap());
    let (count, keep) = (number(1, 200_000), number(2, 100_000));
    let program = std::env::current_exe().unwrap();
    let program = program.parent().unwrap().parent().unwrap().join("dingcard");
    let sandbox = Sandbox::start(&program, keep);
    let mut line = Line::open(&sandbox.address);
    let token = line.get("/gettoken?appkey=dingsandbox&appsecret=sandbox-secret");
    let token = token["access_token"].as_str().unwrap();
    let bound = keep as u64 * BYTES_EACH + BYTES_BASE;
    let tell = |what: &str| {
        let [now, most] = ["VmRSS", "VmHWM"].map(|field| sandbox.memory(field));
        println!(
            "{what}: {} MiB resident, {} at most, {} allowed",
            now >> 20,
            most >> 20,
            bound >> 20
        );
        assert!(most <= bound, "more memory than --keep {keep} allows");
    };

    let (before, start) = (sandbox.processor(), Instant::now());
    sandbox.send(token, 0, count, 0);
    let (spent, passed) = (sandbox.processor() - before, start.elapsed().as_secs_f64());
    println!(
        "{count} cards in {passed:.1} s, {:.0} calls a second of one core",
        count as f64 / spent
    );
    tell("after them");

    let recipient = format!("u1501234{}", 1000 + (count - 1) % 1000);
    let kept = count.min(keep);
    for (path, total) in [
        ("limit=25".to_owned(), kept..=kept),
        (format!("limit=25&offset={}", kept - 25), kept..=kept),
        (format!("limit=25&q=load-{:038}", count - 1), 1..=1),
        ("limit=25&q=nothing".to_owned(), 0..=0),
        // Connections overtake each other, so which of the older ones are kept is not certain.
        (format!("limit=25&recipient={recipient}"), 1..=kept),
    ] {
        let start = Instant::now();
        let answer = line.get(&format!("/sandbox/cards?{path}"));
        println!(
            "{:6.1} ms  /sandbox/cards?{path}",
            start.elapsed().as_secs_f64() * 1000.0
        );
        let found = usize::try_from(answer["total"].as_u64().unwrap()).unwrap();
        assert!(total.contains(&found), "{path}: {found}");
    }

    // As large as a card may be; of such, fewer are kept.
    let large = keep / 20;
    sandbox.send(token, count, large, 99_000);
    tell(&format!("after {large} cards of 100 KB"));
    let kept = line.get("/sandbox/cards?limit=1");
    println!("{} of them are kept", kept["total"]);
    assert!(kept["total"].as_u64().unwrap() < large as u64);
    assert_eq!(line.get("/sandbox/calls")["deliveries"]["total"], count + large);
}
