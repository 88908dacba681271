"""Exports predict what the models predict, have nothing of NSD, and replace only themselves."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from torch import nn

import nsd_pipeline as nsd
from nsd_pipeline.cli.export import _FORMATS
from nsd_pipeline.decoding import FmriRidge, TrainingConfig, build_model, load_model, save_model
from nsd_pipeline.errors import ArtifactError, DamagedArtifactError, NsdError
from nsd_pipeline.export import FORMATS, ModelToExport, may_be_passed_on, write_export
from nsd_pipeline.storage.opening import open_store

V, D = 11, 6
OF_MODEL, OF_METRICS = "experiments/mine/model/subj01", "experiments/mine/metrics/subj01"
METRICS = ("top5_acc", "top1_acc", "top10_acc", "median_retrieval_rank", "top5_acc_instance-agg")


class LowRank(nn.Module):
    def __init__(self, n_vertices, n_times, n_outputs, rank):
        super().__init__()
        self.down = nn.Linear(n_vertices * n_times, rank)
        self.up = nn.Linear(rank, n_outputs)

    def forward(self, x):
        return self.up(self.down(x.flatten(1)))


class Branches(LowRank):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


OWN = {"model": f"{__name__}:LowRank", "arguments": {"rank": 3}, "seeds": [2]}
MLP = {"hidden": 8, "seeds": [0, 1]}
CONFIGS: dict[str, dict[str, Any]] = {
    "mlp": MLP,
    "windows": {"hidden": 8, "head_sizes": [9, 7, D], "preset": "neuralbench", "seeds": [4]},
    "linear": {"model": "FmriLinear", "preset": "neuralbench", "seeds": [4]},
    "ridge": {"model": "ridge", "preset": "neuralbench"},
    "own": OWN,
}


class Lab:
    """A store with models of random weights, and what might have been measured of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, open_store(folder / "store")
        self.output = folder / "out"

    def train(self, settings: dict[str, Any], fingerprint: str = "f" * 64) -> None:
        (self.folder / "experiments.yaml").write_text(yaml.safe_dump({"mine": settings}))
        self.config = config = TrainingConfig(**settings)
        n_times = 4 if config.windowed else 1
        with self._write(OF_MODEL, fingerprint, {}, config.decisive()) as draft:
            for seed in config.seeds:
                torch.manual_seed(seed)
                if config.model == "ridge":
                    model: Any = FmriRidge(V, D, n_times)
                    nn.init.normal_(model.weight)
                else:
                    model = build_model(config, n_vertices=V, n_times=n_times, n_outputs=D)
                own = draft.folder / ("" if seed == config.seeds[0] else f"seed_{seed}")
                save_model(own, model, config)
            pd.DataFrame({"split": ["test"]}).to_parquet(draft.folder / "trials.parquet")
            draft.metadata["sessions"] = ["subj01_ses01", "subj01_ses02"]
            draft.metadata["trials"] = {"train": 40, "test": 20}
            draft.metadata["encoder"] = {"model": "tiny", "layers": 0.5}
            draft.metadata.update({"image encoder": "tiny, layers 0.5", "space": "fsaverage"})

    def measure(self, pictures: str = "photographs of NSD") -> None:
        with self._write(OF_METRICS, "e" * 64, {"mine_model": "f" * 64}, {}) as draft:
            known = {"value": 0.9, "low": 0.8, "high": 0.95, "ensemble": 0.91, "chance": 0.05}
            draft.metadata["metrics"] = [
                {"metric": f"about {name}", "name": name, "sd_of_seeds": None, **known}
                for name in METRICS
            ]
            draft.metadata.update({"test images": 100, "test trials": 300, "pictures": pictures})

    def _write(self, key: str, fingerprint: str, inputs: Any, config: Any) -> Any:
        about = {"partition": "subj01", "code_version": "1", "fingerprint": fingerprint}
        asset = key.split("/")[2]
        return self.store.write(key, asset=asset, inputs=inputs, config=config, **about)

    def export(self, to: str) -> Path:
        return write_export(self.model, to, self.output).folder

    @property
    def model(self) -> ModelToExport:
        return ModelToExport.find(self.store, "subj01", "mine")

    def estimates(self, x: torch.Tensor, seed: int) -> np.ndarray:
        with torch.inference_mode():
            return nsd.open(self.folder / "store").decoder("subj01", "mine").models[seed](x).numpy()

    def trials(self, n: int) -> torch.Tensor:
        return torch.randn(n, V, 4 if self.config.windowed else 1)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("NSD_EXPERIMENTS", str(tmp_path / "experiments.yaml"))
    return Lab(tmp_path)


@pytest.mark.parametrize("name", CONFIGS)
def test_onnx_predicts_what_the_model_predicts_for_any_number_of_trials(
    lab: Lab, name: str
) -> None:
    lab.train(CONFIGS[name])
    folder = lab.export("onnx")
    for seed in lab.config.seeds:
        session = onnxruntime.InferenceSession(folder / f"seed_{seed}.onnx")
        for n_trials in (1, 2, 17, 300):
            x = lab.trials(n_trials)
            (found,) = session.run(["estimate"], {"fmri": x.numpy()})
            np.testing.assert_allclose(found, lab.estimates(x, seed), rtol=1e-5, atol=1e-5)
        about = session.get_modelmeta().custom_metadata_map
        assert ("time series" if lab.config.windowed else "z-scored") in about["fmri"]
        assert about["terms"].startswith("NSD's terms")


def test_what_does_not_export_as_onnx_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.train(OWN | {"model": f"{__name__}:Branches"})
    with pytest.raises(NsdError, match=r"cannot export the decoder .*:Branches as ONNX"):
        lab.export("onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(NsdError, match="ONNX files need onnx, which is not installed"):
        lab.export("onnx")
    assert {each.name for each in lab.folder.iterdir()} == {"experiments.yaml", "store"}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_card_loads_the_model(
    lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.train(CONFIGS[name] | {"region": "/home/me/{hemisphere}.mine.mgz"})
    lab.measure()
    folder, seed = lab.export("hf"), lab.config.seeds[0]
    others = [f"seed_{seed}" for seed in lab.config.seeds[1:]]
    own = {"config.json", "model.safetensors"}
    named = {f"{other}/{file}" for other in others for file in own}
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == own | named | {"README.md", "nsd_export.json"}, "and nothing of NSD"
    assert "/home/me" not in "".join(
        path.read_text() for path in folder.rglob("*") if path.suffix in (".md", ".json")
    )
    card, x = (folder / "README.md").read_text(), lab.trials(5)
    header = ModelCard(card).data
    assert (header.license, header.license_name) == ("other", "nsd-terms")
    assert [each.metric_value for each in header.eval_results] == [0.9] * len(METRICS)
    assert "| about top5_acc" in card
    assert "80.0 to 95.0" in card
    monkeypatch.chdir(folder)
    codes = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(codes) == (1 if ":" in lab.config.model else 2)
    for code in codes:
        names: dict[str, Any] = {}
        exec(code, names)
        with torch.inference_mode():
            mine = (names.get("estimate") or names["model"])(x)
        np.testing.assert_allclose(mine, lab.estimates(x, seed), rtol=1e-5, atol=1e-5)
    for other in others:  # the seeds are not one and the same
        assert not torch.equal(load_model(folder / other)(x), load_model(folder)(x))


def test_the_terms_are_about_what_is_exported(lab: Lab) -> None:
    assert tuple(FORMATS) == _FORMATS
    lab.train(OWN)
    lab.measure()
    assert "Keep this table to yourself" in may_be_passed_on(lab.model, "csv")
    for to in ("hf", "onnx"):
        assert "keeps no trials among its weights" in may_be_passed_on(lab.model, to)
    lab.measure("generated")
    assert "generated data" in may_be_passed_on(lab.model, "csv")
    card = (lab.export("hf") / "README.md").read_text()
    assert "knows nothing of any brain" in card
    assert "license: mit" in card


def test_an_export_takes_the_place_of_an_unchanged_export_only(lab: Lab) -> None:
    lab.train(MLP)
    lab.measure()
    lab.output.mkdir()
    card = lab.export("hf") / "README.md"
    assert lab.export("hf") == lab.output
    assert {each.name for each in lab.folder.iterdir()} == {"experiments.yaml", "out", "store"}
    assert json.loads((lab.output / "nsd_export.json").read_text())["fingerprint"] == "f" * 64
    card.write_text("edited")
    with pytest.raises(NsdError, match="is an export that somebody has changed"):
        lab.export("hf")
    (lab.output / "nsd_export.json").unlink()
    with pytest.raises(NsdError, match="is no export of this command"):
        lab.export("hf")
    assert card.read_text() == "edited"


def test_models_that_cannot_be_exported_are_told(lab: Lab) -> None:
    with pytest.raises(ArtifactError, match="has no models of subj01"):
        lab.export("hf")
    lab.train(MLP)
    with pytest.raises(ArtifactError, match="have not been measured"):
        lab.export("hf")
    lab.measure()
    lab.train(MLP, fingerprint="a" * 64)
    with pytest.raises(ArtifactError, match="but only earlier ones"):
        lab.export("csv")
    lab.train(MLP)
    weights = lab.folder / "store" / OF_MODEL / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    for to in ("hf", "onnx"):
        with pytest.raises(DamagedArtifactError):
            lab.export(to)
    assert not lab.output.exists()
