/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair_iceoryx.c - classic iceoryx through its C binding: a message published there, and one
 * published back.
 *
 * --how wait (both ends sleep in a wait set, the default) or spin (both ends look again and again).
 * Its RouDi daemon must run. A message is written into a loaned chunk, as the library is meant to
 * be used, and its 64 bytes are copied out of it.
 */
#define _GNU_SOURCE 1
#include "tests/bench/peers/loop.h"
#include <errno.h>
#include <iceoryx_binding_c/enums.h>
#include <iceoryx_binding_c/log.h>
#include <iceoryx_binding_c/publisher.h>
#include <iceoryx_binding_c/runtime.h>
#include <iceoryx_binding_c/subscriber.h>
#include <iceoryx_binding_c/types.h>
#include <iceoryx_binding_c/wait_set.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static iox_pub_storage_t publisher_storage;
static iox_sub_storage_t subscriber_storage;
static iox_ws_storage_t wait_set_storage;
static iox_pub_t publisher;
static iox_sub_t subscriber;
static iox_ws_t wait_set;
static bool spins, shares_cpu;

static void open_ports(const char *role, const char *out, const char *in)
{
	char name[96];

	spins = !strcmp(loop_options.how, "spin");
	shares_cpu =
		loop_options.client_cpu >= 0 && loop_options.client_cpu == loop_options.server_cpu;
	/* The library makes files of this name, which rivals.py looks for after a run that had to
	 * be killed. */
	snprintf(name, sizeof(name), "%s-%s", basename(loop_options.dir), role);
	iox_set_loglevel(Iceoryx_LogLevel_Error);
	iox_runtime_init(name);
	publisher = iox_pub_init(&publisher_storage, "infbroker", "peer", out, NULL);
	subscriber = iox_sub_init(&subscriber_storage, "infbroker", "peer", in, NULL);
	wait_set = iox_ws_init(&wait_set_storage);
	errno = 0;
	if (!publisher || !subscriber || !wait_set)
		loop_die("cannot open the ports");
	if (iox_ws_attach_subscriber_state(wait_set, subscriber, SubscriberState_HAS_DATA, 1,
					   NULL) != WaitSetResult_SUCCESS)
		loop_die("cannot attach the subscriber to the wait set");
}

static void listen_iceoryx(void)
{
	open_ports("server", "back", "there");
}

static bool is_connected(void)
{
	return iox_sub_get_subscription_state(subscriber) == SubscribeState_SUBSCRIBED &&
	       iox_pub_has_subscribers(publisher);
}

/* The daemon joins publishers and subscribers in its own time (every 100 ms). */
static void connect_iceoryx(void)
{
	open_ports("client", "there", "back");
	while (!is_connected())
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static void wait_for_one(void)
{
	iox_notification_info_t information;
	uint64_t n_missed;

	if (!spins)
		iox_ws_wait(wait_set, &information, 1, &n_missed);
	else if (shares_cpu)
		sched_yield(); /* else the one that looks uses up its time slice */
}

static void take(void)
{
	const void *chunk;

	while (iox_sub_take_chunk(subscriber, &chunk) != ChunkReceiveResult_SUCCESS)
		wait_for_one();
	memcpy(loop_reply, chunk, loop_options.message_bytes);
	iox_sub_release_chunk(subscriber, chunk);
}

static void give(const unsigned char *buffer)
{
	void *chunk;

	errno = 0;
	if (iox_pub_loan_chunk(publisher, &chunk, (uint32_t)loop_options.message_bytes) !=
	    AllocationResult_SUCCESS)
		loop_die("no chunk to be had");
	memcpy(chunk, buffer, loop_options.message_bytes);
	iox_pub_publish_chunk(publisher, chunk);
}

static void close_ports(void)
{
	iox_ws_detach_subscriber_state(wait_set, subscriber, SubscriberState_HAS_DATA);
	iox_ws_deinit(wait_set);
	iox_sub_deinit(subscriber);
	iox_pub_deinit(publisher);
}

/*
 * The server must leave by exit(), which tells the daemon: it asserts when it finds at its own end
 * that a process which it still lists is gone. So the server is not killed but told, by a message
 * that begins with 0 as no other does.
 */
static void serve(void)
{
	for (;;) {
		take();
		if (!loop_reply[0])
			break;
		give(loop_reply);
	}
	close_ports();
	exit(0);
}

static void ask(void)
{
	give(loop_message);
	take();
}

static void disconnect(void)
{
	loop_message[0] = 0;
	give(loop_message);
	/* Until it is taken: with this end's ports go the chunks that nobody took. */
	nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
	close_ports();
}

int main(int argc, char **argv)
{
	static const struct pair_ops ops = {
		.listen = listen_iceoryx,
		.serve = serve,
		.connect = connect_iceoryx,
		.ask = ask,
		.disconnect = disconnect,
	};

	return pair_main(argc, argv, &ops);
}
