"""Tokens a second of sampling: okapi against transformers, on the same weights and the same prompts.

    pip install torch transformers
    cargo build --release -p okapi-model --example generate_rows
    python3 benches/generate.py target/release/examples/generate_rows [FAMILY]

A 6-layer, 384-wide model with 6 heads and 8,192 tokens, 64 prompts of 32 tokens, 128 new tokens for each, none
of which ends a row, float32, two threads. `plain` samples from the model's distribution, `narrow` at
temperature 0.8 from the 50 most probable tokens and of these from the top 0.95. Both run as processes of their
own, in turn, five times, with a short generation before the one that is timed; the ratios are okapi's
tokens a second by those of transformers, which runs what `generate` does by default (SDPA attention, a cache
that grows).
"""

import json
import statistics
import subprocess
import sys
import tempfile

FAMILY = sys.argv[2] if len(sys.argv) > 2 else "gpt_neox"
MODES = {
    "plain": {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    "narrow": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
}
VOCABULARY, WIDTH, LAYERS, HEADS = 8192, 384, 6, 6
ROWS, PROMPT, NEW, ROUNDS = 64, 32, 128, 5


def make(folder: str, family: str) -> None:
    import torch
    import transformers as t

    torch.manual_seed(1)
    if family == "bloom":
        config = t.BloomConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS,
                               tie_word_embeddings=False)
        model = t.BloomForCausalLM(config)
    elif family == "llama":
        config = t.LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=1024,
                               num_hidden_layers=LAYERS, num_attention_heads=HEADS)
        model = t.LlamaForCausalLM(config)
    else:
        config = t.GPTNeoXConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH,
                                 num_hidden_layers=LAYERS, num_attention_heads=HEADS)
        model = t.GPTNeoXForCausalLM(config)
    model.save_pretrained(folder)


def transformers(folder: str, mode: str) -> None:
    import time

    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(2)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[(n * 7919 + place * 104_729) % VOCABULARY for place in range(PROMPT)] for n in range(ROWS)])
    seconds = 0.0
    for new in (4, NEW):
        options = GenerationConfig(do_sample=True, max_new_tokens=new, eos_token_id=None, pad_token_id=0, **MODES[mode])
        began = time.perf_counter()
        # The model's own options would put an end token where none is given.
        model.generation_config = options
        output = model.generate(ids, attention_mask=torch.ones_like(ids))
        seconds = time.perf_counter() - began
        assert output.shape == (ROWS, PROMPT + new), output.shape
    print(json.dumps(seconds))


def okapi(program: str, folder: str, mode: str) -> float:
    options = MODES[mode]
    arguments = [folder, ROWS, PROMPT, NEW, 2, options["temperature"], options["top_k"], options["top_p"]]
    said = subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True).stdout
    return float(said)


def main(program: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "make", folder, FAMILY], check=True)
        tokens = ROWS * NEW
        for mode in MODES:
            ratios = []
            for _ in range(ROUNDS):
                ours = okapi(program, folder, mode)
                theirs = json.loads(subprocess.run(
                    [sys.executable, __file__, "transformers", folder, mode], check=True, capture_output=True, text=True,
                ).stdout)
                ratios.append(theirs / ours)
                print(f"{FAMILY} {mode}: okapi {tokens / ours:.0f} tokens/s, transformers {tokens / theirs:.0f}, "
                      f"ratio {theirs / ours:.2f}", flush=True)
            print(f"{FAMILY} {mode}: median ratio {statistics.median(ratios):.2f}", flush=True)


if sys.argv[1] == "make":
    make(sys.argv[2], sys.argv[3])
elif sys.argv[1] == "transformers":
    transformers(sys.argv[2], sys.argv[3])
else:
    main(sys.argv[1])
