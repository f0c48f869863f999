/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - see device.h. */
#include "broker/executor/device.h"
#include "broker/executor/executor.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static CUresult open_context(struct device *device)
{
	const struct inf_driver *driver = &device->driver;
	CUuuid uuid;
	CUresult result = driver->device_name(device->model, sizeof(device->model), device->handle);
	int value = 0;

	if (!result)
		result = driver->device_uuid(&uuid, device->handle);
	if (result)
		return result;
	inf_driver_uuid_text(&uuid, device->uuid);
	snprintf(device->name, sizeof(device->name), "cuda:%d", device->handle);
	/* An older driver does not know the question: then the answer is no. */
	if (!driver->device_attribute(&value, CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, device->handle))
		device->can_register_read_only = value;
	/* Threads that wait for the device sleep: the cores belong to clients and to other instances. */
	result = driver->context_flags(device->handle, CU_CTX_SCHED_BLOCKING_SYNC);
	if (!result)
		result = driver->context_retain(&device->context, device->handle);
	return result ? result : driver->context_set(device->context);
}

int device_open(struct device *device, const char *name, char text[INF_DRIVER_TEXT_BYTES])
{
	CUresult result;
	int r = inf_driver_open(&device->driver, NULL, text);

	if (!r)
		r = inf_driver_find_device(&device->driver, name, &device->handle, text);
	if (r)
		return r;
	result = open_context(device);
	if (result)
		snprintf(text, INF_DRIVER_TEXT_BYTES, "%s cannot be used: %s", name, inf_driver_error(&device->driver, result));
	device->backend = (struct inf_backend_device){
		.size = sizeof(device->backend),
		.ordinal = device->handle,
		.context = device->context,
		.driver = &device->driver,
	};
	return inf_driver_errno(result);
}

void device_enter(const struct device *device)
{
	device_ok(device, device->driver.context_set(device->context), "entering the context");
}

bool device_ok(const struct device *device, CUresult result, const char *what)
{
	if (!result)
		return true;
	executor_log("%s (%s): %s: %s", device->name, device->uuid, what, inf_driver_error(&device->driver, result));
	if (!inf_driver_is_fatal(result))
		return false;
	executor_log("%s is lost to this process, which ends", device->name);
	_exit(DEVICE_EXIT);
}
