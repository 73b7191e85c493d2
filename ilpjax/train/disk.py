"""A full disk is an OSError with a path, whoever was writing."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raises OSError(errno, text, path) for what Orbax and others say otherwise.

    Tensorstore tells of a full disk in words, in a ValueError; a buffered file tells of it without its name.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            if error.filename is None and error.errno is not None:
                raise type(error)(error.errno, error.strerror, str(path)) from error
            raise
        for code in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code), str(path)) from error
        raise


class Quiet(logging.Filter):
    """Drops the traceback that each of Orbax's threads logs of an error which is raised to us anyway."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in record.pathname)
