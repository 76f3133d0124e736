"""Whether timestamps are where the sound is: which embeddings change when bursts are added to a clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from serab_byols.hear_benchmark.validation_audio import clip_with_bursts

N_BURSTS = 8
"""Each at another place between two timestamps, so that the offset is known to an eighth of the hop."""

FIRST_BURST_S = 2.0
BETWEEN_BURSTS_S = 3.0

Frames = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Audio (n_samples,) to embeddings (n_timestamps, D) and timestamps (n_timestamps,) in ms, float64."""


@dataclass(frozen=True)
class Response:
    """Which timestamps change with a burst.

    Attributes:
        offset_ms: mean of these timestamps minus the burst's time; 0 if they are centres.
        width_ms: the stretch of time they span.
    """

    offset_ms: float
    width_ms: float

    def tolerance_ms(self, hop_ms: float) -> float:
        """A start instead of a centre is half the width away; networks are not quite symmetric in time."""
        return max(hop_ms / 2 + 5, self.width_ms / 4)


def short_clip_response(frames: Frames, rate_hz: int, length_s: float, hop_ms: float) -> Response | None:
    """Response to a burst in the middle of a clip, over clips with the burst shifted by parts of the hop.

    Returns:
        None if a burst changes no timestamp more than all others.
    """
    without, timestamps_ms = frames(clip_with_bursts(rate_hz, length_s, []))
    responses = []
    for shift_ms in (np.arange(N_BURSTS) - (N_BURSTS - 1) / 2) / N_BURSTS * hop_ms:
        time_ms = 1000 * length_s / 2 + float(shift_ms)
        with_burst, _ = frames(clip_with_bursts(rate_hz, length_s, [time_ms]))
        change = (with_burst - without).norm(dim=1)
        responses.append(_response(change, timestamps_ms, time_ms, hop_ms, float(change.median())))
    return _mean(responses)


def long_clip_responses(
    frames: Frames, rate_hz: int, length_s: float, hop_ms: float
) -> tuple[Response | None, Response | None, float, torch.Tensor]:
    """Responses to the same bursts early and late in a long clip.

    Returns:
        Early and late response, how much later the late bursts are in milliseconds, a whole number of hops,
        and the clip's timestamps.
    """
    early_ms = [
        1000 * (FIRST_BURST_S + i * BETWEEN_BURSTS_S) + i / N_BURSTS * hop_ms for i in range(N_BURSTS)
    ]
    latest_ms = 1000 * (length_s - FIRST_BURST_S) - early_ms[-1]
    later_ms = latest_ms // hop_ms * hop_ms
    without, timestamps_ms = frames(clip_with_bursts(rate_hz, length_s, []))
    both: list[Response | None] = []
    for times_ms in (early_ms, [time_ms + later_ms for time_ms in early_ms]):
        change = (frames(clip_with_bursts(rate_hz, length_s, times_ms))[0] - without).norm(dim=1)
        background = float(change.median())
        both.append(
            _mean([_response(change, timestamps_ms, time_ms, hop_ms, background) for time_ms in times_ms])
        )
    return both[0], both[1], later_ms, timestamps_ms


def _response(
    change: torch.Tensor, timestamps_ms: torch.Tensor, time_ms: float, hop_ms: float, background: float
) -> Response | None:
    """Of one burst, from how much each embedding changed (n_timestamps,); ``background`` is what all did."""
    near = (timestamps_ms - time_ms).abs() <= 1000 * BETWEEN_BURSTS_S / 2
    if not near.any():
        return None
    peak = float(change[near].max())
    if peak <= 2 * background or peak == 0:
        return None
    changed = timestamps_ms[near & (change > (peak + background) / 2)]
    return Response(float(changed.mean()) - time_ms, hop_ms * len(changed))


def _mean(responses: Sequence[Response | None]) -> Response | None:
    found = [response for response in responses if response is not None]
    if len(found) < len(responses):
        return None
    offset_ms = float(np.mean([response.offset_ms for response in found]))
    return Response(offset_ms, float(np.mean([response.width_ms for response in found])))
