"""Assignments: arms of an experiment for the units of files, exactly as the service decides for them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from bandit_serve.api.decisions import Decided, DecideRequest, OutsideReason
from bandit_serve.api.inference import UNIT, USER
from bandit_serve.base.extras import require
from bandit_serve.base.validation import field_error
from bandit_serve.decisions.decisions import Decisions
from bandit_serve.decisions.flags import Assigned, Flags
from bandit_serve.decisions.flush import Flusher
from bandit_serve.decisions.membership import held_out_units
from bandit_serve.errors import Conflict, InvalidInput, StoreUnavailable, UsageError
from bandit_serve.export.formats import Format
from bandit_serve.export.places import Place
from bandit_serve.export.tables import EXTRA
from bandit_serve.node import Node
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.scoring.asked import RowFault, cells
from bandit_serve.scoring.batch_file import BatchReport, batch_file, refusal
from bandit_serve.scoring.row_files import Chunk, RowFile
from bandit_serve.scoring.scorer import ScoredChunk
from bandit_serve.scoring.text_cells import json_value, typed_columns
from bandit_serve.store.keys import COMMON

CHUNK_ROWS = 10_000
"""Units of a flush, far fewer than a buffer of exposures holds."""
CONTEXT, COVARIATES = "context", "covariates"
PATIENCE_S, RETRY_S = 60.0, 0.2
"""How long a batch waits for a store that is away, and between two tries."""
COLUMNS = {UNIT, USER, CONTEXT, COVARIATES}
PLAIN = UNIT, "decision_id"

Exposures = Literal["now", "later"]
Decide = Callable[[DecideRequest], Decided]


async def assign_files(
    node: Node,
    experiment: str,
    files: Sequence[RowFile],
    out: Place,
    form: Format,
    *,
    exposures: Exposures = "now",
    rejects: Place | None = None,
) -> BatchReport:
    """Writes the arm of each row's unit, with the decision's id, into one file that appears whole, at the end.

    exposures: `now`, the decisions are in the log before the file is there; `later`, each becomes an exposure when its
    id is sent to `/v1/exposures`, or with its first reward. The node follows the logs, so that a pause or an end of the
    experiment holds from the next chunk on. Raises `NotFound`, `Conflict` for a draft and for an experiment that
    gives lists, and `StoreUnavailable` where decisions can not be logged; a note says how many are.
    """
    for file in files:
        if not (file.has(UNIT) or file.has(USER)):
            raise UsageError(f"{file.name} has no column {UNIT!r}, nor {USER!r}.")
    incarnation = secrets.randbits(64)
    decisions = Decisions(
        node.replica,
        node.models,
        incarnation,
        await load_keyring(node.store),
        keep_units=node.settings.keep_units,
        held_out=held_out_units(node.settings.namespace, node.settings.service_holdout),
        clock=node.store.clock.now_ms,
    )
    if decisions.decider(experiment).slots > 1:
        raise Conflict(f"The experiment {experiment!r} has slots: a row of a file is given one arm.")
    flusher = Flusher(node.store, decisions.exposures, incarnation, decisions.begun)
    decide = _later(decisions, experiment, node)
    if exposures == "now":
        if rejects is None:
            await _refuse_faults(node, experiment, files, decide)
        decide = _now(decisions, experiment)
    n_decided = 0
    try:
        with batch_file(out, form, _schema(), PLAIN, rejects) as batch:
            async for chunk in _chunks(node, experiment, files):
                decider = decisions.deciders.get(experiment)
                if decider is not None and decider.is_stale(node.store.clock.now_ms()):
                    decider.refresh()
                assigned = _assigned(chunk, decide)
                batch.add(assigned)
                if exposures == "now":
                    decided = assigned.table["decision_id"]
                    n_decided += len(decided) - decided.null_count
                    await _patiently(flusher.flush)
                    if _n_logged(decisions) != n_decided:
                        raise StoreUnavailable("Some of the decisions could not be logged.")
            return await asyncio.to_thread(batch.done)
    except Exception as error:
        if n_logged := _n_logged(decisions):
            error.add_note(f"no file was written, and {n_logged:,} exposures are in the log")
        raise


def _n_logged(decisions: Decisions) -> int:
    return sum(buffer.logged for buffer in decisions.exposures.values())


async def _chunks(node: Node, experiment: str, files: Sequence[RowFile]) -> AsyncIterator[Chunk]:
    """Chunks of the files, each after the node has read all that the experiment's log has by then."""
    for file in files:
        for chunk in file.chunks(CHUNK_ROWS, COLUMNS):
            await _patiently(lambda: _catch_up(node, experiment))
            yield chunk


async def _catch_up(node: Node, experiment: str) -> None:
    for owner in (COMMON, node.replica.registry.owner(experiment)):
        if owner in node.replica.positions:
            await node.tail.wait_for_end(owner)


async def _patiently(work: Callable[[], Awaitable[None]]) -> None:
    """Does what an outage of the store interrupts again, for `PATIENCE_S`."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            await work()
        except StoreUnavailable:
            if time.monotonic() >= end_s:
                raise
            await asyncio.sleep(RETRY_S)
        else:
            return


async def _refuse_faults(node: Node, experiment: str, files: Sequence[RowFile], decide: Decide) -> None:
    """Raises `InvalidInput` for the first row at fault, before any decision is logged."""
    async for chunk in _chunks(node, experiment, files):
        faults = _assigned(chunk, decide).faults
        if faults:
            raise refusal(faults[0])


def _now(decisions: Decisions, experiment: str) -> Decide:
    return lambda request: decisions.decide(experiment, request)


def _later(decisions: Decisions, experiment: str, node: Node) -> Decide:
    flags = Flags(decisions, node.store.clock.now_ms)

    def decide(request: DecideRequest) -> Decided:
        decider = decisions.decider(experiment)
        x = decider.encoded(request.context, request.covariates)
        choice = decider.choose(request.unit, None, x, request.context)
        token = flags.signed(Assigned(decider, choice)).metadata.decision_id
        arm = choice.arm
        return Decided(
            None if token is UNSET else token,
            experiment,
            decider.arm_names[arm],
            choice.propensity,
            decider.models[arm],
            decider.payloads[arm],
            choice.reason,
        )

    return decide


def _assigned(chunk: Chunk, decide: Decide) -> ScoredChunk:
    """Decisions about the rows of a chunk, as a table."""
    units: list[str | None] = []
    decided: list[Decided] = []
    faults = [RowFault(chunk.file, line, detail) for line, detail in chunk.faults]
    for line, request in zip(chunk.lines, _requests(chunk), strict=True):
        try:
            asked = msgspec.convert(request, DecideRequest)
            decided.append(decide(asked))
            units.append(asked.unit)
        except msgspec.ValidationError as error:
            wrong = field_error(error)
            faults.append(RowFault(chunk.file, line, f"{wrong.at}: {wrong.detail}"))
        except InvalidInput as error:
            faults.append(RowFault(chunk.file, line, str(error).rstrip(".")))
    faults.sort(key=lambda fault: fault.line)
    columns = [
        units,
        [each.decision_id for each in decided],
        [each.arm for each in decided],
        [each.propensity for each in decided],
        [None if each.model is None else each.model.id for each in decided],
        [None if each.model is None else each.model.version for each in decided],
        [None if each.payload is None else msgspec.json.encode(each.payload).decode() for each in decided],
        [_reason(each.reason) for each in decided],
    ]
    pa, schema = require("pyarrow", EXTRA), _schema()
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=schema)
    return ScoredChunk(table, len(chunk.lines) + len(chunk.faults), faults)


def _requests(chunk: Chunk) -> list[dict[str, Any]]:
    """Requests of a chunk's rows, without what is null; the unit is the user where there is none of its own."""
    columns, _ = typed_columns(chunk, {CONTEXT: json_value, COVARIATES: json_value})
    listed = {name: cells(column) for name, column in columns.items()}
    users = listed.pop(USER, [None] * len(chunk.lines))
    requests = []
    for i, user in enumerate(users):
        request = {name: column[i] for name, column in listed.items() if column[i] is not None}
        request.setdefault(UNIT, user)
        if type(request[UNIT]) is int:
            request[UNIT] = str(request[UNIT])
        requests.append(request)
    return requests


def _reason(reason: OutsideReason | UnsetType) -> str | None:
    return None if reason is UNSET else reason


def _schema() -> Any:
    pa = require("pyarrow", EXTRA)
    text = pa.string()
    return pa.schema(
        [
            pa.field(UNIT, text),
            pa.field("decision_id", text),
            pa.field("arm", text, False),
            pa.field("propensity", pa.float64(), False),
            pa.field("model", text),
            pa.field("version", text),
            pa.field("payload", text),
            pa.field("reason", text),
        ]
    )
