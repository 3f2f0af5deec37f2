#!/usr/bin/env python3
"""Many okapi processes on one store at once: is each action executed once, and what do they cost each other?

    python3 benches/coordinators.py target/release/okapi --coordinators 100

Each coordinator has a project of its own with 20 nodes: ten that all projects have and ten that only this one has, each
a command that writes a line, in five layers. First one works alone in a new store, then all of them at once in another
one, and then all of them again with nothing to do. The exit code is 1 if one fails or an action is executed twice.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

LAYERS = 5
WIDTH = 2


def pipeline(number, seconds):
    """The text of a coordinator's pipeline."""
    lines = ["okapi: 1", f"name: p{number}", "nodes:"]
    for owner, mark in (("shared", "all"), ("own", str(number))):
        for layer in range(LAYERS):
            for place in range(WIDTH):
                reads = f"{owner}{layer - 1}_{place}" if layer else None
                if layer and owner == "own":
                    # What is its own is made of what is everybody's.
                    reads = f"shared{layer - 1}_{place}"
                lines.append(f"  {owner}{layer}_{place}:")
                lines.append("    stage: command")
                if reads:
                    lines.append(f"    inputs: {{a: {reads}}}")
                pause = f"sleep {seconds}; " if seconds else ""
                lines.append(f"    run: '{pause}echo {mark} {layer} {place} > \"$OKAPI_OUTPUT_O\"'")
                lines.append("    outputs: {o: file}")
    return "\n".join(lines) + "\n"


def at_once(okapi, projects, store, jobs):
    """Runs a coordinator for each project; gives the wall time of all, that of each, and their processor time."""
    before = os.times()
    began = time.monotonic()
    left, children = {}, []
    for project in projects:
        command = [okapi, "run", "p.yaml", "--quiet", "-j", str(jobs), "--store", str(store)]
        # Kept, for Python waits for children that nobody holds.
        children.append(subprocess.Popen(command, cwd=project))
        left[children[-1].pid] = time.monotonic()
    walls, failed = [], 0
    while left:
        pid, status = os.wait()
        walls.append(time.monotonic() - left.pop(pid))
        failed += status != 0
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, sorted(walls), processor, failed


def executed(store):
    """How often each action was executed, by the records of the runs."""
    counts = collections.Counter()
    for events in pathlib.Path(store).glob("runs/*/events.jsonl"):
        for line in events.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["event"] == "node_finished":
                counts[event["action"]] += 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("okapi", type=pathlib.Path)
    parser.add_argument("--coordinators", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2, help="instances that each runs at once")
    parser.add_argument("--seconds", type=float, default=0, help="what each command takes at least")
    parser.add_argument("--folder", help="where the stores are made: a folder of the file system to look at")
    options = parser.parse_args()
    okapi = str(options.okapi.resolve())
    root = pathlib.Path(tempfile.mkdtemp(prefix="coordinators-", dir=options.folder))
    wrong = False
    try:
        projects = []
        for number in range(options.coordinators):
            project = root / f"project{number}"
            project.mkdir()
            (project / "p.yaml").write_text(pipeline(number, options.seconds), encoding="ascii")
            projects.append(project)
        for name, some, store in (("one alone", projects[:1], root / "alone"),
                                  (f"{len(projects)} at once", projects, root / "store"),
                                  (f"{len(projects)} with nothing to do", projects, root / "store")):
            before = sum(executed(store).values())
            wall, walls, processor, failed = at_once(okapi, some, store, options.jobs)
            counts = executed(store)
            twice = sum(count > 1 for count in counts.values())
            wrong |= failed > 0 or twice > 0 or not counts
            print(f"{name}: {wall:.2f} s, {processor:.2f} s of processors; each {walls[0]:.2f} to {walls[-1]:.2f} s, "
                  f"median {walls[len(walls) // 2]:.2f} s; {sum(counts.values()) - before} executed, {twice} twice, "
                  f"{failed} failed", flush=True)
        subprocess.run([okapi, "cache", "verify", "--store", str(root / "store")], cwd=projects[0], check=True,
                       stdout=subprocess.DEVNULL)
        return 1 if wrong else 0
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
