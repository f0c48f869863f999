/* SPDX-License-Identifier: Apache-2.0 */
/*
 * npy.h - NumPy's .npy files (numpy.lib.format, versions 1.0 to 3.0), little-endian and row-major.
 */
#ifndef SHMCTL_NPY_H
#define SHMCTL_NPY_H

#include <inf/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct npy {
	uint8_t dtype; /* enum inf_dtype; INF_DTYPE_NONE: 2 bytes of no kind that NumPy knows (bfloat16 is saved so) */
	uint32_t rank;
	int64_t dims[INF_RANK_MAX];
	uint64_t n_bytes; /* of the data that follow */
};

#define NPY_ERROR_BYTES 160

/* Reads the header; `file` stands at the data then. 0, or -EBADMSG with one line in `error`. */
int npy_read_head(FILE *file, struct npy *ret_npy, char error[NPY_ERROR_BYTES]);

/* Writes a whole file. bfloat16 is written as two bytes of no kind. 0 or -errno. */
int npy_write(FILE *file, enum inf_dtype dtype, uint32_t rank, const int64_t *dims,
	      const void *data, uint64_t n_bytes);

#endif /* SHMCTL_NPY_H */
