"""What a dataset is a dataset of: kept in ``__run/run.json``, and compared before a run goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from serab_byols.corpus.dataset.plan import PlanFile
from serab_byols.corpus.dataset.storage import RUN_FOLDER, Storage
from serab_byols.errors import InvalidInputError

RUN_FILE = f"{RUN_FOLDER}/run.json"
FORMAT_VERSION = 1
_NOT_COMPARED = ("weights",)
"""Where the weights lie may change; their hash may not."""


@dataclass(frozen=True)
class RunDescription:
    """All that decides about the rows, and the files of the plan.

    Attributes:
        table: metadata of the rows: model, normalisation, frames.
        storage: part size, compression, precision, further columns.
        plan: its files in order.
    """

    table: dict[str, Any]
    storage: dict[str, Any]
    plan: tuple[PlanFile, ...] = ()

    @property
    def n_segments(self) -> int:
        """In all of the plan."""
        return sum(each.n_segments for each in self.plan)

    @property
    def n_parts(self) -> int:
        """In all of the plan."""
        return sum(each.n_parts for each in self.plan)


def read_run(storage: Storage) -> RunDescription | None:
    """The description of a dataset; None if there is none yet.

    Raises:
        InvalidInputError: it is damaged, or of a newer version.
    """
    try:
        with storage.reading(RUN_FILE) as path:
            text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        content = json.loads(text)
        version = content.pop("format_version")
        plan = tuple(PlanFile(**each) for each in content.pop("plan"))
        run = RunDescription(**content, plan=plan)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInputError(f"{storage.location}/{RUN_FILE} is damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise InvalidInputError(
            f"{storage.location} has format version {version}, this library reads {FORMAT_VERSION}"
        )
    return run


def write_run(storage: Storage, run: RunDescription) -> None:
    """Write the description; from now on this is the dataset's."""
    content = {"format_version": FORMAT_VERSION, **asdict(run)}
    with storage.writing(RUN_FILE) as path:
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def check_same_run(location: str, existing: RunDescription, wanted: RunDescription) -> None:
    """Refuse to mix rows that were made in different ways.

    Raises:
        InvalidInputError: something differs; it is named.
    """
    differences = [
        f"{name} is {_shown(before.get(name))} there and {_shown(now.get(name))} now"
        for before, now in ((existing.table, wanted.table), (existing.storage, wanted.storage))
        for name in sorted({*before, *now})
        if name not in _NOT_COMPARED and before.get(name) != now.get(name)
    ]
    if differences:
        raise InvalidInputError(
            f"{location} was begun in another way: {'; '.join(differences)}. "
            "Use the same options, or another folder"
        )


def _shown(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}...{text[-12:]}"
