"""Downloads a data set, checks its SHA-256, extracts it safely and puts it in place.

Reads the archives that `bench.experiment.specs` names; writes `<root>/.fetch-<name>/` while it works and
`<root>/<name>/` in one rename at the end. The same command resumes an interrupted download.
"""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from gzip import BadGzipFile
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from amsrc.errors import ConfigError, DataError, RunError, unknown
from amsrc.files import digest
from bench.data import datasets
from bench.experiment.specs import SPECS, Archive

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0
MOST_BYTES = 16 << 30
"""Several times what the archives hold; one that unpacks to more is not one of them."""

BY_HAND = """{name} has no direct link to download. Ask for it on its page,
    {page}
and unpack it so that {root}/{name} looks like this:{layout}
Then check it: amsrc-bench data verify --dataset {name} --root {root}"""


def fetch(name: str, root: Path, archives: Sequence[Archive] | None = None) -> Path:
    """Download a data set into `root/name`, unless `root` has it already. Returns its folder.

    Args:
        archives: where to get it, in place of the addresses that its authors give: the archive with the videos
            first, then those that belong inside its folder.

    Raises:
        ConfigError: there is no such data set, or it must be fetched by hand (the message says how).
        DataError: a download is not the file it should be, an archive is hostile, or the data set is incomplete.
        RunError: the connection failed or the disk is full; running it again resumes.
    """
    spec = SPECS.get(name)
    if spec is None:
        raise ConfigError(unknown("data set", name, SPECS))
    archives = spec.archives if archives is None else archives
    if not (spec.archives or archives):
        raise ConfigError(BY_HAND.format(name=name, page=spec.page, root=root, layout=spec.by_hand))
    target, work = root / name, root / f".fetch-{name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if name in datasets.present(root):
            return datasets.find(name, root).root
        if target.exists():
            raise DataError(f"{target} exists and holds no videos of {name}. Move it away, or pass another --root.")
        work.mkdir(exist_ok=True)
        _unpack(name, work, [_download(archive, work) for archive in archives]).rename(target)
        shutil.rmtree(work)
    except OSError as error:
        raise RunError(f"{error.filename or root}: {error.strerror or error}. Run it again to resume.") from None
    return target


def _unpack(name: str, work: Path, packed: Sequence[Path]) -> Path:
    """Extract the archives, the first by itself and the others into the data set's folder. Returns that folder."""
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    extract(packed[0], unpacked)
    found = datasets.find(name, unpacked)
    for archive in packed[1:]:
        extract(archive, found.root)
    return found.root


def _download(archive: Archive, folder: Path) -> Path:
    """The archive's file, its hash checked; downloaded unless it is there from before."""
    path = folder / PurePosixPath(archive.url).name
    part = path.with_name(path.name + ".part")
    if not path.exists():
        try:
            _transfer(archive.url, part)
        except (HTTPException, OSError) as error:
            kept = part.stat().st_size if part.exists() else 0
            raise RunError(
                f"{archive.url}: {error}. {kept:,} bytes are kept in {part}: run the same command again to resume, "
                "or download the file by hand and unpack it."
            ) from None
        _check_hash(archive, part)
        part.rename(path)
    return path


# pooch, the usual choice, begins an interrupted download anew; these archives have up to 800 MB and slow servers.
def _transfer(url: str, part: Path) -> None:
    """Append the missing bytes to a partial file, with a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    start = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response: HTTPResponse = urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code == 416 and start:  # the file is complete; the hash tells whether it is right
            return
        raise
    with response:
        start = start if _continues(response, start) else 0
        total = None if response.length is None else start + response.length
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with part.open("ab" if start else "wb") as file, Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(PurePosixPath(url).name, total=total, completed=start)
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                progress.advance(task, len(chunk))
    arrived = part.stat().st_size
    if total is not None and arrived < total:
        raise HTTPException(f"the connection ended after {arrived:,} of {total:,} bytes")


def _continues(response: HTTPResponse, start: int) -> bool:
    """Whether the server sends only the rest; one without support for ranges sends all."""
    return response.status == 206 and response.getheader("Content-Range", "").startswith(f"bytes {start}-")


def _check_hash(archive: Archive, path: Path) -> None:
    found = digest(path)
    if found != archive.sha256:
        path.unlink()
        raise DataError(
            f"{archive.url}: SHA-256 is {found}, expected {archive.sha256}. The file was deleted: it is damaged or "
            "another version. Run the same command again, or get the data set elsewhere and check it with "
            "`amsrc-bench data verify`."
        )


def extract(archive: Path, folder: Path) -> None:
    """Extract a .zip or .tar.* archive. Only plain files and folders below `folder` are ever written.

    Raises:
        DataError: the archive is damaged, or holds links, paths that lead outside, or an absurd amount of data.
    """
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, folder)
        else:
            _extract_tar(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}). Delete it and download it again.") from None


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        total = 0
        for member in file.infolist():
            total += member.file_size
            kind = stat.S_IFMT(member.external_attr >> 16)
            _admit(archive, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), total)
        file.extractall(folder)


def _extract_tar(archive: Path, folder: Path) -> None:
    total = 0

    def admit(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
        nonlocal total
        total += member.size
        _admit(archive, member.name, member.isfile() or member.isdir(), total)
        return tarfile.data_filter(member, path)

    with tarfile.open(archive) as file:
        file.extractall(folder, filter=admit)


def _admit(archive: Path, name: str, plain: bool, total: int) -> None:
    """Refuse a member that a data set's archive has no reason to hold."""
    path = PurePosixPath(name.replace("\\", "/"))
    rules = [
        (path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive, "leads outside the folder"),
        (not plain, "is a link or a device"),
        (total > MOST_BYTES, f"makes it unpack to more than {MOST_BYTES >> 30} GiB"),
    ]
    for broken, problem in rules:
        if broken:
            raise DataError(f"{archive}: member {name!r} {problem}. Delete the archive and get it elsewhere.")
