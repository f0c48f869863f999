/* SPDX-License-Identifier: Apache-2.0 */
/* instance.h - a thread that runs batches: one after another on the CPU, two at a time on a device. */
#ifndef BROKER_EXECUTOR_INSTANCE_H
#define BROKER_EXECUTOR_INSTANCE_H

#include "broker/executor/executor.h"
#include "broker/executor/queue.h"

#define INSTANCE_FLIGHTS 2u /* batches of an instance that are on a device at once */

struct assembly;
struct flight;
struct work;

struct instance {
	struct executor *executor;
	uint32_t idx;
	struct queue queue;
	uint64_t last_ns; /* how long the last batch took */
	uint64_t no_spin_until_ns; /* a yield took too long */
	struct assembly *assembly; /* on the CPU, else NULL */
	struct flight *flights;	   /* INSTANCE_FLIGHTS of them, on a device, else NULL */
	struct work *work;	   /* device_instance.c's */
};

/*
 * Maps the regions of an instance (the fds stay the caller's, the bell's is kept) and starts its thread. Control thread.
 * 0 or -errno.
 */
int instance_start(struct executor *executor, uint32_t idx, int dispatch_fd, int done_fd, int bell_fd);

/* Looks for a batch for a while; true where there is one. The instance's thread. */
bool instance_spin(struct instance *instance);

/* The model that a batch names, NULL = none. Any thread that took the batch. */
const struct loaded_model *instance_model(const struct instance *instance, const struct batch *batch);

/* device_instance.c: makes its flights; 0 or -errno. And the thread. */
int device_instance_open(struct instance *instance);
void *device_instance_main(void *arg);

#endif /* BROKER_EXECUTOR_INSTANCE_H */
