/* SPDX-License-Identifier: Apache-2.0 */
/* warm.h - running a model on a device without batches: for the loader, which warms it up and measures it. */
#ifndef BROKER_EXECUTOR_WARM_H
#define BROKER_EXECUTOR_WARM_H

#include "broker/executor/device.h"
#include "broker/executor/executor.h"

struct warm {
	const struct device *device;
	CUstream stream;
	CUdeviceptr memory;
	uint32_t rows;
	struct inf_backend_tensor inputs[INF_INPUTS_MAX], outputs[INF_OUTPUTS_MAX];
};

/* What warm_open() takes of the device's memory. */
uint64_t warm_bytes(const struct inf_signature *signature, uint32_t rows);

/* Device memory for `rows` rows, with the contents of the host's `inputs`. 0, or a negative errno with a text. */
int warm_open(struct warm *warm, const struct device *device, const struct inf_signature *signature, uint32_t rows,
	      const struct inf_backend_tensor *inputs, char *error, size_t error_bytes);

/* Runs it once, and waits for it; `place` as in graphs.h. 0, or a negative errno with a text. */
int warm_run(struct warm *warm, const struct loaded_model *model, uint32_t instance, uint32_t place, char *error,
	     size_t error_bytes);

void warm_close(struct warm *warm);

#endif /* BROKER_EXECUTOR_WARM_H */
