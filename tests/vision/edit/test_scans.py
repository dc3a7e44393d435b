"""Scans: what comes in as NIfTI or DICOM comes out as such, with its header."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest

from vision.edit import PIEOptions
from vision.edit.job import EditOptions, edit
from vision.edit.scans import read_scan

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")


def head(depth: int = 5, kind: type = np.int16) -> np.ndarray:
    """(x, y, z) a bright ball that is brighter at the front (high y) and on the right (high x)."""
    x, y, z = np.mgrid[:36, :44, :depth]
    inside = ((x - 18) / 14) ** 2 + ((y - 22) / 18) ** 2 < 1
    return (inside * (400 + 8 * y + 4 * x + 30 * z)).astype(kind)


def nifti(path, data, axes="RAS", slope=None):
    """A file whose voxel axes point to `axes`."""
    affine = np.diag([0.9, 1.1, 3.0, 1.0])
    affine[:3, 3] = -20, -30, 7
    image = nibabel.Nifti1Image(data, affine)
    wanted = nibabel.orientations.axcodes2ornt(axes)
    image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), wanted))
    image.header["descrip"] = b"made by code"
    image.header.set_xyzt_units("mm", "sec")
    if slope is not None:
        image.header.set_slope_inter(*slope)
    image.to_filename(path)
    return path


def job(path, out, **more):
    options = {"source": "builtin:tiny", "ellipse": (0.5, 0.5, 0.2, 0.2), "options": PIEOptions(frames=2, steps=4)}
    return EditOptions((path,), out, **{**options, **more})


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("slope", [None, (2.5, -100.0)])
def test_a_nifti_comes_out_with_its_header_and_its_other_voxels(tmp_path, axes, slope):
    path = nifti(tmp_path / "brain.nii.gz", head(), axes, slope)
    outcome = edit(job(path, tmp_path / "out", slices=(2,)))
    assert outcome.code == 0, outcome.problems
    folder = tmp_path / "out" / "brain.nii_gz"
    before = gzip.decompress(path.read_bytes())
    frames = [gzip.decompress((folder / f"frame_0{i}.nii.gz").read_bytes()) for i in range(3)]
    assert frames[0] == before and all(frame[:352] == before[:352] for frame in frames)
    assert frames[2] != before
    old, new = nibabel.load(path), nibabel.load(folder / "frame_02.nii.gz")
    changed = nibabel.as_closest_canonical(old).get_fdata() != nibabel.as_closest_canonical(new).get_fdata()
    assert changed.any(axis=(0, 1)).sum() == 1
    assert outcome.items["brain.nii_gz"]["slices"] == [2] and len(outcome.items["brain.nii_gz"]["window"]) == 2


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
def test_planes_are_upright_however_a_file_is_turned(tmp_path, axes):
    data = head()
    scan = read_scan(nifti(tmp_path / "a.nii", data, axes))
    straight = read_scan(nifti(tmp_path / "b.nii", data))
    planes = [scan.numbers(i) for i in range(scan.count)]
    wanted = [straight.numbers(i) for i in range(straight.count)]
    assert np.array_equal(wanted[1], data[:, ::-1, 1].T)  # the front on top
    assert sorted(x.tobytes() for x in planes) == sorted(x.tobytes() for x in wanted)


def test_masks_may_be_scans_and_choose_the_slice(tmp_path):
    labels = np.zeros((36, 44, 5), np.uint8)
    labels[10:24, 14:28, 3] = 2
    path, mask = nifti(tmp_path / "brain.nii.gz", head()), nifti(tmp_path / "labels.nii.gz", labels)
    outcome = edit(job(path, tmp_path / "out", ellipse=None, mask=mask))
    assert outcome.code == 0 and outcome.items["brain.nii_gz"]["slices"] == [3]
    old = np.asarray(nibabel.load(path).dataobj)
    new = np.asarray(nibabel.load(tmp_path / "out" / "brain.nii_gz" / "frame_02.nii.gz").dataobj)
    assert (old != new).any() and not (old != new)[labels == 0].any()


def test_several_slices_go_into_one_volume(tmp_path):
    path = nifti(tmp_path / "brain.nii.gz", head())
    assert edit(job(path, tmp_path / "out", slices=(1, 3))).code == 0
    new = np.asarray(nibabel.load(tmp_path / "out" / "brain.nii_gz" / "frame_02.nii.gz").dataobj)
    assert (new != head()).any(axis=(0, 1)).tolist() == [False, True, False, True, False]


def dicom(path, pixels, **tags):
    """A small MR image."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a"])
    data.SeriesInstanceUID, data.StudyInstanceUID = (generate_uid(entropy_srcs=[x]) for x in "bc")
    data.PatientName, data.PatientID, data.Modality = "Nobody^At All", "0", "MR"
    data.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    data.Rows, data.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.PixelSpacing, data.ImageOrientationPatient = [0.7, 0.7], [1, 0, 0, 0, 1, 0]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("many", [False, True])
def test_a_dicom_comes_out_derived_with_its_header(tmp_path, photometric, many):
    pixels = head()[..., 2].T.astype(np.uint16)
    pixels = np.stack([pixels, pixels + 1]) if many else pixels
    tags = {"RescaleSlope": 2, "RescaleIntercept": -10, "WindowCenter": 800, "WindowWidth": 1600}
    path = dicom(tmp_path / "slice.dcm", pixels, PhotometricInterpretation=photometric, **tags)
    outcome = edit(job(path, tmp_path / "out"))
    assert outcome.code == 0, outcome.problems
    assert outcome.items["slice_dcm"]["window"] == [0.0, 1599.0]
    old, new = pydicom.dcmread(path), pydicom.dcmread(tmp_path / "out" / "slice_dcm" / "frame_02.dcm")
    differing = {e.keyword for e in new if e.keyword not in old or old[e.keyword] != e}
    wanted = {"ImageType", "DerivationDescription", "SOPInstanceUID", "SeriesInstanceUID", "PixelData"}
    assert differing == wanted and list(new.ImageType) == ["DERIVED", "SECONDARY", "M"]
    changed = new.pixel_array != old.pixel_array
    assert changed.any() and changed.mean() < 0.2 and new.pixel_array.max() <= 4095
    first = pydicom.dcmread(tmp_path / "out" / "slice_dcm" / "frame_00.dcm")
    assert np.array_equal(first.pixel_array, old.pixel_array)
    assert len({x.SeriesInstanceUID for x in (old, first, new)}) == 3


def test_scans_that_cannot_be_edited_are_refused_in_a_sentence(tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(gzip.compress(b"nothing"))
    short = tmp_path / "short.nii"
    short.write_bytes(nifti(tmp_path / "a.nii", head()).read_bytes()[:2000])
    packed = tmp_path / "packed.nii.gz"
    whole = nifti(tmp_path / "whole.nii.gz", head()).read_bytes()
    packed.write_bytes(whole[:80] + b"\xff" * 40 + whole[120:])
    text = tmp_path / "text.dcm"
    text.write_text("no scan")
    series = nifti(tmp_path / "b.nii", np.stack([head()] * 2, axis=-1)[..., 0])
    image = nibabel.Nifti1Image(np.stack([head()] * 2, axis=-1), np.eye(4))
    image.to_filename(series)
    damaged = [(path, "no scan") for path in (broken, short, packed, text)]
    for path, sentence in (*damaged, (series, "one volume")):
        outcome = edit(job(path, tmp_path / "out"))
        assert outcome.code == 2 and sentence in outcome.problems[0] and str(path) in outcome.problems[0]
    outcome = edit(job(nifti(tmp_path / "c.nii", head()), tmp_path / "out", slices=(9,)))
    assert "no axial slice 9; there are 0 to 4" in outcome.problems[0]


def test_a_plane_is_refused_where_there_is_one_alone(tmp_path):
    pixels = head()[:, :, 2].T.astype(np.uint16)
    path = dicom(tmp_path / "slice.dcm", pixels, WindowCenter=800, WindowWidth=1600)
    outcome = edit(job(path, tmp_path / "out", plane="coronal"))
    assert outcome.code == 2 and "--plane is for NIfTI volumes" in outcome.problems[0]


def test_a_window_may_be_given(tmp_path):
    path = nifti(tmp_path / "brain.nii.gz", head())
    assert edit(job(path, tmp_path / "out", window=(0, 2000))).items["brain.nii_gz"]["window"] == [0, 2000]
    with pytest.raises(ValueError, match="lower and a higher"):
        replace(job(path, tmp_path / "out"), window=(5, 5))
