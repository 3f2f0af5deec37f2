"""`okapi teacher serve` as the official OpenAI client meets it.

    pip install openai
    python3 tests/servers/openai_client.py target/debug/okapi

Exits with 0 if every answer is what the client expects of a server.
"""

import asyncio
import io
import json
import re
import subprocess
import sys
import time

import openai

ASK = "How much is 17 plus 5? Write only the answer and nothing else."


def checks(base_url: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0)

    models = [model.id for model in client.models.list()]
    assert models == ["okapi-offline"], models
    assert client.models.retrieve("okapi-offline").owned_by == "okapi"

    messages = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": ASK}]
    answer = client.chat.completions.create(model="okapi-offline", messages=messages, n=2, seed=7)
    assert [choice.message.content for choice in answer.choices] == ["22", "22"], answer
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    parts = [{"type": "text", "text": ASK}]
    answer = client.chat.completions.create(
        model="okapi-offline", messages=[{"role": "user", "content": parts}], max_tokens=1
    )
    assert answer.choices[0].message.content == "22", answer

    for wrong in (dict(messages=[]), dict(messages=messages, stream=True), dict(messages=messages, n=0)):
        try:
            client.chat.completions.create(model="okapi-offline", **wrong)
        except openai.BadRequestError as error:
            assert error.body["message"], error
        else:
            raise AssertionError(f"{wrong} is accepted")
    try:
        client.models.retrieve("gpt-none")
    except openai.NotFoundError:
        pass
    else:
        raise AssertionError("a model that does not exist is found")

    lines = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "okapi-offline",
                "messages": [{"role": "user", "content": ASK.replace("17", str(number))}],
            },
        }
        for number in range(50)
    ]
    lines.append({**lines[0], "custom_id": "broken", "body": {"model": "okapi-offline"}})
    text = "\n".join(json.dumps(line) for line in lines)
    file = client.files.create(file=("rows.jsonl", io.BytesIO(text.encode())), purpose="batch")
    assert file.bytes == len(text) and file.purpose == "batch", file
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    for _ in range(200):
        batch = client.batches.retrieve(batch.id)
        if batch.status not in ("validating", "in_progress", "finalizing"):
            break
        time.sleep(0.05)
    assert batch.status == "completed", batch
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (51, 50, 1), counts
    answers = {}
    for line in client.files.content(batch.output_file_id).text.splitlines():
        line = json.loads(line)
        answers[line["custom_id"]] = line["response"]["body"]["choices"][0]["message"]["content"]
    assert answers == {f"row-{number}": str(number + 5) for number in range(50)}, answers
    errors = client.files.content(batch.error_file_id).text.splitlines()
    assert [json.loads(line)["custom_id"] for line in errors] == ["broken"]
    assert client.files.delete(file.id).deleted
    assert file.id not in [kept.id for kept in client.files.list()]


async def many(base_url: str) -> None:
    client = openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)

    async def one(number: int) -> None:
        ask = ASK.replace("17", str(number))
        answer = await client.chat.completions.create(
            model="okapi-offline", messages=[{"role": "user", "content": ask}]
        )
        assert answer.choices[0].message.content == str(number + 5), answer

    await asyncio.gather(*(one(number) for number in range(200)))


def main() -> None:
    command = [sys.argv[1], "teacher", "serve", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        base_url = re.search(r"http://\S+", server.stdout.readline()).group()
        checks(base_url)
        asyncio.run(many(base_url))
    finally:
        server.terminate()
    assert server.wait(timeout=10) == 0
    print(f"openai {openai.__version__}: all answers are as expected")


main()
