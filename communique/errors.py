"""The errors that communique raises on purpose.

    CommuniqueError
    ├── BundleError     a model folder is missing, incomplete, altered, too new or not one
    └── InputError      a text or file cannot be read or classified

Each message names what was expected, what was found, where, and what to do.
"""


class CommuniqueError(Exception):
    """Base of every error that is the caller's to mend; its text is meant for people."""


class BundleError(CommuniqueError):
    """A model bundle cannot be trusted or understood."""


class InputError(CommuniqueError):
    """A text, file or option cannot be worked with."""
