import numpy as np
import pytest
from PIL import Image

from nsd_pipeline.embeddings.preprocessing import Preprocessing


def test_crops_the_centre_and_normalises_each_colour() -> None:
    import torch

    steps = Preprocessing(6, None, "bicubic", (2, 4), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    photo = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), dtype=np.uint8)
    pixels = steps.to_network(torch.from_numpy(photo)).numpy()
    expected = (photo[:, 2:4, 1:5] / 255 - steps.mean) / steps.std
    np.testing.assert_allclose(pixels, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_photos_are_resized_as_pil_does_it() -> None:
    photos = np.random.default_rng(0).integers(0, 256, (2, 9, 13, 3), dtype=np.uint8)
    steps = Preprocessing(7, None, "bicubic", None, (0.0,) * 3, (1.0,) * 3)
    expected = Image.fromarray(photos[1]).resize((7, 7), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(steps.resize_photos(photos)[1], np.asarray(expected))


@pytest.mark.parametrize(("before", "after"), [(425, 518), (425, 256), (425, 37), (1, 7), (7, 2)])
def test_a_gpu_resizes_square_photos_to_the_same_bits(before: int, after: int) -> None:
    """PIL's integers, computed on whatever device: here the CPU."""
    import torch

    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (2, before, before, 3), dtype=np.uint8)
    photos[1] = np.where(photos[1] > 127, 255, 0)
    steps = Preprocessing(after, None, "bicubic", None, (0.0,) * 3, (1.0,) * 3)
    on_device, by_pil = (
        steps.to_network(torch.from_numpy(each)) for each in (photos, steps.resize_photos(photos))
    )
    assert torch.equal(on_device, by_pil)
