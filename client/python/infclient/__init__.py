# SPDX-License-Identifier: Apache-2.0
"""Answers from PyTorch models that an infbroker on this machine serves, through shared memory.

>>> import infclient
>>> model = infclient.connect()["classifier"]       # doctest: +SKIP
>>> y = model(x)                                    # doctest: +SKIP
>>> y = await model.submit(x)                       # doctest: +SKIP
"""

from . import _core
from ._client import Client, Filling, Inputs, Model, ModelInfo, Outputs, TensorSpec, connect
from ._core import DeviceTensor, Request, Tensor
from ._errors import (
    BadDtype,
    BadMemory,
    BadRange,
    BadShape,
    BrokerLost,
    Busy,
    Cancelled,
    ClosedError,
    ConnectError,
    DeadlineExceeded,
    Error,
    ExecutorLost,
    Full,
    Loading,
    ModelError,
    NoDevice,
    NoModel,
    NotAllowed,
    Poison,
    Quota,
    RequestError,
    Shed,
    TooManyRows,
)

__version__: str = _core.version

# Names as users import them, in tracebacks and pickles.
for _kind in list(globals().values()):
    if isinstance(_kind, type) and _kind.__module__ in ("infclient._errors", "infclient._client"):
        _kind.__module__ = "infclient"
del _kind

__all__ = [
    "BadDtype",
    "BadMemory",
    "BadRange",
    "BadShape",
    "BrokerLost",
    "Busy",
    "Cancelled",
    "Client",
    "ClosedError",
    "ConnectError",
    "DeadlineExceeded",
    "DeviceTensor",
    "Error",
    "ExecutorLost",
    "Filling",
    "Full",
    "Inputs",
    "Loading",
    "Model",
    "ModelError",
    "ModelInfo",
    "NoDevice",
    "NoModel",
    "NotAllowed",
    "Outputs",
    "Poison",
    "Quota",
    "Request",
    "RequestError",
    "Shed",
    "Tensor",
    "TensorSpec",
    "TooManyRows",
    "connect",
]
