/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connect.c - inf_open() and inf_close(): finding the broker, the handshake, the session's first
 * memory.
 *
 *	HELLO -> WELCOME (request fd, response fd, bell) -> map, populate -> MAPPED{0} -> READY{0}
 *
 * Sizes and positions are taken from WELCOME, never from shared memory. Seals are checked before
 * anything is mapped; fds are closed after that. A failure names every place that was tried and why
 * it was none.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include "shm/region.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* The text of options->error, built up piece by piece; NULL `at` = nobody asked for it. */
struct report {
	char *at;
	size_t room_bytes;
	bool started;
};

__attribute__((format(printf, 2, 3))) static void report(struct report *report, const char *format,
							 ...)
{
	va_list args;
	int n;

	if (!report->at || report->room_bytes < 2)
		return;
	va_start(args, format);
	n = vsnprintf(report->at, report->room_bytes, format, args);
	va_end(args);
	if (n < 0)
		return;
	if ((size_t)n >= report->room_bytes)
		n = (int)report->room_bytes - 1;
	report->at += n;
	report->room_bytes -= (size_t)n;
	report->started = true;
}

static const char *errno_text(int error)
{
	const char *text = strerrordesc_np(error < 0 ? -error : error);

	return text ? text : "unknown error";
}

uint64_t infc_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* --- finding it --- */

static int try_connect(const char *path, int *ret_fd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t n = strlen(path);
	int fd, r = 0;

	if (n >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, n + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (errno == EINTR)
			continue;
		r = -errno;
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

/* Tries one place and reports a failure. `source` says who named it. */
static int try_place(struct report *out, const char *path, const char *source, int *ret_fd)
{
	int r = try_connect(path, ret_fd);

	if (!r)
		return 0;
	report(out, "%s%s%s: %s", out->started ? "; " : "no broker at ", path, source,
	       errno_text(r));
	if (r == -ENAMETOOLONG)
		report(out, " (a socket's path has at most %zu bytes)",
		       sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
	return r;
}

/* Where it is when nobody says: first the user's, then the system's. */
static int try_defaults(struct report *out, int *ret_fd)
{
	const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
	int first = -ENOENT, r;

	if (runtime && *runtime) {
		char *path;

		if (asprintf(&path, "%s/infbroker/socket", runtime) < 0)
			return -ENOMEM;
		first = try_place(out, path, "", ret_fd);
		free(path);
		if (!first)
			return 0;
	}
	r = try_place(out, "/run/infbroker/socket", "", ret_fd);
	return r == -ENOENT ? first : r;
}

static int find_broker(const struct inf_options *options, struct report *out, int *ret_fd)
{
	const char *environment = secure_getenv("INFBROKER_SOCKET");
	int r;

	if (options->socket)
		r = try_place(out, options->socket, "", ret_fd);
	else if (environment && *environment)
		r = try_place(out, environment, " (from $INFBROKER_SOCKET)", ret_fd);
	else
		r = try_defaults(out, ret_fd);
	if (r)
		report(out, "; start infbroker, or name its socket in $INFBROKER_SOCKET");
	return r;
}

/* --- the handshake --- */

static int send_hello(struct inf_client *client, const char *name)
{
	struct inf_ctl_hello msg;

	inf_ctl_init(&msg, INF_CTL_HELLO, 1);
	msg.version_min = INF_CTL_VERSION_MIN;
	msg.version_max = INF_CTL_VERSION;
	msg.features = INF_FEATURES_ALL;
	if (!name)
		name = program_invocation_short_name;
	memcpy(msg.name, name, strnlen(name, sizeof(msg.name) - 1));
	return inf_ctl_send(client->socket_fd, &msg, NULL, 0, false);
}

/* The answer to HELLO: its fds are the caller's on 0. */
static int await_welcome(struct inf_client *client, struct report *out, struct inf_ctl_welcome *ret,
			 int *ret_fds)
{
	union inf_ctl_any msg;
	unsigned int n_fds = 0;
	int r;

	do {
		r = inf_ctl_recv(client->socket_fd, INF_CTL_FROM_FRONT_TO_CLIENT, &msg, ret_fds,
				 &n_fds, false);
	} while (r == -EINTR);
	if (r) {
		report(out, "the broker did not welcome us: %s",
		       r > 0 ? inf_ctl_fault_name(r) : errno_text(r));
		return r == INF_CTL_E_CLOSED ? -ECONNRESET : r > 0 ? -EPROTO : r;
	}
	if (msg.head.type == INF_CTL_WELCOME) {
		*ret = msg.welcome;
		return 0;
	}
	for (unsigned int i = 0; i < n_fds; i++)
		close(ret_fds[i]);
	if (msg.head.type != INF_CTL_ERROR) {
		report(out, "the broker answered HELLO with message type %u", msg.head.type);
		return -EPROTO;
	}
	r = infc_control_refusal(&msg.error);
	report(out, "the broker refused: %s (%s)", inf_error(client), errno_text(r));
	return r;
}

static const char *check_welcome(const struct inf_ctl_welcome *welcome)
{
	if (welcome->version < INF_CTL_VERSION_MIN || welcome->version > INF_CTL_VERSION)
		return "a version that this library does not speak";
	if (welcome->response_bytes != INF_RESPONSE_BYTES)
		return "a response region of another size";
	if (welcome->request_bytes < INF_ARENA_OFFSET + INF_PAGE ||
	    welcome->request_bytes % INF_PAGE)
		return "a request region of an impossible size";
	return welcome->start < INF_SLOTS ? NULL : "an impossible start position";
}

static int map_response(struct inf_client *client, int fd)
{
	void *base;
	int r;

	r = inf_region_check_received(fd, INF_RESPONSE_BYTES, true);
	if (!r)
		r = inf_region_map(fd, INF_RESPONSE_BYTES, false, 0, &base);
	if (r)
		return r;
	client->response = base;
	return inf_region_populate(base, INF_RESPONSE_BYTES, false);
}

static int map_session(struct inf_client *client, const struct inf_ctl_welcome *welcome,
		       const int *fds)
{
	int r = infc_region_add(client, 0, INF_REGION_REQUEST, fds[0], welcome->request_bytes);

	if (r)
		return r;
	client->request =
		(struct inf_request_region *)(void *)infc_region_find(client, 0, INF_REGION_REQUEST)
			->base;
	client->request_bytes = welcome->request_bytes;
	r = map_response(client, fds[1]);
	if (r)
		return r;
	client->session = welcome->session;
	client->features = welcome->features & INF_FEATURES_ALL;
	client->start = welcome->start;
	return infc_fork_hide_rings(client);
}

/* The head of the response region is complete once READY came. */
static int read_head(struct inf_client *client)
{
	const struct inf_response_head *head = &client->response->head;
	uint64_t spin_ns;

	/* Acquire: pairs with the broker's release, the rest of the head is set. */
	if (inf_load64_acquire(&head->magic) != INF_RESPONSE_MAGIC ||
	    inf_load32(&head->session) != client->session)
		return -EPROTO;
	spin_ns = inf_load32(&head->spin_ns);
	client->must_yield = inf_load32(&head->must_yield);
	client->spin_ns = spin_ns < INFC_SPIN_NS_MAX ? spin_ns : INFC_SPIN_NS_MAX;
	return 0;
}

/* MAPPED{0}, and the broker's word that the rings may be used. */
static int finish(struct inf_client *client)
{
	union inf_ctl_any answer;
	struct inf_ctl_mapped msg;
	int fd, r;

	inf_ctl_init(&msg, INF_CTL_MAPPED, 0);
	r = infc_control_ask(client, &msg, INF_CTL_READY, &answer, &fd);
	if (!r && answer.head.type == INF_CTL_ERROR)
		r = infc_control_refusal(&answer.error);
	return r ? r : read_head(client);
}

static int handshake(struct inf_client *client, const struct inf_options *options,
		     struct report *out)
{
	struct inf_ctl_welcome welcome;
	int fds[INF_CTL_FDS_MAX];
	const char *fault;
	int r;

	r = send_hello(client, options->name);
	if (r) {
		report(out, "cannot greet the broker: %s", errno_text(r));
		return r == -EPIPE ? -ECONNRESET : r;
	}
	r = await_welcome(client, out, &welcome, fds);
	if (r)
		return r;
	client->bell_fd = fds[2];
	fault = check_welcome(&welcome);
	if (fault) {
		report(out, "the broker offers %s", fault);
		r = -EPROTONOSUPPORT;
	} else {
		r = map_session(client, &welcome, fds);
		if (r)
			report(out, "cannot map the session's memory: %s", errno_text(r));
	}
	close(fds[0]);
	close(fds[1]);
	if (r)
		return r;
	r = finish(client);
	if (r)
		report(out, "the broker broke off the handshake: %s", errno_text(r));
	return r;
}

/* --- the object --- */

static struct inf_client *client_new(void)
{
	struct inf_client *client = aligned_alloc(INF_LINE, sizeof(*client));

	if (!client)
		return NULL;
	memset(client, 0, sizeof(*client));
	client->socket_fd = -1;
	client->bell_fd = -1;
	for (unsigned int i = 0; i < INF_REGIONS; i++)
		client->regions[i].id = INFC_REGION_NONE;
	pthread_mutex_init(&client->control_lock, NULL);
	pthread_mutex_init(&client->table_lock, NULL);
	infc_arena_init(&client->arena);
	client->ping_model.client = client;
	client->ping_model.is_ping = true;
	client->alive = infc_fork_guard_new();
	client->requests = calloc(INFC_REQUESTS_MAX, sizeof(*client->requests));
	return client;
}

static void client_free(struct inf_client *client)
{
	if (client->has_key)
		pthread_key_delete(client->lane_key);
	infc_lanes_deinit(client);
	infc_device_close(client);
	infc_region_unmap_all(client);
	infc_requests_free(client);
	infc_models_free(client);
	infc_arena_deinit(&client->arena);
	if (client->socket_fd >= 0)
		close(client->socket_fd);
	if (client->bell_fd >= 0)
		close(client->bell_fd);
	infc_fork_guard_free(client->alive);
	free(client->requests);
	free(client);
}

static int connect_client(struct inf_client *client, const struct inf_options *options,
			  struct report *out)
{
	int r;

	if (!client->alive || !client->requests) {
		report(out, "no memory");
		return -ENOMEM;
	}
	r = find_broker(options, out, &client->socket_fd);
	if (r)
		return r;
	out->started = false;
	r = handshake(client, options, out);
	if (r)
		return r;
	r = infc_lanes_init(client);
	if (r)
		report(out, "no thread-specific key is left in this process");
	return r;
}

/* Copies the caller's options; what this release does not know must be zero. */
static int read_options(const struct inf_options *options, struct inf_options *ret)
{
	const unsigned char *bytes = (const void *)options;

	memset(ret, 0, sizeof(*ret));
	if (!options)
		return 0;
	if (options->size < sizeof(options->size))
		return -EINVAL;
	for (size_t i = sizeof(*ret); i < options->size; i++)
		if (bytes[i])
			return -EINVAL;
	memcpy(ret, options, options->size < sizeof(*ret) ? options->size : sizeof(*ret));
	return 0;
}

int inf_open(struct inf_client **ret_client, const struct inf_options *options)
{
	struct inf_options known;
	struct inf_client *client;
	struct report out;
	int r;

	if (!ret_client)
		return -EINVAL;
	r = read_options(options, &known);
	if (r)
		return r;
	out = (struct report){ .at = known.error,
			       .room_bytes = known.error ? known.error_bytes : 0 };
	if (out.room_bytes)
		*out.at = 0;
	client = client_new();
	if (!client)
		return -ENOMEM;
	r = connect_client(client, &known, &out);
	if (r) {
		client_free(client);
		return r;
	}
	*ret_client = client;
	return 0;
}

void inf_close(struct inf_client *client)
{
	if (client)
		client_free(client);
}

uint32_t inf_session(const struct inf_client *client)
{
	return client->session;
}
