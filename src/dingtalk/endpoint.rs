//! The calls that DingTalk documents and dingcard makes.
//!
//! Separate from the client because it is a table: where each call goes, what it is called in metrics and details, and what
//! kind of call it is. It sends nothing.

use std::fmt;

use reqwest::{Method, Url};

use super::answer;
use super::error::Failure;
use crate::config::{self, CardApi, TokenApi};

/// A call that DingTalk documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Endpoint {
    /// `GET /gettoken` (2.1)
    GetToken,
    /// `POST /v1.0/oauth2/accessToken` (2.2)
    AccessToken,
    /// `POST /topapi/v2/user/getbymobile` (3)
    GetByMobile,
    /// `POST /v1.0/card/instances` (5.3)
    CreateInstances,
    /// `POST /v1.0/card/instances/createAndDeliver` (5.1)
    CreateAndDeliver,
    /// `POST /v1.0/card/instances/deliver` (5.3)
    Deliver,
    /// `PUT /v1.0/card/instances` (5.3)
    UpdateInstances,
    /// `POST /v1.0/im/interactiveCards/send` (4.1)
    InteractiveSend,
    /// `PUT /v1.0/im/interactiveCards` (4.5)
    InteractiveUpdate,
}

impl Endpoint {
    /// All of them.
    pub(super) const ALL: &[Self] = &[
        Self::GetToken,
        Self::AccessToken,
        Self::GetByMobile,
        Self::CreateInstances,
        Self::CreateAndDeliver,
        Self::Deliver,
        Self::UpdateInstances,
        Self::InteractiveSend,
        Self::InteractiveUpdate,
    ];

    /// The label and the word in every detail.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::GetToken => "gettoken",
            Self::AccessToken => "accessToken",
            Self::GetByMobile => "getbymobile",
            Self::CreateInstances => "createInstances",
            Self::CreateAndDeliver => "createAndDeliver",
            Self::Deliver => "deliver",
            Self::UpdateInstances => "updateInstances",
            Self::InteractiveSend => "interactiveSend",
            Self::InteractiveUpdate => "interactiveUpdate",
        }
    }

    /// Whether it only reads, so that a lost answer means nothing was done.
    pub(super) const fn is_read(self) -> bool {
        matches!(self, Self::GetToken | Self::AccessToken | Self::GetByMobile)
    }

    /// Whether it fetches a token.
    pub(super) const fn is_token(self) -> bool {
        matches!(self, Self::GetToken | Self::AccessToken)
    }

    /// Whether it is of the family below `dingtalk.oapi_url`.
    pub(super) const fn is_legacy(self) -> bool {
        matches!(self, Self::GetToken | Self::GetByMobile)
    }

    /// Method and path (`dingtalk-api.md`, by the sections above).
    pub(super) fn method_and_path(self) -> (Method, &'static str) {
        match self {
            Self::GetToken => (Method::GET, "/gettoken"),
            Self::AccessToken => (Method::POST, "/v1.0/oauth2/accessToken"),
            Self::GetByMobile => (Method::POST, "/topapi/v2/user/getbymobile"),
            Self::CreateInstances => (Method::POST, "/v1.0/card/instances"),
            Self::CreateAndDeliver => (Method::POST, "/v1.0/card/instances/createAndDeliver"),
            Self::Deliver => (Method::POST, "/v1.0/card/instances/deliver"),
            Self::UpdateInstances => (Method::PUT, "/v1.0/card/instances"),
            Self::InteractiveSend => (Method::POST, "/v1.0/im/interactiveCards/send"),
            Self::InteractiveUpdate => (Method::PUT, "/v1.0/im/interactiveCards"),
        }
    }

    /// Its URL by these settings, as an entry of a map.
    pub(super) fn url(self, settings: &config::DingTalk) -> Result<(Self, Url), Failure> {
        let (key, base) = if self.is_legacy() {
            ("dingtalk.oapi_url", &settings.oapi_url)
        } else {
            ("dingtalk.api_url", &settings.api_url)
        };
        let url = format!("{}{}", base.trim_end_matches('/'), self.method_and_path().1);
        // Without the URL, which can hold a password.
        let parsed = url
            .parse()
            .map_err(|e| answer::unanswered(self, false, &format!("{key}: {e}")));
        parsed.map(|url| (self, url))
    }

    /// The calls that jobs of an app with these settings can make.
    pub(super) fn of_app(app: &config::App) -> Vec<Self> {
        let token = match app.token_api {
            TokenApi::Oauth2 => Self::AccessToken,
            TokenApi::Gettoken => Self::GetToken,
        };
        let cards: &[Self] = match app.card_api {
            CardApi::Instances => &[Self::CreateAndDeliver, Self::Deliver, Self::UpdateInstances],
            CardApi::Interactive => &[Self::InteractiveSend, Self::InteractiveUpdate],
        };
        [token, Self::GetByMobile]
            .into_iter()
            .chain(cards.iter().copied())
            .collect()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
