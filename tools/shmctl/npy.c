/* SPDX-License-Identifier: Apache-2.0 */
/*
 * npy.c - the header is a Python dictionary in a fixed form; what is not in that form is refused by name.
 * Format: NEP 1 and numpy.lib.format.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/npy.h"
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_BYTES_MAX 65536u

/* NumPy's names: kind and bytes; the byte order is '<', or '|' for single bytes. */
static const struct {
	const char *name;
	uint8_t dtype, bytes;
} kinds[] = {
	{ "b1", INF_BOOL, 1 },	     { "u1", INF_U8, 1 },  { "i1", INF_I8, 1 },
	{ "i2", INF_I16, 2 },	     { "i4", INF_I32, 4 }, { "i8", INF_I64, 8 },
	{ "f2", INF_F16, 2 },	     { "f4", INF_F32, 4 }, { "f8", INF_F64, 8 },
	{ "V2", INF_DTYPE_NONE, 2 },
};

__attribute__((format(printf, 2, 3))) static int bad(char error[NPY_ERROR_BYTES],
						     const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error, NPY_ERROR_BYTES, format, args);
	va_end(args);
	return -EBADMSG;
}

/* What follows 'key': in the dictionary, or NULL. */
static const char *value_of(const char *head, const char *key)
{
	char quoted[32];
	const char *at;

	snprintf(quoted, sizeof(quoted), "'%s':", key);
	at = strstr(head, quoted);
	return at ? at + strlen(quoted) + strspn(at + strlen(quoted), " ") : NULL;
}

static int parse_descr(const char *at, struct npy *npy, uint64_t *ret_bytes,
		       char error[NPY_ERROR_BYTES])
{
	if (!at || *at != '\'')
		return bad(error, "its elements are records, which no model takes");
	if (at[1] == '>')
		return bad(error,
			   "it is big-endian; save it with x.astype(x.dtype.newbyteorder('<'))");
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if ((at[1] == '<' || at[1] == '|') && !strncmp(at + 2, kinds[i].name, 2) &&
		    at[4] == '\'') {
			npy->dtype = kinds[i].dtype;
			*ret_bytes = kinds[i].bytes;
			return 0;
		}
	return bad(error, "no model takes elements of kind %.*s", (int)strcspn(at + 1, "'"),
		   at + 1);
}

static int parse_shape(const char *at, struct npy *npy, char error[NPY_ERROR_BYTES])
{
	if (!at || *at != '(')
		return bad(error, "its header has no shape");
	for (at++; *(at += strspn(at, " ,")) != ')';) {
		char *end;
		unsigned long long dim = strtoull(at, &end, 10);

		if (end == at || *at == '-' || dim > INT64_MAX)
			return bad(error, "its header has no shape");
		if (npy->rank == INF_RANK_MAX)
			return bad(error, "it has more than %d dimensions", INF_RANK_MAX);
		npy->dims[npy->rank++] = (int64_t)dim;
		at = end;
	}
	return 0;
}

static int parse_head(const char *head, struct npy *npy, char error[NPY_ERROR_BYTES])
{
	const char *order = value_of(head, "fortran_order");
	uint64_t bytes = 0;
	int r = parse_descr(value_of(head, "descr"), npy, &bytes, error);

	if (!r)
		r = parse_shape(value_of(head, "shape"), npy, error);
	if (r)
		return r;
	if (!order || (strncmp(order, "False", 5) && npy->rank > 1))
		return bad(error, "it is column-major; save it with numpy.ascontiguousarray(x)");
	npy->n_bytes = bytes;
	for (uint32_t i = 0; i < npy->rank; i++)
		if (__builtin_mul_overflow(npy->n_bytes, (uint64_t)npy->dims[i], &npy->n_bytes))
			return bad(error, "its shape is larger than any memory");
	return 0;
}

int npy_read_head(FILE *file, struct npy *ret_npy, char error[NPY_ERROR_BYTES])
{
	struct npy npy = { 0 };
	uint8_t start[12];
	uint32_t head_bytes;
	char *head;
	int r;

	if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6) != 0)
		return bad(error, "it is not an .npy file");
	if (start[6] < 1 || start[6] > 3)
		return bad(error, "it is of .npy version %u, which came after this program",
			   start[6]);
	if (start[6] > 1 && fread(start + 10, 1, 2, file) != 2)
		return bad(error, "it is cut off in its header");
	head_bytes = start[8] | (uint32_t)start[9] << 8;
	if (start[6] > 1)
		head_bytes |= (uint32_t)start[10] << 16 | (uint32_t)start[11] << 24;
	if (head_bytes > HEAD_BYTES_MAX)
		return bad(error, "its header says it has %" PRIu32 " bytes", head_bytes);
	head = calloc(1, head_bytes + 1);
	if (!head)
		return bad(error, "out of memory");
	r = fread(head, 1, head_bytes, file) == head_bytes
		    ? parse_head(head, &npy, error)
		    : bad(error, "it is cut off in its header");
	free(head);
	if (!r)
		*ret_npy = npy;
	return r;
}

int npy_write(FILE *file, enum inf_dtype dtype, uint32_t rank, const int64_t *dims,
	      const void *data, uint64_t n_bytes)
{
	const char *name = "V2"; /* bfloat16 */
	char head[512];
	int n;
	size_t padded;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (kinds[i].dtype == dtype && dtype != INF_DTYPE_NONE)
			name = kinds[i].name;
	n = snprintf(head, sizeof(head), "{'descr': '%s%s', 'fortran_order': False, 'shape': (",
		     name[1] == '1' ? "|" : "<", name);
	for (uint32_t i = 0; i < rank; i++)
		n += snprintf(head + n, sizeof(head) - (size_t)n, "%" PRId64 "%s", dims[i],
			      rank == 1	     ? ","
			      : i + 1 < rank ? ", "
					     : "");
	n += snprintf(head + n, sizeof(head) - (size_t)n, "), }");
	/* Data start at a multiple of 64, the header ends with a newline. */
	padded = ((size_t)n + 1 + 10 + 63) / 64 * 64 - 10;
	memset(head + n, ' ', padded - (size_t)n - 1);
	head[padded - 1] = '\n';
	if (fwrite("\x93NUMPY\x01\x00", 1, 8, file) != 8 ||
	    fputc((int)(padded & 0xff), file) == EOF || fputc((int)(padded >> 8), file) == EOF ||
	    fwrite(head, 1, padded, file) != padded || fwrite(data, 1, n_bytes, file) != n_bytes ||
	    fflush(file) != 0)
		return errno ? -errno : -EIO;
	return 0;
}
