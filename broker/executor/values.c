/* SPDX-License-Identifier: Apache-2.0 */
/* values.c - are the values of an input what its signature allows? */
#include "broker/executor/values.h"
#include <inf/types.h>

#define IN_RANGE(type)                                                        \
	do {                                                                  \
		const type *value = data;                                     \
		bool good = true;                                             \
		for (uint64_t i = 0; i < n; i++)                              \
			good &= (int64_t)value[i] >= min && (int64_t)value[i] <= max; \
		return good;                                                  \
	} while (0)

bool values_in_range(const void *data, uint8_t dtype, uint64_t n, int64_t min, int64_t max)
{
	switch (dtype) {
	case INF_BOOL:
	case INF_U8:
		IN_RANGE(uint8_t);
	case INF_I8:
		IN_RANGE(int8_t);
	case INF_I16:
		IN_RANGE(int16_t);
	case INF_I32:
		IN_RANGE(int32_t);
	case INF_I64:
		IN_RANGE(int64_t);
	default:
		return true;
	}
}

/* Neither, unless all bits of the exponent are set (IEEE 754); no early end, so that the loop becomes vectors. */
#define IS_FINITE(type, exponent)                                     \
	do {                                                          \
		const type *bits = data;                              \
		bool good = true;                                     \
		for (uint64_t i = 0; i < n; i++)                      \
			good &= (bits[i] & (exponent)) != (exponent); \
		return good;                                          \
	} while (0)

bool values_are_finite(const void *data, uint8_t dtype, uint64_t n)
{
	switch (dtype) {
	case INF_F16:
		IS_FINITE(uint16_t, 0x7c00u);
	case INF_BF16:
		IS_FINITE(uint16_t, 0x7f80u);
	case INF_F32:
		IS_FINITE(uint32_t, 0x7f800000u);
	case INF_F64:
		IS_FINITE(uint64_t, 0x7ff0000000000000ull);
	default:
		return true;
	}
}
