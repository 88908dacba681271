"""Noise ceiling and reliability: against the rules written out, and a planted ratio."""

from itertools import permutations

import numpy as np
import pytest

from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.evaluation import noise_ceiling


def make_sessions(ncsnr, n_images=600, n_sessions=6, seed=0):
    """Three repeats of each image, spread over sessions of their own mean and scale, in percent."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.repeat(np.arange(n_images), 3))
    signal = rng.standard_normal((n_images, len(ncsnr))) * ncsnr
    images, betas = {}, {}
    for n, part in enumerate(np.array_split(order, n_sessions)):
        response = signal[part] + rng.standard_normal((len(part), len(ncsnr)))
        scale, shift = rng.uniform(0.5, 3, len(ncsnr)), rng.normal(0, 2, len(ncsnr))
        images[f"subj01_ses{n + 1:02d}"] = part
        betas[f"subj01_ses{n + 1:02d}"] = (response * scale + shift).astype(np.float32)
    return images, betas


def by_the_rule(images, betas):
    """Ceiling and reliability, all in memory, one image after the other."""
    trials = np.concatenate(list(images.values()))
    z = np.concatenate([(b - b.mean(axis=0)) / b.std(axis=0, ddof=1) for b in betas.values()])
    of_images = [z[trials == i] for i in np.unique(trials) if (trials == i).sum() == 3]
    noise = np.mean([repeats.var(axis=0, ddof=1) for repeats in of_images], axis=0)
    pairs = [each[list(pair)] for each in of_images for pair in permutations(range(3), 2)]
    first, second = np.stack(pairs, axis=1)
    together = [np.corrcoef(*each)[0, 1] for each in zip(first.T, second.T, strict=True)]
    return np.sqrt(np.maximum(0, 1 - noise)) / np.sqrt(noise), np.array(together)


@pytest.mark.parametrize("block", [3, 100])
def test_blocks_of_vertices_agree_with_the_rule(block):
    images, betas = make_sessions(np.linspace(0, 2, 10), n_images=40)
    first = next(iter(images))
    images[first], betas[first] = images[first][2:], betas[first][2:]  # two images seen twice
    asked = []

    def read(session, vertices):
        asked.append(vertices)
        return betas[session][:, vertices]

    found = noise_ceiling(images, read, 10, block=block)
    ncsnr, reliability = by_the_rule(images, betas)
    np.testing.assert_allclose(found.ncsnr, ncsnr, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.reliability, reliability, atol=1e-5)
    assert found.n_images == 38
    assert max(each.stop - each.start for each in asked) <= block
    n = found.ncsnr[5]
    assert found.percent(3)[5] == pytest.approx(100 * n**2 / (n**2 + 1 / 3))


def test_a_planted_ratio_is_recovered():
    """Below 0.2 the cut at 0 adds to it: a vertex without signal reads about 0.1.

    Reliability, the share of variance that is signal, is not cut off.
    """
    planted = np.repeat([0.0, 0.3, 0.5, 1.0, 2.0], 30)
    images, betas = make_sessions(planted, n_images=2500, n_sessions=10)
    found = noise_ceiling(images, lambda session, part: betas[session][:, part], len(planted))
    means = found.ncsnr.reshape(5, 30).mean(axis=1)
    np.testing.assert_allclose(means[1:], [0.3, 0.5, 1.0, 2.0], rtol=0.05)
    assert means[0] < 0.15
    shares = planted**2 / (1 + planted**2)
    errors = (found.reliability - shares).reshape(5, 30)
    np.testing.assert_allclose(errors.mean(axis=1), 0, atol=0.01)
    assert found.reliability[:30].min() < 0


def test_vertices_without_values():
    images, betas = make_sessions(np.ones(5), n_images=200)
    expected, _ = by_the_rule(images, betas)
    sessions = list(betas)
    trials = np.concatenate(list(images.values()))
    last = {image: place for place, image in enumerate(trials.tolist())}
    start = 0
    for each in betas.values():
        each[:, 0] = np.nan
        # Of its images all but one lack their last repeat.
        lacking = [last[i] == start + n for n, i in enumerate(trials[start : start + len(each)])]
        each[lacking & (trials[start : start + len(each)] != 0), 4] = np.nan
        start += len(each)
    betas[sessions[0]][:, 1] = 7  # constant in one session
    betas[sessions[1]][4, 2] = np.nan  # a single value
    both = noise_ceiling(images, lambda session, part: betas[session][:, part], 5)
    found = both.ncsnr
    assert np.isnan(found[0])
    assert np.isnan(both.reliability).tolist() == [True, False, False, False, True]
    assert found[1] == pytest.approx(expected[1], rel=0.2)
    assert found[2] == pytest.approx(expected[2], rel=0.02)
    assert found[3] == pytest.approx(expected[3], rel=1e-4)
    assert np.isnan(both.percent(1)[[0, 4]]).all()


def test_too_few_repeats():
    with pytest.raises(NotEnoughDataError, match="no image was shown 3 times"):
        noise_ceiling({"subj01_ses01": [1, 2, 1]}, lambda session, part: np.zeros((3, 1)), 1)
