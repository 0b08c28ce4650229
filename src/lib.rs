//! dingcard: notification jobs from RabbitMQ, shown as DingTalk interactive cards.
//!
//! The map. A job's life is `worker/mod.rs`, top to bottom; the rest is what it needs:
//!
//! | file | what it is |
//! | --- | --- |
//! | `job`, `result` | what a producer may ask for, and what it is told |
//! | `slice` | which positions of a job one call serves, and which are open |
//! | `outcome` | what can happen, and why: the closed sets that labels, headers and logs share |
//! | `config` | what can be set |
//! | `amqp` | the broker: topology, delay levels, consuming, publishing, settling |
//! | `dingtalk` | DingTalk: tokens, user IDs, cards, and what its answers mean |
//! | `cache`, `rate_limit`, `ledger` | what is remembered: user IDs, the pace of calls, who has a card |
//! | `store` | what the workers of a fleet share of it, in Redis |
//! | `worker` | the life of a job |
//! | `dead_letters` | why a letter is dead, and what a replay publishes |
//! | `retry` | when to try again |
//! | `metrics`, `health`, `admin` | what is told: families, readiness, and the server that tells |
//! | `repeats` | which of many like log lines are written |
//! | `shutdown` | how work is told to stop |
//! | `sandbox` | a DingTalk for development and tests; shares nothing with `dingtalk` |
//! | `cli` | a verb a file, and the only place that wires these together |
//!
//! Which of them may use which is checked by `tests/arrows.rs`.

pub mod admin;
pub mod amqp;
pub mod cache;
pub mod cli;
pub mod config;
pub mod dead_letters;
pub mod dingtalk;
pub mod health;
pub mod job;
pub mod ledger;
pub mod metrics;
pub mod outcome;
pub mod rate_limit;
pub mod repeats;
pub mod result;
pub mod retry;
pub mod sandbox;
pub mod shutdown;
pub mod slice;
pub mod store;
pub mod worker;
