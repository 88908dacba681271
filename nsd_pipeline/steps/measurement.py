"""How well an experiment's models retrieve the images that were seen."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from nsd_pipeline import decoding, evaluation, folders, partitions, report
from nsd_pipeline.automation import CARRY_ON
from nsd_pipeline.decoding.choice import HELD_OUT
from nsd_pipeline.decoding.cohort import read_data
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.processes import TRIALS_FILE, read_vertices, seed_folder
from nsd_pipeline.decoding.trials import Trials
from nsd_pipeline.embeddings import describe_encoder
from nsd_pipeline.errors import NsdError, SourceError
from nsd_pipeline.evaluation.chance import Verdict, against_chance
from nsd_pipeline.experiments import DEFAULT, Experiment
from nsd_pipeline.launchers.base import GPU_POOL
from nsd_pipeline.nsd.layout import N_VERTICES
from nsd_pipeline.nsd.small_files import STREAMS, find_labels
from nsd_pipeline.steps.decoding import FmriMlp, Model, collect_cohort, group_of, model_step
from nsd_pipeline.steps.images import Stimuli
from nsd_pipeline.steps.running import step_asset, write_figure
from nsd_pipeline.steps.step import Metadata, Plan, Step
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Draft, Store
from nsd_pipeline.surface import read_labels

if TYPE_CHECKING:
    import pandas as pd

METRICS_FILE: Final = "metrics.parquet"
HELD_OUT_FILE: Final = "metrics_held_out.parquet"
DRAWN_FILE: Final = "drawn_images.parquet"
QUERIES_FILE: Final = "query_ranks.parquet"
VERTICES_FILE: Final = "vertices.parquet"

_HEADLINES: Final = ("top1_acc", "top5_acc", "top10_acc", "top5_acc_instance-agg")
_RATED: Final = 6
"""How many of the easiest and of the hardest images are shown."""
_MEDIAN: Final = "median_retrieval_rank"
_OF_IMAGES: Final = "top5_acc_instance-agg"
"""What the verdict is about: images are independent of each other, trials of one are not."""


class _Estimates(NamedTuple):
    """What the seeds' models (S) estimate for some trials (M), in their order.

    ``by_seed`` is (S, M, D), ``contributions`` (20484,) what each vertex adds to the score, mean
    over seeds.
    """

    data: Trials
    by_seed: NDArray[np.float32]
    contributions: NDArray[np.float32]

    def tested(self, seeds: Sequence[int]) -> tuple[Any, ...]:
        """Arguments of `evaluation`: estimates, targets, images and subjects (M,), and seeds."""
        images, subjects = (self.data.table[each].tolist() for each in ("image_id", "subject"))
        return self.by_seed, self.data.y_true(), images, subjects, seeds


class Metrics(Step):
    """Retrieval metrics of one experiment's models (a step), one for each cohort."""

    code_version = "6"
    model: ClassVar[type[Model]]

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        return step_asset(
            cls,
            ranged=False,
            group_name=group_of(cls.model.experiment),
            kinds={"pytorch", "parquet"},
            deps=[cls.model.name],
            pool=GPU_POOL,
            automation_condition=CARRY_ON,
            description="How often the image that was seen is found among all test images, beside"
            " chance.\n\nEvery metric of the reference, as a mean over seeds, for each seed and"
            " for their ensemble; the place of every trial's image, the ten images retrieved for"
            " it, and figures, of the ensemble.",
            columns=[
                dg.TableColumn("metric", "string", "name, as the reference has it"),
                dg.TableColumn("value", "float64", "mean over seeds"),
                dg.TableColumn("chance", "float64", "of estimates that know nothing"),
                dg.TableColumn("ratio", "float64", "value / chance"),
                dg.TableColumn("low", "float64", "95 % interval over test images: its lower end"),
                dg.TableColumn("high", "float64", "and its upper end"),
                dg.TableColumn("sd_of_seeds", "float64", "standard deviation over seeds"),
                dg.TableColumn("ensemble", "float64", "of the mean of the seeds' estimates"),
            ],
        )

    def plan(self, partition: str) -> Plan:
        return Plan(inputs={self.model.name: self.model.made(self.store, partition).fingerprint})

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        import pandas as pd

        trained = self.model.made(self.store, partition)
        options = TrainingConfig.of_model(trained.config)
        trials = pd.read_parquet(self.store.folder(trained.key) / TRIALS_FILE)
        found = self._estimate(trained, options, trials[trials["split"] == "test"])
        by_seed, y_true, images, subjects, seeds = found.tested(options.seeds)
        table, queries = _measure(found, options.seeds)
        table.to_parquet(draft.folder / METRICS_FILE, index=False)
        queries.to_parquet(draft.folder / QUERIES_FILE, index=False)
        drawn = evaluation.drawn_retrieval(by_seed, y_true, images, subjects, seeds)
        drawn.to_parquet(draft.folder / DRAWN_FILE, index=False)
        of_vertices = pd.DataFrame({"contribution": found.contributions})
        of_vertices.to_parquet(draft.folder / VERTICES_FILE, index=False)
        together = evaluation.ensemble(by_seed)
        ranks, top = (
            evaluation.name_trials(look(together, y_true, images, subjects), found.data.table)
            for look in (evaluation.trial_ranks, evaluation.top_images)
        )
        for content, file in ((ranks, folders.RANKS_FILE), (top, folders.TOP_FILE)):
            content.to_parquet(draft.folder / file, index=False)
        among_all = ranks[ranks["set"] == "all"]
        self._draw_photographs(draft, among_all, top, evaluation.image_difficulty(queries))
        _draw_numbers(draft, among_all, table, found.contributions)
        by_name = table.set_index("metric")
        value, chance = by_name["value"].to_dict(), by_name["chance"].to_dict()
        readable = report.readable_metrics(table)
        return {
            "results": report.headline(readable, _HEADLINES),
            **{name: value[name] for name in _HEADLINES},
            "median place": report.place_of(value[_MEDIAN]),
            **{f"chance {name}": chance[name] for name in _HEADLINES},
            "chance median place": report.place_of(chance[_MEDIAN]),
            "experiment": self.model.experiment.name,
            "decoder": options.model,
            "image encoder": describe_encoder(trained.metadata["encoder"]),
            "seeds": len(options.seeds),
            "test trials": len(images),
            "test images": int(among_all["n_candidates"].iloc[0]),
            "pictures": Stimuli.pictures(self.store, partitions.SHARED),
            **self._held_out(draft, trained, options, trials),
            **self._by_stream(found.contributions),
            "metrics": json.loads(readable.to_json(orient="records")),
        }

    def _estimate(
        self, trained: Manifest, options: TrainingConfig, trials: "pd.DataFrame"
    ) -> _Estimates:
        """Let the models of all seeds estimate what some of their cohort's trials showed."""
        folder = self.store.folder(trained.key)
        cohort = collect_cohort(
            self.store,
            str(trained.partition),
            self.model.fmri_steps(options),
            trained.metadata["sessions"],
            self.model.targets,
        )
        cohort.require_encoder(trained.metadata["encoder"], self.model.name)
        vertices = read_vertices(folder)
        data = read_data(self.store, cohort, trials, options, vertices)
        contributions = np.zeros(N_VERTICES, np.float32)
        estimates = []
        with self.tools.gpu.lease() as device:
            for seed in options.seeds:
                # A class of a user's own is imported if the experiment's file names it, and not
                # because somebody's artifact does.
                model = decoding.load_model(
                    seed_folder(folder, options, seed), trusted=self.model.experiment.training
                ).to(device or "cpu")
                estimates.append(decoding.predict(model, data))
                each = decoding.vertex_contributions(model, data) / len(options.seeds)
                contributions[slice(None) if vertices is None else vertices] += each
        return _Estimates(data, np.stack(estimates), contributions)

    def _held_out(
        self, draft: Draft, trained: Manifest, options: TrainingConfig, trials: "pd.DataFrame"
    ) -> dict[str, Any]:
        """Metrics of the sessions that were kept for a second test, if there are any."""
        second = trials[trials["split"] == HELD_OUT]
        if second.empty:
            return {}
        found = self._estimate(trained, options, second)
        table, _ = _measure(found, options.seeds)
        table.to_parquet(draft.folder / HELD_OUT_FILE, index=False)
        value = table.set_index("metric")["value"].to_dict()
        return {f"held-out sessions {name}": value[name] for name in _HEADLINES}

    def _by_stream(self, contributions: NDArray[np.float32]) -> dict[str, Any]:
        """What the vertices (V,) of each visual stream add to the score, where NSD's labels are."""
        try:
            labels = find_labels(self.tools.open_source, "streams")
        except SourceError:
            return {}
        with TemporaryDirectory() as folder:
            stream = read_labels(labels.copy(Path(folder)))
        parts = {name: contributions[stream == number] for number, name in STREAMS.items()}
        parts["elsewhere"] = contributions[~np.isin(stream, list(STREAMS))]
        return {
            "contribution by stream": [
                {
                    "stream": name,
                    "vertices": len(values),
                    "adds to the score": float(np.nansum(values)),  # a vertex may have no data
                }
                for name, values in parts.items()
                if len(values)
            ]
        }

    def _draw_photographs(
        self, draft: Draft, ranks: "pd.DataFrame", top: "pd.DataFrame", difficulty: "pd.DataFrame"
    ) -> None:
        """Draw what was retrieved, and which images are easy and hard."""
        read = Stimuli.open_images(self.store, self.tools.open_source, partitions.SHARED)
        gallery = [
            report.Retrieval(
                seen=read(np.array([example.image_id]))[0],
                rank=example.rank,
                retrieved=list(read(example.retrieved)),
                correct=example.correct,
                among=example.among,
            )
            for example in report.gallery_examples(ranks, top)
        ]
        write_figure(draft, "retrieval_gallery", report.retrieval_gallery(gallery))

        def rated(images: "pd.DataFrame") -> list[report.Rated]:
            photos = read(images["image_id"].to_numpy())
            return [report.Rated(*each) for each in zip(photos, images["mean_place"], strict=True)]

        n = min(_RATED, len(difficulty))
        hardest, easiest = rated(difficulty.head(n)), rated(difficulty.tail(n)[::-1])
        write_figure(draft, "difficulty_of_images", report.difficulty_gallery(easiest, hardest))


def _draw_numbers(
    draft: Draft, ranks: "pd.DataFrame", table: "pd.DataFrame", contributions: NDArray[np.float32]
) -> None:
    """Draw places, repeats, and what each vertex adds to the score (V,)."""
    set_size = int(ranks["n_candidates"].iloc[0])
    write_figure(draft, "ranks", report.rank_distribution(ranks["rank"], set_size))
    if len(points := report.repeats_curve(table)):
        picture = report.interval_curves(points, "repeats averaged", "found (%)")
        write_figure(draft, "repeats", picture)
    title = "Where the model finds it"
    picture = report.surface_map(
        contributions, title, "contribution", cmap="RdBu_r", symmetric=True
    )
    write_figure(draft, "where_the_model_finds_it", picture)


def _measure(found: _Estimates, seeds: Sequence[int]) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Every metric with its interval, and the rank of every query that they follow from.

    The reference's metrics, then those of other candidates and of numbers of repeats, then those
    within batches, which do not follow from these ranks.
    """
    import pandas as pd

    by_seed, y_true, images, _, _ = known = found.tested(seeds)
    ways = (
        evaluation.query_ranks,
        evaluation.hard_negative_ranks,
        evaluation.seen_by_all_ranks,
        evaluation.repeat_ranks,
    )
    queries = pd.concat([way(*known) for way in ways], ignore_index=True)
    batches = {
        name: evaluation.batch_retrieval(estimates, y_true)
        for name, estimates in evaluation.seeds_and_ensemble(by_seed, seeds)
    }
    within_batches = evaluation.over_seeds(pd.DataFrame(batches))
    table = pd.concat(
        [
            evaluation.metric_intervals(queries),
            within_batches.rename_axis("metric").reset_index(),
        ],
        ignore_index=True,
    )
    chance = evaluation.table_chance(queries) | evaluation.batch_chance(images)
    table["chance"] = table["metric"].map(chance)
    # No ratio to a chance level of 0.
    table["ratio"] = table["value"] / table["chance"].where(table["chance"] != 0)
    few = ["seed", "set", "candidates", "aggregation", "subject"]  # a tenth of the file
    return table, queries.astype(dict.fromkeys(few, "category"))


class RetrievalMetrics(Metrics):
    """The default experiment's metrics."""

    name = folders.metrics_folder(DEFAULT)
    partitions = partitions.cohorts
    model = FmriMlp
    experiment_name = DEFAULT


def metrics_step(model: type[Model]) -> type[Metrics]:
    """Step of the metrics of an experiment's models."""
    experiment = model.experiment
    if experiment.is_default:
        return RetrievalMetrics
    return type(
        "ExperimentMetrics",
        (Metrics,),
        {
            "name": f"{experiment.identifier}_metrics",
            "location": folders.metrics_folder(experiment.name),
            "partitions": model.partitions,
            "optional": True,
            "experiment_name": experiment.name,
            "model": model,
        },
    )


def metrics_steps(experiments: Mapping[str, Experiment]) -> dict[str, type[Metrics]]:
    """Step of the metrics of every experiment, by its name; each knows that of its models."""
    models: dict[str, type[Model]] = {}

    def model(name: str) -> type[Model]:
        if name not in models:
            begun = experiments[name].training.start_from
            models[name] = model_step(experiments[name], model(begun) if begun else None)
        return models[name]

    return {name: metrics_step(model(name)) for name in experiments}


def choose_experiments(
    names: Sequence[str], known: Mapping[str, type[Metrics]]
) -> list[type[Metrics]]:
    """Steps of some experiments by their names, each after the one that it starts from.

    An NsdError for a name that there is not.
    """
    if unknown := [name for name in names if name not in known]:
        raise NsdError(
            f"There is no experiment {unknown[0]!r}.", next_step=f"name one of {', '.join(known)}."
        )
    chosen: dict[str, type[Metrics]] = {}

    def choose(name: str) -> None:
        if begun := known[name].model.experiment.training.start_from:
            choose(begun)
        chosen[name] = known[name]

    for name in names:
        choose(name)
    return [*chosen.values()]


def read_verdict(store: Store, step: type[Metrics], cohort: str) -> Verdict:
    """Say whether a cohort's models beat guessing; an ArtifactError if they were not measured."""
    import pandas as pd

    metrics, model = step.made(store, cohort), step.model.made(store, cohort)
    table = pd.read_parquet(store.folder(metrics.key) / METRICS_FILE).set_index("metric")
    # Artifacts of before have one seed, and no ensemble.
    column = table["ensemble" if "ensemble" in table else "value"].to_dict()
    return Verdict(
        cohort,
        against_chance(float(column[_OF_IMAGES]), int(metrics.metadata["test images"])),
        seeds=TrainingConfig.of_model(model.config).drawn_by,
        n_sessions=len(model.metadata.get("sessions learned from", model.metadata["sessions"])),
    )
