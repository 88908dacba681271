"""The artifacts in Python: the examples of its documentation, and what a model reads."""

import doctest
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nsd_pipeline as nsd
from nsd_pipeline import artifacts
from nsd_pipeline.decoding import load_model, trained_decoder
from nsd_pipeline.errors import ArtifactError, NotEnoughDataError, NsdError
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.surface import read_session
from nsd_pipeline_tests.storage.servers import MotoServer, moto_server
from nsd_pipeline_tests.test_structure import loaded_by

__all__ = ["moto_server"]


@pytest.fixture
def store(trained: Path) -> nsd.Artifacts:
    return nsd.open(trained / "artifacts")


def test_opening_loads_neither_dagster_nor_torch() -> None:
    assert not loaded_by("import nsd_pipeline") & {"pandas", "xarray", "dagster", "torch"}
    assert not loaded_by("import nsd_pipeline; nsd_pipeline.open") & {"dagster", "torch"}


def test_every_example_runs(workplace: Path) -> None:
    examples: dict[str, object] = {}
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for module in (artifacts, trained_decoder):
        # The module's own first: the others go on from it.
        for test in sorted(finder.find(module, globs=examples), key=lambda each: each.lineno or 0):
            test.globs = examples
            runner.run(test, clear_globs=False)
    assert runner.tries > 15
    assert runner.failures == 0


def test_betas_are_what_a_model_reads_and_what_was_stored(store: nsd.Artifacts) -> None:
    groups = [store._store.zarr(f"fsaverage5_betas.zarr/subj01/ses0{n}") for n in (1, 2)]
    betas = store.betas("subj01")
    stored = store.betas("subj01", zscore=False)
    np.testing.assert_array_equal(betas, np.concatenate([read_session(each) for each in groups]))
    np.testing.assert_array_equal(stored, np.concatenate([each["betas"][:] for each in groups]))
    assert np.isnan(stored).any()
    whole, raw = betas.to_numpy(), stored.to_numpy()
    # Both sessions, in another order, and once more.
    some = [45, 2, 2, 31]
    vertices = [20_000, 5]
    np.testing.assert_array_equal(betas[some, vertices], whole[some][:, vertices])
    np.testing.assert_array_equal(stored[some, vertices], raw[some][:, vertices])
    np.testing.assert_array_equal(betas[33], whole[33])
    np.testing.assert_array_equal(betas[::7, -1], whole[::7, -1])
    assert betas[40, 3].item() == whole[40, 3]
    np.testing.assert_array_equal(betas[betas.session == 2], whole[30:])
    right = betas[:, betas.hemisphere == "rh"]
    np.testing.assert_array_equal(right.vertex, np.arange(10_242, 20_484))
    np.testing.assert_array_equal(
        betas.image_id, store.embeddings().sel(image_id=betas.image_id).image_id
    )


def test_choosing_reads_nothing(store: nsd.Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(type(store._store), "zarr", lambda _, key: opened.append(key))
    betas = store.betas("subj01", sessions="1-2")
    assert betas[betas.shared, betas.hemisphere == "lh"].isel(trial=slice(3)).shape == (3, 10_242)
    assert opened == []


def test_a_decoder_retrieves_what_the_metrics_say(store: nsd.Artifacts, trained: Path) -> None:
    measured = trained / "artifacts/retrieval_metrics/subj01"
    top = pd.read_parquet(measured / "top10.parquet")
    betas, decoder = store.betas("subj01"), store.decoder("subj01")
    test = betas[betas.shared]
    tested = pd.unique(test.image_id.to_numpy())
    table = decoder.retrieve(decoder.ensemble(test), among=tested)
    same = ["session", "trial", "image_id", "place", "retrieved_image_id"]
    pd.testing.assert_frame_equal(table[same], top[same], check_dtype=False)
    np.testing.assert_allclose(table["score"], top["score"], rtol=1e-4)
    # All shared images at hand are the test images here.
    assert decoder.retrieve(decoder.predict(test)).image_id.isin(tested).all()


def test_arrays_do_as_well_and_missing_values_are_zeros(store: nsd.Artifacts) -> None:
    decoder, betas = store.decoder("subj01"), store.betas("subj01")[:4].load()
    array = betas.to_numpy().copy()
    np.testing.assert_array_equal(decoder.predict(array), decoder.predict(betas))
    array[array == 0] = np.nan
    np.testing.assert_array_equal(decoder.predict(array), decoder.predict(betas))
    assert not np.array_equal(decoder.predict(betas, seed=1), decoder.predict(betas))


def test_a_decoder_of_a_region_takes_its_vertices(store: nsd.Artifacts) -> None:
    decoder = store.decoder("subj01")
    region = np.array([3, 70, 20_000])

    def first_vertex(x):
        assert x.shape[1:] == (3, 1)
        return x[:, :1, 0]

    object.__setattr__(decoder, "vertices", region)
    object.__setattr__(decoder, "models", {0: first_vertex})
    betas = store.betas("subj01", sessions="1")
    for given in (betas, betas.to_numpy(), betas[:, region]):
        np.testing.assert_array_equal(decoder.predict(given)[:, 0], betas[:, 3])


def test_what_does_not_fit_is_told(store: nsd.Artifacts) -> None:
    with pytest.raises(NotEnoughDataError, match=r"no fsaverage5_betas\.zarr of 'subj02'"):
        store.betas("subj02")
    with pytest.raises(NotEnoughDataError, match="it lacks subj01_ses03"):
        store.betas("subj01", sessions="2-3")
    with pytest.raises(ArtifactError, match="experiment other has no models of subj01"):
        store.decoder("subj01", experiment="other")
    decoder = store.decoder("subj01")
    with pytest.raises(NsdError, match="learned from betas with zscore=True"):
        decoder.predict(store.betas("subj01", zscore=False))
    with pytest.raises(NsdError, match="no model of seed 7"):
        decoder.predict(store.betas("subj01"), seed=7)
    with pytest.raises(ArtifactError, match="1 of the images to choose from have no embedding"):
        decoder.retrieve(decoder.predict(store.betas("subj01")), among=[72_999])
    object.__setattr__(decoder, "encoder", {**decoder.encoder, "layers": 0.1})
    with pytest.raises(ArtifactError, match="train the models again"):
        decoder.retrieve(decoder.predict(store.betas("subj01")))


def test_a_surface_image_has_both_hemispheres_and_gaps(store: nsd.Artifacts) -> None:
    betas = store.betas("subj01", sessions="1")
    image = nsd.to_surface_image(betas[:2])
    np.testing.assert_array_equal(image.data.parts["right"].T, betas[:2, 10_242:])
    some = nsd.to_surface_image(betas[0, 5:8])
    assert np.isfinite(some.data.parts["left"]).nonzero()[0].tolist() == [5, 6, 7]
    with pytest.raises(ValueError, match="7 vertices"):
        nsd.to_surface_image(np.zeros(7))


def test_a_model_is_loaded_by_a_plain_path(trained: Path) -> None:
    assert load_model(str(trained / "artifacts/fmri_mlp/subj01")).n_vertices == 20_484


def test_a_bucket_is_read_as_a_folder_is(
    store: nsd.Artifacts,
    moto_server: MotoServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL_S3", moto_server.url),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("XDG_CACHE_HOME", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)
    moto_server.client.create_bucket(Bucket="lab-artifacts")
    place = open_store("s3://lab-artifacts/nsd")
    for key in store._store.keys():  # noqa: SIM118 - it is no dict
        if re.match("fmri_mlp|fsaverage|stimulus_embeddings", key):
            made = store._store.find(key)
            assert made is not None
            with place.write(
                key,
                **{
                    name: getattr(made, name)
                    for name in (
                        *("asset", "partition", "fingerprint"),
                        *("code_version", "inputs", "config"),
                    )
                },
            ) as draft:
                for name in made.files:
                    (draft.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    os.link(store._store.folder(key) / name, draft.folder / name)
                draft.metadata.update(made.metadata)
    bucket = nsd.open("s3://lab-artifacts/nsd")
    here, there = store.betas("subj01", "2")[3:5], bucket.betas("subj01", "2")[3:5]
    np.testing.assert_array_equal(here, there)
    one, other = (each.decoder("subj01") for each in (store, bucket))
    pd.testing.assert_frame_equal(
        one.retrieve(one.ensemble(here)), other.retrieve(other.ensemble(there))
    )
