"""A voxel planted in a file comes out of every DICOM object at the same place in the patient."""

from __future__ import annotations

from pathlib import Path

import dicom_cases
import highdicom
import numpy as np
import pytest
from pydicom.dataset import Dataset

from medic_ad.dicom import maps
from medic_ad.dicom.sources import sources_of
from medic_ad.readers import read_image


def centre_mm(made: Dataset, above: float) -> np.ndarray:
    """LPS centre of what an object shows above a value, through highdicom's reader."""
    image = highdicom.Image.from_dataset(made)
    volume = image.get_volume(
        apply_real_world_transform=False, apply_voi_transform=False, rtol=1e-3
    )
    found = np.argwhere(volume.array > above)
    assert len(found)
    return (volume.affine @ [*found.mean(0), 1])[:3]


@pytest.mark.parametrize("layout", dicom_cases.LAYOUTS)
def test_a_marker_keeps_its_place_for_all_axis_orders(tmp_path: Path, layout: str) -> None:
    passed = 0
    for number, axes in enumerate(dicom_cases.AXES):
        for photometric in dicom_cases.PHOTOMETRIC:
            path = dicom_cases.write(tmp_path / f"{number}{photometric}", axes, photometric, layout)
            image = read_image(path)
            report, sources = dicom_cases.marked_report(image), sources_of(image)
            truth = dicom_cases.planted_mm(axes)
            if layout != "slice":  # the block reaches half a slice back from the marker
                truth = truth - axes[:, 0] * dicom_cases.SPACING[0] / 2
            objects = (
                (maps.region_segmentation(report, sources), 0),
                (maps.heatmap_map(report, sources), 0.5),
                (maps.change_map(report, sources), 0.5),
            )
            for made, above in objects:
                assert made is not None
                np.testing.assert_allclose(centre_mm(made, above), truth, atol=1e-3)
            passed += 1
    assert passed == 48 * 5
