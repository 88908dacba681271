"""Where each artifact lies in the store, relative to its root."""

from nsd_pipeline.nsd.layout import parse_session_key

EXPERIMENT_DESIGN = "experiment_design"


def session_artifact(asset: str, session_key: str) -> str:
    """Key of an artifact of one session: ``events/subj01/ses07``."""
    subject, session = parse_session_key(session_key)
    return f"{asset}/{subject}/ses{session:02d}"


def betas(session_key: str) -> str:
    """Key of a session's downloaded betas."""
    return session_artifact("betas", session_key)


def events(session_key: str) -> str:
    """Key of a session's event table, every space."""
    return session_artifact("events", session_key)


def fsaverage_events(session_key: str) -> str:
    """Key of a session's filtered event table."""
    return session_artifact("fsaverage_events", session_key)


def fsaverage5_operator(subject_space: str) -> str:
    """Key of the operator from a subject's space to fsaverage5."""
    return f"fsaverage5_operator/{subject_space.replace('_', '/')}"


def fsaverage5_betas(session_key: str) -> str:
    """Key of a session's Zarr group: all sessions are groups below one folder."""
    return session_artifact("fsaverage5_betas.zarr", session_key)


def bold(session_key: str) -> str:
    """Key of the list of a session's runs of BOLD, with the runs where they were downloaded."""
    return session_artifact("bold", session_key)


def bold_events(session_key: str) -> str:
    """Key of a session's event table for its runs of BOLD, every space."""
    return session_artifact("bold_events", session_key)


def fsaverage5_series(session_key: str) -> str:
    """Key of a session's Zarr group of time series."""
    return session_artifact("fsaverage5_series.zarr", session_key)


def stimuli(stimulus_set: str) -> str:
    """Key of a stimulus set's index of images."""
    return f"stimuli/{stimulus_set}/index"


def stimulus_part(stimulus_set: str, part: str) -> str:
    """Key of some images of a stimulus set, downloaded together."""
    return f"stimuli/{stimulus_set}/{part}"


def stimulus_embeddings(stimulus_set: str) -> str:
    """Key of the embeddings of a stimulus set's images."""
    return f"stimulus_embeddings/{stimulus_set}"


def fmri_mlp(cohort: str) -> str:
    """Key of a cohort's trained model."""
    return f"fmri_mlp/{cohort}"


def retrieval_metrics(cohort: str) -> str:
    """Key of a cohort's retrieval metrics."""
    return f"retrieval_metrics/{cohort}"


DECODING_REPORT = "decoding_report"
