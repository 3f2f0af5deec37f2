"""Compares okapi with ninja on the same graphs, and its hashing with b3sum: whole processes, in turn, medians.

Usage: compare.py [--okapi PATH] [--ninja PATH] [--only cold,noop,edit,hash] [--sizes 1000,10000] [--shapes layered,wide]
                  [--runs 5]

Works in a temporary folder. The exit status says nothing about speed. ninja: `pip install ninja`, and name the binary
itself by --ninja (the script that pip installs may start Python first). b3sum: any build.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import graphs  # noqa: E402


def measure(command, folder):
    """Wall seconds and peak memory (MiB) of one process."""
    began = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    if status != 0:
        sys.exit(f"{command} ended with {status}")
    return wall, usage.ru_maxrss / 1024


def compare(name, okapi, other, folder, runs, before=lambda round: None):
    """Runs both in turn and prints a row."""
    ours, theirs, memory = [], [], 0.0
    for round in range(runs):
        before(round)
        wall, peak = measure(okapi, folder)
        ours.append(wall)
        memory = max(memory, peak)
        theirs.append(measure(other, folder)[0])
    ratio = statistics.median(a / b for a, b in zip(ours, theirs))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"| {name} | {a:.3f} s | {b:.3f} s | {ratio:.2f} | {memory:.0f} MiB |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--okapi", default="target/release/okapi")
    parser.add_argument("--ninja", default="ninja")
    parser.add_argument("--only", default="cold,noop,edit,hash")
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--shapes", default="layered")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    okapi = os.path.abspath(arguments.okapi)
    parts = arguments.only.split(",")
    print("| what | okapi | other | ratio | okapi's peak |\n|---|---|---|---|---|")
    root = tempfile.mkdtemp(prefix="okapi-bench-")
    try:
        for shape in arguments.shapes.split(","):
            for size in map(int, arguments.sizes.split(",")):
                graph(okapi, arguments, parts, root, shape, size)
        if "hash" in parts:
            hashing(okapi, arguments, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def graph(okapi, arguments, parts, root, shape, size):
    folder = f"{root}/{shape}-{size}"
    os.mkdir(folder)
    graphs.write(shape, size, folder)
    files = ["literal.yaml"] + (["for_each.yaml"] if shape == "wide" else [])
    for file in files:
        ours = [okapi, "run", file, "-j", "2", "--quiet"]
        theirs = [arguments.ninja, "-j", "2"]
        name = f"{shape}, {size:,} {'nodes' if file == 'literal.yaml' else 'instances'}"

        def clean(_round):
            for path in (".okapi", "out", ".ninja_log", ".ninja_deps"):
                path = f"{folder}/{path}"
                shutil.rmtree(path) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)

        if "cold" in parts and size <= 1000:
            compare(f"{name}: cold", ours, theirs, folder, arguments.runs, clean)
        else:
            clean(0)
            measure(ours, folder)
            measure(theirs, folder)
        if "noop" in parts:
            compare(f"{name}: nothing to do", ours, theirs, folder, arguments.runs)
        if "edit" in parts:
            def edit(round):
                with open(f"{folder}/src/0.txt", "a", encoding="ascii") as file:
                    file.write(f"edit {round}\n")
            compare(f"{name}: one source edited", ours, theirs, folder, arguments.runs, edit)


def hashing(okapi, arguments, root):
    folder = f"{root}/hash"
    os.mkdir(folder)
    with open(f"{folder}/big", "wb") as file:
        for block in range(2048):
            file.write(block.to_bytes(4, "little") * (1 << 18))
    with open(f"{folder}/p.yaml", "w", encoding="ascii") as file:
        file.write("okapi: 1\nname: hash\nnodes:\n  n: {stage: import, params: {path: big}}\n")
    # `plan` hashes the tracked file and does nothing else; without a store it has nothing to remember.
    compare("hash a file of 2 GiB (`plan` against `b3sum`)", [okapi, "plan", "p.yaml"], ["b3sum", "big"], folder,
            arguments.runs, lambda _round: shutil.rmtree(f"{folder}/.okapi", ignore_errors=True))


main()
