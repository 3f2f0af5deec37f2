#!/usr/bin/env python3
"""Kills a run at random moments until it is done, and compares what it published with a run that was left alone.

    python3 benches/killed.py target/release/okapi pipelines/okapi-26.yaml --kills 20 \\
        --same results/okapi-26/report.html --same results/okapi-26/report.md -- --set 'vars.languages=[de,vi]'

Both runs have a folder and a store of their own. The first is left alone and measured; the second is ended by SIGKILL
so many times, at moments spread over that length by chance, and begun again each time. What follows `--` is handed to
`okapi run`. Exit code 1 if a file differs.
"""

import argparse
import hashlib
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("okapi", type=pathlib.Path)
    arguments.add_argument("pipeline")
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--same", action="append", required=True, help="a published file")
    own, _, handed_on = "\0".join(sys.argv[1:]).partition("\0--\0")
    options = arguments.parse_args(own.split("\0"))
    okapi = str(options.okapi.resolve())
    run = [okapi, "run", options.pipeline, "--quiet", *filter(None, handed_on.split("\0"))]
    folders = [pathlib.Path(tempfile.mkdtemp(prefix="killed-")) for _ in range(2)]
    try:
        for folder in folders:
            for name in ("pipelines", "prompts"):
                shutil.copytree(name, folder / name)
        alone, killed = folders
        began = time.monotonic()
        subprocess.run(run, cwd=alone, check=True)
        length = time.monotonic() - began
        print(f"left alone: {length:.1f} s", flush=True)
        chance = random.Random(options.seed)
        landed = 0
        for _ in range(options.kills):
            process = subprocess.Popen(run, cwd=killed)
            try:
                # Each piece is a share of what is left on average, so that the kills spread over the whole run.
                process.wait(timeout=chance.uniform(0, 2 * length / options.kills))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                landed += 1
            process.wait()
        subprocess.run(run, cwd=killed, check=True)
        subprocess.run([okapi, "cache", "verify"], cwd=killed, check=True)
        print(f"killed {landed} times in {time.monotonic() - began - length:.1f} s", flush=True)
        differ = 0
        for name in options.same:
            digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in folders]
            differ += digests[0] != digests[1]
            print("same" if digests[0] == digests[1] else "DIFFERENT", name, *digests)
        return 1 if differ or landed == 0 else 0
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
