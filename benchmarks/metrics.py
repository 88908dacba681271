"""Rows of the retrieval metrics: from one score matrix, and for many draws of the test images."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Inputs, Row, Side, faster, less_memory
from benchmarks.worker import Outcome, Repeat, Settings
from nsd_pipeline.evaluation.drawn_images import RankedQueries, by_seed, draw_images
from nsd_pipeline.evaluation.intervals import N_DRAWS

if TYPE_CHECKING:
    import pandas as pd
    import torch

BATCH: Final = 64
SET_SIZES: Final = (None, 250)
_OURS: Final = "ours: one score matrix"
_EACH: Final = "each metric from the predictions (torch)"


@contextmanager
def _predictions(_folder: Path, quick: bool) -> Iterator[Inputs]:
    sizes = {"n_trials": 300, "n_images": 100} if quick else {"n_trials": 3000, "n_images": 1000}
    yield Inputs(sizes, work=f"{sizes['n_trials']:,} trials, {sizes['n_images']:,} images")


def _test_set(settings: Settings) -> tuple[Any, Any, list[int], list[str]]:
    """Predictions and targets (M, 1536), the image and one of eight subjects of each trial."""
    rng = np.random.default_rng(0)
    n_trials: int = settings["n_trials"]
    n_images: int = settings["n_images"]
    again = rng.integers(0, n_images, n_trials - n_images)
    images: NDArray[np.int64] = rng.permutation(np.concatenate([np.arange(n_images), again]))
    targets = rng.standard_normal((n_images, 1536), np.float32)[images]
    estimates = targets + 15 * rng.standard_normal(targets.shape, np.float32)
    subjects = [f"subj{n:02d}" for n in rng.integers(1, 9, n_trials).tolist()]
    return estimates, targets, images.tolist(), subjects


def measure_together(settings: Settings) -> Repeat:
    """`retrieval_metrics`."""
    from nsd_pipeline.decoding import retrieval_metrics

    test_set = _test_set(settings)

    def repeat() -> Outcome:
        return Outcome(_named(retrieval_metrics(*test_set, SET_SIZES, BATCH)))

    return repeat


def _named(metrics: dict[str, float]) -> dict[str, Any]:
    # A value alone has no range: 0 and 1 beside it make differences absolute where it is small.
    return {name: np.array([0.0, 1.0, metrics[name]]) for name in sorted(metrics)}


def measure_each(settings: Settings) -> Repeat:
    """Every metric averages, builds its retrieval set, scores and ranks for itself."""
    import torch

    estimates, targets, images, subjects = _test_set(settings)
    y_pred, y_true = torch.from_numpy(estimates), torch.from_numpy(targets)

    def repeat() -> Outcome:
        metrics = {}
        for name, statistic in _STATISTICS.items():
            for size in SET_SIZES:
                for aggregation, keys in _aggregations(images, subjects).items():
                    ranks, n_candidates, _ = _ranks(y_pred, y_true, images, keys, size)
                    noun = name.replace("rank", "retrieval_rank") if name in _OF_RANKS else name
                    metrics[f"{noun}{aggregation}{_suffix(size)}"] = statistic(ranks, n_candidates)
            metrics[f"batch_{name}"] = _over_batches(statistic, y_pred, y_true)
        for size in SET_SIZES:
            for suffix, of, middle in (("", subjects, _lower), ("_macro", images, _middle)):
                ranks, _, kept = _ranks(y_pred, y_true, images, list(range(len(images))), size)
                labels = np.asarray(of)[kept]
                values = [middle(ranks[labels == label]) for label in np.unique(labels)]
                name = f"median_retrieval_rank_subject-ind{_suffix(size)}{suffix}"
                metrics[name] = float(np.mean(values))
        metrics["batch_pearson_corr"] = _pearson(y_pred, y_true)
        return Outcome(_named(metrics))

    return repeat


def _suffix(size: int | None) -> str:
    return "" if size is None else f"_size={size}"


def _aggregations(images: list[int], subjects: list[str]) -> dict[str, Sequence[Any]]:
    """What trials are averaged by, before they are ranked."""
    return {
        "": range(len(images)),
        "_instance-agg": images,
        "_subject-agg": list(zip(subjects, images, strict=True)),
    }


def _ranks(
    y_pred: "torch.Tensor",
    y_true: "torch.Tensor",
    images: list[int],
    keys: Sequence[Any],
    size: int | None,
) -> tuple[Any, Any, Any]:
    """Rank of the right image for each key, the number of candidates, and which trials count."""
    import pandas as pd
    import torch

    wanted = pd.Series(images).value_counts(sort=True).index[:size]
    kept = np.flatnonzero(np.isin(images, wanted))
    codes, distinct = pd.factorize(np.asarray(images)[kept])
    key_codes, _ = pd.factorize(pd.Series([keys[i] for i in kept.tolist()], dtype=object))
    candidates = _means(y_true[kept], torch.from_numpy(codes))
    estimates = _means(y_pred[kept], torch.from_numpy(key_codes))
    own = torch.empty(len(estimates), dtype=torch.int64)
    own[torch.from_numpy(key_codes)] = torch.from_numpy(codes)
    return _rank(estimates, candidates, own), torch.tensor(len(distinct)), kept


def _means(values: "torch.Tensor", codes: "torch.Tensor") -> "torch.Tensor":
    sums = values.new_zeros((int(codes.max()) + 1, values.shape[1])).index_add_(0, codes, values)
    return sums / codes.bincount()[:, None]


def _rank(estimates: "torch.Tensor", candidates: "torch.Tensor", own: "torch.Tensor") -> Any:
    scores = estimates @ (candidates / candidates.norm(dim=1, keepdim=True)).T
    of_own = scores.gather(1, own[:, None])
    best, worst = (scores > of_own).sum(1), (scores >= of_own).sum(1) - 1
    return (best + worst).double() / 2


def _lower(ranks: Any) -> float:
    return float(ranks.median())


def _middle(ranks: Any) -> float:
    return float(np.median(ranks))


def _over_batches(
    statistic: Callable[[Any, Any], float], y_pred: "torch.Tensor", y_true: "torch.Tensor"
) -> float:
    import torch

    ranks, sizes = [], []
    for start in range(0, len(y_pred), BATCH):
        estimates, targets = y_pred[start : start + BATCH], y_true[start : start + BATCH]
        ranks.append(_rank(estimates, targets, torch.arange(len(targets))))
        sizes.append(torch.full((len(targets),), len(targets)))
    return statistic(torch.cat(ranks), torch.cat(sizes))


def _pearson(y_pred: "torch.Tensor", y_true: "torch.Tensor") -> float:
    x, y = (values.double() - values.double().mean(0) for values in (y_pred, y_true))
    return float(((x * y).sum(0) / (x.norm(dim=0) * y.norm(dim=0))).mean())


def _normalised(ranks: Any, n_candidates: Any) -> Any:
    return 1 - ranks / (n_candidates - 1)


_OF_RANKS: Final = ("median_rank", "mean_rank", "std_rank")
_STATISTICS: Final[dict[str, Callable[[Any, Any], float]]] = {
    "median_rank": lambda ranks, _: _lower(ranks),
    "mean_rank": lambda ranks, _: float(ranks.mean()),
    "std_rank": lambda ranks, _: float(ranks.std()),
    "top1_acc": lambda ranks, _: float((ranks < 1).double().mean()),
    "top5_acc": lambda ranks, _: float((ranks < 5).double().mean()),
    "top10_acc": lambda ranks, _: float((ranks < 10).double().mean()),
    "inv_norm_rank_mean": lambda ranks, n: float(_normalised(ranks, n).mean()),
    "inv_norm_rank_median": lambda ranks, n: _lower(_normalised(ranks, n)),
}

_DRAWN: Final = "ours: weights of images"
_LOOP: Final = "draw after draw, each metric from the drawn trials"
_LOOPED_DRAWS: Final = 4


@contextmanager
def _experiments(_folder: Path, quick: bool) -> Iterator[Inputs]:
    n_trials, n_images = (400, 100) if quick else (10_000, 1000)
    yield Inputs(
        {"n_trials": n_trials, "n_images": n_images},
        work=f"3 seeds and their ensemble, {n_trials:,} trials of {n_images:,} images and 8"
        f" subjects, {N_DRAWS:,} draws",
    )


def rank_table(n_trials: int, n_images: int, n_subjects: int = 8) -> "pd.DataFrame":
    """What an experiment of three seeds keeps of its test."""
    from nsd_pipeline.evaluation import query_ranks

    rng = np.random.default_rng(0)
    images = rng.permutation(np.arange(n_trials) % n_images)
    targets = rng.standard_normal((n_images, 64), np.float32)[images]
    estimates = targets + 6 * rng.standard_normal((3, *targets.shape), np.float32)
    subjects = [f"subj{n:02d}" for n in rng.integers(1, 1 + n_subjects, size=n_trials).tolist()]
    return query_ranks(estimates, targets, images.tolist(), subjects, [0, 1, 2], SET_SIZES)


def measure_drawn(settings: Settings) -> Repeat:
    """`metric_intervals`; to be compared, metrics of the first draws."""
    from nsd_pipeline.evaluation import metric_intervals

    table = rank_table(**settings)

    def repeat() -> Outcome:
        start = time.perf_counter()
        metric_intervals(table, N_DRAWS)
        seconds = time.perf_counter() - start
        queries, weights = _first_draws(table)
        values = [value for each in queries for _, value in each.drawn(weights)]
        return Outcome({"metrics": np.stack(values)}, seconds=seconds)

    return repeat


def measure_draw_by_draw(settings: Settings) -> Repeat:
    """Take the drawn images' trials, as often as each was drawn, and compute the metrics anew.

    A few draws; the time is scaled to all of them.
    """
    table = rank_table(**settings)

    def repeat() -> Outcome:
        queries, weights = _first_draws(table)
        start = time.perf_counter()
        values = [[_of_draw(each, w) for each in queries] for w in weights.T]
        seconds = time.perf_counter() - start
        metrics = np.array([np.concatenate(draw) for draw in values]).T
        return Outcome({"metrics": metrics}, seconds=seconds * N_DRAWS / len(values))

    return repeat


def _first_draws(table: "pd.DataFrame") -> tuple[list[RankedQueries], NDArray[np.float32]]:
    """Queries of all seeds, and weights (N, B) of the images in a few of the draws."""
    images = table["image_id"].unique()
    queries = [each for parts in by_seed(table, images).values() for each in parts]
    return queries, draw_images(len(images), N_DRAWS, 0)[:, :_LOOPED_DRAWS].copy()


def _of_draw(queries: RankedQueries, weights: NDArray[np.float32]) -> list[float]:
    times = weights[queries.image].astype(int)
    rows = np.repeat(np.arange(len(times)), times)
    # An image that was drawn twice counts as two images.
    copy = np.concatenate([np.arange(n) for n in times.tolist()])
    drawn = replace(
        queries,
        ranks=queries.ranks[rows],
        image=queries.image[rows] + len(weights) * copy,
        subject=queries.subject[rows],
    )
    return list(drawn.metrics().values())


ROWS: Final = (
    Row(
        "retrieval-metrics",
        "Retrieval metrics, all names",
        _predictions,
        (Side(_OURS, measure_together), Side(_EACH, measure_each)),
        (faster(_OURS, _EACH, 10), less_memory(_OURS, _EACH, 1)),
        repetitions=2,
        warm_up=False,
        tolerance=1e-5,
    ),
    Row(
        "bootstrap",
        "Intervals of all retrieval metrics",
        _experiments,
        (Side(_DRAWN, measure_drawn), Side(_LOOP, measure_draw_by_draw)),
        (faster(_DRAWN, _LOOP, 50),),
        warm_up=False,
        tolerance=1e-9,
    ),
)
