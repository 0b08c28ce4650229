//! The endpoints: what DingTalk offers, as far as it is played here, and the names that faults and counts know it by.
//!
//! A file of its own because half of this folder speaks of endpoints and only `api` serves them.

use axum::http::Method;

/// What DingTalk offers, as far as it is played here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Endpoint {
    GetToken,
    GetByMobile,
    AccessToken,
    Send,
    UpdateSent,
    CreateAndDeliver,
    Create,
    Spaces,
    Deliver,
    Update,
    Unknown,
}

impl Endpoint {
    pub(super) const ALL: [Self; 11] = [
        Self::GetToken,
        Self::GetByMobile,
        Self::AccessToken,
        Self::Send,
        Self::UpdateSent,
        Self::CreateAndDeliver,
        Self::Create,
        Self::Spaces,
        Self::Deliver,
        Self::Update,
        Self::Unknown,
    ];

    /// The name in `/sandbox/calls` and `/sandbox/faults`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GetToken => "gettoken",
            Self::GetByMobile => "getbymobile",
            Self::AccessToken => "accessToken",
            Self::Send => "interactiveCards.send",
            Self::UpdateSent => "interactiveCards.update",
            Self::CreateAndDeliver => "createAndDeliver",
            Self::Create => "create",
            Self::Spaces => "spaces",
            Self::Deliver => "deliver",
            Self::Update => "update",
            Self::Unknown => "unknown",
        }
    }

    /// The endpoint of a call; a known path under another method is none.
    pub(super) fn at(method: &Method, path: &str) -> Self {
        match (method.as_str(), path) {
            ("GET", "/gettoken") => Self::GetToken,
            ("POST", "/topapi/v2/user/getbymobile") => Self::GetByMobile,
            ("POST", "/v1.0/oauth2/accessToken") => Self::AccessToken,
            ("POST", "/v1.0/im/interactiveCards/send") => Self::Send,
            ("PUT", "/v1.0/im/interactiveCards") => Self::UpdateSent,
            ("POST", "/v1.0/card/instances/createAndDeliver") => Self::CreateAndDeliver,
            ("POST", "/v1.0/card/instances") => Self::Create,
            ("PUT", "/v1.0/card/instances/spaces") => Self::Spaces,
            ("POST", "/v1.0/card/instances/deliver") => Self::Deliver,
            ("PUT", "/v1.0/card/instances") => Self::Update,
            _ => Self::Unknown,
        }
    }

    /// What an app needs to be allowed. What interactiveCards asked for can no longer be applied for and is not known;
    /// it is taken for the same as the other card API's.
    pub(super) fn permission(self) -> Option<&'static str> {
        match self {
            Self::GetByMobile => Some("qyapi_get_member_by_mobile"),
            _ if self.is_card() => Some("Card.Instance.Write"),
            _ => None,
        }
    }

    /// Whether it is one of the two card APIs.
    pub(super) fn is_card(self) -> bool {
        !matches!(
            self,
            Self::GetToken | Self::AccessToken | Self::GetByMobile | Self::Unknown
        )
    }

    /// Whether it is of the older card API.
    pub(super) fn is_interactive(self) -> bool {
        matches!(self, Self::Send | Self::UpdateSent)
    }

    /// Whether it is called without a token, to get one.
    pub(super) fn gives_token(self) -> bool {
        matches!(self, Self::GetToken | Self::AccessToken)
    }

    /// Whether it belongs to `oapi.dingtalk.com`.
    pub(super) fn is_legacy(self) -> bool {
        matches!(self, Self::GetToken | Self::GetByMobile)
    }
}
