/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pins.h - registering clients' memory with the driver, so that the device reads and writes it where it lies.
 *
 * That takes about 0.1 s per GB and may hold up other callers of the driver, so a thread does it in the background; what
 * is not (yet) pinned goes through an instance's own pinned memory with one copy more.
 */
#ifndef BROKER_EXECUTOR_PINS_H
#define BROKER_EXECUTOR_PINS_H

#include "broker/executor/device.h"

/* A mapping that shall be pinned. */
struct pin;

/* Starts the thread. 0, or a negative errno. Without it the others do nothing. */
int pins_start(const struct device *device);

/* Asks for it: control thread. NULL where nothing is to be pinned, or without memory. */
struct pin *pins_add(void *address, uint64_t bytes, bool writable);

/* Ends it, waiting where the thread is at it just now: control thread, before the mapping goes. NULL is allowed. */
void pins_remove(struct pin *pin);

/* May the device reach it now? NULL = no. Any thread. */
bool pin_is_done(const struct pin *pin);

#endif /* BROKER_EXECUTOR_PINS_H */
