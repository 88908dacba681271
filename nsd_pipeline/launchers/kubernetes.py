"""What runs that need a GPU ask of Kubernetes, as Dagster's own K8sRunLauncher reads it from tags.

The tag has to be on the job: tags of assets and ops do not reach the pod of a run. A launcher for
another place ignores it.
"""

from collections.abc import Mapping
from typing import Any, Final

CONFIG_TAG: Final = "dagster-k8s/config"
GPU_RESOURCE: Final = "nvidia.com/gpu"

KUBERNETES_GPU: Final[Mapping[str, Any]] = {
    CONFIG_TAG: {
        "container_config": {"resources": {"limits": {GPU_RESOURCE: "1"}}},
        "pod_spec_config": {
            # Nodes with GPUs are usually kept free of everything else by this taint.
            "tolerations": [
                {"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"},
            ]
        },
    }
}
"""Run tags of a job that needs one GPU."""
