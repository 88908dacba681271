"""What an experiment is: a name, and how it differs from the default."""

import re
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.embeddings.encoder_settings import EncoderSettings

DEFAULT: Final = "default"
"""The experiment that sets nothing: the reference's task on betas. Its name is taken."""


class Entry(TrainingConfig):
    """An experiment as the file has it: every setting of a training, an encoder, a description."""

    description: str = Field(default="", description="What it is for, in a line for the web UI.")
    encoder: EncoderSettings | None = Field(
        default=None,
        description="Vision model whose embeddings are retrieved; null: the one that"
        " stimulus_embeddings are made with.",
    )


class Experiment(BaseModel):
    """One model per cohort, and how well it retrieves.

    The name is unique in the file; assets and folders are named by it. The description says what it
    is for, in a line. Targets are the embeddings of `encoder`; None for those of the asset
    ``stimulus_embeddings``.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    description: str = ""
    training: TrainingConfig = TrainingConfig()
    encoder: EncoderSettings | None = None

    @classmethod
    def of(cls, name: str, entry: Entry) -> "Experiment":
        """Take an entry of the file apart."""
        training = TrainingConfig(
            **{field: getattr(entry, field) for field in TrainingConfig.model_fields}
        )
        return cls(
            name=name, description=entry.description, training=training, encoder=entry.encoder
        )

    @property
    def is_default(self) -> bool:
        """Whether it is the one that sets nothing."""
        return self.name == DEFAULT

    @property
    def identifier(self) -> str:
        """The name with letters, digits and ``_`` only, as Dagster's names have to be."""
        return re.sub(r"\W", "_", self.name, flags=re.ASCII)
