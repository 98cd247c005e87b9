"""Running of all trials of a simulation, in several processes."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context

from bandit_serve.errors import BanditServeError
from bandit_serve.processes.parent import end_with_parent
from bandit_serve.simulation.description import Simulation
from bandit_serve.simulation.trial import SimulatedTrial, run_trial

WORTH_PROCESSES_S = 3.0
"""Remaining work, in seconds, from which on more processes are started: less is done before they are ready."""
AHEAD = 4
"""Trials that are queued for each process."""

Place = tuple[int, int]
"""Number of a contender, and of a seed."""
Trials = list[list[SimulatedTrial]]
OnSimulatedTrial = Callable[[int, int, SimulatedTrial], None]


def run_trials(
    simulation: Simulation, jobs: int | None = None, on_trial: OnSimulatedTrial | None = None
) -> Trials:
    """Runs all trials in `jobs` processes; returns `trials[contender][seed]`, the same for any `jobs`.

    By default there are as many processes as processors, if there is enough work. `on_trial(contender, seed, trial)` is
    called in this process as each trial ends.
    """
    contenders, seeds = range(len(simulation.contenders)), range(simulation.seeds)
    places = deque((i, number) for number in seeds for i in contenders)
    trials: dict[Place, SimulatedTrial] = {}
    for done in (_here, _pooled):
        for place, trial in done(simulation, places, jobs):
            trials[place] = trial
            if on_trial is not None:
                on_trial(*place, trial)
    return [[trials[i, number] for number in seeds] for i in contenders]


def _here(
    simulation: Simulation, places: deque[Place], jobs: int | None
) -> Iterator[tuple[Place, SimulatedTrial]]:
    """Runs trials in this process: all, or until more processes are worth their start."""
    started_s, done = time.perf_counter(), 0
    several = (jobs or processors()) > 1
    while places:
        spent_s = time.perf_counter() - started_s
        if several and (jobs or (done and spent_s / done * len(places) > WORTH_PROCESSES_S)):
            return
        contender, number = places.popleft()
        yield (contender, number), run_trial(simulation, simulation.contenders[contender], number)
        done += 1


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pooled(
    simulation: Simulation, places: deque[Place], jobs: int | None
) -> Iterator[tuple[Place, SimulatedTrial]]:
    """Runs the remaining trials in processes of their own."""
    if not places:
        return
    processes = min(jobs or processors(), len(places))
    others = set(active_children())
    # Not forked: the display may have a thread by now.
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(), simulation)
    )
    running: dict[Future[SimulatedTrial], Place] = {}
    try:
        while places or running:
            while places and len(running) < processes * AHEAD:
                place = places.popleft()
                running[pool.submit(_run, *place)] = place
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()
    except BrokenProcessPool:
        raise BanditServeError("A process of the simulation ended before its work was done.") from None
    except BaseException:  # Ctrl-C too: the other trials are not wanted any more
        for process in set(active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_simulation: Simulation | None = None


def _begin(parent: int, simulation: Simulation) -> None:
    """Prepares a process: Ctrl-C ends it without a traceback."""
    global _simulation
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent(parent)
    _simulation = simulation


def _run(contender: int, number: int) -> SimulatedTrial:
    assert _simulation is not None
    return run_trial(_simulation, _simulation.contenders[contender], number)
