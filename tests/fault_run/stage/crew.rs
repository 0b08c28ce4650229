//! The workers of a stage: begun, killed, stopped, and asked how they are.
//!
//! Separate because what a worker said must outlive it. It judges nothing of what they tell.

use std::time::{Duration, Instant};

use super::{Stage, WORKERS, Worker};
use crate::http;
use crate::process::{Process, value_of};

impl Stage {
    /// Three workers that consume.
    pub(crate) fn start_workers(&mut self) -> Result<(), String> {
        self.add_workers(WORKERS)
    }

    /// So many more workers, begun at once; all of them consume.
    pub(crate) fn add_workers(&mut self, count: usize) -> Result<(), String> {
        let begun: Vec<Process> = (0..count).map(|_| self.begin_worker()).collect::<Result<_, _>>()?;
        for process in begun {
            let worker = Worker::consuming(process)?;
            self.workers.push(worker);
        }
        Ok(())
    }

    /// One more.
    pub(crate) fn add_worker(&mut self) -> Result<(), String> {
        self.put_in(self.workers.len())
    }

    fn begin_worker(&self) -> Result<Process, String> {
        self.begin(&["worker", "--listen", "127.0.0.1:0"])
    }

    /// A `dingcard` with the settings of the workers.
    pub(crate) fn begin(&self, args: &[&str]) -> Result<Process, String> {
        let env: Vec<_> = self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        Process::start(&self.run.bin, args, &env)
    }

    /// What another `dingcard` than a worker said counts as well.
    pub(crate) fn hear(&mut self, process: &Process) {
        self.heard.extend(process.lines());
    }

    /// `kill -9` of one worker, and another in its place.
    pub(crate) fn replace_killed(&mut self, place: usize) -> Result<(), String> {
        let mut worker = self.take_out(place);
        worker.process.kill();
        self.gone.push(worker);
        self.put_in(place)
    }

    /// SIGTERM for one worker, and another in its place once it has ended; gives its exit code and how long it took.
    pub(crate) fn replace_stopped(&mut self, place: usize) -> Result<(i32, Duration), String> {
        let mut worker = self.take_out(place);
        let begun = Instant::now();
        worker.process.terminate();
        let code = worker.process.wait(Duration::from_secs(30))?;
        let took = begun.elapsed();
        self.gone.push(worker);
        self.put_in(place)?;
        Ok((code, took))
    }

    /// SIGTERM for the last `count` workers at once; all of them have ended.
    pub(crate) fn stop_last(&mut self, count: usize) -> Result<(), String> {
        self.look();
        let kept = self.workers.len().saturating_sub(count);
        let mut told = self.workers.split_off(kept);
        for worker in &mut told {
            worker.process.terminate();
        }
        for mut worker in told {
            let code = worker.process.wait(Duration::from_secs(30))?;
            self.gone.push(worker);
            self.demand(code == 0, || format!("a worker told to stop: {code}"));
        }
        Ok(())
    }

    fn take_out(&mut self, place: usize) -> Worker {
        self.look();
        self.workers.remove(place)
    }

    fn put_in(&mut self, place: usize) -> Result<(), String> {
        let worker = Worker::consuming(self.begin_worker()?)?;
        self.workers.insert(place, worker);
        Ok(())
    }

    /// Reads every worker's metrics.
    pub(super) fn look(&mut self) {
        for worker in &mut self.workers {
            if let Ok((200, page)) = http::get(&worker.metrics_url) {
                worker.page = page;
            }
        }
    }

    /// A metric of each worker that runs, now.
    pub(crate) fn each(&mut self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        self.look();
        self.workers
            .iter()
            .map(|w| http::metric(&w.page, name, labels))
            .collect()
    }

    /// Its sum.
    pub(crate) fn sum(&mut self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.each(name, labels).iter().sum()
    }

    /// Waits until every worker consumes, in another session than the `sessions` before where those are given.
    pub(crate) fn wait_consuming(&mut self, sessions: Option<&[f64]>) -> Result<Instant, String> {
        self.wait("every worker to consume", |stage| {
            let anew = sessions.is_none_or(|before| {
                let now = stage.each("dingcard_broker_reconnects_total", &[]);
                now.iter().zip(before).all(|(now, before)| now > before)
            });
            (anew && stage.ready() == WORKERS).then(Instant::now)
        })
    }

    /// How many workers are ready.
    pub(crate) fn ready(&self) -> usize {
        let ready = |w: &&Worker| {
            let url = w.metrics_url.replace("/metrics", "/readyz");
            matches!(http::get(&url), Ok((200, _)))
        };
        self.workers.iter().filter(ready).count()
    }

    /// How often each worker has found the broker again.
    pub(crate) fn sessions(&mut self) -> Vec<f64> {
        self.each("dingcard_broker_reconnects_total", &[])
    }

    /// How many workers ended that nobody ended.
    pub(crate) fn fallen(&mut self) -> usize {
        let fallen = |w: &mut Worker| w.process.wait(Duration::ZERO).is_ok();
        self.workers.iter_mut().filter_map(|w| fallen(w).then_some(())).count()
    }
}

impl Worker {
    fn consuming(process: Process) -> Result<Self, String> {
        let patience = Duration::from_mins(1);
        let metrics_url = value_of(&process.wait_for_line("metrics=", patience)?, "metrics")?;
        process.wait_for_line("consuming", patience)?;
        Ok(Self {
            process,
            metrics_url,
            page: String::new(),
        })
    }
}
