/* SPDX-License-Identifier: Apache-2.0 */
/*
 * builtin.h - models without a file, for tests, demos and benches. Served only with --builtin.
 *
 *	identity      u8[batch,64] -> the same
 *	identity_f32  f32[batch,1024] -> the same
 *	add_sub       f32[batch,16] a, b -> sum, difference
 *	sleep, spin   f32[batch,1] -> the same, after a + b * rows microseconds asleep / busy;
 *		      $INF_BUILTIN_COST="a,b" of the executor sets them, default 1000,100
 *	crash         u8[batch,1] -> the same; a byte that is not 0 kills the executor
 *	hang          u8[batch,1] -> the same; a byte that is not 0 never ends
 *	wrong_size    u8[batch,1] -> the same; a byte that is not 0 makes an output of another size
 *	index         i64[batch,4] in 0..9 -> f32[batch,4], the squares
 *	scalar        i32[] in -1000..1000 -> i32[], twice that; does not batch
 *	varying       f32[up to 1024] -> the same reversed; does not batch
 *	finite        f32[batch,4] without NaN and infinity -> the same
 *	normalise     u8[batch,32,32,3], pixels of decoded images -> f32[batch,3,32,32], (x / 255 - mean) / deviation with
 *		      ImageNet's mean and deviation of each channel; the same bits on the CPU and on a device
 *
 * On a device all but crash, hang and wrong_size, as kernels; sleep is spin.
 */
#ifndef BROKER_BACKENDS_BUILTIN_BUILTIN_H
#define BROKER_BACKENDS_BUILTIN_BUILTIN_H

#include <inf/backend.h>

const struct inf_backend_ops *inf_backend_builtin(void);

#endif /* BROKER_BACKENDS_BUILTIN_BUILTIN_H */
