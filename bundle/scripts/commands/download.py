"""
Fetch the RibFrac data set from Zenodo, and unpack it so that ``scripts.data.datalist`` reads it.

    python -m scripts download --output_dir /data/ribfrac --sections training validation

A run that was stopped goes on by the same command. ``monai.apps.download_url`` begins a file anew each time, and
``monai.apps.extractall`` takes an archive that was unpacked in part for whole; both matter at 37 GB a file.
"""

import hashlib
import json
import logging
import shutil
import ssl
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from monai.apps.utils import safe_extract_member
from tqdm import tqdm

from scripts.commands._parsers import ZENODO_API_URL, parser_of
from scripts.files.atomic_write import unfinished_files, whole_file, write_json
from scripts.runs.lock import FolderLock

__all__ = ["download_ribfrac", "main"]

# Zenodo records of Jin et al. (2020), doi:10.1016/j.ebiom.2020.103106
RECORDS = {"training": (3893508, 3893498), "validation": (3893496,), "test": (3993380,)}
LICENSE = "RibFrac is licensed CC BY-NC 4.0: neither it nor weights trained on it are for commercial use."
UNPACKED_NAME = "ribfrac-download.json"

_TRIES = 5  # in a row that get nowhere
_WAIT_S = 5.0  # after the first of them; the next waits are twice, three times ... as long
_TIMEOUT_S = 60.0
_CHUNK_BYTES = 2**20
_GB = 1e9
_BUSY = (408, 429, 500, 502, 503, 504)  # HTTP: try again later
_DROPPED = (URLError, ConnectionError, TimeoutError, ssl.SSLError, HTTPException)

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class _RecordFile:
    """A file of a Zenodo record."""

    name: str
    size_bytes: int
    md5: str
    url: str

    @property
    def is_archive(self) -> bool:
        return self.name.endswith(".zip")

    @property
    def folder(self) -> str:
        """What the archive is unpacked to, so that a scan's section can be told by its folder."""
        return Path(self.name).stem


def download_ribfrac(
    output_dir: str | Path,
    sections: Sequence[str] = tuple(RECORDS),
    keep_archives: bool = False,
    api_url: str = ZENODO_API_URL,
) -> Path:
    """
    Fetch sections of RibFrac into a folder and unpack them; what is there and whole is skipped.

    The folder then holds one folder for each archive, the tables, and ``ribfrac-download.json``: the files of each
    archive with their sizes. ``load_datalist(output_dir, section)`` reads it (the test section has no annotations). A
    file that is still being fetched is called ``*.part``.

    Args:
        output_dir: folder to write; made where it is missing.
        sections: some of ``"training"``, ``"validation"`` and ``"test"``.
        keep_archives: keep each archive once it is unpacked, which doubles the disk space.
        api_url: address of Zenodo's REST API, or of a mirror that serves ``records/NUMBER`` in the same way.

    Returns:
        ``output_dir`` as an absolute path.

    Raises:
        BlockingIOError: when another run writes to the folder.
        FileNotFoundError: when the server cannot be reached, or does not have a record or a file.
        ValueError: when a section is unknown, the disk is too small, or a file does not have the record's checksum.

    References:
        Jin et al. (2020), EBioMedicine, doi:10.1016/j.ebiom.2020.103106; https://developers.zenodo.org.
    """
    if unknown := set(sections) - set(RECORDS):
        raise ValueError(f"sections has {', '.join(sorted(unknown))}: use some of {', '.join(RECORDS)}.")
    output_dir = Path(output_dir).expanduser().resolve()
    with FolderLock(output_dir):
        _fetch_sections(output_dir, sections, keep_archives, api_url)
    return output_dir


def _fetch_sections(output_dir: Path, sections: Sequence[str], keep_archives: bool, api_url: str) -> None:
    """Fetch and unpack what is missing."""
    logger.info(LICENSE)
    numbers = [number for section in RECORDS if section in sections for number in RECORDS[section]]
    files = [file for number in numbers for file in _files_of_record(f"{api_url.rstrip('/')}/records/{number}")]
    missing = [file for file in files if not _is_done(file, output_dir)]
    _announce(files, missing, output_dir, keep_archives)
    for file in missing:
        path = _fetch(file, output_dir)
        if file.is_archive:
            sizes = _unpack(path, output_dir / file.folder)
            _remember(file, sizes, output_dir)
            if not keep_archives:
                path.unlink()


def _files_of_record(url: str) -> list[_RecordFile]:
    """List the files of a record."""

    def read() -> Any:
        with _open(url) as response:
            return json.load(response)

    try:
        files = _persist(read, url)["files"]
        found = [
            _RecordFile(Path(f["key"]).name, int(f["size"]), f["checksum"].removeprefix("md5:"), f["links"]["self"])
            for f in files
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{url} gives no record as Zenodo's API does ({error!r}): check api_url.") from error
    if not found:
        raise ValueError(f"{url} lists no files: see the record's page on zenodo.org for the reason.")
    return found


def _announce(files: list[_RecordFile], missing: list[_RecordFile], output_dir: Path, keep_archives: bool) -> None:
    """Tell what will be fetched and the disk space for it; ``ValueError`` when that is more than there is."""
    needed = _needed_bytes(missing, output_dir, keep_archives)
    free = shutil.disk_usage(output_dir).free
    room = f"about {needed / _GB:.1f} GB of disk space, {free / _GB:.1f} GB are free in {output_dir}"
    total = sum(file.size_bytes for file in files)
    logger.info(
        f"{len(files)} files, {total / _GB:.1f} GB, of which {len(files) - len(missing)} are here and whole. "
        f"To fetch and unpack the others takes {room}."
    )
    if needed > free:
        raise ValueError(f"The download needs {room}: free some, take another output_dir, or fewer sections.")


def _needed_bytes(missing: list[_RecordFile], output_dir: Path, keep_archives: bool) -> int:
    """
    Tell the disk space that is taken at the worst moment, beyond what is taken now.

    Scans are compressed before they are zipped, so an archive's size stands for that of its files.
    """
    held = worst = 0
    for file in missing:
        here = max((_size(output_dir / name) for name in (file.name, f"{file.name}.part")))
        held += file.size_bytes - here
        if file.is_archive:
            unpacked = sum(_size(path) for path in (output_dir / file.folder).rglob("*"))
            held += max(file.size_bytes - unpacked, 0)
        worst = max(worst, held)
        if file.is_archive and not keep_archives:
            held -= file.size_bytes
    return worst


def _is_done(file: _RecordFile, output_dir: Path) -> bool:
    """Tell whether a file is there and whole or, for an archive, all that was unpacked from it."""
    if not file.is_archive:
        return _is_whole(file, output_dir / file.name)
    entry = _unpacked(output_dir).get(file.name, {"md5": None})
    return entry["md5"] == file.md5 and all(_size(output_dir / n) == size for n, size in entry["files"].items())


def _is_whole(file: _RecordFile, path: Path) -> bool:
    return path.is_file() and _size(path) == file.size_bytes and _md5(path) == file.md5


def _unpacked(output_dir: Path) -> dict[str, Any]:
    """Read which archives were unpacked: ``{archive: {"md5": checksum, "files": {path: bytes}}}``."""
    path = output_dir / UNPACKED_NAME
    return json.loads(path.read_text()) if path.is_file() else {}


def _remember(file: _RecordFile, sizes: dict[str, int], output_dir: Path) -> None:
    """Write down that an archive was unpacked whole."""
    entries = {**_unpacked(output_dir), file.name: {"md5": file.md5, "files": sizes}}
    write_json(output_dir / UNPACKED_NAME, entries)


def _fetch(file: _RecordFile, output_dir: Path) -> Path:
    """Download a file unless it is there and whole; a wrong checksum is tried once more."""
    path = output_dir / file.name
    if _is_whole(file, path):
        return path
    part = output_dir / f"{file.name}.part"
    for _ in range(2):
        _download(file, part)
        found = _md5(part)
        if found == file.md5:
            return part.replace(path)
        logger.info(f"{file.name} has the MD5 sum {found}, not {file.md5}.")
        part.unlink()
    raise ValueError(
        f"{file.name} from {file.url} has the MD5 sum {found}, the record says {file.md5}, also at a second try: it "
        "was not kept. Start again later; if it stays, something between here and Zenodo alters files."
    )


def _download(file: _RecordFile, part: Path) -> None:
    """Download what a partial file lacks, or all of it where the server ignores the range asked for."""
    if _size(part) > file.size_bytes:
        part.unlink()

    def append() -> None:
        start = _size(part)
        if part.is_file() and start == file.size_bytes:
            return
        with _open(file.url, start) as response:
            resumes = response.status == 206  # 200 is the whole file
            bar = tqdm(
                desc=file.name, total=file.size_bytes, initial=start if resumes else 0, unit="B", unit_scale=True
            )
            with part.open("ab" if resumes else "wb") as target, bar:
                while chunk := response.read(min(_CHUNK_BYTES, file.size_bytes - target.tell())):
                    bar.update(target.write(chunk))
        if _size(part) < file.size_bytes:
            raise ConnectionError(f"closed after {_size(part)} of {file.size_bytes} bytes")

    _persist(append, file.url, lambda: _size(part))


def _open(url: str, start: int = 0) -> HTTPResponse:
    """Ask for an address, from a byte on."""
    headers = {"User-Agent": "rib-fracture-ct-segmentation"} | ({"Range": f"bytes={start}-"} if start else {})
    return urlopen(Request(url, headers=headers), timeout=_TIMEOUT_S)


def _persist(act: Callable[[], T], url: str, progress: Callable[[], int] = lambda: 0) -> T:
    """Call again after a dropped connection; ``FileNotFoundError`` after five in a row without progress."""
    furthest, failures = progress(), 0
    while True:
        try:
            return act()
        except _DROPPED as error:
            if isinstance(error, HTTPError) and error.code not in _BUSY:
                raise FileNotFoundError(
                    f"{url} cannot be downloaded ({error}): check whether it opens in a browser."
                ) from error
            failures = 0 if progress() > furthest else failures + 1
            furthest = max(furthest, progress())
            if failures == _TRIES:
                raise FileNotFoundError(
                    f"{url} cannot be downloaded, {_TRIES} tries in a row ({error}). Run the same command to go on."
                ) from error
            logger.info(f"{url}: {error}. Trying again.")
            time.sleep(_WAIT_S * max(failures, 1))


def _unpack(archive: Path, folder: Path) -> dict[str, int]:
    """
    Unpack an archive, each file under its name only when it is whole; those that are there are skipped.

    Returns:
        The size in bytes of each file of the archive, by its path from the folder that holds ``folder``.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            # an archive may hold a folder of its own name, which would be doubled
            targets = {
                Path(safe_extract_member(member.filename.removeprefix(f"{folder.name}/"), folder)): member
                for member in source.infolist()
                if not member.is_dir()
            }
            for path, _ in chain.from_iterable(map(unfinished_files, {target.parent for target in targets})):
                path.unlink()  # of a run that was killed
            missing = {t: member for t, member in targets.items() if _size(t) != member.file_size or not t.is_file()}
            _check_room(archive, sum(member.file_size for member in missing.values()))
            for target, member in tqdm(missing.items(), desc=f"unpack {archive.name}", unit="file"):
                with whole_file(target) as temporary, source.open(member) as packed, temporary.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, _CHUNK_BYTES)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}. Remove it and start again.") from error
    except ValueError as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}") from error
    return {target.relative_to(folder.parent).as_posix(): member.file_size for target, member in targets.items()}


def _check_room(archive: Path, needed: int) -> None:
    """Raise ``ValueError`` when the disk cannot hold what an archive unpacks to."""
    free = shutil.disk_usage(archive.parent).free
    if needed > free:
        raise ValueError(
            f"its files need {needed / _GB:.1f} GB, {free / _GB:.1f} GB are free in {archive.parent}: free some, and "
            "start again."
        )


def _size(path: Path) -> int:
    """Tell the size of a file in bytes; 0 for a folder, or when there is none."""
    return path.stat().st_size if path.is_file() else 0


def _md5(path: Path) -> str:
    """Compute the MD5 sum of a file."""
    digest = hashlib.md5(usedforsecurity=False)
    bar = tqdm(desc=f"check {path.name}", total=_size(path), unit="B", unit_scale=True)
    with path.open("rb") as file, bar:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, fetch the data set and print where it lies; ends with a message where that fails."""
    parser = parser_of("download")
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        print(download_ribfrac(**options))
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
