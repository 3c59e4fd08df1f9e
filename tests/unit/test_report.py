"""The page: what is on it, and that it works in a browser, without a mouse, a server or a wide screen."""

import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from amsrc.errors import DataError
from bench.cli import main
from bench.experiment.config import derive, dump
from bench.experiment.recipes import build
from bench.figures import files
from bench.page import report
from bench.page import videos as browse
from bench.records.records import read_all
from bench.tables import tables
from tests.browser import Page, chromium, opened
from tests.results_made import FRAMES, SKIP, VIDEOS, a_record, a_results_folder, put

WIDTHS = {"wide": 1200, "phone": 390}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    a_results_folder(folder)
    return folder


@pytest.fixture(scope="module")
def html(results: Path) -> str:
    return report.build(results, {a_record().fingerprint: "a-run-of-mlflow"})


@pytest.fixture(scope="module")
def page(html: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page, open in a browser."""
    if chromium() is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "index.html").write_text(html, encoding="utf-8")
    with opened(folder / "profile") as tab:
        tab.size(WIDTHS["wide"])
        tab.open(folder / "index.html")
        yield tab


class Tags(HTMLParser):
    """All tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# -- what is on it -------------------------------------------------------------------------------------------


def test_every_table_and_every_record_is_on_it(html: str, results: Path) -> None:
    names = [name.removesuffix(".md") for name in tables.build(results) if name.endswith(".md")]
    assert len(names) >= 3
    for name in names:
        assert f'<h3 id="{name}">' in html
    for path in (results / "records").rglob("*.json"):
        fingerprint = path.stem.partition("-")[2]
        assert f'<details id="r-{fingerprint}">' in html
    assert "a-run-of-mlflow" in html
    assert "0123456789abcdef" in html
    assert "AnoPCN (ACM MM 2019)" in html, "quoted rows are in the table"


def test_it_says_what_failed_and_what_learns_nothing_and_escapes_what_it_was_given(html: str) -> None:
    assert "CUDA is out of &lt;memory&gt;" in html
    assert "<memory>" not in html
    outside = [about for tag, about in Tags(html).found if any("evil.example" in (v or "") for v in about.values())]
    assert outside == [], "what a record says is text"
    assert html.count("![p](https://evil.example/x.png) [click](https://evil.example/)") == 2, (
        "under a table and among failures"
    )
    assert re.search(r"Failures \(2\)", html), "a run and a trial"
    assert "Ped2: the best trained run (of 3) is amsrc, seed 1: 81.00; the best trivial baseline (of 1)" in html
    assert "is null-flow, seed 0: 99.00 (AUROC in percent; the best are chosen by it, on the test labels)." in html


def test_the_headline_counts_whole_data_and_no_run_twice() -> None:
    experiment = dump(derive(build("amsrc", "ped2"), train={"epochs": 4}))
    records = [
        a_record(),
        a_record(fingerprint="again", metrics={"auroc": 0.7}, finished="2026-01-01T00:00:00+00:00"),
        a_record(fingerprint="short", metrics={"auroc": 0.6}, experiment=experiment),
        a_record(fingerprint="part", metrics={"auroc": 1.0}, partial=True, videos=["02"]),
    ]
    (told,) = report.findings(records)
    assert told.startswith("Ped2: the best trained run (of 2) is amsrc, seed 0: 70.00; there is no trivial baseline")
    (told,) = report.findings([records[-2], a_record("null-flow", status="failed")])
    assert "is amsrc, train.epochs=4, seed 0: 60.00" in told
    assert list(report.findings(records[-1:])) == []


def test_every_measured_figure_leads_to_its_records_and_every_quoted_row_to_its_source(
    html: str, results: Path
) -> None:
    seeds = [a_record(seed=seed).fingerprint for seed in (0, 1)]
    table1 = html.partition('<h3 id="table1">')[2].partition("</table>")[0]
    link = r'<a href="#r-(\w+)"[^>]*>'
    linked = re.search(rf"<td[^>]*>{link}80\.50 ± 0\.71</a><sup>{link}2</a></sup> ", table1)
    assert linked is not None
    assert list(linked.groups()) == seeds
    for table in tables.gathered(results, read_all(results)):
        body = html.partition(f'<h3 id="{table.name}">')[2].partition("<tbody>")[2].partition("</table>")[0]
        shown = [(row, *column[1:]) for row in table.rows if row.source == "measured" for column in table.shown]
        measured = [cell for row, key, text in shown if (cell := row.cells.get(key)) and str(text(cell)) != "-"]
        assert body.count('title="record ') == sum(len(cell.records) for cell in measured) > 0
        for row in table.rows:
            assert not row.reference or f'<tr title="{row.reference}">' in body
    assert 'href="#r-amsrc-ped2-crossfit-12345678"' in html, "a searched row leads to its search"


def test_a_table_says_on_the_page_what_it_says_in_its_files(html: str, results: Path) -> None:
    for table in tables.gathered(results, read_all(results)):
        part = html.partition(f'<h3 id="{table.name}">')[2].partition("</details>")[0]
        lines = iter(re.findall(r"<tr[ >].*?</tr>", part, re.DOTALL)[1:])
        for heading, rows in table.groups():
            assert (
                next(lines)
                == f'<tr class="group"><th colspan="{len(table.shown)}" scope="colgroup">{heading}</th></tr>'
            )
            for _, entries in rows:
                cells = re.findall(r"<td([^>]*)>(.*?)</td>", next(lines))
                texts = [unescape(re.sub(r"<sup>.*?</sup>|<.*?>", "", text)) for _, text in cells]
                assert texts == [str(entry) for entry in entries]
                values = [getattr(entry, "value", None) for entry in entries]
                keys = [re.search(r'data-value="(.*?)"', about) for about, _ in cells]
                assert [key and float(key[1]) for key in keys] == values
        assert next(lines, None) is None
        noted = re.findall(r"<li[^>]*>(.*?)</li>", part)
        assert list(map(unescape, noted)) == [str(note) for note in table.notes]


def test_protocol_and_numbered_deviations_are_on_it(html: str) -> None:
    _, _, protocol = html.partition('id="protocol"')
    assert "<h3>From video to number</h3>" in protocol
    assert "<h3>Metrics</h3>" in protocol
    assert protocol.count("<li>") > 15
    assert "Fusion weights on Ped2" in protocol


def test_a_new_metric_gets_a_column_by_itself() -> None:
    metrics = {"auroc": 0.5, "eer": 0.25, "macro_auroc": None, "videos": 3}
    runs = report.every_run([a_record(metrics=metrics, parts={"a": 0.7, "b": None}), a_record("null-flow")])
    assert runs["metrics"][:4] == ["AUROC", "eer", "macro AUROC", "videos"]
    assert runs["lines"][0]["figures"][:4] == ["50.00", "25.00", "-", "3"]
    assert [line["figures"][-1] for line in runs["lines"]] == ["a 70.00, b -", "-"], "each part where there are several"
    assert report.shown([0.25, 0.5]) == "25.00 to 50.00"
    assert report.shown(float("nan")) == "-"


def test_what_a_rule_chose_is_told_by_part(html: str) -> None:
    assert "<td>paper</td><td>84.00</td><td>3</td><td>consistency 0.9901, prediction 0.0099" in html


def test_it_names_the_data_sets_without_numbers() -> None:
    assert report.about([a_record()], [])["Not measured"] == "Avenue, ShanghaiTech"


def test_what_is_missing_comes_with_the_command_that_makes_it(html: str) -> None:
    assert "amsrc-bench figures --recipe amsrc --dataset avenue --seed 0 --home HOME --root DATA" in html


def test_every_picture_is_described_and_nothing_points_outside(html: str) -> None:
    tags = Tags(html).found
    pictures = [about for tag, about in tags if tag == "img"]
    assert len(pictures) >= 3 * 4 + 1
    assert all(len(about["alt"] or "") > 20 for about in pictures)
    described = [about["alt"] or "" for about in pictures if " on Ped2, seed 0. " in (about["alt"] or "")]
    assert len(described) >= 3
    assert all(
        re.search(r"\. The run has AUROC 80\.00, 95 % interval \d+\.\d+ to \d+\.\d+\.$", alt) for alt in described
    )
    (roc,) = [about["alt"] or "" for about in pictures if (about["alt"] or "").startswith("Ped2. ROC")]
    assert re.search(r" null-flow: AUROC 99\.00, 95 % interval ", roc)
    identities = {about["id"] for _, about in tags if "id" in about}
    for tag, about in tags:
        for name in ("src", "href"):
            value = about.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
            if value is not None and value.startswith("#"):
                assert value[1:] in identities, f"{value} leads nowhere"


def test_equal_results_give_an_equal_page_of_a_size_that_can_be_sent(html: str, results: Path) -> None:
    assert report.build(results, {a_record().fingerprint: "a-run-of-mlflow"}) == html
    assert len(html.encode()) < 10_000_000


def test_frames_that_do_not_fit_are_thinned_out_where_there_are_most_and_it_says_so() -> None:
    many = {"01": {number: bytes(3000) for number in range(8)}, "02": {3: bytes(3000)}}
    strips = {"ped2": {"01": {1: bytes(3000), 2: bytes(3000)}}, "avenue": many}
    assert browse.thinned(strips, 100_000) == (strips, "")
    small, note = browse.thinned(strips, 21_000)
    assert small == {"ped2": strips["ped2"], "avenue": {"01": {0: bytes(3000), 4: bytes(3000)}, "02": many["02"]}}
    assert note == "To stay small enough to send, this page shows one in 4 of the frames of avenue."
    nothing, note = browse.thinned(strips, 10)
    assert nothing == {}
    assert "left out" in note
    assert browse.thinned({}, 10) == ({}, "")
    assert browse.thinned({}, -5) == ({}, "")


def test_a_page_that_could_not_be_sent_names_what_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, a_record())
    monkeypatch.setattr(report, "LARGEST", 100_000)
    said = r"would take \d\.\d MB .* than the 0\.1 that .*: figures \d\.\d MB, .*\d MB\. Report"
    with pytest.raises(DataError, match=said):
        report.build(tmp_path)


def test_the_few_frames_beside_a_run_are_shown_where_there_are_no_strips(tmp_path: Path) -> None:
    record = a_record()
    put(tmp_path, record)
    frame = files.folder_of(tmp_path, record) / "frames" / "02" / "00052.jpg"
    frame.parent.mkdir(parents=True)
    frame.write_bytes(b"a picture")
    assert browse.strips(tmp_path, [record]) == {"ped2": {"02": {52: b"a picture"}}}


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="no records to report"):
        report.build(tmp_path)
    assert main.main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == DataError.exit_code
    assert "amsrc-bench sweep --toy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_damage_is_named(tmp_path: Path) -> None:
    record = a_results_folder(tmp_path)[0]
    path = files.folder_of(tmp_path, record) / "parts.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=re.escape(str(path))):
        report.build(tmp_path)


# -- how it behaves ------------------------------------------------------------------------------------------


def test_it_opens_without_an_error_and_asks_nobody_for_anything(page: Page) -> None:
    assert page.eval("document.title") == "AMSRC Bench: results"
    assert page.heard("Runtime.exceptionThrown") == []
    assert [event["args"] for event in page.heard("Runtime.consoleAPICalled")] == []
    assert [event["entry"] for event in page.heard("Log.entryAdded")] == []
    asked = [event["request"]["url"] for event in page.heard("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert sum(url.startswith("file:") for url in asked) == 1
    broken = "[...document.images].filter((i) => i.loading !== 'lazy' && !i.naturalWidth).length"
    assert page.eval(broken) == 0


def column(page: Page, table: str, number: int) -> list[str]:
    rows = f"[...document.querySelector({table!r}).tBodies[0].rows].filter((row) => !row.hidden)"
    return list(page.eval(f"{rows}.map((row) => row.cells[{number}]?.textContent.trim() ?? '')"))


def test_a_heading_sorts_its_column_by_value_and_back(page: Page) -> None:
    table = "#table1 ~ .wide table"
    before = column(page, table, 2)
    click = f"document.querySelector({table!r}).tHead.rows[0].cells[2].querySelector('button').click()"
    page.eval(click)
    numbers = [float(text.split()[0]) for text in column(page, table, 2) if text != "-"]
    assert numbers == sorted(numbers)
    assert len(numbers) > 15
    assert column(page, table, 2)[-1] == "-" or "-" not in before, "gaps come last"
    page.eval(click)
    numbers = [float(text.split()[0]) for text in column(page, table, 2) if text != "-"]
    assert numbers == sorted(numbers, reverse=True)
    assert (
        page.eval(f"document.querySelector({table!r}).tHead.rows[0].cells[2].getAttribute('aria-sort')") == "descending"
    )
    page.eval(click)
    assert column(page, table, 2) == before


def test_a_table_is_sorted_from_the_keyboard(page: Page) -> None:
    page.eval("document.querySelector('#runs th button').focus()")
    page.press("Enter")
    assert page.eval("document.querySelector('#runs th').getAttribute('aria-sort')") == "ascending"
    names = column(page, "#runs table", 0)
    assert names == sorted(names)
    page.press("Tab")
    assert page.eval("document.activeElement.textContent") == "Data set"


def test_a_link_to_a_record_unfolds_it(page: Page) -> None:
    identity = page.eval("document.querySelector('#runs td a').hash")
    assert page.eval(f"document.querySelector({identity!r}).open") is False
    page.eval("document.querySelector('#runs td a').click()")
    assert page.eval(f"new Promise((r) => setTimeout(() => r(document.querySelector({identity!r}).open), 200))") is True


def test_a_footnote_unfolds_the_notes_that_explain_it(page: Page) -> None:
    note = "document.querySelector('#table2-1')"
    assert page.eval(f"{note}.closest('details').open") is False
    page.eval("document.querySelector('a[href=\"#table2-1\"]').click()")
    assert page.eval(f"new Promise((r) => setTimeout(() => r({note}.closest('details').open), 200))") is True
    assert page.eval(f"{note}.textContent").startswith("[1] seed")


def choose(page: Page, name: str, value: str) -> None:
    give(page, name, value, "change")


def give(page: Page, name: str, value: str, event: str) -> None:
    select = f"document.getElementById('b-{name}')"
    page.eval(f"{select}.value = {value!r}; {select}.dispatchEvent(new Event({event!r}))")


def test_every_video_of_every_run_can_be_looked_at(page: Page) -> None:
    for dataset, videos in VIDEOS.items():
        choose(page, "dataset", dataset)
        options = "[...document.getElementById('b-{}').options].map((o) => o.text)"
        faster = ["amsrc, train.held_out=0, train.learning_rate=0.001, seed 0"] * (dataset == "ped2")
        assert page.eval(options.format("run")) == ["amsrc, seed 0", *faster, "null-flow, seed 0"]
        assert page.eval(options.format("video")) == [f"{n:02d}" for n in range(1, videos + 1)]
        for _ in range(videos):
            page.eval("document.getElementById('b-next').click()")
            points = page.eval("document.querySelector('#b-chart .curve').getAttribute('d').split('L').length")
            assert points == FRAMES - SKIP
    assert page.heard("Runtime.exceptionThrown") == []


def test_the_ground_truth_is_shaded_where_it_is(page: Page) -> None:
    choose(page, "dataset", "ped2")
    choose(page, "video", "01")
    assert page.eval("document.querySelectorAll('#b-chart .truth').length") == 0
    choose(page, "video", "02")
    assert page.eval("document.querySelectorAll('#b-chart .truth').length") == 1
    label = page.eval("document.querySelector('#b-chart svg').getAttribute('aria-label')")
    assert label == "Score of run amsrc, seed 0 over video 02: 116 frames, 38 of them abnormal."


def test_the_legend_names_what_is_drawn(page: Page) -> None:
    names = "[...document.querySelectorAll('#b-legend span')].map((entry) => entry.textContent)"
    drawn = "document.querySelectorAll('#b-chart .curve').length"
    choose(page, "dataset", "ped2")
    choose(page, "video", "02")
    assert page.eval(names) == ["S", "consistency", "prediction", "abnormal"]
    assert page.eval(drawn) == 3
    colours = "[...document.querySelectorAll('#b-chart .curve')].map((line) => getComputedStyle(line).stroke)"
    assert len(set(page.eval(colours))) == 3
    choose(page, "video", "01")
    assert page.eval(names) == ["S", "consistency", "prediction"], "no frame of it is abnormal"
    choose(page, "run", a_record("null-flow").fingerprint)
    assert page.eval(names) == ["S"]
    assert page.eval(drawn) == 1
    choose(page, "run", a_record().fingerprint)


def test_the_slider_moves_frame_by_frame_from_the_keyboard_and_the_nearest_picture_follows(page: Page) -> None:
    choose(page, "dataset", "ped2")
    choose(page, "video", "02")
    give(page, "frame", "51", "input")
    page.eval("document.getElementById('b-frame').focus()")
    page.press("ArrowRight")
    text = page.eval("document.getElementById('b-readout').textContent")
    assert re.fullmatch(
        r"Frame 52: S -?\d+\.\d\d, consistency -?\d+\.\d\d, prediction -?\d+\.\d\d \(s\.d\.\); abnormal\.", text
    )
    assert page.eval("document.querySelector('#b-picture img').alt") == (
        "Frame 52 of video 02 with 2 boxes, the highest score is 5.20."
    )
    page.press("ArrowLeft", times=12)
    assert page.eval("document.getElementById('b-scale').textContent").startswith("Frame 40. Boxes: the lighter")
    assert page.eval("document.querySelector('#b-strip [aria-current=true]').textContent") == "40"
    widths = page.eval(
        "[...document.querySelectorAll('#b-picture rect')].map((r) => Number(r.getAttribute('stroke-width')))"
    )
    assert widths[1] < widths[3], "the more abnormal box is drawn thicker, and last"
    page.eval("document.querySelectorAll('#b-strip button')[1].click()")
    assert page.eval("document.getElementById('b-frame').value") == "16"
    choose(page, "dataset", "avenue")
    assert page.eval("document.getElementById('b-scale').textContent") == "No frames of this video are at hand."


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_nothing_is_wider_than_the_screen_and_text_stands_out(page: Page, width: int, scheme: str) -> None:
    page.size(width, scheme=scheme)
    assert page.eval("document.documentElement.scrollWidth") <= width
    luminance = """(() => {
      const part = (name) => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      const light = (name) => { const [r, g, b] = part(name); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      return [light("color"), light("backgroundColor")];
    })()"""
    text, ground = page.eval(luminance)
    assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) > 7
    assert (ground < 0.1) == (scheme == "dark")


def test_all_that_can_be_used_is_reached_by_tab(page: Page) -> None:
    page.size(WIDTHS["wide"])
    page.eval("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.eval("document.getElementById('b-dataset').focus()")
    reached = []
    for _ in range(5):
        page.press("Tab")
        reached.append(page.eval("document.activeElement.id"))
    assert reached == ["b-run", "b-video", "b-previous", "b-next", "b-frame"]
