"""Names that mean to lead elsewhere: out of a folder, to another machine, into a header, an option or a shell."""

from itertools import product
from urllib.parse import unquote

_UPS = (
    "../",
    "..\\",
    "./../",
    "....//",
    "..../",
    "..;/",
    "..%2f",
    "..%5c",
    "%2e%2e/",
    "%2e%2e%2f",
    "%2e%2e%5c",
    "%252e%252e%252f",
    "..%252f",
    "..%c0%af",
    "%c0%ae%c0%ae/",
    "%e0%80%ae%e0%80%ae/",
    "..%00/",
    "\uff0e\uff0e/",
    "..\u2215",
    "..\u2044",
    "..\uff0f",
    "..\u29f8",
)
_GOALS = ("etc/passwd", "graft.db", "artifacts/files/x", "outside/secret")
_DEPTHS = (1, 4)
_OTHERS = (
    "/etc/passwd",
    "//etc/passwd",
    "/%2fetc/passwd",
    "\\etc\\passwd",
    "C:\\Windows\\win.ini",
    "C:/Windows/win.ini",
    "\\\\server\\share\\x",
    "//server/share/x",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "http://127.0.0.1/x",
    "/proc/self/environ",
    "/dev/stdin",
    ".",
    "..",
    "...",
    "./",
    "../",
    "~",
    "~root/.ssh/id_rsa",
    "$HOME",
    "${HOME}",
    "%USERPROFILE%",
    "%00",
    "x%00.json",
    "x\0",
    "\0",
    "x/../y",
    "x/./y",
    "x//y",
    "x/",
    "x;/y",
    "x?y",
    "x#y",
    "*",
    "[a-z]*",
    "x\ny",
    "x\r\nSet-Cookie: a=b",
    "\u202ex",
    "\u200bx",
    "-rf",
    "--help",
    "con",
    "nul.txt",
    "aux.safetensors",
    "x:stream",
    "x." * 60,
    "a" * 256,
    "a" * 5000,
    "../" * 1000,
    "@",
    "x@",
    "@1",
    "x@../../etc",
    "x@-1",
    "x@99999999999999999999",
    "ft:../../x:graft:y:12345678",
    "ft:x:graft:../../y:12345678",
    "ft::::",
    "file-../../../etc/passwd",
    "ftjob-../../../etc/passwd",
    "file-result-../../../etc/passwd",
    "$(touch owned)",
    "`touch owned`",
    "|touch owned",
    "' OR '1'='1",
    "%' --",
)


def payloads() -> list[str]:
    """All of them, as text of a field."""
    ways = [up * depth + goal for up, goal, depth in product(_UPS, _GOALS, _DEPTHS)]
    return list(dict.fromkeys([*ways, *_OTHERS]))


def in_paths() -> list[str]:
    """The same as a server hands them on, which undoes one layer of percent signs."""
    return list(dict.fromkeys(unquote(one) for one in payloads()))
