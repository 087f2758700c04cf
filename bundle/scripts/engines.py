"""What computes the network: a device, and in a prediction torch, or OpenVINO on a CPU."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from monai.utils import StrEnum, optional_import, str2bool
from torch import nn

__all__ = [
    "Engine",
    "OpenVINONetwork",
    "check_device",
    "choose_bfloat16",
    "choose_engine",
    "default_device",
    "has_fast_bfloat16",
]

_logger = logging.getLogger(__name__)

openvino, has_openvino = optional_import("openvino")

# What oneDNN's dispatcher control may be set to without it using these instructions; any other value allows them.
# The names and their order are of https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
_BELOW_AVX512_BF16 = frozenset({"sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"})
_BELOW = {
    "avx512_bf16": _BELOW_AVX512_BF16,
    "amx_bf16": _BELOW_AVX512_BF16 | {"avx512_core_bf16", "avx512_core_fp16", "avx10_1_512", "avx10_2", "avx10_2_512"},
}


def default_device() -> torch.device:
    """Return the first GPU, or under ``torchrun`` the one of this process; the CPU where torch sees no GPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def check_device(device: torch.device | str, amp: bool | str = "auto", engine: str = "torch") -> None:
    """
    Refuse a device that this machine does not have; torch does so where it first moves something to it.

    A precision that makes torch many times slower on this device is warned of.

    Args:
        device: the setting.
        amp: likewise, see :func:`choose_bfloat16`.
        engine: likewise, see :class:`Engine`. OpenVINO does not emulate bfloat16.

    Raises:
        ValueError: when it is no device, or a GPU that torch does not see; or when there is no such precision.
    """
    advice = "leave device out, which takes the first GPU where there is one, or give --device cpu."
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is '{device}', which torch does not know: give cpu or cuda:0, or {advice}") from error
    count = torch.cuda.device_count()
    if asked.type == "cuda" and (asked.index or 0) >= count:
        seen = "no GPU" if count == 0 else f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0 alone"
        built = "" if torch.version.cuda else ", since it was installed without CUDA"
        raise ValueError(f"device is {asked}, but torch sees {seen} on this machine{built}: {advice}")
    slow = choose_bfloat16(amp, asked) and not has_fast_bfloat16(asked)
    if slow and choose_engine(engine, asked) == Engine.TORCH:
        _logger.warning(
            f"amp is true, but this {'CPU' if asked.type == 'cpu' else 'device'} only emulates bfloat16: a step "
            "took 30 to 60 times as long as in float32 on one with AVX2. Leave amp out, or give --amp auto."
        )


def choose_bfloat16(amp: bool | str, device: torch.device) -> bool:
    """
    Tell whether to compute in bfloat16.

    Args:
        amp: ``True``, ``False``, or ``auto``: where the device computes it fast.
        device: where the network lies.

    Raises:
        ValueError: when it is none of these.
    """
    if amp == "auto":
        return has_fast_bfloat16(device)
    try:
        return str2bool(amp)
    except ValueError as error:
        raise ValueError(f"amp is '{amp}': give auto, true or false.") from error


class Engine(StrEnum):
    """
    What computes the network.

    ``TORCH`` runs on every device, ``OPENVINO`` on a CPU alone. ``AUTO`` is OpenVINO on a CPU with AMX, if it is
    installed, and torch elsewhere: with AMX the report's network was computed several times as fast as by torch,
    without AMX ours is not (``benchmarks/inference.py`` measures both).
    """

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


def choose_engine(engine: Engine | str, device: torch.device) -> Engine:
    """
    Resolve ``AUTO`` for a device.

    Args:
        engine: what is asked for.
        device: where the scan lies.

    Returns:
        ``TORCH`` or ``OPENVINO``.

    Raises:
        ValueError: when OpenVINO is asked for on another device than a CPU.
        ImportError: when OpenVINO is asked for, and is not installed.
    """
    engine = Engine(engine)
    if engine == Engine.AUTO:
        fast = device.type == "cpu" and _has("amx_bf16") and has_openvino
        return Engine.OPENVINO if fast else Engine.TORCH
    if engine == Engine.OPENVINO and device.type != "cpu":
        raise ValueError(f"the engine 'openvino' computes on a CPU, but the device is {device}: take auto or torch.")
    if engine == Engine.OPENVINO and not has_openvino:
        raise ImportError("the engine 'openvino' is not installed: pip install openvino, or take auto or torch.")
    return engine


def has_fast_bfloat16(device: torch.device) -> bool:
    """
    Tell whether a device computes in bfloat16 faster than in float32.

    Instructions that the environment variable ``ONEDNN_MAX_CPU_ISA`` keeps oneDNN from using do not count: torch and
    OpenVINO compute by oneDNN, which would emulate bfloat16 without them.

    Args:
        device: a GPU; or a CPU, which does with AVX-512 BF16, AMX, or ARM's bf16 instructions.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return _has("avx512_bf16", "amx_bf16", "bf16")


def _has(*instructions: str) -> bool:
    """
    Tell whether oneDNN may use any of these instructions, by torch's names; an older torch knows of none.

    oneDNN reads ``ONEDNN_MAX_CPU_ISA``, and its older name ``DNNL_MAX_CPU_ISA``, once, in either case, and skips
    a value that it does not know.
    """
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    most = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").lower()
    return any(known.get(name, False) and most not in _BELOW.get(name, ()) for name in instructions)


class OpenVINONetwork:
    """
    A network compiled by OpenVINO for this CPU, called as the network is.

    It is compiled at the first call for each shape of window, and again when the network's weights
    have changed since, so that a checkpoint may be loaded after this is made.

    Args:
        network: takes and returns one tensor, on the CPU.
        bfloat16: compute in bfloat16, which the CPU must do fast, see :func:`has_fast_bfloat16`; otherwise in float32,
            whatever OpenVINO would choose.

    Inputs are ``(B, C, H, W, D)``, float32, of any number of windows; the result is what the network returns in
    evaluation, float32.
    """

    def __init__(self, network: nn.Module, bfloat16: bool) -> None:
        self.network = network
        self.bfloat16 = bfloat16
        self._state: tuple[Any, ...] = ()
        self._requests: dict[torch.Size, Any] = {}

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        state = _state(self.network)
        if state != self._state:
            self._state, self._requests = state, {}
        shape = windows.shape[1:]
        if shape not in self._requests:
            self._requests[shape] = self._compile(shape)
        result = self._requests[shape].infer({0: windows.contiguous().numpy()}, share_inputs=True)
        return torch.from_numpy(result[0])

    def _compile(self, shape: torch.Size) -> Any:
        """Compile for windows of a shape, and for any number of them."""
        was_training = self.network.training
        self.network.eval()
        with torch.no_grad(), warnings.catch_warnings():
            # of choices that the network makes by the window's shape, which is fixed here
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            model = openvino.convert_model(self.network, example_input=torch.zeros(1, *shape))
        self.network.train(was_training)
        model.reshape([-1, *shape])
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()


def _state(network: nn.Module) -> tuple[Any, ...]:
    """Return what changes when the network's weights do, by loading or by training."""
    return tuple((tensor.data_ptr(), tensor._version) for tensor in network.state_dict(keep_vars=True).values())
