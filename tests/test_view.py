"""Pages to scroll through scans: what they hold and where it lies; in a browser they are tested elsewhere."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import asdict
from importlib import metadata
from types import SimpleNamespace
from urllib.parse import quote

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from conftest import BUNDLE_ROOT
from dicom_scans import OBLIQUE, ras_affine, write_series
from monai.data import MetaTensor
from test_pages import EVIL, Page, annotated_scan, run_handler

from scripts.candidates import describe_candidates
from scripts.commands.view import main, write_views
from scripts.files.atomic_write import write_json
from scripts.reporting.pages.niivue import PACKAGE, installed_niivue
from scripts.reporting.pages.viewer import Mark, write_viewer_page
from scripts.reporting.pages.views import places_mm
from scripts.reporting.tables import RIB_COLUMNS
from scripts.runs.records import RECORD_FORMAT, record_path

SHAPE, SPACING_MM, ORIGIN_MM = (40, 36, 30), (0.75, 0.8, 1.25), (-20.0, 5.0, 130.0)
AIR_HU, BODY_HU, LUNG_HU, BONE_HU = -1000, 40, -850, 800
# In voxels of RAS axes: bone on the right, in front, at the head; a lung on the left, behind, at the feet.
BONE = np.s_[26:31, 23:28, 19:24]
LUNG = np.s_[8:16, 6:12, 5:12]
SCORES = (0.9, 0.4, 0.6)
# Candidates 1 and 3 lie on fracture 2, candidate 2 beside it; fracture 5 is missed.
CANDIDATES = {1: np.s_[26:31, 23:28, 19:22], 2: np.s_[9:14, 19:24, 5:10], 3: np.s_[26:31, 23:28, 23:26]}
FRACTURES = {2: np.s_[26:31, 23:28, 19:26], 5: np.s_[20:23, 8:11, 14:17]}


def volume_of(parts, background=0, dtype=np.uint8):
    volume = np.full(SHAPE, background, dtype)
    for value, part in parts:
        volume[part] = value
    return volume


def save(path, volume, axes, tilt_degrees=0.0):
    """Write a volume of RAS axes with its axes turned; the scanner may be tilted about the patient's x axis."""
    cosine, sine = np.cos(np.radians(tilt_degrees)), np.sin(np.radians(tilt_degrees))
    affine = np.array([[1, 0, 0, 0], [0, cosine, -sine, 0], [0, sine, cosine, 0], [0, 0, 0, 1]]) @ np.diag(
        [*SPACING_MM, 1.0]
    )
    affine[:3, 3] = ORIGIN_MM
    image = nib.Nifti1Image(volume, affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    image = image.as_reoriented(turn)
    image.header["descrip"] = b"Doe^Jane PATIENT-ID-7"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return image


def record_of(name, candidates):
    return {"format": RECORD_FORMAT, "scan": name, "candidates": [asdict(candidate) for candidate in candidates]}


def synthetic_run(folder, name="A", axes="LPS", labels=True, tilt_degrees=0.0):
    """A scan with an annotation, and what an evaluation leaves of it."""
    image = volume_of([(AIR_HU, np.s_[:]), (BODY_HU, np.s_[4:-2, 3:-1, :])], dtype=np.int16)
    image[LUNG], image[BONE] = LUNG_HU, BONE_HU
    save(folder / "data" / "images" / f"{name}-image.nii.gz", image, axes, tilt_degrees)
    save(folder / "data" / "labels" / f"{name}-label.nii.gz", volume_of(FRACTURES.items()), axes, tilt_degrees)
    output = folder / "run"
    mask = save(output / "predictions" / f"{name}.nii.gz", volume_of(CANDIDATES.items()), axes, tilt_degrees)
    pred = MetaTensor(torch.as_tensor(np.asarray(mask.dataobj).astype(np.int32))[None], affine=mask.affine)
    candidates = describe_candidates(pred, SCORES, torch.tensor([1.0, 0.0, 0.0, -5.0]))
    write_json(record_path(output, name), record_of(name, candidates))
    config = yaml.safe_load((BUNDLE_ROOT / "configs" / "inference.yaml").read_text())
    config |= {"dataset_dir": str(folder / "data"), "section": "all", "labels": labels}
    (output / "config.yaml").write_text(yaml.safe_dump(config))
    return output


def volume_in(html, kind):
    """The NIfTI file in a page."""
    (text,) = re.findall(f'<script type="text/plain" id="volume-{kind}">([^<]*)</script>', html)
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    (page,) = write_views(synthetic_run(tmp_path_factory.mktemp("run")), ["A"])
    return page.read_text(encoding="utf-8")


def at_ras(image, voxel):
    """The value of a volume where a voxel of the synthetic scan lies."""
    place = np.array(ORIGIN_MM) + np.array(SPACING_MM) * voxel
    inside = np.linalg.inv(image.affine) @ [*place, 1]
    assert np.abs(inside - np.rint(inside)).max() < 1e-3
    return np.asanyarray(image.dataobj)[tuple(np.rint(inside[:3]).astype(int))]


def test_the_page_holds_the_scan_in_its_place(html):
    image = volume_in(html, "image")
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_zooms() == pytest.approx(SPACING_MM)
    assert image.shape == (34, 32, 30)  # without the 4 and 2, the 3 and 1 voxels of air around the body
    expected = {(28, 26, 22): BONE_HU, (10, 8, 8): LUNG_HU, (20, 30, 15): BODY_HU}
    for voxel, hu in expected.items():
        assert at_ras(image, voxel) == pytest.approx(hu, abs=4)  # HU are rounded to 8


def test_hu_are_clipped_to_what_a_byte_holds(tmp_path):
    hu = np.array([-3000.0, -976, -972.1, 0, 1064, 3000]).reshape(6, 1, 1)
    write_viewer_page(tmp_path / "page.html", "A", hu, np.eye(4), {"candidate": np.zeros((6, 1, 1), int)}, [])
    image = volume_in((tmp_path / "page.html").read_text(), "image")
    assert np.asanyarray(image.dataobj).ravel().tolist() == [-976, -976, -976, 0, 1064, 1064]
    assert image.get_data_dtype() == np.uint8


def test_the_page_holds_the_masks_on_the_scans_grid(html):
    image = volume_in(html, "image")
    for kind, parts in (("candidate", CANDIDATES), ("fracture", FRACTURES)):
        ids = volume_in(html, kind)
        assert ids.shape == image.shape and np.array_equal(ids.affine, image.affine)
        assert ids.header.get_intent()[0] == "label"
        assert {i: int((np.asarray(ids.dataobj) == i).sum()) for i in parts} == {
            i: volume_of(parts.items())[part].size for i, part in parts.items()
        }
        for i, part in parts.items():
            assert at_ras(ids, [axis.start for axis in part]) == i
            assert at_ras(ids, [axis.stop - 1 for axis in part]) == i


def test_more_than_255_ids_do_not_wrap(tmp_path):
    ids = np.arange(300).reshape(300, 1, 1)
    write_viewer_page(tmp_path / "page.html", "A", ids * 0.0, np.eye(4), {"candidate": ids}, [])
    held = volume_in((tmp_path / "page.html").read_text(), "candidate")
    assert np.array_equal(np.asarray(held.dataobj), ids)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "PIL"])
def test_whatever_the_axes_of_the_files_the_page_is_the_same(tmp_path, html, axes):
    (page,) = write_views(synthetic_run(tmp_path, axes=axes), ["A"])
    other = page.read_text(encoding="utf-8")
    for kind in ("image", "candidate", "fracture"):
        mine, first = volume_in(other, kind), volume_in(html, kind)
        assert np.allclose(mine.affine, first.affine, atol=1e-4)
        assert np.array_equal(np.asarray(mine.dataobj), np.asarray(first.dataobj))
    assert listed(other) == listed(html)


def test_finer_voxels_than_asked_for_are_resampled(tmp_path):
    (page,) = write_views(synthetic_run(tmp_path), ["A"], min_spacing_mm=1.0)
    image = volume_in(page.read_text(encoding="utf-8"), "image")
    assert image.header.get_zooms() == pytest.approx((1.0, 1.0, 1.25))
    # 34 voxels of 0.75 mm reach from middle to middle over 24.75 mm, 32 of 0.8 mm over 24.8 mm
    assert image.shape == (26, 26, 30)
    ids = volume_in(page.read_text(encoding="utf-8"), "candidate")
    assert ids.shape == image.shape and set(np.unique(ids.dataobj)) == {0, 1, 2, 3}


def listed(html):
    rows = [e for e in Page(html).all("tr") if "data-kind" in e.attributes]
    return [(e.attributes, " ".join(e.text.split())) for e in rows]


def test_the_list_tells_candidates_by_score_and_fractures(html):
    # candidates have 75, 125 and 75 voxels of 0.75 mm³
    assert [text for _, text in listed(html)] == [
        "C10.90Hit; right side; 56 mm³",
        "C30.60Hit on a fracture that is found already; right side; 56 mm³",
        "C20.40False positive; left side; 94 mm³",
        "F2Unknown; hit by C1 (0.90), C3 (0.60)",
        "F5Unknown; missed",
    ]
    assert [a["data-outcome"] for a, _ in listed(html)] == ["hit", "again", "false", "hit", "missed"]


def test_places_are_voxels_of_the_instances(html):
    parts = {("candidate", i): part for i, part in CANDIDATES.items()}
    parts |= {("fracture", i): part for i, part in FRACTURES.items()}
    for attributes, _ in listed(html):
        part = parts[attributes["data-kind"], int(attributes["data-id"])]
        place = np.array([float(number) for number in attributes["data-place"].split()])
        voxel = (place - ORIGIN_MM) / SPACING_MM
        middle = [(axis.start + axis.stop - 1) / 2 for axis in part]
        assert voxel == pytest.approx(middle, abs=1e-4)


def test_the_place_of_an_instance_whose_middle_is_empty_is_on_it():
    ids = np.zeros((9, 9, 3), int)
    ids[:, :, 1] = 4
    ids[1:8, 1:8, 1] = 0
    ids[4, 8, 1] = 4
    (place,) = places_mm(ids, np.diag([-1.0, 2.0, 3.0, 1.0])).values()
    i, j, k = np.rint(np.array(place) / [-1, 2, 3]).astype(int)
    assert ids[i, j, k] == 4


def test_the_middle_is_measured_in_mm():
    ids = np.zeros((5, 1, 3), int)
    ids[[0, 4], 0, 1] = ids[2, 0, [0, 2]] = 1  # 2 voxels of 1 mm from the middle, and 1 voxel of 5 mm
    (place,) = places_mm(ids, np.diag([1.0, 1.0, 5.0, 1.0])).values()
    assert place in ((0.0, 0.0, 5.0), (4.0, 0.0, 5.0))


def test_a_prediction_shows_no_annotation(tmp_path):
    (page,) = write_views(synthetic_run(tmp_path, labels="false"), ["A"])
    html = page.read_text(encoding="utf-8")
    assert 'id="volume-fracture"' not in html
    assert [a["data-outcome"] for a, _ in listed(html)] == ["candidate"] * 3
    assert "false positive" not in html.lower().partition("<script")[0]


def test_no_patient_is_named(html):
    assert "Doe^Jane" not in html
    for kind in ("image", "candidate", "fracture"):
        assert b"Doe^Jane" not in volume_in(html, kind).to_bytes()[:352]


def test_a_tilted_dicom_series_lies_in_its_place_without_its_patient(tmp_path):
    volume_hu = np.full((16, 14, 10), BODY_HU)
    bone = np.s_[9:12, 3:6, 1:4]
    volume_hu[bone] = BONE_HU
    write_series(tmp_path / "dicom" / "case", volume_hu, OBLIQUE)
    ids = np.zeros(volume_hu.shape, np.uint8)
    ids[bone] = 1
    output = synthetic_run(tmp_path, labels=False)
    nib.save(nib.Nifti1Image(ids, ras_affine(OBLIQUE)), tmp_path / "case.nii.gz")
    pred = MetaTensor(torch.as_tensor(ids.astype(np.int32))[None], affine=ras_affine(OBLIQUE))
    write_json(record_path(output, "case"), record_of("case", describe_candidates(pred, [0.7])))
    (page,) = write_views(output, ["case"], tmp_path / "dicom", tmp_path, min_spacing_mm=0.1)
    html = page.read_text(encoding="utf-8")
    image = volume_in(html, "image")
    middle_mm = ras_affine(OBLIQUE) @ [10, 4, 2, 1]
    ((attributes, _),) = listed(html)
    assert [float(word) for word in attributes["data-place"].split()] == pytest.approx(middle_mm[:3], abs=0.01)
    voxel = np.linalg.inv(image.affine) @ middle_mm
    assert voxel == pytest.approx(np.rint(voxel), abs=1e-3)
    around = [np.arange(i - 2, i + 3) for i in np.rint(voxel[:3]).astype(int)]
    values = np.asanyarray(image.dataobj)[np.ix_(*around)]
    assert (values == 800).sum() == 27 and values[1:4, 1:4, 1:4].min() == 800
    assert "Quuxington" not in html and b"Quuxington" not in image.to_bytes()


def test_names_are_escaped(tmp_path):
    name = f"</script>{EVIL}"
    mark = Mark("candidate", 1, "candidate", 0.5, name, (0.0, 0.0, 0.0))
    ids = np.ones((1, 1, 1), int)
    write_viewer_page(tmp_path / "page.html", name, ids * 0.0, np.eye(4), {"candidate": ids}, [mark])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert EVIL not in html and html.count("</script>") == 3  # image, mask, module
    page = Page(html)
    assert not [e for e in page.elements if "onerror" in e.attributes]
    assert [e.text for e in page.all("h1")] == [name] and page.all("td")[1].text == name


def test_the_browser_runs_the_pages_own_module_and_fetches_nothing(html):
    page = Page(html)
    (policy,) = [e.attributes["content"] for e in page.all("meta") if e.attributes.get("http-equiv")]
    (module,) = page.all("script", type="module")
    digest = base64.b64encode(hashlib.sha256(module.text.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not [e for e in page.elements if {"src", "href"} & set(e.attributes)]


def test_niivue_comes_with_its_license(html):
    niivue = installed_niivue()
    assert re.fullmatch(r"\d+\.\d+\.\d+", niivue.version) and "class" in niivue.module
    assert niivue.license.startswith("BSD 2-Clause License")
    page = Page(html)
    assert page.text("license") == " ".join(niivue.license.split())
    assert f"NiiVue {niivue.version}" in page.all("main")[0].text


def test_a_missing_package_is_named_before_anything_is_read(tmp_path, monkeypatch, capsys):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("scripts.reporting.pages.niivue.distribution", missing)
    with pytest.raises(SystemExit) as ended:
        main(["--output_dir", str(tmp_path / "none"), "--scan", "A"])
    assert ended.value.code == 1
    assert f"pip install '{PACKAGE}>=2.4'" in capsys.readouterr().err


MODULE = "class Niivue{}" + "/" * 1000001 + 'var about={version:"1.2.3"};export{Niivue};'


def package_with(folder, module, license_text="BSD"):
    (folder / "widget.js").write_text(f'var a="b",page="{quote(module, safe="")}";export{{a as default}};')
    (folder / "LICENSE").write_text(license_text)
    return SimpleNamespace(version="9.9", files=[folder / "widget.js", folder / "LICENSE"])


def test_the_module_is_what_the_packages_script_holds_as_text(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.reporting.pages.niivue.distribution", lambda _: package_with(tmp_path, MODULE))
    assert installed_niivue() == (MODULE, "1.2.3", "BSD")


@pytest.mark.parametrize(
    "package",
    [
        pytest.param(("short",), id="no text of a module"),
        pytest.param((MODULE.replace("{Niivue}", "{NVImage}"),), id="a module without the class"),
        pytest.param((f"'</script>';{MODULE}",), id="a module that would end the page's script"),
        pytest.param((MODULE, ""), id="no license"),
    ],
)
def test_another_package_of_that_name_is_refused(tmp_path, monkeypatch, package):
    monkeypatch.setattr("scripts.reporting.pages.niivue.distribution", lambda _: package_with(tmp_path, *package))
    with pytest.raises(ValueError, match="ipyniivue 9.9 does not hold NiiVue .* pip install 'ipyniivue==2.4.4'"):
        installed_niivue()


def without_config(output):
    (output / "config.yaml").unlink()


def other_config(output):
    (output / "config.yaml").write_text("dataset_dir: .\n")


def with_expression(output):
    config = yaml.safe_load((output / "config.yaml").read_text())
    expression = f"$Path('{output / 'harm'}').touch()"
    (output / "config.yaml").write_text(yaml.safe_dump(config | {"dataset_dir": expression}))


def without_record(output):
    record_path(output, "A").unlink()


def without_mask(output):
    (output / "predictions" / "A.nii.gz").unlink()


def other_grid(output):
    save(output / "predictions" / "A.nii.gz", volume_of(CANDIDATES.items()), "RAS")


def record_of_before(output):
    path = record_path(output, "A")
    write_json(path, {"scan": "A", "candidates": [{"id": 1, "score": "0.900000"}]})


def other_ids(output):
    save(output / "predictions" / "A.nii.gz", volume_of([(7, BONE)]), "LPS")


def without_scans(output):
    config = yaml.safe_load((output / "config.yaml").read_text())
    (output / "config.yaml").write_text(yaml.safe_dump(config | {"dataset_dir": str(output / "moved")}))


@pytest.mark.parametrize(
    "spoil, message",
    [
        pytest.param(without_config, "config.yaml does not exist: give the output_dir", id="no run"),
        pytest.param(other_config, "config.yaml has no section", id="the config of something else"),
        pytest.param(with_expression, "as dataset_dir: give it by --dataset_dir", id="an expression does not run"),
        pytest.param(without_record, "A.json does not exist.*: predict A first", id="a scan that is not predicted"),
        pytest.param(without_mask, "A.nii.gz does not exist.*: predict A first", id="a mask that was moved"),
        pytest.param(
            other_grid, "A.nii.gz is not on the grid of the scan, .*: predict A again", id="a mask of another grid"
        ),
        pytest.param(other_ids, "A.nii.gz has 7 candidates, its record 3", id="a mask of another run"),
        pytest.param(record_of_before, "record of A is of another version.*: predict it again", id="a record of texts"),
        pytest.param(without_scans, "moved does not exist", id="scans that were moved"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, capsys, spoil, message):
    output = synthetic_run(tmp_path)
    spoil(output)
    with pytest.raises(SystemExit) as ended:
        main(["--output_dir", str(output), "--scan", "A"])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not (output / "views").exists() and not (output / "harm").exists()


def test_a_mask_of_a_spacing_a_little_larger_is_refused_with_its_shift(tmp_path):
    output = synthetic_run(tmp_path, axes="RAS")
    path = output / "predictions" / "A.nii.gz"
    mask = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj), mask.affine + np.diag([0.009, 0, 0, 0])), path)
    # 39 steps of 0.009 mm, over a tenth of 0.75 mm
    with pytest.raises(ValueError, match="corners lie up to 0.4 mm apart: predict A again"):
        write_views(output, ["A"])


def test_a_scan_of_another_name_is_refused_with_those_that_are_there(tmp_path, capsys):
    output = synthetic_run(tmp_path, "RibFrac501")
    with pytest.raises(SystemExit):
        main(["--output_dir", str(output), "--scan", "RibFrac50"])
    assert "has no scan RibFrac50, but RibFrac501" in capsys.readouterr().err


def test_without_a_mask_there_is_nothing_to_view(tmp_path):
    output = synthetic_run(tmp_path)
    (output / "predictions" / "A.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="predictions holds no mask of a scan of .*: predict them first"):
        write_views(output)


def test_scans_that_were_moved_are_found_where_the_command_says(tmp_path, capsys):
    output = synthetic_run(tmp_path)
    without_scans(output)
    main(["--output_dir", str(output), "--scan", "A", "--dataset_dir", str(tmp_path / "data")])
    assert re.fullmatch(r"\S+A\.html: \d\.\d MB\n", capsys.readouterr().out)
    assert (output / "views" / "A.html").is_file()


def test_masks_elsewhere_are_found_where_the_command_says(tmp_path):
    output = synthetic_run(tmp_path)
    moved = (output / "predictions").rename(tmp_path / "masks")
    main(["--output_dir", str(output), "--scan", "A", "--predictions_dir", str(moved)])
    assert (output / "views" / "A.html").is_file()


def test_a_run_that_was_moved_is_read_where_it_is(tmp_path):
    output = synthetic_run(tmp_path).rename(tmp_path / "moved")
    assert write_views(output, ["A"]) == [output / "views" / "A.html"]


def test_the_review_page_leads_to_the_pages_that_are_there(tmp_path):
    name = "A & #B"
    output = synthetic_run(tmp_path, name)
    run_handler(output, annotated_scan(name), annotated_scan("C")).run([0, 1])

    def links():
        elements = Page((output / "report.html").read_text(encoding="utf-8")).all("a", **{"class": "viewer-link"})
        return {e.attributes["href"]: "hidden" not in e.attributes for e in elements}

    assert links() == {"views/A%20%26%20%23B.html": False, "views/C.html": False}
    (page,) = write_views(output)  # all that are predicted
    assert links() == {"views/A%20%26%20%23B.html": True, "views/C.html": False}
    back = [e.attributes["href"] for e in Page(page.read_text(encoding="utf-8")).all("a")]
    assert back == ["../report.html#s0"]
    assert page == output / "views" / "A & #B.html" and page.is_file()


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    output = synthetic_run(tmp_path)
    (output / "views").mkdir()
    (output / "views" / "A.html").write_text("before")
    monkeypatch.setattr(
        "scripts.reporting.pages.viewer.packed_ids", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        write_views(output, ["A"])
    assert [path.read_text() for path in (output / "views").iterdir()] == ["before"]


# ---- ribs ----

# The bone is the left rib 6, and a part of the lung is a rib without a number.
RIBS = {6: BONE, 201: np.s_[8:16, 6:9, 5:12]}
RIB_ROWS = ["6,left,6,2,0.90,120.0,yes,no", "201,right,,1,0.50,80.0,no,no"]


def with_ribs(output, name="A", axes="LPS", tilt_degrees=0.0, rows=RIB_ROWS):
    save(output / "ribs" / f"{name}.nii.gz", volume_of(RIBS.items()), axes, tilt_degrees)
    header = ",".join(RIB_COLUMNS)
    (output / "ribs" / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    return output


@pytest.mark.parametrize("axes", ["LPS", "SAR"])
def test_the_page_holds_the_ribs_and_their_names(tmp_path, axes):
    (page,) = write_views(with_ribs(synthetic_run(tmp_path, axes=axes), axes=axes), ["A"])
    html = page.read_text(encoding="utf-8")
    ribs = volume_in(html, "rib")
    assert np.array_equal(ribs.affine, volume_in(html, "image").affine)
    for rib, part in RIBS.items():
        assert int((np.asarray(ribs.dataobj) == rib).sum()) == volume_of(RIBS.items())[part].size
        assert at_ras(ribs, [axis.start for axis in part]) == rib
    (switch,) = Page(html).all("input", id="ribs")
    assert json.loads(switch.attributes["data-names"]) == {"6": "left 6", "201": "right unknown (1 from above)"}
    assert "checked" not in switch.attributes


@pytest.mark.parametrize("rows", [None, []], ids=["none were looked for", "none were found"])
def test_without_ribs_there_is_nothing_to_switch_on(tmp_path, rows):
    output = synthetic_run(tmp_path)
    (page,) = write_views(output if rows is None else with_ribs(output, rows=rows), ["A"])
    html = page.read_text(encoding="utf-8")
    assert 'id="volume-rib"' not in html and Page(html).all("input", id="ribs") == []


def test_ribs_of_another_grid_are_refused(tmp_path, capsys):
    output = with_ribs(synthetic_run(tmp_path), axes="RAS")
    with pytest.raises(SystemExit):
        main(["--output_dir", str(output), "--scan", "A"])
    assert re.search(
        r"ribs/A.nii.gz is not on the grid of the scan, .*: predict the scan again", capsys.readouterr().err
    )


def test_the_list_tells_the_rib(tmp_path):
    output = synthetic_run(tmp_path, labels="false")
    record = json.loads(record_path(output, "A").read_text())
    record["candidates"][0] |= {"rib_side": "left", "rib_number": 6, "rib_order": 2, "rib_from_spine_mm": 84.0}
    write_json(record_path(output, "A"), record)
    (page,) = write_views(output, ["A"])
    texts = [text for _, text in listed(page.read_text(encoding="utf-8"))]
    assert texts[0] == "C10.90right side; rib left 6, 84 mm from the spine; 56 mm³"
    assert "rib" not in "".join(texts[1:])
