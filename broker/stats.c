/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.c - the statistics files, mapped: whoever counts stores into them in place.
 *
 * - A file is made under another name, filled, and renamed over the old one: a reader sees an old
 *   file or a whole new one. Its blocks are allocated before it is mapped: a full disk gives an
 *   error here, not SIGBUS later.
 * - A user's file stays the broker's own, mode 0600; the user may read it by an ACL entry. It is
 *   not given to the user: an owner may truncate, and the front would die of its next store. Where
 *   the file system has no ACLs, only the broker's own user (and root) reads it.
 * - Nothing here may fail a session or the broker: what cannot have a file counts in private
 *   memory.
 */
#define _GNU_SOURCE 1
#include "broker/stats.h"
#include "broker/clock.h"
#include "broker/config.h"
#include "broker/listener.h"
#include "broker/log.h"
#include "broker/loop.h"
#include "broker/quota.h"
#include "shm/atomics.h"
#include "shm/check.h"
#include <errno.h>
#include <fcntl.h>
#include <inf/version.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define STATS_PATH_BYTES 160
#define NO_UID		 UINT32_MAX
/* Sessions whose figures are copied at each park; where there are more, at most every
 * SESSIONS_EVERY_NS. */
#define SESSIONS_CHEAP	  16u
#define SESSIONS_EVERY_NS 100000000u

/* A user with sessions. */
struct account {
	struct account *next;
	uint32_t uid;
	uint32_t n_sessions;
	bool mapped; /* else calloc()ed */
	uint64_t n_entries;
	struct inf_stats_user *file;
};

static struct {
	struct account *accounts;
	bool mapped;
	uint32_t n_entries; /* of models, in use or used once: the others are not touched */
	uint64_t start_ticks;
	uint64_t sessions_ns;	       /* last copy of sessions' figures */
	uint64_t heads_ns;	       /* last look at how far clients have read */
	uint64_t n_sessions;	       /* clients: neither who is still connecting, nor who watches */
	struct inf_stats_session sink; /* for sessions without an entry: written, never read */
} stats;

/* "" where the socket has no name in the file system. */
static void path_make(char path[STATS_PATH_BYTES], uint32_t uid)
{
	const char *socket = listener_path();

	if (socket[0] == '\0' || socket[0] == '@')
		path[0] = '\0';
	else if (uid == NO_UID)
		snprintf(path, STATS_PATH_BYTES, "%s.stats", socket);
	else
		snprintf(path, STATS_PATH_BYTES, "%s.stats.%" PRIu32, socket, uid);
}

/* Lets one more user read: an ACL in the kernel's own format (acl(5), posix_acl_xattr.h). */
static int file_share(int fd, uint32_t uid)
{
	const struct {
		uint32_t version;
		struct {
			uint16_t tag, rights;
			uint32_t id;
		} entries[5];
	} acl = { 2,
		  { { 0x01, 6, UINT32_MAX },	 /* owner: rw */
		    { 0x02, 4, uid },		 /* this user: r */
		    { 0x04, 0, UINT32_MAX },	 /* group */
		    { 0x10, 4, UINT32_MAX },	 /* mask: r */
		    { 0x20, 0, UINT32_MAX } } }; /* others */

	if (uid == geteuid())
		return 0;
	return fsetxattr(fd, "system.posix_acl_access", &acl, sizeof(acl), 0) < 0 ? -errno : 0;
}

/* A new file in place of whatever has that name. 0, or -errno with nothing left behind. */
static int file_make(const char *path, uint32_t uid, size_t n_bytes, void **ret_map)
{
	char temporary[STATS_PATH_BYTES + 16];
	void *map = MAP_FAILED;
	int fd, r;

	if (path[0] == '\0')
		return -EDESTADDRREQ;
	snprintf(temporary, sizeof(temporary), "%s.tmp.%d", path, (int)getpid());
	unlink(temporary);
	fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	r = -posix_fallocate(fd, 0, (off_t)n_bytes);
	if (r == 0)
		/* Of a user's file, made while somebody connects, a session's entry is touched when it begins. */
		map = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (uid == NO_UID ? MAP_POPULATE : 0), fd, 0);
	if (r == 0 && map == MAP_FAILED)
		r = -errno;
	if (r == 0 && uid == NO_UID && fchmod(fd, 0644) < 0)
		r = -errno;
	if (r == 0 && uid != NO_UID)
		(void)file_share(fd, uid); /* without ACLs it stays private */
	if (r == 0 && rename(temporary, path) < 0)
		r = -errno;
	close(fd);
	if (r < 0) {
		unlink(temporary);
		if (map != MAP_FAILED)
			munmap(map, n_bytes);
		return r;
	}
	*ret_map = map;
	return 0;
}

/* A file, else private memory (one log line says why). NULL when out of memory. */
static void *counters_make(uint32_t uid, size_t n_bytes, bool *ret_mapped)
{
	char path[STATS_PATH_BYTES];
	void *counters = NULL;
	int r;

	path_make(path, uid);
	r = file_make(path, uid, n_bytes, &counters);
	*ret_mapped = r == 0;
	if (r == 0)
		return counters;
	log_line("no statistics file %s: %s; shmctl cannot show %s",
		 path[0] ? path : "(the socket has no path)", strerror(-r),
		 uid == NO_UID ? "this broker" : "this user's sessions");
	return calloc(1, n_bytes);
}

static void counters_free(void *counters, uint32_t uid, size_t n_bytes, bool mapped)
{
	char path[STATS_PATH_BYTES];

	if (!counters)
		return;
	if (!mapped) {
		free(counters);
		return;
	}
	path_make(path, uid);
	unlink(path);
	munmap(counters, n_bytes);
}

/* The magic goes last: a file that has it has the rest. */
static void head_fill(struct inf_stats_head *head, const struct broker *broker, uint32_t uid,
		      size_t n_bytes)
{
	head->version = INF_STATS_VERSION;
	head->bytes = (uint32_t)n_bytes;
	head->pid = (uint32_t)getpid();
	head->uid = uid;
	head->start_ns = broker->epoch;
	head->start_ticks = stats.start_ticks;
	head->beat_ns = broker->now_ns;
	inf_store64_release(&head->magic, INF_STATS_MAGIC); /* pairs with shmctl's acquire */
}

static void limits_fill(struct inf_stats_public *public, const struct config *config)
{
	unsigned int n = 0;

#define FILL(name_, value, unit, text)                                                  \
	snprintf(public->limits[n].name, sizeof(public->limits[n].name), "%s", #name_); \
	public->limits[n++].limit = config->name_;
	CONFIG_LIMITS(FILL)
#undef FILL
#define COUNT(name_, value, unit, text) +1
	_Static_assert(0 CONFIG_LIMITS(COUNT) < INF_STATS_LIMITS,
		       "one more than the limits, for the end");
#undef COUNT
}

static void limit_use(struct inf_stats_public *public, unsigned int idx, uint64_t used)
{
	inf_store64(&public->limits[idx].used, used);
}

enum limit_idx {
#define INDEX(name_, value, unit, text) LIMIT_##name_,
	CONFIG_LIMITS(INDEX)
#undef INDEX
};

int stats_open(struct broker *broker)
{
	struct inf_stats_public *public;
	char state;

	if (inf_stats_process((uint32_t)getpid(), &state, &stats.start_ticks) < 0)
		stats.start_ticks = 0;
	public = counters_make(NO_UID, sizeof(*public), &stats.mapped);
	if (!public)
		return -ENOMEM;
	snprintf(public->version_text, sizeof(public->version_text), "%s", INF_VERSION_STRING);
	snprintf(public->loop, sizeof(public->loop), "%s", loop_name(broker->loop));
	snprintf(public->socket_path, sizeof(public->socket_path), "%s", listener_path());
	snprintf(public->device_asked, sizeof(public->device_asked), "%s", broker->config->device ? broker->config->device : "");
	snprintf(public->models_path, sizeof(public->models_path), "%s",
		 broker->config->models_path ? broker->config->models_path : "");
	public->wake_ns = broker->wake_ns;
	public->spin_ns = broker->spin_ns;
	limits_fill(public, broker->config);
	broker->stats = public;
	stats_refresh(broker);
	head_fill(&public->head, broker, geteuid(), sizeof(*public));
	return 0;
}

static void account_free(struct account *account)
{
	counters_free(account->file, account->uid, inf_stats_user_bytes(account->n_entries), account->mapped);
	free(account);
}

void stats_close(struct broker *broker)
{
	while (stats.accounts) {
		struct account *account = stats.accounts;

		stats.accounts = account->next;
		account_free(account);
	}
	counters_free(broker->stats, NO_UID, sizeof(*broker->stats), stats.mapped);
	broker->stats = NULL;
}

static struct account *account_find(uint32_t uid)
{
	struct account *account = stats.accounts;

	while (account && account->uid != uid)
		account = account->next;
	return account;
}

static struct account *account_get(const struct broker *broker, uint32_t uid)
{
	struct account *account = account_find(uid);

	if (account)
		return account;
	account = calloc(1, sizeof(*account));
	if (!account)
		return NULL;
	account->uid = uid;
	account->n_entries = broker->config->user_sessions_max;
	account->file = counters_make(uid, inf_stats_user_bytes(account->n_entries), &account->mapped);
	if (!account->file) {
		free(account);
		return NULL;
	}
	account->file->n_entries = account->n_entries;
	head_fill(&account->file->head, broker, uid, inf_stats_user_bytes(account->n_entries));
	account->next = stats.accounts;
	stats.accounts = account;
	return account;
}

static void account_put(struct account *account)
{
	struct account **link = &stats.accounts;

	inf_store64(&account->file->n_sessions, --account->n_sessions);
	if (account->n_sessions > 0)
		return;
	while (*link != account)
		link = &(*link)->next;
	*link = account->next;
	account_free(account);
}

static struct inf_stats_session *entry_take(struct account *account)
{
	for (uint64_t i = 0; i < account->n_entries; i++)
		if (!account->file->sessions[i].used)
			return &account->file->sessions[i];
	return NULL;
}

static bool entry_is_in(const struct inf_stats_session *entry, const struct account *account)
{
	return entry >= account->file->sessions &&
	       entry < account->file->sessions + account->n_entries;
}

struct inf_stats_session *stats_session_add(struct broker *broker, const struct session *session)
{
	struct account *account = account_get(broker, session->uid);
	struct inf_stats_session *entry = account ? entry_take(account) : NULL;

	stats.n_sessions++;
	if (!entry)
		return &stats.sink;
	memset(entry, 0, sizeof(*entry));
	entry->id = session->id;
	entry->uid = session->uid;
	entry->pid = (uint32_t)session->pid;
	memcpy(entry->name, session->name, sizeof(entry->name) - 1);
	entry->connected_ns = broker->now_ns;
	entry->start = session->start;
	for (uint32_t i = 0; i < INF_LANES; i++)
		entry->lanes[i].accepted = entry->lanes[i].posted = session->start;
	inf_store32_release(&entry->used, 1); /* pairs with shmctl's acquire: the rest is there */
	inf_store64(&account->file->n_sessions, ++account->n_sessions);
	return entry;
}

void stats_session_del(struct broker *broker, struct session *session)
{
	struct inf_stats_session *entry = session->stats;
	struct account *account = account_find(session->uid);

	(void)broker;
	stats.n_sessions--;
	/* What a zombie still counts goes nowhere. */
	session->stats = &stats.sink;
	for (uint32_t i = 0; i < INF_LANES; i++)
		session->lanes[i].stats = &stats.sink.lanes[i];
	if (!entry || !account || !entry_is_in(entry, account))
		return;
	inf_store32(&entry->used, 0);
	account_put(account);
}

static uint32_t region_state(const struct region *region)
{
	if (region->state == REGION_READY)
		return 2;
	return region->state == REGION_RETIRED ? 3 : 1;
}

static void region_copy(struct inf_stats_region *entry, uint32_t id, uint32_t kind, uint32_t state, uint64_t bytes)
{
	inf_store32(&entry->id, id);
	inf_store32(&entry->kind, kind);
	inf_store32(&entry->state, state);
	inf_store64(&entry->bytes, bytes);
	inf_store32_release(&entry->used, 1); /* pairs with shmctl's acquire: the rest is there */
}

static void regions_copy(struct inf_stats_session *entry, const struct session *session)
{
	uint32_t n = 0;

	/* It came with the first request region, under no id of its own. */
	if (session->response)
		region_copy(&entry->regions[n++], 0, INF_REGION_RESPONSE, 2, INF_RESPONSE_BYTES);
	for (uint32_t i = 0; i < INF_REGIONS && n < INF_STATS_REGIONS; i++) {
		const struct region *region = &session->regions[i];

		if (region->state != REGION_UNUSED)
			region_copy(&entry->regions[n++], region->id, region->kind, region_state(region), region->bytes);
	}
	while (n < INF_STATS_REGIONS && entry->regions[n].used)
		inf_store32(&entry->regions[n++].used, 0);
}

static void handles_copy(struct inf_stats_session *entry, const struct session *session)
{
	for (uint32_t i = 0; i < session->n_handles && i < INF_STATS_HANDLES; i++) {
		const struct handle *handle = &session->handles[i];

		inf_store32(&entry->handles[i].depth, handle->depth);
		inf_store32(&entry->handles[i].model, handle->model ? handle->model->id + 1 : 0);
	}
}

/* A wrong head is left to intake.c, which judges it when the lane seems full. */
static void unread_copy(const struct lane *lane)
{
	uint64_t head = inf_load64(&lane->session->request->lanes[lane->idx].cq_head.v);

	if (!inf_check_cq_head(head, lane->cq_head, lane->cq.tail))
		inf_store64(&lane->stats->unread, lane->cq.tail - head);
}

static void session_copy(const struct session *session, bool with_heads)
{
	struct inf_stats_session *entry = session->stats;
	uint64_t request_bytes = 0, output_bytes = 0, device_bytes = 0;

	regions_copy(entry, session);
	handles_copy(entry, session);
	for (uint32_t i = 0; i < session->n_lanes; i++) {
		if (with_heads)
			unread_copy(&session->lanes[i]);
		inf_store32(&entry->lanes[i].active, session->lanes[i].active);
	}

	for (uint32_t i = 0; i < INF_REGIONS; i++) {
		const struct region *region = &session->regions[i];

		if (region->state == REGION_UNUSED)
			continue;
		if (region->kind == INF_REGION_TWIN)
			device_bytes += region->charge;
		else if (region->kind == INF_REGION_OUTPUT)
			output_bytes += region->bytes;
		else
			request_bytes += region->bytes;
	}
	inf_store64(&entry->n_lanes, session->n_lanes);
	inf_store64(&entry->in_flight, session->n_jobs);
	inf_store64(&entry->held_outputs, session->n_posted);
	inf_store64(&entry->request_bytes, request_bytes);
	inf_store64(&entry->output_bytes, output_bytes);
	inf_store64(&entry->device_bytes, device_bytes);
}

/* A thousand idle sessions at every park would cost more than the requests: then it is done ten
 * times a second. What the client wrote is a line that it holds: that is never looked at more often. */
static void sessions_copy(struct broker *broker)
{
	bool with_heads = broker->now_ns - stats.heads_ns >= SESSIONS_EVERY_NS;
	uint32_t n_left = broker->n_sessions;

	if (n_left > SESSIONS_CHEAP && broker->now_ns - stats.sessions_ns < SESSIONS_EVERY_NS)
		return;
	stats.sessions_ns = broker->now_ns;
	if (with_heads)
		stats.heads_ns = broker->now_ns;
	for (uint64_t i = 0; i < broker->config->sessions_max && n_left > 0; i++) {
		const struct session *session = broker->sessions[i];

		if (!session)
			continue;
		n_left--;
		if (session->stats && session->stats != &stats.sink)
			session_copy(session, with_heads);
	}
}

static void model_copy(struct inf_stats_model *entry, const struct model *model)
{
	if (memcmp(entry->name, model->name, sizeof(entry->name)) != 0)
		memcpy(entry->name, model->name, sizeof(entry->name));
	inf_store32(&entry->model_version, model->version);
	inf_store32(&entry->state, model->state);
	inf_store32(&entry->batch_max, model->signature.batch_max);
	inf_store32(&entry->batch_best, model->batch_best);
	inf_store64(&entry->device_bytes, model->device_bytes);
	for (unsigned int i = 0; i < INF_CTL_BUCKETS; i++)
		inf_store64(&entry->time_ns[i], model->time_ns[i]);
	inf_store64(&entry->queued, model->queue.rows);
	inf_store64(&entry->in_flight, model->rows_running);
}

static uint32_t models_copy(struct broker *broker)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < MODELS_MAX; i++) {
		const struct model *model = broker->models[i];
		struct inf_stats_model *entry = &broker->stats->models[i];

		if (model && model->state) {
			model_copy(entry, model);
			n++;
			if (stats.n_entries <= i)
				stats.n_entries = i + 1;
		} else if (i < stats.n_entries && entry->name[0]) {
			memset(entry, 0, sizeof(*entry));
		}
	}
	return n;
}

static void executor_copy(struct inf_stats_public *public, const struct executor *executor)
{
	inf_store32(&public->executor_pid, executor->pid > 0 ? (uint32_t)executor->pid : 0);
	inf_store32(&public->executor_state, executor->state);
	inf_store32(&public->n_instances, executor->n_instances);
	for (uint32_t i = 0; i < INF_INSTANCES; i++)
		inf_store32(&public->instances[i].used, executor->state == EXECUTOR_READY && i < executor->n_instances);
	inf_store64(&public->executor_generation, executor->generation);
	if (memcmp(public->device, executor->device, sizeof(public->device)) != 0)
		memcpy(public->device, executor->device, sizeof(public->device));
}

void stats_jobs_hot(const struct broker *broker)
{
	inf_store64(&broker->stats->limits[LIMIT_jobs_max].used, broker->n_jobs);
}

void stats_event(struct broker *broker, enum inf_event kind, uint32_t subject, const char *format, ...)
{
	struct inf_stats_public *public = broker->stats;
	uint64_t n;
	struct inf_stats_event *event;
	va_list args;

	if (!public)
		return; /* before the file is there, or after */
	n = public->n_events;
	event = &public->events[n % INF_STATS_EVENTS];
	inf_store64(&event->seq, 0);
	/* Release fence: a reader that sees something new sees that the old one is gone. */
	__atomic_thread_fence(__ATOMIC_RELEASE);
	event->time_ns = clock_ns();
	event->kind = kind;
	event->subject = subject;
	va_start(args, format);
	vsnprintf(event->text, sizeof(event->text), format, args);
	va_end(args);
	inf_store64_release(&event->seq, n + 1);
	inf_store64_release(&public->n_events, n + 1);
}

void stats_refresh(struct broker *broker)
{
	struct inf_stats_public *public = broker->stats;

	inf_store64(&public->head.beat_ns, broker->now_ns);
	inf_store32(&public->draining, broker->draining ? INF_STATS_ENDS : broker->paused ? INF_STATS_DRAINS : INF_STATS_SERVES);
	inf_store64(&public->n_sessions, stats.n_sessions);
	inf_store64(&public->n_log_dropped, log_dropped());
	inf_store64(&public->device_bytes, quota_device_used());
	executor_copy(public, &broker->executor);
	limit_use(public, LIMIT_sessions_max, broker->n_sessions);
	limit_use(public, LIMIT_memory_max, quota_bytes_used());
	limit_use(public, LIMIT_device_memory_max, quota_device_used());
	limit_use(public, LIMIT_jobs_max, broker->n_jobs);
	limit_use(public, LIMIT_models_max, models_copy(broker));
	limit_use(public, LIMIT_executor_deaths_max, broker->executor.n_deaths_in_row);
	sessions_copy(broker);
}
