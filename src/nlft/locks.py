"""Lock an open file, so that one process at a time uses what it stands for."""

from typing import IO, Any


def try_lock(file: IO[bytes]) -> bool:
    """Lock the file until it is closed or the process ends. Return whether that worked.

    A file system without locks counts as locked: there is no way to ask it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return _lock_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # some network disks do not support locks
        return True
    return True


def _lock_on_windows(file: IO[bytes]) -> bool:
    import msvcrt

    locking: Any = msvcrt  # typed on Windows only
    try:
        file.seek(2**40)  # lock a byte behind the content: a lock on the content would stop our own writes
        locking.locking(file.fileno(), locking.LK_NBLCK, 1)
    except OSError:
        return False
    return True
