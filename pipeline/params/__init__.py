"""The parameters of a run: what params.yaml may say (schema), and what it says (loading)."""

from pipeline.params.loading import load
from pipeline.params.methods import build_method, build_model, task_of
from pipeline.params.schema import Params
from pipeline.params.view import View

__all__ = ["Params", "View", "build_method", "build_model", "load", "task_of"]
