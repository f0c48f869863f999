/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event.c - events. Each record is an object of its own, which waits refer to: recording again changes what later waits mean,
 * not what earlier ones meant, and an event can be destroyed while streams still wait for it, all as on the real one. Of
 * one that other processes may open, these see the number of its last record, and of the last one that is done.
 */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <stdlib.h>

#define EVENT_FLAGS 0x7u

void event_end(struct event *event)
{
	object_remove(&event->object);
	record_unref(event->last);
	shared_event_unref(event->shared);
	free(event);
	ledger->events--;
}

CUresult cuEventCreate(CUevent *ret, unsigned int flags)
{
	struct event *event;

	BEGIN(cuEventCreate, NEEDS_CONTEXT);
	if (flags & ~EVENT_FLAGS || !ret)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	if ((flags & (CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING)) == CU_EVENT_INTERPROCESS) {
		violation("cuEventCreate: one for other processes cannot take the time");
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	event = calloc(1, sizeof(*event));
	if (!event)
		abort();
	if (flags & CU_EVENT_INTERPROCESS && !(event->shared = shared_event_new())) {
		free(event);
		return call_end(CUDA_ERROR_OUT_OF_MEMORY);
	}
	object_add(&event->object, KIND_EVENT, context);
	ledger->events++;
	*ret = (CUevent)(uintptr_t)event->object.handle;
	return call_end(CUDA_SUCCESS);
}

CUresult cuEventDestroy_v2(CUevent handle)
{
	struct event *event;

	BEGIN(cuEventDestroy_v2, NEEDS_CONTEXT);
	event = object_get(KIND_EVENT, (uintptr_t)handle, "cuEventDestroy");
	if (!event)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (event->shared)
		shared_event_check_end(event->shared);
	event_end(event);
	return call_end(CUDA_SUCCESS);
}

CUresult cuEventRecord(CUevent handle, CUstream stream_handle)
{
	struct stream *stream;
	struct event *event;
	CUresult result;
	struct op *op;

	BEGIN(cuEventRecord, NEEDS_CONTEXT | IS_QUEUED);
	event = object_get(KIND_EVENT, (uintptr_t)handle, "cuEventRecord");
	if (!event)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	stream = stream_get(stream_handle, context, "cuEventRecord", &result);
	if (!stream)
		return call_end(result);
	if (event->object.context != context) {
		violation("cuEventRecord: the event belongs to another context");
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	}
	if (event->shared && (stream->capture || shared_event_is_other(event->shared))) {
		violation("cuEventRecord: of an event of another process, or for one in a capture");
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	}
	if (stream->capture)
		return call_end(capture_record(stream, event));
	record_unref(event->last);
	event->last = record_new();
	event->capture_id = 0;
	if (event->shared) {
		event->last->shared = shared_event_ref(event->shared);
		event->last->number = shared_event_record(event->shared);
	}
	op = op_new(OP_RECORD);
	op->record = record_ref(event->last);
	stream_put(stream, op);
	return call_end(CUDA_SUCCESS);
}

/* Of an event that was recorded in a stream that was captured. */
static CUresult deny(const struct event *event, const char *what)
{
	if (capture_is_live(event->capture_id))
		capture_breaks_by_event(event, what);
	else
		violation("%s: the event was last recorded in a capture, which is over", what);
	return ERROR_CAPTURED_EVENT;
}

/* Until what the other process has recorded by now is done there. */
static CUresult wait_for_other(struct stream *stream, struct event *event)
{
	uint64_t number = shared_event_recorded(event->shared);
	struct op *op;

	if (stream->capture)
		return capture_breaks(stream, "cuStreamWaitEvent for another process");
	if (!number)
		return CUDA_SUCCESS;
	op = op_new(OP_WAIT_OTHER);
	op->shared = shared_event_ref(event->shared);
	op->value = number;
	shared_event_waits(op->shared, 1);
	stream_put(stream, op);
	return CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream stream_handle, CUevent handle, unsigned int flags)
{
	struct stream *stream;
	struct event *event;
	CUresult result;
	struct op *op;

	BEGIN(cuStreamWaitEvent, NEEDS_CONTEXT | IS_QUEUED);
	event = object_get(KIND_EVENT, (uintptr_t)handle, "cuStreamWaitEvent");
	if (!event)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	stream = stream_get(stream_handle, context, "cuStreamWaitEvent", &result);
	if (!stream)
		return call_end(result);
	if (flags)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	if (event->shared && shared_event_is_other(event->shared))
		return call_end(wait_for_other(stream, event));
	if (event->capture_id && capture_is_live(event->capture_id))
		return call_end(capture_wait(stream, event));
	if (event->capture_id)
		return call_end(deny(event, "cuStreamWaitEvent"));
	if (stream->capture) {
		capture_breaks(stream, "cuStreamWaitEvent for a record outside of the capture");
		return call_end(ERROR_CAPTURE_ISOLATION);
	}
	/* Never recorded: there is nothing to wait for. */
	if (!event->last)
		return call_end(CUDA_SUCCESS);
	op = op_new(OP_WAIT);
	op->record = record_ref(event->last);
	stream_put(stream, op);
	return call_end(CUDA_SUCCESS);
}

CUresult cuEventQuery(CUevent handle)
{
	struct event *event;

	BEGIN(cuEventQuery, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	event = object_get(KIND_EVENT, (uintptr_t)handle, "cuEventQuery");
	if (!event)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (event->shared && shared_event_is_other(event->shared))
		return call_end(shared_event_is_done(event->shared, shared_event_recorded(event->shared)) ? CUDA_SUCCESS :
												    CUDA_ERROR_NOT_READY);
	if (event->capture_id)
		return call_end(deny(event, "cuEventQuery"));
	if (!event->last)
		return call_end(CUDA_SUCCESS);
	if (!event->last->is_done)
		return call_end(CUDA_ERROR_NOT_READY);
	clock_join(host_clock(), &event->last->clock);
	return call_end(CUDA_SUCCESS);
}

CUresult cuEventSynchronize(CUevent handle)
{
	struct event *event;

	BEGIN(cuEventSynchronize, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	event = object_get(KIND_EVENT, (uintptr_t)handle, "cuEventSynchronize");
	if (!event)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (event->shared && shared_event_is_other(event->shared)) {
		violation("cuEventSynchronize: of another process's event: not modelled");
		return call_end(CUDA_ERROR_NOT_SUPPORTED);
	}
	if (event->capture_id)
		return call_end(deny(event, "cuEventSynchronize"));
	if (!event->last)
		return call_end(CUDA_SUCCESS);
	return call_end(record_wait(record_ref(event->last), event->object.context));
}
