#!/usr/bin/env python3
"""How long an audit takes that executes nothing, against b3sum on the same bytes.

    cargo install b3sum
    python3 benches/audit.py target/release/okapi --gib 2 --nodes 400

Makes a project whose nodes write so many bytes, runs it once, and takes turns: `okapi audit`, and `b3sum` over all objects of the
store, each from the page cache. Prints each pair, and the median of the ratios.
"""

import argparse
import pathlib
import statistics
import subprocess
import tempfile
import time

PIPELINE = """
okapi: 1
nodes:
  made:
    for_each: {{n: [{numbers}]}}
    stage: command
    run: openssl enc -aes-128-ctr -pass pass:${{each.n}} -nosalt -pbkdf2 < /dev/zero 2>/dev/null | head -c {size} > "$OKAPI_OUTPUT_BYTES"
    outputs: {{bytes: file}}
"""


def seconds(command, folder):
    began = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("okapi", type=pathlib.Path)
    arguments.add_argument("--b3sum", default="b3sum")
    arguments.add_argument("--gib", type=float, default=2)
    arguments.add_argument("--nodes", type=int, default=400)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    okapi = str(options.okapi.resolve())
    with tempfile.TemporaryDirectory(prefix="audit-") as folder:
        size = int(options.gib * 2**30 / options.nodes)
        numbers = ", ".join(map(str, range(options.nodes)))
        (pathlib.Path(folder) / "p.yaml").write_text(PIPELINE.format(numbers=numbers, size=size))
        subprocess.run([okapi, "run", "p.yaml", "--quiet", "--no-sandbox"], cwd=folder, check=True)
        objects = sorted(str(path) for path in pathlib.Path(folder, ".okapi", "objects").glob("*/*"))
        print(f"{len(objects)} objects of {size / 2**20:.1f} MiB")
        ratios = []
        for _ in range(options.rounds):
            audit = seconds([okapi, "audit", "p.yaml"], folder)
            b3sum = seconds([options.b3sum, *objects], folder)
            ratios.append(audit / b3sum)
            print(f"okapi audit {audit:.3f} s, b3sum {b3sum:.3f} s: {ratios[-1]:.2f} times", flush=True)
        print(f"median {statistics.median(ratios):.2f} times b3sum")


main()
