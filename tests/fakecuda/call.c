/* SPDX-License-Identifier: Apache-2.0 */
/* call.c - how every call begins and ends, and the handles that calls are given. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <stdlib.h>
#include <unistd.h>

#define BUCKETS 256u

struct fake fake = { .lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER };
_Thread_local struct pending_fault pending_fault;
_Thread_local bool is_in_host_function;
_Thread_local uint64_t current_handle;

static struct object *buckets[BUCKETS];
static uint64_t last_id;

/* What comes after the faults: may this call be made here at all? */
static CUresult check_place(enum call call, unsigned int needs, struct context **ret_context)
{
	const char *name = call_name(call);

	if (fake.is_child) {
		violation("%s in a child of fork(), whose parent had the driver", name);
		return CUDA_ERROR_NOT_INITIALIZED;
	}
	if (needs & NEEDS_INIT && !fake.is_initialized)
		return CUDA_ERROR_NOT_INITIALIZED;
	if (needs & NEEDS_INIT && is_in_host_function) {
		violation("%s inside a host function", name);
		return CUDA_ERROR_NOT_PERMITTED;
	}
	*ret_context = context_find(current_handle);
	if ((needs & NEEDS_CONTEXT) != NEEDS_CONTEXT)
		return (needs & NEEDS_NO_ERROR) == NEEDS_NO_ERROR && *ret_context ? (*ret_context)->error : CUDA_SUCCESS;
	if (!*ret_context) {
		violation("%s without a current context", name);
		return current_handle ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_ERROR_INVALID_CONTEXT;
	}
	if ((*ret_context)->error)
		return (*ret_context)->error;
	return needs & IS_UNSAFE_IN_CAPTURE ? capture_forbids(*ret_context, name) : CUDA_SUCCESS;
}

CUresult call_begin(enum call call, unsigned int needs, struct context **ret_context)
{
	CUresult result;

	pthread_mutex_lock(&fake.lock);
	ledger->calls++;
	call_counts[call]++;
	pending_fault = (struct pending_fault){ 0 };
	result = fault_of(call, call_counts[call], needs & IS_QUEUED);
	if (!result)
		result = check_place(call, needs, ret_context);
	if (result)
		pthread_mutex_unlock(&fake.lock);
	return result;
}

CUresult call_end(CUresult result)
{
	pthread_mutex_unlock(&fake.lock);
	return result;
}

/* --- handles ------------------------------------------------------------------------------------------------------ */

uint64_t handle_new(enum kind kind)
{
	return 0xfa00000000000000ull | (uint64_t)kind << 48 | ++last_id;
}

static struct object **bucket_of(uint64_t handle)
{
	return &buckets[handle % BUCKETS];
}

void object_add(struct object *object, enum kind kind, struct context *context)
{
	struct object **bucket;

	object->handle = handle_new(kind);
	object->kind = kind;
	object->context = context;
	bucket = bucket_of(object->handle);
	object->next = *bucket;
	*bucket = object;
}

void object_remove(struct object *object)
{
	struct object **at = bucket_of(object->handle);

	while (*at != object)
		at = &(*at)->next;
	*at = object->next;
}

void *object_find(enum kind kind, uint64_t handle)
{
	struct object *object = *bucket_of(handle);

	while (object && (object->kind != kind || object->handle != handle))
		object = object->next;
	return object;
}

void *object_get(enum kind kind, uint64_t handle, const char *what)
{
	static const char *const names[KINDS] = {
		[KIND_CONTEXT] = "context", [KIND_STREAM] = "stream",	  [KIND_EVENT] = "event",
		[KIND_MODULE] = "module",   [KIND_FUNCTION] = "function", [KIND_GRAPH] = "graph",
		[KIND_EXEC] = "graph exec", [KIND_HANDLE] = "memory handle",
	};
	void *object = object_find(kind, handle);
	bool was_one = handle >> 48 == (0xfa00u | kind) && (handle & 0xffffffffffffull) <= last_id;

	if (!object)
		violation("%s: %s %#llx %s", what, names[kind], (unsigned long long)handle,
			  was_one ? "has been destroyed" : handle ? "is none" : "is NULL");
	return object;
}

struct object *object_next(enum kind kind, const struct context *context, const struct object *after)
{
	uint64_t i = after ? after->handle % BUCKETS : 0;
	struct object *object = after ? after->next : buckets[0];

	for (;;) {
		for (; object; object = object->next)
			if (object->kind == kind && object->context == context)
				return object;
		if (++i == BUCKETS)
			return NULL;
		object = buckets[i];
	}
}

/* --- fork ---------------------------------------------------------------------------------------------------------- */

static void before_fork(void)
{
	pthread_mutex_lock(&fake.lock);
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&fake.lock);
}

/* Its streams have no threads: as on the real one, nothing works there once the parent had begun. */
static void after_fork_in_child(void)
{
	fake.is_child = fake.is_initialized;
	pthread_mutex_unlock(&fake.lock);
}

static void __attribute__((constructor)) watch_forks(void)
{
	pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}
