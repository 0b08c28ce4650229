//! dingcard: notification jobs from RabbitMQ, shown as DingTalk interactive cards.

pub mod config;
pub mod health;
pub mod job;
pub mod metrics;
pub mod outcome;
pub mod retry;
pub mod sandbox;
pub mod shutdown;
pub mod slice;
