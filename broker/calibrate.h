/* SPDX-License-Identifier: Apache-2.0 */
/* calibrate.h - W, what one park + wake costs on this machine; every spin budget derives from it. */
#ifndef BROKER_CALIBRATE_H
#define BROKER_CALIBRATE_H

#include <stdint.h>

/* Measures for a few ms at start (median one-way time of a futex wake between two threads); 2,000..50,000 ns. */
uint32_t calibrate_wake_ns(void);

#endif /* BROKER_CALIBRATE_H */
