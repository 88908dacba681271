"""Who reads files from outside, each with small good files to start from."""

import gzip
import io
import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import h5py
import numpy as np
import scipy.io

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.model import FmriLinear, FmriMlp
from nsd_pipeline.decoding.saved_models import WEIGHTS_NAME, Checkpoint, load_model, save_model
from nsd_pipeline.embeddings import model_shapes
from nsd_pipeline.embeddings.backbone import _vision_model
from nsd_pipeline.embeddings.encoder import ImageEncoder
from nsd_pipeline.embeddings.image_set import read_embeddings, write_embeddings
from nsd_pipeline.embeddings.model_files import CONFIG, PROCESSOR, weight_files
from nsd_pipeline.embeddings.preprocessing import read_preprocessing
from nsd_pipeline.errors import NsdError
from nsd_pipeline.events.table import EVENT_COLUMNS, read_events, write_events
from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd import series_runs as bold
from nsd_pipeline.nsd.bids import event_onsets, find_runs
from nsd_pipeline.nsd.bids_names import (
    CONFOUNDS,
    EVENTS,
    companion,
    mask_beside,
    named_files,
    recordings,
)
from nsd_pipeline.nsd.design import read_experiment_design
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, HEMISPHERES, IMAGE_SHAPE, transform_keys
from nsd_pipeline.nsd.mapping import (
    BEHAVIOUR_COLUMNS,
    IDENTIFYING_COLUMNS,
    read_responses,
    read_stimulus_info,
)
from nsd_pipeline.nsd.nifti import open_volumes, read_mask
from nsd_pipeline.nsd.nsd_series import design_onsets
from nsd_pipeline.nsd.stimuli import StimulusFile
from nsd_pipeline.nsd.text_tables import read_table
from nsd_pipeline.nsd.voxel_chunks import plan_chunks, read_chunks, read_layout, read_shape
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.names import (
    check_artifact_key,
    check_object_key,
    is_artifact_key,
    is_inner_path,
    listed_path,
    parse_folder,
    parse_model,
    parse_place,
    read_listing,
    split_s3_url,
)
from nsd_pipeline.surface import nsd_transforms, read_operator, volume_operator
from nsd_pipeline.surface.meshes import read_roi
from nsd_pipeline.surface.projected_runs import read_gifti_run
from nsd_pipeline_tests.embeddings.conftest import TINY_DINOV2
from nsd_pipeline_tests.nsd.conftest import make_arrays
from nsd_pipeline_tests.soak.fuzzing import Reader

_RANDOM: Final = np.random.default_rng(33)
_gzip: Final = partial(gzip.compress, compresslevel=1, mtime=0)
_TABLE: Final = (
    b"\t", b"\n", b"\r", b'"', b"n/a", b"nan", b"1e999", b"-1", b"1_0", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\0", b"9" * 400, b"\t" * 40,
    b"0x10", b"True", "\u0661".encode(), b"\xa0", b"1.5", b"73001",
)  # fmt: skip
_JSON: Final = (
    b"{", b"}", b"[", b"]", b'"', b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"0.1",
    b'""', b'"\\ud800"', b'"\\u0000"', b'"../x"', b'"/etc"', b"[" * 2000, b'{"a":' * 2000,
    b"9" * 5000, b"\xef\xbb\xbf", b"[]", b"{}", b"[1]", b"[[]]", b",", b":",
)  # fmt: skip


def _written(name: str, *writers: Callable[[Path], object]) -> list[bytes]:
    """What each of some functions writes into the file that it is given."""
    contents = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        for write in writers:
            write(path)
            contents.append(path.read_bytes())
    return contents


# FreeSurfer's files


def _mgh() -> list[bytes]:
    return [
        mgh.header_bytes(20, 3) + _RANDOM.normal(size=60).astype(">f4").tobytes() + bytes(n)
        for n in (0, 20)
    ]


def _read_mgh(path: Path) -> None:
    values = mgh.read_vertices(path, 16)
    assert values.shape[1] == 16
    assert values.nbytes <= path.stat().st_size


_N_VERTICES: Final = 20
"""Of all surfaces, while transforms are read."""


def _transform() -> list[bytes]:
    """Vertices that are nearest to others, and coordinates of vertices in a volume."""
    from nibabel.freesurfer import MGHImage

    nearest = np.arange(_N_VERTICES, 0, -1).reshape(-1, 1, 1)
    coordinates = _RANDOM.uniform(0, 7, (_N_VERTICES, 1, 3))
    return [
        content
        for values in (nearest, coordinates)
        for content in _written("t.mgh", MGHImage(values.astype("f4"), np.eye(4)).to_filename)
    ]


def _read_transform(path: Path) -> None:
    """One file in the place of a surface's map, or of all layers of a volume's."""
    nearest = path.with_name("nearest.mgz")
    if not nearest.exists():
        nearest.write_bytes(_gzip(_transform()[0]))
    surface = dict.fromkeys(transform_keys("subj01", "nativesurface"), path)
    volume = dict.fromkeys(transform_keys("subj01", "func1pt8mm"), path)
    volume |= {key: nearest for key in volume if key in surface}
    with (
        patch.object(nsd_transforms, "FSAVERAGE_VERTICES", _N_VERTICES),
        patch.object(volume_operator, "FSAVERAGE5_VERTICES", _N_VERTICES),
    ):
        try:
            operator = read_operator(surface, "subj01", "nativesurface")
        except NsdError:
            operator = read_operator(volume, "subj01", "func1pt8mm", (6, 5, 4))
    assert np.isfinite(operator.weights.data).all()


def _label() -> list[bytes]:
    lines = "".join(f"{number}  1.0 -2.5 3.25 0.0\n" for number in range(30))
    return [f"#!ascii label, from subject fsaverage\n30\n{lines}".encode()]


def _read_label(path: Path) -> None:
    roi = read_roi(dict.fromkeys(HEMISPHERES, path))
    assert roi.shape == (2 * FSAVERAGE5_VERTICES,)


def _gifti() -> list[bytes]:
    from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData

    def write(path: Path, encoding: str) -> None:
        arrays = [
            GiftiDataArray(
                _RANDOM.normal(size=12).astype(np.float32),
                encoding=encoding,
                meta=GiftiMetaData({"TimeStep": "1.6"}),
            )
            for _ in range(3)
        ]
        path.write_bytes(GiftiImage(darrays=arrays).to_bytes())

    return _written(
        "a.func.gii", *[partial(write, encoding=n) for n in ("B64GZ", "ASCII", "B64BIN")]
    )


def _read_gifti(path: Path) -> None:
    try:
        read_gifti_run(path, path)
    except NsdError as error:
        if "which is no fsaverage mesh" not in error.problem:
            raise


# NIfTI


def _nifti() -> list[bytes]:
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    def write(path: Path, kind: Any, dtype: Any, shape: tuple[int, ...]) -> None:
        kind(_RANDOM.integers(0, 9, shape).astype(dtype), np.eye(4)).to_filename(path)

    one = Nifti1Image
    return _written(
        "a.nii",
        partial(write, kind=one, dtype=np.int16, shape=(4, 3, 2, 5)),
        partial(write, kind=one, dtype=np.float32, shape=(4, 3, 2)),
        partial(write, kind=one, dtype=">i2", shape=(4, 3, 2, 2)),
        partial(write, kind=Nifti2Image, dtype=np.uint8, shape=(4, 3, 2, 2)),
    )


def _read_volumes(path: Path) -> None:
    series = open_volumes(path)
    n_values = sum(volume.size for volume in series.volumes())
    assert n_values == np.prod(series.shape) * series.n_volumes


def _read_mask(path: Path) -> None:
    mask = read_mask(path)
    assert mask.dtype == bool


# HDF5 and MATLAB


def _h5_betas() -> list[bytes]:
    def write(path: Path, shape: tuple[int, ...], libver: str) -> None:
        with h5py.File(path, "w", libver=libver) as file:
            data = _RANDOM.integers(-9, 9, shape).astype("<i2")
            file.create_dataset("betas", data=data, chunks=(shape[0], *[1] * (len(shape) - 1)))

    shapes = ((5, 2, 3, 4), (5, 30))
    return _written(
        "a.hdf5",
        *[partial(write, shape=s, libver=v) for s in shapes for v in ("earliest", "latest")],
    )


def _read_h5_betas(path: Path) -> None:
    shape, n_trials = read_shape(path, name=str(path))
    layout = read_layout(path, name=str(path))
    assert (layout.shape, layout.n_trials) == (shape, n_trials)
    plan = plan_chunks(layout, np.arange(min(7, len(layout.offsets))))
    for voxels, values in read_chunks(path, plan):
        assert values.shape == (len(voxels), n_trials)


def _stimuli() -> list[bytes]:
    def write(path: Path, **how: Any) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("imgBrick", data=np.full((2, *IMAGE_SHAPE), 7, np.uint8), **how)

    chunks = (1, *IMAGE_SHAPE)
    # Not as NSD's own, without compression: half a megabyte of pixels is nothing to change.
    return _written(
        "a.hdf5",
        partial(write, chunks=chunks, compression="gzip"),
        partial(write, chunks=(1, 85, 85, 3), compression="gzip", shuffle=True, fletcher32=True),
    )


def _read_stimuli(path: Path) -> None:
    with StimulusFile(path) as file:
        assert file.read([0]).shape == (1, *IMAGE_SHAPE)


def _design() -> list[bytes]:
    def write(path: Path, arrays: dict[str, Any], packed: bool) -> None:
        scipy.io.savemat(path, arrays, format="5", do_compression=packed)

    whole = make_arrays()
    small = {name: values[..., :3] for name, values in whole.items()} | {"other": {"a": ["b", 1.0]}}
    return _written(
        "a.mat",
        partial(write, arrays=whole, packed=True),
        *[partial(write, arrays=small, packed=n % 2 == 0) for n in range(7)],
    )


def _read_design(path: Path) -> None:
    try:
        read_experiment_design(path)
    except NsdError as error:
        if "has shape" not in error.problem:  # the small seeds
            raise


# Tables


def _responses() -> list[bytes]:
    columns = [*IDENTIFYING_COLUMNS, *BEHAVIOUR_COLUMNS]
    rows = [["1"] * len(columns), *[["2"] * 6 + ["NaN"] * 13] * 3]
    rows = [["1", *row[1:]] for row in rows]
    return ["\n".join(map("\t".join, [columns, *rows])).encode() + b"\n"]


def _stim_info() -> list[bytes]:
    columns = ["", "cocoId", "cocoSplit", "cropBox", "nsdId", "shared1000"]
    columns += [f"subject{s}_rep{r}" for s in range(1, 9) for r in range(3)]
    rows = [
        ["0", "9", "train2017", '"(0, 0, 0.1, 0.2)"', str(n), "True", *["0"] * 24] for n in (0, 1)
    ]
    return ["\n".join(map(",".join, [columns, *rows])).encode() + b"\n"]


def _read_stim_info(path: Path) -> None:
    try:
        read_stimulus_info(path)
    except NsdError as error:
        if "not one for each of" not in error.problem:
            raise


_EVENTS: Final = "onset\tduration\t73k_id\ttrial_type\n4.0\t3\t11\tgr\u00fcn\n8.0\t3\tn/a\tblank\n"


def _read_events_tsv(path: Path) -> None:
    onsets = event_onsets(path)
    assert np.isfinite(onsets.seconds).all()
    assert (np.diff(onsets.seconds) >= 0).all()


def _read_any_table(path: Path) -> None:
    table = read_table(path, next_step="none")
    for column in table.columns:
        table.numbers(column)


# Lists and records in JSON


def _manifest() -> list[bytes]:
    record = {"bytes": 3, "sha256": "a" * 64, "crc32": 1}
    manifest = {
        "key": "events/subj01/ses01",
        "asset": "events",
        "partition": "subj01_ses01",
        "fingerprint": "f" * 64,
        "code_version": "1",
        "created": "2026-01-01T00:00:00Z",
        "inputs": {"design": "a"},
        "config": {"query": "space == 'fsaverage'", "deep": [{"a": None}]},
        "files": {"events.txt": record, "figures/map.png": record},
        "metadata": {"rows": 750},
        "version": "20260101T000000-abc",
    }
    return [json.dumps(each).encode() for each in (manifest, manifest | {"damage": "none"})]


def _read_manifest(path: Path) -> None:
    content = path.read_bytes()
    found = Manifest.parse(content, url="/s", key="events/subj01/ses01", versioned=False)
    root = Path("/root/events")
    for name in (*found.files, found.location):
        assert (root / name).resolve().is_relative_to(root)
    again = Manifest.parse(found.to_json().encode(), url="", key=found.key, versioned=False)
    # What is only remembered may hold numbers that JSON has no way to write.
    free = {"config", "metadata"}
    assert again.model_dump(exclude=free) == found.model_dump(exclude=free)


def _runs() -> list[bytes]:
    run = bold.BoldRun(
        run=1, space="fsaverage", kind="surface", files=("/a/l.gii", "r.gii"), onsets="e.tsv",
        onsets_kind="events", mask=None, confounds="c.tsv", tr=1.6, n_samples=3,
    )  # fmt: skip
    return _written("runs.json", lambda path: bold.write_runs(path.parent, [run, run]))


def _read_listing(path: Path) -> None:
    for name in read_listing(path).values():
        listed_path(path.parent, name, path)


# Names and places


_STEM: Final = "sub-01_ses-nsd01_task-nsdcore_run-01"


def _bids_names() -> list[bytes]:
    names = (
        "_space-fsaverage_hemi-L_bold.func.gii", "_space-fsaverage_hemi-R_bold.func.gii",
        "_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz", "_events.tsv",
        "_space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz", "_desc-confounds_timeseries.tsv",
        "_bold_space-fsaverage5.L.func.gii", "_bold_space-fsaverage5.R.func.gii",
        "_bold_space-T1w_preproc.nii.gz", "_bold_confounds.tsv", "_bold_space-T1w_brainmask.nii",
    )  # fmt: skip
    return [
        "\n".join(_STEM + name for name in names[i:j]).encode()
        for i, j in ((0, 6), (6, 11), (0, 11))
    ]


def _read_bids_names(path: Path) -> None:
    folder = path.with_name("func")
    folder.mkdir()
    try:
        for name in set(path.read_bytes().split(b"\n")[:16]):
            if len(name) < 256 and not {0, ord("/")} & set(name) and name not in (b"", b".", b".."):
                (folder / name.decode(errors="surrogateescape")).touch()
        files = named_files(folder)
        for (run, _), found in recordings(files).items():
            assert len(found) in (1, 2)
            assert all(each.run == run for each in found)
            for kind in (EVENTS, CONFOUNDS):
                companion(files, kind, found[0])
            mask_beside(found[0])
    finally:
        shutil.rmtree(folder)


def _read_sidecar(path: Path) -> None:
    tree = path.with_name("bids")
    func = tree / "sub-01/ses-nsd01/func"
    if not func.is_dir():
        func.mkdir(parents=True)
        for hemisphere in "LR":
            (func / f"{_STEM}_space-fsaverage_hemi-{hemisphere}_bold.func.gii").touch()
        (func / f"{_STEM}_events.tsv").touch()
        (func / f"{_STEM}_bold.json").symlink_to(path)
    (run,) = find_runs(tree, tree, "subj01", 1, [1])
    assert run.tr is None or 0 < run.tr < 100


def _places() -> list[bytes]:
    places = (
        "s3://bucket/prefix", "S3://b", "file:///folder/a%20b", "~/nsd", "~nobody/x", "./gs:",
        "/a/../b", "hf:owner/name", "facebook/dinov2-giant", "file://localhost/x?y#z", "C:\\x",
        "betas/subj01_ses01", "https://user:pw@[::1]:99999/x", "file://[x/y",
    )  # fmt: skip
    return [place.encode() for place in places]


def _read_place(path: Path) -> None:
    """Each of the ways to read a name accepts it or refuses it, and what it accepts is one."""
    text = path.read_bytes().decode(errors="replace")
    refusals = 0
    for parse in (parse_place, parse_folder, parse_model):
        try:
            found = parse(text, what="NSD_STORAGE")
            if parse is parse_place and isinstance(found, str):
                assert found.startswith("s3://")
        except NsdError:
            refusals += 1
    for check in (check_object_key, check_artifact_key, split_s3_url):
        try:
            check(text)
        except NsdError:
            refusals += 1
        else:
            assert check is split_s3_url or is_inner_path(text)
    if is_artifact_key(text):
        assert Path("/root", text).resolve().is_relative_to("/root")
    if refusals == 6:
        raise NsdError(f"{text!r} is nothing", next_step="none")


# Ours, which may lie on a bucket or come from a colleague


def _embeddings() -> list[bytes]:
    vectors = _RANDOM.normal(size=(6, 4)).astype(np.float32)
    return _written(
        "a.parquet", lambda path: write_embeddings(path, np.arange(6), vectors, {"model": "tiny"})
    )


def _read_embeddings(path: Path) -> None:
    ids, vectors, _ = read_embeddings(path)
    assert vectors.shape[:1] == ids.shape


def _events() -> list[bytes]:
    import pandas as pd

    def write(path: Path) -> None:
        columns = {column.name: pd.Series([None] * 3, dtype="object") for column in EVENT_COLUMNS}
        write_events(path, pd.DataFrame(columns))

    return _written("a.parquet", write)


def _weights() -> list[bytes]:
    def write(path: Path, model: Any) -> None:
        save_model(path.parent, model, TrainingConfig())

    mlp = FmriMlp(5, 3, hidden=4, n_blocks=1, n_repetition_times=2, head_sizes=(3,))
    return _written(WEIGHTS_NAME, *[partial(write, model=m) for m in (mlp, FmriLinear(5, 3, 2))])


def _checkpoint() -> list[bytes]:
    import torch

    def write(path: Path) -> None:
        Checkpoint(path, "recipe").write(
            TrainingConfig(), 0, torch.device("cpu"), {"a": torch.ones(3)}, {"epoch": 1}
        )

    return _written("checkpoint", write)


def _read_checkpoint(path: Path) -> None:
    import torch

    Checkpoint(path, "recipe").read(TrainingConfig(), 0, torch.device("cpu"))


def _model_jsons() -> list[bytes]:
    index = {"metadata": {}, "weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}
    processors = (
        {"image_processor_type": "CLIPImageProcessor", "size": {"height": 48, "width": 48},
         "resample": 3, "do_center_crop": False, "image_mean": [0.5] * 3, "image_std": 0.5},
    )  # fmt: skip
    texts = [json.dumps(each).encode() for each in (*processors, index)]
    return [(TINY_DINOV2 / PROCESSOR).read_bytes(), *texts]


def _read_model_jsons(path: Path) -> None:
    """One file in the place of each that a model's folder has."""
    folder = path.parent
    (folder / "1.safetensors").touch()
    (folder / "model.safetensors.index.json").write_bytes(path.read_bytes())
    with suppress(NsdError):
        weight_files(folder)
    preprocessing = read_preprocessing(folder, image_size=64, processor="model")
    assert min(preprocessing.network_size) > 0


def _encoder_configs() -> list[bytes]:
    from transformers import CLIPVisionConfig, ConvNextConfig, Dinov2Config, ViTConfig

    small: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    configs = (
        Dinov2Config(**small, image_size=28, mlp_ratio=1),
        CLIPVisionConfig(**small, image_size=32, intermediate_size=8, projection_dim=8),
        ViTConfig(**small, image_size=32, intermediate_size=8),
        ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2),
    )
    return [json.dumps(config.to_diff_dict()).encode() for config in configs]


def _read_encoder_config(path: Path) -> None:
    with patch.object(model_shapes, "MOST_MODULES", 100):  # as many as the seeds need, for speed
        _vision_model(path.parent)


_FOLDER: Final = (CONFIG, PROCESSOR, WEIGHTS_NAME)


def _model_folder() -> list[bytes]:
    """Every file of a model, one after the other, each with its length before it."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=28, mlp_ratio=1
    )
    with tempfile.TemporaryDirectory() as folder:
        Dinov2Model(config).save_pretrained(folder)
        shutil.copy(TINY_DINOV2 / PROCESSOR, folder)
        contents = [Path(folder, name).read_bytes() for name in _FOLDER]
    return [b"".join(struct.pack("<I", len(each)) + each for each in contents)]


def _read_model_folder(path: Path) -> None:
    data, folder = io.BytesIO(path.read_bytes()), path.with_name("model")
    folder.mkdir(exist_ok=True)
    for name in _FOLDER:
        length = int.from_bytes(data.read(4), "little")
        (folder / name).write_bytes(data.read(length))
    encoder = ImageEncoder(folder, image_size=56, device="cpu")
    assert encoder.settings["n_blocks"] > 0


def _journal() -> list[bytes]:
    """What an interrupted download has left: a file's journal."""
    return [b'{"no": "header"}\n0 1\n', b""]


READERS: Final = {
    reader.name: reader
    for reader in (
        Reader("mgh", "a.mgh", _mgh, _read_mgh),
        Reader("mgz transform", "a.mgz", _transform, _read_transform, pack=_gzip),
        Reader("label", "a.label", _label, _read_label, (b"\n", b" ", b"-1", b"1e9", b"163842")),
        Reader("gifti", "a.func.gii", _gifti, _read_gifti, (b"<", b">", b"&amp;", b'"', b"&x;")),
        Reader("nifti", "a.nii", _nifti, _read_volumes),
        Reader("nifti.gz", "a.nii.gz", _nifti, _read_volumes, pack=_gzip),
        Reader("nifti.gz mask", "m.nii.gz", _nifti, _read_mask, pack=_gzip),
        Reader("hdf5 betas", "a.hdf5", _h5_betas, _read_h5_betas),
        Reader("hdf5 stimuli", "a.hdf5", _stimuli, _read_stimuli),
        Reader("matlab", "a.mat", _design, _read_design),
        Reader("responses.tsv", "r.tsv", _responses, read_responses, _TABLE),
        Reader("stim_info.csv", "s.csv", _stim_info, _read_stim_info, (*_TABLE, b",")),
        Reader("events.tsv", "e.tsv", lambda: [_EVENTS.encode()], _read_events_tsv, _TABLE),
        Reader("confounds.tsv", "c.tsv", lambda: [b"a\tb\n1\tn/a\n2\t3\n"],
               _read_any_table, _TABLE),
        Reader("design.tsv", "d.tsv", lambda: [b"0\n11\n0\n3\n"],
               lambda path: design_onsets(path, 1.0), _TABLE),
        Reader("manifest", "m.json", _manifest, _read_manifest, _JSON),
        Reader("runs.json", "runs.json", _runs, lambda p: bold.read_runs(p.parent), _JSON),
        Reader("listing", "f.json", lambda: [b'{"a": "b/c", "d": "/e"}'], _read_listing, _JSON),
        Reader("bids names", "names", _bids_names, _read_bids_names,
               (b"\n", b"_", b"-", b"run-", b"run-\xd9\xa1", b"space-", b"hemi-L", b"echo-2")),
        Reader("bids sidecar", "s.json", lambda: [b'{"RepetitionTime": 1.6, "a": [1]}'],
               _read_sidecar, _JSON),
        Reader("places", "place", _places, _read_place,
               (b":", b"//", b"~", b"\\", b"..", b"\n", b"s3://", b"file://", b"%00", b"[", b"?")),
        Reader("embeddings.parquet", "a.parquet", _embeddings, _read_embeddings),
        Reader("events.parquet", "a.parquet", _events, read_events),
        Reader("decoder", WEIGHTS_NAME, _weights, lambda p: load_model(p.parent), _JSON),
        Reader("checkpoint", "checkpoint", _checkpoint, _read_checkpoint, _JSON),
        Reader("model's JSON", PROCESSOR, _model_jsons, _read_model_jsons, _JSON),
        Reader("encoder's config", CONFIG, _encoder_configs, _read_encoder_config, _JSON),
        Reader("encoder", "folder", _model_folder, _read_model_folder, _JSON),
    )
}  # fmt: skip
"""By name."""
