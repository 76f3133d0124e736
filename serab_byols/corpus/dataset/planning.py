"""Comparing inputs with the plan of a dataset, and appending to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from serab_byols.corpus.dataset.description import RunDescription, write_run
from serab_byols.corpus.dataset.plan import (
    Digest,
    hash_of,
    key_of,
    plannable,
    read_parts,
    write_plan,
)
from serab_byols.corpus.dataset.storage import Storage
from serab_byols.corpus.listing import Inputs
from serab_byols.corpus.segments import Segment
from serab_byols.errors import InvalidInputError

_MOST_NAMED = 3


def begin(
    storage: Storage, run: RunDescription, inputs: Inputs, columns: dict[str, Any], part_size: int
) -> RunDescription:
    """Plan a new dataset.

    Raises:
        InvalidInputError: the inputs name no files.
    """
    plan_file = write_plan(
        storage, _plan_name(0), map(plannable, inputs), columns, part_size=part_size, first_part=0
    )
    if not plan_file.n_segments:
        raise InvalidInputError("the lists given name no files")
    run = replace(run, plan=(plan_file,))
    write_run(storage, run)
    return run


def append(
    storage: Storage, run: RunDescription, inputs: Inputs, columns: dict[str, Any], part_size: int
) -> RunDescription:
    """Plan the segments that are not in the plan yet, as further parts.

    Raises:
        InvalidInputError: a list says something else of a segment than when it was planned.
    """
    plan_file = write_plan(
        storage,
        _plan_name(len(run.plan)),
        _new_segments(storage, run, inputs),
        columns,
        part_size=part_size,
        first_part=run.n_parts,
    )
    if plan_file.n_segments:
        run = replace(run, plan=(*run.plan, plan_file))
        write_run(storage, run)
    return run


def check_same_plan(storage: Storage, run: RunDescription, inputs: Inputs) -> None:
    """Refuse inputs that list other segments than the plan has, in whatever order.

    Raises:
        InvalidInputError: with some of the segments that are new or gone.
    """
    digest, planned = Digest(), Digest()
    for segment in map(plannable, inputs):
        digest.add(segment)
    for plan_file in run.plan:
        planned.merge(plan_file.n_segments, plan_file.digest)
    if (digest.n_segments, str(digest)) == (planned.n_segments, str(planned)):
        return
    new, gone = _differences(storage, run, inputs)
    raise InvalidInputError(
        f"{storage.location} was begun with other inputs: new are {new}, missing are {gone}. "
        "To embed what is new as well use --append (append=True), or choose another folder"
    )


def _differences(storage: Storage, run: RunDescription, inputs: Inputs) -> tuple[str, str]:
    balance = Counter(hash_of(segment) for segment in map(plannable, inputs))
    gone = []
    for segment in _planned(storage, run):
        name = hash_of(segment)
        if not balance[name]:
            gone.append(segment.file)
        balance[name] -= 1
    new = []
    for segment in map(plannable, inputs):
        if balance[hash_of(segment)] > 0:
            new.append(segment.file)
            balance[hash_of(segment)] -= 1
    return _some(new), _some(gone)


def _some(files: list[str]) -> str:
    named = ", ".join(files[:_MOST_NAMED])
    more = ", ..." if len(files) > _MOST_NAMED else ""
    return f"{len(files)} ({named}{more})" if files else "none"


def _new_segments(storage: Storage, run: RunDescription, inputs: Inputs) -> Iterator[Segment]:
    known = {key_of(segment): hash_of(segment) for segment in _planned(storage, run)}
    for segment in map(plannable, inputs):
        planned = known.get(key_of(segment))
        if planned is None:
            yield segment
        elif planned != hash_of(segment):
            raise InvalidInputError(
                f"the columns of {segment.file} have changed since {storage.location} was planned: "
                "choose another folder"
            )


def _planned(storage: Storage, run: RunDescription) -> Iterator[Segment]:
    for plan_file in run.plan:
        for part in read_parts(storage, plan_file):
            yield from part.segments


def _plan_name(number: int) -> str:
    return f"plan-{number:06d}.arrow"


def check_columns(run: RunDescription, columns: Mapping[str, str], *, append: bool) -> None:
    """Refuse columns that the dataset does not have.

    Raises:
        InvalidInputError: with their names.
    """
    there = dict(run.storage["columns"])
    same = there == columns or (append and columns.items() <= there.items())
    if not same:
        raise InvalidInputError(
            f"the lists have the columns {_named(columns)}, the dataset was begun with {_named(there)}"
        )


def _named(columns: Mapping[str, str]) -> str:
    listed = [f"{name} ({kind})" for name, kind in columns.items()]
    return ", ".join(listed) or "none"
