/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.h - the models: which files exist, which are ready, which failed and why. Names come
 * from the directory that the administrator gave; a client's string is only ever compared with
 * them.
 */
#ifndef BROKER_REGISTRY_H
#define BROKER_REGISTRY_H

#include "broker/job.h"

/* By name; the newest version that is READY, else LOADING, else FAILED. NULL where unknown. */
struct model *registry_find(struct broker *broker, const char *name);
struct model *registry_at(struct broker *broker,
			  uint32_t idx); /* the idx-th used entry, for listings */

/* Messages of the executor, already validated for size and type; contents are judged here. -EPROTO
 * = kill it. */
int registry_found(struct broker *broker, const struct inf_ctl_found *msg);
int registry_scanned(struct broker *broker, const struct inf_ctl_scanned *msg);
int registry_loading(struct broker *broker, const struct inf_ctl_loading *msg);
int registry_loaded(struct broker *broker, const struct inf_ctl_loaded *msg);
int registry_failed(struct broker *broker, const struct inf_ctl_failed *msg);

/*
 * The executor died: models are not loaded any more; the one it was loading is FAILED until its
 * file changes, unless it was loaded before, or something else may have killed it: `n_chances` is
 * how many deaths in a row are too many.
 */
#define REGISTRY_CHANCES_SHARED 3u /* something else may be to blame */
void registry_executor_died(struct broker *broker, uint32_t n_chances);

/* Starts a scan (at executor start and on SIGHUP). */
void registry_scan(struct broker *broker);

/* Once per turn: UNLOADs and frees superseded models that have nothing in flight any more. Cheap
 * where there are none. */
void registry_reap(struct broker *broker);

/* At the broker's end. */
void registry_free(struct broker *broker);

/* Letters, digits, '-', '_' and '.', the first one no '.'; NUL-terminated within INF_NAME_BYTES. */
bool registry_name_is_valid(const char name[INF_NAME_BYTES]);

/* True once an executor has said which models there are. */
bool registry_is_scanned(const struct broker *broker);

/* True when every model found has become READY or FAILED. */
bool registry_is_settled(const struct broker *broker);

#endif /* BROKER_REGISTRY_H */
