"""The end of a demo, printed: a table, who won, how to read it, and where to look next."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bandit_serve.demo import wording
from bandit_serve.demo.summary import Summary
from bandit_serve.demo.trial import MODEL

VALID = (
    "The 95 % intervals hold whenever one looks and however the bandit moved the traffic; "
    "P(best) is an aid, not a test."
)


def print_closing(console: Console, summary: Summary) -> None:
    console.print()
    console.print(_table(summary))
    console.print()
    console.print(Text(winner_sentence(summary), style="bold"))
    console.print(regret_sentence(summary))
    console.print(VALID, style="dim")
    console.print()
    console.print(Text.assemble(("Where to look next", "bold")))
    _print_next(console, summary)


def winner_sentence(summary: Summary) -> str:
    won = summary.arm(summary.won)
    share = f"{won.arm} won: its share of the last fifth was {wording.percent(won.share_of_last_fifth)}"
    if won.difference is None:
        ending = "it is the control, and no other arm took the traffic from it."
    elif won.difference_interval is None:
        ending = f"{won.difference:+.3f} over {summary.control}, with too few visits for an interval."
    else:
        sure = (
            "" if won.difference_interval[0] > 0 else "; the interval still holds 0: more visits would tell"
        )
        text = wording.difference(won.difference, won.difference_interval)
        ending = f"{text} over {summary.control}{sure}."
    return f"{share}, {ending}"


def regret_sentence(summary: Summary) -> str:
    truly = (
        "which is the best arm by its true mean"
        if summary.won == summary.best
        else f"{summary.best} truly is best"
    )
    return (
        f"Finding {summary.won}, {truly}, cost {summary.regret:,.0f} likes in {summary.visits:,} visits; "
        f"an even split would have cost {summary.regret_of_even_split:,.0f}."
    )


def _table(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\narm", no_wrap=True)
    table.add_column("\nmodel", no_wrap=True)
    for name in ("\nvisits", "last\nfifth", "\nmean", "true\nmean"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("difference to control\nand its 95 % interval", no_wrap=True)
    table.add_column("P\n(best)", justify="right", no_wrap=True)
    for arm in summary.arms:
        table.add_row(
            arm.arm,
            arm.version,
            f"{arm.visits:,}",
            wording.percent(arm.share_of_last_fifth),
            wording.mean(arm.mean),
            wording.mean(arm.true_mean),
            "control"
            if arm.arm == summary.control
            else wording.difference(arm.difference, arm.difference_interval),
            wording.percent(arm.probability_best),
            style="bold green" if arm.arm == summary.won else "",
        )
    return table


def _print_next(console: Console, summary: Summary) -> None:
    if summary.url is None:
        console.print("  bandit-serve demo --keep        leaves the service up and says what to ask it")
        console.print("  bandit-serve serve --data DIR   runs a service of your own")
        return
    experiment = f"{summary.url}/v1/experiments/{summary.experiment}"
    for what, url in (
        ("results", f"{experiment}/results"),
        ("changes", f"{experiment}/history"),
        ("the service", f"{summary.url}/v1/stats"),
        ("for Prometheus", f"{summary.url}/metrics"),
        ("its versions", f"{summary.url}/v1/models/{MODEL}"),
    ):
        console.print(Text.assemble(f"  curl -s {url}", (f"  # {what}", "dim")), soft_wrap=True)
    console.print(f"The service stays up at {summary.url} until Ctrl-C.", soft_wrap=True)
