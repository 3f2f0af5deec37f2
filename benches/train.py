"""Seconds a training step: okapi against PyTorch, on the same weights and the same tokens.

    pip install torch transformers
    cargo build --release -p okapi-train --example sft_steps
    python3 benches/train.py target/release/examples/sft_steps [STEPS] [FAMILY]

A 6-layer, 384-wide model with 6 heads and 8,192 tokens, 8 texts of 256 tokens a step, float32, AdamW, two
threads. Both run as processes of their own, in turn, three times; the figures are medians of their steps
without the first three, and the ratios are okapi's share of PyTorch's. PyTorch runs what transformers
does by default (SDPA attention, fused AdamW). Memory is the process's peak less what it had before
the first step.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

STEPS = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2].isdigit() else 12
FAMILY = sys.argv[3] if len(sys.argv) > 3 else "gpt_neox"
MODES = ["full", "forward", "lora", "top=2"]
VOCABULARY, WIDTH, LAYERS, HEADS = 8192, 384, 6, 6


def make(folder: str) -> None:
    import torch
    import transformers as t

    torch.manual_seed(1)
    if FAMILY == "bloom":
        config = t.BloomConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS,
                               tie_word_embeddings=False)
        model = t.BloomForCausalLM(config)
    elif FAMILY == "llama":
        config = t.LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=1024,
                               num_hidden_layers=LAYERS, num_attention_heads=HEADS)
        model = t.LlamaForCausalLM(config)
    else:
        config = t.GPTNeoXConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH,
                                 num_hidden_layers=LAYERS, num_attention_heads=HEADS)
        model = t.GPTNeoXForCausalLM(config)
    model.save_pretrained(folder)


def peak() -> int:
    """Kilobytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def resident() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def pytorch(folder: str, mode: str) -> None:
    import time

    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if mode == "lora":
        from peft import LoraConfig, get_peft_model

        names = [name.rsplit(".", 1)[-1] for name, _ in model.named_modules()]
        targets = [name for name in ("q_proj", "k_proj", "v_proj", "query_key_value") if name in names]
        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=targets, task_type="CAUSAL_LM")
        )
    elif mode.startswith("top="):
        top = [f".{layer}." for layer in range(LAYERS - int(mode[4:]), LAYERS)]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(part in name for part in top))
    model.train(mode != "forward")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    ids = torch.tensor([[(n * 7919 + place * 104_729) % VOCABULARY for place in range(256)] for n in range(8)])
    before = resident()
    for _ in range(STEPS):
        began = time.perf_counter()
        if mode == "forward":
            with torch.no_grad():
                loss = model(input_ids=ids, labels=ids).loss
        else:
            optimiser.zero_grad(set_to_none=True)
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
        print(json.dumps([time.perf_counter() - began, loss.item()]), flush=True)
    print(json.dumps((peak() - before) / 1024))


def okapi(program: str, folder: str, mode: str) -> tuple[list[float], float, float]:
    process = subprocess.Popen([program, folder, str(STEPS), "2", mode], stdout=subprocess.PIPE, text=True)
    lines = process.stdout.read().splitlines()
    _, _, usage = os.wait4(process.pid, 0)
    steps = [line.split() for line in lines]
    return [float(step[0]) for step in steps], float(steps[0][1]), usage.ru_maxrss / 1024


def main(program: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "make", folder, FAMILY], check=True)
        weights = pathlib.Path(folder, "model.safetensors").stat().st_size / 2**20
        for mode in MODES:
            ratios, memory = [], []
            for _ in range(3):
                ours, our_loss, our_peak = okapi(program, folder, mode)
                said = subprocess.run(
                    [sys.executable, __file__, "pytorch", str(STEPS), FAMILY, folder, mode],
                    check=True, capture_output=True, text=True,
                ).stdout.splitlines()
                theirs = [json.loads(line) for line in said[:-1]]
                assert abs(our_loss - theirs[0][1]) < 1e-3, (our_loss, theirs[0])
                one = statistics.median(ours[3:])
                other = statistics.median(step[0] for step in theirs[3:])
                ratios.append(one / other)
                memory.append((our_peak - weights) / json.loads(said[-1]))
                print(f"{FAMILY} {mode}: okapi {one:.3f} s, PyTorch {other:.3f} s, ratio {one / other:.2f}; "
                      f"memory {our_peak - weights:.0f} and {json.loads(said[-1]):.0f} MiB")
            print(f"{FAMILY} {mode}: median ratio of time {statistics.median(ratios):.2f}, "
                  f"of memory {statistics.median(memory):.2f}")


if sys.argv[1] == "make":
    FAMILY = sys.argv[3]
    make(sys.argv[2])
elif sys.argv[1] == "pytorch":
    pytorch(sys.argv[4], sys.argv[5])
else:
    main(sys.argv[1])
