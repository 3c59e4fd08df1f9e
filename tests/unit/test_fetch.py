"""Downloads, against a server on this machine: resumed, checked, extracted without harm."""

import functools
import hashlib
import io
import os
import random
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import pytest

from amsrc.errors import ConfigError, DataError, RunError
from bench.data import datasets, download
from bench.experiment.specs import SPECS, Archive
from tests.messages import error_naming


@dataclass
class Server:
    """Serves `files`; each request takes the next of `cuts`, the number of bytes after which the line goes dead."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    says_range: bool = True
    """Whether a partial answer says which part it is."""
    cuts: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def archive(self, name: str, data: bytes) -> Archive:
        self.files[name] = data
        return Archive(f"{self.url}/{name}", hashlib.sha256(data).hexdigest())


class Handler(BaseHTTPRequestHandler):
    def __init__(self, shop: Server, *args: object) -> None:
        self.shop = shop
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        data = self.shop.files.get(self.path[1:])
        span = self.headers["Range"]
        self.shop.asked.append(span)
        if data is None:
            self.send_error(404)
            return
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span and self.shop.ranges else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start and self.shop.says_range:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:][: self.shop.cuts.pop(0) if self.shop.cuts else None]
        self.shop.sent.append(len(body))
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    shop = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, shop)) as http:
        shop.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield shop
        http.shutdown()
        thread.join()


@pytest.fixture
def packed_ped2(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An archive like the official one, of a Ped2 that has two videos of six frames in each split."""
    videos = {"01": 6, "02": 6}
    small = replace(
        SPECS["ped2"],
        videos={"train": 2, "test": 2},
        frames={"train": 12, "test": 12},
        per_video={"train": videos, "test": videos},
    )
    monkeypatch.setitem(SPECS, "ped2", small)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for title, name, number in product(("Train", "Test"), videos, range(1, 7)):
            where = f"UCSD_Anomaly_Dataset.v1p2/UCSDped2/{title}/{title}0{name}/{number:03d}.tif"
            _add(tar, where, random.Random(where).randbytes(200))
        _add(tar, "UCSD_Anomaly_Dataset.v1p2/README.txt", b"hello")
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


# --- download --------------------------------------------------------------------------------------------------


def test_a_data_set_is_downloaded_and_put_in_place(server: Server, packed_ped2: bytes, tmp_path: Path) -> None:
    archive = server.archive("UCSD_Anomaly_Dataset.tar.gz", packed_ped2)
    root = tmp_path / "data"
    assert download.fetch("ped2", root, [archive]) == root / "ped2"
    assert [path.name for path in root.iterdir()] == ["ped2"]
    assert datasets.find("ped2", root).full_frames("train") == 12
    assert download.fetch("ped2", root, [archive]) == root / "ped2"
    assert server.asked == [None]  # the second call found it standing


def test_an_interrupted_download_fetches_only_the_rest(server: Server, packed_ped2: bytes, tmp_path: Path) -> None:
    archive = server.archive("UCSD_Anomaly_Dataset.tar.gz", packed_ped2)
    server.cuts = [1000, 500]
    with pytest.raises(
        RunError, match=rf"the connection ended after 1,000 of {len(packed_ped2):,} bytes.*run the same"
    ):
        download.fetch("ped2", tmp_path, [archive])
    assert not (tmp_path / "ped2").exists()
    with error_naming(RunError, "1,500 bytes"):
        download.fetch("ped2", tmp_path, [archive])
    download.fetch("ped2", tmp_path, [archive])
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]
    assert server.sent == [1000, 500, len(packed_ped2) - 1500]


def test_a_server_that_knows_no_ranges_sends_all_again(server: Server, packed_ped2: bytes, tmp_path: Path) -> None:
    archive = server.archive("UCSD_Anomaly_Dataset.tar.gz", packed_ped2)
    server.ranges, server.cuts = False, [1000]
    with pytest.raises(RunError):
        download.fetch("ped2", tmp_path, [archive])
    download.fetch("ped2", tmp_path, [archive])
    assert server.asked == [None, "bytes=1000-"]
    assert server.sent == [1000, len(packed_ped2)]


def test_a_part_that_does_not_say_which_it_is_never_lands_in_place(
    server: Server, packed_ped2: bytes, tmp_path: Path
) -> None:
    archive = server.archive("UCSD_Anomaly_Dataset.tar.gz", packed_ped2)
    server.says_range, server.cuts = False, [1000]
    with pytest.raises(RunError):
        download.fetch("ped2", tmp_path, [archive])
    with pytest.raises(DataError, match="SHA-256"):
        download.fetch("ped2", tmp_path, [archive])
    download.fetch("ped2", tmp_path, [archive])
    assert server.asked == [None, "bytes=1000-", None]


def test_a_whole_file_left_unchecked_is_checked_not_downloaded(
    server: Server, packed_ped2: bytes, tmp_path: Path
) -> None:
    archive = server.archive("UCSD_Anomaly_Dataset.tar.gz", packed_ped2)
    (tmp_path / ".fetch-ped2").mkdir()
    (tmp_path / ".fetch-ped2" / "UCSD_Anomaly_Dataset.tar.gz.part").write_bytes(packed_ped2)
    download.fetch("ped2", tmp_path, [archive])
    assert server.sent == []


def test_a_wrong_hash_deletes_the_file_and_names_both(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.zip", b"something else")
    wanted = "0" * 64
    with error_naming(DataError, "SHA-256", archive.sha256, wanted):
        download.fetch("ped2", tmp_path, [Archive(archive.url, wanted)])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_wrong_hash_after_resuming_starts_afresh(server: Server, packed_ped2: bytes, tmp_path: Path) -> None:
    archive = server.archive("UCSD_Anomaly_Dataset.tar.gz", packed_ped2)
    (tmp_path / ".fetch-ped2").mkdir()
    (tmp_path / ".fetch-ped2" / "UCSD_Anomaly_Dataset.tar.gz.part").write_bytes(b"of another version")
    with pytest.raises(DataError, match="SHA-256"):
        download.fetch("ped2", tmp_path, [archive])
    download.fetch("ped2", tmp_path, [archive])
    assert server.asked == ["bytes=18-", None]


def test_a_missing_file_and_a_dead_server(server: Server, tmp_path: Path) -> None:
    with error_naming(RunError, "gone.zip", "404", "0 bytes"):
        download.fetch("avenue", tmp_path, [Archive(f"{server.url}/gone.zip", "")])
    with pytest.raises(RunError, match="refused"):
        download.fetch("avenue", tmp_path, [Archive("http://127.0.0.1:1/a.zip", "")])


def test_further_archives_go_into_the_data_sets_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str, root: Path) -> datasets.Dataset:
        (home,) = root.iterdir()
        return datasets.Dataset(name, home, False, (), (), SPECS[name])

    monkeypatch.setattr(datasets, "find", find)
    archives = [
        server.archive("Avenue_Dataset.zip", zipped(**{"Avenue Dataset/training_videos/01.avi": b"video"})),
        server.archive("truth.zip", zipped(**{"ground_truth_demo/testing_label_mask/1_label.mat": b"mask"})),
    ]
    folder = download.fetch("avenue", tmp_path, archives)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == {
        "training_videos/01.avi",
        "ground_truth_demo/testing_label_mask/1_label.mat",
    }


def test_what_came_must_be_whole(server: Server, tmp_path: Path) -> None:
    archive = server.archive("a.zip", zipped(**{"ped2/training/frames/01/000.jpg": b""}))
    with error_naming(DataError, "training", "16", "found 1"):
        download.fetch("ped2", tmp_path, [archive])
    assert not (tmp_path / "ped2").exists()


def test_nothing_that_stands_is_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ped2").mkdir()
    (tmp_path / "ped2" / "notes.txt").write_text("mine")
    with error_naming(DataError, "ped2"):
        download.fetch("ped2", tmp_path, [server.archive("a.zip", b"")])
    assert server.asked == []


def test_an_unwritable_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with error_naming(RunError, "file/data", "Not a directory"):
        download.fetch("ped2", tmp_path / "file" / "data")


def test_shanghaitech_is_fetched_by_hand(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        download.fetch("shanghaitech", tmp_path)
    assert SPECS["shanghaitech"].page in str(caught.value)
    assert "testing/test_frame_mask/01_0014.npy" in str(caught.value)
    assert caught.value.exit_code == 2


def test_unknown_and_rendered_names(tmp_path: Path) -> None:
    with error_naming(ConfigError, "'toy-ped2'", ": ped2"):
        download.fetch("toy-ped2", tmp_path)


# --- hostile archives ------------------------------------------------------------------------------------------

OUTSIDE = ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "C:evil"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"evil.{kind}"
    if kind == "zip":
        path.write_bytes(zipped(**{name: b"evil"}))
    else:
        with tarfile.open(path, "w:gz") as tar:
            _add(tar, name, b"evil")
    with pytest.raises(DataError, match="leads outside the folder"):
        download.extract(path, tmp_path / "inner" / "folder")
    assert [file for file in tmp_path.rglob("*evil*") if file != path] == []
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with error_naming(DataError, "'link'"):
        download.extract(path, tmp_path / "folder")
    assert not os.path.lexists(tmp_path / "folder" / "link")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as file:
        member = zipfile.ZipInfo("link")
        member.external_attr = 0o120777 << 16
        file.writestr(member, "/etc/passwd")
    with error_naming(DataError, "'link'"):
        download.extract(path, tmp_path / "folder")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_that_unpack_to_too_much_are_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MOST_BYTES", 10_000)
    path = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        path.write_bytes(zipped(a=bytes(6000), b=bytes(6000)))
    else:
        with tarfile.open(path, "w:gz") as tar:
            _add(tar, "a", bytes(6000))
            _add(tar, "b", bytes(6000))
    with error_naming(DataError, "'b'"):
        download.extract(path, tmp_path / "folder")
    assert not (tmp_path / "folder" / "b").exists()


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_damaged_archives(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.zip":
        data = zipped(a=b"x" * 1000)
        path.write_bytes(data.replace(b"xx", b"yx", 1))
    else:
        with tarfile.open(path, "w:gz") as tar:
            _add(tar, "a", os.urandom(10_000))
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="cannot be unpacked"):
        download.extract(path, tmp_path / "folder")
