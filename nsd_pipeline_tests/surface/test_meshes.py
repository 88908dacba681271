import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsd_pipeline.surface import downsample
from nsd_pipeline.surface.meshes import MESH_VERTICES


def test_equals_the_reference(golden) -> None:
    data = golden("surface_downsample")
    np.testing.assert_array_equal(downsample(data["lh_rh_fsaverage6"]), data["expected"])


@given(
    st.sampled_from(list(MESH_VERTICES)),
    st.sampled_from(list(MESH_VERTICES)),
    st.sampled_from([(), (1,), (2, 2)]),
)
def test_takes_the_first_vertices_of_either_hemisphere(source, target, trailing) -> None:
    n_source, n_target = MESH_VERTICES[source], MESH_VERTICES[target]
    index = np.arange(2 * n_source).reshape(-1, *[1] * len(trailing))
    data = np.broadcast_to(index, (2 * n_source, *trailing))
    if n_target > n_source:
        with pytest.raises(ValueError, match="finer than the data"):
            downsample(data, target)
        return
    taken = downsample(data, target)
    assert taken.shape == (2 * n_target, *trailing)
    taken = taken.reshape(2 * n_target, -1)[:, 0]
    np.testing.assert_array_equal(taken[:n_target], np.arange(n_target))
    np.testing.assert_array_equal(taken[n_target:], n_source + np.arange(n_target))


def test_does_not_alias_its_input() -> None:
    data = np.zeros((20_484, 1), np.float32)
    downsample(data)[0] = 1
    assert not data.any()


def test_refuses_what_is_not_an_fsaverage_mesh() -> None:
    with pytest.raises(ValueError, match="not on two hemispheres"):
        downsample(np.zeros((20_485, 1)))
    with pytest.raises(ValueError, match="not on two hemispheres"):
        downsample(np.zeros((2 * 2_562, 1)), "fsaverage5")
    with pytest.raises(ValueError, match="Unknown mesh 'fsaverage4'"):
        downsample(np.zeros((20_484, 1)), "fsaverage4")
