"""What computes the network: a device, and in a prediction torch, or OpenVINO on a CPU."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from monai.utils import StrEnum, optional_import, str2bool
from torch import nn

__all__ = [
    "Engine",
    "OpenVINONetwork",
    "UnconvertedNetworkError",
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
_BELOW_BFLOAT16 = frozenset({"sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"})


# How far OpenVINO's result may be from torch's, as a share of the largest value, in float32 and in bfloat16
_TOLERANCE = {False: 0.001, True: 0.1}


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

    ``TORCH`` runs on every device, ``OPENVINO`` on a CPU alone. ``AUTO`` is OpenVINO, if it is installed, on a CPU
    that computes in float32, and torch elsewhere. With AVX2 alone, OpenVINO took 0.6 of torch's time for a window;
    in bfloat16 on AVX-512 as long (``benchmarks/inference.py`` measures both).
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
        wins = device.type == "cpu" and has_openvino and not has_fast_bfloat16(device)
        return Engine.OPENVINO if wins else Engine.TORCH
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
        device: a GPU; or a CPU, which does with AVX-512 BF16, as all do that have AMX, or ARM's bf16 instructions.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch knows of none
    # oneDNN reads it, and its older name, once, in either case, and skips a value that it does not know
    most = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").lower()
    on_x86 = known.get("avx512_bf16", False) and most not in _BELOW_BFLOAT16
    return on_x86 or known.get("bf16", False)


class UnconvertedNetworkError(ValueError):
    """OpenVINO cannot convert a network, or what it made of it is another one."""


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

    Raises:
        UnconvertedNetworkError: at a call, when OpenVINO cannot convert the network.
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
        # the request copies what it is given and what it returns, so that it holds no memory of torch's
        results = [self._requests[shape].infer({0: window[None].numpy()})[0] for window in windows.contiguous()]
        return torch.from_numpy(np.concatenate(results))

    def _compile(self, shape: torch.Size) -> Any:
        """Compile for one window of a shape: a shape that is known is safer than one that varies, and as fast."""
        was_training, level = self.network.training, logging.root.level
        self.network.eval()
        trial = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            with torch.no_grad(), warnings.catch_warnings():
                # of choices that the network makes by the window's shape, which is fixed here
                warnings.simplefilter("ignore", torch.jit.TracerWarning)
                model = openvino.convert_model(self.network, example_input=torch.zeros(1, *shape))
                model.reshape([1, *shape])
                request = _core().compile_model(model, "CPU", settings).create_infer_request()
                expected, found = self.network(trial), torch.from_numpy(request.infer({0: trial.numpy()})[0])
        except Exception as error:  # its converters raise errors of many kinds
            raise UnconvertedNetworkError(self._unable("it cannot convert it")) from error
        finally:
            self.network.train(was_training)
            logging.root.setLevel(level)  # a conversion that fails leaves another one
        if not torch.allclose(found, expected, rtol=0.0, atol=_TOLERANCE[self.bfloat16] * float(expected.abs().max())):
            raise UnconvertedNetworkError(self._unable("it finds something else than torch"))
        return request

    def _unable(self, reason: str) -> str:
        return f"OpenVINO does not compute {type(self.network).__name__}, since {reason}: give --engine torch."


@cache
def _core() -> Any:
    """Return OpenVINO's core, one for the process: it must outlive what it compiled."""
    return openvino.Core()


def _state(network: nn.Module) -> tuple[Any, ...]:
    """Return what changes when the network's weights do, by loading or by training."""
    return tuple((tensor.data_ptr(), tensor._version) for tensor in network.state_dict(keep_vars=True).values())
