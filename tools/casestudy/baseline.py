#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The case study's Python rows: what the guide begins with, plain PyTorch in one or several processes.

    baseline.py --processes P [--threads T] FILE.jpg...
    baseline.py --processes P [--threads T] --shape 16x3x224x224

Each process loads its own copy of the network (eval mode, inference mode, no tricks), prepares the images once, warms up, and
then classifies them one after another; with --shape, random
images of that shape, of which "images" counts the rows. Says "ready" when all processes are. For each line "go SECONDS" on standard input it
runs for that long and prints one JSON line {"images": N, "seconds": S, "latencies_us": [...]}. Ends at end of input.
"""
import argparse
import json
import multiprocessing
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "export"))


def serve(connection, files, threads, shape):
    import torch

    if threads:
        torch.set_num_threads(threads)
    import efficientnet_lite0

    network = efficientnet_lite0.load_network()
    if shape:
        torch.manual_seed(1)
        images = [torch.randn(shape)]
    else:
        images = [efficientnet_lite0.prepare(path) for path in files]
    with torch.inference_mode():
        for i in range(3 if shape else 10):
            network(images[i % len(images)])
        connection.send("ready")
        while True:
            try:
                seconds = connection.recv()
            except EOFError:  # the study is over
                return
            latencies = []
            until = time.perf_counter() + seconds
            while (begin := time.perf_counter()) < until:
                network(images[len(latencies) % len(images)]).argmax()
                latencies.append((time.perf_counter() - begin) * 1e6)
            connection.send(latencies)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="intra-op threads; 0 = PyTorch's default")
    parser.add_argument("--shape", type=lambda text: [int(dim) for dim in text.split("x")], default=None)
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    if not args.files and not args.shape:
        parser.error("photographs or a --shape are needed")
    context = multiprocessing.get_context("spawn")
    connections = []
    for _ in range(args.processes):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, args.files, args.threads, args.shape), daemon=True).start()
        connections.append(ours)
    for connection in connections:
        connection.recv()
    print("ready", flush=True)
    for line in sys.stdin:
        word, seconds = line.split()
        if word != "go":
            sys.exit(f"baseline.py: what is {word!r}?")
        begin = time.perf_counter()
        for connection in connections:
            connection.send(float(seconds))
        latencies = [latency for connection in connections for latency in connection.recv()]
        rows = args.shape[0] if args.shape else 1
        print(json.dumps({"images": rows * len(latencies), "seconds": time.perf_counter() - begin,
                          "latencies_us": [round(latency, 1) for latency in latencies]}), flush=True)


if __name__ == "__main__":
    main()
