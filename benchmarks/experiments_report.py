"""The row of the decoding report: 20 experiments of 9 cohorts, beside a plain script."""

import base64
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from benchmarks.harness import Inputs, Row, Side, faster, less_memory
from benchmarks.metrics import rank_table
from benchmarks.worker import Outcome, Repeat, Settings

if TYPE_CHECKING:
    from nsd_pipeline.report import Picture
    from nsd_pipeline.steps.measurement import Metrics

_OURS: Final = "ours"
_SCRIPT: Final = "a script: pandas, scipy.stats.bootstrap, matplotlib"
_METRIC: Final = "top5_acc"
_COHORTS: Final = (*(f"subj{n:02d}" for n in range(1, 9)), "all")


@contextmanager
def _measured(folder: Path, quick: bool) -> Iterator[Inputs]:
    """Publish metrics of experiments and cohorts, and models without their weights."""
    from nsd_pipeline.evaluation import metric_intervals

    n_experiments, n_images = (3, 40) if quick else (20, 1000)
    file, root = folder / "experiments.yaml", folder / "report"
    file.write_text("".join(f"e{n:02d}: {{hidden: {64 + n}}}\n" for n in range(1, n_experiments)))
    pictures, folders = _pictures(n_images), []
    for cohort in _COHORTS[:1] if quick else _COHORTS:
        n_subjects = 8 if cohort == "all" else 1
        queries = rank_table(3 * n_images * n_subjects, n_images, n_subjects)
        # As metrics have them.
        words = queries.select_dtypes(exclude="number").columns
        queries = queries.astype(dict.fromkeys(words, "category"))
        table = metric_intervals(queries, n_draws=100).assign(chance=5 / n_images)
        for number, (name, step) in enumerate(_steps(file).items()):
            # Ever worse: other ranks and other numbers for every experiment.
            more = np.random.default_rng(number).integers(0, 1 + 3 * number, len(queries))
            ranks = queries.assign(rank=np.minimum(queries["rank"] + more, n_images - 1))
            ranks["rank"] = ranks["rank"].astype(np.float32)
            values = table.assign(**(table[["value", "low", "high"]] / (1 + number / 50)))
            folders.append((name, cohort, *_publish(root, step, cohort, values, ranks, pictures)))
    yield Inputs(
        {"root": str(root), "experiments": str(file), "folders": folders},
        work=f"{n_experiments} experiments, {len(folders)} results, {n_images:,} test images",
    )


def _steps(file: Path) -> "Mapping[str, type[Metrics]]":
    from nsd_pipeline.experiments import read_experiments
    from nsd_pipeline.steps.measurement import metrics_steps

    return metrics_steps(read_experiments(file))


def _pictures(n_images: int) -> "dict[str, Picture]":
    """Figures as metrics have them, and models."""
    from PIL import Image

    from nsd_pipeline import report
    from nsd_pipeline.nsd.layout import N_VERTICES

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (54, 17, 17, 3), np.uint8)
    photos = [np.asarray(Image.fromarray(each).resize((425, 425))) for each in coarse]
    rated = [report.Rated(photo, 7) for photo in photos[:6]]
    points = {"panel": "", "line": "top5", "x": [1, 2, 3], "value": 9, "low": 8, "high": 9.5}
    epochs = pd.DataFrame({"epoch": range(40), "train/loss": 3.0, "val/loss": 4.0})
    shares = {f"val/batch_top{k}_acc": np.linspace(0.1, 0.5, 40) for k in (1, 5, 10)}
    return {
        "retrieval_gallery": report.retrieval_gallery(
            [report.Retrieval(photos[n], 3, photos[n + 1 : n + 6], 3) for n in range(0, 54, 6)]
        ),
        "difficulty_of_images": report.difficulty_gallery(rated, rated),
        "ranks": report.rank_distribution(rng.integers(0, n_images, 3000), n_images),
        "repeats": report.interval_curves(pd.DataFrame(points).assign(chance=1), "x", "y"),
        "where_the_model_finds_it": report.surface_map(rng.standard_normal(N_VERTICES), "t", "u"),
        "training_curves": report.training_curves(epochs.assign(learning_rate=1e-4, **shares)),
    }


def _publish(
    root: Path,
    step: "type[Metrics]",
    cohort: str,
    values: pd.DataFrame,
    ranks: pd.DataFrame,
    pictures: "Mapping[str, Picture]",
) -> list[str]:
    """Write the artifacts of an experiment's metrics and model; their folders."""
    from nsd_pipeline.steps.measurement import METRICS_FILE, QUERIES_FILE
    from nsd_pipeline.steps.running import write_figure
    from nsd_pipeline.storage.opening import open_store

    store = open_store(root)
    write = partial(store.write, partition=cohort, fingerprint="0" * 64, code_version="0")
    model, config = step.model, step.model.experiment.training.decisive()
    with write(model.key(cohort), asset=model.name, inputs={}, config=config) as draft:
        write_figure(draft, "training_curves", pictures["training_curves"])
        draft.metadata.update(trials={"test": len(ranks)}, sessions=["subj01_ses01"], encoder={})
    inputs = {model.name: "0" * 64}
    with write(step.key(cohort), asset=step.name, inputs=inputs, config={}) as draft:
        values.to_parquet(draft.folder / METRICS_FILE)
        ranks.to_parquet(draft.folder / QUERIES_FILE)
        for name, picture in pictures.items():
            if name != "training_curves":
                write_figure(draft, name, picture)
        draft.metadata["test images"] = ranks["image_id"].nunique()
    return [str(store.folder(each.key(cohort))) for each in (step, model)]


def write_report(settings: Settings) -> Repeat:
    """The step of the asset: page, figures, tables."""
    from nsd_pipeline.steps.report import report_step
    from nsd_pipeline.steps.step import Tools
    from nsd_pipeline.storage.opening import open_source, open_store
    from nsd_pipeline.storage.store import Draft

    steps = _steps(Path(settings["experiments"]))
    root = settings["root"]
    tools = Tools(open_store(root), partial(open_source, root))

    def repeat() -> Outcome:
        step = report_step([*steps.values()])(tools)
        with TemporaryDirectory() as folder:
            step.make("", step.plan(""), Draft(Path(folder)))
            page = Path(folder, "report.html").stat().st_size
            results = pd.read_csv(Path(folder, "results.csv"))
            differences = pd.read_csv(Path(folder, "differences.csv"))
        results = results[results["metric"] == _METRIC]
        return _outcome(results, differences, page)

    return repeat


def _outcome(results: pd.DataFrame, differences: pd.DataFrame, n_bytes: int) -> Outcome:
    """Values of both tables in one order."""
    keys, ends = ["experiment", "cohort"], ["low", "high"]
    return Outcome(
        {
            "values": results.sort_values(keys)[["value", *ends]].to_numpy(),
            "differences": differences.sort_values(keys)["difference"].to_numpy(),
            "intervals": differences.sort_values(keys)[ends].to_numpy(),
        },
        {"MB of HTML": n_bytes / 1e6},
    )


def write_plainly(settings: Settings) -> Repeat:
    """One result after the other: tables by pandas, differences by SciPy, PNGs put into a page."""
    from nsd_pipeline.steps.measurement import METRICS_FILE, QUERIES_FILE

    def repeat() -> Outcome:
        import matplotlib as mpl

        mpl.use("agg")
        results, hits, page = [], {}, io.StringIO()
        for experiment, cohort, folder, model in settings["folders"]:
            table = pd.read_parquet(Path(folder, METRICS_FILE))
            key = {"experiment": experiment, "cohort": cohort}
            results.append(table[table["metric"] == _METRIC].assign(**key))
            page.write(f"<h2>{experiment}, {cohort}</h2>{table.to_html()}")
            for figures in (Path(folder, "figures"), Path(model, "figures")):
                page.writelines(_image(path.read_bytes()) for path in figures.glob("*.png"))
            queries = pd.read_parquet(Path(folder, QUERIES_FILE))
            single = (queries["set"] == "all") & (queries["aggregation"] == "")
            trials = queries[single & (queries["seed"] != "ensemble")]
            found = (trials["rank"] < 5).groupby(trials["image_id"])
            hits[experiment, cohort] = found.agg(["sum", "size"])
        differences = [
            _difference(experiment, cohort, hits[experiment, cohort], hits["default", cohort])
            for experiment, cohort, *_ in settings["folders"]
            if experiment != "default"
        ]
        tables = pd.concat(results), pd.DataFrame(differences)
        for table, center in zip(tables, ("value", "difference"), strict=True):
            page.write(_image(_forest(table, center)) + table.to_html())
        with TemporaryDirectory() as folder:
            Path(folder, "report.html").write_text(page.getvalue())
        return _outcome(*tables, page.tell())

    return repeat


def _difference(
    experiment: str, cohort: str, one: pd.DataFrame, other: pd.DataFrame
) -> dict[str, Any]:
    from scipy.stats import bootstrap

    def share(sums: Any, sizes: Any, axis: int = -1) -> Any:
        return sums.sum(axis=axis) / sizes.sum(axis=axis)

    data = (one["sum"] - other["sum"]).to_numpy(), one["size"].to_numpy()
    found = bootstrap(data, share, paired=True, n_resamples=2000, rng=np.random.default_rng(0))
    low, high = found.confidence_interval
    difference = {"difference": share(*data), "low": low, "high": high}
    return {"experiment": experiment, "cohort": cohort, **difference}


def _forest(table: pd.DataFrame, center: str) -> bytes:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 0.2 * len(table) + 1))
    labels = table["experiment"] + " " + table["cohort"]
    axes.hlines(range(len(table)), table["low"], table["high"])
    axes.plot(table[center], range(len(table)), "o")
    axes.set_yticks(range(len(table)), labels)
    png = io.BytesIO()
    figure.savefig(png, dpi=200)
    figure.savefig(io.BytesIO(), format="svg")
    plt.close(figure)
    return png.getvalue()


def _image(png: bytes) -> str:
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'


ROWS: Final = (
    Row(
        "report",
        "The decoding report",
        _measured,
        (Side(_OURS, write_report), Side(_SCRIPT, write_plainly)),
        (faster(_OURS, _SCRIPT, 1), less_memory(_OURS, _SCRIPT, 1)),
        repetitions=2,
        warm_up=False,
        tolerance=0.03,
        limit="Ours has p values, curves and settings beside. Its page takes the small pictures"
        " that were made with the figures; the script's takes the PNGs: five times as large.",
    ),
)
