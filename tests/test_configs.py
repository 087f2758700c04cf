"""The configs as users run them: each by the command in its header, on small synthetic scans and a small network."""

from __future__ import annotations

import csv
import gzip
import re
import shlex
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE_ROOT, CHANNELS, lps_affine, network_of, write_scan
from dicom_scans import OBLIQUE, PATIENT, SERIES, ras_affine, write_series
from monai.bundle import ConfigParser, ConfigWorkflow

SMALL_TRAINING = {
    "cache_dir": "$None",
    "max_epochs": 1,
    "rois::per_scan": 2,
    "scans_per_batch": 1,
    "rois::roi_size": [16, 16, 16],
    "rois::max_shift_voxels": 4,
    "amp": False,  # in bfloat16 a repeated training differs
    "network_def::channels": CHANNELS,
}
# The network is not trained: nearly every voxel is one candidate
SMALL_PREDICTION = {
    "bone::min_voxels": 0,  # the windows are too small to hold many
    "windows::roi_size": [16, 16, 16],
    "candidates::threshold": 0.1,
    "candidates::min_mean_probability": 0.0,
    "candidates::postprocess": False,
    "amp": False,  # as on every processor
    "outputs::pictures": False,  # which take half of the time
    "network_def::channels": CHANNELS,
}


def command(python, config, **settings):
    """The command in the header of a config, with settings, by a program that is Python's or does as that."""
    text = (BUNDLE_ROOT / "configs" / config).read_text()
    line = re.search(r"^#   python (-m monai\.bundle run .*)$", text, re.MULTILINE).group(1)
    overrides = [f"--{name.replace('::', '#')}={value}" for name, value in settings.items()]
    return [str(python), *shlex.split(line), *overrides]


def run(python, config, **settings):
    return subprocess.run(
        command(python, config, **settings),
        cwd=BUNDLE_ROOT,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def workflow(*configs, kind="infer", run_id="inference", **settings):
    files = [str(BUNDLE_ROOT / "configs" / config) for config in configs]
    return ConfigWorkflow(
        files,
        logging_file=False,
        run_id=run_id,
        workflow_type=kind,
        **{"bundle_root": str(BUNDLE_ROOT), "num_workers": 0, **settings},
    )


def train(dataset_dir, output_dir, small=SMALL_TRAINING, **settings):
    """Train by train.yaml; returns the folder of the weights."""
    own = {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir)}
    training = workflow("train.yaml", kind="train", run_id="training", **small | own | settings)
    training.initialize()
    training.run()
    return Path(output_dir) / "models"


def predict(dataset_dir, output_dir, model, **settings):
    prediction = workflow(
        "inference.yaml",
        **SMALL_PREDICTION
        | {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir), "checkpoint": str(model)}
        | settings,
    )
    prediction.initialize()
    prediction.run()
    return output_dir


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("config", ["train.yaml", pytest.param("report.yaml", marks=pytest.mark.slow)])
def test_training_by_the_command_of_its_header(config, ribfrac_dir, tmp_path, python):
    done = run(python, config, dataset_dir=ribfrac_dir, output_dir=tmp_path, **SMALL_TRAINING)
    assert done.returncode == 0, done.stdout
    assert {"curves.csv", "curves.png", "models/last.pt", "models/model.pt", "training.html"} <= set(files(tmp_path))
    assert any(name.startswith("tensorboard/") for name in files(tmp_path))
    assert "Epoch 1 of 1: training_loss" in done.stdout
    assert f"Weights: {tmp_path / 'models' / 'model.pt'}, of epoch 1" in done.stdout
    network_of(config).load_state_dict(torch.load(tmp_path / "models" / "model.pt", weights_only=True))


@pytest.mark.parametrize("config", ["inference.yaml", pytest.param("report_inference.yaml", marks=pytest.mark.slow)])
def test_inference_by_the_command_of_its_header(config, ribfrac_dir, tmp_path, python):
    weights, written = tmp_path / "model.pt", tmp_path / "out"
    torch.manual_seed(0)
    torch.save(network_of(config).state_dict(), weights)
    settings = SMALL_PREDICTION | {"dataset_dir": ribfrac_dir, "checkpoint": weights, "outputs::pictures": True}
    done = run(python, config, output_dir=written, **settings)
    assert done.returncode == 0, done.stdout
    assert files(written) == [
        "config.yaml",
        "fractures.csv",
        "pictures/RibFrac501.png",
        "pictures/RibFrac502.png",
        "predictions/RibFrac501.nii.gz",
        "predictions/RibFrac502.nii.gz",
        "predictions/ribfrac-pred.csv",
        "records/RibFrac501.json",
        "records/RibFrac502.json",
        "report.html",
        "ribs/RibFrac501.csv",
        "ribs/RibFrac501.nii.gz",
        "ribs/RibFrac502.csv",
        "ribs/RibFrac502.nii.gz",
        "scans.csv",
        "summary.json",
    ]
    assert "100%" in done.stdout  # progress of the windows


@pytest.mark.slow
def test_a_dicom_study_is_predicted_and_only_dicom_names_the_patient(tmp_path, model, python):
    """The patient's name and number stand in the headers and in the folders' names. NIfTI gives the same candidates."""
    volume = np.random.default_rng(0).normal(0, 300, (32, 28, 12)).astype(int).clip(-1000, 3000)
    study = tmp_path / "archive" / "Quuxington Zebediah"
    write_series(study / "PX-4711-0815", volume, OBLIQUE)
    write_series(
        study / "report", volume, series="1.2.3.7", change=lambda number, slice_: setattr(slice_, "Modality", "PT")
    )
    write_series(
        study / "twice", volume, series="1.2.3.8", change=lambda number, s: setattr(s, "PatientID", f"{number}")
    )
    cut = write_series(study / "cut short", volume, series="1.2.3.9")[5]
    cut.write_bytes(cut.read_bytes()[:-1000])
    nib.save(nib.Nifti1Image(volume.astype(np.int16), ras_affine(OBLIQUE)), tmp_path / "archive" / "same.nii.gz")
    written = tmp_path / "out"
    settings = SMALL_PREDICTION | {"outputs::probabilities": True, "outputs::pictures": True, "checkpoint": model}
    done = run(python, "inference.yaml", dataset_dir=tmp_path / "archive", output_dir=written, **settings)
    assert done.returncode == 1 and "2 of 4 scans failed, the others are done" in done.stdout
    assert re.search(r"\[patient\]/twice: series \w+ of 12 files: slices of two patients are mixed", done.stdout)
    assert "of 12 files: the file of a slice is cut short" in done.stdout
    (scan,) = {row["scan"] for row in rows(written / "fractures.csv")} - {"same"}
    each = ["pictures/{}.png", "predictions/{}.nii.gz", "probabilities/{}.nii.gz", "records/{}.json"]
    each += ["ribs/{}.csv", "ribs/{}.nii.gz"]
    assert files(written) == sorted(
        ["config.yaml", "fractures.csv", "predictions/ribfrac-pred.csv", "report.html", "scans.csv", "summary.json"]
        + [name.format(one) for name in each for one in (scan, "same")]
        + [f"dicom/{scan}.seg.dcm", f"dicom/{scan}.sr.dcm"]
        + [f"records/{row['scan']}.json" for row in rows(written / "scans.csv") if row["status"] == "failed"]
    )
    mask, affine = stored(written / "predictions" / f"{scan}.nii.gz")
    assert mask.shape == volume.shape and np.allclose(affine, ras_affine(OBLIQUE), atol=1e-3)
    assert mask.max() > 0 and np.array_equal(mask, stored(written / "predictions" / "same.nii.gz")[0])
    assert "its modality is PT, not CT" in done.stdout
    assert "NvImgCodec" not in done.stdout and "nvImageCodec" not in done.stdout

    secrets = [word for value in [*PATIENT.values(), "ACC99321", SERIES] for word in value.split("^")]
    names = " ".join(files(written))
    assert not [word for word in secrets if word.lower() in (done.stdout + names).lower()]
    for path in written.rglob("*"):
        if path.is_file():
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            told = [word for word in secrets if word.lower().encode() in content.lower()]
            assert bool(told) == (path.suffix == ".dcm"), path


@pytest.mark.slow
def test_evaluation_by_the_command_of_its_header(ribfrac_dir, tmp_path, model, python):
    settings = SMALL_PREDICTION | {"dataset_dir": ribfrac_dir, "output_dir": tmp_path, "checkpoint": model}
    done = run(python, "evaluate.yaml", **settings | {"outputs::pictures": True})
    assert done.returncode == 0, done.stdout
    assert {"froc.csv", "froc.png", "metrics.json", "pictures/RibFrac501.png", "report.html"} <= set(files(tmp_path))
    assert "recall at 0.5 FP" in done.stdout


@pytest.mark.parametrize(
    "configs, kind, run_id",
    [
        pytest.param(["train.yaml"], "train", "training", id="train"),
        pytest.param(["train.yaml", "report.yaml"], "train", "training", id="report"),
        pytest.param(["inference.yaml"], "infer", "inference", id="inference"),
        pytest.param(["inference.yaml", "report_inference.yaml"], "infer", "inference", id="report inference"),
        pytest.param(["inference.yaml", "evaluate.yaml"], "infer", "evaluating", id="evaluate"),
    ],
)
def test_properties(configs, kind, run_id, ribfrac_dir, tmp_path):
    ready = workflow(*configs, kind=kind, run_id=run_id, dataset_dir=str(ribfrac_dir), output_dir=str(tmp_path))
    ready.initialize()
    assert ready.check_properties() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, settings, written",
    [
        pytest.param("train.yaml", SMALL_TRAINING, "models/model.pt", id="training"),
        pytest.param("inference.yaml", SMALL_PREDICTION, "fractures.csv", id="inference"),
    ],
)
def test_from_another_folder(config, settings, written, ribfrac_dir, tmp_path, model, python):
    settings = settings | {"bundle_root": BUNDLE_ROOT, "dataset_dir": ribfrac_dir, "output_dir": tmp_path / "out"}
    if config == "inference.yaml":
        settings["checkpoint"] = model
    arguments = command(python, config, device="cpu", **settings)
    arguments[arguments.index(f"configs/{config}")] = str(BUNDLE_ROOT / "configs" / config)
    done = subprocess.run(arguments, cwd=tmp_path, check=False, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert written in files(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "section, config, kind", [("test", "inference.yaml", "infer"), ("training", "train.yaml", "train")]
)
def test_a_missing_data_set_is_an_error_and_nothing_is_generated(section, config, kind, tmp_path):
    missing = tmp_path / "no such folder"
    broken = workflow(config, kind=kind, run_id="run", dataset_dir=str(missing), output_dir=str(tmp_path / "out"))
    broken.initialize()
    with pytest.raises(Exception) as error:
        broken.run()
    cause: BaseException = error.value
    while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, FileNotFoundError) and str(missing) in str(cause)
    assert not missing.exists()


def stored(path):
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


@pytest.mark.parametrize("shape", [(9, 40, 20), (16, 16, 16), (40, 7, 1)], ids=["thin", "one window", "one slice"])
def test_any_size(shape, tmp_path, model):
    (tmp_path / "scans").mkdir()
    volume = np.random.default_rng(0).normal(0, 300, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, lps_affine((0.6, 0.9, 2.0))), tmp_path / "scans" / "a scan.nii.gz")
    predict(tmp_path / "scans", tmp_path / "out", model)
    mask, affine = stored(tmp_path / "out" / "predictions" / "a scan.nii.gz")
    assert mask.shape == shape and np.allclose(affine, lps_affine((0.6, 0.9, 2.0))) and mask.dtype == np.uint8


def test_an_oblique_scan_returns_to_its_own_grid(tmp_path, model):
    (tmp_path / "scans").mkdir()
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ lps_affine()
    volume = np.random.default_rng(0).normal(0, 300, (20, 18, 17)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "scans" / "oblique.nii.gz")
    predict(tmp_path / "scans", tmp_path / "out", model)
    mask, written = stored(tmp_path / "out" / "predictions" / "oblique.nii.gz")
    assert mask.shape == (20, 18, 17) and np.allclose(written, affine, atol=1e-5)


def test_settings_arrive_as_text_from_the_command_line(ribfrac_dir, tmp_path, model):
    predict(
        ribfrac_dir,
        tmp_path,
        model,
        **{"outputs::pictures": "false"},
        **{"outputs::review_page": "false"},
        **{"outputs::probabilities": "true"},
    )
    assert not (tmp_path / "pictures").exists() and not (tmp_path / "report.html").exists()
    probability, affine = stored(tmp_path / "probabilities" / "RibFrac501.nii.gz")
    assert probability.dtype == np.float32 and 0 <= probability.min() < probability.max() < 1
    assert np.allclose(affine, lps_affine())


def test_post_processing_is_switched_by_one_setting(ribfrac_dir, tmp_path, model):
    settings = {"candidates::min_mean_probability": 0.999, "candidates::min_volume_mm3": 0}
    base = SMALL_PREDICTION | {"dataset_dir": str(ribfrac_dir), "checkpoint": str(model)} | settings
    found = {}
    for postprocess in (True, False):
        output_dir = tmp_path / str(postprocess)
        ready = workflow(
            "inference.yaml", **base | {"candidates::postprocess": postprocess, "output_dir": str(output_dir)}
        )
        ready.initialize()
        ready.run()
        found[postprocess] = [row["scan"] for row in rows(output_dir / "fractures.csv") if row["id"]]
    assert found[True] == [] and set(found[False]) == {"RibFrac501", "RibFrac502"}


@pytest.mark.parametrize(
    "base, overlay",
    [
        ("train.yaml", "report.yaml"),
        ("inference.yaml", "report_inference.yaml"),
        ("inference.yaml", "inference_trt.yaml"),
    ],
)
def test_overlays_set_only_what_exists(base, overlay):
    """MONAI adds a misspelled setting as a new one, silently."""
    assert set(workflow(base, overlay).parser.config) == set(workflow(base).parser.config)


@pytest.mark.parametrize("configs", [("evaluate.yaml", "tuned.yaml"), ("tuned.yaml", "evaluate.yaml")])
def test_an_evaluation_counts_all_candidates_wherever_the_tuned_overlay_stands(configs, tmp_path):
    (tmp_path / "tuned.yaml").write_text("candidates::min_score: 0.7\n")
    files = ["inference.yaml", *configs]
    paths = [tmp_path / name if name == "tuned.yaml" else BUNDLE_ROOT / "configs" / name for name in files]
    parser = ConfigParser()
    parser.read_config([str(path) for path in paths])
    steps = parser["postprocessing"]["transforms"]
    written = [step["min_score"] for step in steps if step["_target_"].endswith(".FindCandidatesd")]
    assert [parser.get_parsed_content(value.removeprefix("@")) for value in written] == [0.0]
    parser.read_config([str(path) for path in paths if path.name != "evaluate.yaml"])
    assert parser.get_parsed_content("outputs::min_score") == 0.7


@pytest.mark.parametrize(
    "settings, all_count",
    [
        pytest.param({}, False, id="a prediction"),
        pytest.param({"outputs::probabilities": "true"}, True, id="with probabilities"),
        pytest.param({"outputs::min_score": 0.0}, True, id="an evaluation"),
        pytest.param({"rib_weight": 0.0}, True, id="without the look along the ribs"),
    ],
)
def test_windows_look_where_a_candidate_of_the_least_score_can_be(settings, all_count):
    parser = workflow("inference.yaml", **settings).parser
    look, least = (parser.get_parsed_content(name) for name in ("least_look", "bone::min_rib_probability"))
    assert look == least if all_count else look == pytest.approx(0.658, abs=0.001)  # (logit 2.83 - 0.2 * 11.5) / 0.8


@pytest.mark.parametrize("config, kind", [("inference.yaml", "infer"), ("train.yaml", "train")])
def test_the_shipped_weights_fit_the_network_of_the_configs(config, kind):
    network = workflow(config, kind=kind).parser.get_parsed_content("network_def")
    weights = torch.load(BUNDLE_ROOT / "models" / "model.pt", weights_only=True)
    network.load_state_dict(weights)
    assert (BUNDLE_ROOT / "models" / "model.pt").stat().st_size < 25e6


def test_implanting_is_switched_on_by_its_probability(ribfrac_dir):
    def steps(prob):
        training = workflow("train.yaml", kind="train", dataset_dir=str(ribfrac_dir), **{"implants::prob": prob})
        training.initialize()
        return [type(step).__name__ for step in training.parser.get_parsed_content("train::preprocessing").transforms]

    assert [step for step in steps(0.5) if step not in steps(0.0)] == ["FindRibsd", "RandImplantFracturesd"]


def test_training_starts_from_given_weights(ribfrac_dir, tmp_path, model):
    models = train(ribfrac_dir, tmp_path, pretrained=str(model), learning_rate=0.0)
    given, written = (torch.load(path, weights_only=True) for path in (model, models / "model.pt"))
    names = [name for name, _ in network_of("train.yaml").named_parameters()]
    assert all(torch.allclose(given[name], written[name]) for name in names)


def test_a_scan_of_thick_slices_is_resampled_and_returned_to_its_grid(tmp_path, model):
    (tmp_path / "scans").mkdir()
    volume = np.random.default_rng(0).normal(0, 300, (40, 36, 9)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, lps_affine((0.7, 0.7, 5.0))), tmp_path / "scans" / "thick.nii.gz")
    prediction = workflow("inference.yaml", dataset_dir=str(tmp_path / "scans"), section="all")
    prediction.initialize()
    image = prediction.parser.get_parsed_content("dataset")[0]["image"]
    # (9 - 1) x 5 mm is 40 mm, which holds 32 steps of 1.25 mm; in the plane nothing changes
    assert tuple(image.shape) == (1, 40, 36, 33) and image.pixdim.tolist() == pytest.approx([0.7, 0.7, 1.25])
    predict(tmp_path / "scans", tmp_path / "out", model)
    mask, affine = stored(tmp_path / "out" / "predictions" / "thick.nii.gz")
    assert mask.shape == volume.shape and np.allclose(affine, lps_affine((0.7, 0.7, 5.0))) and mask.any()


def test_the_air_around_the_patient_is_left_out_and_returned(tmp_path, model):
    (tmp_path / "scans").mkdir()
    volume = np.full((40, 36, 24), -1000, dtype=np.int16)
    volume[10:30, 6:26, 2:20] = np.random.default_rng(0).normal(0, 100, (20, 20, 18))
    nib.save(nib.Nifti1Image(volume, lps_affine()), tmp_path / "scans" / "small.nii.gz")
    prediction = workflow("inference.yaml", dataset_dir=str(tmp_path / "scans"), section="all")
    prediction.initialize()
    assert tuple(prediction.parser.get_parsed_content("dataset")[0]["image"].shape) == (1, 20, 20, 18)
    predict(tmp_path / "scans", tmp_path / "out", model)
    mask, _ = stored(tmp_path / "out" / "predictions" / "small.nii.gz")
    outside = np.ones(volume.shape, dtype=bool)
    outside[10:30, 6:26, 2:20] = False
    assert mask.shape == volume.shape and mask.any() and not mask[outside].any()


def test_a_scan_of_nothing_but_air_is_refused_by_name(tmp_path, model):
    (tmp_path / "scans").mkdir()
    volume = np.full((20, 20, 20), -1000, dtype=np.int16)
    nib.save(nib.Nifti1Image(volume, lps_affine()), tmp_path / "scans" / "air.nii.gz")
    prediction = workflow("inference.yaml", dataset_dir=str(tmp_path / "scans"), section="all")
    prediction.initialize()
    with pytest.raises(RuntimeError) as caught:
        prediction.parser.get_parsed_content("dataset")[0]
    assert re.search(r"air\.nii\.gz: no voxel above -500 HU", str(caught.value.__cause__))


def test_labels_of_many_scans_in_a_batch(tmp_path):
    """Scans of one batch differ in shape, in their fractures and in their tables."""
    write_scan(tmp_path / "data", "train", 3, fractures=3, shape=(40, 30, 36))
    write_scan(tmp_path / "data", "train", 4, fractures=0)
    write_scan(tmp_path / "data", "val", 423, fractures=1)
    training = workflow(
        "train.yaml",
        kind="train",
        run_id="training",
        **SMALL_TRAINING
        | {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out"), "scans_per_batch": 2},
    )
    training.initialize()
    batch = next(iter(training.parser.get_parsed_content("train::dataloader")))
    assert batch["image"].shape == batch["label"].shape == (4, 1, 16, 16, 16)
    assert batch["image"].min() >= -1 and batch["image"].max() <= 1
    assert set(batch["label"].unique().tolist()) <= {0.0, 1.0}


def test_validation_rois_are_the_same_in_every_epoch(ribfrac_dir, tmp_path):
    settings = SMALL_TRAINING | {"dataset_dir": str(ribfrac_dir), "output_dir": str(tmp_path)}
    ready = workflow("train.yaml", kind="train", **settings)
    ready.initialize()
    loader = ready.parser.get_parsed_content("validate::dataloader")
    first, second = (torch.cat([batch["image"] for batch in loader]) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_default_data_set_is_generated_only_where_it_is_the_default(tmp_path, monkeypatch):
    from scripts.synthetic.phantom import default

    generated = []
    monkeypatch.setattr(default, "generate_phantoms", lambda folder, size, names: generated.append((folder, size)))
    other, same = tmp_path / "other", tmp_path / "x" / ".." / "phantoms"
    assert default.ensure_phantoms(other, tmp_path / "phantoms", size="slab") == other
    assert generated == []
    assert default.ensure_phantoms(same, tmp_path / "phantoms", size="slab") == same
    assert generated == [(tmp_path / "phantoms", "slab")]


@pytest.mark.parametrize(
    "settings, expected",
    [
        pytest.param({}, [60, 60, 40], id="default: 48, 48 and 32 / 0.8"),
        pytest.param(
            {"rois::roi_size": [96, 48, 64], "zoom::min": [0.75] * 3}, [128, 64, 86], id="96, 48 and 64 / 0.75"
        ),
    ],
)
def test_the_sampled_roi_leaves_room_for_the_least_zoom(settings, expected):
    config = workflow("train.yaml", kind="train", **settings).parser
    assert config.get_parsed_content("train::sampled_roi_size").tolist() == expected


OTHER_NETWORKS = {
    "UNet": {"channels": [4, 8, 8], "strides": [2, 2], "num_res_units": 1},
    "DynUNet": {
        "kernel_size": [3, 3, 3, 3],
        "strides": [1, 2, 2, 2],
        "upsample_kernel_size": [2, 2, 2],
        "filters": [4, 8, 8, 8],
        "deep_supervision": True,
        "deep_supr_num": 2,
    },
    "SegResNet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_any_network_of_monai_trains_and_predicts_by_naming_it(name, ribfrac_dir, tmp_path):
    network = {"_target_": name, "spatial_dims": 3, "in_channels": 1, "out_channels": 1, **OTHER_NETWORKS[name]}
    small_training = {key: value for key, value in SMALL_TRAINING.items() if key != "network_def::channels"}
    settings = {"dataset_dir": str(ribfrac_dir), "network_def": network}
    size = [64, 64, 64] if name == "SwinUNETR" else [32, 32, 32]  # it halves five times, and normalizes the last
    roi = {"rois::roi_size": size}
    weights = train(ribfrac_dir, tmp_path / "t", small_training, network_def=network, **roi) / "model.pt"
    small_prediction = {key: value for key, value in SMALL_PREDICTION.items() if key != "network_def::channels"}
    sizes = {"windows::roi_size": size, "large_windows::roi_size": size}
    prediction = workflow(
        "inference.yaml",
        **small_prediction | settings | sizes | {"checkpoint": str(weights), "output_dir": str(tmp_path / "p")},
    )
    prediction.initialize()
    prediction.run()
    assert {row["scan"] for row in rows(tmp_path / "p" / "scans.csv")} == {"RibFrac501", "RibFrac502"}


@pytest.mark.parametrize("overlays, run_id", [([], "inference"), (["evaluate.yaml"], "evaluating")])
def test_a_bad_scan_is_told_at_the_end_and_the_others_are_finished(overlays, run_id, tmp_path, model):
    for number in (501, 502, 503):
        write_scan(tmp_path / "data", "test", number, fractures=1)
    broken = tmp_path / "data" / "ribfrac-test-images" / "RibFrac502-image.nii.gz"
    volume = np.zeros((32, 28, 24), np.float32)
    volume[3, 4, 5:7] = np.nan
    nib.save(nib.Nifti1Image(volume, lps_affine()), broken)
    settings = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out"), "checkpoint": str(model)}
    prediction = workflow("inference.yaml", *overlays, run_id=run_id, **SMALL_PREDICTION | settings)
    prediction.initialize()
    with pytest.raises(RuntimeError) as error:
        prediction.run()
    assert re.search(
        r"1 of 3 scans failed, the others are done:\n" rf"RibFrac502: {broken}: 2 voxels are infinite or not numbers",
        str(error.value.__cause__),
    )
    masks = [path.name for path in sorted((tmp_path / "out" / "predictions").glob("*.nii.gz"))]
    assert masks == ["RibFrac501.nii.gz", "RibFrac503.nii.gz"]
    assert {row["scan"] for row in rows(tmp_path / "out" / "fractures.csv")} == {"RibFrac501", "RibFrac503"}
    assert (tmp_path / "out" / "metrics.json").exists() == (run_id == "evaluating")


def test_paths_are_folders_of_the_bundle():
    config = workflow("train.yaml").parser
    for setting in ("phantom_dir", "output_dir", "ckpt_dir"):
        assert Path(config.get_parsed_content(setting)).is_relative_to(BUNDLE_ROOT), setting
