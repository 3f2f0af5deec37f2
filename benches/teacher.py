"""Requests a second: okapi against the official Python client, both asking `okapi teacher serve`.

    pip install openai
    python3 benches/teacher.py target/release/okapi [REQUESTS] [CONCURRENCY]

Both put the same short prompts to one server on this machine, with the same number of requests on
their way at once, and keep what is answered: okapi in its store, durable, with usage and price; the
client in a list. okapi's time is that of the whole command. Then okapi alone against a server that keeps a rate limit
strictly (a second's worth at once, then 429), with a single try for each request: how much of the
limit it uses.
"""

import asyncio
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import openai

OKAPI = pathlib.Path(sys.argv[1]).resolve()
REQUESTS = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
CONCURRENCY = int(sys.argv[3]) if len(sys.argv) > 3 else 64

PIPELINE = """
okapi: 1
teachers:
  judge: {kind: openai, model: okapi-offline, base_url: 'URL', concurrency: COUNT, input_price: 1LIMIT}
nodes:
  responses: {stage: import, params: {path: responses.jsonl, kind: responses}}
  judge:
    stage: judge
    inputs: {responses: responses}
    prompts: {judge: judge.j2}
    teacher: judge
"""


def prompt(number: int) -> str:
    return f"<instruction>\nHow much is {number} plus 3?\n</instruction>\n<response>\n{number + 3}\n</response>\nRate it as [[n]]."


def project(folder: pathlib.Path, url: str, count: int, limit: str = "") -> None:
    text = PIPELINE.replace("URL", url).replace("COUNT", str(CONCURRENCY)).replace("LIMIT", limit)
    (folder / "p.yaml").write_text(text)
    template = prompt(0).replace("How much is 0 plus 3?", "{{ instruction }}").replace("\n3\n", "\n{{ response }}\n")
    (folder / "judge.j2").write_text(template)
    with open(folder / "responses.jsonl", "w") as file:
        for n in range(count):
            row = {"id": str(n), "instruction": f"How much is {n} plus 3?", "responses": [str(n + 3)]}
            file.write(json.dumps(row) + "\n")


def with_okapi(url: str, count: int, limit: str = "") -> tuple[float, dict]:
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        project(folder, url, count, limit)
        subprocess.run([OKAPI, "run", "p.yaml", "-q", "responses"], cwd=folder, check=True)
        began = time.perf_counter()
        command = [OKAPI, "run", "p.yaml", "--progress", "json"]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        took = time.perf_counter() - began
        events = [json.loads(line) for line in done.stdout.splitlines()]
        spend = events[-1]["spend"]
        assert spend["requests"] == count, spend
        node = next(e for e in events if e["event"] == "node_finished" and e["node"] == "judge")
        return took, node


async def with_client(url: str) -> float:
    client = openai.AsyncOpenAI(base_url=url, api_key="none")
    gate = asyncio.Semaphore(CONCURRENCY)
    answers = []

    async def one(number: int) -> None:
        async with gate:
            answer = await client.chat.completions.create(
                model="okapi-offline", messages=[{"role": "user", "content": prompt(number)}]
            )
            answers.append(answer.choices[0].message.content)

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(REQUESTS)))
    took = time.perf_counter() - began
    assert len(answers) == REQUESTS
    await client.close()
    return took


def start(*more: str) -> tuple[subprocess.Popen, str]:
    command = [OKAPI, "teacher", "serve", "--port", "0", *more]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return server, re.search(r"http://\S+", server.stdout.readline()).group()


def main() -> None:
    server, url = start()
    try:
        ratios = []
        for _ in range(3):
            okapi, _ = with_okapi(url, REQUESTS)
            client = asyncio.run(with_client(url))
            ratios.append(client / okapi)
            print(
                f"{REQUESTS} requests, {CONCURRENCY} at once: okapi {REQUESTS / okapi:.0f}/s,"
                f" client {REQUESTS / client:.0f}/s, ratio {client / okapi:.2f}"
            )
        print(f"median ratio {sorted(ratios)[1]:.2f}")
    finally:
        server.terminate()
    rate = 6000
    server, url = start("--requests-per-minute", str(rate))
    try:
        _, node = with_okapi(url, 2000, f", requests_per_minute: {rate}, tries: 1")
        used = 2000 / (node["duration_ms"] / 1000) * 60 / rate
        print(f"limit of {rate} a minute: {used:.1%} used, not one 429")
    finally:
        server.terminate()


main()
