"""The JSON Schema of study files, by which editors complete and check them as they are typed."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hwsim.config.record import Record
from hwsim.datapaths import Datapath
from hwsim.fields import FormatField
from hwsim.macs import Mac

from .experiments import experiment_setting
from .schema import ExperimentStudy, Setting, Study

NAMED = ("Cast", "Scaling", "Mac", "GemmPaths", "Datapath")
"""Records that a file may also give by a name."""


class _File(Record):
    study: Study | ExperimentStudy
    formats: dict[str, FormatField] = Field(default_factory=dict)
    macs: dict[str, Mac] = Field(default_factory=dict)
    datapaths: dict[str, Datapath] = Field(default_factory=dict)


def study_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a study file.

    It lets pass what an axis may supply, and the options of tasks; `hwsim check` says the rest.
    """
    schema = _File.model_json_schema()
    settings = Setting.model_json_schema()
    experiment = experiment_setting().model_json_schema()
    definitions = settings["$defs"] | experiment["$defs"] | schema["$defs"]
    for name in ("TaskChoice", "Sgd", "Adam", "AdamW"):
        definitions[name].pop("required", None)
    definitions["TaskChoice"]["additionalProperties"] = True
    definitions["TaskChoice"]["properties"].pop("options")
    definitions["Study"]["properties"] |= {key: settings["properties"][key] for key in ("task", "optimizer")}
    definitions["ExperimentStudy"]["properties"]["experiment"] = experiment["properties"]["experiment"]
    definitions["GemmPaths"]["properties"]["all"] = definitions["GemmPaths"]["properties"]["output"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_with_names(schema | {"$defs": definitions})}


def _with_names(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_names(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("$ref", "").rpartition("/")[2] in NAMED:
        return {"anyOf": [{"type": "string"}, schema]}
    return {key: _with_names(value) for key, value in schema.items()}
