"""How the HEAR functions and the file commands run an encoder: fast, exact, and never stale.

A waveform goes down through these modules: :mod:`~serab_byols.inference.waveforms` checks what the caller
passed; :mod:`~serab_byols.inference.scenes` and :mod:`~serab_byols.inference.timestamps` compute its
log-mel (:mod:`~serab_byols.inference.streaming`), cut frames
(:mod:`~serab_byols.inference.frame_grid`, :mod:`~serab_byols.inference.overlapping_frames`), normalise,
and hand the result to the encoder's runner (:mod:`~serab_byols.inference.runners`).
"""
