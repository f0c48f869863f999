/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.c - which models there are.
 *
 * An executor reads the directory (the front never does) and says FOUND for each model, then
 * SCANNED; the list of what it found last is kept. For each name the highest version that is not
 * known to fail is served: one that cannot be loaded leaves the next lower one, or what was served
 * before.
 *
 *	LOAD ─► LOADING ─LOADED─► READY ─newer one READY, or file gone─► superseded ─► drained, freed
 *	           │                │ (a new executor loads it again: it stays READY)
 *	           └─FAILED, died───┴─► FAILED ─its file changed─► LOADING
 *
 * While an executor loads a file it may die of it: that file (inode, mtime, size) is FAILED until
 * it changes, or every executor would die of it again. Where something else may have killed it (a
 * batch that was running, a device that was lost, a kill from outside for a file that was READY
 * before) it gets more chances.
 *
 * A model's id is its index in broker.models. What an executor says is judged here: -EPROTO has it
 * killed.
 */
#define _GNU_SOURCE 1
#include "broker/registry.h"
#include "broker/clock.h"
#include "broker/config.h"
#include "broker/log.h"
#include "broker/pipeline.h"
#include "broker/policy/timing.h"
#include "broker/session.h"
#include "broker/stats.h"
#include "broker/supervisor.h"
#include "shm/signature.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOUND_MAX	256u /* versions of all models that are looked at */
#define TIME_NS_MAX	3600000000000ull

/* One line of a scan. */
struct found {
	char name[INF_NAME_BYTES];
	uint32_t version;
	bool builtin;
	uint64_t inode, mtime_ns, file_bytes;
};

struct registry {
	struct found found[FOUND_MAX],
		next[FOUND_MAX]; /* of the last scan, of the one in progress */
	uint32_t n_found, n_next, n_said;
	bool scanning, again, scanned;
};

/* --- small questions --- */

static bool name_char_is_valid(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '_' || c == '.';
}

bool registry_name_is_valid(const char name[INF_NAME_BYTES])
{
	if (name[0] == '.' || !name[0])
		return false;
	for (uint32_t i = 0; i < INF_NAME_BYTES; i++) {
		if (!name[i])
			return true;
		if (!name_char_is_valid(name[i]))
			return false;
	}
	return false;
}

/* READY before LOADING before FAILED, then the higher version. */
static bool is_better(const struct model *model, const struct model *best)
{
	static const int rank[] = {
		[INF_MODEL_READY] = 3, [INF_MODEL_LOADING] = 2, [INF_MODEL_FAILED] = 1
	};

	if (!best || rank[model->state] != rank[best->state])
		return !best || rank[model->state] > rank[best->state];
	return model->version > best->version;
}

struct model *registry_find(struct broker *broker, const char *name)
{
	struct model *best = NULL;

	for (uint32_t i = 0; i < MODELS_MAX; i++) {
		struct model *model = broker->models[i];

		if (model && !model->superseded && strcmp(model->name, name) == 0 &&
		    is_better(model, best))
			best = model;
	}
	return best;
}

struct model *registry_at(struct broker *broker, uint32_t idx)
{
	for (uint32_t i = 0; i < MODELS_MAX; i++)
		if (broker->models[i] && !broker->models[i]->superseded && idx-- == 0)
			return broker->models[i];
	return NULL;
}

bool registry_is_scanned(const struct broker *broker)
{
	return broker->registry && broker->registry->scanned;
}

bool registry_is_settled(const struct broker *broker)
{
	if (!registry_is_scanned(broker))
		return false;
	for (uint32_t i = 0; i < MODELS_MAX; i++) {
		const struct model *model = broker->models[i];

		if (model && !model->superseded && model->state != INF_MODEL_FAILED &&
		    !model->loaded)
			return false;
	}
	return true;
}

static struct registry *registry_get(struct broker *broker)
{
	if (!broker->registry)
		broker->registry = calloc(1, sizeof(*broker->registry));
	return broker->registry;
}

static bool is_file_of(const struct model *model, const struct found *found)
{
	return model->builtin == found->builtin && model->inode == found->inode &&
	       model->mtime_ns == found->mtime_ns && model->file_bytes == found->file_bytes;
}

/* Entries of one name and version: at most a serving one and its replacement, which loads. */
static struct model *entry_find(struct broker *broker, const struct found *found, bool same_file)
{
	for (uint32_t i = 0; i < MODELS_MAX; i++) {
		struct model *model = broker->models[i];

		if (model && !model->superseded && model->version == found->version &&
		    strcmp(model->name, found->name) == 0 && is_file_of(model, found) == same_file)
			return model;
	}
	return NULL;
}

/* --- entries --- */

static void identify(struct model *model, const struct found *found)
{
	model->builtin = found->builtin;
	model->inode = found->inode;
	model->mtime_ns = found->mtime_ns;
	model->file_bytes = found->file_bytes;
	model->was_ready = false;
	model->n_load_deaths = 0;
	memset(model->text, 0, sizeof(model->text));
	memset(model->stats->text, 0, sizeof(model->stats->text));
}

static struct model *entry_new(struct broker *broker, const struct found *found)
{
	struct model *model;
	uint32_t at = 0, n = 0;

	for (uint32_t i = 0; i < MODELS_MAX; i++)
		n += broker->models[i] != NULL;
	while (at < MODELS_MAX && broker->models[at])
		at++;
	model = n < broker->config->models_max && at < MODELS_MAX ? calloc(1, sizeof(*model))
								  : NULL;
	if (!model) {
		log_line("model %s is not served: the broker has %" PRIu32
			 " models, at most %" PRIu64 " (--models-max)",
			 found->name, n, broker->config->models_max);
		return NULL;
	}
	model->id = at;
	memcpy(model->name, found->name, sizeof(model->name));
	model->version = found->version;
	model->state = INF_MODEL_LOADING;
	model->stats = &broker->stats->models[at];
	memset(model->stats, 0, sizeof(*model->stats));
	memcpy(model->stats->name, model->name, sizeof(model->stats->name));
	identify(model, found);
	broker->models[at] = model;
	if (at >= broker->models_end)
		broker->models_end = at + 1;
	return model;
}

/* Nothing of it is in flight, nobody's handle names it. */
static void entry_free(struct broker *broker, struct model *model)
{
	session_model_replaced(broker, model, NULL);
	memset(model->stats, 0, sizeof(*model->stats));
	broker->models[model->id] = NULL;
	free(model);
}

static void send_load(struct broker *broker, struct model *model)
{
	struct inf_ctl_load msg;

	if (broker->executor.state != EXECUTOR_READY ||
	    model->load_sent == broker->executor.generation)
		return;
	inf_ctl_init(&msg, INF_CTL_LOAD, 0);
	msg.model = model->id;
	msg.version = model->version;
	memcpy(msg.name, model->name, sizeof(msg.name));
	if (supervisor_send(broker, &msg, NULL, 0) == 0)
		model->load_sent = broker->executor.generation;
}

static void send_unload(struct broker *broker, const struct model *model)
{
	struct inf_ctl_unload msg;

	if (broker->executor.state != EXECUTOR_READY ||
	    model->load_sent != broker->executor.generation)
		return;
	inf_ctl_init(&msg, INF_CTL_UNLOAD, 0);
	msg.model = model->id;
	supervisor_send(broker, &msg, NULL, 0);
}

/* What it serves moves to `heir`, where that has the same signature; the rest is told NO_MODEL; it
 * drains. */
static void supersede(struct broker *broker, struct model *model, struct model *heir)
{
	model->superseded = true;
	broker->n_superseded++;
	if (heir)
		session_model_replaced(broker, model, heir);
	pipeline_model_gone(broker, model, INF_NO_MODEL);
}

/* Is one of its requests waiting to be run alone? */
static bool is_suspect(struct broker *broker, const struct model *model)
{
	const struct queue_client *client = broker->suspects.turns[0];

	for (const struct queue_item *item = client ? client->head : NULL; item; item = item->next)
		if (((const struct job *)item)->handle->model == model)
			return true;
	return false;
}

void registry_reap(struct broker *broker)
{
	for (uint32_t i = 0; i < MODELS_MAX; i++) {
		struct model *model = broker->models[i];

		if (!model || !model->superseded || model->rows_running ||
		    !queue_is_empty(&model->queue) || is_suspect(broker, model))
			continue;
		/* Still on its way in the executor: its answer comes first. */
		if (model->load_sent == broker->executor.generation && !model->loaded)
			continue;
		if (model->loaded)
			send_unload(broker, model);
		broker->n_superseded--;
		entry_free(broker, model);
	}
}

void registry_free(struct broker *broker)
{
	for (uint32_t i = 0; i < MODELS_MAX; i++) {
		free(broker->models[i]);
		broker->models[i] = NULL;
	}
	free(broker->registry);
	broker->registry = NULL;
}

/* --- scan --- */

void registry_scan(struct broker *broker)
{
	struct registry *registry = registry_get(broker);
	struct inf_ctl_scan msg;

	if (!registry)
		return;
	if (broker->executor.state == EXECUTOR_FAILED) {
		supervisor_start(broker);
		return;
	}
	/* A scan is made when an executor is READY and knows all sessions, anyway. */
	if (broker->executor.state != EXECUTOR_READY || broker->executor.scan_due)
		return;
	registry->again = registry->scanning;
	if (registry->scanning)
		return;
	registry->scanning = true;
	registry->n_next = registry->n_said = 0;
	inf_ctl_init(&msg, INF_CTL_SCAN, 0);
	supervisor_send(broker, &msg, NULL, 0);
}

int registry_found(struct broker *broker, const struct inf_ctl_found *msg)
{
	struct registry *registry = broker->registry;
	struct found *found;

	if (!registry || !registry->scanning || !registry_name_is_valid(msg->name) ||
	    !msg->version || msg->builtin > 1)
		return -EPROTO;
	registry->n_said++;
	for (uint32_t i = 0; i < registry->n_next; i++) {
		if (registry->next[i].version == msg->version &&
		    strcmp(registry->next[i].name, msg->name) == 0) {
			log_line("model %s (version %" PRIu32
				 ") is there twice: the second one is ignored",
				 msg->name, msg->version);
			return 0;
		}
	}
	if (registry->n_next == FOUND_MAX) {
		log_line("model %s (version %" PRIu32 ") is ignored: more than %u model files",
			 msg->name, msg->version, FOUND_MAX);
		return 0;
	}
	found = &registry->next[registry->n_next++];
	*found = (struct found){
		.version = msg->version,
		.builtin = msg->builtin,
		.inode = msg->inode,
		.mtime_ns = msg->mtime_ns,
		.file_bytes = msg->file_bytes,
	};
	memcpy(found->name, msg->name, strlen(msg->name));
	return 0;
}

/* The highest version of the name that is not known to fail. NULL = all of them do, or there is
 * none. */
static const struct found *choose(struct broker *broker, const char *name)
{
	const struct registry *registry = broker->registry;
	const struct found *best = NULL;

	for (uint32_t i = 0; i < registry->n_found; i++) {
		const struct found *found = &registry->found[i];
		const struct model *known;

		if (strcmp(found->name, name) != 0 || (best && best->version >= found->version))
			continue;
		known = entry_find(broker, found, true);
		if (!known || known->state != INF_MODEL_FAILED)
			best = found;
	}
	return best;
}

/* Makes an executor load what shall serve this name, unless it has. */
static void serve(struct broker *broker, const char *name)
{
	const struct found *found = choose(broker, name);
	struct model *model, *other;

	if (!found)
		return;
	model = entry_find(broker, found, true);
	other = entry_find(broker, found, false);
	if (!model && other && !other->loaded) {
		/* Its file changed before it was loaded (again): the entry stays, with its
		 * handles. */
		if (other->load_sent == broker->executor.generation &&
		    other->state == INF_MODEL_LOADING)
			return; /* which file it gets is open: looked at when that is known */
		if (other->state == INF_MODEL_FAILED)
			other->state = INF_MODEL_LOADING;
		other->load_sent = 0;
		identify(other, found);
		model = other;
	}
	if (!model)
		model = entry_new(broker, found);
	if (model && !model->loaded)
		send_load(broker, model);
}

/* Its file is there; for one that FAILED: as it was then. */
static bool is_found(const struct broker *broker, const struct model *model)
{
	const struct registry *registry = broker->registry;

	for (uint32_t i = 0; i < registry->n_found; i++)
		if (registry->found[i].version == model->version &&
		    strcmp(registry->found[i].name, model->name) == 0 &&
		    (model->state != INF_MODEL_FAILED || is_file_of(model, &registry->found[i])))
			return true;
	return false;
}

static void drop_vanished(struct broker *broker)
{
	for (uint32_t i = 0; i < MODELS_MAX; i++) {
		struct model *model = broker->models[i];

		if (!model || model->superseded || is_found(broker, model))
			continue;
		/* Another version of it takes over when it is ready. */
		if (model->state != INF_MODEL_FAILED && choose(broker, model->name))
			continue;
		if (model->state != INF_MODEL_FAILED)
			log_line("model %s (version %" PRIu32 ") is gone", model->name,
				 model->version);
		supersede(broker, model, NULL);
	}
}

int registry_scanned(struct broker *broker, const struct inf_ctl_scanned *msg)
{
	struct registry *registry = broker->registry;

	if (!registry || !registry->scanning || msg->n_found != registry->n_said || msg->error > 0)
		return -EPROTO;
	registry->scanning = false;
	registry->scanned = true;
	if (msg->error) {
		log_line("cannot read the directory of models: %s; check --models",
			 strerror(-msg->error));
		/* What was served stays; only builtin models and what is known are loaded. */
	}
	if (!msg->error || !registry->n_found) {
		memcpy(registry->found, registry->next, sizeof(registry->found));
		registry->n_found = registry->n_next;
	}
	for (uint32_t i = 0; i < registry->n_found; i++)
		serve(broker, registry->found[i].name);
	if (!msg->error)
		drop_vanished(broker);
	if (registry->again) {
		registry->again = false;
		registry_scan(broker);
	}
	return 0;
}

/* --- loading --- */

/* The model that the executor may speak of now. */
static struct model *model_of(struct broker *broker, uint32_t id)
{
	struct model *model = id < MODELS_MAX ? broker->models[id] : NULL;

	if (!model || model->loaded || model->load_sent != broker->executor.generation)
		return NULL;
	return model;
}

int registry_loading(struct broker *broker, const struct inf_ctl_loading *msg)
{
	if (!model_of(broker, msg->model) || broker->executor.loading >= 0)
		return -EPROTO;
	broker->executor.loading = (int32_t)msg->model;
	broker->executor.loading_ns = clock_ns();
	return 0;
}

static void fail(struct broker *broker, struct model *model, const char *text)
{
	char name[INF_NAME_BYTES];

	log_escape(model->text, sizeof(model->text), text, INF_CTL_TEXT_BYTES);
	log_line("model %s (version %" PRIu32 ") failed to load: %s", model->name, model->version,
		 model->text);
	stats_event(broker, INF_EVENT_MODEL_FAILED, model->id, "%s: %s", model->name, model->text);
	model->state = INF_MODEL_FAILED;
	model->was_ready = false;
	model->load_sent = 0;
	memcpy(model->stats->text, model->text, sizeof(model->stats->text));
	memcpy(name, model->name, sizeof(name));
	if (model->superseded)
		return;
	/* It may have served before, in an earlier executor. */
	pipeline_model_gone(broker, model, INF_NO_MODEL);
	session_model_replaced(broker, model, NULL);
	serve(broker, name);
}

int registry_failed(struct broker *broker, const struct inf_ctl_failed *msg)
{
	struct model *model = model_of(broker, msg->model);

	/* Without LOADING: the file could not even be found. */
	if (!model ||
	    (broker->executor.loading >= 0 && broker->executor.loading != (int32_t)msg->model))
		return -EPROTO;
	broker->executor.loading = -1;
	fail(broker, model,
	     msg->text[0] ? msg->text : strerror(msg->error < 0 ? -msg->error : EIO));
	return 0;
}

/* Why this model is not served, or NULL. */
static const char *judge_loaded(const struct model *model, const struct inf_ctl_loaded *msg)
{
	const char *wrong = inf_signature_check(&msg->signature);

	if (wrong)
		return wrong;
	if (strncmp(msg->signature.name, model->name, INF_NAME_BYTES) != 0)
		return "its signature has another name";
	for (uint32_t i = 0; i < INF_CTL_BUCKETS; i++)
		if (msg->time_ns[i] > TIME_NS_MAX)
			return "one batch of it takes more than an hour";
	return msg->time_ns[0] ? NULL : "its warm-up has not measured the time of one row";
}

/* Times of the sizes that it takes. */
static void take_times(struct model *model, const uint64_t time_ns[INF_CTL_BUCKETS])
{
	for (uint32_t i = 0; i < INF_CTL_BUCKETS; i++)
		model->base_ns[i] = 1u << i <= model->signature.batch_max ? time_ns[i] : 0;
	memcpy(model->time_ns, model->base_ns, sizeof(model->time_ns));
	model->n_learned = 0;
	model->history = (struct timing_history){ 0 };
	model->batch_best = timing_best_rows(model->time_ns, model->signature.batch_max);
}

static void log_ready(struct broker *broker, const struct model *model)
{
	uint64_t best_ns = timing_predict_ns(model->time_ns, model->batch_best);

	log_line("model %s (version %" PRIu32
		 ") is ready: one row takes %.3f ms, best batch %" PRIu32 " (%.1f rows/s)",
		 model->name, model->version, (double)model->time_ns[0] / 1e6, model->batch_best,
		 best_ns ? (double)model->batch_best * 1e9 / (double)best_ns : 0.0);
	stats_event(broker, INF_EVENT_MODEL_READY, model->id, "%s, version %" PRIu32, model->name, model->version);
}

/* A model that is READY now takes over from all others of its name. */
static void take_over(struct broker *broker, struct model *model)
{
	for (uint32_t i = 0; i < MODELS_MAX; i++) {
		struct model *other = broker->models[i];

		if (other && other != model && !other->superseded &&
		    other->state != INF_MODEL_FAILED && strcmp(other->name, model->name) == 0 &&
		    (other->version < model->version || other->loaded ||
		     other->version == model->version))
			supersede(broker, other, model);
	}
}

int registry_loaded(struct broker *broker, const struct inf_ctl_loaded *msg)
{
	struct model *model = model_of(broker, msg->model);
	struct inf_signature signature = msg->signature;
	const char *wrong;
	bool is_news;

	if (!model || broker->executor.loading != (int32_t)msg->model || msg->in_place > 1)
		return -EPROTO;
	broker->executor.loading = -1;
	wrong = judge_loaded(model, msg);
	if (wrong) {
		send_unload(broker, model);
		fail(broker, model, wrong);
		return 0;
	}
	signature.version = model->version;
	signature.hash = inf_signature_hash(&signature);
	if (model->signature.hash && signature.hash != model->signature.hash) {
		/* The file changed between two executors: who opened the old one must open it
		 * again. */
		pipeline_model_gone(broker, model, INF_NO_MODEL);
		session_model_replaced(broker, model, NULL);
	}
	is_news = !model->was_ready || signature.hash != model->signature.hash;
	model->signature = signature;
	take_times(model, msg->time_ns);
	model->in_place = msg->in_place;
	model->device_bytes = msg->device_bytes;
	model->split = signature.flags & INF_SIG_BATCHABLE;
	model->state = INF_MODEL_READY;
	model->loaded = true;
	model->was_ready = true;
	model->n_load_deaths = 0;
	if (model->superseded)
		return 0; /* its file went meanwhile: registry_reap() unloads it */
	if (is_news || broker->config->verbose)
		log_ready(broker, model);
	take_over(broker, model);
	serve(broker, model->name);
	return 0;
}

/* --- death of the executor --- */

static void loader_died(struct broker *broker, struct model *model, uint32_t n_chances)
{
	if (model->was_ready)
		n_chances = REGISTRY_CHANCES_SHARED;
	if (++model->n_load_deaths >= n_chances)
		fail(broker, model,
		     "it killed the executor that loaded it; it is tried again when its file "
		     "changes");
}

void registry_executor_died(struct broker *broker, uint32_t n_chances)
{
	int32_t loading = broker->executor.loading;

	broker->executor.loading = -1;
	if (broker->registry)
		broker->registry->scanning = broker->registry->again = false;
	for (uint32_t i = 0; i < MODELS_MAX; i++) {
		if (!broker->models[i])
			continue;
		broker->models[i]->loaded = false;
		broker->models[i]->load_sent = 0;
		/* What drained there has gone back to its queue, and nobody will load it again. */
		if (broker->models[i]->superseded)
			pipeline_model_gone(broker, broker->models[i], INF_NO_MODEL);
	}
	if (loading >= 0 && broker->models[loading])
		loader_died(broker, broker->models[loading], n_chances);
}
