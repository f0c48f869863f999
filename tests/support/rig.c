/* SPDX-License-Identifier: Apache-2.0 */
/* rig.c - see rig.h. */
#define _GNU_SOURCE 1
#include "tests/support/rig.h"
#include "shm/control.h"
#include "shm/region.h"
#include "shm/signature.h"
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define OUTPUT_STRIDE 4096u /* one block per output index */
#define OUTPUT_BYTES  (INF_OUTPUTS * OUTPUT_STRIDE)
#define START	      41u
#define N_MODELS      3u

struct mapped {
	uint32_t id;
	uint32_t kind;
	uint64_t bytes;
	uint8_t *map;
};

struct rig {
	char dir[64];
	char path[128];
	int listen_fd, control_fd, bell_fd, stop_fd; /* stop_fd: look at echo and stopping */
	pthread_t thread;
	uint32_t echo;		/* atomic */
	uint32_t stopping;	/* atomic */
	uint32_t refuse_growth; /* atomic */
	uint32_t n_grows;	/* atomic */
	uint32_t next_region;
	uint32_t output_now;
	struct mapped regions[INF_REGIONS];
	uint32_t n_regions;
	struct inf_request_region *request;
	struct inf_response_region *response;
	struct inf_sq_reader sq[INF_LANES];
	struct inf_cq_writer cq[INF_LANES];
	struct inf_signature models[N_MODELS];
	uint32_t generations[INF_OUTPUTS];
	uint32_t next_out;
	int event_fds[INF_LANES];
	uint32_t offered; /* request region whose MAPPED is awaited */
};

/* --- models and regions --- */

static void name(char *to, const char *from)
{
	memcpy(to, from, strlen(from));
}

static void model_init(struct inf_signature *sig, const char *what, uint8_t dtype, int64_t dim,
		       int64_t dim_max)
{
	memset(sig, 0, sizeof(*sig));
	name(sig->name, what);
	sig->version = 1;
	sig->n_inputs = sig->n_outputs = 1;
	sig->batch_max = 1;
	name(sig->inputs[0].name, "x");
	sig->inputs[0].dtype = dtype;
	sig->inputs[0].rank = 2;
	sig->inputs[0].dims[0] = sig->inputs[0].dims_max[0] = 2;
	if (dim > 0) {
		sig->flags = INF_SIG_BATCHABLE;
		sig->batch_max = 64;
		sig->inputs[0].flags = INF_SPEC_BATCH;
		sig->inputs[0].dims[0] = -1;
		sig->inputs[0].dims_max[0] = 0;
	}
	sig->inputs[0].dims[1] = dim;
	sig->inputs[0].dims_max[1] = dim_max;
	sig->outputs[0] = sig->inputs[0];
	name(sig->outputs[0].name, "y");
}

static void models_init(struct rig *rig)
{
	model_init(&rig->models[0], "echo", INF_F32, 4, 4);
	model_init(&rig->models[1], "vary", INF_I32, -1, 8);
	model_init(&rig->models[2], "big", INF_U8, 1 << 20, 1 << 20);
	rig->models[2].outputs[0].dims[1] = rig->models[2].outputs[0].dims_max[1] = 1;
	for (unsigned int i = 0; i < N_MODELS; i++) {
		assert(!inf_signature_check(&rig->models[i]));
		rig->models[i].hash = inf_signature_hash(&rig->models[i]);
	}
}

/* Makes a region and maps it for us; read-only ones are sealed. Returns its fd. */
static int make_region(struct rig *rig, uint32_t id, uint32_t kind, uint64_t bytes)
{
	struct mapped *region = &rig->regions[rig->n_regions++];
	int fd = inf_region_create("rig", bytes);
	void *map;

	assert(fd >= 0 && !inf_region_map(fd, bytes, true, 0, &map));
	if (kind != INF_REGION_REQUEST)
		assert(!inf_region_close_writes(fd));
	*region = (struct mapped){ .id = id, .kind = kind, .bytes = bytes, .map = map };
	return fd;
}

static struct mapped *find_region(struct rig *rig, uint32_t id)
{
	for (uint32_t i = 0; i < rig->n_regions; i++)
		if (rig->regions[i].id == id && rig->regions[i].kind != INF_REGION_RESPONSE)
			return &rig->regions[i];
	return NULL;
}

/* --- control messages --- */

static void say(struct rig *rig, const void *msg, const int *fds, unsigned int n_fds)
{
	int r = inf_ctl_send(rig->control_fd, msg, fds, n_fds, false);

	(void)r; /* a client that left says so when we read */
	for (unsigned int i = 0; i < n_fds; i++)
		close(fds[i]);
}

static void say_region(struct rig *rig, uint32_t id, uint32_t kind, uint64_t bytes, uint32_t cookie)
{
	struct inf_ctl_region msg;
	int fd = make_region(rig, id, kind, bytes);

	inf_ctl_init(&msg, INF_CTL_REGION, cookie);
	msg.region = id;
	msg.kind = kind;
	msg.bytes = bytes;
	say(rig, &msg, &fd, 1);
}

static void say_ready(struct rig *rig, uint32_t region, uint32_t cookie)
{
	struct inf_ctl_ready msg;

	inf_ctl_init(&msg, INF_CTL_READY, cookie);
	msg.region = region;
	say(rig, &msg, NULL, 0);
}

static void say_error(struct rig *rig, uint32_t cookie, int error, const char *text)
{
	struct inf_ctl_error msg;

	inf_ctl_init(&msg, INF_CTL_ERROR, cookie);
	msg.error = error;
	memcpy(msg.text, text, strlen(text));
	say(rig, &msg, NULL, 0);
}

static void on_hello(struct rig *rig, const struct inf_ctl_hello *hello)
{
	struct inf_ctl_welcome msg;
	int fds[3];

	fds[0] = make_region(rig, 0, INF_REGION_REQUEST, INF_REQUEST_BYTES);
	rig->request = (void *)rig->regions[0].map;
	fds[1] = make_region(rig, 1000, INF_REGION_RESPONSE, INF_RESPONSE_BYTES);
	rig->response = (void *)rig->regions[1].map;
	fds[2] = dup(rig->bell_fd);
	inf_ctl_init(&msg, INF_CTL_WELCOME, hello->head.cookie);
	msg.version = INF_CTL_VERSION;
	msg.session = 7;
	msg.features = hello->features;
	msg.start = START;
	msg.request_bytes = INF_REQUEST_BYTES;
	msg.response_bytes = INF_RESPONSE_BYTES;
	say(rig, &msg, fds, 3);
}

static void begin_session(struct rig *rig)
{
	struct inf_response_head *head = &rig->response->head;

	head->version = INF_LAYOUT_VERSION;
	head->session = 7;
	head->start = START;
	for (uint32_t i = 0; i < INF_LANES; i++) {
		inf_store32(&rig->response->liveness[i].v, 4711u | FUTEX_WAITERS);
		inf_store64(&rig->response->lanes[i].sq_wake.v, START);
		inf_sq_reader_init(&rig->sq[i], &rig->request->lanes[i], START);
		inf_cq_writer_init(&rig->cq[i], &rig->response->lanes[i], START);
	}
	inf_store64_release(&head->magic, INF_RESPONSE_MAGIC);
}

static void on_open(struct rig *rig, const struct inf_ctl_open *open)
{
	struct inf_ctl_model msg;

	for (uint32_t i = 0; i < N_MODELS; i++) {
		if (strcmp(rig->models[i].name, open->model))
			continue;
		if (!rig->output_now) {
			rig->output_now = rig->next_region++;
			say_region(rig, rig->output_now, INF_REGION_OUTPUT, OUTPUT_BYTES,
				   open->head.cookie);
		}
		inf_ctl_init(&msg, INF_CTL_MODEL, open->head.cookie);
		msg.handle = i;
		msg.depth = 64;
		msg.signature = rig->models[i];
		say(rig, &msg, NULL, 0);
		return;
	}
	if (!strcmp(open->model, "loading"))
		say_error(rig, open->head.cookie, -EAGAIN, "still loading");
	else
		say_error(rig, open->head.cookie, -ENOENT, "no such model\033[2J");
}

static void on_grow(struct rig *rig, const struct inf_ctl_grow *grow)
{
	__atomic_fetch_add(&rig->n_grows, 1, __ATOMIC_RELAXED);
	if (inf_load32(&rig->refuse_growth)) {
		say_error(rig, grow->head.cookie, -EDQUOT, "no more");
		return;
	}
	rig->offered = rig->next_region++;
	say_region(rig, rig->offered, INF_REGION_REQUEST, grow->bytes, grow->head.cookie);
}

static void on_lane_fd(struct rig *rig, const struct inf_ctl_lane_fd *ask)
{
	struct inf_ctl_fd msg;
	int pair[2];

	assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair));
	rig->event_fds[ask->lane] = pair[0];
	inf_ctl_init(&msg, INF_CTL_FD, ask->head.cookie);
	msg.lane = ask->lane;
	say(rig, &msg, &pair[1], 1);
}

static void on_list(struct rig *rig, const struct inf_ctl_list *ask)
{
	struct inf_ctl_info msg;

	if (ask->idx >= N_MODELS) {
		say_error(rig, ask->head.cookie, -ENOENT, "past the last");
		return;
	}
	inf_ctl_init(&msg, INF_CTL_INFO, ask->head.cookie);
	msg.idx = ask->idx;
	msg.state = INF_MODEL_READY;
	msg.time_ns[0] = 1000;
	msg.signature = rig->models[ask->idx];
	say(rig, &msg, NULL, 0);
}

static void on_mapped(struct rig *rig, const struct inf_ctl_mapped *msg)
{
	if (msg->region == 0)
		begin_session(rig);
	else
		assert(msg->region == rig->offered);
	say_ready(rig, msg->region, msg->head.cookie);
}

static void on_message(struct rig *rig)
{
	union inf_ctl_any msg;
	unsigned int n_fds;
	int fds[INF_CTL_FDS_MAX];

	if (inf_ctl_recv(rig->control_fd, INF_CTL_FROM_CLIENT, &msg, fds, &n_fds, true)) {
		close(rig->control_fd);
		rig->control_fd = -1;
		return;
	}
	switch (msg.head.type) {
	case INF_CTL_HELLO:
		on_hello(rig, &msg.hello);
		break;
	case INF_CTL_MAPPED:
		on_mapped(rig, &msg.mapped);
		break;
	case INF_CTL_OPEN:
		on_open(rig, &msg.open);
		break;
	case INF_CTL_GROW:
		on_grow(rig, &msg.grow);
		break;
	case INF_CTL_LANE_FD:
		on_lane_fd(rig, &msg.lane_fd);
		break;
	case INF_CTL_LIST:
		on_list(rig, &msg.list);
		break;
	}
}

/* --- rings --- */

bool rig_take(struct rig *rig, uint32_t lane, struct inf_submission *ret_copy)
{
	if (inf_sq_peek(&rig->sq[lane]) != INF_PEEK_FULL)
		return false;
	inf_sq_take(&rig->sq[lane], ret_copy);
	inf_store64_release(&rig->response->lanes[lane].sq_head.v, rig->sq[lane].head);
	return true;
}

void rig_post(struct rig *rig, uint32_t lane, const struct inf_completion *body)
{
	inf_cq_push(&rig->cq[lane], body);
}

static void wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void rig_announce(struct rig *rig, uint32_t lane)
{
	inf_cq_bump(&rig->cq[lane]);
	/* As in the front: the slots and the word before our look at parked. */
	inf_fence(INF_FENCE_FRONT_COMPLETE);
	if (inf_load32(&rig->request->lanes[lane].parked.v) & INF_PARKED_COUNT)
		wake(&rig->response->lanes[lane].cq_word.v);
	if (rig->event_fds[lane] >= 0 && inf_load32(&rig->request->lanes[lane].event.v))
		(void)!send(rig->event_fds[lane], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

struct inf_out_head *rig_output(struct rig *rig, uint32_t out_idx)
{
	return (void *)(find_region(rig, rig->output_now)->map + (size_t)out_idx * OUTPUT_STRIDE);
}

/* One output: the input itself where `data` is given, in the shape that it came in. */
static void write_output(struct inf_out_head *head, const struct inf_tensor_spec *spec,
			 uint32_t rows, int64_t dim, const void *data)
{
	struct inf_out_tensor *tensor = (void *)(head + 1);
	int64_t first = spec->flags & INF_SPEC_BATCH ? rows : spec->dims[0];
	uint64_t bytes = (uint64_t)first * (uint64_t)dim * inf_dtype_size(spec->dtype);

	*head = (struct inf_out_head){ .n_outputs = 1, .rows = rows };
	*tensor = (struct inf_out_tensor){
		.dtype = spec->dtype,
		.rank = 2,
		.offset = inf_out_head_bytes(1),
		.bytes = bytes,
		.dims = { first, dim },
	};
	assert(tensor->offset + bytes <= OUTPUT_STRIDE);
	if (data)
		memcpy((uint8_t *)head + tensor->offset, data, bytes);
}

void rig_make_output(struct rig *rig, const struct inf_submission *sub, uint32_t out_idx,
		     struct inf_completion *ret_body)
{
	const struct inf_signature *sig = &rig->models[sub->model];
	const uint8_t *input = find_region(rig, sub->region)->map + sub->offset;
	int64_t dim = sig->outputs[0].dims[1];

	if (sub->flags & INF_SUB_EXT) {
		struct inf_ext_tensor ext;

		memcpy(&ext, input, sizeof(ext));
		dim = ext.dims[1];
		input = find_region(rig, ext.region)->map + ext.offset;
	}
	write_output(rig_output(rig, out_idx), &sig->outputs[0], sub->rows, dim,
		     sub->model < 2 ? input : NULL);
	if (!++rig->generations[out_idx])
		rig->generations[out_idx] = 1;
	*ret_body = (struct inf_completion){
		.tag = sub->tag,
		.status = INF_OK,
		.flags = INF_COMP_OUTPUT,
		.rows = sub->rows,
		.region = rig->output_now,
		.out_idx = out_idx,
		.generation = rig->generations[out_idx],
		.offset = (uint64_t)out_idx * OUTPUT_STRIDE,
		.length = OUTPUT_STRIDE,
		.run_us = 3,
	};
}

/* The next output that the client has given back, or that was never used. */
static uint32_t free_output(struct rig *rig)
{
	for (;;) {
		uint32_t out_idx = rig->next_out++ % INF_OUTPUTS;

		if (inf_load32_acquire(&rig->request->release[out_idx]) ==
		    rig->generations[out_idx])
			return out_idx;
	}
}

static bool echo_lane(struct rig *rig, uint32_t lane)
{
	struct inf_submission sub;
	bool any = false;

	while (rig_take(rig, lane, &sub)) {
		struct inf_completion body = { .tag = sub.tag };

		if (sub.opcode == INF_OP_INFER)
			rig_make_output(rig, &sub, free_output(rig), &body);
		rig_post(rig, lane, &body);
		any = true;
	}
	if (any)
		rig_announce(rig, lane);
	return any;
}

static bool echo_all(struct rig *rig)
{
	bool any = false;

	if (!rig->request)
		return false;
	for (uint32_t i = 0; i < INF_LANES; i++)
		any |= echo_lane(rig, i);
	return any;
}

/* As the front parks: event indexes, fence, one more look. True = it may sleep. */
static bool arm_all(struct rig *rig)
{
	if (!rig->request)
		return true;
	for (uint32_t i = 0; i < INF_LANES; i++)
		inf_store64(&rig->response->lanes[i].sq_wake.v, rig->sq[i].head);
	inf_fence(INF_FENCE_FRONT_PARK);
	return !echo_all(rig);
}

/* --- the thread --- */

static void *serve(void *context)
{
	struct rig *rig = context;

	for (;;) {
		bool echo = inf_load32_acquire(&rig->echo);
		struct pollfd fds[4] = {
			{ .fd = rig->stop_fd, .events = POLLIN },
			{ .fd = rig->listen_fd, .events = POLLIN },
			{ .fd = rig->control_fd, .events = POLLIN },
			{ .fd = echo ? rig->bell_fd : -1, .events = POLLIN },
		};
		eventfd_t n;

		while (echo && (echo_all(rig) || !arm_all(rig)))
			;
		if (poll(fds, 4, -1) < 0)
			continue;
		if (fds[0].revents) {
			eventfd_read(rig->stop_fd, &n);
			if (inf_load32_acquire(&rig->stopping))
				return NULL;
		}
		if (fds[3].revents)
			eventfd_read(rig->bell_fd, &n);
		if (fds[2].revents)
			on_message(rig);
		if (fds[1].revents && rig->control_fd < 0)
			rig->control_fd = accept4(rig->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	}
}

/* --- calls --- */

struct rig *rig_new(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct rig *rig = calloc(1, sizeof(*rig));

	assert(rig);
	name(rig->dir, "/tmp/inf-rig-XXXXXX");
	assert(mkdtemp(rig->dir));
	snprintf(rig->path, sizeof(rig->path), "%s/socket", rig->dir);
	memcpy(address.sun_path, rig->path, strlen(rig->path) + 1);
	rig->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert(!bind(rig->listen_fd, (struct sockaddr *)&address, sizeof(address)));
	assert(!listen(rig->listen_fd, 4));
	rig->control_fd = -1;
	rig->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rig->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rig->next_region = 1;
	for (uint32_t i = 0; i < INF_LANES; i++)
		rig->event_fds[i] = -1;
	models_init(rig);
	assert(!pthread_create(&rig->thread, NULL, serve, rig));
	return rig;
}

static void stop(struct rig *rig)
{
	if (rig->stop_fd < 0)
		return;
	__atomic_store_n(&rig->stopping, 1, __ATOMIC_RELEASE);
	eventfd_write(rig->stop_fd, 1);
	pthread_join(rig->thread, NULL);
	close(rig->stop_fd);
	rig->stop_fd = -1;
}

void rig_free(struct rig *rig)
{
	stop(rig);
	for (uint32_t i = 0; i < rig->n_regions; i++)
		inf_region_unmap(rig->regions[i].map, rig->regions[i].bytes, 0);
	for (uint32_t i = 0; i < INF_LANES; i++)
		if (rig->event_fds[i] >= 0)
			close(rig->event_fds[i]);
	if (rig->control_fd >= 0)
		close(rig->control_fd);
	close(rig->listen_fd);
	close(rig->bell_fd);
	unlink(rig->path);
	rmdir(rig->dir);
	free(rig);
}

const char *rig_path(const struct rig *rig)
{
	return rig->path;
}

struct inf_client *rig_open(struct rig *rig)
{
	char error[256];
	struct inf_options options = { .size = sizeof(options),
				       .socket = rig->path,
				       .error = error,
				       .error_bytes = sizeof(error) };
	struct inf_client *client;
	int r = inf_open(&client, &options);

	if (!r)
		return client;
	fprintf(stderr, "inf_open: %d: %s\n", r, error);
	return NULL;
}

void rig_echo(struct rig *rig)
{
	__atomic_store_n(&rig->echo, 1, __ATOMIC_RELEASE);
	eventfd_write(rig->stop_fd, 1);
}

const struct inf_request_region *rig_request(const struct rig *rig)
{
	return rig->request;
}

struct inf_response_region *rig_response(struct rig *rig)
{
	return rig->response;
}

void rig_new_generation(struct rig *rig, uint32_t region)
{
	rig->output_now = region;
	say_region(rig, region, INF_REGION_OUTPUT, OUTPUT_BYTES, 0);
}

void rig_retire(struct rig *rig, uint32_t region)
{
	struct inf_ctl_retire msg;

	inf_ctl_init(&msg, INF_CTL_RETIRE, 0);
	msg.region = region;
	say(rig, &msg, NULL, 0);
}

void rig_die(struct rig *rig)
{
	stop(rig);
	for (uint32_t i = 0; i < INF_LANES; i++) {
		__atomic_fetch_or(&rig->response->liveness[i].v, FUTEX_OWNER_DIED,
				  __ATOMIC_RELEASE);
		syscall(SYS_futex, &rig->response->liveness[i].v, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
	close(rig->control_fd);
	rig->control_fd = -1;
}

void rig_end_session(struct rig *rig)
{
	stop(rig);
	for (uint32_t i = 0; i < INF_LANES; i++) {
		inf_store32_release(&rig->response->liveness[i].v, 0);
		wake(&rig->response->liveness[i].v);
		wake(&rig->response->lanes[i].cq_word.v);
	}
	close(rig->control_fd);
	rig->control_fd = -1;
}

void rig_refuse_growth(struct rig *rig)
{
	inf_store32(&rig->refuse_growth, 1);
}

uint32_t rig_n_grows(struct rig *rig)
{
	return inf_load32(&rig->n_grows);
}

uint64_t rig_n_bells(struct rig *rig)
{
	eventfd_t n;

	return eventfd_read(rig->bell_fd, &n) ? 0 : n;
}
