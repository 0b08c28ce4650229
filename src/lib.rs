//! dingcard: notification jobs from RabbitMQ, shown as DingTalk interactive cards.

pub mod config;
pub mod health;
pub mod metrics;
pub mod outcome;
pub mod retry;
pub mod shutdown;
