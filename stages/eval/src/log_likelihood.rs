//! How probable continuations are. The only file that asks the model.
//!
//! Most of what is read is read once: what many items have before their questions (examples, where all items have
//! the same), and what the choices of an item have before they part. A token's keys and values hang only on the
//! tokens before it, so this is exact but for rounding; where texts were cut at different places, they share nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use okapi_model::{CausalLm, KvCache, Place};

use crate::encoding::Encoded;
use crate::error::EvalError;

/// How probable a continuation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogLikelihood {
    /// The natural logarithm of its probability: the sum over its tokens.
    pub sum: f64,
    /// Whether each of its tokens is the most probable one.
    pub is_greedy: bool,
}

impl LogLikelihood {
    const NOTHING: LogLikelihood = LogLikelihood { sum: 0.0, is_greedy: true };
}

/// Fewer tokens in common are not worth a copy of their keys and values.
const WORTH_SHARING: usize = 8;

/// An item as it is computed.
#[derive(Debug)]
struct Plan {
    parts: Vec<Part>,
    /// For each choice the first one that has the same tokens.
    same: Vec<usize>,
}

/// Choices of an item before which the same was cut off: if nothing was, all of them.
#[derive(Debug)]
struct Part {
    /// Those whose tokens no choice before them has.
    choices: Vec<usize>,
    /// Tokens that they have in common with all items of the same preface.
    preface: usize,
    /// Tokens that they have in common, those of the preface among them.
    prefix: usize,
}

/// Computes log-likelihoods of the choices of items, a batch of items at a time.
#[derive(Debug)]
pub struct Scorer<'a> {
    model: &'a CausalLm,
    items: &'a [Vec<Encoded>],
    prefaces: &'a [usize],
    plans: Vec<Plan>,
    tokens_at_once: usize,
    batches: Vec<Vec<usize>>,
    /// The preface that was read last.
    preface: Option<(usize, KvCache)>,
}

impl<'a> Scorer<'a> {
    /// `prefaces` number what stands before the questions of items, such as their examples. `tokens_at_once` are computed
    /// together, unless a single text has more; that changes nothing.
    ///
    /// # Panics
    /// When there is not one preface for each item.
    pub fn new(
        model: &'a CausalLm,
        items: &'a [Vec<Encoded>],
        prefaces: &'a [usize],
        tokens_at_once: usize,
    ) -> Scorer<'a> {
        assert_eq!(items.len(), prefaces.len(), "one preface for each item");
        let plans = plans(items, prefaces);
        let (batches, preface) = (Vec::new(), None);
        let mut scorer = Scorer { model, items, prefaces, plans, tokens_at_once, batches, preface };
        scorer.batches = scorer.split();
        scorer
    }

    /// The places of the items of each batch; each item is in one of them.
    pub fn batches(&self) -> &[Vec<usize>] {
        &self.batches
    }

    /// The log-likelihoods of a batch: of its items in their order, for each choice.
    ///
    /// # Errors
    /// When a token is not the model's.
    ///
    /// # Panics
    /// When there is no batch of that number.
    pub fn score(&mut self, batch: usize) -> Result<Vec<Vec<LogLikelihood>>, EvalError> {
        let first = self.batches[batch][0];
        if let Some(preface) = self.shared_preface(first)
            && self.preface.as_ref().is_none_or(|(last, _)| *last != preface)
        {
            let prefix = self.plans[first].preface();
            let mut cache = self.model.kv_cache(prefix);
            self.model.read_on(&mut [(&self.items[first][0].tokens[..prefix], &mut cache)])?;
            self.preface = Some((preface, cache));
        }
        self.score_batch(&self.batches[batch])
    }

    /// The preface of an item, if it shares its tokens with others.
    fn shared_preface(&self, item: usize) -> Option<usize> {
        (self.plans[item].preface() > 0).then_some(self.prefaces[item])
    }

    /// Tokens that choices of an item need room for.
    fn room(&self, item: usize, part: &Part) -> usize {
        let lengths = part.choices.iter().map(|choice| self.items[item][*choice].inputs().len());
        lengths.max().unwrap_or(0)
    }

    /// Splits items into batches: those that share a preface by themselves, all others together.
    fn split(&self) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        order.sort_by_key(|item| self.shared_preface(*item));
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let (mut tokens, mut preface) = (usize::MAX, None);
        for item in order {
            let parts = self.plans[item].parts.iter();
            let room: usize = parts.map(|part| self.room(item, part)).sum();
            let fits = tokens.saturating_add(room) <= self.tokens_at_once;
            match batches.last_mut() {
                Some(batch) if fits && preface == self.shared_preface(item) => batch.push(item),
                _ => {
                    batches.push(vec![item]);
                    (tokens, preface) = (0, self.shared_preface(item));
                }
            }
            tokens += room;
        }
        batches
    }

    fn score_batch(&self, batch: &[usize]) -> Result<Vec<Vec<LogLikelihood>>, EvalError> {
        let preface = self.shared_preface(batch[0]).and(self.preface.as_ref());
        let parts = |(place, item): (usize, &usize)| {
            let (plan, item) = (&self.plans[*item], *item);
            plan.parts.iter().map(move |part| Reading { place, item, part })
        };
        let parts: Vec<Reading<'_>> = batch.iter().enumerate().flat_map(parts).collect();
        let nothing = |item: &usize| vec![LogLikelihood::NOTHING; self.items[*item].len()];
        let mut found: Vec<Vec<LogLikelihood>> = batch.iter().map(nothing).collect();
        // An item whose choices share nothing may have more tokens than are computed together.
        let mut rest = &parts[..];
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |reading: &&Reading<'_>| {
                tokens += self.room(reading.item, reading.part);
                tokens <= self.tokens_at_once
            };
            let (parts, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            self.score_parts(parts, preface.map(|(_, cache)| cache), &mut found)?;
            rest = others;
        }
        for (item, found) in batch.iter().zip(&mut found) {
            for (choice, first) in self.plans[*item].same.iter().enumerate() {
                found[choice] = found[*first];
            }
        }
        Ok(found)
    }

    fn score_parts(
        &self,
        parts: &[Reading<'_>],
        preface: Option<&KvCache>,
        found: &mut [Vec<LogLikelihood>],
    ) -> Result<(), EvalError> {
        let cache = |reading: &Reading<'_>| {
            let room = self.room(reading.item, reading.part);
            preface.map_or_else(|| self.model.kv_cache(room), |preface| preface.copy(room))
        };
        let mut caches: Vec<KvCache> = parts.iter().map(cache).collect();
        // What choices have in common,
        let reads = |Reading { part, .. }: &Reading<'_>| Read {
            choices: part.choices.clone(),
            tokens: part.preface..part.prefix,
        };
        self.read(parts, &mut caches, found, reads)?;
        // and then the first choice of every part, the second, and so on.
        let most = parts.iter().map(|reading| reading.part.choices.len()).max().unwrap_or(0);
        for number in 0..most {
            let reads = |Reading { item, part, .. }: &Reading<'_>| {
                let choices: Vec<usize> = part.choices.get(number).copied().into_iter().collect();
                let ends = choices.first().map(|choice| self.items[*item][*choice].inputs().len());
                Read { tokens: part.prefix..ends.unwrap_or(part.prefix), choices }
            };
            self.read(parts, &mut caches, found, reads)?;
            for (reading, cache) in parts.iter().zip(&mut caches) {
                cache.truncate(reading.part.prefix);
            }
        }
        Ok(())
    }

    /// Reads on in every part, and adds what this says of its choices.
    fn read(
        &self,
        parts: &[Reading<'_>],
        caches: &mut [KvCache],
        found: &mut [Vec<LogLikelihood>],
        reads: impl Fn(&Reading<'_>) -> Read,
    ) -> Result<(), EvalError> {
        let mut rows = Vec::new();
        let (mut places, mut owners) = (Vec::new(), Vec::new());
        let mut first_row = 0;
        for (reading, cache) in parts.iter().zip(caches) {
            let Read { choices, tokens } = reads(reading);
            if tokens.is_empty() {
                continue;
            }
            let item = &self.items[reading.item];
            for choice in &choices {
                let Encoded { tokens: all, scored, .. } = &item[*choice];
                let begins = all.len() - 1 - scored;
                for position in tokens.start.max(begins)..tokens.end {
                    let row = first_row + position - tokens.start;
                    places.push(Place { row, next: all[position + 1] });
                    owners.push((reading.place, *choice));
                }
            }
            rows.push((&item[choices[0]].tokens[tokens.clone()], cache));
            first_row += tokens.len();
        }
        if rows.is_empty() {
            return Ok(());
        }
        let states = self.model.read_on(&mut rows)?;
        let scores = self.model.scores_apart(&states, &places)?;
        for (score, (place, choice)) in scores.iter().zip(owners) {
            let found: &mut LogLikelihood = &mut found[place][choice];
            found.sum += score.log_probability;
            found.is_greedy &= score.is_top;
        }
        Ok(())
    }
}

/// A part that is read: of this item, at this place in its batch.
struct Reading<'a> {
    place: usize,
    item: usize,
    part: &'a Part,
}

/// What is read on in a part: these tokens, which belong to these choices.
struct Read {
    choices: Vec<usize>,
    tokens: Range<usize>,
}

/// Finds what items and choices have in common.
fn plans(items: &[Vec<Encoded>], prefaces: &[usize]) -> Vec<Plan> {
    let mut plans: Vec<Plan> = items.iter().map(|choices| plan(choices)).collect();
    // What items of a preface have in common is found over all of them, so that no item's numbers hang on which of
    // them are computed together. What was cut has its examples at other places.
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let is_whole = |item: &usize| items[*item].iter().all(|choice| choice.cut == 0);
    for item in (0..items.len()).filter(is_whole) {
        members.entry(prefaces[item]).or_default().push(item);
    }
    for members in members.values().filter(|members| members.len() > 1) {
        let first = items[members[0]][0].inputs();
        let most = |item: &usize| {
            let common = common(first, items[*item][0].inputs());
            // The last token before a choice is read with its item, for the choice's first is scored there.
            let before = items[*item].iter().map(|choice| choice.inputs().len() - choice.scored);
            let prefixes = plans[*item].parts.iter().map(|part| part.prefix);
            before.chain(prefixes).chain([common]).min().unwrap_or(0)
        };
        let prefix = members.iter().map(most).min().unwrap_or(0);
        if prefix >= WORTH_SHARING {
            for item in members {
                plans[*item].parts.iter_mut().for_each(|part| part.preface = prefix);
            }
        }
    }
    plans
}

impl Plan {
    /// Tokens that the item has in common with all of the same preface.
    fn preface(&self) -> usize {
        self.parts.first().map_or(0, |part| part.preface)
    }
}

fn plan(choices: &[Encoded]) -> Plan {
    let same = |choice: &Encoded| choices.iter().position(|other| other == choice).unwrap_or(0);
    let same: Vec<usize> = choices.iter().map(same).collect();
    let mut parts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for choice in (0..choices.len()).filter(|choice| same[*choice] == *choice) {
        parts.entry(choices[choice].cut).or_default().push(choice);
    }
    let part = |members: Vec<usize>| {
        let first = choices[members[0]].inputs();
        let common = members.iter().map(|choice| common(first, choices[*choice].inputs()));
        Part { prefix: common.min().unwrap_or(0), preface: 0, choices: members }
    };
    Plan { parts: parts.into_values().map(part).collect(), same }
}

/// How many tokens two texts have in common at their beginnings.
fn common(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Choices of an item that share a context, a token or two each.
    fn item(context: &[u32], choices: &[&[u32]], cut: usize) -> Vec<Encoded> {
        let choice = |choice: &&[u32]| Encoded {
            tokens: [context, choice].concat(),
            scored: choice.len(),
            cut,
        };
        choices.iter().map(choice).collect()
    }

    #[test]
    fn what_texts_have_in_common_is_found() {
        let examples: Vec<u32> = (100..120).collect();
        let after = |own: &[u32]| [&examples, own].concat();
        let items = [
            // The last token of a choice is not read, so that choices of one token have all in common.
            item(&after(&[1, 2, 3]), &[&[7], &[8], &[7]], 0),
            // The first tokens of the choices are the same.
            item(&after(&[4]), &[&[7, 8, 9], &[7, 9]], 0),
            // Two choices are as long as each other, and one is cut at another place.
            [
                item(&after(&[1, 2, 3])[2..], &[&[7], &[8]], 2),
                item(&after(&[1, 2, 3])[3..], &[&[8, 8]], 3),
            ]
            .concat(),
            // Another preface with one item, and one with little in common.
            item(&after(&[1, 2, 3]), &[&[7], &[8]], 0),
            item(&[1, 2, 3, 4], &[&[7], &[8]], 0),
            item(&[1, 2, 3, 5], &[&[7], &[8]], 0),
        ];
        let plans = plans(&items, &[0, 0, 0, 1, 2, 2]);
        let part = |part: &Part| (part.choices.clone(), part.preface, part.prefix);
        let found = |plan: &Plan| plan.parts.iter().map(part).collect::<Vec<_>>();
        let expected = [
            vec![(vec![0, 1], 20, 23)],
            vec![(vec![0, 1], 20, 22)],
            vec![(vec![0, 1], 0, 21), (vec![2], 0, 21)],
            vec![(vec![0, 1], 0, 23)],
            vec![(vec![0, 1], 0, 4)],
            vec![(vec![0, 1], 0, 4)],
        ];
        assert_eq!(plans.iter().map(found).collect::<Vec<_>>(), expected);
        assert_eq!(plans[0].same, [0, 1, 0]);
    }
}
