"""A user's own class is trained and saved like ours; what is no decoder is refused at once."""

import json

import pytest
import torch
from torch import nn

from nsd_pipeline.decoding import (
    TrainingConfig,
    build_model,
    load_model,
    predict,
    save_model,
    train,
    vertex_contributions,
)
from nsd_pipeline.errors import ArtifactError, NsdError

CONFIG = TrainingConfig(
    model=f"{__name__}:LowRank",
    arguments={"rank": 9},
    n_epochs=10,
    batch_size=32,
    learning_rate=1e-2,
)


class LowRank(nn.Module):
    """Two linear maps and a dropout over all values of a trial."""

    def __init__(self, n_vertices, n_times, n_outputs, rank):
        super().__init__()
        self.down = nn.Linear(n_vertices * n_times, rank)
        self.up = nn.Linear(rank, n_outputs)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        return self.up(self.dropout(self.down(x.flatten(1))))


class Wider(LowRank):
    def __init__(self, n_vertices, n_times, n_outputs):
        super().__init__(n_vertices, n_times, n_outputs + 1, rank=2)


class Squeezes(Wider):
    def forward(self, x):
        return super().forward(x)[:, 1:].squeeze()


class Unstable(Wider):
    def forward(self, x):
        return super().forward(x)[:, 1:].log()


class Fails(Wider):
    def forward(self, x):
        return x @ self.up.weight


class Tied(Wider):
    def __init__(self, *, n_vertices, n_times, n_outputs):
        super().__init__(n_vertices, n_times, n_outputs - 1)
        self.again = self.up


class Fixed(nn.Module):
    def __init__(self, n_vertices, n_times, n_outputs):
        super().__init__()


NOT_A_CLASS = 3


@pytest.fixture(scope="module")
def trained(cohort):
    return train(CONFIG, cohort.split("train"), cohort.split("val"), device="cpu")


def test_it_is_trained_saved_and_used_like_ours(trained, cohort, tmp_path):
    assert trained.best_score > 0.9
    save_model(tmp_path, trained.model, CONFIG)
    loaded, test = load_model(tmp_path, trusted=CONFIG), cohort.split("test")
    assert isinstance(loaded.own, LowRank)
    assert not loaded.training
    estimates = predict(loaded, test)
    assert (estimates == predict(trained.model, test)).all()
    assert abs(vertex_contributions(loaded, test)).max() > 0


@pytest.mark.parametrize("trusted", [None, TrainingConfig()])
def test_a_store_does_not_decide_what_is_imported(trained, tmp_path, monkeypatch, trusted):
    save_model(tmp_path, trained.model, CONFIG)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "architecture": "this:Poem"}))
    monkeypatch.setattr("importlib.import_module", pytest.fail)
    with pytest.raises(ArtifactError, match="this:Poem, which is not part of nsd_pipeline"):
        load_model(tmp_path, trusted=trusted)
    with pytest.raises(ArtifactError, match=f"the settings name {CONFIG.model}"):
        load_model(tmp_path, trusted=CONFIG)


def test_a_saved_model_that_says_too_little_or_other_arguments(trained, tmp_path):
    save_model(tmp_path, trained.model, CONFIG)
    with pytest.raises(NsdError, match=r"own\.down\.bias is \(9,\) there, and \(8,\) here"):
        load_model(tmp_path, trusted=CONFIG.model_copy(update={"arguments": {"rank": 8}}))
    for damaged in ("{", "[]", '{"architecture": "a:B", "settings": {"n_vertices": null}}'):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(ArtifactError, match="does not say"):
            load_model(tmp_path, trusted=CONFIG)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Wider", r"gives \(3, 7\) for fMRI \(3, 5, 1\), where image embeddings are \(3, 6\)"),
        ("Squeezes", r"gives \(6,\) for fMRI \(1, 5, 1\)"),
        ("Unstable", "not finite"),
        ("Fails", r"fails on fMRI \(3, 5, 1\) \(RuntimeError: "),
        ("Tied", "weights that cannot be saved"),
        ("Fixed", "has nothing to train"),
        ("LowRank", r"cannot be made with .* missing 1 required positional argument: 'rank'"),
        ("NOT_A_CLASS", "is no class of torch modules"),
        ("Missing", "cannot be imported .*Missing"),
    ],
)
def test_what_is_no_decoder_is_refused_when_it_is_made(name, problem):
    config = TrainingConfig(model=f"{__name__}:{name}")
    with pytest.raises(NsdError, match=f"{name} .setting `model`. .*{problem}"):
        build_model(config, n_vertices=5, n_times=1, n_outputs=6)


def test_trying_it_changes_neither_random_state_nor_weights():
    torch.manual_seed(3)
    plain = LowRank(5, 1, 6, rank=9)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    built = build_model(CONFIG, n_vertices=5, n_times=1, n_outputs=6)
    assert torch.equal(torch.get_rng_state(), state)
    assert built.training
    for name, value in plain.state_dict().items():
        assert torch.equal(value, built.state_dict()[f"own.{name}"])


@pytest.mark.parametrize(
    "model", ["os.system", "FmriMLP", ":Class", "a:b:c", "a:b()", "../a:B", ""]
)
def test_a_name_that_is_no_decoder_is_no_setting(model):
    with pytest.raises(ValueError, match="pattern"):
        TrainingConfig(model=model)


def test_settings_that_belong_to_another_decoder():
    with pytest.raises(ValueError, match="FmriMlp takes none"):
        TrainingConfig(arguments={"rank": 2})
    with pytest.raises(ValueError, match="above zero"):
        TrainingConfig(model="ridge", alphas=[1, 0])


def test_settings_of_another_decoder_decide_nothing():
    plain = TrainingConfig()
    assert plain.decisive() == plain.model_copy(update={"alphas": [1.0]}).decisive()
    assert CONFIG.decisive()["arguments"] == {"rank": 9}
    assert TrainingConfig(model="ridge", alphas=[1.0]).decisive()["alphas"] == [1.0]


def test_training_starts_from_weights(trained, cohort):
    """With a learning rate of nearly nothing they stay as they were."""
    config = CONFIG.model_copy(update={"n_epochs": 1, "learning_rate": 1e-12})
    splits, before = (cohort.split("train"), cohort.split("val")), trained.model.state_dict()
    after = train(config, *splits, device="cpu", start_from=before).model.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-9)
    with pytest.raises(NsdError, match="of the weights to take are not this model's"):
        train(TrainingConfig(), *splits, device="cpu", start_from=before)
