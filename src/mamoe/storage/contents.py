"""What a file holds where it cannot be what its name says: what downloads, archives and phones leave in its place."""

from __future__ import annotations

import re
from pathlib import Path

_BEGINNINGS = {
    b"version https://git-lfs": "it is Git LFS's note about a file that was not fetched; `git lfs pull` fetches it",
    b"/annex/objects/": "it is git-annex's note about a file that was not fetched; `git annex get` fetches it",
    b"%PDF": "it is a PDF",
    b"PK\x03\x04": "it is a ZIP archive; unpack it",
    b"\x1f\x8b": "it is packed by gzip; unpack it",
    b"7z\xbc\xaf": "it is a 7z archive; unpack it",
    b"\xff\x0a": "it is JPEG XL; convert it to PNG",
    b"\0\0\0\x0cJXL ": "it is JPEG XL; convert it to PNG",
    b"8BPS": "it is Photoshop's; convert it to PNG",
    b"\x93NUMPY": "it is an array of NumPy",
}
_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|error)", re.IGNORECASE)
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
_LOOKED_AT = 1 << 12  # bytes


def found_instead(path: Path) -> str | None:
    """What a file holds that cannot be read as what it should be, and what to do; None: nothing that is known.

    Never raises: where the file cannot be opened, whoever asks has an error to show.
    """
    if path.is_dir():
        return "it is a folder, whatever its name says"
    try:
        with path.open("rb") as file:
            begin = file.read(_LOOKED_AT)
    except OSError:
        return None
    if not begin:
        return "it is empty, as a disk that was full or a download that was stopped leaves it"
    if not begin.strip(b"\0"):
        return "it begins with zeros alone, as a crash or a download that was stopped leaves it; get it again"
    if begin[4:12] in _HEIC:
        return "it is HEIC, whatever its name says; convert it to JPEG or PNG"
    if _PAGE.match(begin):
        return "it holds a page or XML, such as a server sends in place of a file; download it again"
    return next((said for start, said in _BEGINNINGS.items() if begin.lstrip().startswith(start)), None)
