//! Which texts are new: the novelty filter of Self-Instruct and Alpaca, at the size of a paper.
//!
//! A text is too close to an earlier one if their ROUGE-L F is greater than a threshold; earlier are
//! the texts of the pool and all that were kept before. Comparing 106,000 candidates with a pool of
//! 52,000 that grows to 158,000 takes some 10^10 comparisons. Nearly all of them cannot reach the
//! threshold, and are left out by bounds that never change a decision:
//!
//! - **Length.** A common subsequence is no longer than the shorter text, so F is at most
//!   `2 min(m, n) / (m + n)`.
//! - **Prefix** (Chaudhuri et al., "A primitive operator for similarity joins", 2006; Bayardo et al.,
//!   "Scaling up all pairs similarity search", 2007). Two texts of `m` and `n` tokens that share at
//!   least `o` of them, counted with repetition, share one among the `m - o + 1` rarest of the one and
//!   the `n - o + 1` rarest of the other (give the k-th occurrence of a token a name of its own, next
//!   to the others', and it is the theorem for sets). So each text is listed under its rarest tokens
//!   only, and a candidate looks at the lists of its own rarest.
//! - **Overlap.** The tokens that two texts share at all, counted with repetition, bound the longest
//!   common subsequence, and are counted faster than that.
//!
//! What is left is compared by [`Pattern`]. All comparisons with texts that were there before run in
//! threads; the order of arrival decides among the new ones, so the result is that of one thread.

use std::collections::BTreeMap;

use crate::rouge::{Pattern, RougeL, tokens};

/// Whether a candidate was kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// It is new; it counts among the earlier texts from now on.
    Novel,
    /// It is too close to an earlier text.
    TooClose {
        /// The place of the nearest one: in the pool, and after it among those that were kept. Of
        /// several equally near the first.
        neighbour: usize,
        /// Their ROUGE-L F.
        score: f64,
    },
}

/// The earlier texts, and the threshold.
#[derive(Debug)]
pub struct NoveltyFilter {
    threshold: f64,
    /// Every distinct token of the pool and later texts. Rarer tokens of the pool have larger
    /// numbers, and tokens that it has not, the largest.
    vocabulary: BTreeMap<Box<str>, u32>,
    texts: Texts,
    /// By token: the texts that have it among their rarest, in order.
    lists: Vec<Vec<u32>>,
}

/// Token sequences, one after the other.
#[derive(Debug, Default)]
struct Texts {
    tokens: Vec<u32>,
    /// The same, each text's sorted, the rarest first.
    sorted: Vec<u32>,
    ends: Vec<u32>,
}

impl Texts {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn range(&self, text: usize) -> std::ops::Range<usize> {
        let from = if text == 0 { 0 } else { self.ends[text - 1] as usize };
        from..self.ends[text] as usize
    }

    fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        let from = self.sorted.len();
        self.sorted.extend_from_slice(tokens);
        self.sorted[from..].sort_unstable_by(|a, b| b.cmp(a));
        self.ends.push(u32::try_from(self.tokens.len()).expect("fewer than 2^32 tokens"));
    }
}

/// Room for one thread's searches.
#[derive(Debug, Default)]
struct Scratch {
    pattern: Pattern,
    sorted: Vec<u32>,
    /// By text: the search that has looked at it last.
    seen: Vec<u32>,
    search: u32,
}

/// How many candidates are searched for in threads before the new ones are compared in order.
const BATCH: usize = 512;

impl NoveltyFilter {
    /// A filter that keeps what is at most `threshold` close to everything in `pool` and to what it
    /// has kept. The texts of the pool are not compared with each other.
    pub fn new<T: AsRef<str>>(pool: &[T], threshold: f64) -> NoveltyFilter {
        let texts: Vec<Vec<String>> = pool.iter().map(|text| tokens(text.as_ref())).collect();
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for token in texts.iter().flatten() {
            *counts.entry(token).or_default() += 1;
        }
        let mut by_count: Vec<(u32, &str)> = counts.iter().map(|(&token, &n)| (n, token)).collect();
        by_count.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let vocabulary =
            by_count.iter().zip(0..).map(|(&(_, token), number)| (token.into(), number)).collect();
        let mut filter =
            NoveltyFilter { threshold, vocabulary, texts: Texts::default(), lists: Vec::new() };
        for text in &texts {
            let numbers = filter.numbers(text);
            filter.insert(&numbers);
        }
        filter
    }

    /// How many texts count as earlier now.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decides on candidates, in their order, with so many threads. The decisions do not depend on
    /// the number of threads, nor on how candidates are spread over calls.
    pub fn admit<T: AsRef<str>>(&mut self, candidates: &[T], threads: usize) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(candidates.len());
        let threads = threads.max(1);
        let mut scratches: Vec<Scratch> = (0..threads).map(|_| Scratch::default()).collect();
        for batch in candidates.chunks(BATCH) {
            let batch: Vec<Vec<u32>> = batch
                .iter()
                .map(|text| {
                    let tokens = tokens(text.as_ref());
                    self.numbers(&tokens)
                })
                .collect();
            let before = self.len();
            let nearest = self.search_all(&batch, &mut scratches);
            for (text, nearest) in batch.iter().zip(nearest) {
                // Texts of the batch itself that were kept meanwhile.
                let later = self.nearest(text, before, &mut scratches[0]);
                // The earlier of two equally near ones.
                let nearest = match (nearest, later) {
                    (Some(earlier), Some(later)) if later.1 > earlier.1 => Some(later),
                    (earlier, later) => earlier.or(later),
                };
                verdicts.push(match nearest {
                    Some((neighbour, score)) => Verdict::TooClose { neighbour, score },
                    None => {
                        self.insert(text);
                        Verdict::Novel
                    }
                });
            }
        }
        verdicts
    }

    fn search_all(
        &self,
        batch: &[Vec<u32>],
        scratches: &mut [Scratch],
    ) -> Vec<Option<(usize, f64)>> {
        let part = batch.len().div_ceil(scratches.len());
        std::thread::scope(|scope| {
            let parts: Vec<_> = batch
                .chunks(part)
                .zip(scratches)
                .map(|(part, scratch)| {
                    scope.spawn(move || {
                        part.iter().map(|text| self.nearest(text, 0, scratch)).collect::<Vec<_>>()
                    })
                })
                .collect();
            parts
                .into_iter()
                .flat_map(|part| {
                    part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        })
    }

    /// The nearest text from the `first` on that is closer than the threshold, and its score.
    fn nearest(&self, text: &[u32], first: usize, scratch: &mut Scratch) -> Option<(usize, f64)> {
        let mut nearest: Option<(usize, f64)> = None;
        if text.is_empty() || first == self.len() {
            return None;
        }
        scratch.pattern.set(text);
        scratch.sorted.clear();
        scratch.sorted.extend_from_slice(text);
        scratch.sorted.sort_unstable_by(|a, b| b.cmp(a));
        scratch.seen.resize(self.len(), 0);
        scratch.search += 1;
        for &token in self.prefix(&scratch.sorted) {
            let Some(list) = self.lists.get(token as usize) else { continue };
            for &other in list.iter().rev().take_while(|&&other| other as usize >= first) {
                let other = other as usize;
                if std::mem::replace(&mut scratch.seen[other], scratch.search) == scratch.search {
                    continue;
                }
                let range = self.texts.range(other);
                let bar = nearest.map_or(self.threshold, |(_, score)| score);
                // What must be shared to reach the bar: F = 2 common / (m + n).
                let needed = shared_for(bar, text.len() + range.len());
                if text.len().min(range.len()) < needed
                    || overlap(&scratch.sorted, &self.texts.sorted[range.clone()]) < needed
                {
                    continue;
                }
                let common = scratch.pattern.common_with(&self.texts.tokens[range.clone()]);
                let score = RougeL::of_lengths(common, text.len(), range.len()).f;
                let nearer = match nearest {
                    None => score > self.threshold,
                    Some((place, best)) => score > best || (score == best && other < place),
                };
                if nearer {
                    nearest = Some((other, score));
                }
            }
        }
        nearest
    }

    /// The least number of tokens that a text of `length` must share with another one, of whatever
    /// length, to be closer to it than the threshold.
    fn least_shared(&self, length: usize) -> usize {
        // common > t (m + n) / 2, and n >= common, so common > t m / (2 - t).
        let bound = self.threshold * length as f64 / (2.0 - self.threshold);
        // Rounding must not cost a pair.
        ((bound - 1e-6).floor() as usize + 1).max(1)
    }

    fn insert(&mut self, text: &[u32]) {
        let number = u32::try_from(self.texts.len()).expect("fewer than 2^32 texts");
        self.texts.push(text);
        if text.is_empty() {
            return;
        }
        let sorted = self.texts.sorted[self.texts.range(number as usize)].to_vec();
        for &token in self.prefix(&sorted) {
            let place = token as usize;
            if self.lists.len() <= place {
                self.lists.resize_with(place + 1, Vec::new);
            }
            // A token that is there twice is listed once.
            if self.lists[place].last() != Some(&number) {
                self.lists[place].push(number);
            }
        }
    }

    /// The rarest tokens of a text: enough that a text too close to it has one of them among its own.
    fn prefix<'t>(&self, sorted: &'t [u32]) -> &'t [u32] {
        let least = self.least_shared(sorted.len()).min(sorted.len());
        &sorted[..sorted.len() - least + 1]
    }

    /// The numbers of tokens; new ones get the next.
    fn numbers(&mut self, tokens: &[String]) -> Vec<u32> {
        tokens
            .iter()
            .map(|token| match self.vocabulary.get(&**token) {
                Some(&number) => number,
                None => {
                    let number = u32::try_from(self.vocabulary.len()).expect("fewer than 2^32");
                    self.vocabulary.insert(token.as_str().into(), number);
                    number
                }
            })
            .collect()
    }
}

/// The least common length at which texts of `total` tokens together can have an F of `bar`.
fn shared_for(bar: f64, total: usize) -> usize {
    // Rounding must not cost a pair.
    (bar * total as f64 / 2.0 - 1e-6).ceil().max(1.0) as usize
}

/// How many tokens two sorted texts share, counted with repetition.
fn overlap(first: &[u32], second: &[u32]) -> usize {
    let (mut a, mut b, mut shared) = (0, 0, 0);
    while a < first.len() && b < second.len() {
        let (x, y) = (first[a], second[b]);
        shared += usize::from(x == y);
        a += usize::from(x >= y);
        b += usize::from(y >= x);
    }
    shared
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rouge::rouge_l;

    /// What the filter promises, by comparing everything with everything.
    fn plainly(pool: &[String], candidates: &[String], threshold: f64) -> Vec<Verdict> {
        let mut earlier = pool.to_vec();
        let mut verdicts = Vec::new();
        for candidate in candidates {
            let mut nearest: Option<(usize, f64)> = None;
            for (place, text) in earlier.iter().enumerate() {
                let score = rouge_l(text, candidate).f;
                if score > threshold && nearest.is_none_or(|(_, best)| score > best) {
                    nearest = Some((place, score));
                }
            }
            verdicts.push(match nearest {
                Some((neighbour, score)) => Verdict::TooClose { neighbour, score },
                None => {
                    earlier.push(candidate.clone());
                    Verdict::Novel
                }
            });
        }
        verdicts
    }

    fn texts(most: usize) -> impl Strategy<Value = Vec<String>> {
        // Few words, so that many pairs are close; some texts longer than a machine word.
        let word = prop::sample::select(vec!["a", "b", "c", "d", "e", "f", "g", "я", "1"]);
        let text = prop_oneof![
            9 => prop::collection::vec(word.clone(), 0..12),
            1 => prop::collection::vec(word, 60..140),
        ];
        prop::collection::vec(text.prop_map(|words| words.join(" ")), 0..most)
    }

    proptest! {
        #[test]
        fn no_bound_changes_a_decision(
            pool in texts(30),
            candidates in texts(60),
            threshold in prop_oneof![Just(0.7), Just(0.5), Just(0.0), Just(1.0), 0.0..1.0],
            threads in 1_usize..4,
            cut in 0_usize..60,
        ) {
            let expected = plainly(&pool, &candidates, threshold);
            let mut filter = NoveltyFilter::new(&pool, threshold);
            let (first, second) = candidates.split_at(cut.min(candidates.len()));
            let mut verdicts = filter.admit(first, threads);
            verdicts.extend(filter.admit(second, 1));
            prop_assert_eq!(verdicts, expected);
        }
    }

    #[test]
    fn the_threshold_itself_is_kept() {
        let words: Vec<String> = (0..13).map(|word| format!("w{word}")).collect();
        let mut filter = NoveltyFilter::new(&[words[..10].join(" ")], 0.7);
        // Seven of ten shared: 0.7, as the floating point of `rouge_score` has it.
        let seven = words[3..13].join(" ");
        let eight = words[2..12].join(" ");
        let score = rouge_l(&words[..10].join(" "), &seven).f;
        let verdicts = filter.admit(&[seven, eight], 2);
        assert_eq!(verdicts[0] == Verdict::Novel, score <= 0.7);
        assert!(matches!(verdicts[1], Verdict::TooClose { score, .. } if score > 0.7));
    }
}
