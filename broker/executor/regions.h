/* SPDX-License-Identifier: Apache-2.0 */
/* regions.h - the memory of sessions, as this executor has mapped it. */
#ifndef BROKER_EXECUTOR_REGIONS_H
#define BROKER_EXECUTOR_REGIONS_H

#include <stdbool.h>
#include <stdint.h>

/* Maps and populates a region of that enum inf_region_kind (borrowed fd). Control thread. 0 or -errno. */
int regions_attach(uint32_t session, uint32_t region, uint32_t kind, int fd, uint64_t bytes);

/* Unmaps all regions of a session. Control thread; no batch names it any more. */
void regions_detach(uint32_t session);

/*
 * The memory at [offset, offset + length) of a region, NULL where it is not mapped, not that long, or not writable; of a twin
 * its address on the device. Any thread.
 */
void *regions_at(uint32_t session, uint32_t region, uint64_t offset, uint64_t length, bool writable);

/* May the device reach that region where it lies? Any thread. */
bool regions_are_pinned(uint32_t session, uint32_t region);

/* Where the device reaches entry `idx1` - 1 of the session's timeline: its `done`. 0 where it does not. Any thread. */
uint64_t regions_done_word(uint32_t session, uint32_t idx1);

#endif /* BROKER_EXECUTOR_REGIONS_H */
