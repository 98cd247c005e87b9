"""Route of covariates by unit."""

from __future__ import annotations

import asyncio
from typing import Annotated

import numpy as np
from aiohttp import hdrs, web
from msgspec import Meta, Struct

from bandit_serve.api.decisions import Covariate
from bandit_serve.base.names import Name, OutsideName
from bandit_serve.changes.covariate_files import from_csv, from_parquet
from bandit_serve.changes.covariates import CovariateChanges, CovariateColumns
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.covariates import MAX_UPLOADED_UNITS
from bandit_serve.experiments.spec import MAX_METRICS
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, answer, read_bytes
from bandit_serve.server.wire_form import essence

CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"
READERS = {CSV: from_csv, PARQUET: from_parquet}
CovariateColumn = Annotated[list[Covariate | None], Meta(max_length=MAX_UPLOADED_UNITS)]


class CovariatesRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Units, and of each covariate a number for each of them in their order; null is 0."""

    unit: Annotated[list[OutsideName], Meta(min_length=1, max_length=MAX_UPLOADED_UNITS)]
    covariates: Annotated[dict[Name, CovariateColumn], Meta(min_length=1, max_length=MAX_METRICS)]


class CovariatesView(Struct, frozen=True):
    """What was uploaded: how many units, and the names of their covariates."""

    units: int
    covariates: tuple[str, ...]


class CovariateHandlers:
    def __init__(self, service: Service) -> None:
        node = service.node
        self._timeout_s = service.settings.seconds("body_timeout")
        self._changes = CovariateChanges(node.store, node.tail, node.experiment_changes)
        self._body = Body(CovariatesRequest, timeout_s=self._timeout_s)

    async def put(self, request: web.Request) -> web.Response:
        read = READERS.get(essence(request.headers.get(hdrs.CONTENT_TYPE, "")))
        if read is None:
            columns = _columns(await self._body.read(request))
        else:
            columns = await asyncio.to_thread(read, await read_bytes(request, self._timeout_s))
        await self._changes.put(request.match_info["experiment"], columns)
        return answer(request, CovariatesView(len(columns.units), columns.names))


def _columns(asked: CovariatesRequest) -> CovariateColumns:
    for name, column in asked.covariates.items():
        if len(column) != len(asked.unit):
            at, detail = f"covariates.{name}", f"expected as many numbers as units, {len(asked.unit)}"
            raise InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
    columns = [[0.0 if value is None else value for value in column] for column in asked.covariates.values()]
    values = np.array(columns, np.float64).T
    return CovariateColumns(asked.unit, tuple(asked.covariates), values, "covariates")
