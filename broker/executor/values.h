/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_EXECUTOR_VALUES_H
#define BROKER_EXECUTOR_VALUES_H

#include <stdbool.h>
#include <stdint.h>

/* True where all `n` values lie in [min, max]. Only integer types are judged. */
bool values_in_range(const void *data, uint8_t dtype, uint64_t n, int64_t min, int64_t max);
/* True where none of the `n` values is a NaN or an infinity. Only floating-point types are judged. */
bool values_are_finite(const void *data, uint8_t dtype, uint64_t n);

#endif /* BROKER_EXECUTOR_VALUES_H */
