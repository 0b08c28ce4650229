//! The card store: instances by `outTrackId`, with the messages that show them and the updates they got.
//!
//! An instance is not a message (dingtalk-api.md §4.3): one instance can be shown many times, and showing it again
//! never changes it. This file keeps that apart and counts messages that a recipient got twice, which is what a
//! test of a worker wants to know. It refuses nothing for being wrong, only for being there or not there: what a
//! call must look like is decided before it comes here. Memory is bounded by `keep`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Parameters by name.
pub(super) type Params = Map<String, Value>;

/// Messages and updates that a single card remembers; beyond them it only counts.
const MESSAGES_KEPT: usize = 1000;
const UPDATES_KEPT: usize = 20;
/// Messages (card and recipient) that are remembered as seen for each card that is kept.
const SEEN_PER_CARD: usize = 10;

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

/// A card instance. `request` is the call that made it, as it came.
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
    created_at: Timestamp,
    messages: Vec<(Space, Timestamp)>,
    message_count: u64,
    updates: Vec<(Timestamp, String)>,
    update_count: u64,
}

/// What a `PUT` changes.
pub(super) struct Change {
    pub(super) params: Option<Params>,
    pub(super) private: Option<Params>,
    pub(super) params_by_key: bool,
    pub(super) private_by_key: bool,
    pub(super) request: String,
}

/// How many messages there were since the counts were last reset, of cards long forgotten too.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) total: u64,
    pub(super) duplicates: u64,
    recipients: HashSet<u64>,
}

impl Tally {
    /// How many different recipients there were.
    pub(super) fn recipients(&self) -> usize {
        self.recipients.len()
    }
}

/// All cards, oldest first.
pub(super) struct Cards {
    keep: usize,
    next: u64,
    by_age: BTreeMap<u64, Arc<Card>>,
    by_id: HashMap<String, u64>,
    hasher: RandomState,
    /// Messages by hash, in two generations: when the young one is full the old one is forgotten.
    seen: [HashSet<u64>; 2],
    pub(super) tally: Tally,
}

impl Cards {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            keep: keep.max(1),
            next: 0,
            by_age: BTreeMap::new(),
            by_id: HashMap::new(),
            hasher: RandomState::new(),
            seen: Default::default(),
            tally: Tally::default(),
        }
    }

    /// The card of that ID, whichever API made it.
    pub(super) fn get(&self, out_track_id: &str) -> Option<Arc<Card>> {
        self.by_age.get(self.by_id.get(out_track_id)?).cloned()
    }

    /// All cards as they are now, newest first.
    pub(super) fn all(&self) -> Vec<Arc<Card>> {
        self.by_age.values().rev().cloned().collect()
    }

    /// Takes a new instance; `false` where there is one of that ID, which stays as it is.
    pub(super) fn create(&mut self, card: Card) -> bool {
        if self.by_id.contains_key(&card.out_track_id) {
            return false;
        }
        self.by_id.insert(card.out_track_id.clone(), self.next);
        self.by_age.insert(self.next, Arc::new(card));
        self.next += 1;
        while self.by_age.len() > self.keep {
            if let Some((_, oldest)) = self.by_age.pop_first() {
                self.by_id.remove(&oldest.out_track_id);
            }
        }
        true
    }

    /// Shows a card in each of the spaces, again where it was shown before.
    pub(super) fn show(&mut self, out_track_id: &str, spaces: &[Space]) -> Option<Arc<Card>> {
        let now = Timestamp::now();
        for space in spaces {
            self.count(out_track_id, space);
        }
        let card = self.card(out_track_id)?;
        card.message_count += spaces.len() as u64;
        let room = MESSAGES_KEPT.saturating_sub(card.messages.len());
        card.messages
            .extend(spaces.iter().take(room).map(|space| (space.clone(), now)));
        self.get(out_track_id)
    }

    /// Changes a card's data: all of it, or key by key (dingtalk-api.md §4.5).
    pub(super) fn update(&mut self, out_track_id: &str, change: Change) -> Option<Arc<Card>> {
        let card = self.card(out_track_id)?;
        overwrite(&mut card.params, change.params, change.params_by_key);
        // Private data is overwritten user by user, and by key within a user.
        for (user, data) in change.private.unwrap_or_default() {
            let Value::Object(data) = data else { continue };
            let entry = card.private.entry(user).or_insert_with(|| json!({}));
            if let Value::Object(before) = entry {
                overwrite(before, Some(data), change.private_by_key);
            }
        }
        card.update_count += 1;
        if card.updates.len() == UPDATES_KEPT {
            card.updates.remove(0);
        }
        card.updates.push((Timestamp::now(), change.request));
        self.get(out_track_id)
    }

    /// Adds models of space types to a card.
    pub(super) fn carry(&mut self, out_track_id: &str, kinds: &[SpaceType]) -> Option<()> {
        let card = self.card(out_track_id)?;
        for kind in kinds {
            if !card.carries.contains(kind) {
                card.carries.push(*kind);
            }
        }
        Some(())
    }

    /// Forgets every card; the tally stays.
    pub(super) fn clear(&mut self) -> usize {
        let count = self.by_age.len();
        self.by_age.clear();
        self.by_id.clear();
        self.seen = Default::default();
        count
    }

    fn card(&mut self, out_track_id: &str) -> Option<&mut Card> {
        self.by_age.get_mut(self.by_id.get(out_track_id)?).map(Arc::make_mut)
    }

    fn count(&mut self, out_track_id: &str, space: &Space) {
        let bound = self.keep.saturating_mul(SEEN_PER_CARD);
        let message = self.hasher.hash_one((out_track_id, space));
        let [young, old] = &mut self.seen;
        let again = old.contains(&message) || !young.insert(message);
        if young.len() > bound {
            *old = std::mem::take(young);
        }
        self.tally.total += 1;
        self.tally.duplicates += u64::from(again);
        if self.tally.recipients.len() < bound {
            self.tally.recipients.insert(self.hasher.hash_one(space));
        }
    }
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
            created_at: Timestamp::now(),
            messages: Vec::new(),
            message_count: 0,
            updates: Vec::new(),
            update_count: 0,
        }
    }

    /// Whether the card was shown to this recipient.
    pub(super) fn shown_to(&self, space_id: &str) -> bool {
        self.messages.iter().any(|(space, _)| space.id == space_id)
    }

    /// Whether the text (lower case) occurs in the card: its ID, app, template, data or recipients.
    pub(super) fn mentions(&self, text: &str) -> bool {
        let holds = |field: &str| field.to_lowercase().contains(text);
        holds(&self.out_track_id)
            || holds(&self.app_key)
            || holds(&self.template)
            || self
                .params
                .iter()
                .any(|(key, value)| holds(key) || value.as_str().is_some_and(holds))
            || self.messages.iter().any(|(space, _)| holds(&space.id))
            || (!self.private.is_empty() && holds(&Value::Object(self.private.clone()).to_string()))
    }

    /// The card as `/sandbox/cards` prints it.
    pub(super) fn to_json(&self) -> Value {
        let deliveries = self
            .messages
            .iter()
            .map(|(space, at)| json!({"space_type": space.kind.name(), "space_id": space.id, "at": time(at)}));
        let updates = self
            .updates
            .iter()
            .map(|(at, request)| json!({"at": time(at), "request": parsed(request)}));
        json!({
            "out_track_id": self.out_track_id,
            "api": self.api.name(),
            "app_key": self.app_key,
            "template": self.template,
            "params": self.params,
            "private": self.private,
            "created_at": time(&self.created_at),
            "deliveries": deliveries.collect::<Vec<_>>(),
            "delivery_count": self.message_count,
            "updates": updates.collect::<Vec<_>>(),
            "update_count": self.update_count,
            "request": parsed(&self.request),
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
fn time(at: &Timestamp) -> String {
    format!("{at:.3}")
}

/// Requests are kept as text, a third of the size of their parsed form, and parsed when somebody looks.
fn parsed(request: &str) -> Value {
    serde_json::from_str(request).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn params(value: &str) -> Params {
        Params::from_iter([("pv".to_owned(), value.into())])
    }

    fn card(id: &str) -> Card {
        let mut card = Card::new(id.to_owned(), Api::Instances, "app".to_owned(), "tpl".to_owned());
        card.params = params("1");
        card
    }

    fn user(id: &str) -> Space {
        Space {
            kind: SpaceType::ImRobot,
            id: id.to_owned(),
        }
    }

    fn change(params: Params, by_key: bool) -> Change {
        Change {
            params: Some(params),
            private: None,
            params_by_key: by_key,
            private_by_key: false,
            request: "{}".to_owned(),
        }
    }

    #[test]
    fn an_id_makes_one_card_and_the_first_content_stays() {
        let mut cards = Cards::new(10);
        assert!(cards.create(card("a")));
        let mut second = card("a");
        second.params = params("2");
        assert!(!cards.create(second));
        assert_eq!(cards.get("a").unwrap().params["pv"], "1");
    }

    #[test]
    fn the_oldest_is_forgotten_and_still_counted() {
        let mut cards = Cards::new(2);
        for id in ["a", "b", "c"] {
            cards.create(card(id));
            cards.show(id, &[user("u1")]);
        }
        assert!(cards.get("a").is_none());
        assert_eq!(
            cards
                .all()
                .iter()
                .map(|card| card.out_track_id.as_str())
                .collect::<Vec<_>>(),
            ["c", "b"]
        );
        assert_eq!(
            (cards.tally.total, cards.tally.recipients(), cards.tally.duplicates),
            (3, 1, 0)
        );
    }

    #[test]
    fn a_second_message_of_one_card_to_one_recipient_is_a_duplicate() {
        let mut cards = Cards::new(1);
        cards.create(card("a"));
        cards.show("a", &[user("u1"), user("u2")]);
        cards.show("a", &[user("u2")]);
        assert_eq!(cards.tally.duplicates, 1);
        // Even when the card was forgotten in between and made anew.
        cards.create(card("b"));
        cards.create(card("a"));
        cards.show("a", &[user("u1")]);
        assert_eq!((cards.tally.total, cards.tally.duplicates), (4, 2));
    }

    #[test]
    fn an_update_overwrites_everything_or_goes_by_key() {
        let mut cards = Cards::new(10);
        cards.create(card("a"));
        let likes = Params::from_iter([("likes".to_owned(), "9".into())]);
        let merged = cards.update("a", change(likes.clone(), true)).unwrap();
        assert_eq!(Value::Object(merged.params.clone()), json!({"pv": "1", "likes": "9"}));
        let replaced = cards.update("a", change(likes, false)).unwrap();
        assert_eq!(Value::Object(replaced.params.clone()), json!({"likes": "9"}));
    }

    #[test]
    fn private_data_of_another_user_survives_an_update() {
        let mut cards = Cards::new(10);
        let mut first = card("a");
        first.private = Params::from_iter([
            ("u1".to_owned(), json!({"x": "1"})),
            ("u2".to_owned(), json!({"x": "2"})),
        ]);
        cards.create(first);
        let private = Some(Params::from_iter([("u1".to_owned(), json!({"y": "3"}))]));
        let after = cards
            .update(
                "a",
                Change {
                    params: None,
                    private,
                    ..change(Params::new(), false)
                },
            )
            .unwrap();
        assert_eq!(
            Value::Object(after.private.clone()),
            json!({"u1": {"y": "3"}, "u2": {"x": "2"}})
        );
        assert_eq!(after.params["pv"], "1");
    }

    #[test]
    fn what_a_card_remembers_is_bounded_and_what_it_counts_is_not() {
        let mut cards = Cards::new(10);
        cards.create(card("a"));
        for _ in 0..MESSAGES_KEPT + 5 {
            cards.show("a", &[user("u1")]);
        }
        for _ in 0..UPDATES_KEPT + 5 {
            cards.update("a", change(params("2"), false));
        }
        let json = cards.get("a").unwrap().to_json();
        assert_eq!(json["deliveries"].as_array().unwrap().len(), MESSAGES_KEPT);
        assert_eq!(json["delivery_count"], MESSAGES_KEPT + 5);
        assert_eq!(json["updates"].as_array().unwrap().len(), UPDATES_KEPT);
        assert_eq!(json["update_count"], UPDATES_KEPT + 5);
    }
}
