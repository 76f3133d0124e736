"""One family of exceptions: ``except SerabByolsError`` catches every error that the library raises."""


class SerabByolsError(Exception):
    """Base of every error that this library raises on purpose."""


class InvalidInputError(SerabByolsError, ValueError):
    """An argument has the wrong shape, type, range or name; the message says what was given and expected."""


class CheckpointError(SerabByolsError, ValueError):
    """A checkpoint file is corrupt, foreign, of another encoder, or written by a newer format."""


class CheckpointNotFoundError(SerabByolsError, FileNotFoundError):
    """There is no checkpoint of that path or name."""


class DownloadError(SerabByolsError, OSError):
    """Published weights could not be downloaded or verified; the message says what to do."""


class AudioFileError(SerabByolsError, OSError):
    """An audio file is missing, unreadable, empty, or shorter than the requested segment."""


class AudioFileWarning(UserWarning):
    """An audio file was cut off or is damaged, and was embedded as far as it goes."""


class DivergedError(SerabByolsError, ArithmeticError):
    """A training's loss became infinite or NaN."""


class ClusterError(SerabByolsError, RuntimeError):
    """A cluster cannot be reached, has no room, or loses its workers again and again."""


class MissingExtraError(SerabByolsError, ImportError):
    """An optional package is needed; the message has the pip line that installs it."""


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """The error for an optional ``package`` that does not import, with the way to get it."""
    return MissingExtraError(
        f"{purpose} needs the package {package!r}, which cannot be imported here. "
        f"Install it with: pip install 'serab-byols[{extra}]'"
    )
