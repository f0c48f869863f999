/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - the closed list of statuses, for people. */
#include "shm/status.h"
#include <inf/types.h>

static const struct {
	const char *name, *text;
} statuses[INF_STATUS_N] = {
	[INF_OK] = { "OK", "The model ran; read the outputs." },
	[INF_BAD_SHAPE] = { "BAD_SHAPE", "Rank, dimensions, rows or size differ from the model's signature: compare with "
					 "`shmctl models`." },
	[INF_BAD_DTYPE] = { "BAD_DTYPE", "The element type differs from the model's signature: convert the input." },
	[INF_BAD_RANGE] = { "BAD_RANGE", "An input holds a value that its signature forbids: an integer out of range, a NaN or an infinity." },
	[INF_BAD_MEMORY] = { "BAD_MEMORY", "Region, offset, alignment or overlap of a tensor is wrong: use memory from "
					   "inf_input()." },
	[INF_NO_MODEL] = { "NO_MODEL", "The model is unknown, was removed, or came back with another signature: open it "
				       "again." },
	[INF_LOADING] = { "LOADING", "The model is not ready yet: try again in a moment." },
	[INF_NOT_ALLOWED] = { "NOT_ALLOWED", "This user may not do that, or this broker does not offer it." },
	[INF_QUOTA] = { "QUOTA", "The client's own limit: release outputs, wait for answers, or open the model with more "
				 "depth." },
	[INF_BUSY] = { "BUSY", "The broker's limit: try again after retry_after_us." },
	[INF_SHED] = { "SHED", "Dropped so that others meet their deadlines: try again after retry_after_us." },
	[INF_DEADLINE] = { "DEADLINE", "Its deadline passed before it ran, or its inputs on a device never came (--commit-ms-max): ask "
				  "earlier, allow more time, or look at the stream that was committed." },
	[INF_CANCELLED] = { "CANCELLED", "The client cancelled it: nothing to do." },
	[INF_MODEL_ERROR] = { "MODEL_ERROR", "The model failed, or produced what its signature forbids: see the broker's "
					     "log." },
	[INF_POISON] = { "POISON", "Run alone, this request killed its executor, or hung it: don't send it again." },
	[INF_EXECUTOR_LOST] = { "EXECUTOR_LOST", "No executor can be started: see `shmctl status` and the broker's log." },
	[INF_BROKER_LOST] = { "BROKER_LOST", "The broker died or ended this session: close the client and open a new one." },
};

const char *inf_shm_status_name(uint32_t status)
{
	return status < INF_STATUS_N ? statuses[status].name : "?";
}

const char *inf_shm_status_text(uint32_t status)
{
	return status < INF_STATUS_N ? statuses[status].text : "?";
}

bool inf_shm_status_maybe_executed(uint32_t status)
{
	switch (status) {
	case INF_OK:
	case INF_CANCELLED:
	case INF_MODEL_ERROR:
	case INF_POISON:
	case INF_EXECUTOR_LOST:
	case INF_BROKER_LOST:
		return true;
	default:
		return false;
	}
}
