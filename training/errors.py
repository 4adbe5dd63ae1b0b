"""The pipeline's errors; like the runtime's, each says what was expected, found, where, and what to do."""

from communique.errors import CommuniqueError


class ConfigError(CommuniqueError):
    """A config file or a --set option is wrong."""


class CorpusError(CommuniqueError):
    """A corpus breaks its schema or its rules."""


class EncoderError(CommuniqueError):
    """A pretrained encoder cannot be found, or is not the one that was expected."""


class DivergedError(EncoderError):
    """A training ran off to where there are no numbers."""


class RunError(CommuniqueError):
    """A run folder is missing, incomplete, or in use."""


class SweepError(CommuniqueError):
    """A sweep's storage cannot be reached, holds another sweep, or gives no figures."""


class TrackingError(CommuniqueError):
    """The tracking server or its store cannot be reached."""
