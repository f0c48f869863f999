/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - names: the exported face of what shm/ knows about statuses and element types. */
#include "client/internal.h"
#include "shm/signature.h"
#include "shm/status.h"

const char *inf_status_name(enum inf_status status)
{
	return inf_shm_status_name((uint32_t)status);
}

const char *inf_status_text(enum inf_status status)
{
	return inf_shm_status_text((uint32_t)status);
}

const char *inf_dtype_name(enum inf_dtype dtype)
{
	return (uint32_t)dtype < INF_DTYPE_N ? inf_dtype_text((uint8_t)dtype) : "?";
}

uint32_t inf_dtype_bytes(enum inf_dtype dtype)
{
	return (uint32_t)dtype < INF_DTYPE_N ? inf_dtype_size((uint8_t)dtype) : 0;
}

const char *inf_version(void)
{
	return INF_VERSION_STRING;
}
