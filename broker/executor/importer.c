/* SPDX-License-Identifier: Apache-2.0 */
/*
 * importer.c - see importer.h.
 *
 * Each message is done with before the next one is read: nothing of the client's is open in between. Where that cannot be said
 * (a copy that may still run, memory that does not close, a lost context), the process ends, and with it all that it had.
 */
#define _GNU_SOURCE 1
#include "broker/executor/importer.h"
#include "broker/executor/executor.h"
#include "shm/device/slab.h"
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

struct importer {
	struct inf_driver driver;
	const char *uuid;
	CUdevice device;
	CUcontext context;
	CUstream stream; /* NULL = nothing is open yet */
	struct {
		uint32_t region;
		struct inf_slab slab; /* address 0 = unused */
	} twins[INF_REGIONS];
	struct inf_ctl_fetched answer;
};

static int refuse(struct importer *importer, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int refuse(struct importer *importer, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(importer->answer.text, sizeof(importer->answer.text), format, args);
	va_end(args);
	importer->answer.error = error;
	return error;
}

static void say(struct importer *importer)
{
	if (inf_ctl_send(EXECUTOR_SOCKET_FD, &importer->answer, NULL, 0, false))
		_exit(0);
}

/* What refuse() was told goes to the client, once this process is gone. */
static void __attribute__((noreturn)) end(struct importer *importer, int status)
{
	executor_log("importer ends: %s", importer->answer.text);
	importer->answer.ends = 1;
	say(importer);
	_exit(status);
}

/* 0, or a negative errno with its text. Ends the process where the device is lost to it. */
static int judge(struct importer *importer, CUresult result, const char *what)
{
	if (!result)
		return 0;
	refuse(importer, inf_driver_errno(result), "%s: %s", what, inf_driver_error(&importer->driver, result));
	if (inf_driver_is_fatal(result))
		end(importer, INF_EXIT_DEVICE_LOST);
	return importer->answer.error;
}

/* For what must not fail: what is still in use then is not known. */
static void must(struct importer *importer, CUresult result, const char *what)
{
	if (judge(importer, result, what))
		end(importer, INF_EXIT_DEVICE_LOST);
}

/* --- the device ---------------------------------------------------------------------------------------------------------- */

static void open_device(struct importer *importer)
{
	const struct inf_driver *driver = &importer->driver;
	char text[INF_DRIVER_TEXT_BYTES];
	int r;

	if (importer->stream)
		return;
	r = inf_driver_open(&importer->driver, NULL, text);
	if (!r)
		r = inf_driver_find_device(driver, importer->uuid, &importer->device, text);
	if (!r && !inf_driver_has_ipc(driver)) {
		r = -EOPNOTSUPP;
		snprintf(text, sizeof(text), "the broker's CUDA driver opens no memory of other processes");
	}
	if (r) {
		refuse(importer, r, "%.150s", text);
		end(importer, 1);
	}
	/* Whoever waits for a client sleeps. */
	must(importer, driver->context_flags(importer->device, CU_CTX_SCHED_BLOCKING_SYNC), "opening the device");
	must(importer, driver->context_retain(&importer->context, importer->device), "opening the device");
	must(importer, driver->context_set(importer->context), "opening the device");
	must(importer, driver->stream_create(&importer->stream, CU_STREAM_NON_BLOCKING, 0), "opening the device");
}

static int map_twin(struct importer *importer, int socket_fd, struct inf_slab *ret_slab)
{
	struct inf_slab slab = { 0 };
	struct inf_ctl_slab msg;
	int fd, r = inf_ctl_peek_slab(socket_fd, &msg, &fd);

	if (r)
		return refuse(importer, -ESTALE, "the session's device memory is not to be found");
	if (strncmp(msg.uuid, importer->uuid, sizeof(msg.uuid)))
		r = refuse(importer, -ESTALE, "the session's device memory is of another device");
	else
		r = judge(importer, inf_slab_map(&importer->driver, importer->device, fd, msg.bytes, &slab),
			  "mapping the session's device memory");
	if (!r)
		*ret_slab = slab;
	close(fd);
	return r;
}

/* The twin of a region: mapped the first time, and kept. NULL: refused. */
static const struct inf_slab *find_twin(struct importer *importer, uint32_t region, int socket_fd)
{
	size_t at = 0;

	while (at < INF_REGIONS && importer->twins[at].slab.address && importer->twins[at].region != region)
		at++;
	if (at == INF_REGIONS) {
		refuse(importer, -ENOSPC, "a session has no more than %u regions", INF_REGIONS);
		return NULL;
	}
	if (!importer->twins[at].slab.address && map_twin(importer, socket_fd, &importer->twins[at].slab))
		return NULL;
	importer->twins[at].region = region;
	return &importer->twins[at].slab;
}

/* --- the copy ------------------------------------------------------------------------------------------------------------ */

/* Lies that within what was opened? A small allocation brings its neighbours along, which are the client's as well. */
static int check_range(struct importer *importer, CUdeviceptr from, const struct inf_ctl_fetch *msg)
{
	CUdeviceptr base;
	size_t bytes, room;
	int r = judge(importer, importer->driver.address_range(&base, &bytes, from), "the size of the memory");

	if (r)
		return r;
	room = from - base < bytes ? bytes - (from - base) : 0;
	if (msg->from_offset <= room && msg->bytes <= room - msg->from_offset)
		return 0;
	return refuse(importer, -EFAULT, "%llu bytes at %llu lie outside of the memory, which has %zu", (unsigned long long)msg->bytes,
		      (unsigned long long)msg->from_offset, room);
}

/* Nothing is queued any more when it returns. */
static int copy(struct importer *importer, CUdeviceptr to, CUdeviceptr from, uint64_t bytes, CUevent event)
{
	const struct inf_driver *driver = &importer->driver;
	int r = event ? judge(importer, driver->stream_wait_event(importer->stream, event, 0), "waiting for the event") : 0;

	if (!r)
		r = judge(importer, driver->copy(to, from, bytes, importer->stream), "copying");
	must(importer, driver->stream_synchronize(importer->stream), "copying");
	return r;
}

static int copy_after(struct importer *importer, CUdeviceptr to, CUdeviceptr from, const struct inf_ctl_fetch *msg)
{
	CUipcEventHandle handle;
	CUevent event;
	int r;

	if (!(msg->flags & INF_IMPORT_EVENT))
		return copy(importer, to, from, msg->bytes, NULL);
	memcpy(&handle, msg->event, sizeof(handle));
	r = judge(importer, importer->driver.ipc_open_event(&event, handle), "opening the event");
	if (r)
		return r;
	r = copy(importer, to, from, msg->bytes, event);
	must(importer, importer->driver.event_destroy(event), "closing the event");
	return r;
}

static int fetch(struct importer *importer, const struct inf_ctl_fetch *msg, int socket_fd)
{
	const struct inf_slab *twin = find_twin(importer, msg->region, socket_fd);
	CUipcMemHandle handle;
	CUdeviceptr from;
	int r;

	if (!twin)
		return importer->answer.error;
	if (msg->offset > twin->bytes || msg->bytes > twin->bytes - msg->offset)
		return refuse(importer, -EFAULT, "the copy ends behind the session's device memory");
	memcpy(&handle, msg->memory, sizeof(handle));
	r = judge(importer, importer->driver.ipc_open_memory(&from, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), "opening the memory");
	if (r)
		return r;
	r = check_range(importer, from, msg);
	if (!r)
		r = copy_after(importer, twin->address + msg->offset, from + msg->from_offset, msg);
	must(importer, importer->driver.ipc_close_memory(from), "closing the memory");
	return r;
}

int importer_run(const char *device)
{
	static struct importer importer;
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX], r;
	unsigned int n_fds;

	/* Also while it waits inside the driver, where nobody reads the socket. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	importer.uuid = device ? device : "cuda";
	for (;;) {
		r = inf_ctl_recv(EXECUTOR_SOCKET_FD, INF_CTL_FROM_FRONT_TO_IMPORTER, &msg, fds, &n_fds, false);
		if (r)
			return r == INF_CTL_E_CLOSED || r == -ECONNRESET ? 0 : 1;
		inf_ctl_init(&importer.answer, INF_CTL_FETCHED, 0);
		open_device(&importer);
		fetch(&importer, &msg.fetch, fds[0]);
		close(fds[0]);
		say(&importer);
	}
}
