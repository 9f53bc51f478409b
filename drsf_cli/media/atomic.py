"""Output that appears whole or not at all.

The work is done under a hidden name in the folder of the final file, flushed to the disk and renamed. A process
that is killed leaves at most the hidden file, never a half-written one under the final name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from drsf_cli.media.files import refuse_existing
from weights.errors import OutputError


def same_place(first: Path, second: Path) -> bool:
    """Whether both names lead to the same file or folder, also through symbolic or hard links."""
    try:
        return first.samefile(second)
    except OSError:
        return first.absolute() == second.absolute()


_CANNOT_SYNCHRONISE = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that have no fsync (some FUSE, SMB and NFS mounts); they are ignored, as nothing more can be
done there."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def synchronise(path: Path) -> None:
    """Flush a file to the disk, or a folder as far as possible.

    Many network shares refuse to flush a folder; if the machine then crashes, the new name may be lost, but no file is
    half-written. Raises OSError.
    """
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not folder and error.errno not in _CANNOT_SYNCHRONISE:
            raise


_LONGEST = 60
"""Bytes of the final name that a temporary name keeps: enough to recognise a leftover, and few enough that long names
stay under the file system's limit."""


def _stem(final: Path) -> str:
    return os.fsencode(final.name.removesuffix(final.suffix))[:_LONGEST].decode(errors="ignore")


def leftovers(final: Path) -> list[Path]:
    """Temporary files and folders left by processes that were killed while they wrote `final`.

    Including those of `write_atomically`.

    Empty for a long name: it is shortened in temporary names, so they may belong to another output.
    """
    if len(os.fsencode(final.name)) > _LONGEST or not final.parent.is_dir():
        return []
    own = rf"\.{re.escape(_stem(final))}\.[0-9a-f]{{8}}\.part{re.escape(final.suffix)}"
    whole = rf"\.{re.escape(final.name)}\.[0-9a-f]{{8}}\.part"
    return sorted(path for path in final.parent.iterdir() if re.fullmatch(f"{own}|{whole}", path.name))


def hidden_beside(final: Path) -> Path:
    """A name for a temporary file beside `final`, in the form that `leftovers` finds."""
    return final.with_name(f".{_stem(final)}.{secrets.token_hex(4)}.part{final.suffix}")


class Publishable(Protocol):
    """What `publish_together` takes."""

    def publish(self) -> Path:
        """Move the output to its final name, and return that name."""

    def withdraw(self) -> None:
        """Take away again what was published."""


def publish_together(outputs: Iterable[Publishable]) -> None:
    """Publish all outputs or none: if one fails, those published before it are removed again."""
    begun: list[Publishable] = []
    try:
        for output in outputs:
            begun.append(output)
            output.publish()
    except BaseException:
        for output in begun:
            output.withdraw()
        raise


class AtomicOutput:
    """A path to write to, `temporary`, that becomes `final` when it is published.

    Checks before any work that `final` can be written: its folder exists and is writable, nothing is in the way
    (unless `overwrite`), and it is none of `inputs`. `folder_of` makes the output a folder of files with these
    suffixes; a folder that holds anything else is never replaced. Raises OutputError, one sentence.
    """

    def __init__(
        self, final: Path, *, overwrite: bool = False, inputs: Iterable[Path] = (), folder_of: tuple[str, ...] = ()
    ) -> None:
        self.final = Path(final)
        self._overwrite = overwrite
        self._folder_of = folder_of
        self._is_folder = bool(folder_of)
        self._published = False
        for path in inputs:
            if same_place(self.final, path):
                raise OutputError(f"{self.final} is the input itself; choose another output.")
        self._refuse_existing()
        self.temporary = hidden_beside(self.final)
        try:
            if self._is_folder:
                self.temporary.mkdir()
            else:
                os.close(os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"{self.final} cannot be written there ({reason}); choose another folder.") from error

    def _refuse_existing(self) -> None:
        if not os.path.lexists(self.final):
            return
        if self.final.exists() and not self.final.is_dir() and not self.final.is_file():
            raise OutputError(f"{self.final} is a pipe or a device; name a file.")
        if self.final.is_dir() != self._is_folder:
            kind = "folder" if self.final.is_dir() else "file"
            raise OutputError(f"{self.final} is a {kind} that is in the way; choose another output.")
        if self._is_folder and not any(self.final.iterdir()):
            return
        refuse_existing(self.final, self._overwrite)
        if self._is_folder and any(entry.suffix.lower() not in self._folder_of for entry in self.final.iterdir()):
            raise OutputError(f"{self.final} holds other files too, so it is not replaced; choose another folder.")

    def fill(self, content: Iterable[bytes]) -> None:
        """Write the whole temporary file, piece by piece. Raises OutputError."""
        try:
            with self.temporary.open("wb") as file:
                file.writelines(content)
        except OSError as error:
            raise OutputError(
                f"{self.final} could not be written ({error.strerror}); check the space on the disk."
            ) from error

    def publish(self) -> Path:
        """Flush to the disk, rename to the final name and return it. If that fails half-way, no output is left."""
        try:
            if self._is_folder:
                self._publish_folder()
            else:
                self._publish_file()
            synchronise(self.final.parent)
        except OSError as error:
            self.withdraw()
            raise OutputError(f"{self.final} could not be put in place ({error.strerror}).") from error
        return self.final

    def withdraw(self) -> None:
        """Take away again what was published."""
        if not self._published:
            return
        self._published = False
        if self._is_folder:
            shutil.rmtree(self.final, ignore_errors=True)
        else:
            self.final.unlink(missing_ok=True)

    def _publish_file(self) -> None:
        synchronise(self.temporary)
        if self._overwrite:
            self.temporary.replace(self.final)
            self._published = True
            return
        try:
            # Unlike a rename, a link never replaces a file that has appeared in the meantime.
            os.link(self.temporary, self.final)
            self._published = True
        except FileExistsError:
            self._refuse_existing()
            raise
        except OSError:  # a file system without hard links
            self._refuse_existing()
            self.temporary.rename(self.final)
        else:
            self.temporary.unlink()
        self._published = True

    def _publish_folder(self) -> None:
        for file in self.temporary.iterdir():
            synchronise(file)
        synchronise(self.temporary)
        self._refuse_existing()
        if self.final.is_dir() and any(self.final.iterdir()):
            old = self.temporary.with_name(self.temporary.name + ".old")
            self.final.rename(old)
            self.temporary.rename(self.final)
            self._published = True
            shutil.rmtree(old, ignore_errors=True)
        else:
            self.temporary.rename(self.final)  # onto nothing or onto an empty folder
            self._published = True

    def discard(self) -> None:
        """Remove what was written, unless it was published."""
        if self._published:
            return
        if self._is_folder:
            shutil.rmtree(self.temporary, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                self.temporary.unlink()
