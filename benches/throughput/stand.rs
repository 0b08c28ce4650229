//! What a run is made of: the broker, the server, Redis, and the processes that are measured, one load after the other.
//!
//! Separate from the rows because they all start, watch and end a load in the same way. A load is published before its
//! consumers start, and its window begins once they are warm, so that neither start nor publishing is in a figure.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::broker::Broker;
use crate::process::Process;
use crate::producer::Producer;
use crate::redis_server::RedisServer;
use crate::server::{Counts, Server};

/// Nothing was delivered for this long: the run is broken.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often the server's counts are looked at.
const LOOK: Duration = Duration::from_micros(500);
/// Ticks of /proc/PID/stat a second: `USER_HZ`, 100 on every Linux of today.
const TICKS: u64 = 100;
const FLOOR_QUEUE: &str = "bench.floor";
const FIRST_MOBILE: u64 = 13_000_000_000;

/// Who works on a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The bare loop, on so many threads.
    Floor(usize),
    /// `dingcard worker`, remembering in its process.
    Worker,
    /// The same with Redis.
    WithRedis,
}

/// Jobs, and who takes them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) who: Who,
    pub(crate) workers: usize,
    /// `amqp.prefetch` of each.
    pub(crate) prefetch: u16,
    /// How long the server takes to answer.
    pub(crate) delay: Duration,
    /// Recipients a job, by user ID, or by mobile where `mobiles` says how many there are.
    pub(crate) recipients: u64,
    pub(crate) mobiles: Option<u64>,
    pub(crate) apps: usize,
    /// Before the window, and in it.
    pub(crate) warm_up: u64,
    pub(crate) jobs: u64,
}

/// A window of a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) took: Duration,
    /// User and system time: of all processes of the load, of the broker and of Redis.
    cpu: Spent,
    /// What the server saw.
    pub(crate) calls: u64,
    pub(crate) cards: u64,
    pub(crate) recipients: u64,
}

/// CPU by who spent it.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    load: Duration,
    broker: Duration,
    redis: Duration,
}

impl Window {
    /// Microseconds of CPU a job.
    pub(crate) fn cpu_us(&self) -> f64 {
        a_job(self.cpu.load, self.cards)
    }

    /// Those of the broker, for delivering and forgetting it.
    pub(crate) fn broker_us(&self) -> f64 {
        a_job(self.cpu.broker, self.cards)
    }

    /// Those of Redis.
    pub(crate) fn redis_us(&self) -> f64 {
        a_job(self.cpu.redis, self.cards)
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers of jobs")]
    pub(crate) fn jobs_per_second(&self) -> f64 {
        self.cards as f64 / self.took.as_secs_f64()
    }
}

/// All that runs beside what is measured.
pub(crate) struct Stand {
    pub(crate) server: Server,
    pub(crate) producer: Producer,
    broker: Broker,
    broker_pid: u32,
    redis: OnceLock<RedisServer>,
    dingcard: PathBuf,
    /// The number of the next job: no two of a stand have the same.
    next: AtomicU64,
}

/// Processes that consume.
pub(crate) struct Running<'a> {
    stand: &'a Stand,
    load: Load,
    processes: Vec<Process>,
}

impl Stand {
    pub(crate) fn start() -> Result<Self, Failure> {
        let broker = Broker::try_start()?;
        let named = std::env::var_os("DINGCARD_BIN");
        let pid = broker.ctl(&["eval", "os:getpid()."]);
        let stand = Self {
            broker_pid: pid.trim().trim_matches('"').parse()?,
            server: Server::start()?,
            producer: Producer::connect(broker.url())?,
            broker,
            redis: OnceLock::new(),
            dingcard: named.map_or_else(|| env!("CARGO_BIN_EXE_dingcard").into(), PathBuf::from),
            next: AtomicU64::new(0),
        };
        stand.producer.declare(FLOOR_QUEUE)?;
        Ok(stand)
    }

    /// Publishes a load, lets it be worked on, and gives its window.
    pub(crate) fn run(&self, load: &Load) -> Result<Window, Failure> {
        let rest = u64::from(load.prefetch) * load.workers as u64;
        self.prepare(load)?;
        self.publish(load, load.warm_up + load.jobs + rest)?;
        let running = self.begin(load)?;
        let window = running.window(load.warm_up, load.jobs)?;
        running.finish(load.warm_up + load.jobs + rest)?;
        Ok(window)
    }

    /// Queues and a server for a load, both empty.
    pub(crate) fn prepare(&self, load: &Load) -> Result<(), Failure> {
        self.server.reset(load.delay);
        if matches!(load.who, Who::Floor(_)) {
            return self.producer.purge(FLOOR_QUEUE);
        }
        let mut declared = self.dingcard(load, &["topology"])?;
        if declared.wait(PATIENCE)? != 0 {
            return Err(declared.lines().join("\n").into());
        }
        (0..load.apps).try_for_each(|app| self.producer.purge(&queue(load, app)))
    }

    /// Publishes `count` jobs more; gives the number of the first.
    pub(crate) fn publish(&self, load: &Load, count: u64) -> Result<u64, Failure> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        self.producer
            .publish((first..first + count).map(|n| message(load, n)))?;
        Ok(first)
    }

    /// The broker's microseconds of CPU for each of `count` jobs that are published.
    pub(crate) fn publishing_us(&self, load: &Load, count: u64) -> Result<f64, Failure> {
        let before = cpu(self.broker_pid)?;
        self.publish(load, count)?;
        Ok(a_job(cpu(self.broker_pid)?.saturating_sub(before), count))
    }

    /// Starts the processes of a load.
    pub(crate) fn begin(&self, load: &Load) -> Result<Running<'_>, Failure> {
        let start = |_| match load.who {
            Who::Floor(threads) => self.floor(load, threads),
            Who::Worker | Who::WithRedis => self.dingcard(load, &["worker", "--listen", "127.0.0.1:0"]),
        };
        Ok(Running {
            stand: self,
            load: *load,
            processes: (0..load.workers).map(start).collect::<Result<_, _>>()?,
        })
    }

    fn floor(&self, load: &Load, threads: usize) -> Result<Process, Failure> {
        let (prefetch, threads) = (load.prefetch.to_string(), threads.to_string());
        let args = [
            "floor",
            "--broker",
            self.broker.url(),
            "--queue",
            FLOOR_QUEUE,
            "--server",
            &self.server.url,
            "--prefetch",
            &prefetch,
            "--threads",
            &threads,
        ];
        Ok(Process::start(std::env::current_exe()?, &args, &[])?)
    }

    fn dingcard(&self, load: &Load, args: &[&str]) -> Result<Process, Failure> {
        let mut env = vec![
            ("DINGCARD_AMQP__URL".to_owned(), self.broker.url().to_owned()),
            ("DINGCARD_AMQP__NAMESPACE".to_owned(), namespace(load)),
            ("DINGCARD_AMQP__PREFETCH".to_owned(), load.prefetch.to_string()),
            ("DINGCARD_DINGTALK__API_URL".to_owned(), self.server.url.clone()),
            ("DINGCARD_DINGTALK__OAPI_URL".to_owned(), self.server.url.clone()),
        ];
        for app in (0..load.apps).map(|n| app_name(n).to_uppercase()) {
            for (key, value) in [
                ("APP_KEY", "dingbench"),
                ("APP_SECRET", "bench-secret"),
                ("ROBOT_CODE", "dingbench"),
                ("TEMPLATE", "overtime"),
                ("RATE_PER_SECOND", "0"),
            ] {
                env.push((format!("DINGCARD_APPS__{app}__{key}"), value.to_owned()));
            }
        }
        if load.who == Who::WithRedis {
            let redis = self.redis.get_or_init(RedisServer::start);
            env.push(("DINGCARD_REDIS__URL".to_owned(), redis.url()));
        }
        let env: Vec<_> = env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Ok(Process::start(&self.dingcard, args, &env)?)
    }

    /// The process of Redis, where it was started.
    fn redis_pid(&self) -> Option<u32> {
        let info = self.redis.get()?.ask(&["INFO", "server"]).concat();
        let pid = info.lines().find_map(|line| line.strip_prefix("process_id:"))?;
        pid.trim().parse().ok()
    }
}

impl Running<'_> {
    /// What it works on.
    pub(crate) fn load(&self) -> Load {
        self.load
    }

    /// Waits until `from` cards were asked for, and `jobs` more.
    pub(crate) fn window(&self, from: u64, jobs: u64) -> Result<Window, Failure> {
        let before = self.wait(from)?;
        let (begun, spent) = (Instant::now(), self.spent()?);
        let after = self.wait(from + jobs)?;
        let (took, now) = (begun.elapsed(), self.spent()?);
        Ok(Window {
            took,
            cpu: Spent {
                load: now.load.saturating_sub(spent.load),
                broker: now.broker.saturating_sub(spent.broker),
                redis: now.redis.saturating_sub(spent.redis),
            },
            calls: after.calls - before.calls,
            cards: after.cards - before.cards,
            recipients: after.recipients - before.recipients,
        })
    }

    /// Waits until `cards` were asked for.
    pub(crate) fn wait(&self, cards: u64) -> Result<Counts, Failure> {
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            let counts = self.stand.server.counts();
            if counts.cards >= cards {
                return Ok(counts);
            }
            if counts.cards > seen {
                (seen, moved) = (counts.cards, Instant::now());
            }
            if moved.elapsed() > PATIENCE {
                let said: Vec<String> = self.processes.iter().flat_map(Process::lines).collect();
                let last = said.get(said.len().saturating_sub(20)..).unwrap_or_default();
                let what = format!("{:?}: stuck at {seen} of {cards} cards", self.load);
                return Err(format!("{what}\n{}", last.join("\n")).into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Lets what was published be finished, and ends the processes.
    pub(crate) fn finish(mut self, cards: u64) -> Result<(), Failure> {
        self.wait(cards)?;
        for process in &mut self.processes {
            process.terminate();
        }
        for process in &mut self.processes {
            let code = process.wait(PATIENCE)?;
            if code != 0 {
                return Err(format!("exit code {code}\n{}", process.lines().join("\n")).into());
            }
        }
        Ok(())
    }

    /// What was spent so far.
    fn spent(&self) -> Result<Spent, Failure> {
        let mut spent = Spent {
            broker: cpu(self.stand.broker_pid)?,
            ..Spent::default()
        };
        for process in &self.processes {
            spent.load += cpu(process.id())?;
        }
        if let Some(pid) = self.stand.redis_pid() {
            spent.redis = cpu(pid)?;
        }
        Ok(spent)
    }

    /// Resident memory of the first process, in MiB.
    pub(crate) fn resident(&self) -> Result<f64, Failure> {
        let process = self.processes.first().ok_or("no process")?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .ok_or("no VmRSS")?;
        Ok(kib.trim().parse::<f64>()? / 1024.0)
    }
}

/// User and system time of a process so far.
fn cpu(pid: u32) -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): the name, in parentheses, may hold spaces; utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
    let times = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks = times.sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Microseconds for each of `jobs`.
#[expect(clippy::cast_precision_loss, reason = "numbers of jobs")]
fn a_job(spent: Duration, jobs: u64) -> f64 {
    spent.as_secs_f64() * 1e6 / jobs as f64
}

/// Apps have queues of their own, so another number of them is another namespace.
fn namespace(load: &Load) -> String {
    format!("bench{}", load.apps)
}

fn app_name(n: usize) -> String {
    if n == 0 {
        "default".to_owned()
    } else {
        format!("app{n:02}")
    }
}

fn queue(load: &Load, app: usize) -> String {
    match (load.who, app) {
        (Who::Floor(_), _) => FLOOR_QUEUE.to_owned(),
        (_, 0) => format!("{}.jobs", namespace(load)),
        (_, n) => format!("{}.jobs.{}", namespace(load), app_name(n)),
    }
}

/// Job number `n`, and its queue.
fn message(load: &Load, n: u64) -> (String, Vec<u8>) {
    let params = r#"{"pv":"2000","users":"1000","comments":"500","likes":"200"}"#;
    let body = if matches!(load.who, Who::Floor(_)) {
        // What the worker makes of the job below.
        format!(
            r#"{{"cardData":{{"cardParamMap":{params}}},"cardTemplateId":"overtime","imRobotOpenDeliverModel":{{"robotCode":"dingbench","spaceType":"IM_ROBOT"}},"imRobotOpenSpaceModel":{{"supportForward":true}},"openSpaceId":"dtv1.card//IM_ROBOT.u{n}","outTrackId":"{n:043}","userIdType":1}}"#
        )
    } else {
        let to: Vec<String> = (n * load.recipients..(n + 1) * load.recipients)
            .map(|person| match load.mobiles {
                Some(of) => format!(r#"{{"mobile":"{}"}}"#, FIRST_MOBILE + person % of),
                None => format!(r#"{{"user_id":"u{person}"}}"#),
            })
            .collect();
        format!(r#"{{"id":"job-{n}","to":[{}],"params":{params}}}"#, to.join(","))
    };
    let app = usize::try_from(n).unwrap_or_default() % load.apps;
    (queue(load, app), body.into_bytes())
}
