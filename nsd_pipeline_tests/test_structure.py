"""What must stay true of the code as a whole."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import dagster as dg
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nsd_pipeline
from nsd_pipeline import partitions
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.definitions import build_defs, defs
from nsd_pipeline.embeddings.encoder_settings import EncoderSettings
from nsd_pipeline.experiments import Experiment
from nsd_pipeline.steps.images import embeddings_step

PACKAGE = Path(nsd_pipeline.__file__).parent
DOMAIN = (
    "nsd",
    "storage",
    "events",
    "surface",
    "embeddings",
    "decoding",
    "evaluation",
    "report",
    "export",
)
HEAVY = ("torch", "transformers", "nilearn", "nibabel", "pandas", "pyarrow", "scipy")


def loaded_by(statement: str) -> set[str]:
    """Modules a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return set(answer.stdout.split())


class _WithoutTypes(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imports_of(path: Path, *, for_types: bool = True) -> set[str]:
    """Names of the modules that a file imports, wherever in it."""
    tree: ast.AST = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree if for_types else _WithoutTypes().visit(tree)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_code_location_loads_nothing_heavy() -> None:
    assert not loaded_by("import nsd_pipeline.definitions").intersection(HEAVY)


def test_loading_the_code_location_warns_of_nothing_and_filters_no_warning() -> None:
    code = (
        "import warnings, dagster; before = list(warnings.filters);"
        "import nsd_pipeline.definitions;"
        # numpy adds filters of its own, for its own warnings.
        "print([each for each in warnings.filters if each not in before and"
        " each[2].__module__.startswith('dagster')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_product_code_needs_the_declared_dependencies_and_nothing_else() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    distributions = packages_distributions()
    for path in PACKAGE.rglob("*.py"):
        packages = {name.split(".")[0] for name in imports_of(path, for_types=False)}
        for package in packages - sys.stdlib_module_names - {PACKAGE.name}:
            from_ = {canonicalize_name(name) for name in distributions.get(package, [])}
            assert from_ & declared, f"{path} imports {package}"


def test_one_file_alone_uses_what_dagster_does_not_promise_to_keep() -> None:
    # Text, not imports: dagster.yaml's classes are named in strings.
    files = [path for path in PACKAGE.rglob("*.py") if "dagster._" in path.read_text()]
    assert files == [PACKAGE / "dagster_private.py"]


@pytest.mark.parametrize("folder", DOMAIN)
def test_domain_code_knows_no_dagster(folder: str) -> None:
    allowed = {
        "evaluation": {"evaluation", "errors"},
        "nsd": {"nsd", "storage", "errors"},
        "storage": {"storage", "errors"},
    }
    upper = {"assets", "resources", "launchers", "definitions", "checks", "jobs", "demo"}
    for path in (PACKAGE / folder).rglob("*.py"):
        names = imports_of(path)
        assert not {name for name in names if name.split(".")[0].startswith("dagster")}, path
        ours = {name.split(".")[1] for name in names if name.startswith("nsd_pipeline.")}
        assert not ours & upper, path
        if folder in allowed:
            assert ours <= allowed[folder], path
    assert not any(name.startswith("nsd_pipeline") for name in imports_of(PACKAGE / "errors.py"))


def test_no_files_import_each_other_in_a_circle() -> None:
    files = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in PACKAGE.rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        found = graph.setdefault(module, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in files:
                parts = {f"{node.module}.{alias.name}" for alias in node.names} & set(files)
                found |= parts if len(parts) == len(node.names) else {*parts, node.module}
    TopologicalSorter(graph).prepare()  # a CycleError names the circle


def test_definitions_are_valid() -> None:
    dg.Definitions.validate_loadable(defs)
    default = {"default": Experiment(name="default")}
    assert len(list(build_defs("nsd", "artifacts", default).resolve_all_asset_specs())) == 15
    specs = list(defs.resolve_all_asset_specs())
    assert all(spec.description and spec.kinds and spec.owners for spec in specs)
    tables = {spec.key.to_user_string() for spec in specs if "parquet" in spec.kinds}
    assert {"events", "stimulus_embeddings", "retrieval_metrics", "linear_metrics"} < tables
    for spec in specs:
        schema = spec.metadata.get("dagster/column_schema")
        assert (schema is not None) == (spec.key.to_user_string() in tables), spec.key


def test_an_experiment_depends_on_what_it_needs_and_on_nothing_else() -> None:
    encoder = EncoderSettings(model="lab/clip")
    experiments = {
        name: Experiment(name=name, **settings)
        for name, settings in {
            "default": {},
            "windows": {"training": TrainingConfig(preset="neuralbench")},
            "clip": {"encoder": encoder},
            "clip2": {"encoder": encoder, "training": TrainingConfig(model="FmriLinear")},
            "later": {"training": TrainingConfig(start_from="clip", train_on="others")},
            "last": {"training": TrainingConfig(start_from="later")},
        }.items()
    }
    graph = build_defs("nsd", "artifacts", experiments).resolve_asset_graph()

    def needs(asset: str) -> set[str]:
        return {key.to_user_string() for key in graph.get(dg.AssetKey(asset)).parent_keys}

    betas = {"fsaverage5_betas", "fsaverage_events"}
    clip = embeddings_step(encoder).name
    assert needs("betas") == {"experiment_design"}
    assert needs("fmri_mlp") == {*betas, "stimulus_embeddings"}
    assert needs("windows_model") == {"fsaverage5_series", "bold_events", "stimulus_embeddings"}
    assert needs("clip_model") == needs("clip2_model") == {*betas, clip}
    assert needs("later_model") == {*betas, "stimulus_embeddings", "clip_model"}
    # There is no model of all subjects to begin with.
    last = graph.get(dg.AssetKey("last_model")).partitions_def
    assert last is not None
    assert "all" not in last.get_partition_keys()
    spaces = {
        name: Experiment(name=name, training=TrainingConfig(space=space))
        for name, space in {"mine": "func1mm", "MNI": "MNI", "same": "fsaverage"}.items()
    }
    graph = build_defs("nsd", "artifacts", experiments | spaces).resolve_asset_graph()
    assert needs("betas") == {"experiment_design"}
    assert needs("betas_func1mm") == {"experiment_design", "fsaverage5_operator"}
    assert needs("fsaverage5_betas_func1mm") == {"betas_func1mm", "fsaverage5_operator"}
    assert needs("fsaverage5_betas_MNI") == {"betas_MNI"}
    assert needs("mine_model") == {
        "fsaverage5_betas_func1mm",
        "fsaverage_events",
        "stimulus_embeddings",
    }
    assert needs("same_model") == needs("fmri_mlp") == {*betas, "stimulus_embeddings"}


def test_sessions_are_the_284_that_exist_and_map_to_their_sets_and_cohorts() -> None:
    assert len(partitions.SESSIONS) == len(set(partitions.SESSIONS)) == 284
    assert partitions.SESSIONS[0] == "subj01_ses01"
    assert partitions.SESSIONS[-1] == "subj08_ses30"
    assert "subj04_ses31" not in partitions.SESSIONS
    for mapping, own, everyone in (
        (partitions.sessions_to_stimulus_sets, "subj04", "shared"),
        (partitions.sessions_to_cohorts, "subj04", "all"),
    ):
        downstream = mapping.downstream_partition_keys_by_upstream_partition_key
        assert downstream["subj04_ses07"] == {own, everyone}
        assert set(downstream) == set(partitions.SESSIONS)


def test_files_are_short_and_no_name_stands_for_two_things() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]
    long = [path.name for path in files if len(path.read_text().splitlines()) > 400]
    assert not long
    # A stage's file in steps/ has the name of the folder whose code it runs.
    names = [path.name for path in files if path.parent.name != "steps"]
    assert sorted(names) == sorted(set(names))


def test_domain_code_does_not_speak_of_dagster() -> None:
    """Which command makes something again is said by `steps`: see `errors.Remake`."""
    for folder in DOMAIN:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            words = re.findall(r"(?i)dagster|materiali[sz]e|web UI", path.read_text())
            assert not words, f"{path.relative_to(PACKAGE)}: {words}"
