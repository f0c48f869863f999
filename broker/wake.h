/* SPDX-License-Identifier: Apache-2.0 */
/* wake.h - wakes the clients that sleep on completions. */
#ifndef BROKER_WAKE_H
#define BROKER_WAKE_H

#include "broker/job.h"

/* After all completions of a turn: moves the futex words, one fence, then wakes the lanes that
 * sleep. Never blocks. */
void wake_clients(struct broker *broker);

#endif /* BROKER_WAKE_H */
