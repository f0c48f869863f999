/* SPDX-License-Identifier: Apache-2.0 */
/* image.h - the kernels, compiled for every architecture of the toolkit and as PTX, for cuModuleLoadData(). */
#ifndef BROKER_CUDA_IMAGE_H
#define BROKER_CUDA_IMAGE_H

/* Where it was built without nvcc: a text that every driver but the software one refuses. */
extern const unsigned char inf_kernels_image[];

#endif /* BROKER_CUDA_IMAGE_H */
