"""Who may use a page: whoever has its token. A second token may look, and change nothing.

A token never stands on the command line, where other users of the machine would see it: it is in a file or in the
environment. Without one, each start draws its own.
"""

import ipaddress
import os
import re
import secrets
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from nlft.errors import UserError, display_path
from nlft.files import refuse_waiting_file

TOKEN, READ_TOKEN = "NLFT_TOKEN", "NLFT_READ_TOKEN"  # environment variables
LOOKS = ("/api/export", "/api/search")  # requests with a body that change nothing
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,200}")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")


@dataclass(frozen=True)
class Access:
    """What a request needs.

    Attributes:
        token: the secret that every request must carry.
        read_token: the secret of those who may only look; None: there is none.
        root_path: the path under which a proxy shows the page, such as `/nlft`; empty: at the top.
        shared: whether the user chose the token. It is then not printed.
    """

    token: str
    read_token: str | None = None
    root_path: str = ""
    shared: bool = False

    def holds(self, word: str) -> bool:
        """Return whether the word is one of the tokens."""
        return _same(word, self.token) or self.only_reads(word)

    def only_reads(self, word: str) -> bool:
        """Return whether the word is the token of those who may only look."""
        return self.read_token is not None and _same(word, self.read_token)


def port_number(text: str) -> int:
    """Read a port of the command line.

    Raises:
        ArgumentTypeError: it is no number from 0 to 65535. 0 means any free port.
    """
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def host_name(text: str) -> str:
    """Read a host name of the command line. A scheme, a port and a path are cut off: a page accepts any port.

    Raises:
        ArgumentTypeError: it has no host name.
    """
    with suppress(ValueError):
        return str(ipaddress.ip_address(text))
    try:
        name = urlsplit(text if "//" in text else f"//{text}").hostname
    except ValueError:
        name = None
    if not name:
        raise ArgumentTypeError(f"write a host name such as team.example, not {text!r}")
    return name


def access_flags(parser: ArgumentParser) -> None:
    """Add the flags of a page's tokens and of its path behind a proxy."""
    what = f"file with the page's token, for a team (or the environment variable {TOKEN}; default: a new one)"
    parser.add_argument("--token", type=Path, metavar="FILE", help=what)
    what = f"file with a second token, whose holders may look but change nothing (or {READ_TOKEN})"
    parser.add_argument("--read_token", type=Path, metavar="FILE", help=what)
    parser.add_argument("--root_path", default="", metavar="/PATH", help="path under which a proxy shows the page")


def read_access(args: Namespace) -> Access:
    """Read the tokens from their files or the environment, or draw one.

    Raises:
        UserError: a file is missing, a token is too short, both are the same, or the path has another form.
    """
    token, reading = _token("--token", args.token, TOKEN), _token("--read_token", args.read_token, READ_TOKEN)
    if token is not None and token == reading:
        raise UserError("--token and --read_token hold the same token.\n  Give each its own.")
    root = args.root_path.rstrip("/")
    if root and not _PREFIX.fullmatch(root):
        raise UserError(f"--root_path is {args.root_path!r}.\n  Write it as /nlft: letters, digits and -._~ only.")
    return Access(token or secrets.token_urlsafe(24), reading, root, shared=token is not None)


def _token(flag: str, file: Path | None, variable: str) -> str | None:
    found, where = os.environ.get(variable) or None, variable
    if file is not None:
        where = f"{flag} {display_path(file)}"
        if not file.exists():  # the file's name may be the token itself, so it is not repeated
            raise UserError(f"{flag}: there is no such file.\n  Give a file with the token: {flag} FILE.")
        try:
            refuse_waiting_file(file)
            found = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where}: cannot be read.\n  Write the token into a text file.") from error
    if found is not None and not _TOKEN.fullmatch(found):
        cure = 'python -c "import secrets; print(secrets.token_urlsafe(24))"'
        raise UserError(f"{where}: a token has 16 to 200 letters, digits or -._~.\n  Make one: {cure}")
    return found


def _same(word: str, token: str) -> bool:
    return secrets.compare_digest(word.encode("utf-8", "surrogatepass"), token.encode())
