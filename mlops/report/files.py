"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mlops.errors import ReportError
from mlops.store import FILE_MODE

__all__ = ["replaced"]


@contextlib.contextmanager
def replaced(target: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write, which takes the target's place once it is whole; mode 0600.

    Raises:
        ReportError: it cannot be written; what was there before stays.
    """
    path = Path(target)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(draft, flags, FILE_MODE), "wb") as file:
            yield file
        draft.replace(path)
    except OSError as error:
        _forget(draft)
        raise ReportError(
            f"Cannot write {path}: {error.strerror or error}", remedy="Name another file, or free space there."
        ) from error
    except BaseException:
        _forget(draft)
        raise


def _forget(draft: Path) -> None:
    with contextlib.suppress(OSError):
        draft.unlink()
