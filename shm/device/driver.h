/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.h - the one table through which executor and library reach a CUDA driver.
 *
 * The driver is looked for when it is asked for, never linked: everything builds and starts without one. A test puts a
 * software driver in its place by naming another library ($INF_CUDA_LIBRARY).
 */
#ifndef SHM_DEVICE_DRIVER_H
#define SHM_DEVICE_DRIVER_H

#include "shm/device/abi.h"
#include <stdbool.h>

#define INF_DRIVER_LIBRARY "libcuda.so.1"
#define INF_DRIVER_VERSION_MIN 12000 /* CUDA 12.0: shareable memory with CUDA_VISIBLE_DEVICES */
#define INF_DRIVER_TEXT_BYTES 200
#define INF_UUID_TEXT_BYTES 41 /* "GPU-" and 36 characters, as nvidia-smi -L prints them */

struct inf_driver {
#define INF_DRIVER_MEMBER(member, symbol, params) CUresult(*member) params;
	INF_DRIVER_CALLS(INF_DRIVER_MEMBER)
#undef INF_DRIVER_MEMBER
	/* NULL where the driver lacks them: inf_driver_has_ipc() */
#define INF_DRIVER_MEMBER(member, symbol, params) CUresult(*member) params;
	INF_DRIVER_IPC_CALLS(INF_DRIVER_MEMBER)
#undef INF_DRIVER_MEMBER
	int version; /* 1000 x major + 10 x minor of CUDA */
};

/*
 * inf_driver_open - finds the driver and fills the table; cuInit() has been called.
 * @library: NULL = $INF_CUDA_LIBRARY (not in set-uid programs), else INF_DRIVER_LIBRARY
 * @text: gets one line that says why not, and what would help; INF_DRIVER_TEXT_BYTES
 * The library stays loaded for the life of the process. Any thread, once.
 * Errors: -ENOENT (no driver), -ENOSYS (too old: it lacks a call), -ENODEV (no device), -EACCES (no permission for
 * the device files), -EIO (it does not start).
 */
int inf_driver_open(struct inf_driver *driver, const char *library, char *text);

/* "CUDA_ERROR_OUT_OF_MEMORY"; never NULL. */
const char *inf_driver_error(const struct inf_driver *driver, CUresult error);

/* May memory of cudaMalloc be opened by other processes? */
bool inf_driver_has_ipc(const struct inf_driver *driver);

/* A negative errno for what a call returned; 0 for success. */
int inf_driver_errno(CUresult error);

/*
 * True where an error is the device's or the context's, and every later call will fail as well ("sticky"): only a new
 * process helps.
 */
bool inf_driver_is_fatal(CUresult error);

/* "GPU-0a1b2c3d-..." */
void inf_driver_uuid_text(const CUuuid *uuid, char text[INF_UUID_TEXT_BYTES]);

/*
 * inf_driver_find_device - "cuda" or "cuda:0" (an ordinal) or "GPU-..." (a UUID, or as much of it as is unique).
 * Errors: -EINVAL (none of those), -ENODEV (no such device), -EEXIST (several), or as inf_driver_errno(); `text` says.
 */
int inf_driver_find_device(const struct inf_driver *driver, const char *name, CUdevice *ret_device, char *text);

#endif /* SHM_DEVICE_DRIVER_H */
