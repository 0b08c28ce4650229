//! One card instance: what made it, whom it was shown to, where that failed, and what changed it.
//!
//! Apart from `cards`, which holds them all and knows how many may be kept. An instance is not a message
//! (dingtalk-api.md §4.3): one can be shown many times, and showing it again never changes it. What a single card
//! remembers is bounded; beyond that it only counts.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Parameters by name.
pub(super) type Params = Map<String, Value>;

/// Deliveries and updates that a single card remembers.
const DELIVERIES_KEPT: usize = 1000;
const UPDATES_KEPT: usize = 20;
/// Bytes that a card, a parameter and a delivery take beside their texts, about.
const CARD_BYTES: usize = 600;
const PARAM_BYTES: usize = 120;
const DELIVERY_BYTES: usize = 80;

/// Which of the two card APIs made an instance; only its own `PUT` finds it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Instances,
    Interactive,
}

/// Where a card can be shown (dingtalk-api.md §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SpaceType {
    ImRobot,
    ImGroup,
    ImSingle,
    OneBox,
}

/// One place to show a card.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Space {
    pub(super) kind: SpaceType,
    pub(super) id: String,
}

/// What became of a card, as far as DingTalk told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// To everybody it was meant for.
    Delivered,
    /// To some of them.
    Partly,
    /// To nobody.
    Undelivered,
}

/// A card instance. `request` is the call that made it and `answer` what came back, as they went over the wire.
#[derive(Debug, Clone)]
pub(super) struct Card {
    pub(super) out_track_id: String,
    pub(super) api: Api,
    pub(super) app_key: String,
    pub(super) template: String,
    pub(super) params: Params,
    pub(super) private: Params,
    /// The types of space that it carries a model for.
    pub(super) carries: Vec<SpaceType>,
    pub(super) request: String,
    pub(super) answer: String,
    created_at: Timestamp,
    deliveries: Vec<Delivery>,
    shown_count: u64,
    updates: Vec<Update>,
    update_count: u64,
}

/// One try to show it. `refusal` is why it failed, if it did.
#[derive(Debug, Clone)]
struct Delivery {
    space: Space,
    at: Timestamp,
    refusal: Option<String>,
}

#[derive(Debug, Clone)]
struct Update {
    at: Timestamp,
    request: String,
    answer: String,
}

/// What a `PUT` changes.
pub(super) struct Change {
    pub(super) params: Option<Params>,
    pub(super) private: Option<Params>,
    pub(super) params_by_key: bool,
    pub(super) private_by_key: bool,
    pub(super) request: String,
    pub(super) answer: String,
}

impl Card {
    pub(super) fn new(out_track_id: String, api: Api, app_key: String, template: String) -> Self {
        Self {
            out_track_id,
            api,
            app_key,
            template,
            params: Params::new(),
            private: Params::new(),
            carries: Vec::new(),
            request: String::new(),
            answer: String::new(),
            created_at: Timestamp::now(),
            deliveries: Vec::new(),
            shown_count: 0,
            updates: Vec::new(),
            update_count: 0,
        }
    }

    /// Remembers deliveries to spaces, each with the reason if it failed.
    pub(super) fn deliver(&mut self, spaces: &[(Space, Option<String>)]) {
        let at = Timestamp::now();
        self.shown_count += spaces.iter().filter(|(_, refusal)| refusal.is_none()).count() as u64;
        let room = DELIVERIES_KEPT.saturating_sub(self.deliveries.len());
        let kept = spaces.iter().take(room).cloned();
        self.deliveries
            .extend(kept.map(|(space, refusal)| Delivery { space, at, refusal }));
    }

    /// Changes its data: all of it, or key by key (dingtalk-api.md §4.5).
    pub(super) fn change(&mut self, change: Change) {
        overwrite(&mut self.params, change.params, change.params_by_key);
        // Private data is overwritten user by user, and by key within a user.
        for (user, data) in change.private.unwrap_or_default() {
            let Value::Object(data) = data else { continue };
            let entry = self.private.entry(user).or_insert_with(|| json!({}));
            if let Value::Object(before) = entry {
                overwrite(before, Some(data), change.private_by_key);
            }
        }
        self.update_count += 1;
        if self.updates.len() == UPDATES_KEPT {
            self.updates.remove(0);
        }
        self.updates.push(Update {
            at: Timestamp::now(),
            request: change.request,
            answer: change.answer,
        });
    }

    /// Everybody it was meant for, shown or not, once a delivery.
    pub(super) fn recipients(&self) -> impl Iterator<Item = &str> {
        self.deliveries.iter().map(|delivery| delivery.space.id.as_str())
    }

    /// What became of it; a failed delivery that was made good later is none.
    pub(super) fn shown(&self) -> Shown {
        let good = |space: &Space| self.deliveries.iter().any(|d| d.refusal.is_none() && d.space == *space);
        if self.shown_count == 0 {
            Shown::Undelivered
        } else if self.deliveries.iter().any(|d| d.refusal.is_some() && !good(&d.space)) {
            Shown::Partly
        } else {
            Shown::Delivered
        }
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        let params = |params: &Params| -> usize {
            let text = |value: &Value| value.as_str().map_or(0, str::len);
            let sizes = params.iter();
            sizes.map(|(key, value)| PARAM_BYTES + key.len() + text(value)).sum()
        };
        let private = self.private.values().filter_map(Value::as_object).map(params);
        let deliveries = self.deliveries.iter();
        let deliveries =
            deliveries.map(|d| DELIVERY_BYTES + d.space.id.len() + d.refusal.as_ref().map_or(0, String::len));
        let updates = self.updates.iter();
        let updates = updates.map(|update| DELIVERY_BYTES + update.request.len() + update.answer.len());
        let texts = [&self.out_track_id, &self.template, &self.request, &self.answer];
        CARD_BYTES
            + texts.map(String::len).iter().sum::<usize>()
            + params(&self.params)
            + private.sum::<usize>()
            + deliveries.sum::<usize>()
            + updates.sum::<usize>()
    }

    /// The card as `/sandbox/cards` prints it.
    pub(super) fn to_json(&self) -> Value {
        let place =
            |d: &Delivery| json!({"space_type": d.space.kind.name(), "space_id": d.space.id, "at": time(&d.at)});
        let shown = self.deliveries.iter().filter(|d| d.refusal.is_none()).map(place);
        let failed = self.deliveries.iter().filter_map(|d| {
            let mut place = place(d);
            place["message"] = json!(d.refusal.as_ref()?);
            Some(place)
        });
        let updates = self
            .updates
            .iter()
            .map(|u| json!({"at": time(&u.at), "request": parsed(&u.request), "answer": parsed(&u.answer)}));
        json!({
            "out_track_id": self.out_track_id,
            "api": self.api.name(),
            "app_key": self.app_key,
            "template": self.template,
            "outcome": self.shown().name(),
            "params": self.params,
            "private": self.private,
            "created_at": time(&self.created_at),
            "deliveries": shown.collect::<Vec<_>>(),
            "delivery_count": self.shown_count,
            "failures": failed.collect::<Vec<_>>(),
            "updates": updates.collect::<Vec<_>>(),
            "update_count": self.update_count,
            "request": parsed(&self.request),
            "answer": parsed(&self.answer),
        })
    }
}

impl Api {
    fn name(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Interactive => "interactive",
        }
    }
}

impl Shown {
    pub(super) const ALL: [Self; 3] = [Self::Delivered, Self::Partly, Self::Undelivered];

    /// The name under `outcome`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Partly => "partly",
            Self::Undelivered => "undelivered",
        }
    }
}

impl SpaceType {
    pub(super) const ALL: [Self; 4] = [Self::ImRobot, Self::ImGroup, Self::ImSingle, Self::OneBox];

    /// The name in `openSpaceId` and in results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ImRobot => "IM_ROBOT",
            Self::ImGroup => "IM_GROUP",
            Self::ImSingle => "IM_SINGLE",
            Self::OneBox => "ONE_BOX",
        }
    }
}

fn overwrite(data: &mut Params, new: Option<Params>, by_key: bool) {
    match new {
        Some(new) if by_key => data.extend(new),
        Some(new) => *data = new,
        None => {}
    }
}

/// RFC 3339, to the millisecond.
pub(super) fn time(at: &Timestamp) -> String {
    format!("{at:.3}")
}

/// Requests and answers are kept as text, a third of the size of their parsed form, and parsed when somebody looks.
pub(super) fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn params(key: &str, value: &str) -> Params {
        Params::from_iter([(key.to_owned(), value.into())])
    }

    fn card() -> Card {
        let mut card = Card::new("a".to_owned(), Api::Instances, "app".to_owned(), "tpl".to_owned());
        card.params = params("pv", "1");
        card
    }

    fn to(id: &str, refusal: Option<&str>) -> (Space, Option<String>) {
        let space = Space {
            kind: SpaceType::ImRobot,
            id: id.to_owned(),
        };
        (space, refusal.map(str::to_owned))
    }

    fn change(params: Params, by_key: bool) -> Change {
        Change {
            params: Some(params),
            private: None,
            params_by_key: by_key,
            private_by_key: false,
            request: "{}".to_owned(),
            answer: "{}".to_owned(),
        }
    }

    #[test]
    fn an_update_overwrites_everything_or_goes_by_key() {
        let mut card = card();
        card.change(change(params("likes", "9"), true));
        assert_eq!(Value::Object(card.params.clone()), json!({"pv": "1", "likes": "9"}));
        card.change(change(params("likes", "9"), false));
        assert_eq!(Value::Object(card.params.clone()), json!({"likes": "9"}));
    }

    #[test]
    fn private_data_of_another_user_survives_an_update() {
        let mut card = card();
        card.private = Params::from_iter([
            ("u1".to_owned(), json!({"x": "1"})),
            ("u2".to_owned(), json!({"x": "2"})),
        ]);
        card.change(Change {
            params: None,
            private: Some(Params::from_iter([("u1".to_owned(), json!({"y": "3"}))])),
            ..change(Params::new(), false)
        });
        assert_eq!(
            Value::Object(card.private.clone()),
            json!({"u1": {"y": "3"}, "u2": {"x": "2"}})
        );
        assert_eq!(card.params["pv"], "1");
    }

    #[test]
    fn what_a_card_remembers_is_bounded_and_what_it_counts_is_not() {
        let mut card = card();
        for _ in 0..DELIVERIES_KEPT + 5 {
            card.deliver(&[to("u1", None)]);
        }
        for _ in 0..UPDATES_KEPT + 5 {
            card.change(change(params("pv", "2"), false));
        }
        let json = card.to_json();
        assert_eq!(json["deliveries"].as_array().unwrap().len(), DELIVERIES_KEPT);
        assert_eq!(json["delivery_count"], DELIVERIES_KEPT + 5);
        assert_eq!(json["updates"].as_array().unwrap().len(), UPDATES_KEPT);
        assert_eq!(json["update_count"], UPDATES_KEPT + 5);
    }

    #[test]
    fn a_failure_counts_until_it_is_made_good() {
        let mut card = card();
        assert_eq!(card.shown(), Shown::Undelivered);
        card.deliver(&[to("u1", None), to("u2", Some("SYSTEM_ERROR"))]);
        assert_eq!(card.shown(), Shown::Partly);
        assert_eq!(card.to_json()["failures"][0]["message"], "SYSTEM_ERROR");
        card.deliver(&[to("u2", None)]);
        assert_eq!((card.shown(), card.shown_count), (Shown::Delivered, 2));
    }

    #[test]
    fn its_size_grows_with_what_it_holds() {
        let (mut card, empty) = (card(), card().bytes());
        card.request = "x".repeat(1000);
        card.change(change(params("pv", &"x".repeat(1000)), true));
        assert!(card.bytes() >= empty + 2000);
    }
}
