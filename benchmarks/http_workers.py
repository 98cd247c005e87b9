"""CPU per request with two workers and with one, in one run.

    python benchmarks/http_workers.py [--rounds 5] [--seconds 3]

A service of one worker and one of two, each on a store of its own, are loaded in turn, route by route. With twice as
many connections, each of the two has as much to do as the one: that is what a second worker costs. With as many, each
has half, so less is done at each turn of its loop and in each append; what that alone costs is shown by the one on half
as many. The figures are the medians over rounds of the ratios in a round. CPU is that of all workers of the service.
"""

from __future__ import annotations

import argparse
import statistics

import load
from http_load import routes, serving, show

SINGLES = ("decide", "predict", "reward")
# Workers and connections: those loaded, and of which the ratios are shown.
LOADED = ((1, 16), (1, 32), (2, 32), (2, 64))
RATIOS = (((2, 64), (1, 32)), ((2, 32), (1, 16)), ((2, 32), (1, 32)), ((1, 16), (1, 32)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    costs: dict[str, list[dict[tuple[int, int], float]]] = {name: [] for name in SINGLES}
    with serving(1) as one, serving(2) as two:
        services = {1: one, 2: two}
        for number in range(arguments.rounds):
            for name in SINGLES:
                cost: dict[tuple[int, int], float] = {}
                for workers, connections in LOADED:
                    measured = routes(services[workers], arguments.seconds, connections)[name]()
                    show(number, f"{name}, {workers} on {connections}", measured)
                    cost[workers, connections] = measured.cpu_us
                costs[name].append(cost)
    print(f"\nmedians of {arguments.rounds} rounds, load from {load.generator()}")
    for name in SINGLES:
        for these, those in RATIOS:
            ratios = [cost[these] / cost[those] for cost in costs[name]]
            compared = f"{these[0]} on {these[1]} / {those[0]} on {those[1]}"
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(f"{name:8} {compared}: {statistics.median(ratios):.2f}  ({spread})")


if __name__ == "__main__":
    main()
