"""Writes the same graph as an okapi pipeline (literal nodes, and `for_each` where the shape allows) and for ninja.

A node is `cksum INPUTS > OUTPUT`. Shapes: chain; wide (independent nodes); layered (ten layers, each node reads two of
the layer before).

Usage: graphs.py SHAPE NODES FOLDER
"""

import os
import sys


def graph(shape, nodes):
    """Yields (name, inputs), inputs being names, or None for a node that reads the source of its own number."""
    if shape == "chain":
        yield "n0", None
        for i in range(1, nodes):
            yield f"n{i}", [f"n{i - 1}"]
    elif shape == "wide":
        for i in range(nodes):
            yield f"n{i}", None
    elif shape == "layered":
        width = max(2, nodes // 10)
        for i in range(width):
            yield f"n0_{i}", None
        for layer in range(1, 10):
            for i in range(width):
                yield f"n{layer}_{i}", [f"n{layer - 1}_{i}", f"n{layer - 1}_{(i + 1) % width}"]
    else:
        sys.exit(f"unknown shape {shape}")


def write(shape, nodes, folder):
    os.makedirs(f"{folder}/src", exist_ok=True)
    literal = ["okapi: 1", "name: bench", "nodes:"]
    ninja = ["rule c", "  command = cksum $in > $out"]
    sources = 0
    for name, inputs in graph(shape, nodes):
        literal.append(f"  {name}:")
        literal.append("    stage: command")
        if inputs is None:
            source = f"src/{sources}.txt"
            with open(f"{folder}/{source}", "w", encoding="ascii") as file:
                file.write(f"source {sources}\n")
            sources += 1
            literal.append(f"    files: [{source}]")
            literal.append(f"    run: cksum {source} > \"$OKAPI_OUTPUT_O\"")
            ninja.append(f"build out/{name}: c {source}")
        else:
            ports = ["a", "b"][:len(inputs)]
            literal.append("    inputs: {" + ", ".join(f"{p}: {i}" for p, i in zip(ports, inputs)) + "}")
            reads = " ".join(f'"$OKAPI_INPUT_{p.upper()}"' for p in ports)
            literal.append(f"    run: cksum {reads} > \"$OKAPI_OUTPUT_O\"")
            ninja.append(f"build out/{name}: c " + " ".join(f"out/{i}" for i in inputs))
        literal.append("    outputs: {o: file}")
    with open(f"{folder}/literal.yaml", "w", encoding="ascii") as file:
        file.write("\n".join(literal) + "\n")
    with open(f"{folder}/build.ninja", "w", encoding="ascii") as file:
        file.write("\n".join(ninja) + "\n")
    if shape == "wide":
        values = ", ".join(str(i) for i in range(nodes))
        with open(f"{folder}/for_each.yaml", "w", encoding="ascii") as file:
            file.write("okapi: 1\nname: bench\nnodes:\n  n:\n    stage: command\n"
                       f"    for_each: {{i: [{values}]}}\n"
                       '    files: ["src/${each.i}.txt"]\n'
                       '    run: cksum src/${each.i}.txt > "$OKAPI_OUTPUT_O"\n'
                       "    outputs: {o: file}\n")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    write(sys.argv[1], int(sys.argv[2]), sys.argv[3])
