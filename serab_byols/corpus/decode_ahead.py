"""Decoding in threads, ahead of the encoder: libsndfile and soxr release the interpreter lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from serab_byols.corpus.decoding import AudioClip
from serab_byols.corpus.remote import LocalCopy, is_url
from serab_byols.corpus.segments import Segment, as_segment
from serab_byols.errors import SerabByolsError

N_DECODING_THREADS = 2
N_DOWNLOADING_THREADS = 16
"""For files in object stores, where most of the time is spent waiting."""

N_CLIPS_AHEAD = 64
STREAM_S = 60.0
"""A longer recording is streamed: it is decoded block by block and never in memory as a whole."""


@dataclass(frozen=True)
class DecodedSegment:
    """What became of a segment: samples (n,) at the model's rate; a local file if it is long; or an error."""

    index: int
    segment: Segment
    start_s: float = 0.0
    end_s: float = 0.0
    samples: np.ndarray | None = None
    error: SerabByolsError | None = None
    copy: LocalCopy | None = None
    warning: str | None = None


def decode_ahead(
    paths: Iterable[str | os.PathLike[str] | Segment], sample_rate_hz: int
) -> Iterator[DecodedSegment]:
    """Decoded segments in their order, while some more are decoded in the background.

    The pools are left to end by themselves when nobody refers to them any more. Shutting them down here would
    take locks of the interpreter's threads. An iterator that is not read to its end may be collected at any
    moment, also while the same thread holds these locks, and would wait for ever.
    """
    decoding = ThreadPoolExecutor(N_DECODING_THREADS, thread_name_prefix="decode")
    downloading = ThreadPoolExecutor(N_DOWNLOADING_THREADS, thread_name_prefix="download")
    waiting: deque[Future[DecodedSegment]] = deque()
    try:
        for index, item in enumerate(paths):
            segment = as_segment(item)
            pool = downloading if is_url(segment.path) else decoding
            waiting.append(pool.submit(_decode, index, segment, sample_rate_hz))
            if len(waiting) > N_CLIPS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            if not future.cancel():
                future.add_done_callback(_close_copy)


def _close_copy(future: Future[DecodedSegment]) -> None:
    """Nobody will stream it."""
    if future.exception() is None and (copy := future.result().copy):
        copy.close()


def _decode(index: int, segment: Segment, sample_rate_hz: int) -> DecodedSegment:
    try:
        segment.check()
        with ExitStack() as stack:
            copy = stack.enter_context(LocalCopy(segment.path))
            with copy.named(), AudioClip(copy.path, segment.start_s, segment.end_s) as clip:
                if clip.end_s - clip.start_s <= STREAM_S:
                    samples = clip.read(sample_rate_hz)
                    return DecodedSegment(
                        index, segment, clip.start_s, clip.end_s, samples, warning=clip.warning
                    )
            stack.pop_all()  # whoever streams it closes the copy
            return DecodedSegment(index, segment, clip.start_s, clip.end_s, copy=copy)
    except SerabByolsError as error:
        return DecodedSegment(index, segment, error=error)


def one_block_ahead(blocks: Iterator[np.ndarray], pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
    """The same blocks; the next one is decoded while the last one is used."""
    future = pool.submit(next, blocks, None)
    try:
        while (block := future.result()) is not None:
            future = pool.submit(next, blocks, None)
            yield block
    finally:
        future.cancel()
