"""Export a MiMo checkpoint by optimum: ``python optimum_script.py CHECKPOINT OUT``, where optimum-onnx is installed.

Registers MiMo with transformers (a Qwen2 whose MTP layer is left out) and with optimum's exporter. Runs no code
of the checkpoint.
"""

from __future__ import annotations

import os
import sys

# optimum loads ONNX Runtime, whose telemetry is on unless this is set before.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from optimum.exporters.onnx import main_export
from optimum.exporters.onnx.model_configs import Qwen2OnnxConfig
from optimum.exporters.tasks import TasksManager
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

TASK = "text-generation-with-past"


class MimoConfig(Qwen2Config):
    """config.json of MiMo-7B."""

    model_type = "mimo"


class MimoForCausalLM(Qwen2ForCausalLM):
    """MiMo's trunk."""

    __module__ = Qwen2ForCausalLM.__module__  # optimum tells the library from it
    config_class = MimoConfig
    _keys_to_ignore_on_load_unexpected = [r"model\.mtp_layers\..*"]  # noqa: RUF012  (a list, or transformers fails)


AutoConfig.register("mimo", MimoConfig)
AutoModelForCausalLM.register(MimoConfig, MimoForCausalLM)
register = TasksManager.create_register("onnx", overwrite_existing=True)


@register("mimo", "text-generation", TASK)
class MimoOnnxConfig(Qwen2OnnxConfig):
    """Inputs and outputs are Qwen2's."""


if __name__ == "__main__":
    checkpoint, out = sys.argv[1:]
    main_export(checkpoint, out, task=TASK, dtype="fp32", do_validation=False, no_post_process=True)
