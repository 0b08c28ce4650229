//! Slices: which positions of a job one call serves, which of them are still open, and how that is written in a header.
//!
//! A slice is cut once and keeps its first and last position, because they are part of its card's identity
//! (`outTrackId`); only a refusal that may be one recipient's fault halves it, into two slices of their own. The worker
//! works on slices and the dead letters replay them, so neither owns them. This file is arithmetic: it knows no
//! recipient, no card and no broker.
//!
//! Written form, one slice after the other with `;` between: `first-last`, then how much is known of the card, then the
//! open positions where not all are: `0-19` (nothing shown yet), `20-38?` (an answer was lost), `40-59+44,51` (the card
//! exists and two have missed it), `60-79:61-79` (60 is dead, the others have not been tried).

use std::fmt;

/// What is known of a slice's card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Card {
    /// Nothing was sent, or it was refused.
    Unsent,
    /// A request was written and its answer lost: the card may exist.
    Lost,
    /// The card exists; the open positions have missed it.
    Shown,
}

/// A contiguous range of positions, the open ones among them, and what is known of the card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    first: usize,
    last: usize,
    /// Ascending, without repetition, never empty, all within first to last.
    open: Vec<usize>,
    /// What is known of its card.
    pub card: Card,
}

/// The slices of a job that have open positions; no position is open in two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slices(pub Vec<Slice>);

impl Slice {
    /// An untouched slice of all positions from `first` to `last`.
    #[must_use]
    pub fn whole(first: usize, last: usize) -> Self {
        Self {
            first,
            last,
            open: (first..=last).collect(),
            card: Card::Unsent,
        }
    }

    /// The first and the last position, open or not: the slice's identity.
    #[must_use]
    pub fn bounds(&self) -> (usize, usize) {
        (self.first, self.last)
    }

    /// Whether every position is open.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.open.len() == self.last - self.first + 1
    }

    /// The open positions.
    #[must_use]
    pub fn open(&self) -> &[usize] {
        &self.open
    }

    /// The slice with only those open positions that `keep` names; `None` where none is left.
    #[must_use]
    pub fn retain(mut self, keep: impl Fn(usize) -> bool) -> Option<Self> {
        self.open.retain(|p| keep(*p));
        (!self.open.is_empty()).then_some(self)
    }

    /// Both halves, each a slice of its own with a card of its own; halves without open positions are left out. `None`
    /// for a slice of one position, and for one whose card exists: its missing recipients belong to that card.
    #[must_use]
    pub fn halves(&self) -> Option<Vec<Self>> {
        if self.first == self.last || self.card == Card::Shown {
            return None;
        }
        let middle = self.first.midpoint(self.last);
        let half = |first, last| {
            let open = self
                .open
                .iter()
                .copied()
                .filter(|p| (first..=last).contains(p))
                .collect();
            Self {
                first,
                last,
                open,
                card: Card::Unsent,
            }
        };
        let both = [half(self.first, middle), half(middle + 1, self.last)];
        Some(both.into_iter().filter(|h| !h.open.is_empty()).collect())
    }
}

impl Slices {
    /// Cuts `0..count` into slices of at most `per_call`; `alone(p)` says that no call serves position `p` and another.
    #[must_use]
    pub fn cut(count: usize, per_call: usize, alone: impl Fn(usize) -> bool) -> Self {
        let mut slices: Vec<Slice> = Vec::new();
        let mut first = 0;
        for position in 0..count {
            let next = position + 1;
            let full = next - first >= per_call.max(1);
            if full || next == count || alone(position) || alone(next) {
                slices.push(Slice::whole(first, position));
                first = next;
            }
        }
        Self(slices)
    }

    /// How many positions are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.iter().map(|s| s.open.len()).sum()
    }

    /// Adds a slice; one of the same bounds is the same slice, of which more is open or known.
    pub fn add(&mut self, slice: Slice) {
        match self.0.binary_search_by_key(&slice.bounds(), Slice::bounds) {
            Ok(at) => {
                let known = &mut self.0[at];
                known.card = known.card.max(slice.card);
                known.open.extend(slice.open);
                known.open.sort_unstable();
                known.open.dedup();
            }
            Err(at) => self.0.insert(at, slice),
        }
    }

    /// Reads the written form. `None` where it is not one, names a position of `count` or more, or a position or a slice
    /// twice.
    #[must_use]
    pub fn parse(text: &str, count: usize) -> Option<Self> {
        let mut seen = vec![false; count];
        let mut slices = Self::default();
        for part in text.split(';').filter(|s| !s.is_empty()) {
            let slice = parse_slice(part).filter(|s| s.last < count)?;
            let twice = slice.open.iter().any(|p| std::mem::replace(&mut seen[*p], true));
            if twice || slices.0.iter().any(|s| s.bounds() == slice.bounds()) {
                return None;
            }
            slices.add(slice);
        }
        Some(slices)
    }
}

fn parse_slice(text: &str) -> Option<Slice> {
    let mark = text.find(['?', '+', ':']);
    let (bounds, open) = text.split_at(mark.unwrap_or(text.len()));
    let (first, last) = parse_range(bounds)?;
    let card = match open.chars().next() {
        Some('?') => Card::Lost,
        Some('+') => Card::Shown,
        _ => Card::Unsent,
    };
    let whole = Slice {
        card,
        ..Slice::whole(first, last)
    };
    match open.get(1..) {
        None | Some("") => (open != ":").then_some(whole),
        Some(listed) => {
            let open = parse_positions(listed)?;
            let within = open.iter().all(|p| (first..=last).contains(p));
            (within && !open.is_empty()).then_some(Slice { open, ..whole })
        }
    }
}

/// `7` or `3-9`; bounded, so that a forged header cannot ask for a list of billions.
fn parse_range(text: &str) -> Option<(usize, usize)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (first <= last && last - first < 1000).then_some((first.into(), last.into()))
}

/// Positions as they stand in headers: `3,17` or `0-4,9`. `None` where they are not ascending numbers.
#[must_use]
pub fn parse_positions(text: &str) -> Option<Vec<usize>> {
    let ranges = text.split(',').map(parse_range).collect::<Option<Vec<_>>>()?;
    let positions: Vec<usize> = ranges
        .into_iter()
        .flat_map(|(first, last)| first..=last)
        .take(1001)
        .collect();
    (positions.len() <= 1000 && positions.is_sorted_by(|a, b| a < b)).then_some(positions)
}

/// The written form of ascending positions, runs of them as ranges.
#[must_use]
pub fn write_positions(positions: &[usize]) -> String {
    let runs = positions.chunk_by(|a, b| *b == a + 1);
    let written = runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    written.collect::<Vec<_>>().join(",")
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)?;
        } else {
            write!(f, "{}-{}", self.first, self.last)?;
        }
        let all = self.is_whole();
        let mark = match self.card {
            Card::Unsent if all => "",
            Card::Unsent => ":",
            Card::Lost => "?",
            Card::Shown => "+",
        };
        write!(
            f,
            "{mark}{}",
            if all {
                String::new()
            } else {
                write_positions(&self.open)
            }
        )
    }
}

impl fmt::Display for Slices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, slice) in self.0.iter().enumerate() {
            write!(f, "{}{slice}", if n == 0 { "" } else { ";" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn positions(slices: &[Slice]) -> Vec<usize> {
        slices.iter().flat_map(|s| s.open().to_vec()).collect()
    }

    #[test]
    fn slices_are_cut_at_the_size_of_a_call_and_around_those_who_stand_alone() {
        assert_eq!(Slices::cut(45, 20, |_| false).to_string(), "0-19;20-39;40-44");
        assert_eq!(Slices::cut(6, 4, |p| p == 2 || p == 5).to_string(), "0-1;2;3-4;5");
        assert_eq!(Slices::cut(1, 20, |_| true).to_string(), "0");
    }

    #[test]
    fn the_written_form_is_the_one_of_the_contract() {
        let slices = Slices::parse("0-19;20-38?;40-59+44,51;60-79:61-79", 80).unwrap();
        assert_eq!(slices.0[1].card, Card::Lost);
        assert_eq!(slices.0[2].open(), [44, 51]);
        assert_eq!((slices.0[3].open().len(), slices.0[3].card), (19, Card::Unsent));
        assert_eq!(slices.to_string(), "0-19;20-38?;40-59+44,51;60-79:61-79");
    }

    #[test]
    fn a_header_that_is_none_or_names_positions_beyond_the_job_is_refused() {
        for wrong in [
            "x", "3-1", "0-19;5-7", "0-4?2;2", "0-4+7", "0-65536", "0-19+", "5:", "-1", "0-2:2,1",
        ] {
            let parsed = Slices::parse(wrong, 20);
            assert!(parsed.is_none() || parsed.unwrap().to_string() == wrong, "{wrong}");
        }
        for overlapping in ["0-19+3;7", "0-19:5-6;5-7:7"] {
            assert_eq!(Slices::parse(overlapping, 20).unwrap().to_string(), overlapping);
        }
        assert_eq!(Slices::parse("0-2:1;0-2:2", 20), None, "one slice is written once");
        assert_eq!(Slices::parse("0-19", 19), None);
        assert_eq!(Slices::parse("", 5), Some(Slices::default()));
    }

    #[test]
    fn a_slice_of_one_and_one_whose_card_exists_are_not_halved() {
        assert_eq!(Slice::whole(3, 3).halves(), None);
        assert_eq!(
            Slice {
                card: Card::Shown,
                ..Slice::whole(0, 3)
            }
            .halves(),
            None
        );
        let halves = Slice::whole(0, 4).halves().unwrap();
        assert_eq!((halves[0].bounds(), halves[1].bounds()), ((0, 2), (3, 4)));
    }

    #[test]
    fn one_slice_added_twice_is_one_of_which_more_is_known() {
        let mut slices = Slices::default();
        slices.add(Slice::whole(20, 39));
        slices.add(
            Slice {
                card: Card::Shown,
                ..Slice::whole(0, 4)
            }
            .retain(|p| p == 3)
            .unwrap(),
        );
        slices.add(Slice::whole(0, 4).retain(|p| p == 1).unwrap());
        assert_eq!(slices.to_string(), "0-4+1,3;20-39");
    }

    proptest! {
        #[test]
        fn cutting_and_halving_lose_no_position_and_serve_none_twice(
            count in 1_usize..300,
            per_call in 1_usize..21,
            alone in prop::collection::btree_set(0_usize..300, 0..20),
            dead in prop::collection::btree_set(0_usize..300, 0..20),
        ) {
            let slices = Slices::cut(count, per_call, |p| alone.contains(&p));
            prop_assert_eq!(positions(&slices.0), (0..count).collect::<Vec<_>>());
            let open: Vec<_> = slices.0.into_iter().filter_map(|s| s.retain(|p| !dead.contains(&p))).collect();
            let before = positions(&open);
            let halves: Vec<_> = open.iter().flat_map(|s| s.halves().unwrap_or_else(|| vec![s.clone()])).collect();
            prop_assert_eq!(positions(&halves), before);
        }

        #[test]
        fn what_is_written_reads_back_the_same(
            cuts in prop::collection::vec((1_usize..25, 0_u8..3, any::<u32>()), 1..40),
        ) {
            let mut first = 0;
            let mut slices = Vec::new();
            for (length, card, mask) in cuts {
                let card = [Card::Unsent, Card::Lost, Card::Shown][usize::from(card)];
                let slice = Slice { card, ..Slice::whole(first, first + length - 1) };
                slices.extend(slice.retain(|p| mask & (1 << (p - first)) != 0));
                first += length;
            }
            let slices = Slices(slices);
            prop_assert_eq!(Slices::parse(&slices.to_string(), first), Some(slices));
        }

        #[test]
        fn any_text_reads_as_slices_or_as_none(text in "[0-9;,?+:-]{0,40}") {
            if let Some(slices) = Slices::parse(&text, 1000) {
                prop_assert!(slices.0.iter().all(|s| !s.open().is_empty()));
            }
        }
    }
}
