"""The three data sets: their names, what a whole copy holds, and where the copies that people have keep it.

Facts only; reads and writes nothing. `bench.data.datasets` finds and checks copies against them. The rendered `toy-...`
sets have the same layouts and counts of their own. Imports nothing heavy.

UCSD Ped2 (grey, 360x240; Mahadevan et al., CVPR 2010; http://www.svcl.ucsd.edu/projects/anomaly/):

    UCSDped2/                           ped2/                  (repack in circulation)
      Train/Train001/001.tif              training/frames/01/000.jpg
      Test/Test001/001.tif                testing/frames/01/000.jpg
      Test/Test001_gt/001.bmp             testing/pixel_masks/01/000.png   (optional)
      Test/UCSDped2.m                     ped2.mat

CUHK Avenue (colour, 640x360; Lu et al., ICCV 2013; http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/):

    avenue/                             avenue/                (extracted frames)
      training_videos/01.avi              training/frames/01/000.jpg
      testing_videos/01.avi               testing/frames/01/000.jpg
      ground_truth_demo/testing_label_mask/1_label.mat     (label set `official`: pixel masks)
      avenue.mat                                           (label set `intervals`)

ShanghaiTech Campus (colour, 856x480; Luo et al., ICCV 2017; https://svip-lab.github.io/dataset/campus_dataset.html):

    shanghaitech/
      training/videos/01_001.avi          or training/frames/01_001/000.jpg
      testing/frames/01_0014/000.jpg
      testing/test_frame_mask/01_0014.npy
      testing/test_pixel_mask/01_0014.npy                  (optional)

Videos are named `01` (`01_0014` in shanghaitech) and ordered by their names; frame numbers start at
0 or 1. Where both forms of a split exist, the one with more videos counts, the left one on a tie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amsrc.errors import ConfigError, unknown

if TYPE_CHECKING:
    from amsrc.store import Split

TOY = "toy-"
"""What the names of the rendered data sets begin with."""


@dataclass(frozen=True)
class Archive:
    """A file to download and the SHA-256 it must have."""

    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a whole copy of a data set holds and where; paths are relative to its folder.

    Paths may use `{name}`, a test video's name, and `{number}`, the same as a number.
    """

    title: str
    """Its name for people."""
    folders: tuple[str, ...]
    """What people call its folder, in lower case."""
    places: Mapping[Split, tuple[str, ...]]
    """Folders of videos."""
    names: str = r"(\d+)"
    """Regular expression of a video's name on disk."""
    videos: Mapping[Split, int]
    frames: Mapping[Split, int]
    per_video: Mapping[Split, Mapping[str, int]]
    """Frames by video where they are known in advance, else empty."""
    about: bool = False
    """The literature gives the number of training frames only roughly: one in a hundred may differ."""
    size: tuple[int, int] | None
    """Native width and height in pixels."""
    grey: bool = False
    abnormal: Mapping[str, int]
    """Abnormal test frames by label set."""
    spans: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Files of abnormal spans by label set."""
    frame_labels: str = ""
    masks: tuple[str, ...]
    """Pixel masks of a test video."""
    note: str = ""
    """What a reader of figures measured on it must know; a line under the tables."""
    plotted: tuple[int, ...] = ()
    """Test videos of the paper's figure 5, counted from 1 in the order of their names."""
    toy: bool = False
    """Whether `bench.data.toy` renders a small set of this layout."""
    page: str
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""
    """Of a set without archives: what its unpacked folder must hold, for the message that says so."""
    citation: str
    terms: str = "Research use; the terms on the data set's page apply. Cite its paper."


def _numbered(*frames: int) -> dict[str, int]:
    return {f"{number:02d}": count for number, count in enumerate(frames, 1)}


UCSD = "http://www.svcl.ucsd.edu/projects/anomaly"
CUHK = "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal"
SHANGHAITECH_TEST = """
01_0014:265 01_0015:433 01_0016:337 01_0025:601 01_0026:505 01_0027:409 01_0028:457 01_0029:313 01_0030:409
01_0051:337 01_0052:337 01_0053:457 01_0054:577 01_0055:313 01_0056:529 01_0063:193 01_0064:289 01_0073:289
01_0076:265 01_0129:241 01_0130:337 01_0131:289 01_0132:265 01_0133:217 01_0134:433 01_0135:409 01_0136:529
01_0138:313 01_0139:217 01_0140:241 01_0141:313 01_0162:193 01_0163:265 01_0177:317 02_0128:457 02_0161:337
02_0164:361 03_0031:529 03_0032:409 03_0033:313 03_0035:385 03_0036:457 03_0039:481 03_0041:457 03_0059:433
03_0060:385 03_0061:241 04_0001:553 04_0003:937 04_0004:865 04_0010:505 04_0011:313 04_0012:361 04_0013:361
04_0046:529 04_0050:337 05_0017:433 05_0018:481 05_0019:649 05_0020:649 05_0021:409 05_0022:337 05_0023:769
05_0024:433 06_0144:241 06_0145:217 06_0147:265 06_0150:265 06_0153:217 06_0155:265 07_0005:409 07_0006:385
07_0007:481 07_0008:457 07_0009:313 07_0047:601 07_0048:241 07_0049:481 08_0044:313 08_0058:337 08_0077:457
08_0078:217 08_0079:241 08_0080:289 08_0156:337 08_0157:313 08_0158:337 08_0159:265 08_0178:265 08_0179:337
09_0057:361 10_0037:433 10_0038:241 10_0042:433 10_0074:601 10_0075:505 11_0176:337 12_0142:601 12_0143:265
12_0148:313 12_0149:241 12_0151:289 12_0152:361 12_0154:385 12_0173:217 12_0174:337 12_0175:265
"""  # lengths of the official label files

SPECS = {
    "ped2": Spec(
        title="Ped2",
        folders=("ped2", "ucsdped2", "ucsd_anomaly_dataset.v1p2"),
        places={"train": ("Train", "training/frames"), "test": ("Test", "testing/frames")},
        names=r"(?:Train|Test)?(\d+)",
        videos={"train": 16, "test": 12},
        frames={"train": 2550, "test": 2010},
        per_video={
            "train": _numbered(120, 150, 150, 180, 180, 150, 150, 120, 180, 180, 180, 180, 180, 150, 150, 150),
            "test": _numbered(180, 180, 150, 180, 150, 180, 180, 180, 120, 150, 180, 180),
        },
        size=(360, 240),
        grey=True,
        abnormal={"official": 1648},
        spans={"official": ("Test/UCSDped2.m", "ped2.mat")},
        masks=("Test/Test{number:03d}_gt", "testing/pixel_masks/{name}"),
        plotted=(2, 6),
        toy=True,
        page=f"{UCSD}/dataset.htm",
        archives=(
            Archive(
                f"{UCSD}/UCSD_Anomaly_Dataset.tar.gz",
                "2329af326951f5097fdd114c50e853957d3e569493a49d22fc082a9fd791915b",
            ),
        ),
        citation="V. Mahadevan, W. Li, V. Bhalodia, N. Vasconcelos. Anomaly Detection in Crowded Scenes. CVPR 2010.",
    ),
    "avenue": Spec(
        title="Avenue",
        folders=("avenue", "avenue_dataset", "avenue dataset"),
        places={"train": ("training_videos", "training/frames"), "test": ("testing_videos", "testing/frames")},
        videos={"train": 16, "test": 21},
        frames={"train": 15328, "test": 15324},
        per_video={
            "train": {},
            "test": _numbered(
                *(1439, 1211, 923, 947, 1007, 1283, 605, 36, 1175, 841, 472),
                *(1271, 549, 507, 1001, 740, 426, 294, 248, 273, 76),
            ),
        },
        size=(640, 360),
        abnormal={"official": 3712, "intervals": 3867},
        spans={"intervals": ("avenue.mat",)},
        masks=("ground_truth_demo/testing_label_mask/{number}_label.mat",),
        note="Avenue has two label sets in circulation, 441 frames apart: the official pixel masks and the intervals. "
        "A perfect detector of one reaches 95.5 to 96.8 on the other; each setting names the one it was measured "
        "against.",
        plotted=(4, 9),
        toy=True,
        page=f"{CUHK}/dataset.html",
        archives=(
            Archive(
                f"{CUHK}/Avenue_Dataset.zip",
                "fc9cb8432a11ca79c18aa180c72524011411b69d3b0ff27c8816e41c0de61531",
            ),
            Archive(
                f"{CUHK}/ground_truth_demo.zip",
                "60fec1728ec8f73a58aad3aeb5729d70a805a47e0b8eb4bf91ab67ef06386d77",
            ),
        ),
        citation="C. Lu, J. Shi, J. Jia. Abnormal Event Detection at 150 FPS in MATLAB. ICCV 2013.",
    ),
    "shanghaitech": Spec(
        title="ShanghaiTech",
        folders=("shanghaitech",),
        places={"train": ("training/videos", "training/frames"), "test": ("testing/frames",)},
        names=r"(\d\d_\d{3,4})",
        videos={"train": 330, "test": 107},
        frames={"train": 274515, "test": 40791},
        per_video={
            "train": {},
            "test": {name: int(count) for name, count in (pair.split(":") for pair in SHANGHAITECH_TEST.split())},
        },
        about=True,
        size=(856, 480),
        abnormal={"official": 17326},
        frame_labels="testing/test_frame_mask/{name}.npy",
        masks=("testing/test_pixel_mask/{name}.npy",),
        plotted=(25, 97),
        toy=True,
        page="https://svip-lab.github.io/dataset/campus_dataset.html",
        by_hand="""
    training/videos/01_001.avi ...            (330 videos; or training/frames/01_001/000.jpg ...)
    testing/frames/01_0014/000.jpg ...        (107 folders)
    testing/test_frame_mask/01_0014.npy ...   (107 files)
    testing/test_pixel_mask/01_0014.npy ...   (optional)""",
        citation="W. Luo, W. Liu, S. Gao. A Revisit of Sparse Coding Based Anomaly Detection in Stacked RNN Framework. "
        "ICCV 2017.",
    ),
}

TOYS = [TOY + name for name, spec in SPECS.items() if spec.toy]
DATASETS = [*SPECS, *TOYS]
"""The names of all data sets, in the order of the tables' columns."""
LABEL_SETS = tuple(dict.fromkeys(label_set for spec in SPECS.values() for label_set in spec.abnormal))
"""Every label set that some data set has; `official` comes first."""


def is_toy(name: str) -> bool:
    """Whether a data set is one of the rendered ones."""
    return name.startswith(TOY)


def original(name: str) -> str:
    """The data set whose layout a toy set has; a real one's own name."""
    return name.removeprefix(TOY)


def spec_of(name: str) -> Spec:
    """The specification of a data set; of a toy set that of its original.

    Raises:
        ConfigError: there is no data set of that name.
    """
    if name not in DATASETS:
        raise ConfigError(unknown("data set", name, DATASETS))
    return SPECS[original(name)]


def title_of(name: str) -> str:
    """A data set's name for people; of one that is not known, and of a toy set, the name itself."""
    return SPECS[name].title if name in SPECS else name
