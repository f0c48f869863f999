# SPDX-License-Identifier: Apache-2.0
"""The identity model for Triton's Python backend, the only one in the server's wheel."""

import triton_python_backend_utils as backend


def answer(request):
    tensor = backend.get_input_tensor_by_name(request, "INPUT")
    return backend.InferenceResponse([backend.Tensor("OUTPUT", tensor.as_numpy())])


class TritonPythonModel:
    def execute(self, requests):
        return [answer(request) for request in requests]
