"""The stored results of a study as tables, read by DuckDB."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from hwsim.errors import StudyError

from .store import Store

PLACES = """
select unnest(places, recursive := true)
from read_json($index, columns = {places: 'STRUCT(id VARCHAR, datapath VARCHAR, seed BIGINT, settings JSON, part VARCHAR)[]'})
"""
RUNS = """
select id, status, steps, seconds, started, host
from read_json($runs, columns = {id: 'VARCHAR', status: 'VARCHAR', steps: 'BIGINT', seconds: 'DOUBLE', started: 'VARCHAR',
    host: 'VARCHAR'})
"""
RESULTS = f"""
with places as ({PLACES}), runs as ({RUNS}), metrics as (select * from read_parquet($metrics, union_by_name = true))
select places.*, runs.* exclude (id), metrics.* exclude (id)
from places join runs using (id) left join metrics using (id)
order by part, datapath, settings, seed, epoch
"""
AUDIT = f"""
with finished as ({RUNS}),
    grid as (select datapath, id from ({PLACES}) where part = '' and id in (select id from finished)),
    places as (select datapath, min(id) as id from grid group by datapath),
    audit as (select * from read_parquet($audit, union_by_name = true))
select datapath, phase, gemm, role, "cast", mac, sum(count)::BIGINT as count, sum(flops)::BIGINT as flops
from places join audit using (id) group by all order by all
"""
NATIVE = f"""
with finished as ({RUNS}),
    grid as (select datapath, id from ({PLACES}) where part = '' and id in (select id from finished)),
    places as (select datapath, min(id) as id from grid group by datapath),
    native as (select * from read_parquet($native, union_by_name = true))
select datapath, phase, role, reason, string_agg(distinct op, ' ' order by op) as ops, sum(count)::BIGINT as count,
    sum(flops)::BIGINT as flops
from places join native using (id) group by datapath, phase, role, reason order by all
"""
EXPERIMENT = f"""
with places as ({PLACES}), metrics as (select * from read_parquet($metrics, union_by_name = true))
select places.id, places.seed, metrics.* exclude (id) from places join metrics using (id) order by places.id, "row"
"""


LISTED = f"""
with places as ({PLACES}),
    runs as (
        select * from read_json($runs, columns = {{id: 'VARCHAR', status: 'VARCHAR', reason: 'VARCHAR', steps: 'BIGINT',
            seconds: 'DOUBLE', started: 'VARCHAR', host: 'VARCHAR', threads: 'BIGINT', hash: 'VARCHAR'}})
    ),
    metrics as (
        select * from read_parquet($metrics, union_by_name = true)
        qualify row_number() over (partition by id order by $LAST desc) = 1
    )
select places.* exclude (settings), settings, runs.* exclude (id), metrics.* exclude (id)
from places left join runs using (id) left join metrics using (id)
"""


def run_rows(folder: Path, where: str = "true") -> list[dict[str, Any]]:
    """One row for each place of a study: where it stands in it, its status, its times, and the metrics of its last epoch.

    The status is that of `run.json`, or `failed` (with its reason), `running` or `missing`.

    Args:
        folder: of the study's results.
        where: a condition on the columns, as SQL.

    Raises:
        StudyError: the folder holds no study, or the condition is none.
    """
    store = Store(folder)
    index, failed, running = store.index(), store.failed(), store.running()
    pending = {id: ("failed", failure["error"]) for id, failure in failed.items()} | dict.fromkeys(running, ("running", ""))
    states = pa.table(
        {
            "id": pa.array(pending, pa.string()),
            "state": pa.array([state for state, _ in pending.values()], pa.string()),
            "why": pa.array([why for _, why in pending.values()], pa.string()),
        }
    )
    with duckdb.connect() as connection:
        if store.finished():
            last = "row" if "experiment" in index["study"] else "epoch"
            files = {"index": "study.json", "runs": "runs/[!.]*/run.json", "metrics": "runs/[!.]*/metrics.parquet"}
            parameters = {name: str(folder / path) for name, path in files.items()}
            table = connection.sql(LISTED.replace("$LAST", f'"{last}"'), params=parameters).to_arrow_table()
        else:
            places = connection.sql(PLACES, params={"index": str(folder / "study.json")}).to_arrow_table()
            nothing = pa.nulls(len(places), pa.string())
            table = places.append_column("status", nothing).append_column("reason", nothing)
        connection.register("found", table)
        connection.register("states", states)
        # A condition reads these two tables and nothing else.
        connection.execute("set enable_external_access = false; set lock_configuration = true")
        query = """
            select * from (
                select $study as study, found.* replace (
                    coalesce(found.status, states.state, 'missing') as status, coalesce(found.reason, states.why) as reason
                ) from found left join states using (id)
            ) where"""
        try:
            named = {"study": index["study"]["name"]}
            chosen: pa.Table = connection.sql(
                f"{query} ({where}) order by part, datapath, settings, seed, id", params=named
            ).to_arrow_table()
        except duckdb.Error as error:
            raise StudyError(f"--where: got {where!r}: {str(error).splitlines()[0]}; allowed: SQL on the columns") from error
    return [_settled(row) for row in chosen.to_pylist()]


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
    return _read(Path(folder), RESULTS, "metrics")


def experiment_results(folder: Path | str) -> pa.Table:
    """One row for each row of each run of an experiment: id, seed, row, and the experiment's own columns.

    Raises:
        StudyError: as for `results`.
    """
    return _read(Path(folder), EXPERIMENT, "metrics")


def audits(folder: Path | str) -> pa.Table:
    """For one run of each datapath: how often each cast was made in each phase and role, and its FLOPs.

    Raises:
        StudyError: as for `results`.
    """
    return _read(Path(folder), AUDIT, "audit")


def natives(folder: Path | str) -> pa.Table:
    """For one run of each datapath: the tensors that stayed in the model's own precision, by phase, role and reason.

    Raises:
        StudyError: as for `results`; runs of before this was stored have no rows.
    """
    if not any(Path(folder).glob("runs/[!.]*/native.parquet")):
        return pa.table({})
    return _read(Path(folder), NATIVE, "native")


def _read(folder: Path, query: str, table: str) -> pa.Table:
    if not (folder / "study.json").is_file():
        raise StudyError(f"{folder}: holds no study; allowed: a folder that `hwsim run` wrote")
    if not any(folder.glob("runs/[!.]*/run.json")):
        raise StudyError(f"{folder}: holds no finished run")
    parameters = {
        "index": str(folder / "study.json"),
        "runs": str(folder / "runs/[!.]*/run.json"),
        table: str(folder / f"runs/[!.]*/{table}.parquet"),
    }
    used = {name: value for name, value in parameters.items() if f"${name}" in query}
    with duckdb.connect() as connection:
        return connection.sql(query, params=used).to_arrow_table()
