//! The calls that got no success: what was asked, what came back, and why.
//!
//! Apart from the cards, because such a call has mostly made none, and from the counts, which cannot say what was in it.
//! It judges nothing: what the caller was told is what stands here. Secrets and tokens are left out of the request, for
//! somebody may point an app of the real DingTalk here by mistake. Memory is bounded by `keep` as the cards' is.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::card::{parsed, time};
use super::endpoint::Endpoint;
use super::gist::Gist;

/// Bytes of a call, on average, at most: fewer are kept where they are larger.
const BYTES_PER_CALL: usize = 1024;
/// Bytes that a call takes beside its texts, about.
const CALL_BYTES: usize = 300;

/// One call that failed for its caller.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) at: Timestamp,
    pub(super) endpoint: Endpoint,
    /// None where the call named no known app.
    pub(super) app_key: Option<String>,
    pub(super) gist: Gist,
    /// None where the connection was cut instead of an answer.
    pub(super) status: Option<u16>,
    /// The code that it is counted under.
    pub(super) result: String,
    pub(super) message: String,
    /// Whether a fault ordered it, and whether it was carried out all the same.
    pub(super) ordered: bool,
    pub(super) taken: bool,
    pub(super) request: String,
    pub(super) answer: String,
}

/// The last of them, oldest first, each with its number.
#[derive(Debug)]
pub(super) struct RefusedCalls {
    keep: usize,
    bytes: usize,
    next: u64,
    list: VecDeque<(u64, Arc<Refused>)>,
}

impl RefusedCalls {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            keep: keep.max(1),
            bytes: 0,
            next: 0,
            list: VecDeque::new(),
        }
    }

    /// The newest one stays whatever its size.
    pub(super) fn add(&mut self, call: Refused) {
        self.bytes += call.bytes();
        self.list.push_back((self.next, Arc::new(call)));
        self.next += 1;
        let bytes = self.keep.saturating_mul(BYTES_PER_CALL);
        while self.list.len() > 1 && (self.list.len() > self.keep || self.bytes > bytes) {
            if let Some((_, oldest)) = self.list.pop_front() {
                self.bytes -= oldest.bytes();
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Newest first, each with its number.
    pub(super) fn newest(&self) -> impl Iterator<Item = &(u64, Arc<Refused>)> {
        self.list.iter().rev()
    }

    /// Forgets all of them and tells how many there were.
    pub(super) fn clear(&mut self) -> usize {
        self.bytes = 0;
        std::mem::take(&mut self.list).len()
    }
}

impl Refused {
    fn bytes(&self) -> usize {
        let texts = [&self.result, &self.message, &self.request, &self.answer];
        let recipients = self.gist.recipients.iter().map(|id| id.len() + size_of::<Box<str>>());
        CALL_BYTES + texts.map(String::len).iter().sum::<usize>() + recipients.sum::<usize>()
    }

    /// As `/sandbox/refused` prints it.
    pub(super) fn to_json(&self, number: u64) -> Value {
        json!({
            "number": number,
            "at": time(&self.at),
            "endpoint": self.endpoint.name(),
            "app_key": self.app_key,
            "out_track_id": self.gist.out_track_id,
            "template": self.gist.template,
            "recipients": self.gist.recipients,
            "status": self.status,
            "result": self.result,
            "message": self.message,
            "fault": self.ordered,
            "taken": self.taken,
            "request": parsed(&self.request),
            "answer": parsed(&self.answer),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::testing::Bench;
    use super::*;

    fn call(request: &str) -> Refused {
        Refused {
            at: Timestamp::now(),
            endpoint: Endpoint::Send,
            app_key: None,
            gist: Gist::default(),
            status: Some(400),
            result: "param.invalid".to_owned(),
            message: String::new(),
            ordered: false,
            taken: false,
            request: request.to_owned(),
            answer: String::new(),
        }
    }

    fn numbers(calls: &RefusedCalls) -> Vec<u64> {
        calls.newest().map(|(number, _)| *number).collect()
    }

    #[test]
    fn the_oldest_are_forgotten_by_number_and_by_size() {
        let mut calls = RefusedCalls::new(3);
        for _ in 0..5 {
            calls.add(call(""));
        }
        assert_eq!(numbers(&calls), [4, 3, 2]);
        calls.add(call(&"x".repeat(2 * BYTES_PER_CALL + 200)));
        assert_eq!(numbers(&calls), [5, 4]);
        assert_eq!((calls.clear(), calls.bytes), (2, 0));
    }

    #[tokio::test]
    async fn a_refused_call_stands_with_its_reason_and_without_secrets() {
        let bench = Bench::start().await;
        let wrong = json!({"outTrackId": "a", "cardTemplateId": "TPL0000"});
        bench.create_and_deliver("a", &["u1"], wrong).await;
        let fault = json!([{"kind": "lose_answer", "next": 1}]);
        bench.faults(fault).await;
        let lost = bench.signed(reqwest::Method::POST, "/v1.0/card/instances/createAndDeliver");
        let body = super::super::testing::card("b", &["u2"], json!({}));
        assert!(lost.json(&body).send().await.is_err());
        bench
            .post(
                "/oauth2/accessToken",
                json!({"appKey": "dingreal", "appSecret": "real-secret"}),
            )
            .await;
        bench.get("/gettoken?appkey=dingreal&appsecret=real-secret").await;

        let (_, answer) = bench.get("/sandbox/refused").await;
        assert!(!answer.to_string().contains("real-secret"), "{answer}");
        assert_eq!(answer["total"], 4);
        let calls = answer["calls"].as_array().unwrap();
        assert_eq!(calls[1]["request"], json!({"appKey": "dingreal", "appSecret": "***"}));
        assert_eq!(
            (
                &calls[2]["result"],
                &calls[2]["fault"],
                &calls[2]["taken"],
                &calls[2]["status"]
            ),
            (&json!("lose_answer"), &json!(true), &json!(true), &Value::Null)
        );
        let first = &calls[3];
        assert_eq!(
            (&first["result"], &first["status"], &first["fault"]),
            (&json!("param.templateNotExist"), &json!(400), &json!(false))
        );
        assert_eq!(
            (&first["out_track_id"], &first["recipients"]),
            (&json!("a"), &json!(["u1"]))
        );
        assert_eq!(first["answer"]["message"], first["message"]);
        assert_eq!(first["request"]["cardTemplateId"], "TPL0000");

        for (query, total) in [
            ("recipient=u2", 1),
            ("template=TPL0000", 1),
            ("endpoint=gettoken", 1),
            ("result=lose_answer", 1),
            ("q=TPL0000", 1),
            ("app=dingsandbox", 2),
        ] {
            assert_eq!(
                bench.get(&format!("/sandbox/refused?{query}")).await.1["total"],
                total,
                "{query}"
            );
        }
        assert_eq!(bench.delete("/sandbox/refused").await.1["deleted"], 4);
    }
}
