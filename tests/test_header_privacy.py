"""No path a DICOM header takes tells who the patient is: not in the log, a warning, a message, a page or a table."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import prediction_run
from dicom_scans import UPRIGHT, ras_affine, spoil, write_series
from ignite.engine import Engine
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, LoadImaged

from scripts.candidates import describe_candidates
from scripts.commands import inspect as inspection
from scripts.commands import view
from scripts.data.datalist import load_datalist
from scripts.data.dataloader import SkippingDataLoader
from scripts.handlers import DicomResultHandler, ScanRecordsHandler
from scripts.images.header_privacy import header_fault, quiet_headers
from scripts.images.image_reader import CTReader
from scripts.images.image_writer import AtomicNibabelWriter
from scripts.transforms import CheckFilesd

SHAPE = (12, 10, 9)
# what stands in the headers; each in a form that pydicom or highdicom complains about
ODD = {
    "PatientName": b"Quuxington Zebediah" + b"x" * 60,
    "PatientID": b"PX-4711\nZP-0815",
    "PatientBirthDate": b"1955.06.07",
    "OtherPatientIDs": b"ZZ 42424242" + b"9" * 70,
    "AccessionNumber": b"ACC99321-too-long",
    "ReferringPhysicianName": b"Doctorow=b=c=d",
    "PatientAge": b"sixtysix",
    "PatientWeight": b"Fatso",
    "StudyDate": b"Mondayish",
    "PatientSex": b"Zeb",
}
PLAIN = {"PatientName": b"Quuxington Zebediah", "PatientID": b"PX-4711", "PatientBirthDate": b"19550607"}
# short numbers are left out: they turn up by chance in UIDs and times
SECRETS = (
    *("quuxington", "zebediah", "px-4711", "zp-0815", "19550607", "1955.06.07", "1955-06-07", "42424242", "acc99321"),
    *("doctorow", "sixtysix", "fatso"),
)


@pytest.fixture(params=[logging.INFO, logging.DEBUG], ids=["default", "debug"])
def told(request, capfd, caplog):
    """All that is told from here on, when it is asked for: by prints, of C++ too, by the log, and by warnings."""
    caplog.set_level(request.param)
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        yield lambda: "\n".join([*capfd.readouterr(), caplog.text, *(str(one.message) for one in complaints)]).lower()


@pytest.fixture(params=[ODD, PLAIN], ids=["odd", "plain"])
def files(request, tmp_path):
    def change(number, slice_):
        for keyword, value in request.param.items():
            spoil(slice_, keyword, value)

    with quiet_headers():
        folder = tmp_path / "data" / "Quuxington_Zebediah" / "CT"
        return [str(file) for file in write_series(folder, np.full(SHAPE, 40), UPRIGHT, change=change)]


def assert_no_secret(text):
    assert [secret for secret in SECRETS if secret in text.lower()] == []


def cut(file):
    """Leave but the beginning of a slice, without its place: it is damaged, and missing in its series."""
    content = Path(file).read_bytes()
    Path(file).write_bytes(content[:300])


def undecodable(file):
    """Take the last pixels off a slice: with its header the file is long enough to hold them all."""
    content = Path(file).read_bytes()
    Path(file).write_bytes(content[:-60])


def test_listing(files, tmp_path, told):
    (item,) = load_datalist(tmp_path / "data", "all", labels=False)
    cut(files[4])
    with pytest.raises(ValueError) as error:
        load_datalist(tmp_path / "data", "all", labels=False)
    assert_no_secret(item["scan"] + str(error.value).replace(str(tmp_path), "") + told())


@pytest.mark.parametrize("spoiled", [cut, undecodable])
@pytest.mark.parametrize("checked", [True, False])
def test_loading(spoiled, checked, files, told):
    load = Compose([*([CheckFilesd("image")] if checked else []), LoadImaged("image", reader=CTReader)])
    loader = SkippingDataLoader(Dataset([{"scan": "one", "image": files}], load))
    assert len(list(loader)) == 1
    spoiled(files[4])
    assert list(loader) == []
    with pytest.raises(ValueError, match="1 of 1 scans failed") as error:
        loader.raise_skipped()
    assert_no_secret(f"{loader.skipped}{error.value}{told()}")


def test_inspecting(files, tmp_path, told):
    with pytest.raises(SystemExit):
        inspection.main(["--dataset_dir", str(tmp_path / "data"), "--images_only", "--output", f"{tmp_path}/page.html"])
    undecodable(files[4])
    with pytest.raises(SystemExit):
        inspection.main(["--dataset_dir", str(tmp_path / "data"), "--images_only", "--output", f"{tmp_path}/bad.html"])
    text = told() + (tmp_path / "page.html").read_text() + (tmp_path / "bad.html").read_text()
    assert_no_secret(text.replace(str(tmp_path).lower(), ""))
    assert "cannot be decoded" in text


def predicted(files, folder, monkeypatch, failure=None):
    """Run what writes the results of a scan, and return all that it wrote beside DICOM."""
    ids = torch.zeros(1, *SHAPE, dtype=torch.int32)
    ids[0, 2:5, 6:8, 3] = 1
    pred = MetaTensor(ids, affine=torch.as_tensor(ras_affine()), meta={"scan": "one", "notes": ""})
    item = {"scan": "one", "image": files}
    (folder / "configs").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps({"name": "n", "version": "v", "authors": "a"}))
    run = prediction_run(folder, [item], bundle_root=folder)
    if failure is not None:
        monkeypatch.setattr("scripts.reporting.dicom.hd.seg.Segmentation", failure)

    def step(engine, number):
        writer = AtomicNibabelWriter()
        writer.set_data_array(pred[0].numpy(), channel_dim=None)
        writer.set_metadata({"affine": ras_affine()}, resample=False)
        writer.write(str(folder / "predictions" / "one.nii.gz"))
        return [{"pred": pred, "candidates": describe_candidates(pred, torch.tensor([0.9]))}]

    engine = Engine(step)
    DicomResultHandler(run).attach(engine)
    ScanRecordsHandler(run).attach(engine)
    engine.run([0])
    run.records.join()
    assert run.records.is_done(item)
    tables = [path for path in folder.rglob("*") if path.suffix in (".csv", ".json") and path.name != "metadata.json"]
    assert {path.name for path in tables} == {"one.json", "fractures.csv", "scans.csv", "ribfrac-pred.csv"}
    return "".join(path.read_text() for path in tables)


def test_writing(files, tmp_path, told, monkeypatch):
    text = predicted(files, tmp_path, monkeypatch)
    assert (tmp_path / "dicom" / "one.seg.dcm").is_file()
    assert_no_secret(text + told())


def test_a_failure_to_write(files, tmp_path, told, monkeypatch):
    message = "With tag (0010,0030) got exception: Unable to convert 'Quuxington 19550607' to 'DA' object"

    def fail(**_):
        raise ValueError(message)

    (tmp_path / "dicom").mkdir()
    for kind in ("seg", "sr"):
        (tmp_path / "dicom" / f"one.{kind}.dcm").write_bytes(b"of an earlier run")
    text, log = predicted(files, tmp_path, monkeypatch, fail), told()
    assert "No DICOM is written: ValueError, PatientBirthDate (DA)." in text
    assert "one: no dicom is written: valueerror, patientbirthdate (da)." in log
    assert list((tmp_path / "dicom").iterdir()) == []
    assert_no_secret(text + log)


def test_viewing(files, tmp_path, told, monkeypatch):
    predicted(files, tmp_path, monkeypatch)
    settings = {"dataset_dir": str(tmp_path / "data"), "section": "all", "labels": False}
    (tmp_path / "config.yaml").write_text(
        json.dumps(settings | {"body_hu": -500, "candidates": {"operating_score": 0.5}})
    )
    undecodable(files[4])
    scan = load_datalist(tmp_path / "data", "all", labels=False)[0]["scan"]
    (tmp_path / "records" / "one.json").rename(tmp_path / "records" / f"{scan}.json")
    (tmp_path / "predictions" / "one.nii.gz").rename(tmp_path / "predictions" / f"{scan}.nii.gz")
    monkeypatch.setattr(view, "installed_niivue", lambda: None)
    arguments = ["--output_dir", str(tmp_path), "--scan", scan, "--predictions_dir", str(tmp_path / "predictions")]
    with pytest.raises(SystemExit):
        view.main(arguments)
    log = told()
    assert "slice 5 of 9, by place, cannot be decoded" in log
    assert_no_secret(log)


@pytest.mark.parametrize(
    "error, expected",
    [
        (ValueError("Quuxington"), "ValueError"),
        (TypeError("With tag (0010, 0010) got exception: Quuxington"), "TypeError, PatientName (PN)"),
        (AttributeError("no Quuxington", name="StudyID"), "AttributeError, StudyID (SH)"),
        (AttributeError("no Quuxington", name="strip"), "AttributeError"),
        (ValueError("(9999,0001) Quuxington"), "ValueError"),
    ],
)
def test_a_fault_names_the_attribute_and_no_value(error, expected):
    assert header_fault(error) == expected


def test_what_was_set_before_is_set_again(recwarn):
    logger = logging.getLogger("pydicom")
    level = logger.level
    with pytest.raises(KeyError), quiet_headers():
        warnings.warn("Quuxington", stacklevel=1)
        assert not logger.isEnabledFor(logging.CRITICAL)
        raise KeyError
    assert (logger.level, len(recwarn)) == (level, 0)
