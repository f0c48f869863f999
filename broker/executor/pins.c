/* SPDX-License-Identifier: Apache-2.0 */
/* pins.c - see pins.h. */
#define _GNU_SOURCE 1
#include "broker/executor/pins.h"
#include "shm/atomics.h"
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* Pinned pages are out of the kernel's reach, and no limit of the kernel's counts them: a quarter of the memory. */
#define SHARE_OF_MEMORY 4u

enum pin_state { PIN_WAITS, PIN_BUSY, PIN_DONE, PIN_NONE };

struct pin {
	struct pin *next; /* while it waits */
	void *address;
	uint64_t bytes;
	bool writable;
	uint32_t state; /* atomic; the lock is held where it changes */
};

static struct {
	const struct device *device;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct pin *first, **last;
	uint64_t bytes, bytes_max; /* pinned, in all */
	bool has_complained;
} pins = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void set_state(struct pin *pin, enum pin_state state)
{
	/* Release: pairs with the acquire in pin_is_done(). */
	inf_store32_release(&pin->state, state);
	pthread_cond_broadcast(&pins.changed);
}

/* Without the lock. */
static bool do_pin(const struct pin *pin)
{
	unsigned int flags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
	CUresult result;

	if (!pin->writable)
		flags |= CU_MEMHOSTREGISTER_READ_ONLY;
	result = pins.device->driver.host_register(pin->address, pin->bytes, flags);
	/* Whatever it is, it will be the same for the next one: one line is enough. */
	if (result && (inf_driver_is_fatal(result) || !pins.has_complained))
		device_ok(pins.device, result, "pinning a client's memory, which is copied once more instead");
	pins.has_complained |= result != CUDA_SUCCESS;
	return !result;
}

static void *pins_main(void *arg)
{
	(void)arg;
	device_enter(pins.device);
	pthread_mutex_lock(&pins.lock);
	for (;;) {
		struct pin *pin = pins.first;
		bool is_done;

		if (!pin) {
			pthread_cond_wait(&pins.changed, &pins.lock);
			continue;
		}
		pins.first = pin->next;
		if (!pins.first)
			pins.last = &pins.first;
		if (pins.bytes + pin->bytes > pins.bytes_max) {
			set_state(pin, PIN_NONE);
			continue;
		}
		pins.bytes += pin->bytes;
		set_state(pin, PIN_BUSY);
		pthread_mutex_unlock(&pins.lock);
		is_done = do_pin(pin);
		pthread_mutex_lock(&pins.lock);
		if (!is_done)
			pins.bytes -= pin->bytes;
		set_state(pin, is_done ? PIN_DONE : PIN_NONE);
	}
	return NULL;
}

int pins_start(const struct device *device)
{
	pthread_t thread;
	int r;

	pins.device = device;
	pins.last = &pins.first;
	pins.bytes_max = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / SHARE_OF_MEMORY;
	r = pthread_create(&thread, NULL, pins_main, NULL);
	if (r)
		return -r;
	pthread_setname_np(thread, "inf-pins");
	return 0;
}

struct pin *pins_add(void *address, uint64_t bytes, bool writable)
{
	struct pin *pin;

	if (!pins.device || (!writable && !pins.device->can_register_read_only))
		return NULL;
	pin = calloc(1, sizeof(*pin));
	if (!pin)
		return NULL;
	pin->address = address;
	pin->bytes = bytes;
	pin->writable = writable;
	pthread_mutex_lock(&pins.lock);
	*pins.last = pin;
	pins.last = &pin->next;
	pthread_cond_broadcast(&pins.changed);
	pthread_mutex_unlock(&pins.lock);
	return pin;
}

static void leave_queue(const struct pin *pin)
{
	struct pin **at = &pins.first;

	while (*at != pin)
		at = &(*at)->next;
	*at = pin->next;
	if (!*at)
		pins.last = at;
}

void pins_remove(struct pin *pin)
{
	if (!pin)
		return;
	pthread_mutex_lock(&pins.lock);
	if (pin->state == PIN_WAITS)
		leave_queue(pin);
	while (pin->state == PIN_BUSY)
		pthread_cond_wait(&pins.changed, &pins.lock);
	if (pin->state == PIN_DONE) {
		device_ok(pins.device, pins.device->driver.host_unregister(pin->address), "unpinning a client's memory");
		pins.bytes -= pin->bytes;
	}
	pthread_mutex_unlock(&pins.lock);
	free(pin);
}

bool pin_is_done(const struct pin *pin)
{
	/* Acquire: pairs with the release in set_state(). */
	return pin && inf_load32_acquire(&pin->state) == PIN_DONE;
}
