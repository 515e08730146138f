"""The stored results of a study as tables, read by DuckDB."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from hwsim.errors import StudyError

from .store import Store, last_row

PLACES = """
select unnest(places, recursive := true)
from read_json($index, columns = {places: 'STRUCT(id VARCHAR, datapath VARCHAR, seed BIGINT, settings JSON, part VARCHAR)[]'})
"""
RESULTS = f"""
with places as ({PLACES}), metrics as (select * from read_parquet($files, union_by_name = true))
select places.*, runs.* exclude (id, reason, threads, hash), metrics.* exclude (id)
from places join runs using (id) left join metrics using (id)
order by part, datapath, settings, seed, epoch
"""
AUDIT = f"""
with places as (select datapath, id from ({PLACES}) where part = ''), audit as (select * from read_parquet($files))
select datapath, phase, gemm, role, "cast", mac, sum(count)::BIGINT as count, sum(flops)::BIGINT as flops
from places join audit using (id) group by all order by all
"""
NATIVE = f"""
with places as (select datapath, id from ({PLACES}) where part = ''), native as (select * from read_parquet($files))
select datapath, phase, role, reason, string_agg(distinct op, ' ' order by op) as ops, sum(count)::BIGINT as count,
    sum(flops)::BIGINT as flops
from places join native using (id) group by datapath, phase, role, reason order by all
"""
EXPERIMENT = f"""
with places as ({PLACES}), metrics as (select * from read_parquet($files, union_by_name = true))
select places.id, places.seed, metrics.* exclude (id) from places join metrics using (id) order by places.id, "row"
"""
PLACE = {"study": pa.string(), "id": pa.string(), "datapath": pa.string(), "seed": pa.int64(), "part": pa.string()}
PLACE |= {"settings": pa.string()}
RUN = {
    "id": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "steps": pa.int64(),
    "seconds": pa.float64(),
    "started": pa.string(),
    "host": pa.string(),
    "threads": pa.int64(),
    "hash": pa.string(),
}
"""What tables have of a `run.json`; DuckDB takes more than ten times as long to read many of them."""


def run_rows(folder: Path, where: str = "true") -> list[dict[str, Any]]:
    """One row for each place of a study: where it stands in it, its status, its times, and the metrics of its last epoch.

    The status is that of `run.json`, or `failed` (with its reason), `running` or `missing`.

    Args:
        folder: of the study's results.
        where: a condition on the columns, and on `run`, the whole configuration as JSON, as SQL.

    Raises:
        StudyError: the folder holds no study, or the condition is none.
    """
    store = Store(folder)
    with duckdb.connect() as connection:
        connection.register("found", _listed(store))
        # A condition reads this table and nothing else.
        connection.execute("set enable_external_access = false; set lock_configuration = true")
        query = f"select * exclude (run) from found where ({where}) order by part, datapath, settings, seed, id"
        try:
            chosen: pa.Table = connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise StudyError(f"--where: got {where!r}: {str(error).splitlines()[0]}; allowed: SQL on the columns") from error
    return [_settled(row) for row in chosen.to_pylist()]


def _listed(store: Store) -> pa.Table:
    """A row for each place: study and place, state and record of its run, and the last row of its metrics."""
    index, finished, columns = store.index(), store.finished(), {**PLACE, **RUN, "run": pa.string()}
    pending = {id: ("failed", failure["error"]) for id, failure in store.failed().items()}
    pending |= dict.fromkeys(store.running(), ("running", ""))
    records = {id: store.record(id) for id in finished}
    lasts = {id: _last(store, record) for id, record in records.items()}
    rows = []
    for place in index["places"]:
        status, reason = pending.get(place["id"], ("missing", None))
        row = {"study": index["study"]["name"], **place, "settings": json.dumps(place["settings"])}
        record = records.get(place["id"], {})
        found = {key: value for key, value in record.items() if key in RUN}
        rows.append(row | {"status": status, "reason": reason} | found | {"run": json.dumps(record.get("run"))})
    metrics = dict.fromkeys(name for last in lasts.values() for name in last if name not in columns)
    table = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in columns.items()}
    return pa.table(table | {name: _column([lasts.get(row["id"], {}).get(name) for row in rows]) for name in metrics})


def _last(store: Store, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last row of a run's metrics, which its record has where JSON can say it."""
    last: Mapping[str, Any] | None = record.get("last")
    return last_row(pq.read_table(store.runs / record["id"] / "metrics.parquet")) if last is None else last


def _column(values: list[Any]) -> pa.Array:
    """Numbers, truth values or texts; what is mixed as texts."""
    kinds = {type(value) for value in values if value is not None}
    mixed = len(kinds) > 1 and kinds != {int, float}
    return pa.array([str(value) for value in values] if mixed else values)


def _settled(row: dict[str, Any]) -> dict[str, Any]:
    """The other axes' values as columns of their own."""
    settings = json.loads(row.pop("settings") or "{}")
    return {**row, **{axis: value for axis, value in settings.items() if axis not in row}}


def results(folder: Path | str) -> pa.Table:
    """One row for each place, run and epoch: id, datapath, seed, settings (JSON), part, status, steps, seconds, started,
    host, epoch, step, metrics.

    A run that diverged before the end of its first epoch has one row, without metrics.

    Raises:
        StudyError: the folder holds no study, or no finished run.
    """
    store = _with_results(folder)
    return _read(store, RESULTS, "metrics", store.finished())


def experiment_results(folder: Path | str) -> pa.Table:
    """One row for each row of each run of an experiment: id, seed, row, and the experiment's own columns.

    Raises:
        StudyError: as for `results`.
    """
    store = _with_results(folder)
    return _read(store, EXPERIMENT, "metrics", store.finished())


def audits(folder: Path | str) -> pa.Table:
    """For one run of each datapath: how often each cast was made in each phase and role, and its FLOPs.

    Raises:
        StudyError: as for `results`.
    """
    store = _with_results(folder)
    return _read(store, AUDIT, "audit", _one_each(store))


def natives(folder: Path | str) -> pa.Table:
    """For one run of each datapath: the tensors that stayed in the model's own precision, by phase, role and reason.

    Raises:
        StudyError: as for `results`; runs of before this was stored have no rows.
    """
    store = _with_results(folder)
    return _read(store, NATIVE, "native", _one_each(store))


def _with_results(folder: Path | str) -> Store:
    store = Store(Path(folder))
    store.index()
    if not store.finished():
        raise StudyError(f"{folder}: holds no finished run")
    return store


def _one_each(store: Store) -> set[str]:
    """The first finished run of each datapath of the grid, by id."""
    finished, first = store.finished(), dict[str, str]()
    for place in store.index()["places"]:
        if place["part"] == "" and place["id"] in finished:
            first[place["datapath"]] = min(first.get(place["datapath"], place["id"]), place["id"])
    return set(first.values())


def _runs(store: Store, ids: Iterable[str]) -> pa.Table:
    records = [store.record(id) for id in sorted(ids)]
    return pa.Table.from_pylist([{name: record.get(name) for name in RUN} for record in records], schema=pa.schema(RUN))


def _parameters(store: Store, table: str = "", ids: Iterable[str] = ()) -> dict[str, Any]:
    """The files of a query."""
    files = [path for id in sorted(ids) if (path := store.runs / id / f"{table}.parquet").exists()]
    return {"index": str(store.folder / "study.json"), **({"files": list(map(str, files))} if files else {})}


def _read(store: Store, query: str, table: str, ids: set[str]) -> pa.Table:
    parameters = _parameters(store, table, ids)
    if "files" not in parameters:
        return pa.table({})
    with duckdb.connect() as connection:
        connection.register("runs", _runs(store, ids))
        return connection.sql(query, params=parameters).to_arrow_table()
