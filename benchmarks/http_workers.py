"""CPU a request with two workers beside one, in one run.

    python benchmarks/http_workers.py [--rounds 5] [--seconds 3]

A service of one worker and one of two, each on a store of its own, are loaded in turn, route by route: one worker
over 32 connections, two over 32 and over 64. At 64 each worker has as much to do as the one has; at 32 each has half
of it, so it sleeps and is woken more often, and being woken is part of what a request costs. The figures are the
medians over rounds of the ratios in a round (two / one). CPU is that of all workers of the loaded service.
"""

from __future__ import annotations

import argparse
import statistics

import load
from http_load import routes, serving, show

SINGLES = ("decide", "predict", "reward")
CONNECTIONS = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    found: dict[tuple[str, int], list[float]] = {}
    with serving(1) as one, serving(2) as two:
        for number in range(arguments.rounds):
            for name in SINGLES:
                alone = routes(one, arguments.seconds, CONNECTIONS)[name]()
                show(number, f"{name}, 1 on {CONNECTIONS}", alone)
                for connections in (CONNECTIONS, 2 * CONNECTIONS):
                    both = routes(two, arguments.seconds, connections)[name]()
                    show(number, f"{name}, 2 on {connections}", both)
                    found.setdefault((name, connections), []).append(both.cpu_us / alone.cpu_us)
    print(f"\nmedians of {arguments.rounds} rounds, load from {load.generator()}")
    for (name, connections), ratios in found.items():
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{name:8} two on {connections} / one on {CONNECTIONS}: {statistics.median(ratios):.2f}  ({spread})"
        )


if __name__ == "__main__":
    main()
