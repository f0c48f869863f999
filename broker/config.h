/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.h - the command line and the one table of limits, printed by --help and shown by shmctl status.
 */
#ifndef BROKER_CONFIG_H
#define BROKER_CONFIG_H

#include "broker/loop.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* X(name, default, unit, what it bounds); each is a member of struct config and an option --NAME N with '-' for '_' */
#define CONFIG_LIMITS(X)                                                                                       \
	X(sessions_max, 1024, "sessions", "connected at once, all users")                                     \
	X(user_sessions_max, 256, "sessions", "connected at once, one user")                                  \
	X(handshakes_max, 32, "sessions", "of one user that have not finished connecting")                    \
	X(memory_max, 8589934592, "bytes", "of all regions, all users")                                       \
	X(user_memory_max, 4294967296, "bytes", "of all regions of one user")                                 \
	X(region_max, 1073741824, "bytes", "of one region")                                                   \
	X(device_memory_max, 17179869184, "bytes", "of device memory for tensors, all users")                 \
	X(user_device_memory_max, 4294967296, "bytes", "of device memory for tensors of one user")            \
	X(commit_ms_max, 10000, "ms", "that a request waits for its inputs on a device")                      \
	X(batch_ms_max, 10000, "ms", "that a batch runs, or 50 x what it should; then it hangs")              \
	X(load_s_max, 3600, "s", "that loading a model takes; then it hangs")                                 \
	X(start_s_max, 300, "s", "that an executor takes to start; then it hangs")                            \
	X(user_importers_max, 4, "processes", "that copy device memory of one user (--cuda-ipc-users)")          \
	X(depth_default, 64, "rows", "memory per opened model where the client does not say")                 \
	X(depth_max, 4096, "rows", "memory per opened model")                                                 \
	X(jobs_max, 16384, "requests", "in flight, all users")                                                \
	X(lane_slots, 256, "requests", "in flight or unread on one lane (fixed by the layout)")               \
	X(lanes, 16, "lanes", "per session (fixed by the layout)")                                            \
	X(models_max, 64, "models", "loaded or failed")                                                       \
	X(handles_max, 64, "models", "opened by one session")                                                 \
	X(regions_max, 64, "regions", "of one session")                                                       \
	X(executor_deaths_max, 5, "deaths", "in a row before the executor counts as not startable")           \
	X(log_rate_max, 50, "lines/s", "written to the log; the rest is dropped and counted")

#define CONFIG_IPC_USERS_MAX 64u

struct config {
	const char *socket_path; /* --socket, else chosen by listener.c */
	const char *models_path; /* --models DIR, absolute; NULL = none */
	const char *executor_path; /* --executor FILE, else beside this program */
	enum loop_kind loop;	 /* --loop=io_uring|epoll, $INF_LOOP */
	bool builtin;		 /* --builtin */
	bool debug;		 /* --debug: stay dumpable */
	bool verbose;		 /* --verbose */
	const char *device;	 /* --device NAME; NULL = the CPU */
	uint32_t instances;	 /* --instances N, 0 = executor's choice */
	uint32_t threads;	 /* --threads N per instance, 0 = executor's choice */
	int32_t spin_ns;	 /* --spin-ns N, -1 = calibrated (tests sweep it) */
	bool no_spin;		 /* --no-spin */
	bool no_graphs;		 /* --no-graphs */
	uint64_t device_model_memory; /* --device-model-memory N, 0 = what the device has */
	uid_t cuda_ipc_users[CONFIG_IPC_USERS_MAX]; /* --cuda-ipc-users LIST */
	uint32_t n_cuda_ipc_users;
#define CONFIG_MEMBER(name, value, unit, text) uint64_t name;
	CONFIG_LIMITS(CONFIG_MEMBER)
#undef CONFIG_MEMBER
};

/* Parses argv. 0, or 1 = said all that was asked (--help, --version: exit 0), or -EINVAL after an error line. */
int config_parse(struct config *config, int argc, char **argv);

#endif /* BROKER_CONFIG_H */
