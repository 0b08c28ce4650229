//! What a call gets back, in the dialects of both API families (dingtalk-api.md §1).
//!
//! Both families are printed in one place so that an endpoint says only what is wrong and cannot mix the two up:
//! the legacy one fails with HTTP 200 and `errcode`, the new one with a 4xx or 5xx and `code`. This file decides
//! nothing; it also knows the answers that are no answer of an API at all (a page, broken JSON, a cut line).

use std::borrow::Cow;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode, header};
use futures_util::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};

use super::gateway;

const JSON: &str = "application/json;charset=UTF-8";
const GARBAGE: &str = r#"{"success":tr"#;
const BAN_PAGE: &str = "<!doctype html><html><head><title>访问被拒绝</title></head>\
    <body><h1>Access denied</h1><p>Too many requests from this address.</p></body></html>";

/// An answer, before it is a response. `result` is the word it is counted under: `ok`, or its code.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    status: u16,
    result: Cow<'static, str>,
    retry_after: Option<u64>,
    throttled: bool,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Json(Value),
    Page,
    Nothing,
    Garbage,
    Padding(usize),
    Cut,
}

/// How slowly the body of an answer comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slowness {
    /// How long it stops half-way.
    pub(super) half_way: Duration,
    /// How long each byte takes.
    pub(super) each_byte: Duration,
}

impl Answer {
    /// HTTP 200 with the documented body.
    pub(super) fn ok(body: Value) -> Self {
        Self::raw(200, "ok", Content::Json(body))
    }

    /// A failure of the new family, HTTP 400.
    pub(super) fn refused(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::refused_with(400, code, message)
    }

    /// A failure of the new family under another status.
    pub(super) fn refused_with(status: u16, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        let body = json!({"code": code, "message": message.into(), "requestid": request_id()});
        Self::raw(status, code, Content::Json(body))
    }

    /// A failure of the legacy family: HTTP 200 and the code as it is.
    pub(super) fn legacy(errcode: i64, message: impl Into<String>) -> Self {
        let body = json!({"errcode": errcode, "errmsg": message.into(), "request_id": short_id()});
        Self::raw(200, errcode.to_string(), Content::Json(body))
    }

    /// A failure of the legacy family's gateway: the real code is the string `sub_code` under `errcode`, which is
    /// 88 (dingtalk-api.md §1, traps).
    pub(super) fn wrapped(errcode: i64, sub_code: impl Into<String>, message: impl Into<String>) -> Self {
        let (sub_code, message) = (sub_code.into(), message.into());
        let body = json!({
            "errcode": errcode,
            "sub_code": sub_code,
            "sub_msg": message,
            "errmsg": format!("ding talk error[subcode={sub_code},submsg={message}]"),
            "request_id": short_id(),
        });
        Self::raw(200, sub_code, Content::Json(body))
    }

    /// Any JSON under any status, counted as `result`.
    pub(super) fn json(status: u16, result: impl Into<Cow<'static, str>>, body: Value) -> Self {
        Self::raw(status, result, Content::Json(body))
    }

    /// A status and no body, as from a proxy in between.
    pub(super) fn bare(status: u16) -> Self {
        Self::raw(status, status.to_string(), Content::Nothing)
    }

    /// The HTML page of a ban (dingtalk-api.md §7).
    pub(super) fn page(status: u16) -> Self {
        Self::raw(status, "html", Content::Page)
    }

    /// HTTP 200 and JSON that breaks off.
    pub(super) fn garbage() -> Self {
        Self::raw(200, "garbage", Content::Garbage)
    }

    /// HTTP 200 and about `bytes` bytes of JSON that says nothing.
    pub(super) fn padding(bytes: usize) -> Self {
        Self::raw(200, "big_body", Content::Padding(bytes))
    }

    /// No answer: the connection closes.
    pub(super) fn cut(result: &'static str) -> Self {
        Self::raw(200, result, Content::Cut)
    }

    /// The same without an ID of the request, which errors of `/gettoken` have not (dingtalk-api.md §1).
    pub(super) fn without_request_id(mut self) -> Self {
        if let Content::Json(Value::Object(body)) = &mut self.content {
            body.remove("request_id");
        }
        self
    }

    /// The same with one more field.
    pub(super) fn with_field(mut self, key: &str, value: Value) -> Self {
        if let Content::Json(Value::Object(body)) = &mut self.content {
            body.insert(key.to_owned(), value);
        }
        self
    }

    /// The same with the names of the error fields in capitals.
    pub(super) fn capital(mut self) -> Self {
        if let Content::Json(body) = &mut self.content {
            gateway::capital(body);
        }
        self
    }

    /// Its HTTP status; none where the connection is cut.
    pub(super) fn status(&self) -> Option<u16> {
        (!self.is_cut()).then_some(self.status)
    }

    /// Its body, as far as it says anything.
    pub(super) fn text(&self) -> String {
        match &self.content {
            Content::Json(body) => body.to_string(),
            Content::Page => BAN_PAGE.to_owned(),
            Content::Garbage => GARBAGE.to_owned(),
            Content::Padding(_) | Content::Nothing | Content::Cut => String::new(),
        }
    }

    /// What it says is wrong, in its own words.
    pub(super) fn message(&self) -> &str {
        let Content::Json(body) = &self.content else { return "" };
        let said = ["message", "sub_msg", "errmsg"]
            .iter()
            .find_map(|key| body[*key].as_str());
        said.unwrap_or_default()
    }

    /// The same under another status.
    pub(super) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same with a `Retry-After` header, in seconds.
    pub(super) fn retry_after(mut self, seconds: Option<u64>) -> Self {
        self.retry_after = seconds;
        self
    }

    /// The same, given because the limit of calls a second was reached.
    pub(super) fn throttled(mut self) -> Self {
        self.throttled = true;
        self
    }

    /// Whether the limit of calls a second refused the call.
    pub(super) fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// Whether it is a success.
    pub(super) fn is_ok(&self) -> bool {
        self.result == "ok"
    }

    /// The word that it is counted under.
    pub(super) fn result(&self) -> &str {
        &self.result
    }

    /// Whether the connection is to be cut instead of answered.
    pub(super) fn is_cut(&self) -> bool {
        matches!(self.content, Content::Cut)
    }

    fn raw(status: u16, result: impl Into<Cow<'static, str>>, content: Content) -> Self {
        Self {
            status,
            result: result.into(),
            retry_after: None,
            throttled: false,
            content,
        }
    }

    /// The response, its body as slow as asked for.
    pub(super) fn into_response(self, slow: Slowness) -> Response<Body> {
        let (kind, body) = match self.content {
            Content::Json(value) => (JSON, slow.body(value.to_string())),
            Content::Page => ("text/html;charset=UTF-8", Body::from(BAN_PAGE)),
            Content::Garbage => (JSON, Body::from(GARBAGE)),
            Content::Padding(bytes) => (JSON, Body::from_stream(padding(bytes))),
            Content::Nothing | Content::Cut => ("text/plain", Body::empty()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// An ID as the new family prints them.
fn request_id() -> String {
    let mut id = uuid::Uuid::new_v4().to_string();
    id.make_ascii_uppercase();
    id
}

/// What a read list is asked by: `carrierId`, `processQueryKey`.
pub(super) fn carrier_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// An ID as the legacy family prints them.
pub(super) fn short_id() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.truncate(13);
    id
}

impl Slowness {
    fn body(self, text: String) -> Body {
        if self == Self::default() {
            return Body::from(text);
        }
        let text = Bytes::from(text);
        let half = text.len() / 2;
        let size = if self.each_byte.is_zero() { half.max(1) } else { 1 };
        let pieces = stream::unfold(0, move |at| {
            let piece = text.slice(at..text.len().min(at + size));
            async move {
                if at > 0 {
                    tokio::time::sleep(self.each_byte).await;
                }
                if (at..at + size).contains(&half) {
                    tokio::time::sleep(self.half_way).await;
                }
                let next = at + piece.len();
                (next > at).then_some((Ok::<_, Infallible>(piece), next))
            }
        });
        Body::from_stream(pieces)
    }
}

/// Made piece by piece, so that a body of a gigabyte costs the client memory and not the sandbox.
fn padding(bytes: usize) -> impl Stream<Item = Result<Bytes, Infallible>> {
    static PIECE: &[u8] = &[b'x'; 64 * 1024];
    let pieces = stream::unfold(bytes, |left| async move {
        let size = left.min(PIECE.len());
        (size > 0).then(|| (Ok(Bytes::from_static(&PIECE[..size])), left - size))
    });
    let edge = |text: &'static str| stream::once(async move { Ok(Bytes::from_static(text.as_bytes())) });
    edge(r#"{"padding":""#).chain(pieces).chain(edge(r#""}"#))
}
