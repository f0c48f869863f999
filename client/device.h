/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - what the files of device memory share. */
#ifndef CLIENT_DEVICE_H
#define CLIENT_DEVICE_H

#include "client/internal.h"
#include "shm/device/slab.h"

/* How far a stream had been given work when it was recorded. */
struct mark {
	struct mark *next;
	CUevent event;
	bool is_set; /* by the request that holds the entry, and not seen to have passed */
};

struct device {
	struct inf_driver driver;
	CUdevice handle;
	CUcontext context;
	struct inf_ctl_timeline told; /* the broker's answer */
	struct inf_timeline *timeline;
	CUdeviceptr words; /* where the device reaches it */
	bool maps_twins;   /* the one that is asked for; control lock */
	/* client->table_lock */
	uint16_t free[INF_TIMELINES];
	uint32_t n_free;
	/* Of the request that holds the entry. */
	uint64_t ready[INF_TIMELINES], done[INF_TIMELINES];
	struct mark *marks[INF_TIMELINES];
};

/* Makes our context the thread's; the one before is given back by infc_device_leave(). */
CUresult infc_device_enter(const struct device *device, CUcontext *ret_before);
void infc_device_leave(const struct device *device, CUcontext before);

/* Words for inf_error(), and the errno. */
int infc_device_refuse(const struct device *device, CUresult result);

/* The request may be changed, and has an entry. 0 or -errno. */
int infc_device_begin(struct inf_request *req, struct device **ret_device);

/* A region has a twin at the broker, and `is_mapped`: here as well. Control lock held. 0 or -errno. */
int infc_device_ask_twin(struct inf_client *client, const struct region *region, bool is_mapped);

/* Is that device memory of this device, and so much of it? 0, -EFAULT or -EXDEV. */
int infc_device_check_source(const struct device *device, uint64_t from, uint64_t bytes);

/* From now on the request takes this input from there. */
void infc_device_take_input(struct inf_request *req, uint32_t idx);

/* inf_input_import(), without the words for what fails. */
int infc_input_import(struct inf_request *req, uint32_t idx, uint64_t from, uint64_t bytes, void *stream);

#endif /* CLIENT_DEVICE_H */
