"""Decoding betas by a script as people write it today; it calls nothing of nsd_pipeline.

nibabel reads whole files, transformers embeds image by image, scikit-learn and a torch DataLoader
learn. Betas and embeddings are kept as ``.npy`` in the current folder, and taken from there the
next time: what a second experiment need not do again.
"""

import json
from pathlib import Path
from typing import Any

import click
import h5py
import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import loadmat
from sklearn.linear_model import RidgeCV
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoImageProcessor, AutoModel

Array = NDArray[Any]
_BETAS = "nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf_GLMdenoise_RR"


def read_betas(nsd: Path, n_sessions: int) -> Array:
    """Betas (trial, vertex) of fsaverage5, z-scored in each session."""
    kept = Path("betas.npy")
    if kept.exists():
        return np.asarray(np.load(kept))
    sessions = []
    for session in range(1, n_sessions + 1):
        sides = []
        for side in ("lh", "rh"):
            path = nsd / _BETAS / f"{side}.betas_session{session:02}.mgh"
            sides.append(nibabel.load(path).get_fdata()[:10242, 0, 0].T)
        betas = np.concatenate(sides, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            betas = (betas - betas.mean(axis=0)) / betas.std(axis=0)
        sessions.append(np.nan_to_num(betas).astype(np.float32))
    np.save(kept, np.concatenate(sessions))
    return np.concatenate(sessions)


def read_trials(nsd: Path, n_trials: int) -> tuple[Array, Array]:
    """Image of each trial (n_trials,), and whether it is one of the shared images."""
    design = loadmat(nsd / "nsddata/experiments/nsd/nsd_expdesign.mat", squeeze_me=True)
    order = design["masterordering"][:n_trials].astype(int)
    shown = design["subjectim"][0, order - 1].astype(int)
    return shown - 1, np.isin(shown, design["sharedix"])


def embed(nsd: Path, encoder: str, layers: float, images: Array) -> Array:
    """Mean token (image, width) of a hidden state, an image at a time."""
    kept = Path(f"embeddings_{layers}.npy")
    if kept.exists():
        return np.asarray(np.load(kept))
    processor, model = (
        AutoImageProcessor.from_pretrained(encoder),
        AutoModel.from_pretrained(encoder),
    )
    embeddings = []
    with h5py.File(nsd / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as file, torch.no_grad():
        for image_id in images:
            image = Image.fromarray(file["imgBrick"][image_id])
            inputs = processor(images=image, return_tensors="pt")
            states = model.eval()(**inputs, output_hidden_states=True).hidden_states
            embeddings.append(states[int(layers * (len(states) - 1))][0].mean(0).numpy())
    np.save(kept, np.stack(embeddings))
    return np.stack(embeddings)


def clip(estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How far the estimates are from picking their own targets of the batch."""
    scores = estimate @ nn.functional.normalize(target, dim=1).T
    return nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def train(kind: str, seed: int, x: Array, y: Array, validation: Array) -> nn.Module:
    """A network: 40 epochs at most, until five have brought no better loss in validation."""
    torch.manual_seed(seed)
    outputs = nn.Linear(128, y.shape[1])
    mlp = (nn.Linear(x.shape[1], 128), nn.LayerNorm(128), nn.GELU(), nn.Dropout(0.5), outputs)
    model = nn.Sequential(*mlp) if kind == "mlp" else nn.Linear(x.shape[1], y.shape[1])
    data = [TensorDataset(*map(torch.from_numpy, (x[k], y[k]))) for k in (~validation, validation)]
    batches, held_out = DataLoader(data[0], batch_size=64, shuffle=True), DataLoader(data[1], 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-4, total_steps=40 * len(batches), pct_start=0.1
    )
    best, waited = float("inf"), 0
    for _ in range(40):
        model.train()
        for fmri, images in batches:
            optimizer.zero_grad()
            clip(model(fmri), images).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            loss = sum(clip(model(fmri), images).item() for fmri, images in held_out)
        waited += 1
        if loss < best:
            best, waited = loss, 0
            torch.save(model.state_dict(), "best.pt")
        if waited == 5:
            break
    model.load_state_dict(torch.load("best.pt"))
    return model.eval()


def top5(estimates: Array, embeddings: Array, index: Array) -> float:
    """Share of trials whose image is among the five nearest of all images of the test."""
    candidates, own = np.unique(index, return_inverse=True)
    targets = embeddings[candidates]
    scores = estimates @ (targets / np.linalg.norm(targets, axis=1, keepdims=True)).T
    better = (scores > scores[np.arange(len(own)), own][:, np.newaxis]).sum(axis=1)
    return float((better < 5).mean())


@click.command()
@click.argument("nsd", type=click.Path(path_type=Path))
@click.argument("encoder")
@click.argument("n_sessions", type=int)
@click.option("--layers", default=0.6667)
@click.option("--seed", default=0)
@click.option("--model", "models", multiple=True)
def main(
    nsd: Path, encoder: str, n_sessions: int, layers: float, seed: int, models: tuple[str, ...]
) -> None:
    """Write the top-5 accuracy of some models, trained on subj01, to result.json."""
    x = read_betas(nsd, n_sessions)
    image_ids, test = read_trials(nsd, len(x))
    images, index = np.unique(image_ids, return_inverse=True)
    embeddings = embed(nsd, encoder, layers, images)
    y = embeddings[index]
    validation = np.random.default_rng(33).random((~test).sum()) < 0.2
    result = {}
    for name in models:
        if name == "ridge":
            ridge = RidgeCV(alphas=np.logspace(2, 6, 5)).fit(x[~test], y[~test])
            estimates = ridge.predict(x[test])
        else:
            network = train(name, seed, x[~test], y[~test], validation)
            with torch.no_grad():
                estimates = network(torch.from_numpy(x[test])).numpy()
        result[name] = top5(estimates, embeddings, index[test])
    Path("result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
