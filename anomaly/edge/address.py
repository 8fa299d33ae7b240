"""Where a camera is found: what may be opened at all, and what of it may be shown.

An address names its secrets, `rtsp://user:${env:CAMERA_PASSWORD}@host/path` or `${file:/run/secrets/camera}`, and
never holds them; they are filled in only by the process that opens it. What follows a `#` is said to this program and
never sent: `rtsps://host/path#ca=/etc/anomaly/camera-ca.pem` trusts certificates of that authority in place of the
machine's own, and `#unverified` whatever answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import quote, unquote

from anomaly.edge.secrets import resolve
from anomaly.errors import SourceError, UsageError

Kind: TypeAlias = Literal["rtsp", "http", "v4l2", "file"]

_KINDS: dict[str, Kind] = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_REFERENCE = re.compile(r"\$\{(?:env|file):[^{}]+\}")
_DEVICE = re.compile(r"/dev/(?:video[0-9]+|v4l/by-(?:id|path)/[A-Za-z0-9_.:+-]+)")
_TLS = ("rtsps", "https")
_UNVERIFIED, _CA = "unverified", "ca="
_HIDDEN = "***"
# A user and a password as libav's messages show them; up to the last @ before a space or a quote.
_USER_INFO = re.compile(r"(?<=://)[^\s'\"/@]*(?:@|[^\s'\"]*@)")
# Ways in which cameras take a log-in in path or query: ?user=U&password=P, /user=U_password=P_channel=1.
_SECRET_KEY = r"(?:password|passwd|pwd|token|secret|api_?key|(?<![a-z])(?:pass|psw|pw|key|auth))="
_SECRET = re.compile(rf"(?i){_SECRET_KEY}([^&;/?#]*)")
_LOGIN = re.compile(rf"(?i)((?:user(?:name)?|login)=|{_SECRET_KEY})[^&;/?#]+")
# A reference, covered, alone or before the next of what _ joins.
_REFERRED = re.compile(r"(?:\0(?:_.*)?)?")
_MAY_BE_OPENED = (
    "give rtsp://, rtsps://, http:// or https:// with a host, v4l2:///dev/videoN, or the path of a video file"
)


@dataclass(frozen=True, repr=False)
class Address:
    """Where frames come from.

    Attributes:
        text: as written, references to secrets unresolved.
        kind: which way it is opened.
    """

    text: str
    kind: Kind

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"

    @property
    def shown(self) -> str:
        """What logs, metrics, events and errors may hold: without user, password and query, wherever they stand."""
        if self.kind in ("v4l2", "file"):
            return self.path
        scheme, _, host, rest = _parts(self.text)
        path, query, _ = rest.partition("#")[0].partition("?")
        # Covered, so that a reference with a / in it is hidden as a whole.
        path = _LOGIN.sub(rf"\1{_HIDDEN}", _REFERENCE.sub("\0", path)).replace("\0", _HIDDEN)
        return f"{scheme}://{host}{path}{'?' + _HIDDEN if query else ''}"

    @property
    def tls(self) -> bool:
        """Whether the camera is spoken to through TLS."""
        return _parts(self.text)[0] in _TLS

    @property
    def verified(self) -> bool:
        """Whether a camera spoken to through TLS must prove who it is."""
        return self.tls and _fragment(self.text) != _UNVERIFIED

    @property
    def authority(self) -> str | None:
        """File of the certificates that are trusted; None = those of this machine."""
        return _fragment(self.text).removeprefix(_CA) if self.verified and _fragment(self.text) else None

    @property
    def path(self) -> str:
        """The file or device; of an address in the network, as shown.

        Also what libav may not be left to interpret: `file://` and `v4l2://` are taken off here.
        """
        if self.kind in ("v4l2", "file"):
            return re.sub(r"^(?:file|v4l2)://", "", self.text)
        return self.shown

    def resolve(self) -> str:
        """The address with its secrets filled in; only for the process that opens it.

        Raises:
            SourceError: a secret that is not to be had.
        """
        if self.kind in ("v4l2", "file"):
            return self.path
        scheme, user_info, host, rest = _parts(self.text)
        login = f"{_filled(user_info, encoded=True)}@" if user_info else ""
        return (
            f"{scheme}://{login}{host}{_filled(rest.removesuffix('#' + _fragment(self.text)), encoded=False)}"
        )


def parse_address(text: str) -> Address:
    """Read an address as an operator writes it.

    Raises:
        SourceError: none that may be opened, or one with a password written out.
    """
    text = text.strip()
    if not text or any(ord(one) < 32 or ord(one) == 127 for one in text):
        raise SourceError(f"a source is empty or holds control characters; {_MAY_BE_OPENED}")
    if _DEVICE.fullmatch(text):
        return Address(text, "v4l2")
    plain = _REFERENCE.sub("", text)
    found = _SCHEME.match(text)
    if found is None:
        return Address(text, "file")
    scheme = found[1].lower()
    if scheme == "file":
        if not text[len("file://") :].startswith("/"):
            raise SourceError(f"{text} names no file; write file:///path, or only the path")
        return Address(text, "file")
    if scheme == "v4l2":
        if not _DEVICE.fullmatch(text[len("v4l2://") :]):
            raise SourceError(f"{text} names no camera of this machine; write v4l2:///dev/videoN")
        return Address(text, "v4l2")
    if scheme not in _KINDS:
        raise SourceError(f"{scheme}:// is not a kind of source that is opened; {_MAY_BE_OPENED}")
    _, user_info, host, rest = _parts(text)
    if not re.fullmatch(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%]+\])(?::[0-9]{1,5})?", host):
        raise SourceError(f"a source of {scheme}:// names no host that can be read; {_MAY_BE_OPENED}")
    fragment = _fragment(text)
    if fragment and not (scheme in _TLS and (fragment == _UNVERIFIED or fragment.startswith(_CA + "/"))):
        raise SourceError(
            f"what follows # in the address of {scheme}://{host} is not known; with rtsps:// or https:// give "
            f"#{_CA}/path/of/certificates.pem or #{_UNVERIFIED}, else nothing"
        )
    password = _REFERENCE.sub("\0", user_info).partition(":")[2]
    if password not in ("", "\0") or plain.count("${"):
        raise SourceError(
            f"the address of {scheme}://{host} holds a password; keep it in a variable or a file and write "
            f"{scheme}://user:${{env:NAME}}@{host}/... or ${{file:/path}}"
        )
    for found in _SECRET.finditer(unquote(_REFERENCE.sub("\0", rest.removesuffix("#" + fragment)))):
        if not _REFERRED.fullmatch(found[1]):
            key = found[0][: found.start(1) - found.start()]
            raise SourceError(
                f"the address of {scheme}://{host} holds a secret after {key}; keep it in a variable or a file and "
                f"write {key}${{env:NAME}} or {key}${{file:/path}}"
            )
    return Address(text, _KINDS[scheme])


def redact(text: str, address: Address) -> str:
    """A message of libav without what it must not tell; one line."""
    text = " ".join(text.split())
    if address.kind in ("v4l2", "file"):
        return text
    try:
        whole = address.resolve()
    except SourceError:
        whole = ""
    if whole:
        text = text.replace(whole, address.shown)
    for reference in _REFERENCE.findall(address.text):
        try:
            value = resolve(reference)
        except UsageError:
            continue
        for one in {value, quote(value, safe="")}:
            if one:
                text = text.replace(one, _HIDDEN)
    query = whole.partition("?")[2]
    if query:
        text = text.replace(query, _HIDDEN)
    return _USER_INFO.sub("", text)


def _parts(text: str) -> tuple[str, str, str, str]:
    """(scheme, user info, host with port, path and query); references may hold any sign."""
    references = _REFERENCE.findall(text)
    covered = _REFERENCE.sub("\0", text)
    scheme, _, rest = covered.partition("://")
    cut = min((rest.find(sign) for sign in "/?#" if sign in rest), default=len(rest))
    user_info, _, host = rest[:cut].rpartition("@")
    parts = [scheme.lower(), user_info, host, rest[cut:]]
    waiting = iter(references)
    whole = [re.sub("\0", lambda _: next(waiting), part) for part in parts]
    return whole[0], whole[1], whole[2], whole[3]


def _fragment(text: str) -> str:
    """What follows the # of an address in the network; "" where nothing does."""
    return _parts(text)[3].partition("#")[2]


def _filled(part: str, *, encoded: bool) -> str:
    """Secrets filled in; where the address has signs of its own, as in user:password@, they are encoded."""
    try:
        return _REFERENCE.sub(
            lambda found: quote(resolve(found[0]), safe="") if encoded else resolve(found[0]), part
        )
    except UsageError as error:
        raise SourceError(str(error)) from None
