#![allow(missing_docs, dead_code, unused, clippy::all, clippy::pedantic)]
use crate::{config::Config, metrics::Metrics, outcome::*};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
pub struct DingTalk;
impl DingTalk {
    pub fn new(config: &Config, metrics: &Arc<Metrics>) -> Result<Self, Failure> {
        todo!()
    }
    pub fn app(&self, name: &str) -> Option<&App> {
        todo!()
    }
}
pub struct App;
impl App {
    pub async fn user_id(&self, mobile: &str, urgent: bool) -> Result<String, Failure> {
        todo!()
    }
    pub async fn send(
        &self,
        card: &Card<'_>,
        to: &[Space],
        urgent: bool,
    ) -> Result<Vec<Result<Delivered, Failure>>, Failure> {
        todo!()
    }
    pub async fn deliver(
        &self,
        card: &Card<'_>,
        to: &[Space],
        urgent: bool,
    ) -> Result<Vec<Result<Delivered, Failure>>, Failure> {
        todo!()
    }
    pub async fn update(&self, card_id: &str, params: &BTreeMap<String, String>, urgent: bool) -> Result<(), Failure> {
        todo!()
    }
    pub fn forget_user(&self, user_id: &str) {}
}
pub struct Card<'a> {
    pub out_track_id: &'a str,
    pub template: &'a str,
    pub params: &'a BTreeMap<String, String>,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    User(String),
    Group(String),
}
pub struct Delivered {
    pub carrier_id: String,
}
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("x")]
pub struct Failure {
    pub reason: Reason,
    pub class: Class,
    pub detail: String,
    pub wait: Option<Duration>,
    pub card_exists: bool,
    pub splits: bool,
}
impl Failure {
    pub fn new(reason: Reason, class: Class, detail: impl Into<String>) -> Self {
        Self {
            reason,
            class,
            detail: detail.into(),
            wait: None,
            card_exists: false,
            splits: false,
        }
    }
    pub fn remedy(&self) -> &'static str {
        ""
    }
}
