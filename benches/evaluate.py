"""Questions a second: okapi against lm-evaluation-harness, on the same weights and the same 25-shot questions.

    pip install lm-eval torch transformers datasets
    cargo build --release -p okapi-eval --example evaluate_rows
    python3 benches/evaluate.py target/release/examples/evaluate_rows [FAMILY [ITEMS]]

A 6-layer, 384-wide model with 6 heads and the small tokenizers of tests/fixtures, float32, two threads; the English
questions of tests/fixtures/eval as the harness's `arc_multilingual` asks them, 25 examples before each; the harness with
BATCH texts at once, okapi with the tokens at once that are its default, which is less. Both run as processes of their
own, in turn, three times. What is timed begins with texts and ends with log-likelihoods, which are compared; the
ratios are okapi's questions a second by those of the harness.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = HERE.parent / "tests" / "fixtures" / "eval"
SHOTS, BATCH, ROUNDS, LONGEST, TOKENS_AT_ONCE = 25, 8, 3, 2048, 2048


def make(folder: str, family: str) -> None:
    import shutil

    import torch
    import transformers as t

    torch.manual_seed(1)
    sizes = {"vocab_size": 576, "hidden_size": 384}
    rope = {"num_hidden_layers": 6, "num_attention_heads": 6, "max_position_embeddings": LONGEST}
    if family == "bloom":
        model = t.BloomForCausalLM(t.BloomConfig(n_layer=6, n_head=6, n_positions=LONGEST, **sizes))
    elif family == "llama":
        model = t.LlamaForCausalLM(t.LlamaConfig(intermediate_size=1024, **sizes, **rope))
    else:
        model = t.GPTNeoXForCausalLM(t.GPTNeoXConfig(intermediate_size=1536, **sizes, **rope))
    model.save_pretrained(folder)
    for file in (FIXTURES / "models" / family).glob("*token*"):
        shutil.copy(file, folder)


def harness(folder: str, items: int) -> None:
    import time

    sys.path.insert(0, str(FIXTURES))
    import harness as fixtures
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    class Timed(HFLM):
        seconds = 0.0

        def loglikelihood(self, *args, **kwargs):
            began = time.perf_counter()
            found = super().loglikelihood(*args, **kwargs)
            self.seconds = time.perf_counter() - began
            return found

    torch.set_num_threads(2)
    place = pathlib.Path(fixtures.CACHE.name)
    name, _ = fixtures.define(place, "arc", "translated", "en")
    model = Timed(pretrained=folder, device="cpu", batch_size=BATCH)
    manager = TaskManager(include_path=str(place))
    found = lm_eval.simple_evaluate(model=model, tasks=[name], num_fewshot=SHOTS, limit=items, task_manager=manager)
    samples = found["samples"][name]
    answers = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
    print(json.dumps({"seconds": model.seconds, "log_likelihoods": answers}))


def last_line(command: list[str]) -> dict:
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])


def main(program: str, family: str, items: int) -> None:
    questions = json.loads((FIXTURES / "questions.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "make", folder, family], check=True)
        files = []
        for name, rows in (("questions", questions["arc/en/test"][:items]), ("examples", questions["arc/en/train"])):
            path = pathlib.Path(folder) / f"{name}.json"
            path.write_text(json.dumps(rows), encoding="utf-8")
            files.append(str(path))
        ratios = []
        for _ in range(ROUNDS):
            ours = last_line([program, folder, *files, str(SHOTS), "2", str(TOKENS_AT_ONCE)])
            theirs = last_line([sys.executable, __file__, "harness", folder, str(items)])
            for left, right in zip(ours["log_likelihoods"], theirs["log_likelihoods"], strict=True):
                assert all(abs(a - b) < 1e-4 * abs(b) for a, b in zip(left, right, strict=True)), (left, right)
            ratios.append(theirs["seconds"] / ours["seconds"])
            print(f"{family}: okapi {items / ours['seconds']:.2f} questions/s, harness {items / theirs['seconds']:.2f}, "
                  f"ratio {ratios[-1]:.2f}", flush=True)
        print(f"{family}: median ratio {statistics.median(ratios):.2f}", flush=True)


if sys.argv[1] == "make":
    make(sys.argv[2], sys.argv[3])
elif sys.argv[1] == "harness":
    harness(sys.argv[2], int(sys.argv[3]))
else:
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "gpt_neox", int(sys.argv[3]) if len(sys.argv) > 3 else 30)
