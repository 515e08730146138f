"""The stored results of a study as tables, read by DuckDB."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

from hwsim.errors import StudyError

PLACES = """
select unnest(places, recursive := true)
from read_json($index, columns = {places: 'STRUCT(id VARCHAR, datapath VARCHAR, seed BIGINT, settings JSON, part VARCHAR)[]'})
"""
RUNS = """
select id, status, steps, seconds
from read_json($runs, columns = {id: 'VARCHAR', status: 'VARCHAR', steps: 'BIGINT', seconds: 'DOUBLE'})
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


def results(folder: Path | str) -> pa.Table:
    """One row for each place, run and epoch: id, datapath, seed, settings (JSON), part, status, steps, seconds, epoch,
    step, metrics.

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
