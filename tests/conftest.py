"""Small synthetic scans in RibFrac's layout: unequal spacing, an affine that is not the identity, 32 voxels wide."""

from __future__ import annotations

import csv
import fcntl
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before numpy and torch are loaded: tests run side by side, and results must not depend on the number of cores. What
# tests start in processes of their own inherits it.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from forked_python import forked_python  # noqa: E402

from scripts.commands.sample_ct import SampleCT, load_sample_ct  # noqa: E402
from scripts.networks import ResUNet  # noqa: E402
from scripts.runs.prediction import PredictionRun  # noqa: E402

torch.set_num_threads(1)  # also where a plugin of pytest had loaded it before

BUNDLE_ROOT = Path(__file__).resolve().parents[1] / "bundle"
SPACING_MM = (0.75, 0.75, 1.25)
CHANNELS = [2, 3, 4, 5]
OF_CLUSTERS = ("test_archive", "test_worker_pool")  # how the names of files begin whose tests have a cluster of Ray


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have most slow tests: short ones are left when processes run out of files."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process have all files whose tests would wait for each other's cluster; and keep the order of files."""
    from xdist.scheduler import LoadFileScheduling

    class OneProcessForClusters(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "clusters" if Path(file).name.startswith(OF_CLUSTERS) else file

    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return OneProcessForClusters(config, log)


@pytest.fixture(scope="session")
def real_ct() -> SampleCT:
    """The sample CT, every second voxel in plane; skips where it cannot be downloaded."""
    try:
        scan = load_sample_ct(BUNDLE_ROOT.parent / ".cache" / "real_ct")
    except (FileNotFoundError, ValueError) as error:
        pytest.skip(str(error))
    return SampleCT(scan.image_hu[::2, ::2], scan.structures[::2, ::2], scan.spacing_mm * (2, 2, 1))


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A program that does as Python's own, and starts at once: for commands that need no interpreter of their own."""
    with forked_python(tmp_path_factory.mktemp("python")) as program:
        yield program


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window; CONTRIBUTING.md says how to have one. It draws WebGL by the CPU."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium: install it, or name the program in the variable CHROMIUM")
    arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


def watched_page(browser):
    """An empty page; what the browser complains about, or would fetch, is in its ``complaints``."""
    page = browser.new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: page.complaints.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: page.complaints.append(request.url[:80]) if is_fetched(request) else None)
    return page


def is_fetched(request):
    return not request.url.startswith(("file:", "data:"))


def lps_affine(spacing_mm: Sequence[float] = SPACING_MM, origin_mm: Sequence[float] = (12.0, -7.0, 30.0)) -> np.ndarray:
    """Affine (RAS mm) of a scan whose axes run to the left, to the back and up, as RibFrac's mostly do."""
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    affine[:3, 3] = origin_mm
    return affine


def write_scan(
    folder: Path, section: str, number: int, fractures: int, shape: Sequence[int] = (32, 28, 24), seed: int = 0
) -> None:
    """Write one scan of the section ("train", "val" or "test") with cubes of 4³ voxels as fractures, and its table."""
    rng = np.random.default_rng([seed, number])
    image = rng.normal(40, 10, shape)
    image[[0, -1]] = -1000
    label = np.zeros(shape, np.uint8)
    for fracture in range(1, fractures + 1):
        start = np.array([4 + 12 * (fracture % 2), 6, 3 + 6 * (fracture - 1)]) % (np.array(shape) - 5)
        block = tuple(slice(a, a + 4) for a in start)
        label[block], image[block] = fracture, 800
    affine = lps_affine()
    for kind, volume in (("image", image.astype(np.int16)), ("label", label)):
        path = folder / f"ribfrac-{section}-{kind}s" / f"RibFrac{number}-{kind}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(volume, affine), path)
    table = folder / f"ribfrac-{section}-info.csv"
    is_new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["public_id", "label_id", "label_code"])
        writer.writerow([f"RibFrac{number}", 0, 0])
        writer.writerows([f"RibFrac{number}", i, 1 + i % 4] for i in range(1, fractures + 1))


@pytest.fixture(scope="session")
def ribfrac_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two training, two validation and two test scans; the last test scan has no fracture."""
    folder = tmp_path_factory.mktemp("ribfrac")
    for section, number, fractures in (
        ("train", 1, 2),
        ("train", 2, 0),
        ("val", 421, 1),
        ("val", 422, 2),
        ("test", 501, 2),
        ("test", 502, 0),
    ):
        write_scan(folder, section, number, fractures)
    return folder


def network_of(config):
    """The network of a config, small."""
    if config.startswith("report"):
        return ResUNet(channels=CHANNELS)
    return ResUNet(channels=CHANNELS, act="LEAKYRELU", stem_stride=2, upsample_mode="nontrainable", straight_ribs=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained network as model.pt; the second voxel of a pair is more probable, so that places differ."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    torch.save(network_of("inference.yaml").state_dict(), path)
    return path


def prediction_run(folder: Path, scans: Sequence[dict[str, Any]], **arguments: Any) -> PredictionRun:
    """A prediction of scans into a folder, by the bundle without weights; its page and DICOM are written."""
    settings = {"bundle_root": BUNDLE_ROOT, "checkpoint": None, "outputs": {"review_page": True, "dicom": True}}
    return PredictionRun(scans, folder, folder / "predictions", **settings | {"shard": 0, "shards": 1} | arguments)


def ending_of(ready: Any) -> str:
    """Run a workflow; returns what it ends with, which is nothing where all is well."""
    ready.initialize()
    try:
        ready.run()
    except RuntimeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return str(cause)
    return ""


@contextmanager
def ray_on_this_machine(cores: int, **environment: str) -> Iterator[None]:
    """Ray, without a token in the home directory."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RAY_AUTH_MODE": "disabled", **environment}.items():
            patch.setenv(name, value)
        local = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": 2**27}
        ray.init("local", **local, _node_ip_address="127.0.0.1", log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def the_only_cluster() -> Iterator[None]:
    """Wait until no other process of the tests has a cluster of Ray: those of one machine disturb each other."""
    with open(Path(tempfile.gettempdir()) / "rib-fractures-tests-ray.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
