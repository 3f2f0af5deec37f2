"""okapi's client against a server that we did not write: the LiteLLM proxy, on this machine.

    python3 -m venv venv && venv/bin/pip install 'litellm[proxy]'
    venv/bin/python tests/servers/litellm.py target/debug/okapi

Its models answer or fail by script (litellm.yaml). Exits with 0 if okapi does with each what it should.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
KEY = "sk-planted-for-litellm"
OKAPI = pathlib.Path(sys.argv[1]).resolve()

PIPELINE = """
okapi: 1
teachers:
  judge:
    kind: openai
    model: {model}
    base_url: http://127.0.0.1:{port}/v1
    api_key_env: PLANTED
    tries: 2
    timeout: 1
    input_price: 1
    output_price: 2
{more}
nodes:
  responses: {{stage: import, params: {{path: responses.jsonl, kind: responses}}}}
  judge:
    stage: judge
    inputs: {{responses: responses}}
    prompts: {{judge: judge.j2}}
    teacher: judge
    params: {{max_reject_rate: {rate}}}
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(port: int) -> subprocess.Popen:
    command = [pathlib.Path(sys.executable).parent / "litellm", "--config", HERE / "litellm.yaml"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = subprocess.Popen(list(map(str, command)), env=environment, **quiet)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=1)
            return server
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the proxy does not start")


def run(port: int, model: str, rows: int = 3, rate: float = 0, key: str = KEY, more: str = ""):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "p.yaml").write_text(PIPELINE.format(model=model, port=port, rate=rate, more=more))
        (folder / "judge.j2").write_text((HERE / "../../prompts/judge.j2").read_text())
        lines = [
            json.dumps({"id": str(n), "instruction": f"Add {n} and 1.", "responses": [str(n + 1)]})
            for n in range(rows)
        ]
        (folder / "responses.jsonl").write_text("\n".join(lines) + "\n")
        environment = {"PATH": os.environ["PATH"], "PLANTED": key}
        command = [OKAPI, "run", "p.yaml", "--progress", "json"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert KEY not in done.stdout + done.stderr
        for path in (folder / ".okapi").rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
        events = [json.loads(line) for line in done.stdout.splitlines()]
        finished = next(event for event in events if event["event"] == "run_finished")
        failed = [event for event in events if event["event"] == "node_failed"]
        node = [e for e in events if e["event"] == "node_finished" and e["node"] == "judge"]
        return done.returncode, finished, failed[0]["message"] if failed else "", node[0] if node else {}


def main() -> None:
    port = free_port()
    server = start(port)
    try:
        code, finished, message, node = run(port, "canned", rows=20)
        assert code == 0, message
        assert node["metrics"]["score"] == 40, node
        spend = finished["spend"]
        assert spend["requests"] == 20, spend
        cost = spend["prompt_tokens"] * 1000 + spend["completion_tokens"] * 2000
        assert spend["nano_usd"] == cost > 0, spend

        code, _, message, _ = run(port, "limited")
        assert code == 1 and "429" in message and "tried 2 times" in message, message
        code, _, message, _ = run(port, "broken")
        assert code == 1 and "500" in message and "tried 2 times" in message, message
        code, _, message, _ = run(port, "slow")
        assert code == 1 and "took too long" in message, message
        code, _, message, node = run(port, "toolong", rate=1)
        assert code == 0 and node["metrics"]["rejects.refused"] == 3, (message, node)
        code, _, message, _ = run(port, "nothing-of-that-name")
        assert code == 1 and "the server answers 4" in message, message
        code, _, message, _ = run(port, "canned", key="sk-wrong")
        assert code == 1 and "the server answers 4" in message, message

        # 30 a minute: a limit that the client keeps is never hit.
        limit = "    requests_per_minute: 30"
        code, _, message, node = run(port, "few", rows=20, more=limit)
        assert code == 0 and node["metrics"]["score"] == 40, message
    finally:
        server.terminate()
        server.wait(timeout=20)
    print("litellm: okapi does what it should with every model")


main()
