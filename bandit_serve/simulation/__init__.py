"""Simulation: the policy objects that serve traffic, run in described environments on many seeds.

`ENVIRONMENTS` is the table of environments; the policies are those of `policies.POLICIES`.
"""

from bandit_serve.simulation.description import ENVIRONMENTS, Simulation
from bandit_serve.simulation.report import SimulationReport, simulation_report
from bandit_serve.simulation.trial import SimulatedTrial, run_trial
from bandit_serve.simulation.trials import run_trials
from bandit_serve.simulation.worlds.environment import Block, Environment

__all__ = [
    "ENVIRONMENTS",
    "Block",
    "Environment",
    "SimulatedTrial",
    "Simulation",
    "SimulationReport",
    "run_trial",
    "run_trials",
    "simulation_report",
]
