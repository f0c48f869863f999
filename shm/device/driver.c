/* SPDX-License-Identifier: Apache-2.0 */
/* driver.c - finding a CUDA driver, and what its errors mean. */
#include "shm/device/driver.h"
#include "shm/device/library.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TEXT(...) snprintf(text, INF_DRIVER_TEXT_BYTES, __VA_ARGS__)

static const struct inf_symbol symbols[] = {
#define INF_DRIVER_SYMBOL(member, symbol, params) { #symbol, offsetof(struct inf_driver, member), false },
	INF_DRIVER_CALLS(INF_DRIVER_SYMBOL)
#undef INF_DRIVER_SYMBOL
#define INF_DRIVER_SYMBOL(member, symbol, params) { #symbol, offsetof(struct inf_driver, member), true },
	INF_DRIVER_IPC_CALLS(INF_DRIVER_SYMBOL)
#undef INF_DRIVER_SYMBOL
};

static const struct inf_library cuda = {
	.name = INF_DRIVER_LIBRARY,
	.variable = "INF_CUDA_LIBRARY",
	.what = "CUDA driver",
	.need = "a driver for CUDA 12.0 or newer",
	.symbols = symbols,
	.n_symbols = sizeof(symbols) / sizeof(symbols[0]),
};

static int start(struct inf_driver *driver, char *text)
{
	CUresult error = driver->init(0);
	int count = 0;

	if (!error)
		error = driver->driver_version(&driver->version);
	if (!error && driver->version < INF_DRIVER_VERSION_MIN) {
		TEXT("the driver is one for CUDA %d.%d: 12.0 or newer is needed", driver->version / 1000,
		     driver->version % 1000 / 10);
		return -ENOSYS;
	}
	if (!error)
		error = driver->device_count(&count);
	if (error == CUDA_ERROR_NO_DEVICE || (!error && !count)) {
		TEXT("the CUDA driver sees no device: is CUDA_VISIBLE_DEVICES empty?");
		return -ENODEV;
	}
	if (error == CUDA_ERROR_NOT_PERMITTED || error == CUDA_ERROR_SYSTEM_NOT_READY) {
		TEXT("%s: may this user open /dev/nvidia* (as a rule the group video)?", inf_driver_error(driver, error));
		return -EACCES;
	}
	if (error) {
		TEXT("the CUDA driver does not start: %s", inf_driver_error(driver, error));
		return -EIO;
	}
	return 0;
}

int inf_driver_open(struct inf_driver *driver, const char *library, char *text)
{
	int r = inf_library_open(&cuda, library, driver, text, INF_DRIVER_TEXT_BYTES);

	/* Not closed on errors: a driver that began to start may have threads. */
	return r ? r : start(driver, text);
}

const char *inf_driver_error(const struct inf_driver *driver, CUresult error)
{
	const char *name;

	return driver->error_name(error, &name) ? "an unknown CUDA error" : name;
}

bool inf_driver_has_ipc(const struct inf_driver *driver)
{
#define INF_DRIVER_IS_THERE(member, symbol, params) &&driver->member
	return true INF_DRIVER_IPC_CALLS(INF_DRIVER_IS_THERE);
#undef INF_DRIVER_IS_THERE
}

int inf_driver_errno(CUresult error)
{
	switch (error) {
	case CUDA_SUCCESS:
		return 0;
	case CUDA_ERROR_OUT_OF_MEMORY:
	case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES:
		return -ENOMEM;
	case CUDA_ERROR_INVALID_VALUE:
	case CUDA_ERROR_INVALID_HANDLE:
		return -EINVAL;
	case CUDA_ERROR_NO_DEVICE:
	case CUDA_ERROR_INVALID_DEVICE:
		return -ENODEV;
	case CUDA_ERROR_NOT_PERMITTED:
		return -EACCES;
	case CUDA_ERROR_NOT_SUPPORTED:
		return -EOPNOTSUPP;
	case CUDA_ERROR_NOT_READY:
		return -EAGAIN;
	default:
		return -EIO;
	}
}

bool inf_driver_is_fatal(CUresult error)
{
	switch (error) {
	case CUDA_ERROR_DEINITIALIZED:
	case CUDA_ERROR_ECC_UNCORRECTABLE:
	case CUDA_ERROR_ILLEGAL_ADDRESS:
	case CUDA_ERROR_LAUNCH_TIMEOUT:
	case CUDA_ERROR_CONTEXT_IS_DESTROYED:
	case CUDA_ERROR_ASSERT:
	case CUDA_ERROR_LAUNCH_FAILED:
	case CUDA_ERROR_UNKNOWN:
		return true;
	default:
		return false;
	}
}

void inf_driver_uuid_text(const CUuuid *uuid, char text[INF_UUID_TEXT_BYTES])
{
	size_t n = (size_t)snprintf(text, INF_UUID_TEXT_BYTES, "GPU-");

	for (unsigned int i = 0; i < 16; i++)
		n += (size_t)snprintf(text + n, INF_UUID_TEXT_BYTES - n, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
				      (unsigned char)uuid->bytes[i]);
}

static int find_by_uuid(const struct inf_driver *driver, const char *name, int count, CUdevice *ret_device, char *text)
{
	int n = 0;

	for (int i = 0; i < count; i++) {
		char known[INF_UUID_TEXT_BYTES];
		CUdevice device;
		CUuuid uuid;

		if (driver->device_get(&device, i) || driver->device_uuid(&uuid, device))
			continue;
		inf_driver_uuid_text(&uuid, known);
		if (strncmp(known, name, strlen(name)))
			continue;
		*ret_device = device;
		n++;
	}
	if (n == 1)
		return 0;
	TEXT("%s fits %d of %d devices", name, n, count);
	return n ? -EEXIST : -ENODEV;
}

int inf_driver_find_device(const struct inf_driver *driver, const char *name, CUdevice *ret_device, char *text)
{
	unsigned int ordinal = 0;
	int count = 0, n = 0;
	CUresult error = driver->device_count(&count);

	if (error) {
		TEXT("%s", inf_driver_error(driver, error));
		return inf_driver_errno(error);
	}
	if (!strncmp(name, "GPU-", 4))
		return find_by_uuid(driver, name, count, ret_device, text);
	if (strcmp(name, "cuda") && (sscanf(name, "cuda:%4u%n", &ordinal, &n) != 1 || name[n])) {
		TEXT("\"%.60s\" is no device: cpu, cuda, cuda:N or GPU-UUID", name);
		return -EINVAL;
	}
	if (ordinal >= (unsigned int)count) {
		TEXT("there is no device cuda:%u, only %d of them", ordinal, count);
		return -ENODEV;
	}
	error = driver->device_get(ret_device, (int)ordinal);
	if (error)
		TEXT("cuda:%u: %s", ordinal, inf_driver_error(driver, error));
	return inf_driver_errno(error);
}
