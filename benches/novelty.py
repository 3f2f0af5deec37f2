"""Compares okapi's novelty filter with Google's rouge_score in as many processes, and times it at the paper's size.

    cargo build --release -p okapi-data --example novelty
    pip install rouge_score==0.1.2
    python3 benches/novelty.py

The texts are made up: words drawn by Zipf's law, as long as Alpaca's instructions are (mean 11 words), a third of the
candidates being edits of earlier texts, so that many pairs lie around the threshold.
"""

import argparse
import functools
import multiprocessing
import os
import random
import subprocess
import tempfile
import time

SEED = 20230729
VOCABULARY = 20_000


def make(count, earlier, generator, words, weights):
    texts = []
    for _ in range(count):
        pool = earlier if generator.random() < 0.5 or not texts else texts
        if pool and generator.random() < 0.33:
            text = generator.choice(pool).split()
            for _ in range(generator.randint(1, 5)):
                text[generator.randrange(len(text))] = generator.choices(words, cum_weights=weights)[0]
        else:
            length = max(4, min(40, round(generator.lognormvariate(2.3, 0.4))))
            text = generator.choices(words, cum_weights=weights, k=length)
        texts.append(" ".join(text))
    return texts


def best(candidate, pool):
    """As Alpaca's generate_instruction.py: every earlier text against the candidate, tokens made before."""
    from rouge_score import rouge_scorer
    scores = [rouge_scorer._score_lcs(text, candidate).fmeasure for text in pool]
    place = max(range(len(scores)), key=scores.__getitem__)
    return place, scores[place]


def by_rouge_score(pool, candidates, processes):
    from rouge_score import tokenizers
    tokenizer = tokenizers.DefaultTokenizer(use_stemmer=False)
    began = time.perf_counter()
    earlier = [tokenizer.tokenize(text) for text in pool]
    verdicts = []
    with multiprocessing.Pool(processes) as workers:
        for candidate in candidates:
            tokens = tokenizer.tokenize(candidate)
            part = -(-len(earlier) // processes)
            parts = [earlier[at:at + part] for at in range(0, len(earlier), part)]
            found = workers.map(functools.partial(best, tokens), parts, chunksize=1)
            score = max(score for _, score in found)
            place = next(number * part + place for number, (place, s) in enumerate(found) if s == score)
            if score > 0.7:
                verdicts.append(f"{place} {score}")
            else:
                verdicts.append("novel")
                earlier.append(tokens)
    return verdicts, time.perf_counter() - began


def by_okapi(program, pool, candidates, threads):
    with tempfile.TemporaryDirectory() as folder:
        for name, texts in (("pool", pool), ("candidates", candidates)):
            with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
                file.write("\n".join(texts) + "\n")
        done = subprocess.run([program, f"{folder}/pool", f"{folder}/candidates", str(threads)],
                              capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1], float(done.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/examples/novelty")
    parser.add_argument("--candidates", type=int, default=40, help="of the subset that rouge_score decides on too")
    arguments = parser.parse_args()
    processes = os.cpu_count() or 1
    generator = random.Random(SEED)
    words = [f"{generator.choice('bcdfghklmnprst')}{generator.choice('aeiou')}{number:x}" for number in range(VOCABULARY)]
    weights, total = [], 0.0
    for rank in range(1, VOCABULARY + 1):
        total += 1 / rank
        weights.append(total)
    pool = make(52_000, [], generator, words, weights)
    candidates = make(106_000, pool, generator, words, weights)
    subset = candidates[:arguments.candidates]
    theirs, their_seconds = by_rouge_score(pool, subset, processes)
    ours, our_seconds = by_okapi(arguments.program, pool, subset, processes)
    print("decisions, neighbours and scores agree:", [t.split()[-1] for t in theirs] == [o.split()[-1] for o in ours]
          and theirs == ours)
    # The index is made once, for however many candidates; the subset pays for all of it.
    _, index_seconds = by_okapi(arguments.program, pool, subset[:1], processes)
    full, full_seconds = by_okapi(arguments.program, pool, candidates, processes)
    kept = sum(verdict == "novel" for verdict in full)
    per_candidate = full_seconds / len(candidates)
    print(f"rouge_score, {processes} processes: {their_seconds / len(subset):.3f} s a candidate against 52,000 texts")
    print(f"okapi, {processes} threads: {full_seconds:.1f} s for 106,000 candidates against 52,000 and {kept:,} kept;"
          f" {1000 * per_candidate:.3f} ms a candidate; the index {index_seconds:.2f} s;"
          f" the subset of {len(subset)} in {our_seconds:.2f} s")
    print(f"ratio on the subset, index included: {their_seconds / our_seconds:.0f}; a candidate at full size:"
          f" {their_seconds / len(subset) / per_candidate:.0f}")


main()
