/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - messages of the front, one after another, on the main thread. */
#define _GNU_SOURCE 1
#include "broker/executor/control.h"
#include "broker/executor/device.h"
#include "broker/executor/instance.h"
#include "broker/executor/loader.h"
#include "broker/executor/models.h"
#include "broker/executor/regions.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void executor_send(struct executor *executor, const void *msg)
{
	int r;

	pthread_mutex_lock(&executor->send_lock);
	r = inf_ctl_send(EXECUTOR_SOCKET_FD, msg, NULL, 0, false);
	pthread_mutex_unlock(&executor->send_lock);
	if (r)
		_exit(0); /* the front is gone: nothing is left to do, and no memory to save */
}

static void say_hello(struct executor *executor)
{
	struct inf_ctl_hello_executor hello;

	inf_ctl_init(&hello, INF_CTL_HELLO_EXECUTOR, 0);
	hello.version = INF_CTL_VERSION;
	hello.n_instances = executor->n_instances;
	hello.n_threads = executor->n_threads;
	snprintf(hello.device, sizeof(hello.device), "%s", executor->device ? executor->device->name : "cpu");
	if (executor->device && executor->device->can_share)
		snprintf(hello.uuid, sizeof(hello.uuid), "%s", executor->device->uuid);
	executor_send(executor, &hello);
}

static int on_instance(struct executor *executor, const struct inf_ctl_instance *msg, const int *fds)
{
	struct inf_ctl_instance_mapped mapped;
	int r = instance_start(executor, msg->instance, fds[0], fds[1], fds[2]);

	close(fds[0]);
	close(fds[1]);
	if (r) {
		executor_log("cannot start instance %u: %s", msg->instance, strerror(-r));
		return r;
	}
	inf_ctl_init(&mapped, INF_CTL_INSTANCE_MAPPED, 0);
	mapped.instance = msg->instance;
	executor_send(executor, &mapped);
	return 0;
}

static void on_attach(struct executor *executor, const struct inf_ctl_attach *msg, int fd)
{
	struct inf_ctl_attached attached;

	inf_ctl_init(&attached, INF_CTL_ATTACHED, 0);
	attached.session = msg->session;
	attached.region = msg->region;
	attached.error = regions_attach(msg->session, msg->region, msg->kind, fd, msg->bytes);
	close(fd);
	executor_send(executor, &attached);
}

static void on_detach(struct executor *executor, const struct inf_ctl_detach *msg)
{
	struct inf_ctl_detached detached;

	regions_detach(msg->session);
	inf_ctl_init(&detached, INF_CTL_DETACHED, 0);
	detached.session = msg->session;
	executor_send(executor, &detached);
}

static int dispatch(struct executor *executor, const union inf_ctl_any *msg, const int *fds)
{
	switch (msg->head.type) {
	case INF_CTL_INSTANCE:
		return on_instance(executor, &msg->instance, fds);
	case INF_CTL_SCAN:
		models_scan(executor);
		return 0;
	case INF_CTL_LOAD:
		loader_push(&msg->load);
		return 0;
	case INF_CTL_UNLOAD:
		loader_unload(executor, msg->unload.model);
		return 0;
	case INF_CTL_ATTACH:
		on_attach(executor, &msg->attach, fds[0]);
		return 0;
	case INF_CTL_DETACH:
		on_detach(executor, &msg->detach);
		return 0;
	default:
		return -EPROTO;
	}
}

int control_run(struct executor *executor)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX], r;
	unsigned int n_fds;

	say_hello(executor);
	do {
		r = inf_ctl_recv(EXECUTOR_SOCKET_FD, INF_CTL_FROM_FRONT_TO_EXECUTOR, &msg, fds, &n_fds, false);
		if (!r)
			r = dispatch(executor, &msg, fds);
	} while (!r);
	if (r == INF_CTL_E_CLOSED || r == -ECONNRESET)
		return 0;
	executor_log("ends: %s", r > 0 ? inf_ctl_fault_name(r) : strerror(-r));
	return 1;
}
