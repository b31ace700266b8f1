"""Every error a user can cause, as one line that says where, what, got and wanted.

    AutomlError
    ├── SpaceError      a space or config file that cannot be used
    ├── DataError       data that is missing, damaged or of the wrong kind
    ├── StudyError      a study that is held, damaged or begun with other settings
    ├── OptionError     an option of a command or an argument of a function
    ├── ExportError     a model that a file format cannot hold, or answers otherwise from it
    └── PartBug         a part failed on a valid config, or as it was loaded: has its traceback

The command line prints them as one line and exits with 2; a PartBug with its traceback, and 1.
"""

import errno
import re

SECRET = re.compile(r"(?<=:/)(/?)[^@\s]+@")  # user and password in an address


class AutomlError(Exception):
    """The root: `str(error)` is the whole message for a person, without passwords in addresses."""

    def __str__(self) -> str:
        return SECRET.sub(r"\1***@", super().__str__())


class SpaceError(AutomlError):
    """`file:line: place: what is wrong (got ...); what would be right`."""


class DataError(AutomlError):
    """Where was looked, what was found, what to do."""


class StudyError(AutomlError):
    """Which study, what is wrong with it, what to do."""


class OptionError(AutomlError):
    """Which option, what was given, what would be right."""


class ExportError(AutomlError):
    """Which format, and the operator it lacks or how far its answers are off."""


class PartBug(AutomlError):
    """A part raised on a valid config, or its file as it was loaded: a bug is not a bad trial."""


def is_full(error: OSError) -> bool:
    """Whether what failed is for want of room: on the disk, of a quota or of a limit on files."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
