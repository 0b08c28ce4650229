//! The card store: instances by `outTrackId`, as many as may be kept.
//!
//! It counts messages that a recipient got twice, which is what a test of a worker wants to know, and refuses nothing
//! for being wrong, only for being there or not there: what a call must look like is decided before it comes here.
//! Memory is bounded by `keep`, in cards and, for large ones, in bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::card::{Card, Change, Space, SpaceType};

/// Bytes of a card, on average, at most: fewer cards are kept where they are larger.
const BYTES_PER_CARD: usize = 4096;
/// Messages (card and recipient) that are remembered as seen for each card that is kept.
const SEEN_PER_CARD: usize = 10;

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
    bytes: usize,
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
            bytes: 0,
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

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// All cards as they are now, newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Arc<Card>> {
        self.by_age.values().rev()
    }

    /// Takes a new instance; `false` where there is one of that ID, which stays as it is.
    pub(super) fn create(&mut self, card: Card) -> bool {
        if self.by_id.contains_key(&card.out_track_id) {
            return false;
        }
        self.bytes += card.bytes();
        self.by_id.insert(card.out_track_id.clone(), self.next);
        self.by_age.insert(self.next, Arc::new(card));
        self.next += 1;
        self.forget();
        true
    }

    /// Tries to show a card in each of the spaces, again where it was shown before. Beside a space stands why it fails.
    pub(super) fn show(&mut self, out_track_id: &str, spaces: &[(Space, Option<String>)]) {
        for (space, _) in spaces.iter().filter(|(_, refusal)| refusal.is_none()) {
            self.count(out_track_id, space);
        }
        self.edit(out_track_id, |card| card.deliver(spaces));
    }

    /// Changes a card's data, if it is there.
    pub(super) fn update(&mut self, out_track_id: &str, change: Change) {
        self.edit(out_track_id, |card| card.change(change));
    }

    /// Adds models of space types to a card, if it is there.
    pub(super) fn carry(&mut self, out_track_id: &str, kinds: &[SpaceType]) {
        self.edit(out_track_id, |card| {
            for kind in kinds {
                if !card.carries.contains(kind) {
                    card.carries.push(*kind);
                }
            }
        });
    }

    /// Forgets one card; `false` where it is not there.
    pub(super) fn remove(&mut self, out_track_id: &str) -> bool {
        let age = self.by_id.remove(out_track_id);
        let Some(card) = age.and_then(|age| self.by_age.remove(&age)) else {
            return false;
        };
        self.bytes -= card.bytes();
        true
    }

    /// Forgets every card; the tally stays.
    pub(super) fn clear(&mut self) -> usize {
        let count = self.by_age.len();
        self.by_age.clear();
        self.by_id.clear();
        self.bytes = 0;
        self.seen = Default::default();
        count
    }

    fn edit(&mut self, out_track_id: &str, edit: impl FnOnce(&mut Card)) {
        let age = self.by_id.get(out_track_id);
        let Some(card) = age.and_then(|age| self.by_age.get_mut(age)).map(Arc::make_mut) else {
            return;
        };
        let before = card.bytes();
        edit(card);
        self.bytes = self.bytes - before + card.bytes();
        self.forget();
    }

    /// The newest one stays whatever its size.
    fn forget(&mut self) {
        let bytes = self.keep.saturating_mul(BYTES_PER_CARD);
        while self.len() > 1 && (self.len() > self.keep || self.bytes > bytes) {
            if let Some((_, oldest)) = self.by_age.pop_first() {
                self.by_id.remove(&oldest.out_track_id);
                self.bytes -= oldest.bytes();
            }
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::card::Api;
    use super::*;

    fn card(id: &str, request: &str) -> Card {
        let mut card = Card::new(id.to_owned(), Api::Instances, "app".to_owned(), "tpl".to_owned());
        request.clone_into(&mut card.request);
        card
    }

    fn to(ids: &[&str]) -> Vec<(Space, Option<String>)> {
        let space = |id: &&str| Space {
            kind: SpaceType::ImRobot,
            id: (*id).to_owned(),
        };
        ids.iter().map(|id| (space(id), None)).collect()
    }

    fn ids(cards: &Cards) -> Vec<&str> {
        cards.newest().map(|card| card.out_track_id.as_str()).collect()
    }

    #[test]
    fn an_id_makes_one_card_and_the_first_content_stays() {
        let mut cards = Cards::new(10);
        assert!(cards.create(card("a", "1")));
        assert!(!cards.create(card("a", "2")));
        assert_eq!(cards.get("a").unwrap().request, "1");
    }

    #[test]
    fn the_oldest_is_forgotten_and_still_counted() {
        let mut cards = Cards::new(2);
        for id in ["a", "b", "c"] {
            cards.create(card(id, ""));
            cards.show(id, &to(&["u1"]));
        }
        assert!(cards.get("a").is_none());
        assert_eq!(ids(&cards), ["c", "b"]);
        assert_eq!(
            (cards.tally.total, cards.tally.recipients(), cards.tally.duplicates),
            (3, 1, 0)
        );
    }

    #[test]
    fn of_large_cards_fewer_are_kept_but_the_newest_always() {
        let mut cards = Cards::new(10);
        let large = "x".repeat(3 * BYTES_PER_CARD);
        for id in ["a", "b", "c", "d"] {
            cards.create(card(id, &large));
        }
        assert_eq!(ids(&cards), ["d", "c", "b"]);
        cards.create(card("e", &"x".repeat(100 * BYTES_PER_CARD)));
        assert_eq!(ids(&cards), ["e"]);
        // Its room is free again.
        assert!(cards.remove("e"));
        assert_eq!((cards.len(), cards.bytes), (0, 0));
    }

    #[test]
    fn updates_take_room_too() {
        let mut cards = Cards::new(2);
        for id in ["a", "b"] {
            cards.create(card(id, ""));
        }
        let change = Change {
            params: None,
            private: None,
            params_by_key: false,
            private_by_key: false,
            request: "x".repeat(2 * BYTES_PER_CARD),
            answer: String::new(),
        };
        cards.update("b", change);
        assert_eq!(ids(&cards), ["b"]);
    }

    #[test]
    fn a_second_message_of_one_card_to_one_recipient_is_a_duplicate() {
        let mut cards = Cards::new(1);
        cards.create(card("a", ""));
        cards.show("a", &to(&["u1", "u2"]));
        cards.show("a", &to(&["u2"]));
        assert_eq!(cards.tally.duplicates, 1);
        // Even when the card was forgotten in between and made anew.
        cards.create(card("b", ""));
        cards.create(card("a", ""));
        cards.show("a", &to(&["u1"]));
        assert_eq!((cards.tally.total, cards.tally.duplicates), (4, 2));
    }
}
