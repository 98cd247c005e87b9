"""CPU a request with two workers beside one, in one run.

    python benchmarks/http_workers.py [--rounds 5] [--seconds 3]

A service of one worker and one of two, each on a store of its own, are loaded in turn, route by route, over 32 and
over 64 connections. Two workers with as many connections as one have each half of its work, so they sleep and are woken
more often, and being woken is part of what a request costs; with twice as many each has as much to do as the one. The
figures are the medians over rounds of the ratios in a round (two / one). CPU is that of all workers of the service.
"""

from __future__ import annotations

import argparse
import statistics

import load
from http_load import routes, serving, show

SINGLES = ("decide", "predict", "reward")
CONNECTIONS = (32, 64)
PAIRS = ((32, 32), (64, 64), (64, 32))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    found: dict[tuple[str, int, int], list[float]] = {}
    with serving(1) as one, serving(2) as two:
        for number in range(arguments.rounds):
            for name in SINGLES:
                cost: dict[tuple[int, int], float] = {}
                for workers, service in ((1, one), (2, two)):
                    for connections in CONNECTIONS:
                        measured = routes(service, arguments.seconds, connections)[name]()
                        show(number, f"{name}, {workers} on {connections}", measured)
                        cost[workers, connections] = measured.cpu_us
                for of_two, of_one in PAIRS:
                    ratio = cost[2, of_two] / cost[1, of_one]
                    found.setdefault((name, of_two, of_one), []).append(ratio)
    print(f"\nmedians of {arguments.rounds} rounds, load from {load.generator()}")
    for (name, of_two, of_one), ratios in found.items():
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:8} two on {of_two} / one on {of_one}: {statistics.median(ratios):.2f}  ({spread})")


if __name__ == "__main__":
    main()
