"""Loads model folders that okapi has made as their users do, and says whether all is as it should be.

    pip install torch transformers peft
    python3 tests/servers/load_models.py FOLDER... [--adapter BASE MERGED]...

Each folder is opened with `AutoModelForCausalLM` and `AutoTokenizer`: no weight may be missing, unknown or
new, the tokenizer has to fit, its chat template has to be filled in if it has one, and greedy generation has to work. With `--adapter`, PEFT puts the adapters
in MERGED/adapter onto BASE, and the logits have to be those of MERGED.
"""

import argparse

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "Below is a task. Write a response that does it."


def check(folder: str) -> None:
    model, said = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    for what, names in said.items():
        assert not names, f"{folder}: {what}: {names}"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert max(tokenizer.get_vocab().values()) < model.config.vocab_size, folder
    ids = tokenizer(TEXT, return_tensors="pt")
    assert tokenizer.decode(ids["input_ids"][0], skip_special_tokens=True) == TEXT, folder
    ids.pop("token_type_ids", None)
    if tokenizer.chat_template is not None:
        chat = [{"role": "user", "content": TEXT}]
        asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert TEXT in asked, folder
        print(f"{folder}: asks {asked!r}")
    made = model.generate(**ids, do_sample=False, max_new_tokens=8)
    print(f"{folder}: {type(model).__name__}, {model.num_parameters():,} parameters, {model.dtype}; "
          f"says {tokenizer.decode(made[0][ids['input_ids'].shape[1]:])!r}")


def check_adapter(base: str, merged: str) -> None:
    ids = AutoTokenizer.from_pretrained(merged)(TEXT, return_tensors="pt")["input_ids"]
    ours = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    before = AutoModelForCausalLM.from_pretrained(base)
    without = before(ids).logits
    with_adapter = PeftModel.from_pretrained(before, f"{merged}/adapter")(ids).logits
    off = (ours - with_adapter).abs().max().item()
    moved = (without - with_adapter).abs().max().item()
    assert off < 1e-4 and moved > 10 * off, (off, moved)
    print(f"{merged}/adapter on {base}: logits are those of the merged model to {off:.1e}; it moves them by {moved:.1e}")


parser = argparse.ArgumentParser()
parser.add_argument("folders", nargs="*")
parser.add_argument("--adapter", nargs=2, action="append", default=[])
arguments = parser.parse_args()
with torch.no_grad():
    for folder in arguments.folders:
        check(folder)
    for base, merged in arguments.adapter:
        check_adapter(base, merged)
