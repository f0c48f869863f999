/* SPDX-License-Identifier: Apache-2.0 */
/*
 * signature.h - arithmetic on model signatures, pure: no I/O, no allocation, checked multiplication.
 *
 * A signature comes from an executor or over a socket and is hostile until inf_signature_check() passed.
 * All the other functions take a checked one.
 */
#ifndef INF_SHM_SIGNATURE_H
#define INF_SHM_SIGNATURE_H

#include <inf/types.h>
#include <stdbool.h>
#include <stdint.h>

/* Largest row (all inputs, or all outputs, of one row) that is served. */
#define INF_ROW_BYTES_MAX (1ull << 30)

/* NULL where the signature is well-formed, else a fixed text that says what is wrong. */
const char *inf_signature_check(const struct inf_signature *signature);

/* FNV-1a 64 over everything but `version` and `hash`. */
uint64_t inf_signature_hash(const struct inf_signature *signature);

/* Bytes of one element, 0 for an unknown type. */
uint32_t inf_dtype_size(uint8_t dtype);

/* "f32", ...; "?" for an unknown type. */
const char *inf_dtype_text(uint8_t dtype);

/* The reverse; INF_DTYPE_NONE where unknown. */
uint8_t inf_dtype_parse(const char *text);

/* Bytes of one row of a tensor at its largest (without the batch dimension), unaligned. */
uint64_t inf_spec_row_bytes(const struct inf_tensor_spec *spec);

/* True where all dimensions but the batch are fixed. */
bool inf_spec_is_fixed(const struct inf_tensor_spec *spec);

/* True where every input is fixed: requests are one packed block. */
bool inf_signature_is_packed(const struct inf_signature *signature);

/* Bytes of the packed input block of `rows` rows: sum of align64(rows * row bytes). rows <= INF_ROWS_MAX. */
uint64_t inf_input_bytes(const struct inf_signature *signature, uint32_t rows);

/* Offset of input `idx` in that block. */
uint64_t inf_input_offset(const struct inf_signature *signature, uint32_t rows, uint32_t idx);

/* Bytes of an output block of `rows` rows at the signature's bounds, its head included. */
uint64_t inf_output_bytes(const struct inf_signature *signature, uint32_t rows);

/* Offset of output `idx` in that block, at the signature's bounds. */
uint64_t inf_output_offset(const struct inf_signature *signature, uint32_t rows, uint32_t idx);

#endif /* INF_SHM_SIGNATURE_H */
