"""Inputs (files, folders, lists, local or by URL) as segments to embed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

from serab_byols.corpus.decoding import AUDIO_SUFFIXES
from serab_byols.corpus.lists import carried_columns, is_list, read_list
from serab_byols.corpus.remote import file_system, files_below, is_folder, is_url, without_file_scheme
from serab_byols.corpus.segments import Segment, as_segment
from serab_byols.errors import InvalidInputError
from serab_byols.paths import suffix_of

Input = str | os.PathLike[str] | Segment


class Inputs:
    """Files, folders (searched recursively), lists, and segments, to be listed one by one.

    Args:
        items: one of them, or an iterable.
        in_order: list a folder in order of name. Otherwise it comes as the file system gives it, and the
            names of a large one are neither sorted nor held.

    Attributes:
        passed_over: how many files in folders were not taken for audio, by suffix; complete after listing.

    Raises:
        InvalidInputError: a list that cannot be read or does not say where its segments are; an unknown
            kind of URL.
        MissingExtraError: a URL, and the package for it is missing.
    """

    def __init__(self, items: Input | Iterable[Input], *, in_order: bool = True) -> None:
        items = [items] if isinstance(items, (str, os.PathLike, Segment)) else items
        self._items = [without_file_scheme(item) if isinstance(item, str) else item for item in items]
        self._in_order = in_order
        self.passed_over: Counter[str] = Counter()
        for item in self._items:
            if isinstance(item, str) and is_url(item):
                file_system(item)  # before anything is loaded

    def __iter__(self) -> Iterator[Segment]:
        self.passed_over.clear()
        for item in self._items:
            yield from self._segments_of(item)

    @property
    def named(self) -> list[str]:
        """The files, folders and lists themselves, as they were given."""
        return [os.fspath(item.path if isinstance(item, Segment) else item) for item in self._items]

    def carried_columns(self) -> dict[str, Any]:
        """Columns that the lists carry through, with their Arrow types; None stands for text.

        Raises:
            InvalidInputError: two lists disagree about a column's type.
        """
        columns: dict[str, Any] = {}
        for item in self._items:
            if isinstance(item, Segment):
                columns.update(dict.fromkeys(item.columns))
                continue
            if not is_list(item) or os.path.isdir(item):
                continue
            for name, kind in carried_columns(item).items():
                if name in columns and columns[name] != kind:
                    kinds = " and ".join(str(each or "text") for each in (columns[name], kind))
                    raise InvalidInputError(f"the column {name!r} is {kinds} in different lists")
                columns[name] = kind
        return columns

    def _segments_of(self, item: Input) -> Iterator[Segment]:
        if isinstance(item, Segment):
            yield item
        elif is_list(item) and not os.path.isdir(item):
            yield from read_list(item)
        elif is_url(item):
            yield from self._segments_at(os.fspath(item))
        elif os.path.isdir(item):
            yield from self._segments_in_folder(os.fspath(item))
        else:
            yield as_segment(item)

    def _segments_at(self, url: str) -> Iterator[Segment]:
        if suffix_of(url) in AUDIO_SUFFIXES or not is_folder(url):
            yield Segment(url, url)
            return
        files = map(as_segment, files_below(url))
        yield from self._audio_among(sorted(files, key=attrgetter("file")) if self._in_order else files, url)

    def _segments_in_folder(self, folder: str) -> Iterator[Segment]:
        yield from self._audio_among(self._files_below(folder), folder)

    def _audio_among(self, segments: Iterable[Segment], folder: str) -> Iterator[Segment]:
        found = False
        for segment in segments:
            suffix = suffix_of(segment.file)
            if suffix in AUDIO_SUFFIXES or segment.problem:
                found = True
                yield segment
            else:
                self.passed_over[suffix] += 1
        if not found:
            yield Segment(folder, folder, problem="no audio files in this folder")

    def _files_below(self, folder: str) -> Iterator[Segment]:
        """Files of a folder, then those of its subfolders; without hidden ones.

        Names with a leading dot are metadata files of other systems ("._clip.wav"), not recordings.
        """
        subfolders = []
        try:
            for entry in self._entries(folder):
                if entry.is_dir(follow_symlinks=False):
                    subfolders.append(entry.path)
                elif not (entry.is_symlink() and entry.is_dir()):
                    yield Segment(entry.path, entry.path)
        except OSError as error:
            yield Segment(folder, folder, problem=f"the folder cannot be listed ({error.strerror})")
        for subfolder in subfolders:
            yield from self._files_below(subfolder)

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            in_order = sorted(entries, key=lambda entry: entry.name) if self._in_order else entries
            yield from (entry for entry in in_order if not entry.name.startswith("."))


def find_segments(items: Iterable[Input]) -> list[Segment]:
    """All segments, folders in order of name."""
    return list(Inputs(items))


def describe_passed_over(passed_over: Counter[str]) -> str:
    """Such as ``12 files that are not audio by suffix (10 .txt, 2 without)``; empty if there are none."""
    total = passed_over.total()
    if not total:
        return ""
    most = [f"{count} {suffix or 'without'}" for suffix, count in passed_over.most_common(4)]
    rest = total - sum(count for _, count in passed_over.most_common(4))
    listed = ", ".join(most + ([f"{rest} others"] if rest else []))
    noun = "file that is" if total == 1 else "files that are"
    return f"{total} {noun} not audio by suffix ({listed})"
