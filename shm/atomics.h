/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atomics.h - the only way to touch a word that another process can write.
 *
 * A hostile peer changes memory between two loads, so each shared word is loaded once, by one of these
 * accessors, into private memory; the copy is validated; only the copy is used. Plain C loads of shared
 * memory would let the compiler load twice. The words are plain fixed-width integers in layout.h, so
 * that the layout needs no _Atomic and is the same for C++ readers.
 */
#ifndef INF_SHM_ATOMICS_H
#define INF_SHM_ATOMICS_H

#include <stdint.h>

static inline uint32_t inf_load32(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline uint64_t inf_load64(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline uint32_t inf_load32_acquire(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline uint64_t inf_load64_acquire(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void inf_store32(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void inf_store64(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void inf_store32_release(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void inf_store64_release(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* A word that may be looked at through a struct as well: without this the compiler may reorder the two. */
typedef uint64_t __attribute__((may_alias)) inf_word_alias;

/*
 * Copies `n_words` 64-bit words out of memory that its writer may still change. Each word is loaded
 * once; words may be of different ages, so validate the copy as hostile.
 */
static inline void inf_copy_in(inf_word_alias *private_copy, const inf_word_alias *shared, unsigned int n_words)
{
	for (unsigned int i = 0; i < n_words; i++)
		private_copy[i] = __atomic_load_n(&shared[i], __ATOMIC_RELAXED);
}

/* Tells the processor that this is a spin loop. */
static inline void inf_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

/*
 * The fences of the wake protocol, by name. Each orders "store what the other side looks for" before
 * "load what it stored"; only a seq_cst fence does that. All are load-bearing: with one removed wake-ups
 * are lost. Test builds (-DINF_MUTATE) can remove each to prove that the tests notice.
 */
enum inf_fence_name {
	INF_FENCE_CLIENT_PUBLISH = 1,	/* slot seq, then sq_wake         | pairs with FRONT_PARK, LANE_RETIRE */
	INF_FENCE_FRONT_PARK = 2,	/* sq_wake/done_wake, then slots  | pairs with CLIENT_, EXECUTOR_PUBLISH */
	INF_FENCE_LANE_RETIRE = 4,	/* sq_wake, then the slot         | pairs with CLIENT_PUBLISH */
	INF_FENCE_EXECUTOR_PUBLISH = 8, /* done seq, then done_wake       | pairs with FRONT_PARK */
	INF_FENCE_FRONT_COMPLETE = 16,	/* cq_word, then parked           | pairs with CLIENT_PARK */
	INF_FENCE_CLIENT_PARK = 32,	/* parked, then the slot          | pairs with FRONT_COMPLETE */
	INF_FENCE_FRONT_DISPATCH = 64,	/* batch seq, then done.parked    | pairs with EXECUTOR_PARK */
	INF_FENCE_EXECUTOR_PARK = 128,	/* done.parked, then batch seq    | pairs with FRONT_DISPATCH */
};

#ifdef INF_MUTATE
extern unsigned int inf_dropped_fences; /* INF_DROP_FENCES in the environment, see mutate.c */
#define INF_FENCE_IS_KEPT(name) (!(inf_dropped_fences & (unsigned int)(name)))
#else
#define INF_FENCE_IS_KEPT(name) ((void)(name), 1)
#endif

static inline void inf_fence(enum inf_fence_name name)
{
	if (INF_FENCE_IS_KEPT(name))
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	else
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

#endif /* INF_SHM_ATOMICS_H */
