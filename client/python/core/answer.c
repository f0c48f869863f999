/* SPDX-License-Identifier: Apache-2.0 */
/*
 * answer.c - what a request answers: arrays over its results, or why there are none.
 *
 * An answer is a view while views hold at most half of the rows that the model has memory for, and a
 * private copy beyond: programs that keep answers, or that await the next one while they still hold the
 * last, cannot run out of memory for answers, whatever the depth.
 */
#include "client/python/core/core.h"

int request_raise(struct request *request)
{
	if (request->error == Py_None) {
		PyErr_NoMemory();
		return -1;
	}
	if (request->error) {
		PyErr_SetObject((PyObject *)Py_TYPE(request->error), request->error);
		return -1;
	}
	if (request->state == REQUEST_CANCELLED)
		return core_raise("cancelled", "(OO)", request->handle->model_name,
				  request->was_awaited ? Py_True : Py_False);
	return core_raise("from_status", "(iOIO)", (int)request->status, request->handle->model_name,
			  request->retry_after_us, request->maybe_executed ? Py_True : Py_False);
}

static PyObject *copy_of(PyObject *array)
{
	PyObject *copy = array ? PyObject_CallMethod(array, "copy", NULL) : NULL;
	PyObject *none = copy ? PyObject_CallMethod(copy, "setflags", "O", Py_False) : NULL;

	Py_XDECREF(array);
	if (!none)
		Py_CLEAR(copy);
	Py_XDECREF(none);
	return copy;
}

static PyObject *output_array(struct request *request, uint32_t idx, bool must_copy)
{
	PyObject *array;

	if (request->is_on_device)
		return device_output(request, idx);
	array = tensor_as_array(tensor_output(request, idx, request->is_single), &request->handle->outputs[idx]);
	return must_copy ? copy_of(array) : array;
}

/* A tuple with names, for models with several outputs. */
static PyObject *outputs_tuple(struct request *request, bool must_copy)
{
	struct handle *handle = request->handle;
	uint32_t n = handle->signature->n_outputs;
	PyObject *names = PyTuple_New(n), *arrays = PyTuple_New(n), *result = NULL;

	for (uint32_t i = 0; names && arrays && i < n; i++) {
		PyObject *array = output_array(request, i, must_copy);

		if (!array)
			goto out;
		PyTuple_SetItem(arrays, i, array);
		PyTuple_SetItem(names, i, Py_NewRef(handle->outputs[i].name));
	}
	if (names && arrays)
		result = PyObject_CallMethod(core_convert, "outputs", "OO", names, arrays);
out:
	Py_XDECREF(names);
	Py_XDECREF(arrays);
	return result;
}

static PyObject *make_answer(struct request *request, bool must_copy)
{
	return request->handle->signature->n_outputs == 1 ? output_array(request, 0, must_copy)
							  : outputs_tuple(request, must_copy);
}

/* A private answer. Making it runs Python, so others may run meanwhile; those that want its rows shall wait for us. */
static PyObject *copy_answer(struct request *request)
{
	PyObject *answer;

	request->handle->rows_due += request->rows;
	request->n_copying++;
	answer = make_answer(request, true);
	request->n_copying--;
	request->handle->rows_due -= request->rows;
	return answer;
}

/* Moves the answer to private memory, unless another thread took a view of it meanwhile. False with an error set. */
static bool copy_out(struct request *request)
{
	PyObject *answer = copy_answer(request);

	if (!answer)
		return false;
	if (request->n_views_out || request->answer) {
		Py_DECREF(answer);
		return true;
	}
	request->answer = answer;
	request_give(request);
	return true;
}

void request_harvest(struct handle *handle, uint32_t rows)
{
	struct request *request = handle->ended, *next;

	for (; request && !handle_has_room(handle, rows); request = next) {
		next = request->next;
		if (request->n_views_out)
			continue;
		/* Making arrays runs Python, which may change the list: begin anew after each. */
		Py_INCREF(OBJECT(request));
		request_unlist(request);
		if (!copy_out(request))
			PyErr_Clear();
		if (!request->answer) {
			/* Without memory it has no part in the list. */
			if (request->req)
				request_enlist(request, &handle->ended);
			next = NULL;
		} else {
			next = handle->ended;
		}
		Py_DECREF(OBJECT(request));
	}
}

/* Is there a right to hold it in shared memory? */
static bool may_view(const struct request *request)
{
	const struct handle *handle = request->handle;

	return handle->rows_viewed + request->rows <= handle->depth / 2;
}

PyObject *request_answer(struct request *request)
{
	if (request->state != REQUEST_ENDED || request->error || request->status != INF_OK) {
		request_raise(request);
		return NULL;
	}
	if (request->answer)
		return Py_NewRef(request->answer);
	if (!request->req) {
		core_raise("given_back", "()");
		return NULL;
	}
	/* Nobody has a copy of what is on the device. */
	if (request->is_on_device)
		return make_answer(request, false);
	/* While another thread copies it out the views are those of that copy: they count for nothing. */
	if (!request->n_copying && (request->n_views_out || may_view(request)))
		return make_answer(request, false);
	if (request->n_copying || request->is_explicit)
		return copy_answer(request);
	if (!copy_out(request))
		return NULL;
	return request->answer ? Py_NewRef(request->answer) : make_answer(request, false);
}
