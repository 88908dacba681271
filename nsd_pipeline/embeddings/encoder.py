"""Image embeddings from one hidden state of a vision model, as the reference computes them.

Beside the encoder itself: what decides its embeddings (`encoder_identity`), whether two encoders
give the same ones, and an encoder in one line of words.
"""

import contextlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.embeddings.model_files import ModelError, fetch_model, model_identity, model_name
from nsd_pipeline.embeddings.preprocessing import Processor, read_preprocessing

if TYPE_CHECKING:
    import torch

TokenAggregation = Literal["mean", "cls"]
Dtype = Literal["float32", "bfloat16", "auto"]

DEFAULT_MODEL: Final = "facebook/dinov2-giant"
DEFAULT_LAYERS: Final = 0.6667
DEFAULT_IMAGE_SIZE: Final = 518
_IDENTITY: Final = ("weights", "layers", "token_aggregation", "image_size", "processor", "dtype")
_DIGITS: Final = 8
"""Of a commit or a digest: enough to tell two apart by eye."""
_POOLED: Final = {"mean": "mean over tokens", "cls": "class token"}


def encoder_identity(
    model: str | Path = DEFAULT_MODEL,
    layers: float = DEFAULT_LAYERS,
    token_aggregation: TokenAggregation = "mean",  # noqa: S107, no password
    image_size: int = DEFAULT_IMAGE_SIZE,
    *,
    revision: str | None = None,
    processor: Processor = "model",
    dtype: Dtype = "float32",
    device: str | None = None,
) -> dict[str, str | float | int]:
    """Say what decides an encoder's embeddings, without loading it.

    Arguments are those of `ImageEncoder`. Loads torch only to find out what ``dtype="auto"`` is on
    this machine. The result is ready for JSON, and equal for two encoders only if their embeddings
    are: a model on the hub is named by its commit, a local folder by the digest of its files. A
    ModelError if the model is not there, or ``layers`` is not in (0, 1]; a ValueError if another
    setting has a value that does not exist.
    """
    for name, value, choices in (
        ("token_aggregation", token_aggregation, get_args(TokenAggregation)),
        ("processor", processor, get_args(Processor)),
        ("dtype", dtype, get_args(Dtype)),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
    if image_size < 1:
        raise ValueError(f"image_size must be a positive number of pixels, not {image_size}.")
    if not 0 < layers <= 1:
        raise ModelError(
            f"layers={layers} is not a fraction of the depth of {model}.",
            next_step="choose layers above 0 and up to 1; the reference uses 0.6667.",
        )
    return {
        "weights": model_identity(model, revision),
        "layers": float(layers),
        "token_aggregation": token_aggregation,
        "image_size": int(image_size),
        "processor": processor,
        "dtype": _fastest_dtype(device) if dtype == "auto" else dtype,
    }


def same_encoder(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two encoders give the same embeddings, by what their `encoder_identity` has.

    Takes identities, or the settings of encoders, which hold more than that.
    """
    return all(one.get(name) == other.get(name) for name in _IDENTITY)


def describe_encoder(settings: Mapping[str, Any]) -> str:
    """Say in one line what an encoder is. To compare encoders, compare their `encoder_identity`.

    Parameters
    ----------
    settings
        `ImageEncoder.settings` as they were when the embeddings were made: they lie in the Parquet
        file (`read_embeddings`) and, under ``encoder``, in the metadata of the artifact's manifest.
        Or an `encoder_identity` alone, which is the manifest's ``config["encoder"]``; that names
        the weights but neither the model nor the hidden state's number, so the line does not
        either.

    Returns
    -------
    str
        For example ``facebook/dinov2-giant (commit:611a9d42…), hidden state 26 of 41 (layers
        0.6667), mean over tokens, 518 px (the network sees 224 x 224), float32``.
    """
    kind, _, digest = str(settings.get("weights", "")).partition(":")
    weights = f"{kind}:{digest[:_DIGITS]}…" if digest else ""
    layers = f"layers {settings['layers']:g}" if "layers" in settings else ""
    state = ""
    if "hidden_state" in settings:
        # A model of 40 blocks has 41 hidden states: number 0 is what goes into the first block.
        state = f"hidden state {settings['hidden_state']} of {settings['n_blocks'] + 1}"
    photo, seen = settings.get("image_size"), settings.get("network_size")
    network = ""
    if seen is not None and list(seen) != [photo, photo]:
        network = f"the network sees {seen[0]} x {seen[1]}"
    elif seen is None and settings.get("processor") == "normalize":
        network = "normalised only"
    parts = (
        _with_note(settings.get("model") or "", weights) or "an encoder that is not named",
        _with_note(state, layers),
        _POOLED.get(settings.get("token_aggregation", "")),
        _with_note(f"{photo} px", network) if photo is not None else "",
        settings.get("dtype"),
    )
    return ", ".join(part for part in parts if part)


def _with_note(text: str, note: str) -> str:
    return f"{text} ({note})" if text and note else text or note


def _torch_device(device: str | None) -> "torch.device":
    import torch

    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _fastest_dtype(device: str | None) -> Literal["float32", "bfloat16"]:
    """bfloat16 where the hardware multiplies it; elsewhere it is emulated, slower than float32."""
    import torch

    where = _torch_device(device)
    if where.type == "cuda":
        native = torch.cuda.get_device_capability(where) >= (8, 0)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return "bfloat16" if native else "float32"


class ImageEncoder:
    """A vision model that turns photos into embeddings: one hidden state, pooled over its tokens.

    Only the blocks that lead up to the hidden state are loaded and run (see ``backbone``). The
    defaults are the reference's: hidden state 26 of DINOv2-giant, which has 40 blocks, without the
    final layer norm, mean over class and patch tokens.

    Parameters
    ----------
    model
        Name on the Hugging Face Hub, or a local folder with ``config.json``, safetensors weights,
        and ``preprocessor_config.json`` or, as transformers 5 saves it, ``processor_config.json``.
    layers
        Depth of the hidden state as a fraction of the blocks: number ``int(layers * n_blocks)``.
    token_aggregation
        ``"mean"`` over all tokens, the class token included, or ``"cls"``: the first token alone,
        of models that have one before their patches.
    image_size
        Side in pixels that every photo is first resized to (8 bit, bilinear).
    revision
        Branch, tag or commit of a model on the hub; ``None`` is its main branch.
    processor
        What happens after that. ``"model"``, the reference's setting: all that the model's own
        processor does, which for DINOv2 resizes to 256 and crops the centre 224, so that the
        network sees 224 x 224 whatever ``image_size`` is. ``"normalize"``: only its normalisation,
        so that the network sees ``image_size`` x ``image_size`` and its positions are interpolated.
    dtype
        What the network computes in; pooling and embeddings are float32 either way. ``"auto"`` is
        bfloat16 where the hardware multiplies it (NVIDIA's GPUs from Ampere on, CPUs with AMX-BF16
        or AVX512-BF16) and float32 elsewhere. `settings` say which it was.
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; ``None`` is a GPU if there is one.

    Attributes
    ----------
    settings : dict
        Everything that determines the numbers, ready for JSON: `encoder_identity`, the model's
        name, number of the hidden state, of blocks, size of what the network sees, device, library
        versions. `describe_encoder` turns it into a line.

    Raises
    ------
    ModelError
        If the model is not there or is not a vision model with safetensors weights, if its
        processor asks for something that is not known here, if ``layers`` selects no block, or if
        the model does not pass `check_backbone`.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        layers: float = DEFAULT_LAYERS,
        token_aggregation: TokenAggregation = "mean",  # noqa: S107, no password
        image_size: int = DEFAULT_IMAGE_SIZE,
        *,
        revision: str | None = None,
        processor: Processor = "model",
        dtype: Dtype = "float32",
        device: str | None = None,
    ) -> None:
        identity = encoder_identity(
            model,
            layers,
            token_aggregation,
            image_size,
            revision=revision,
            processor=processor,
            dtype=dtype,
            device=device,
        )
        import torch

        from nsd_pipeline.embeddings.backbone import load_backbone
        from nsd_pipeline.embeddings.backbone_check import check_backbone

        folder = fetch_model(model, revision)
        self._preprocessing = read_preprocessing(folder, image_size=image_size, processor=processor)
        self._device = _torch_device(device)
        self._dtype = getattr(torch, str(identity["dtype"]))
        self._aggregation = token_aggregation
        self._backbone = load_backbone(
            folder,
            layers=layers,
            dtype=self._dtype,
            device=self._device,
            input_size=self._preprocessing.network_size,
        )
        self.settings: dict[str, Any] = {
            "model": model_name(model),
            **identity,
            "hidden_state": self._backbone.hidden_state,
            "n_blocks": self._backbone.n_blocks,
            "network_size": list(self._preprocessing.network_size),
            "device": self._device.type,
            "versions": {name: version(name) for name in ("torch", "transformers", "pillow")},
        }
        size = (1, image_size, image_size, 3)
        photo = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        class_token = token_aggregation == "cls"  # noqa: S105, no password
        with torch.inference_mode(), _full_precision():
            pixels = self._pixels(photo)
            state = check_backbone(folder, self._backbone, pixels, class_token=class_token)
            self._pool(state)

    @property
    def batch_size(self) -> int:
        """Photos at a time that use the device well and fit into its memory beside the model.

        On an H200, 64 are a tenth faster than 16, and 128 hardly faster than 64 (docs/gpu.md).
        """
        return 64 if self._device.type == "cuda" else 16

    def encode(
        self, images: NDArray[np.uint8], *, batch_size: int | None = None
    ) -> NDArray[np.float32]:
        """Embed photos.

        Parameters
        ----------
        images
            (N, H, W, 3) uint8, RGB.
        batch_size
            Photos that go through the network at a time, by default `batch_size`. Decides memory
            and speed, not the result, but for rounding on a GPU.

        Returns
        -------
        NDArray[np.float32]
            (N, D).

        Raises
        ------
        ValueError
            If ``images`` has another shape or type, or there are none.
        ModelError
            If an embedding is not finite.
        """
        batch_size = batch_size or self.batch_size
        # At least one batch, also of no images: `prepare` refuses them.
        starts = range(0, max(len(images), 1), batch_size)
        batches = (self.prepare(images[start : start + batch_size]) for start in starts)
        return np.concatenate([self.encode_prepared(photos) for photos in batches])

    def prepare(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """First half of `encode`, on the CPU: (N, H, W, 3) RGB to what `encode_prepared` takes.

        That is (N, S, S, 3), S = image_size; for a GPU, square photos are left as they are.
        """
        on_gpu = self._device.type == "cuda"
        steps = self._preprocessing
        return steps.for_gpu(images) if on_gpu else steps.resize_photos(images)

    def encode_prepared(self, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Second half of `encode`, on the encoder's device: all photos from `prepare` to (N, D).

        A ModelError if an embedding is not finite.
        """
        import torch

        with torch.inference_mode(), _full_precision():
            return self._pool(self._backbone(self._pixels(photos)))

    def _pixels(self, photos: NDArray[np.uint8]) -> "torch.Tensor":
        import torch

        on_device = torch.from_numpy(photos).to(self._device, non_blocking=True)
        return self._preprocessing.to_network(on_device).to(self._dtype)

    def _pool(self, state: "torch.Tensor") -> NDArray[np.float32]:
        """(N, tokens, D), or (N, D, height, width) of a model that keeps maps, to (N, D)."""
        if state.ndim == 4:
            state = state.flatten(2).transpose(1, 2)
        first_only = self._aggregation == "cls"
        pooled = state[:, 0].float() if first_only else state.float().mean(dim=1)
        embeddings: NDArray[np.float32] = pooled.cpu().numpy()
        if not np.isfinite(embeddings).all():
            missing = ", ".join(self._backbone.missing[:5])
            raise ModelError(
                f"{self.settings['model']} gives embeddings that are not finite"
                + (f": its files lack weights that it needs, among {missing}." if missing else "."),
                next_step="copy or download the model again, or name another"
                + (" dtype." if self.settings["dtype"] != "float32" else "."),
            )
        return embeddings


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Keep cuDNN from rounding the patch embedding's float32 to 10 bits of mantissa (TF32)."""
    import torch

    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolution.fp32_precision
    convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision = before
