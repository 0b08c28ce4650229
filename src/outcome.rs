//! What can happen to a recipient, and why: the closed sets that every other part speaks in.
//!
//! The same words are metric label, header, log field and CLI column, so they live apart from all of those. This file
//! decides nothing: which answer of DingTalk means which reason is `dingtalk::error`'s business, and what follows
//! from a reason is the worker's.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The label of jobs without a known app; a reserved name.
pub const UNKNOWN_APP: &str = "unknown";

/// Declares a closed set of words: the enum, its words, and the list of all of them (metrics create every label value
/// from it at start).
macro_rules! closed_set {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Every member, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word, as it stands in labels, headers, logs and tables.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The member that has this word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

closed_set! {
    /// What became of a recipient, or of a whole job: then the worst of its recipients', in the order of [`Ord`].
    Outcome {
        /// Somebody already has this card from this job.
        Duplicate => "duplicate",
        /// DingTalk took the card, or took it and the answer was lost ([`Reason::Unconfirmed`]).
        Delivered => "delivered",
        /// `expires_at` had passed; never sent.
        Expired => "expired",
        /// In the dead letters, with a reason.
        Dead => "dead",
        /// Handed back to the broker to be worked on again. Not final, so never the outcome of a settled job.
        Retried => "retried",
    }
}

closed_set! {
    /// Why an outcome came about.
    Reason {
        /// There is nothing to explain.
        None => "none",
        /// A rate limit refused the call before it was executed.
        Throttled => "throttled",
        /// The month's calls are used up.
        QuotaSpent => "quota_spent",
        /// Key or secret are wrong.
        BadCredentials => "bad_credentials",
        /// The egress IP is not on the app's whitelist.
        IpNotAllowed => "ip_not_allowed",
        /// The app lacks a permission.
        PermissionMissing => "permission_missing",
        /// The robot code is unknown or not this app's.
        RobotInvalid => "robot_invalid",
        /// The operator paused the app.
        Paused => "paused",
        /// The rest of the month's calls is kept for urgent jobs.
        BudgetReserved => "budget_reserved",
        /// The egress IP is banned for minutes.
        IpBanned => "ip_banned",
        /// The token was refused, and so was a fresh one.
        TokenRejected => "token_rejected",
        /// A 5xx, or a code that asks to come back later.
        ServerError => "server_error",
        /// No answer: refused, reset, timed out.
        Network => "network",
        /// An answer that cannot be read as what the API documents.
        BadResponse => "bad_response",
        /// The attempt ran out of time.
        Deadline => "deadline",
        /// Nobody has this mobile number or user ID.
        UserNotFound => "user_not_found",
        /// The mobile number is none.
        MobileInvalid => "mobile_invalid",
        /// The user is disabled or outside the app's scope.
        UserDisabled => "user_disabled",
        /// The group is unknown, dissolved, or somebody else's.
        ConversationInvalid => "conversation_invalid",
        /// The message is no job.
        InvalidJob => "invalid_job",
        /// The job names an app that is not in the configuration.
        UnknownApp => "unknown_app",
        /// The template is unknown or unpublished.
        TemplateInvalid => "template_invalid",
        /// A required parameter is missing, or the parameters break a limit.
        ParamsInvalid => "params_invalid",
        /// Content security refused the card.
        ContentRefused => "content_refused",
        /// The request was refused for another permanent cause.
        RequestRefused => "request_refused",
        /// The card to update is not there.
        CardMissing => "card_missing",
        /// Every attempt was used up.
        AttemptsExhausted => "attempts_exhausted",
        /// The broker counted too many deliveries.
        DeliveryLimit => "delivery_limit",
        /// The message's queue was gone.
        Unroutable => "unroutable",
        /// The worker's own code failed on this job.
        Panic => "panic",
        /// Delivered, but the answer was lost.
        Unconfirmed => "unconfirmed",
    }
}

closed_set! {
    /// What a refused or failed call asks of the caller.
    Class {
        /// Slow the app down; no attempt is burnt.
        Throttle => "throttle",
        /// The app can deliver nothing at present; no attempt is burnt.
        Hold => "hold",
        /// Fetch a token and try once more.
        Auth => "auth",
        /// Try again; nothing was sent.
        Transient => "transient",
        /// Try again; the request had been written, so it may have been executed.
        Unknown => "unknown",
        /// This recipient is dead; the others go on.
        Recipient => "recipient",
        /// The job is dead.
        Permanent => "permanent",
    }
}

impl Reason {
    /// The class of section 5 that a reason belongs to by itself. Reasons for which it depends on whether the request had
    /// been written count as [`Class::Transient`] here. `None` for reasons that no call gives.
    #[must_use]
    pub const fn class(self) -> Option<Class> {
        Some(match self {
            Self::Throttled => Class::Throttle,
            Self::QuotaSpent
            | Self::BadCredentials
            | Self::IpNotAllowed
            | Self::PermissionMissing
            | Self::RobotInvalid
            | Self::Paused
            | Self::BudgetReserved
            | Self::IpBanned => Class::Hold,
            Self::TokenRejected => Class::Auth,
            Self::ServerError | Self::Network | Self::BadResponse | Self::Deadline => Class::Transient,
            Self::UserNotFound | Self::MobileInvalid | Self::UserDisabled | Self::ConversationInvalid => {
                Class::Recipient
            }
            Self::InvalidJob
            | Self::UnknownApp
            | Self::TemplateInvalid
            | Self::ParamsInvalid
            | Self::ContentRefused
            | Self::RequestRefused
            | Self::CardMissing => Class::Permanent,
            Self::None
            | Self::AttemptsExhausted
            | Self::DeliveryLimit
            | Self::Unroutable
            | Self::Panic
            | Self::Unconfirmed => return None,
        })
    }

    /// Whether this reason holds an app: metrics and the readiness body list these.
    #[must_use]
    pub const fn holds(self) -> bool {
        matches!(self.class(), Some(Class::Hold | Class::Auth))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_word_parses_back_to_its_member() {
        assert!(Reason::ALL.iter().all(|r| Reason::parse(r.as_str()) == Some(*r)));
        assert!(Outcome::ALL.iter().all(|o| Outcome::parse(o.as_str()) == Some(*o)));
        assert_eq!(Reason::parse("no_such_reason"), None);
    }

    #[test]
    fn the_worst_outcome_of_a_job_is_dead_then_expired_then_delivered_then_duplicate() {
        let worst = [Outcome::Delivered, Outcome::Duplicate, Outcome::Expired]
            .into_iter()
            .max();
        assert_eq!(worst, Some(Outcome::Expired));
        assert!(Outcome::Dead > Outcome::Expired && Outcome::Delivered > Outcome::Duplicate);
    }

    #[test]
    fn holds_are_the_hold_class_and_the_rejected_token() {
        let holding: Vec<_> = Reason::ALL.iter().filter(|r| r.holds()).map(|r| r.as_str()).collect();
        assert_eq!(
            holding,
            [
                "quota_spent",
                "bad_credentials",
                "ip_not_allowed",
                "permission_missing",
                "robot_invalid",
                "paused",
                "budget_reserved",
                "ip_banned",
                "token_rejected"
            ]
        );
    }
}
