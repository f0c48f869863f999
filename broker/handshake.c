/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handshake.c - from HELLO to READY(0), and the questions that need no state (LANE_FD, LIST).
 *
 * The client gets the response region only after it was sealed, so it can never map it writable.
 * The request region is the client's to write: it maps and populates it, says MAPPED, and we seal
 * it against further writable mappings before we look whether all pages are there.
 *
 * A handshake that is never finished costs its user, not others: so many per user, and
 * HANDSHAKE_NS each. One timer for all of them exists only while there are some.
 */
#define _GNU_SOURCE 1
#include "broker/clock.h"
#include "broker/config.h"
#include "broker/log.h"
#include "broker/pipeline.h"
#include "broker/quota.h"
#include "broker/registry.h"
#include "broker/robust.h"
#include "broker/session.h"
#include "broker/session_internal.h"
#include "broker/stats.h"
#include "broker/trace.h"
#include "shm/atomics.h"
#include "shm/region.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define HANDSHAKE_NS \
	10000000000ull	 /* generous: a client that is being debugged, a machine that swaps */
#define LOOK_NS	     1000000000u
#define START_STRIDE 37u /* spreads the first slots of sessions over cache sets */

/* --- slow handshakes --- */

static void on_timer(struct loop_source *source, void *context)
{
	struct broker *broker = context;
	uint64_t now_ns = clock_ns();

	loop_timer_set(source, LOOK_NS);
	for (uint32_t i = 0; i < broker->config->sessions_max; i++) {
		struct session *session = broker->sessions[i];

		if (session && session->handshaking &&
		    now_ns - session->connected_ns > HANDSHAKE_NS)
			session_end(broker, session, "it did not finish its handshake in 10 s");
	}
}

/* Without a timer (out of fds) slow handshakes are bounded by their number alone. */
static void timer_start(struct broker *broker)
{
	struct loop_source *timer = &broker->handshake_timer;

	timer->on_event = on_timer;
	if (!timer->id && !loop_timer_open(broker->loop, timer))
		loop_timer_set(timer, LOOK_NS);
}

int handshake_begin(struct broker *broker, struct session *session)
{
	int r = user_charge_handshake(session->user, broker->config);

	if (r < 0)
		return r;
	session->handshaking = true;
	broker->n_handshakes++;
	timer_start(broker);
	return 0;
}

void handshake_end(struct broker *broker, struct session *session)
{
	if (!session->handshaking)
		return;
	session->handshaking = false;
	user_discharge_handshake(session->user);
	if (--broker->n_handshakes == 0)
		loop_timer_close(broker->loop, &broker->handshake_timer);
}

/* --- HELLO --- */

static void refuse_version(struct broker *broker, struct session *session,
			   const struct inf_ctl_hello *hello)
{
	const char *newer = hello->version_min > INF_CTL_VERSION ? "broker" : "client library";

	log_line("%s speaks protocol %" PRIu32 "..%" PRIu32 ", not %u..%u", session_text(session),
		 hello->version_min, hello->version_max, INF_CTL_VERSION_MIN, INF_CTL_VERSION);
	if (session_refuse(broker, session, hello->head.cookie, -EPROTONOSUPPORT, INF_OK,
			   "the library speaks protocol %" PRIu32 "..%" PRIu32
			   ", the broker %u..%u: update the %s",
			   hello->version_min, hello->version_max, INF_CTL_VERSION_MIN,
			   INF_CTL_VERSION, newer) == 0)
		session_end(broker, session, NULL);
}

/* The response region: ours to write before and after it is sealed. Returns its fd or -errno. */
static int make_response(struct broker *broker, struct session *session)
{
	void *map = NULL;
	int r = user_charge_bytes(session->user, broker->config, INF_RESPONSE_BYTES);
	int fd;

	if (r < 0)
		return r;
	fd = inf_region_create("infbroker-response", INF_RESPONSE_BYTES);
	r = fd < 0 ? fd : inf_region_map(fd, INF_RESPONSE_BYTES, true, 1, &map);
	if (r == 0)
		r = inf_region_populate(map, INF_RESPONSE_BYTES, true);
	if (r == 0)
		r = inf_region_close_writes(fd);
	if (r == 0) {
		session->response = map;
		return fd;
	}
	inf_region_unmap(map, INF_RESPONSE_BYTES, 1);
	if (fd >= 0)
		close(fd);
	user_discharge_bytes(session->user, INF_RESPONSE_BYTES);
	return r;
}

static int make_request(struct broker *broker, struct session *session)
{
	struct region *region;
	int r = regions_make(broker, session, INF_REGION_REQUEST, INF_REQUEST_BYTES, true, &region);

	if (r < 0)
		return r;
	r = inf_region_map(region->fd, region->bytes, false, 0, &region->map);
	if (r == 0)
		session->request = region->map;
	return r; /* the table frees it */
}

/* Returns the fd of the response region or -errno; what was made is freed with the session. */
static int make_memory(struct broker *broker, struct session *session)
{
	int r = make_request(broker, session);

	if (r < 0)
		return r;
	session->bell_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (session->bell_fd < 0)
		return -errno;
	return make_response(broker, session);
}

static void refuse_memory(struct broker *broker, struct session *session, uint32_t cookie,
			  int error)
{
	const char *next_step =
		error == -EDQUOT ? "over this user's or the broker's memory limit: close sessions"
				 : strerror(-error);

	log_line("%s gets no memory: %s", session_text(session), next_step);
	if (session_refuse(broker, session, cookie, error, INF_OK, "no memory for a session: %s",
			   next_step) == 0)
		session_end(broker, session, NULL);
}

void handshake_hello(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	const struct inf_ctl_hello *hello = &msg->hello;
	struct inf_ctl_welcome welcome;
	int response_fd;

	memcpy(session->name, hello->name, sizeof(session->name) - 1);
	if (hello->version_max < INF_CTL_VERSION_MIN || hello->version_min > INF_CTL_VERSION ||
	    hello->version_min > hello->version_max) {
		refuse_version(broker, session, hello);
		return;
	}
	response_fd = make_memory(broker, session);
	if (response_fd < 0) {
		refuse_memory(broker, session, hello->head.cookie, response_fd);
		return;
	}
	session->features = hello->features & INF_FEATURES_ALL;
	session->start = (uint64_t)session->id * START_STRIDE % INF_SLOTS;
	session->state = SESSION_OFFERED;

	inf_ctl_init(&welcome, INF_CTL_WELCOME, hello->head.cookie);
	welcome.version =
		hello->version_max < INF_CTL_VERSION ? hello->version_max : INF_CTL_VERSION;
	welcome.session = session->id;
	welcome.features = session->features;
	welcome.epoch = broker->epoch;
	welcome.start = session->start;
	welcome.request_bytes = INF_REQUEST_BYTES;
	welcome.response_bytes = INF_RESPONSE_BYTES;

	int fds[] = { session->regions[0].fd, response_fd, session->bell_fd };

	session_send(broker, session, &welcome, fds, 3);
	close(response_fd);
}

/* --- MAPPED(0) --- */

/* The bell's events are hints: it is never read, each write is an edge. */
static void on_bell(struct loop_source *source, void *context)
{
	struct session *session =
		(struct session *)(void *)((char *)source - offsetof(struct session, bell_source));

	pipeline_bell(context, session);
}

static void fill_head(const struct broker *broker, struct session *session)
{
	struct inf_response_head *head = &session->response->head;

	head->version = INF_LAYOUT_VERSION;
	head->session = session->id;
	head->features = session->features;
	head->epoch = broker->epoch;
	head->start = session->start;
	head->spin_ns = broker->spin_ns;
	head->must_yield = broker->one_cpu;
	inf_store32(&head->may_spin.v, 0);
	inf_store32(&head->must_stamp.v, trace_is_wanted(broker, session->uid));
	/* Release: pairs with the client's acquire; READY says the same. */
	inf_store64_release(&head->magic, INF_RESPONSE_MAGIC);
}

void handshake_mapped(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	struct region *region = &session->regions[0];
	struct inf_ctl_ready ready;
	int r;

	if (msg->mapped.region != region->id || msg->mapped.reserved) {
		session_end(broker, session,
			    "MAPPED names another region than the one that was offered");
		return;
	}
	r = regions_seal_request(session, region);
	/* The part that we read on each request. */
	if (r == 0)
		r = inf_region_populate(region->map, INF_ARENA_OFFSET, false);
	if (r < 0) {
		session_end(broker, session,
			    r == -ENODATA ? "it did not populate its request region"
					  : "its request region cannot be sealed");
		return;
	}
	session->bell_source = (struct loop_source){ .fd = session->bell_fd,
						   .on_event = on_bell,
						   .is_bell = true };
	r = loop_add(broker->loop, &session->bell_source);
	if (r < 0) {
		session_end(broker, session, "its doorbell cannot be watched");
		return;
	}
	regions_admit_request(session, region, INF_ARENA_OFFSET);
	fill_head(broker, session);
	session->stats = stats_session_add(broker, session);
	pipeline_session_begin(broker, session);
	robust_session_begin(broker, session);
	session->state = SESSION_READY;
	handshake_end(broker, session);
	if (broker->config->verbose)
		log_line("%s is connected", session_text(session));
	inf_ctl_init(&ready, INF_CTL_READY, msg->head.cookie);
	ready.region = region->id;
	session_send(broker, session, &ready, NULL, 0);
}

/* --- LANE_FD, LIST --- */

void handshake_lane_fd(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	const struct inf_ctl_lane_fd *ask = &msg->lane_fd;
	struct inf_ctl_fd answer;
	struct lane *lane;
	int pair[2];

	if (!(session->features & INF_FEATURE_EVENT_FD) || ask->lane >= INF_LANES ||
	    ask->reserved) {
		session_end(broker, session,
			    "LANE_FD for a lane that does not exist, or without that feature");
		return;
	}
	lane = &session->lanes[ask->lane];
	if (lane->event_fd >= 0) {
		session_refuse(broker, session, ask->head.cookie, -EEXIST, INF_OK,
			       "lane %" PRIu32 " has its descriptor already", ask->lane);
		return;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) {
		session_refuse(broker, session, ask->head.cookie, -errno, INF_OK,
			       "no descriptor for the lane: %s", strerror(errno));
		return;
	}
	lane->event_fd = pair[0];
	inf_ctl_init(&answer, INF_CTL_FD, ask->head.cookie);
	answer.lane = ask->lane;
	session_send(broker, session, &answer, &pair[1], 1);
	close(pair[1]);
}

void handshake_list(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	const struct inf_ctl_list *ask = &msg->list;
	const struct model *model = registry_at(broker, ask->idx);
	struct inf_ctl_info info;

	if (ask->reserved) {
		session_end(broker, session, "a reserved field of LIST is not zero");
		return;
	}
	if (!model && !registry_is_scanned(broker) && broker->executor.state != EXECUTOR_FAILED) {
		session_refuse(broker, session, ask->head.cookie, -EAGAIN, INF_LOADING,
			       "the broker has just started and is looking for its models: try again");
		return;
	}
	if (!model) {
		session_refuse(broker, session, ask->head.cookie, -ENOENT, INF_NO_MODEL,
			       "there are no more models");
		return;
	}
	inf_ctl_init(&info, INF_CTL_INFO, ask->head.cookie);
	info.idx = ask->idx;
	info.state = model->state;
	memcpy(info.time_ns, model->time_ns, sizeof(info.time_ns));
	if (model->state == INF_MODEL_READY)
		info.signature = model->signature;
	memcpy(info.signature.name, model->name, sizeof(info.signature.name));
	info.signature.version = model->version;
	if (model->state == INF_MODEL_FAILED)
		memcpy(info.text, model->text, sizeof(info.text));
	session_send(broker, session, &info, NULL, 0);
}
